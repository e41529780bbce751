//! Text messages by Twilio: one for each number, and never a second one.

use casebridge_sandbox::twilio::{AUTH_TOKEN, Fault, Model, Twilio};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Bridge, OTHER_PHONE, PHONE, PRIVATE, World, event, event_with, on_both, run_on_sqlite};

const ID: &str = "khoros:1234:event-1:twitter:1";
const NUMBERS: [&str; 2] = [PHONE, OTHER_PHONE];

/// A world in which texts follow each new ticket.
async fn with_follower(world: &mut World) -> Twilio {
    world.set("DELIVER_THEN", "twilio");
    world.with_twilio().await
}

/// A world with one number, which gets a text for each event.
async fn with_one_number(world: &mut World) -> Twilio {
    world.without_zendesk();
    world.set("DELIVER_TO", "twilio");
    let twilio = world.with_twilio().await;
    world.set("TWILIO_TO", PHONE);
    world.set("TWILIO_TEXT", "Case {{ item.entityId }} (for the duty team)");
    twilio
}

fn ticket_text(world: &World, number: u64) -> String {
    format!("Ticket {number} (CreateCase): {}/agent/tickets/{number}", world.zendesk.url())
}

/// Makes the statuses of texts due, as if their minute had passed.
async fn let_a_minute_pass(world: &World) {
    world.database.execute("update memo set at = 0 where scope = 'twilio.status'").await;
}

/// Makes the texts so far an hour older.
async fn let_an_hour_pass(world: &World) {
    world.database.execute("update memo set at = at - 3600000 where scope like '%.sent.%'").await;
}

/// The rows of Twilio, by the last four digits of their numbers.
async fn rows_by_number(world: &World) -> Vec<(String, Value)> {
    let rows = world.list_of("twilio").await.into_iter();
    let mut rows: Vec<_> = rows.map(|row| (row["target"].as_str().unwrap_or("").to_owned(), row)).collect();
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    rows
}

fn texts(model: &Model) -> usize {
    model.messages.len()
}

on_both! {
    async fn each_number_gets_one_text_about_a_new_ticket(world: World) {
        let mut world = world;
        world.set("ROUTE_LABEL_THEN", "twilio,flow");
        let (twilio, flow) = (world.with_twilio().await, world.with_flow().await);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        let sent = "delivery_done destination=twilio action=sent";
        let line = bridge.wait_for_nth(sent, 2).await;
        assert!(line.contains("…0147") || line.contains("…0148"), "{line}");
        bridge.wait_for("delivery_done destination=flow").await;
        for number in NUMBERS {
            assert_eq!(twilio.model().texts_to(number), [ticket_text(&world, 1000)]);
        }
        assert_eq!(flow.model().broadcasts.len(), 1);

        let rows = rows_by_number(&world).await;
        assert_eq!(rows.iter().map(|(number, _)| number.as_str()).collect::<Vec<_>>(), ["…0147", "…0148"]);
        for (_, row) in &rows {
            let id = row["id"].as_str().unwrap();
            assert!(id.starts_with(&format!("{ID}~")) && id.len() == ID.len() + 13, "{row}");
            assert_eq!((&row["destination"], &row["state"], &row["note"]), (&json!("twilio"), &json!("done"), &json!("queued")));
            assert!(row["reference"].as_str().unwrap().starts_with("SM"), "{row}");
        }
        // The same event again, and a label that only adds a comment.
        world.notify(&event("event-1", "1")).await;
        world.notify(&event_with("event-2", "1", |item| item["notes"] = json!([{"text": PRIVATE}]))).await;
        bridge.wait_for_nth("delivery_done destination=twilio action=unchanged", 2).await;
        bridge.wait_for_nth("delivery_done destination=flow", 2).await;
        assert_eq!((texts(&twilio.model()), flow.model().broadcasts.len()), (2, 2));
        world.check_one_ticket_per_case().await;
    }

    async fn one_bad_number_holds_up_no_other(world: World) {
        let mut world = world;
        let twilio = with_follower(&mut world).await;
        twilio.model().refused.insert(PHONE.to_owned(), (400, 21211));
        let bridge = world.start().await;
        for post in 1..=2 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done destination=twilio action=sent", 2).await;
        bridge.wait_for_nth("delivery_dead destination=twilio", 2).await;
        bridge.wait_for("number_refused alert=twilio_number to=…0147").await;
        assert_eq!(bridge.count("number_refused"), 1);
        let rows = rows_by_number(&world).await;
        let states: Vec<&Value> = rows.iter().map(|(_, row)| &row["state"]).collect();
        assert_eq!(states, ["dead", "dead", "done", "done"]);
        assert_eq!(rows[0].1["reason"], "Twilio answered 400 (21211: not a valid phone number)");
        let mut texts = twilio.model().texts_to(OTHER_PHONE);
        texts.sort();
        assert_eq!(texts, [ticket_text(&world, 1000), ticket_text(&world, 1001)]);
    }

    async fn a_number_that_opted_out_gets_nothing_until_a_replay(world: World) {
        let mut world = world;
        let twilio = with_one_number(&mut world).await;
        twilio.model().refused.insert(PHONE.to_owned(), (400, 21610));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_dead destination=twilio").await;
        bridge.wait_for("number_refused alert=twilio_number to=…0147").await;
        twilio.model().refused.clear();
        // Another process knows it, too.
        bridge.stop().await;
        let bridge = world.start().await;
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_dead destination=twilio").await;
        assert_eq!(twilio.model().requests.len(), 1);
        let rows = world.list_of("twilio").await;
        for row in &rows {
            assert!(row["reason"].as_str().unwrap().starts_with("…0147 has opted out"), "{row}");
        }
        assert!(world.command(&["replay", rows[0]["id"].as_str().unwrap()]).await.status.success());
        bridge.wait_for("delivery_done destination=twilio").await;
        world.notify(&event("event-3", "3")).await;
        bridge.wait_for_nth("delivery_done destination=twilio", 2).await;
        assert_eq!(texts(&twilio.model()), 2);
    }

    async fn a_kill_at_any_moment_sends_no_second_text(world: World) {
        let mut world = world;
        let twilio = with_one_number(&mut world).await;
        twilio.model().is_trial = true;
        // Killed before and after Twilio has acted.
        for (post, fault, sent) in [(1, Fault::HangAfter, 1), (2, Fault::Hang, 0)] {
            twilio.queue([fault]);
            let bridge = world.start().await;
            let before = twilio.model().requests.len();
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
            twilio.wait_until(|model| model.requests.len() == before + 1).await;
            bridge.kill().await;
            let bridge = world.start().await;
            let action = if sent == 1 { "found" } else { "sent" };
            bridge.wait_for(&format!("delivery_done destination=twilio action={action}")).await;
            let counts = |model: &Model| (texts(model), model.requests.len());
            assert_eq!(counts(&twilio.model()), (post, before + 2 - sent));
            bridge.stop().await;
        }
        let expected = ["Case twitter:1 (for the duty team)", "Case twitter:2 (for the duty team)"];
        assert_eq!(twilio.model().texts_to(PHONE), expected);
    }

    async fn the_note_says_what_became_of_a_text(world: World) {
        let mut world = world;
        let twilio = with_one_number(&mut world).await;
        let bridge = world.start().await;
        for (post, becomes, note) in [
            (1, ("delivered", None), "delivered"),
            (2, ("undelivered", Some(30003)), "undelivered: 30003: the phone is switched off or out of reach"),
            (3, ("sent", None), "sent"),
        ] {
            twilio.model().becomes = (becomes.0.to_owned(), becomes.1);
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
            bridge.wait_for_nth("delivery_done destination=twilio", post).await;
            assert_eq!(world.list_of("twilio").await[post - 1]["note"], "queued");
            let_a_minute_pass(&world).await;
            bridge.wait_for(&format!("text_status status={}", becomes.0)).await;
            assert_eq!(world.list_of("twilio").await[post - 1]["note"], note);
        }
        bridge.wait_for("text_undelivered level=WARN code=30003").await;
        let output = world.command(&["list"]).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("twilio …0147") && text.contains("undelivered: 30003"), "{text}");
        assert!(!text.contains(PHONE), "{text}");
    }

    async fn texts_beyond_the_limit_wait_with_one_alert(world: World) {
        let mut world = world;
        let twilio = with_one_number(&mut world).await;
        let flow = world.with_flow().await;
        world.set("DELIVER_TO", "twilio,flow");
        world.set("TEXT_MAX_PER_HOUR", "2");
        let bridge = world.start().await;
        for post in 1..=4 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        for (destination, alert) in [("twilio", "twilio_limit"), ("flow", "flow_limit")] {
            bridge.wait_for(&format!("text_limit level=ERROR alert={alert} destination={destination} route=label waiting=2")).await;
        }
        let reason = "text limit of 2 texts an hour for route label";
        let waiting = world.waiting().await;
        assert_eq!(waiting.len(), 4);
        assert!(waiting.iter().all(|row| row["reason"] == format!("held: {reason}")), "{waiting:?}");
        assert_eq!(world.status().await["destinations"]["twilio"]["held"], json!({reason: 2}));
        assert_eq!((texts(&twilio.model()), flow.model().broadcasts.len()), (2, 2));

        let_an_hour_pass(&world).await;
        bridge.wait_for_nth("delivery_done destination=twilio", 4).await;
        bridge.wait_for_nth("delivery_done destination=flow", 4).await;
        bridge.wait_for_nth("text_limit_over", 2).await;
        assert_eq!((texts(&twilio.model()), flow.model().broadcasts.len()), (4, 4));
        assert_eq!(bridge.count("text_limit"), 2);
    }

    async fn quiet_hours_delay_texts(world: World) {
        let mut world = world;
        let twilio = with_one_number(&mut world).await;
        let flow = world.with_flow().await;
        world.set("DELIVER_TO", "twilio,flow");
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let at = |hours: i64| (&now + jiff::SignedDuration::from_hours(hours)).strftime("%H:%M").to_string();
        let hours = format!("{}-{} UTC", at(-2), at(2));
        world.set("TEXT_QUIET_HOURS", hours.clone());
        world.set("ROUTE_OTHER_LABEL", "Other");
        // One that was frozen before the quiet hours.
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_queued destination=twilio").await;
        bridge.wait_for("delivery_queued destination=flow").await;
        wait_until_waiting(&world, 2, &format!("held: quiet hours {hours}")).await;
        // One limit may hold the deliveries of several routes.
        world.notify(&event("event-2", "2")).await;
        wait_until_waiting(&world, 4, &format!("held: quiet hours {hours}")).await;
        world.database.execute("update delivery set route = 'other' where event_id = 'event-2'").await;
        let status = world.status().await;
        assert_eq!(status["destinations"]["twilio"]["held"], json!({format!("quiet hours {hours}"): 2}));
        world.database.execute("delete from delivery where route = 'other'").await;
        assert_eq!((twilio.model().requests.len(), flow.model().requests.len()), (0, 0));
        bridge.stop().await;

        world.set("TEXT_QUIET_HOURS", format!("{}-{} UTC", at(4), at(8)));
        let bridge = world.start().await;
        bridge.wait_for("delivery_done destination=twilio").await;
        bridge.wait_for("delivery_done destination=flow").await;
        assert_eq!((texts(&twilio.model()), flow.model().broadcasts.len()), (1, 1));
    }

    async fn a_template_may_yield_the_number_or_none(world: World) {
        let mut world = world;
        let twilio = with_one_number(&mut world).await;
        world.set("TWILIO_TO", "{{ item.parentPost }}");
        let bridge = world.start().await;
        let with_number = |event: &str, post: &str, number: &str| {
            event_with(event, post, |item| item["parentPost"] = json!(number))
        };
        world.notify(&with_number("event-1", "1", "+1 (555) 123-0147")).await;
        bridge.wait_for("delivery_done destination=twilio action=sent").await;
        world.notify(&with_number("event-2", "2", "call me")).await;
        let line = bridge.wait_for("delivery_done destination=twilio action=no_number").await;
        assert!(line.contains("event-2"), "{line}");
        assert_eq!(twilio.model().texts_to(PHONE).len(), 1);
        let rows = world.list_of("twilio").await;
        assert_eq!((&rows[1]["state"], &rows[1]["note"], &rows[1]["target"]), (&json!("done"), &json!("no_number"), &Value::Null));

        // An item is known as a whole, whichever number it yields now.
        bridge.stop().await;
        world.set("TWILIO_TO", OTHER_PHONE);
        let bridge = world.start().await;
        for number in ["event-1", "event-2"] {
            let post = number.strip_prefix("event-").unwrap().to_owned();
            assert_eq!(world.notify(&event(number, &post)).await["new"], 0);
        }
        world.notify(&event("event-3", "3")).await;
        bridge.wait_for("delivery_done destination=twilio").await;
        assert_eq!(world.list_of("twilio").await.len(), 3);
        assert_eq!(twilio.model().texts_to(OTHER_PHONE).len(), 1);
    }
}

/// Waits until so many deliveries wait for this reason.
async fn wait_until_waiting(world: &World, count: usize, reason: &str) {
    loop {
        let waiting = world.waiting().await;
        if waiting.iter().filter(|row| row["reason"] == reason).count() == count {
            return;
        }
    }
}

/// Runs a world for each fault, all at once: one text in the end, however Twilio failed.
#[tokio::test]
async fn every_kind_of_failure_ends_with_one_text() {
    let error = |status, code: u32| Fault::Answer {
        status,
        headers: Vec::new(),
        body: json!({"code": code, "message": "…", "status": status}).to_string(),
    };
    let faults = [
        // The fault, the number of requests until the text is sent, and how it ends.
        (Fault::ResetAfter, 1, "found"),
        (Fault::StatusAfter(500), 1, "found"),
        (Fault::StatusAfter(502), 1, "found"),
        (Fault::HangAfter, 1, "found"),
        (Fault::EndlessBody, 1, "found"),
        (Fault::ResetBefore, 2, "sent"),
        (Fault::Status(500), 2, "sent"),
        (Fault::Hang, 2, "sent"),
        (Fault::Html, 2, "sent"),
        (Fault::TooMany(1), 2, "sent"),
        (error(429, 20429), 2, "sent"),
        (error(401, 20003), 2, "sent"),
        (error(400, 30001), 2, "sent"),
    ];
    join_all(faults.map(|(fault, requests, action)| {
        run_on_sqlite(async move |mut world| {
            let twilio = with_one_number(&mut world).await;
            twilio.queue([fault.clone()]);
            let bridge = world.start().await;
            world.notify(&event("event-1", "1")).await;
            bridge.wait_for(&format!("delivery_done destination=twilio action={action}")).await;
            let model = twilio.model();
            assert_eq!((model.requests.len(), texts(&model)), (requests, 1), "{fault:?}");
        })
    }))
    .await;
}

#[tokio::test]
async fn a_text_of_another_delivery_is_not_taken_for_a_lost_one() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        // Each case has the same text.
        world.set("TWILIO_TEXT", "A new case");
        world.set("TEXT_MAX_PER_HOUR", "0");
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=twilio action=sent").await;
        twilio.queue([Fault::ResetBefore]);
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for_nth("delivery_done destination=twilio action=sent", 2).await;
        assert_eq!(texts(&twilio.model()), 2);
        // Among many others.
        for post in 3..=60 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done destination=twilio action=sent", 60).await;
        twilio.queue([Fault::ResetAfter]);
        world.notify(&event("event-61", "61")).await;
        bridge.wait_for("delivery_done destination=twilio action=found").await;
        assert_eq!(texts(&twilio.model()), 61);
    })
    .await;
}

/// The texts that wait in the backup have been sent since.
#[tokio::test]
async fn a_restored_backup_sends_no_second_text() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        twilio.stop();
        let bridge = world.start().await;
        for post in 1..=2 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for("destination_paused destination=twilio").await;
        let copy = world.folder().join("backup.db");
        assert!(world.command(&["backup", copy.to_str().unwrap()]).await.status.success());
        twilio.restart().await.unwrap();
        bridge.wait_for_nth("delivery_done destination=twilio action=sent", 2).await;
        bridge.stop().await;
        let file = world.database.url.trim_start_matches("sqlite://").to_owned();
        std::fs::copy(&copy, &file).unwrap();
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{file}{end}"));
        }
        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done destination=twilio action=found", 2).await;
        assert_eq!(twilio.model().requests.len(), 2);
        // What comes from now on cannot be in a backup.
        let lists = twilio.model().lists;
        world.notify(&event("event-3", "3")).await;
        bridge.wait_for("delivery_done destination=twilio action=sent").await;
        assert_eq!(twilio.model().lists, lists);
    })
    .await;
}

#[tokio::test]
async fn a_corrected_sender_sends_the_texts_that_wait_for_it() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        twilio.model().refused.insert(PHONE.to_owned(), (400, 21606));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("destination_paused destination=twilio alert=twilio_sender").await;
        bridge.stop().await;
        twilio.model().refused.clear();
        world.set("TWILIO_FROM", "+15550000009");
        let bridge = world.start().await;
        bridge.wait_for("delivery_done destination=twilio action=sent").await;
        assert_eq!(twilio.model().messages[0]["from"], "+15550000009");
    })
    .await;
}

/// A bridge that has sent a text, and can neither read the answer nor look the text up.
async fn with_failing_lookups(world: &mut World) -> (Twilio, Bridge) {
    let twilio = with_one_number(world).await;
    twilio.queue([Fault::ResetAfter]);
    twilio.model().read_faults.outage = Some(Fault::Status(500));
    let bridge = world.start().await;
    world.notify(&event("event-1", "1")).await;
    bridge.wait_for_nth("delivery_retry destination=twilio", 2).await;
    (twilio, bridge)
}

#[tokio::test]
async fn a_lookup_that_fails_leaves_the_doubt() {
    run_on_sqlite(|mut world| async move {
        let (twilio, bridge) = with_failing_lookups(&mut world).await;
        let waiting = world.waiting().await;
        assert!(waiting[0]["reason"].as_str().unwrap().starts_with("may have been sent"), "{waiting:?}");
        twilio.model().read_faults.outage = None;
        bridge.wait_for("delivery_done destination=twilio action=found").await;
        assert_eq!(twilio.model().requests.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lookup_that_reads_not_every_message_leaves_the_doubt() {
    run_on_sqlite(|mut world| async move {
        let (twilio, bridge) = with_failing_lookups(&mut world).await;
        {
            let mut model = twilio.model();
            let mut other = model.messages[0].clone();
            other["body"] = json!("another");
            model.messages.extend(vec![other; 1000]);
            model.read_faults.outage = None;
        }
        let reason = "may have been sent, and the lookup failed: the list was not read to its end";
        wait_until_waiting(&world, 1, reason).await;
        twilio.model().messages.truncate(1);
        bridge.wait_for("delivery_done destination=twilio action=found").await;
        assert_eq!(twilio.model().requests.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_refused_sender_pauses_texts_and_says_what_to_register() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        twilio.model().becomes = ("undelivered".to_owned(), Some(30034));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=twilio").await;
        let_a_minute_pass(&world).await;
        let line = bridge.wait_for("sender_refused level=ERROR alert=twilio_sender").await;
        assert!(line.contains("register it with A2P 10DLC"), "{line}");
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("destination_paused destination=twilio alert=twilio_sender").await;
        assert_eq!((world.state_of("twilio").await.as_str(), texts(&twilio.model())), ("paused", 1));
        // After the registration.
        bridge.stop().await;
        twilio.model().becomes = ("delivered".to_owned(), None);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done destination=twilio").await;
        assert_eq!(texts(&twilio.model()), 2);
    })
    .await;
}

#[tokio::test]
async fn a_filtered_text_holds_up_no_other() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        world.set("ALERT_PENDING_SECONDS", "0");
        twilio.model().becomes = ("undelivered".to_owned(), Some(30007));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=twilio").await;
        let_a_minute_pass(&world).await;
        bridge.wait_for("text_undelivered level=WARN code=30007").await;
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for_nth("delivery_done destination=twilio", 2).await;
        while world.status().await["alerts"]
            .as_array()
            .unwrap()
            .iter()
            .all(|it| it["alert"] != "twilio_sender")
        {}
    })
    .await;
}

#[tokio::test]
async fn a_text_from_before_does_not_end_the_refusal_of_a_sender() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        twilio.model().becomes = ("undelivered".to_owned(), Some(30034));
        let bridge = world.start().await;
        for post in 1..=2 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done destination=twilio", 2).await;
        let first = "update memo set at = 0 where scope = 'twilio.status' and key like '%event-1%'";
        world.database.execute(first).await;
        bridge.wait_for("sender_refused").await;
        twilio.model().becomes = ("sent".to_owned(), None);
        let_a_minute_pass(&world).await;
        bridge.wait_for("text_status status=sent").await;
        world.notify(&event("event-3", "3")).await;
        bridge.wait_for("destination_paused destination=twilio alert=twilio_sender").await;
        assert_eq!((texts(&twilio.model()), bridge.count("sender_accepted")), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn reports_of_twilio_are_verified_and_may_come_in_any_order() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        world.set("TWILIO_STATUS_CALLBACK", "1");
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=twilio").await;
        let sid = twilio.model().messages[0]["sid"].as_str().unwrap().to_owned();
        let report =
            async |sid: &str, status, error, token| twilio.report(sid, status, error, token).await.unwrap();
        let note = async || world.list_of("twilio").await[0]["note"].clone();
        assert_eq!(report(&sid, "delivered", None, "another-token").await, 403);
        assert_eq!(note().await, "queued");
        bridge.wait_for("status_report_refused level=WARN").await;
        for (status, error, expected) in [
            ("sent", None, "sent"),
            ("undelivered", Some(30005), "undelivered: 30005: the number is not in use"),
            // It was under way for longer.
            ("sent", None, "undelivered: 30005: the number is not in use"),
            ("unheard-of", None, "undelivered: 30005: the number is not in use"),
        ] {
            assert_eq!(report(&sid, status, error, AUTH_TOKEN).await, 204);
            assert_eq!(note().await, expected);
        }
        // A text that nobody knows.
        twilio.model().messages[0]["sid"] = json!("SM0");
        assert_eq!(report("SM0", "delivered", None, AUTH_TOKEN).await, 204);
        assert_eq!(note().await, "undelivered: 30005: the number is not in use");
    })
    .await;
}

#[tokio::test]
async fn without_the_switch_there_is_no_endpoint_for_reports() {
    run_on_sqlite(|mut world| async move {
        with_one_number(&mut world).await;
        let _bridge = world.start().await;
        assert_eq!(world.http.post(world.url("/twilio/status")).send().await.unwrap().status(), 404);
    })
    .await;
}

#[tokio::test]
async fn a_long_text_is_cut_and_sent_as_typed() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        world.set("TWILIO_TEXT", "{{ text }}");
        let bridge = world.start().await;
        let typed = "{{ticket.id}} {% x %} & <b> 👩\u{200d}👩\u{200d}👧 é";
        let separated = format!("{typed}\u{2028}next");
        world.notify(&event_with("event-1", "1", |item| item["text"] = json!(separated))).await;
        bridge.wait_for("delivery_done destination=twilio").await;
        let long = "👩\u{200d}👩\u{200d}👧".repeat(625);
        world.notify(&event_with("event-2", "2", |item| item["text"] = json!(long))).await;
        bridge.wait_for_nth("delivery_done destination=twilio", 2).await;
        let texts = twilio.model().texts_to(PHONE);
        assert_eq!(texts[0], format!("{typed}\nnext"));
        // 8 UTF-16 code units each.
        assert_eq!(texts[1], "👩\u{200d}👩\u{200d}👧".repeat(200));
    })
    .await;
}

#[tokio::test]
async fn whatsapp_uses_an_approved_template_and_a_service_chooses_the_number() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        world.set("ROUTE_WA_LABEL", "WhatsApp");
        world.set("ROUTE_WA_TWILIO_TO", format!("whatsapp:{PHONE}"));
        world.set("ROUTE_WA_TWILIO_FROM", "whatsapp:+15550000003");
        world.set("ROUTE_WA_TWILIO_CONTENT_SID", format!("HX{}", "1".repeat(32)));
        world.set("ROUTE_SERVICE_LABEL", "Service");
        world.set("ROUTE_SERVICE_TWILIO_MESSAGING_SERVICE_SID", format!("MG{}", "1".repeat(32)));
        let bridge = world.start().await;
        for (number, route, post) in [(1, "wa", "1"), (2, "service", "2")] {
            twilio.queue([Fault::ResetAfter]);
            world.notify_route(route, event(&format!("event-{number}"), post)).await;
            bridge.wait_for_nth("delivery_done destination=twilio action=found", number).await;
        }
        let model = twilio.model();
        let fields: Vec<_> = model.requests.iter().map(|request| &request.fields).collect();
        assert_eq!(fields.len(), 2);
        assert_eq!(
            fields[0]["ContentVariables"],
            json!({"1": "Case twitter:1 (for the duty team)"}).to_string()
        );
        assert!(fields[0]["To"].starts_with("whatsapp:+") && !fields[0].contains_key("Body"));
        assert!(fields[1].contains_key("MessagingServiceSid") && !fields[1].contains_key("From"));
        assert_eq!(fields[1]["ValidityPeriod"], "3600");
    })
    .await;
}

#[tokio::test]
async fn check_shows_the_account() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_one_number(&mut world).await;
        for (trial, status, token, mark, text) in [
            (false, "active", AUTH_TOKEN, "ok", "account Acme; 1 number(s)"),
            (true, "active", AUTH_TOKEN, "warning", "a trial account"),
            (false, "suspended", AUTH_TOKEN, "failed", "the account is suspended"),
            (false, "active", "a-wrong-token-of-the-tests", "failed", "20003: the account SID and the token"),
        ] {
            {
                let mut model = twilio.model();
                (model.is_trial, model.account_status) = (trial, status.to_owned());
            }
            world.set("TWILIO_AUTH_TOKEN", token);
            let output = world.command_with_settings(&["check", "--json"]).await;
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let row = report["rows"]
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["name"] == "twilio")
                .unwrap()
                .clone();
            assert_eq!(row["mark"], mark, "{row}");
            assert!(row["text"].as_str().unwrap().contains(text), "{row}");
        }
        assert!(twilio.model().requests.is_empty());
    })
    .await;
}
