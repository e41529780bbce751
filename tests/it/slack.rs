//! Slack: one message for each case, its updates in the thread, and what happens while Slack does not work.

use casebridge_sandbox::slack::{CHANNEL, Fault, Message, Slack};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Bridge, PRIVATE, World, event, event_with, leak, on_both, run_on_sqlite};

const LOST: &str = include_str!("../fixtures/credential-deauth-instagram.json");
const BACK: &str = include_str!("../fixtures/credential-reauth-instagram.json");
const OTHER: &str = "C0SANDBOX2";

/// A world in which a message follows each change of a ticket.
async fn with_follower(world: &mut World) -> Slack {
    world.set("ROUTE_LABEL_THEN", "slack");
    world.set("RETRY_SCHEDULE", ["1"; 20].join(","));
    world.with_slack().await
}

/// A label on a post that has these notes.
fn noted(number: usize, post: &str, notes: &[&str]) -> String {
    let note =
        |text: &&str| json!({"text": format!("{PRIVATE} {text}"), "createdByDisplayName": "Ann Agent"});
    let notes: Vec<Value> = notes.iter().map(note).collect();
    event_with(&format!("event-{number}"), post, |item| item["notes"] = json!(notes))
}

/// An event about the account, on its route.
async fn account(world: &World, json: &str, event: &str, when: u64) {
    let mut notification: Value = serde_json::from_str(json).unwrap();
    notification["eventUuid"] = json!(event);
    notification["data"]["when"] = json!(1_520_987_518_000 + when * 86_400_000);
    world.notify_route("accounts", notification.to_string()).await;
}

async fn posted(bridge: &Bridge, event: &str) {
    bridge.wait_for(&format!("delivery_done destination=slack delivery=khoros:1234:{event}*")).await;
}

/// The first messages in a channel, and their replies.
fn threads(slack: &Slack, channel: &str) -> Vec<(Message, Vec<Message>)> {
    let mut model = slack.model();
    let channel = model.channel(channel);
    let roots = channel.roots().into_iter();
    roots.map(|root| (root.clone(), channel.replies(&root.ts).into_iter().cloned().collect())).collect()
}

/// The hashes of the deliveries in a channel, each of which should be there once.
fn marks(slack: &Slack, channel: &str) -> Vec<String> {
    let mark = |message: &Message| {
        message.blocks[0]["block_id"].as_str().unwrap().split(':').nth(1).unwrap().to_owned()
    };
    slack.model().channel(channel).messages.iter().map(mark).collect()
}

fn check_once(slack: &Slack, channel: &str, messages: usize) {
    let mut marks = marks(slack, channel);
    assert_eq!(marks.len(), messages, "{marks:?}");
    marks.sort();
    marks.dedup();
    assert_eq!(marks.len(), messages, "a delivery was posted twice");
}

fn assert_contains(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
}

on_both! {
    async fn a_case_has_one_message_and_its_updates_are_in_the_thread(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        world.set("ROUTE_ACCOUNTS_EVENT", "credential-deauth");
        world.set("ROUTE_ACCOUNTS_TO", "slack");
        let bridge = world.start().await;
        for (number, notes) in [&["first"][..], &["first", "second"], &["first", "second", "third"]].iter().enumerate() {
            world.notify(&noted(number, "1", notes)).await;
            posted(&bridge, &format!("event-{number}")).await;
        }
        account(&world, LOST, "lost", 1).await;
        posted(&bridge, "lost").await;
        account(&world, BACK, "back", 2).await;
        posted(&bridge, "back").await;

        let threads = threads(&slack, CHANNEL);
        let [(post, comments), (account, changes)] = &threads[..] else { panic!("{threads:#?}") };
        let url = format!("{}/agent/tickets/1000", world.zendesk.url());
        assert_contains(&post.shown(), &["Jane Doe", "Twitter", "CreateCase", "Ticket 1000", "Note by Ann Agent"]);
        assert_contains(&post.shown(), &["third", "State: new comment", "2 updates in the thread"]);
        assert_contains(&post.blocks[0].to_string(), &[&url]);
        assert_contains(&post.text, &["Ticket 1000", &url, PRIVATE]);
        let shown: Vec<String> = comments.iter().map(Message::shown).collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        for (shown, new, known) in [(&shown[0], "second", "first"), (&shown[1], "third", "second")] {
            assert_contains(shown, &["Ticket 1000 has a new comment", new]);
            assert!(!shown.contains(known), "{shown}");
        }
        assert_contains(&account.shown(), &["will.i.am", "State: works again", "1 update in the thread"]);
        assert_eq!(changes.len(), 1);
        assert_eq!((post.edits, account.edits), (2, 1));
        check_once(&slack, CHANNEL, 5);
        // What everybody in the workspace can read of a message has ids only.
        let metadata = post.metadata.as_ref().unwrap().to_string();
        assert!(leak(&metadata).is_none() && !metadata.contains("twitter"), "{metadata}");
        world.check_one_ticket_per_case().await;
    }

    async fn a_lost_answer_leads_to_no_second_message(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        let doubts = [
            Fault::ResetAfter,
            Fault::JsonAfter(r#"{"ok":false,"error":"internal_error"}"#),
            Fault::StatusAfter(502),
            Fault::ResetBefore,
            Fault::HangAfter,
            Fault::Json(r#"{"ok":true}"#),
        ];
        let channels: Vec<String> = (0..doubts.len()).map(|number| format!("C0000000{number:02}")).collect();
        let routes = ["A", "B", "C", "D", "E", "F"];
        const NAMES: [[&str; 3]; 6] = [
            ["ROUTE_A_LABEL", "ROUTE_A_TO", "ROUTE_A_SLACK_CHANNEL_ID"],
            ["ROUTE_B_LABEL", "ROUTE_B_TO", "ROUTE_B_SLACK_CHANNEL_ID"],
            ["ROUTE_C_LABEL", "ROUTE_C_TO", "ROUTE_C_SLACK_CHANNEL_ID"],
            ["ROUTE_D_LABEL", "ROUTE_D_TO", "ROUTE_D_SLACK_CHANNEL_ID"],
            ["ROUTE_E_LABEL", "ROUTE_E_TO", "ROUTE_E_SLACK_CHANNEL_ID"],
            ["ROUTE_F_LABEL", "ROUTE_F_TO", "ROUTE_F_SLACK_CHANNEL_ID"],
        ];
        for ((names, route), channel) in NAMES.iter().zip(routes).zip(&channels) {
            world.set(names[0], route);
            world.set(names[1], "slack");
            world.set(names[2], channel);
            slack.model().add_channel(channel);
        }
        let bridge = world.start().await;
        // First the messages of new cases, then those in their threads.
        for round in 0..2 {
            slack.queue(doubts.clone());
            for route in routes {
                let notification = noted(round, route, &["first", "second"][..=round]);
                world.notify_route(&route.to_lowercase(), notification).await;
            }
            bridge.wait_for_nth("delivery_done destination=slack", (round + 1) * routes.len()).await;
        }
        for channel in &channels {
            let threads = threads(&slack, channel);
            assert_eq!((threads.len(), threads[0].1.len()), (1, 1), "{channel}: {threads:#?}");
            check_once(&slack, channel, 2);
        }
    }

    async fn a_kill_at_any_step_leads_to_no_second_message(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        // The message of the case, before and after Slack has it; then the edit; then the reply.
        slack.queue([Fault::Hang, Fault::HangAfter]);
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["first"])).await;
        let count = |method: &'static str, calls: usize| slack.wait_until(move |model| model.count(method) >= calls);
        count("chat.postMessage", 1).await;
        bridge.kill().await;
        let bridge = world.start().await;
        count("chat.postMessage", 2).await;
        bridge.kill().await;
        let bridge = world.start().await;
        posted(&bridge, "event-0").await;
        slack.model().edit_faults.queue.extend([Fault::Hang, Fault::HangAfter]);
        slack.queue([Fault::Hang, Fault::HangAfter]);
        world.notify(&noted(1, "1", &["first", "second"])).await;
        count("chat.update", 1).await;
        bridge.kill().await;
        let bridge = world.start().await;
        count("chat.update", 2).await;
        bridge.kill().await;
        for posts in [3, 4] {
            let bridge = world.start().await;
            count("chat.postMessage", posts).await;
            bridge.kill().await;
        }
        let bridge = world.start().await;
        posted(&bridge, "event-1").await;
        let threads = threads(&slack, CHANNEL);
        assert_eq!((threads.len(), threads[0].1.len()), (1, 1), "{threads:#?}");
        check_once(&slack, CHANNEL, 2);
        world.check_one_ticket_per_case().await;
    }

    async fn an_archived_channel_waits_alone(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        world.set("ROUTE_VIP_LABEL", "VIP");
        world.set("ROUTE_VIP_THEN", "slack");
        world.set("ROUTE_VIP_SLACK_CHANNEL_ID", OTHER);
        slack.model().add_channel(OTHER);
        slack.model().channel(OTHER).is_archived = true;
        let bridge = world.start().await;
        for number in 0..3 {
            let post = format!("{number}");
            world.notify(&event(&format!("event-{number}"), &post)).await;
            world.notify_route("vip", event(&format!("vip-{number}"), &format!("vip-{post}"))).await;
        }
        bridge.wait_for(&format!("channel_paused level=ERROR alert=slack_channel channel={OTHER}")).await;
        bridge.wait_for_nth("delivery_done destination=zendesk", 6).await;
        bridge.wait_for_nth("delivery_done destination=slack", 3).await;
        // Each pause is logged, and the alert once an hour.
        bridge.wait_for_nth(&format!("channel_paused channel={OTHER}"), 2).await;
        assert_eq!(bridge.count("channel_paused level=ERROR"), 1);
        let status = world.status().await["destinations"]["slack"].clone();
        assert_eq!(status["state"], "ok", "{status}");
        let held = status["held"].to_string();
        assert_contains(&held, &[OTHER, "is_archived", "unarchive it"]);

        slack.model().channel(OTHER).is_archived = false;
        bridge.wait_for(&format!("channel_resumed channel={OTHER}")).await;
        bridge.wait_for_nth("delivery_done destination=slack", 6).await;
        check_once(&slack, CHANNEL, 3);
        check_once(&slack, OTHER, 3);
        world.check_one_ticket_per_case().await;
    }

    async fn a_channel_that_takes_messages_late_gets_them_without_another_event(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        slack.model().scopes.remove("chat:write");
        slack.model().channel(CHANNEL).is_uninvited = true;
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        bridge.wait_for("destination_paused destination=slack alert=slack_refuses").await;
        slack.model().scopes.insert("chat:write");
        bridge.wait_for(&format!("channel_paused alert=slack_channel channel={CHANNEL}")).await;
        slack.model().channel(CHANNEL).is_uninvited = false;
        bridge.wait_for("destination_resumed destination=slack").await;
        posted(&bridge, "event-0").await;
        check_once(&slack, CHANNEL, 1);
    }

    async fn a_doubt_in_the_channel_of_earlier_settings_does_not_hold_up_the_new_one(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        slack.model().add_channel(OTHER);
        slack.queue([Fault::HangAfter, Fault::HangAfter]);
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        slack.wait_until(|model| !model.channels[CHANNEL].messages.is_empty()).await;
        bridge.kill().await;

        // The message is in the earlier channel, and the first one of the case in the new channel is a new one.
        world.set("SLACK_CHANNEL_ID", OTHER);
        let bridge = world.start().await;
        posted(&bridge, "event-0").await;
        let row = &world.list_of("slack").await[0];
        assert!(row["reference"].as_str().unwrap().starts_with(CHANNEL), "{row}");
        world.notify(&noted(1, "1", &["0", "1"])).await;
        slack.wait_until(|model| !model.channels[OTHER].messages.is_empty()).await;
        bridge.kill().await;
        let [(root, _)] = &threads(&slack, OTHER)[..] else { panic!("there is one") };
        assert!(!root.shown().contains("Continues"), "{}", root.shown());

        // That of the next delivery is gone.
        slack.model().channels.remove(OTHER);
        world.set("SLACK_CHANNEL_ID", CHANNEL);
        let bridge = world.start().await;
        posted(&bridge, "event-1").await;
        let [(root, replies)] = &threads(&slack, CHANNEL)[..] else { panic!("there is one") };
        assert_contains(&root.shown(), &["1 update in the thread"]);
        assert_contains(&replies[0].shown(), &["This may be a duplicate"]);
        assert_eq!(bridge.count("channel_paused"), 0);
    }

    async fn waiting_edits_are_one(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        posted(&bridge, "event-0").await;
        slack.model().channel(CHANNEL).is_archived = true;
        let notes = ["0", "1", "2", "3", "4"];
        for number in 1..5 {
            world.notify(&noted(number, "1", &notes[..=number])).await;
            bridge.wait_for(&format!("delivery_done destination=zendesk delivery=khoros:1234:event-{number}*")).await;
        }
        bridge.wait_for("channel_paused").await;
        slack.model().channel(CHANNEL).is_archived = false;
        bridge.wait_for_nth("delivery_done destination=slack", 5).await;
        let threads = threads(&slack, CHANNEL);
        let [(root, replies)] = &threads[..] else { panic!("{threads:#?}") };
        assert_eq!((root.edits, replies.len()), (1, 4));
        assert_contains(&root.shown(), &["4 updates in the thread"]);
        for (reply, note) in replies.iter().zip(&notes[1..]) {
            assert_contains(&reply.shown(), &[&format!("{PRIVATE} {note}")]);
        }
    }

    async fn a_deleted_message_is_replaced_by_one_that_names_the_ticket(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        posted(&bridge, "event-0").await;
        let deleted = threads(&slack, CHANNEL)[0].0.ts.clone();
        slack.model().delete(CHANNEL, &deleted);
        for (number, notes) in [(1, &["0", "1"][..]), (2, &["0", "1", "2"])] {
            world.notify(&noted(number, "1", notes)).await;
            posted(&bridge, &format!("event-{number}")).await;
        }
        let threads = threads(&slack, CHANNEL);
        let [(root, replies)] = &threads[..] else { panic!("{threads:#?}") };
        assert_contains(&root.shown(), &["Ticket 1000", "1 update in the thread"]);
        assert_eq!(replies.len(), 1);
    }

    async fn a_storm_waits_and_one_alert_says_how_much(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        world.set("SLACK_MAX_PER_MINUTE", "2");
        let bridge = world.start().await;
        for number in 0..5 {
            world.notify(&noted(number, &number.to_string(), &["0"])).await;
        }
        let alert = bridge.wait_for(&format!("slack_storm level=ERROR alert=slack_storm channel={CHANNEL}")).await;
        assert_contains(&alert, &["new cases wait", "casebridge list --state waiting --destination slack"]);
        bridge.wait_for_nth("delivery_done destination=zendesk", 5).await;
        bridge.wait_for_nth("delivery_done destination=slack", 2).await;
        // Updates of known cases go on.
        let first = world.list_of("slack").await.into_iter().find(|row| row["state"] == "done").unwrap();
        let post = first["case"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        world.notify(&noted(5, &post, &["0", "1"])).await;
        posted(&bridge, "event-5").await;
        assert_eq!(threads(&slack, CHANNEL).len(), 2);
        assert_eq!(bridge.count("slack_storm"), 1);
        bridge.stop().await;

        // The limit of now applies, whatever it was when they were held.
        world.set("SLACK_MAX_PER_MINUTE", "0");
        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done destination=slack", 3).await;
        assert_eq!(threads(&slack, CHANNEL).len(), 5);
        check_once(&slack, CHANNEL, 6);
    }

    async fn what_cannot_be_looked_up_is_sent_again_or_held(world: World) {
        let mut world = world;
        let slack = with_follower(&mut world).await;
        slack.model().scopes.remove("channels:history");
        slack.queue([Fault::ResetAfter]);
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        posted(&bridge, "event-0").await;
        {
            let mut model = slack.model();
            let messages = &model.channel(CHANNEL).messages;
            assert_eq!(messages.len(), 2);
            assert!(!messages[0].shown().contains("duplicate"));
            assert_contains(&messages[1].shown(), &["This may be a duplicate"]);
        }
        bridge.stop().await;

        world.set("SLACK_DOUBT", "hold");
        // One is uncertain, and the others are not.
        slack.queue([Fault::TooMany(1), Fault::ResetAfter, Fault::Json(r#"{"ok":false,"error":"is_archived"}"#)]);
        let bridge = world.start().await;
        for number in 1..4 {
            world.notify(&noted(number, &format!("post-{number}"), &["0"])).await;
        }
        bridge.wait_for("delivery_dead destination=slack").await;
        bridge.wait_for_nth("delivery_done destination=slack", 2).await;
        let rows = world.list_of("slack").await;
        let dead: Vec<&Value> = rows.iter().filter(|row| row["state"] == "dead").collect();
        assert_eq!(dead.len(), 1, "{rows:#?}");
        assert_contains(dead[0]["reason"].as_str().unwrap(), &["may have been sent"]);
        let id = dead[0]["id"].as_str().unwrap();
        assert_eq!(slack.model().channel(CHANNEL).messages.len(), 5);
        assert!(world.command(&["replay", id]).await.status.success());
        bridge.wait_for(&format!("delivery_done destination=slack delivery={id}")).await;
        assert_eq!(slack.model().channel(CHANNEL).messages.len(), 6);
    }
}

/// A failure of Slack, and the alert that it raises at once.
enum Failure {
    Down,
    Outage(Fault, Option<&'static str>),
    TokenRevoked,
}

/// Runs a world for each failure, all at once.
#[tokio::test]
async fn while_slack_fails_tickets_go_on_and_afterwards_every_message_arrives() {
    let failures = [
        Failure::Down,
        Failure::TokenRevoked,
        Failure::Outage(Fault::Html, None),
        Failure::Outage(Fault::Hang, None),
        Failure::Outage(Fault::EndlessBody, None),
        Failure::Outage(Fault::Status(503), None),
        Failure::Outage(Fault::Json(r#"{"ok":true,"ts":"","channel":"C0ELSEWHERE"}"#), None),
        Failure::Outage(Fault::Status(404), Some("slack_address")),
        Failure::Outage(Fault::Json(r#"{"ok":false,"error":"restricted_action"}"#), Some("slack_refuses")),
    ];
    join_all(failures.map(|failure| run_on_sqlite(|world| fail_and_recover(world, failure)))).await;
}

async fn fail_and_recover(mut world: World, failure: Failure) {
    let slack = with_follower(&mut world).await;
    let alert = match &failure {
        Failure::Down => None,
        Failure::TokenRevoked => Some("slack_credential"),
        Failure::Outage(_, alert) => *alert,
    };
    let token = slack.model().token.clone();
    match &failure {
        Failure::Down => slack.stop(),
        Failure::TokenRevoked => slack.model().token = "xoxb-another".to_owned(),
        Failure::Outage(fault, _) => slack.model().faults.outage = Some(fault.clone()),
    }
    let bridge = world.start().await;
    for number in 0..4 {
        world.notify(&noted(number, &number.to_string(), &["0"])).await;
    }
    bridge.wait_for_nth("delivery_done destination=zendesk", 4).await;
    bridge.wait_for("destination_paused destination=slack").await;
    assert_eq!(
        (world.state_of("slack").await, world.state_of("zendesk").await),
        ("paused".into(), "ok".into())
    );
    if let Some(alert) = alert {
        bridge.wait_for(&format!("destination_paused destination=slack level=ERROR alert={alert}")).await;
    }
    match failure {
        Failure::Down => slack.restart().await.unwrap(),
        Failure::TokenRevoked => slack.model().token = token,
        Failure::Outage(..) => slack.model().faults.outage = None,
    }
    bridge.wait_for_nth("delivery_done destination=slack", 4).await;
    check_once(&slack, CHANNEL, 4);
    world.check_one_ticket_per_case().await;
}

#[tokio::test]
async fn a_channel_that_is_throttled_for_long_is_an_alert_and_waits_alone() {
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        slack.queue([Fault::TooMany(3 * 3600)]);
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        let line = bridge
            .wait_for(&format!("channel_paused level=ERROR alert=slack_channel channel={CHANNEL}"))
            .await;
        // At most an hour, whatever the answer says.
        assert_contains(&line, &["next try in 3600 s", "throttles messages"]);
        assert_eq!(world.state_of("slack").await, "ok");
        assert_eq!(slack.model().channel(CHANNEL).messages.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_post_appears_as_typed_and_notifies_nobody() {
    let typed = "<!channel> <@U0123456789> <https://evil.example|bank> *b* _i_ `code` &lt;!here&gt; @here :smile: > q";
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        let bridge = world.start().await;
        let post = |number: usize, text: String| {
            event_with(&format!("event-{number}"), &number.to_string(), |item| {
                item["text"] = json!(text);
                item["author"] = json!("Jane Doe <!channel> <@U0123456789>");
                item["notes"] =
                    json!([{"text": format!("{PRIVATE} <!here>"), "createdByDisplayName": "<!everyone>"}]);
            })
        };
        world.notify(&post(0, format!("{PRIVATE} {typed} a\u{202e}b\u{200b}"))).await;
        posted(&bridge, "event-0").await;
        world.notify(&post(1, "👩\u{200d}👩\u{200d}👧 ".repeat(10_000))).await;
        posted(&bridge, "event-1").await;
        let threads = threads(&slack, CHANNEL);
        assert_eq!(threads.len(), 2, "{threads:#?}");
        for (root, _) in &threads {
            assert_eq!((root.notified.len(), root.unfurls), (0, false), "{root:#?}");
            assert!(root.text.encode_utf16().count() <= 3900);
        }
        assert_contains(&threads[0].0.shown(), &[typed, "ab", "Jane Doe <!channel>", "Note by <!everyone>"]);
        assert!(threads[0].0.text.contains("&lt;!channel&gt;") && !threads[0].0.text.contains('<'));
        let cut = threads[1].0.shown();
        assert!(cut.contains("👩\u{200d}👩\u{200d}👧 …") || cut.contains("👩\u{200d}👩\u{200d}👧…"), "{cut}");
    })
    .await;
}

#[tokio::test]
async fn mentions_come_from_settings_and_keep_quiet_hours() {
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        world.set("SLACK_MENTION", "here, S0123456789");
        world.set("ROUTE_ACCOUNTS_EVENT", "credential-deauth");
        world.set("ROUTE_ACCOUNTS_TO", "slack");
        world.set("ROUTE_ACCOUNTS_SLACK_MENTION", "U0123456789");
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        posted(&bridge, "event-0").await;
        world.notify(&noted(1, "1", &["0", "1"])).await;
        posted(&bridge, "event-1").await;
        bridge.stop().await;

        // An account that has lost its authorization has a high priority.
        world.set("SLACK_MENTION_PRIORITY", "high");
        let bridge = world.start().await;
        world.notify(&noted(2, "2", &["0"])).await;
        posted(&bridge, "event-2").await;
        for (number, event) in [LOST, BACK, LOST].into_iter().enumerate() {
            account(&world, event, &format!("account-{number}"), number as u64).await;
            posted(&bridge, &format!("account-{number}")).await;
        }
        bridge.stop().await;

        world.unset("SLACK_MENTION_PRIORITY");
        world.set("SLACK_QUIET_HOURS", hours_around_now());
        let bridge = world.start().await;
        world.notify(&noted(3, "3", &["0"])).await;
        posted(&bridge, "event-3").await;
        let mut model = slack.model();
        let messages = &model.channel(CHANNEL).messages;
        let notified: Vec<String> = messages.iter().map(|message| message.notified.join(" ")).collect();
        let expected = ["<!here> <!subteam^S0123456789>", "", "", "<@U0123456789>", "", "<@U0123456789>", ""];
        assert_eq!(notified, expected);
        assert_contains(&messages[6].shown(), &["Mentions are off during the quiet hours"]);
    })
    .await;
}

fn hours_around_now() -> String {
    let at = |hours: i64| {
        let time = Timestamp::now() + SignedDuration::from_hours(hours);
        time.strftime("%H:%M").to_string()
    };
    format!("{}-{} UTC", at(-2), at(2))
}

/// Slack refuses a part of the message: it is left out.
#[tokio::test]
async fn refused_parts_are_left_out() {
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        slack.model().refuses_blocks = Some("invalid_blocks");
        let bridge = world.start().await;
        world.notify(&noted(0, "0", &["0"])).await;
        posted(&bridge, "event-0").await;
        bridge.wait_for("slack_plain").await;
        slack.model().refuses_blocks = None;
        slack.model().refuses_metadata = Some("metadata_must_be_sent_from_app");
        // The lookup of this one goes by the block.
        slack.queue([Fault::Json(r#"{"ok":false,"error":"invalid_metadata_format"}"#), Fault::ResetAfter]);
        world.notify(&noted(1, "1", &["0"])).await;
        posted(&bridge, "event-1").await;
        slack.model().refuses_metadata = None;
        slack.model().drops_metadata = true;
        slack.queue([Fault::ResetAfter]);
        world.notify(&noted(2, "2", &["0"])).await;
        posted(&bridge, "event-2").await;
        let mut model = slack.model();
        let messages = &model.channel(CHANNEL).messages;
        assert_eq!(messages.len(), 3, "{messages:#?}");
        assert!(messages[0].blocks.is_empty() && messages[0].text.contains("Ticket 1000"));
        assert!(messages[1].metadata.is_none() && messages[2].metadata.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_thread_that_takes_no_reply_continues_in_another_message() {
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        posted(&bridge, "event-0").await;
        slack.queue([Fault::Json(r#"{"ok":false,"error":"restricted_action_thread_locked"}"#)]);
        world.notify(&noted(1, "1", &["0", "1"])).await;
        posted(&bridge, "event-1").await;
        let threads = threads(&slack, CHANNEL);
        assert_eq!(threads.len(), 2, "{threads:#?}");
        assert_contains(&threads[1].0.shown(), &["Ticket 1000", "Continues an earlier message"]);
    })
    .await;
}

/// A word that Slack does not document: the message is looked for, and not sent again.
#[tokio::test]
async fn an_unknown_error_is_looked_up_once() {
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        let unknown = r#"{"ok":false,"error":"unheard_of"}"#;
        slack.queue([Fault::JsonAfter(unknown), Fault::Json(unknown)]);
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        posted(&bridge, "event-0").await;
        world.notify(&noted(1, "2", &["0"])).await;
        bridge.wait_for("delivery_dead destination=slack delivery=khoros:1234:event-1*").await;
        let dead = world.list_of("slack").await.into_iter().find(|row| row["state"] == "dead").unwrap();
        assert_eq!(dead["reason"], "Slack answered unheard_of");
        check_once(&slack, CHANNEL, 1);
        // Another delivery of that case posts its message.
        world.notify(&noted(2, "2", &["0", "1"])).await;
        posted(&bridge, "event-2").await;
        check_once(&slack, CHANNEL, 2);
    })
    .await;
}

#[tokio::test]
async fn a_template_that_fails_leaves_the_built_in_text() {
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        // The template works with the text of the sample, and fails with that of a post.
        world.set("SLACK_TEXT", "New: {{ label }}{{ item.text|int if item.text != 'Text' and author.id }}");
        let bridge = world.start().await;
        for (number, author) in [json!("author-17"), json!("")].into_iter().enumerate() {
            let notification =
                event_with(&format!("event-{number}"), &number.to_string(), |item| item["authorId"] = author);
            world.notify(&notification).await;
            posted(&bridge, &format!("event-{number}")).await;
        }
        bridge.wait_for("template_failed case=khoros:1234:twitter:0").await;
        assert_eq!(bridge.count("template_failed"), 1);
        let threads = threads(&slack, CHANNEL);
        assert_contains(&threads[0].0.shown(), &["Jane Doe"]);
        assert_contains(&threads[1].0.shown(), &["New: CreateCase"]);
    })
    .await;
}

/// Other destinations may follow a message, and the webhook has its own guarantee.
#[tokio::test]
async fn a_message_can_be_followed() {
    run_on_sqlite(|mut world| async move {
        let slack = world.with_slack().await;
        let webhook = world.with_webhook().await;
        world.without_zendesk();
        world.set("DELIVER_TO", "slack");
        world.set("DELIVER_THEN", "webhook");
        let bridge = world.start().await;
        world.notify(&noted(0, "1", &["0"])).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        assert_eq!((slack.model().channel(CHANNEL).messages.len(), webhook.model().sends()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn wrong_settings_are_all_reported() {
    run_on_sqlite(|mut world| async move {
        for (name, value) in [
            ("ROUTE_LABEL_THEN", "slack"),
            ("SLACK_BOT_TOKEN", "xoxp-1-the-token-of-a-person"),
            ("SLACK_CHANNEL_ID", "#support"),
            ("SLACK_MENTION", "@jane"),
            ("SLACK_MENTION_PRIORITY", "critical"),
            ("SLACK_QUIET_HOURS", "22-7"),
            ("SLACK_MAX_PER_MINUTE", "many"),
            ("SLACK_DOUBT", "maybe"),
            ("SLACK_TEXT", "{{ unheard_of }}"),
            ("TICKET_PRIORITY", "asap"),
        ] {
            world.set(name, value);
        }
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2), "{log}");
        for problem in [
            "SLACK_BOT_TOKEN is not a bot token",
            "SLACK_CHANNEL_ID is not the id of a channel",
            "SLACK_MENTION is neither",
            "SLACK_MENTION_PRIORITY is not one of",
            "SLACK_QUIET_HOURS is not a span",
            "SLACK_MAX_PER_MINUTE is not a number",
            "SLACK_DOUBT is neither",
            "SLACK_TEXT is not a valid template",
            "TICKET_PRIORITY is not one of",
        ] {
            assert_eq!(log.matches(problem).count(), 1, "{problem}:\n{log}");
        }
        assert!(!log.contains("xoxp-1") && !log.contains("#support"), "{log}");
        // One route lacks a channel, and another has a wrong one. There are no tickets.
        world.unset("SLACK_CHANNEL_ID");
        world.without_zendesk();
        for (name, value) in [
            ("DELIVER_TO", "slack"),
            ("ROUTE_LABEL_THEN", "none"),
            ("ROUTE_VIP_LABEL", "VIP"),
            ("ROUTE_VIP_SLACK_CHANNEL_ID", "#vip"),
        ] {
            world.set(name, value);
        }
        let (_, log) = world.spawn().end_with_log().await;
        for problem in [
            "SLACK_CHANNEL_ID is not set",
            "ROUTE_VIP_SLACK_CHANNEL_ID is not the id of a channel",
            "TICKET_PRIORITY is not one of",
        ] {
            assert_eq!(log.matches(problem).count(), 1, "{problem}:\n{log}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_check_says_what_to_type() {
    run_on_sqlite(|mut world| async move {
        let slack = with_follower(&mut world).await;
        let _bridge = world.start().await;
        let row = async |name: &str| {
            let output = world.command_with_settings(&["check", "--json"]).await;
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let rows = report["rows"].as_array().unwrap().clone();
            rows.into_iter().find(|row| row["name"] == name).unwrap()
        };
        assert_eq!(row("slack token").await["mark"], "ok");
        assert_eq!(row("slack channels").await["mark"], "ok");
        slack.model().channel(CHANNEL).is_uninvited = true;
        let channels = row("slack channels").await;
        assert_eq!(channels["mark"], "failed");
        assert_contains(channels["remedy"].as_str().unwrap(), &["/invite @casebridge"]);
        slack.model().channel(CHANNEL).is_uninvited = false;
        slack.model().scopes.remove("channels:history");
        let channels = row("slack channels").await;
        assert_eq!(channels["mark"], "warning", "{channels}");
        assert_contains(channels["remedy"].as_str().unwrap(), &["channels:history"]);
        slack.model().token = "xoxb-another".to_owned();
        let token = row("slack token").await;
        assert_eq!(
            (&token["mark"], row("slack channels").await["mark"].as_str()),
            (&json!("failed"), Some("warning"))
        );
        assert_contains(token["text"].as_str().unwrap(), &["invalid_auth"]);
        // It posted nothing.
        assert_eq!(slack.model().count("chat.postMessage"), 0);
    })
    .await;
}
