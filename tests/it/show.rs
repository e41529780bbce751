//! `casebridge show`, and the selectors that it shares with `replay`.

use std::process::Output;

use casebridge_sandbox::slack;
use casebridge_sandbox::zendesk::Fault;
use serde_json::{Value, json};

use crate::harness::{PHONE, World, event, event_with, leak, on_both, run_on_sqlite};
use crate::metrics::wait_for;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn show(world: &World, arguments: &[&str]) -> Value {
    let output = world.command(&[&["show", "--json"], arguments].concat()).await;
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The events of a timeline; of an attempt its outcome, too.
fn entries(shown: &Value) -> Vec<String> {
    let entry = |entry: &Value| match entry["outcome"].as_str() {
        Some(outcome) => format!("attempt {}: {outcome}", entry["number"]),
        None => entry["event"].as_str().unwrap().to_owned(),
    };
    shown["timeline"].as_array().unwrap().iter().map(entry).collect()
}

on_both! {
    async fn the_story_of_a_delivery_is_told_in_order(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "1");
        world.zendesk.queue([Fault::Invalid]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_dead").await;
        let id = "khoros:1234:event-1:twitter:1";
        assert_eq!(entries(&show(&world, &[id]).await), ["received", "attempt 1: refused", "dead"]);

        world.zendesk.queue([Fault::Status(500), Fault::TooMany(1)]);
        let replayed = world.command(&["replay", "khoros:1234:twitter:1"]).await;
        assert!(text(&replayed).contains("1 replayed"), "{}", text(&replayed));
        bridge.wait_for("delivery_done ticket=1000").await;
        let shown = show(&world, &[id]).await;
        assert_eq!(
            entries(&shown),
            ["received", "attempt 1: refused", "replayed", "attempt 2: retry", "attempt 3: pause", "attempt 4: done", "done"]
        );
        let timeline = shown["timeline"].as_array().unwrap();
        assert_eq!((&timeline[1]["status"], &timeline[1]["response"]), (&json!(422), &Value::Null));
        assert_eq!((&timeline[3]["status"], &timeline[3]["found"]), (&json!(500), &json!(false)));
        assert_eq!((&timeline[4]["status"], &timeline[5]["status"]), (&json!(429), &json!(201)));
        assert_eq!((&timeline[5]["action"], &timeline[5]["found"]), (&json!("created"), &json!(false)));
        let times: Vec<&str> = timeline.iter().filter_map(|entry| entry["at"].as_str()).collect();
        assert!(times.is_sorted() && times.len() == 6, "{times:?}");
        assert_eq!(shown["post"], "https://twitter.com/link");
        assert_eq!(shown["ticket_url"], format!("{}/agent/tickets/1000", world.zendesk.url()));
        assert_eq!(shown["request"]["body"]["ticket"]["external_id"], "khoros:1234:twitter:1");
        assert_eq!(leak(&shown.to_string()), None, "{shown}");

        let output = world.command(&["show", id]).await;
        let plain = text(&output);
        assert_eq!(leak(&plain), None, "{plain}");
        for part in ["attempt 1: refused (HTTP 422", "an operator replayed it", "attempt 4: created", "done: 1000"] {
            assert!(plain.contains(part), "{part} in {plain}");
        }
        let texts = show(&world, &[id, "--texts"]).await;
        assert!(texts["timeline"][1]["response"].as_str().unwrap().contains("Jane Doe"), "{texts}");
        assert!(texts["request"]["body"]["ticket"]["comment"]["html_body"].as_str().unwrap().contains("zebra-crossing"));
    }

    async fn deliveries_are_found_by_what_operators_know(world: World) {
        let mut world = world;
        let _webhook = world.with_webhook().await;
        world.set("DELIVER_THEN", "webhook");
        let bridge = world.start().await;
        let linked = |event: &str, post: &str| {
            event_with(event, post, |item| item["link"] = json!(format!("https://twitter.com/a/status/{post}")))
        };
        world.notify(&linked("event-1", "111")).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        world.zendesk.stop();
        world.notify(&linked("event-2", "222")).await;
        bridge.wait_for("destination_paused destination=zendesk").await;
        // While Zendesk is away, this one is not tried.
        world.notify(&linked("event-3", "333")).await;
        bridge.stop().await;

        let first = "khoros:1234:event-1:twitter:111";
        for selector in [
            first,
            "khoros:1234:event-1",
            "khoros:1234:twitter:111",
            "1000",
            "#1000",
            "https://acme.zendesk.com/agent/tickets/1000",
            "https://twitter.com/a/status/111",
            "http://twitter.com/a/status/111/",
        ] {
            let shown = show(&world, &[selector]).await;
            let delivery = &shown["delivery"];
            assert_eq!((&delivery["id"], &delivery["destination"]), (&json!(first), &json!("zendesk")), "{selector}");
            assert_eq!(shown["case"][0]["destination"], "webhook", "{selector}");
        }
        let follower = show(&world, &[first, "--destination", "webhook"]).await;
        assert_eq!(follower["timeline"][0]["follows"], json!({"action": "created", "reference": "1000"}));

        for link in ["http://twitter.com/a/status/333/", "https://twitter.com/a/status/333"] {
            assert_eq!(show(&world, &[link]).await["delivery"]["id"], "khoros:1234:event-3:twitter:333");
        }
        let untried = show(&world, &["https://twitter.com/a/status/333"]).await;
        assert_eq!(untried["delivery"]["id"], "khoros:1234:event-3:twitter:333");
        assert_eq!(entries(&untried), ["received", "waiting"]);
        // What would be sent.
        assert_eq!(untried["request"]["body"]["ticket"]["external_id"], "khoros:1234:twitter:333");
        assert_eq!(leak(&untried.to_string()), None, "{untried}");

        for (selector, expected) in [
            ("khoros:1234:event-", "several deliveries begin with"),
            ("no-such-id", "there is no delivery `no-such-id`"),
            ("9999", "there is no delivery `9999`"),
            ("https://twitter.com/a/status/999", "there is no delivery"),
            // The beginning, and the end, of links.
            ("https://twitter.com/a/status/33", "there is no delivery"),
            ("https://m.com/a/status/333", "there is no delivery"),
            ("https://", "there is no delivery"),
            ("khoros:\u{1b}[2Jnothing", "there is no delivery `khoros: [2Jnothing`"),
            ("", "there is no delivery"),
        ] {
            let output = world.command(&["show", selector]).await;
            assert_eq!(output.status.code(), Some(1));
            assert!(text(&output).contains(expected), "{selector}: {}", text(&output));
        }
        let replayed = world.command(&["replay", "--now", "--dry-run", "khoros:1234:event-3"]).await;
        assert!(text(&replayed).contains("1 would be replayed"), "{}", text(&replayed));
        let refused = world.command(&["replay", "1000"]).await;
        assert!(text(&refused).contains("only dead deliveries"), "{}", text(&refused));
    }

    async fn the_deliveries_of_an_item_to_several_targets_are_one_item(world: World) {
        let mut world = world;
        world.without_zendesk();
        world.set("DELIVER_TO", "twilio");
        let _twilio = world.with_twilio().await;
        let bridge = world.start().await;
        let items = ["1", "12"].map(|post| json!({"entityId": format!("twitter:{post}"), "text": "t"}));
        world.notify(&json!({"eventUuid": "event-1", "data": {"items": items}}).to_string()).await;
        bridge.wait_for_nth("delivery_done destination=twilio", 4).await;
        for selector in ["khoros:1234:event-1:twitter:12", "khoros:1234:event-1:twitter:1"] {
            let id = show(&world, &[selector]).await["delivery"]["id"].as_str().unwrap().to_owned();
            assert!(id.starts_with(&format!("{selector}~")), "{selector}: {id}");
            let shown = text(&world.command(&["show", selector]).await);
            assert!(shown.contains("\nto       …"), "{shown}");
        }
        let ambiguous = world.command(&["show", "khoros:1234:event-1"]).await;
        let expected = "name one of them: khoros:1234:event-1:twitter:1, khoros:1234:event-1:twitter:12 …";
        assert!(text(&ambiguous).contains(expected), "{}", text(&ambiguous));
    }

    async fn terminals_get_no_control_characters_of_an_identity(world: World) {
        let bridge = world.start().await;
        for number in ["1", "2"] {
            world.notify(&event(&format!("event-{number}"), number)).await;
        }
        bridge.wait_for_nth("delivery_done", 2).await;
        bridge.stop().await;
        world.database.execute("update delivery set identity = identity || '\u{1b}[2J'").await;
        for arguments in [
            &["show", "khoros:1234:event"][..],
            &["show", "khoros:1234:event-1:twitter:1\u{1b}[2J", "--destination", "webhook"],
            &["replay", "khoros:1234:event-1:twitter:1\u{1b}[2J"],
            &["replay", "khoros:1234:event-1:twitter:1\u{1b}[2J", "--destination", "webhook"],
        ] {
            let output = text(&world.command(arguments).await);
            assert!(output.contains(" [2J") && !output.contains('\u{1b}'), "{output:?}");
        }
    }

    async fn an_attempt_that_was_killed_is_missing(world: World) {
        world.zendesk.queue([Fault::Hang]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        world.zendesk.wait_until(|model| model.creates == 1).await;
        let id = "khoros:1234:event-1:twitter:1";
        assert_eq!(entries(&show(&world, &[id]).await), ["received", "attempting"]);
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for("delivery_done").await;
        let shown = show(&world, &[id]).await;
        assert_eq!(entries(&shown), ["received", "missing", "attempt 2: done", "done"]);
        assert_eq!(shown["timeline"][2]["found"], false);
    }
}

/// The answer to the first message is lost, and then the second message.
async fn check_answers_and_lookups(
    world: World,
    destination: &str,
    status: u16,
    fail: impl Fn(slack::Fault),
) {
    let bridge = world.start().await;
    for (number, fault, found, status) in [
        (1, slack::Fault::ResetAfter, true, Value::Null),
        (2, slack::Fault::ResetBefore, false, json!(status)),
    ] {
        fail(fault);
        world.notify(&event(&format!("event-{number}"), &number.to_string())).await;
        bridge.wait_for_nth("delivery_done", number).await;
        let shown = show(&world, &[&format!("khoros:1234:event-{number}")]).await;
        let last = &shown["timeline"][2];
        assert_eq!((&last["outcome"], &last["found"]), (&json!("done"), &json!(found)), "{shown}");
        assert_eq!(last["status"], status, "{shown}");
    }
    let lookups =
        |found| format!("casebridge_lookups_total{{destination=\"{destination}\",found=\"{found}\"}}");
    assert_eq!(wait_for(&world, &lookups("yes"), 1.0).await[&lookups("no")], 1.0);
}

#[tokio::test]
async fn the_answers_and_lookups_of_slack_are_on_record() {
    run_on_sqlite(|mut world| async move {
        world.without_zendesk();
        world.set("DELIVER_TO", "slack");
        let slack = world.with_slack().await;
        check_answers_and_lookups(world, "slack", 200, |fault| slack.queue([fault])).await;
    })
    .await;
}

#[tokio::test]
async fn the_answer_to_an_earlier_request_is_not_that_of_the_attempt() {
    run_on_sqlite(|mut world| async move {
        world.without_zendesk();
        world.set("DELIVER_TO", "slack");
        let slack = world.with_slack().await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=slack").await;
        // The edit of the first message is answered, and the reply is not.
        slack.queue([slack::Fault::ResetBefore]);
        world.notify(&event("event-2", "1")).await;
        bridge.wait_for_nth("delivery_done destination=slack", 2).await;
        let timeline = &show(&world, &["khoros:1234:event-2:twitter:1"]).await["timeline"];
        let statuses = [&timeline[1]["status"], &timeline[2]["status"]];
        assert_eq!(statuses, [&Value::Null, &json!(200)], "{timeline:#}");
    })
    .await;
}

#[tokio::test]
async fn the_answers_and_lookups_of_twilio_are_on_record() {
    run_on_sqlite(|mut world| async move {
        world.without_zendesk();
        world.set("DELIVER_TO", "twilio");
        let twilio = world.with_twilio().await;
        world.set("TWILIO_TO", PHONE);
        check_answers_and_lookups(world, "twilio", 201, |fault| twilio.queue([fault])).await;
    })
    .await;
}
