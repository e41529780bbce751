//! Notices of alerts: each receiver gets one when an alert fires and one when it is over, whatever is killed in
//! between, and however many instances see it.

mod database;

use casebridge_sandbox::alerts::{self, Alerts, Fault};
use casebridge_sandbox::webhook::{self, Webhook};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::harness::{Kind, Wire, World, event, free_port, leak, message, on_both, run, run_on_sqlite};
use crate::storage::proxied;

/// A world whose items go to a webhook alone, with all receivers of notices.
async fn with_receivers(world: &mut World) -> (Webhook, Webhook, Alerts) {
    world.set("DELIVER_TO", "webhook");
    world.without_zendesk();
    world.set("ALERT_PENDING_SECONDS", "0");
    let destination = world.with_webhook().await;
    let (standard, others) = (Webhook::start().await.unwrap(), Alerts::start().await.unwrap());
    world.set("ALERT_WEBHOOK_URL", standard.url());
    world.set("ALERT_WEBHOOK_SECRET", webhook::SECRET);
    world.set("ALERT_SLACK_WEBHOOK_URL", others.slack());
    world.set("ALERT_PAGERDUTY_URL", others.pagerduty());
    world.set("ALERT_PAGERDUTY_KEY", alerts::PAGERDUTY_KEY);
    (destination, standard, others)
}

/// The same with PagerDuty as the only receiver of notices.
async fn with_pagerduty(world: &mut World) -> (Webhook, Alerts) {
    let (destination, _, others) = with_receivers(world).await;
    for name in ["ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET", "ALERT_SLACK_WEBHOOK_URL"] {
        world.unset(name);
    }
    (destination, others)
}

/// The receiver answers 403 until [`mend`].
fn break_down(destination: &Webhook) {
    destination.model().faults.outage = Some(webhook::Fault::Status(403));
}

fn mend(destination: &Webhook) {
    destination.model().faults.outage = None;
}

/// The types of the notices that the signed webhook got, repeated ones once.
fn types(standard: &Webhook) -> Vec<String> {
    let model = standard.model();
    let kind = |request| message(request)["type"].as_str().unwrap().to_owned();
    model.events().into_iter().map(kind).collect()
}

/// How many messages Slack got, how many incidents PagerDuty opened, and how many of them are still open.
fn counts(receivers: &Alerts) -> (usize, usize, usize) {
    let model = receivers.model();
    (model.messages.len(), model.opened, model.open.len())
}

async fn wait_for_all(standard: &Webhook, others: &Alerts, state: &str, action: &str) {
    standard.wait_until(|model| model.events().iter().any(|it| it.body.contains(state))).await;
    let is_there = |model: &alerts::Model| {
        let sign = if action == "trigger" { ":red_circle:" } else { ":white_check_mark:" };
        model.messages.iter().any(|text| text.starts_with(sign))
            && model.events.iter().any(|event| event["event_action"] == action)
    };
    others.wait_until(is_there).await;
}

/// What PagerDuty was told.
fn actions(receivers: &Alerts) -> Vec<String> {
    receivers.model().events.iter().map(|event| event["event_action"].as_str().unwrap().to_owned()).collect()
}

/// Each receiver got one notice of the beginning and one of the end, in its own format.
fn check_once(standard: &Webhook, others: &Alerts) {
    assert_eq!(types(standard), ["casebridge.alert.firing", "casebridge.alert.resolved"]);
    assert_eq!(standard.model().changed_bodies(), 0);
    let model = others.model();
    assert_eq!(model.messages.len(), 2, "{:#?}", model.messages);
    assert_eq!((model.opened, model.open.len()), (1, 0), "{:#?}", model.events);
    assert_eq!(model.refused, [] as [&str; 0]);
    let texts = model.messages.iter().cloned().chain(model.events.iter().map(Value::to_string));
    for text in texts.chain(standard.model().requests.iter().map(|request| request.body.clone())) {
        let without_key = text.replace(alerts::PAGERDUTY_KEY, "");
        assert_eq!(leak(&without_key), None, "{text}");
        assert!(text.contains("webhook_forbidden"), "{text}");
    }
}

on_both! {
    async fn an_alert_fires_once_and_resolves_once_across_kills(world: World) {
        let mut world = world;
        let (destination, standard, others) = with_receivers(&mut world).await;
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        wait_for_all(&standard, &others, "alert.firing", "trigger").await;
        for sink in ["slack", "pagerduty", "webhook"] {
            bridge.wait_for(&format!("alert_notice_sent sink={sink} state=firing")).await;
        }
        bridge.kill().await;

        // The next process sees the same, and repeats nothing.
        let bridge = world.start().await;
        bridge.wait_for("destination_paused alert=webhook_forbidden").await;
        let firing = world.status().await["alerts"].clone();
        assert_eq!((firing.as_array().unwrap().len(), &firing[0]["alert"]), (1, &json!("webhook_forbidden")));
        bridge.kill().await;
        // What is over while nobody runs is noticed by the next one.
        mend(&destination);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done destination=webhook").await;
        wait_for_all(&standard, &others, "alert.resolved", "resolve").await;
        bridge.wait_for("alert_notice_sent sink=slack state=resolved").await;
        bridge.stop().await;
        let _bridge = world.start().await;
        assert_eq!(world.status().await["alerts"], json!([]));
        check_once(&standard, &others);
    }

    async fn an_incident_ends_even_if_its_beginning_was_not_recorded(world: World) {
        let mut world = world;
        let (destination, others) = with_pagerduty(&mut world).await;
        others.model().faults.queue.push_back(Fault::HangAfter);
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        others.wait_until(|model| model.opened == 1).await;
        bridge.kill().await;
        mend(&destination);
        // Until the alert is over, the lease of the notice keeps it from being sent again.
        world.database.execute("update alert_notice set due_at = due_at + 600000").await;
        let bridge = world.start().await;
        bridge.wait_for("alert_resolved code=webhook_forbidden").await;
        world.database.execute("update alert_notice set due_at = 0").await;
        bridge.wait_for("alert_notice_sent sink=pagerduty state=resolved").await;
        assert_eq!(actions(&others), ["trigger", "resolve"]);
    }

    async fn an_incident_ends_even_if_its_alert_fired_again_meanwhile(world: World) {
        let mut world = world;
        let (destination, others) = with_pagerduty(&mut world).await;
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("alert_notice_sent sink=pagerduty state=firing").await;
        others.model().faults.outage = Some(Fault::Status(429));
        mend(&destination);
        bridge.wait_for("alert_resolved code=webhook_forbidden").await;
        bridge.wait_for("alert_notice_failed sink=pagerduty state=resolved").await;
        break_down(&destination);
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for_nth("alert_firing code=webhook_forbidden", 2).await;
        mend(&destination);
        bridge.wait_for_nth("alert_resolved code=webhook_forbidden", 2).await;
        others.model().faults.outage = None;
        world.database.execute("update alert_notice set due_at = 0").await;
        bridge.wait_for("alert_notice_sent sink=pagerduty state=resolved").await;
        assert!(others.model().open.is_empty());
    }

    async fn an_incident_ends_even_if_the_answer_to_its_beginning_was_lost(world: World) {
        let mut world = world;
        let (destination, others) = with_pagerduty(&mut world).await;
        others.model().faults.queue.push_back(Fault::ResetAfter);
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("alert_notice_failed sink=pagerduty state=firing").await;
        world.database.execute("update alert_notice set due_at = due_at + 600000").await;
        mend(&destination);
        bridge.wait_for("alert_resolved code=webhook_forbidden").await;
        world.database.execute("update alert_notice set due_at = 0").await;
        bridge.wait_for("alert_notice_sent sink=pagerduty state=resolved").await;
        assert_eq!(actions(&others), ["trigger", "resolve"]);
    }

    async fn a_condition_that_ends_early_fires_no_alert(world: World) {
        let mut world = world;
        let (destination, standard, others) = with_receivers(&mut world).await;
        world.set("ALERT_PENDING_SECONDS", "3600");
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("destination_paused alert=webhook_forbidden").await;
        mend(&destination);
        bridge.wait_for("alert_lapsed code=webhook_forbidden").await;
        bridge.kill().await;
        // A delivery that dies fires its alert at once, and that is the only one.
        world.set("ALERT_PENDING_SECONDS", "0");
        world.set("RETRY_SCHEDULE", "0");
        destination.model().refused = Some("twitter:2".to_owned());
        let bridge = world.start().await;
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("alert_notice_sent sink=slack code=delivery_dead").await;
        bridge.wait_for("alert_notice_sent sink=pagerduty code=delivery_dead").await;
        bridge.wait_for("alert_notice_sent sink=webhook code=delivery_dead").await;
        assert_eq!((types(&standard).len(), counts(&others)), (1, (1, 1, 1)));
    }

    async fn a_lasting_alert_is_repeated_once_a_day(world: World) {
        let mut world = world;
        let (destination, standard, others) = with_receivers(&mut world).await;
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        for sink in ["slack", "pagerduty", "webhook"] {
            bridge.wait_for(&format!("alert_notice_sent sink={sink} state=firing")).await;
        }
        world.database.execute("update alert_notice set sent_at = sent_at - 86400000").await;
        for sink in ["slack", "pagerduty", "webhook"] {
            bridge.wait_for_nth(&format!("alert_notice_sent sink={sink} state=firing"), 2).await;
        }
        assert_eq!(types(&standard), ["casebridge.alert.firing", "casebridge.alert.firing"]);
        assert_eq!(counts(&others), (2, 1, 1));
    }
}

#[tokio::test]
async fn two_instances_send_each_notice_once() {
    run(Kind::Postgres, |mut world| async move {
        let (destination, standard, others) = with_receivers(&mut world).await;
        break_down(&destination);
        let (first, second) = (world.start().await, world.start_beside(free_port()).await);
        // Each of them meets the refusal.
        for post in 1..10 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        first.wait_for("destination_paused alert=webhook_forbidden").await;
        second.wait_for("destination_paused alert=webhook_forbidden").await;
        wait_for_all(&standard, &others, "alert.firing", "trigger").await;
        // All results are recorded: another process would repeat a notice of which it cannot know.
        let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
        let recorded = "select count(*) from alert_notice where state = 'firing'";
        while sqlx::query_scalar::<_, i64>(recorded).fetch_one(&mut connection).await.unwrap() < 3 {}
        // The other one takes over what this one leaves.
        first.kill().await;
        mend(&destination);
        second.wait_for("destination_resumed").await;
        wait_for_all(&standard, &others, "alert.resolved", "resolve").await;
        second.wait_for("alert_notice_sent sink=slack state=resolved").await;
        check_once(&standard, &others);
    })
    .await;
}

/// The states are in the database, so the notice comes when it works again.
#[tokio::test]
async fn an_outage_of_the_database_is_reported_when_it_is_over() {
    run(Kind::Postgres, |mut world| async move {
        let (_destination, standard, others) = with_receivers(&mut world).await;
        let (proxy, url) = proxied(&world.database.url).await;
        world.set("DATABASE_URL", url);
        let bridge = world.start().await;
        proxy.set(Wire::Cut);
        bridge.wait_for("alert_state_failed level=WARN").await;
        assert!(types(&standard).is_empty());
        proxy.set(Wire::Whole);
        bridge.wait_for("alert_notice_sent sink=slack code=storage").await;
        assert!(others.model().messages[0].contains("and works again"));
    })
    .await;
}

#[tokio::test]
async fn one_receiver_does_not_hold_up_another() {
    run_on_sqlite(|mut world| async move {
        let (destination, standard, others) = with_receivers(&mut world).await;
        let slow = Alerts::start().await.unwrap();
        slow.model().faults.outage = Some(Fault::Hang);
        world.set("ALERT_SLACK_WEBHOOK_URL", slow.slack());
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        // Slack hangs, and the others know.
        standard.wait_until(|model| !model.events().is_empty()).await;
        others.wait_until(|model| model.opened == 1).await;
        bridge.wait_for("alert_notice_failed sink=slack code=webhook_forbidden").await;
        mend(&destination);
        bridge.wait_for("alert_notice_sent sink=pagerduty state=resolved").await;
        bridge.wait_for("alert_notice_sent sink=webhook state=resolved").await;
        assert_eq!((counts(&slow).0, counts(&others).2), (0, 0));
    })
    .await;
}

/// The only receiver is away, like a Slack that is itself what the alert is about: the log and `/status` have the
/// alert, and the receiver gets it when it is back.
#[tokio::test]
async fn an_alert_is_never_only_where_it_cannot_arrive() {
    run_on_sqlite(|mut world| async move {
        let (destination, _standard, others) = with_receivers(&mut world).await;
        for name in ["ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET", "ALERT_PAGERDUTY_KEY"] {
            world.unset(name);
        }
        world.set("HEARTBEAT_URL", others.heartbeat());
        world.set("HEARTBEAT_MAX_AGE_SECONDS", "1");
        let slack = Alerts::start().await.unwrap();
        slack.model().faults.outage = Some(Fault::Status(503));
        world.set("ALERT_SLACK_WEBHOOK_URL", slack.slack());
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("alert_notice_failed sink=slack code=webhook_forbidden").await;
        let line = bridge.wait_for("destination_paused alert=webhook_forbidden").await;
        assert!(line.contains("ERROR"), "{line}");
        assert_eq!(world.status().await["alerts"][0]["alert"], "webhook_forbidden");
        others.wait_until(|model| model.beats.iter().any(|beat| beat.contains("webhook_forbidden"))).await;
        slack.model().faults.outage = None;
        slack.wait_until(|model| model.messages.len() == 1).await;
    })
    .await;
}

/// Answers that are no success, lies about it included.
#[tokio::test]
async fn a_notice_is_sent_until_it_is_taken() {
    run_on_sqlite(|mut world| async move {
        let (destination, others) = with_pagerduty(&mut world).await;
        let elsewhere = Alerts::start().await.unwrap();
        let faults = [Fault::Redirect(elsewhere.pagerduty()), Fault::ResetAfter];
        others.model().faults.queue.extend(faults);
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("alert_notice_sent sink=pagerduty state=firing").await;
        assert_eq!(bridge.count("alert_notice_failed sink=pagerduty"), 2);
        // The answer to the second was lost; the third changed nothing.
        assert_eq!(counts(&others).1, 1);
        assert_eq!(others.model().events.len(), 2);
        assert!(elsewhere.model().events.is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_format_of_alertmanager_can_be_chosen() {
    run_on_sqlite(|mut world| async move {
        let (destination, _standard, others) = with_receivers(&mut world).await;
        world.set("ALERT_WEBHOOK_URL", others.alertmanager());
        world.set("ALERT_WEBHOOK_FORMAT", "alertmanager");
        world.unset("ALERT_WEBHOOK_SECRET");
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        others.wait_until(|model| model.payloads.len() == 1).await;
        mend(&destination);
        bridge.wait_for("alert_notice_sent sink=webhook state=resolved").await;
        let model = others.model();
        assert_eq!(model.refused, [] as [&str; 0]);
        let states: Vec<&Value> = model.payloads.iter().map(|payload| &payload["status"]).collect();
        assert_eq!(states, ["firing", "resolved"]);
        let of_alert = |payload: &Value| payload["alerts"][0]["fingerprint"].clone();
        assert_eq!(of_alert(&model.payloads[0]), of_alert(&model.payloads[1]));
    })
    .await;
}

#[tokio::test]
async fn after_20_notices_in_an_hour_there_is_one_summary() {
    const ROUTES: [&str; 24] = [
        "ROUTE_A_LABEL",
        "ROUTE_B_LABEL",
        "ROUTE_C_LABEL",
        "ROUTE_D_LABEL",
        "ROUTE_E_LABEL",
        "ROUTE_F_LABEL",
        "ROUTE_G_LABEL",
        "ROUTE_H_LABEL",
        "ROUTE_I_LABEL",
        "ROUTE_J_LABEL",
        "ROUTE_K_LABEL",
        "ROUTE_L_LABEL",
        "ROUTE_M_LABEL",
        "ROUTE_N_LABEL",
        "ROUTE_O_LABEL",
        "ROUTE_P_LABEL",
        "ROUTE_Q_LABEL",
        "ROUTE_R_LABEL",
        "ROUTE_S_LABEL",
        "ROUTE_T_LABEL",
        "ROUTE_U_LABEL",
        "ROUTE_V_LABEL",
        "ROUTE_W_LABEL",
        "ROUTE_X_LABEL",
    ];
    run_on_sqlite(|mut world| async move {
        let (_destination, standard, others) = with_receivers(&mut world).await;
        // Khoros refuses the subscription of each route.
        world.set("SPREDFAST_API_TOKEN", "a-token-that-khoros-does-not-know");
        for route in ROUTES {
            world.set(route, route);
        }
        let bridge = world.start().await;
        bridge.wait_for("alert_notices_limited sink=slack").await;
        others.wait_until(|model| model.messages.len() == 21).await;
        let summary = others.model().messages[20].clone();
        assert!(
            summary.contains("25 alerts are firing now") && summary.contains("khoros_token (x)"),
            "{summary}"
        );
        standard.wait_until(|model| model.distinct_ids() == 21).await;
        // It leaves no incident open.
        let is_over = |model: &alerts::Model| (model.opened, model.open.len()) == (21, 20);
        others.wait_until(is_over).await;
        // Neither this process nor the next sends any more, nor another summary.
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for_nth("subscription_failed alert=khoros_token", ROUTES.len()).await;
        assert_eq!((counts(&others).0, bridge.count("alert_notices_limited")), (21, 0));
        // A summary that fails is sent again.
        others.model().faults.outage = Some(Fault::Status(500));
        world.database.execute("update memo set at = at - 3600000 where scope = 'alert.slack.summary'").await;
        bridge.wait_for("alert_notice_failed sink=slack code=notices_limited").await;
        others.model().faults.outage = None;
        world.database.execute("update memo set at = at - 30000 where scope = 'alert.slack.summary'").await;
        others.wait_until(|model| model.messages.len() == 22).await;
        // An hour later, the others go out.
        world.database.execute("update memo set at = at - 3600000 where scope = 'alert.slack'").await;
        others.wait_until(|model| model.messages.len() == 27).await;
    })
    .await;
}

#[tokio::test]
async fn a_check_sends_a_test_to_each_receiver() {
    run_on_sqlite(|mut world| async move {
        let (_destination, standard, others) = with_receivers(&mut world).await;
        let checked = world.command_with_settings(&["check", "--before-start", "--alerts", "--json"]).await;
        let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
        let rows: Vec<&Value> = report["rows"].as_array().unwrap().iter().collect();
        let mark = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap()["mark"].clone();
        for name in ["alerts to slack", "alerts to webhook", "alerts to pagerduty"] {
            assert_eq!(mark(name), "ok", "{report}");
        }
        // The test leaves no incident open.
        assert_eq!((types(&standard).len(), counts(&others)), (1, (1, 1, 0)));

        others.model().faults.outage = Some(Fault::Status(404));
        let checked = world.command_with_settings(&["check", "--before-start", "--alerts"]).await;
        assert!(!checked.status.success());
        let text = String::from_utf8(checked.stdout).unwrap();
        assert!(text.contains("it answered 404") && !text.contains(alerts::SLACK_SECRET), "{text}");
        // Without the flag, nobody is bothered.
        world.command_with_settings(&["check", "--before-start"]).await;
        assert_eq!(types(&standard).len(), 2);
    })
    .await;
}

on_both! {
    async fn a_credential_is_reported_before_it_ends(world: World) {
        let mut world = world;
        let (_destination, standard, others) = with_receivers(&mut world).await;
        let in_days = |days: i64| (Timestamp::now() + SignedDuration::from_hours(24 * days)).to_string();
        world.set("SPREDFAST_API_TOKEN_EXPIRES", in_days(40));
        let bridge = world.start().await;
        bridge.wait_for("subscribed").await;
        assert_eq!(bridge.count("credential_expires"), 0);
        bridge.stop().await;
        for (nth, (days, severity)) in [(20, "info"), (5, "warning")].into_iter().enumerate() {
            world.set("SPREDFAST_API_TOKEN_EXPIRES", in_days(days));
            let bridge = world.start().await;
            bridge.wait_for("credential_expires alert=credential_expires setting=SPREDFAST_API_TOKEN").await;
            others.wait_until(|model| model.messages.len() > nth && model.events.len() > nth).await;
            assert_eq!(others.model().events[nth]["payload"]["severity"], severity);
            bridge.wait_for("alert_notice_sent sink=pagerduty").await;
            bridge.wait_for("alert_notice_sent sink=slack").await;
            bridge.stop().await;
        }
        // It is replaced.
        world.set("SPREDFAST_API_TOKEN_EXPIRES", in_days(700));
        let _bridge = world.start().await;
        others.wait_until(|model| model.messages.len() == 3 && model.events.len() == 3).await;
        assert_eq!(counts(&others), (3, 1, 0));
        assert!(types(&standard).len() >= 2);
    }

    async fn heartbeats_stop_when_deliveries_wait_too_long(world: World) {
        let mut world = world;
        let receivers = Alerts::start().await.unwrap();
        world.set("HEARTBEAT_URL", receivers.heartbeat());
        world.set("HEARTBEAT_MAX_AGE_SECONDS", "2");
        let bridge = world.start().await;
        receivers.wait_until(|model| model.beats == ["ok"]).await;
        // The first report of the failure is lost.
        receivers.model().faults.queue.extend([Fault::Status(503)]);
        world.zendesk.stop();
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("heartbeat_failed").await;
        receivers.wait_until(|model| model.beats.len() == 2).await;
        let failure = receivers.model().beats[1].clone();
        assert!(failure.contains("the oldest delivery to zendesk has waited for"), "{failure}");
        bridge.wait_for("heartbeat_stopped").await;
        world.zendesk.restart().await.unwrap();
        bridge.wait_for("delivery_done").await;
        receivers.wait_until(|model| model.beats.len() == 3).await;
        assert_eq!(receivers.model().beats[2], "ok");
        bridge.wait_for("heartbeat_resumed").await;
    }
}

#[tokio::test]
async fn wrong_settings_are_refused_together() {
    run_on_sqlite(|mut world| async move {
        for (name, value) in [
            ("ALERT_SLACK_WEBHOOK_URL", "ftp://hooks.slack.com"),
            ("ALERT_WEBHOOK_URL", "https://example.com/alerts"),
            ("ALERT_WEBHOOK_FORMAT", "xml"),
            ("ALERT_PAGERDUTY_KEY", "short"),
            ("ALERT_PENDING_SECONDS", "soon"),
            ("HEARTBEAT_URL", "http://example.com/ping"),
            ("HEARTBEAT_MAX_AGE_SECONDS", "0"),
            ("SPREDFAST_API_TOKEN_EXPIRES", "next year"),
            ("ALERT_WEBHOOK_SECRETS", "x"),
        ] {
            world.set(name, value);
        }
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2));
        for problem in [
            "ALERT_SLACK_WEBHOOK_URL is not",
            "ALERT_WEBHOOK_SECRET is not set",
            "ALERT_WEBHOOK_FORMAT is neither standard nor alertmanager",
            "ALERT_PAGERDUTY_KEY is not an integration key",
            "ALERT_PENDING_SECONDS is not a number from 0 to 3600",
            "HEARTBEAT_URL is a plain http:// address",
            "HEARTBEAT_MAX_AGE_SECONDS is not a number from 1 to 604800",
            "SPREDFAST_API_TOKEN_EXPIRES is not a date",
            "ALERT_WEBHOOK_SECRETS",
        ] {
            assert!(log.contains(problem), "{problem}: {log}");
        }
    })
    .await;
}
