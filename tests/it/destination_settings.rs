//! The settings of destinations: wrong ones stop the start, and `casebridge check` shows the others.

use serde_json::{Value, json};

use crate::harness::{PHONE, World, event, leak, run_on_sqlite};

const WRONG_SECRET: &str = "whsec_dG9vLXNob3J0";

/// Starts with settings that are wrong, and returns the problems that it reports before it ends.
async fn problems(world: &World) -> Vec<String> {
    let (status, log) = world.spawn().end_with_log().await;
    assert_eq!(status.code(), Some(2), "{log}");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let problems = lines.filter(|line| line["event"] == "start_failed");
    problems.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

/// Each problem begins with one of these texts, and each text with one problem.
fn assert_problems(problems: &[String], expected: &[&str]) {
    for expected in expected {
        let count = problems.iter().filter(|problem| problem.starts_with(expected)).count();
        assert_eq!(count, 1, "{expected}: {problems:#?}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

async fn warnings(world: &World) -> Vec<String> {
    let bridge = world.start().await;
    let log = bridge.log();
    assert_eq!(bridge.stop().await.code(), Some(0));
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings = lines.filter(|line| line["event"] == "setting_warning");
    warnings.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

async fn check(world: &World) -> (Option<i32>, Vec<Value>) {
    let output = world.command_with_settings(&["check", "--json"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(leak(&text), None, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    (output.status.code(), report["rows"].as_array().unwrap().clone())
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    rows.iter().find(|row| row["name"] == name).unwrap()
}

#[tokio::test]
async fn every_problem_of_the_destinations_is_reported_at_once() {
    run_on_sqlite(|mut world| async move {
        world.without_zendesk();
        for (name, value) in [
            ("ROUTE_A_LABEL", "A"),
            ("ROUTE_A_TO", "webhook, pager"),
            ("ROUTE_B_LABEL", "B"),
            ("ROUTE_B_TO", "webhook"),
            ("ROUTE_B_THEN", "flow,webhook"),
            ("WEBHOOK_URL", "http://hooks.example.com/in"),
            ("WEBHOOK_SECRET", WRONG_SECRET),
            ("FLOW_API_KEY", "sk_of-the-tests"),
            ("FLOW_EVENT_NAME", "created"),
            ("FLOW_TO", "555-0147"),
        ] {
            world.set(name, value);
        }
        let problems = problems(&world).await;
        assert_problems(
            &problems,
            &[
                "ROUTE_A_TO contains a name that is no destination: the destinations are zendesk, webhook, flow, slack, twilio",
                "the route `b` goes to webhook at once and afterwards",
                "ZENDESK_API_URL is not set",
                "no Zendesk credential",
                "WEBHOOK_URL is a plain http:// address",
                "WEBHOOK_SECRET is not a secret",
                "FLOW_EXTERNAL_ID is not set",
                "FLOW_TO is not a list of phone numbers",
            ],
        );
        // Names of variables, and none of their values.
        let text = problems.join("\n");
        assert!(
            ![WRONG_SECRET, "hooks.example.com", "sk_of", "0147"].iter().any(|value| text.contains(value)),
            "{text}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_destination_that_is_named_has_to_be_configured() {
    run_on_sqlite(|mut world| async move {
        world.set("DELIVER_THEN", "webhook,flow");
        let expected = [
            "WEBHOOK_URL is not set",
            "WEBHOOK_SECRET is not set",
            "FLOW_API_KEY is not set",
            "FLOW_EXTERNAL_ID is not set",
            "FLOW_EVENT_NAME is not set",
            "FLOW_TO is not set",
        ];
        assert_problems(&problems(&world).await, &expected);
        let _webhook = world.with_webhook().await;
        world.unset("WEBHOOK_SECRET");
        world.unset("DELIVER_THEN");
        world.set("ROUTE_LABEL_THEN", "webhook");
        assert_problems(&problems(&world).await, &["WEBHOOK_SECRET is not set"]);
        // Half a configuration is a mistake, although no route goes there.
        world.unset("ROUTE_LABEL_THEN");
        assert_problems(&problems(&world).await, &["WEBHOOK_SECRET is not set"]);
        world.set("DELIVER_TO", " , ");
        assert_problems(
            &problems(&world).await,
            &["DELIVER_TO is an empty list", "WEBHOOK_SECRET is not set"],
        );
    })
    .await;
}

#[tokio::test]
async fn a_destination_without_a_route_gets_a_warning() {
    run_on_sqlite(|mut world| async move {
        let (_webhook, _flow) = (world.with_webhook().await, world.with_flow().await);
        let warnings_of = |warnings: Vec<String>| {
            let about = |name: &str| {
                warnings.iter().any(|text| text.starts_with(&format!("{name} is configured, but")))
            };
            ["zendesk", "webhook", "flow"].map(about)
        };
        assert_eq!(warnings_of(warnings(&world).await), [false, true, true]);
        world.set("DELIVER_THEN", "flow");
        assert_eq!(warnings_of(warnings(&world).await), [false, true, false]);
        world.set("DELIVER_TO", "webhook");
        assert_eq!(warnings_of(warnings(&world).await), [true, false, false]);
    })
    .await;
}

#[tokio::test]
async fn a_check_has_rows_for_webhook_and_flow_and_calls_neither() {
    run_on_sqlite(|mut world| async move {
        let (webhook, flow) = (world.with_webhook().await, world.with_flow().await);
        world.set("DELIVER_THEN", "webhook,flow");
        let bridge = world.start_subscribed().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=flow").await;
        bridge.wait_for("delivery_done destination=webhook").await;
        let (code, rows) = check(&world).await;
        assert_eq!((code, &row(&rows, "webhook")["mark"]), (Some(0), &json!("ok")), "{rows:?}");
        assert!(row(&rows, "webhook")["text"].as_str().unwrap().contains("127.0.0.1"), "{rows:?}");
        // Nobody can try Flow without a broadcast.
        let of_flow = row(&rows, "flow");
        assert_eq!(of_flow["mark"], "warning");
        assert!(
            !of_flow.to_string().contains(PHONE) && of_flow["remedy"].as_str().unwrap().contains("replay")
        );
        let screen = world.command_with_settings(&["check"]).await;
        let screen = String::from_utf8(screen.stdout).unwrap();
        assert!(screen.contains("✓ webhook  ") && screen.contains("! flow  "), "{screen}");
        assert_eq!((webhook.model().sends(), flow.model().requests.len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_check_says_what_is_wrong_with_a_destination() {
    run_on_sqlite(|mut world| async move {
        let _webhook = world.with_webhook().await;
        world.without_zendesk();
        world.set("DELIVER_TO", "webhook");
        let (_, rows) = check(&world).await;
        let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert!(
            names.contains(&"webhook") && !names.iter().any(|name| name.starts_with("zendesk")),
            "{names:?}"
        );
        world.set("WEBHOOK_URL", "https://no-such-host.invalid/hook");
        let (code, rows) = check(&world).await;
        let failed = row(&rows, "webhook");
        assert_eq!((code, &failed["mark"]), (Some(1), &json!("failed")), "{failed}");
        assert!(failed["remedy"].as_str().unwrap().contains("WEBHOOK_URL"), "{failed}");
        world.set("WEBHOOK_SECRET", WRONG_SECRET);
        let (code, rows) = check(&world).await;
        assert_eq!((code, &row(&rows, "configuration")["mark"]), (Some(1), &json!("failed")), "{rows:?}");
        assert!(row(&rows, "configuration")["text"].as_str().unwrap().contains("WEBHOOK_SECRET"), "{rows:?}");
        assert_eq!(row(&rows, "webhook")["mark"], "warning", "{rows:?}");
    })
    .await;
}

#[tokio::test]
async fn every_problem_of_twilio_is_reported_at_once() {
    let sid = |kind: &str| format!("{kind}{}", "0".repeat(32));
    run_on_sqlite(|mut world| async move {
        world.without_zendesk();
        for (name, value) in [
            ("DELIVER_TO", "twilio".to_owned()),
            ("TWILIO_ACCOUNT_SID", "AC12".to_owned()),
            ("TWILIO_API_KEY_SID", sid("SK")),
            ("TWILIO_TO", "555-0147".to_owned()),
            ("TWILIO_FROM", "+15550000002".to_owned()),
            ("TWILIO_MESSAGING_SERVICE_SID", sid("MG")),
            ("TWILIO_STATUS_CALLBACK", "1".to_owned()),
            ("TEXT_QUIET_HOURS", "at night".to_owned()),
            ("TEXT_MAX_PER_HOUR", "-1".to_owned()),
            ("ROUTE_A_LABEL", "A".to_owned()),
            ("ROUTE_A_TWILIO_TO", PHONE.to_owned()),
            ("ROUTE_A_TWILIO_FROM", "whatsapp:+15550000003".to_owned()),
            ("ROUTE_A_TWILIO_TEXT", "{{ ticket.nummer }}".to_owned()),
            ("ROUTE_B_LABEL", "B".to_owned()),
            ("ROUTE_B_TWILIO_MODE", "flex".to_owned()),
            ("ROUTE_B_TWILIO_MESSAGING_SERVICE_SID", sid("MG")),
            ("ROUTE_C_LABEL", "C".to_owned()),
            ("ROUTE_C_TWILIO_MODE", "flex-legacy".to_owned()),
            ("ROUTE_C_TWILIO_FLEX_STRATEGY", "3".to_owned()),
            ("ROUTE_D_LABEL", "D".to_owned()),
            ("ROUTE_D_TWILIO_MODE", "fax".to_owned()),
            ("ROUTE_D_TWILIO_CONTENT_SID", "HX1".to_owned()),
        ] {
            world.set(name, value);
        }
        let problems = problems(&world).await;
        assert_problems(
            &problems,
            &[
                "TWILIO_ACCOUNT_SID is not a SID of this kind: AC",
                "TWILIO_API_KEY_SECRET is not set, but TWILIO_API_KEY_SID is",
                "TWILIO_STATUS_CALLBACK needs TWILIO_AUTH_TOKEN",
                "TWILIO_TO is not a list of phone numbers: …0147 is not one, as in +15551234567",
                "TWILIO_FROM and TWILIO_MESSAGING_SERVICE_SID are both set",
                "TEXT_QUIET_HOURS is not a span of a day",
                "TEXT_MAX_PER_HOUR is not a number",
                "ROUTE_A_TWILIO_TEXT: unknown names",
                "ROUTE_A_TWILIO_FROM and ROUTE_A_TWILIO_TO do not match: begin both with",
                "TWILIO_FLEX_WORKSPACE_SID is not set, and flex needs it",
                "TWILIO_FLEX_WORKFLOW_SID is not set, and flex needs it",
                "ROUTE_B_TWILIO_MESSAGING_SERVICE_SID is set, but a conversation needs a number (TWILIO_FROM)",
                "TWILIO_FLEX_WORKSPACE_SID is not set, and flex-legacy without TWILIO_FLEX_FLOW_SID needs it",
                "TWILIO_FLEX_WORKFLOW_SID is not set, and flex-legacy without TWILIO_FLEX_FLOW_SID needs it",
                "TWILIO_PROXY_SERVICE_SID is not set",
                "TWILIO_CHAT_SERVICE_SID is not set",
                "ROUTE_C_TWILIO_FLEX_STRATEGY is not a number from 1 to 2",
                "ROUTE_D_TWILIO_MODE is not one of sms, flex and flex-legacy",
                "ROUTE_D_TWILIO_CONTENT_SID is not a SID of this kind: HX",
            ],
        );
        let text = problems.join("\n");
        assert!(!["555-0147", "at night"].iter().any(|value| text.contains(value)), "{text}");
    })
    .await;
}

#[tokio::test]
async fn the_settings_of_routes_are_checked_without_a_route() {
    run_on_sqlite(|mut world| async move {
        world.with_twilio().await;
        let (_flow, _slack) = (world.with_flow().await, world.with_slack().await);
        world.set("DELIVER_THEN", "flow,slack,twilio");
        world.unset("FLOW_TO");
        world.unset("SLACK_CHANNEL_ID");
        world.set("TWILIO_TO", format!("{PHONE}, 1 555 123 0148"));
        world.unset("TWILIO_FROM");
        world.unset("SPREDFAST_LABEL_NAME");
        assert_problems(
            &problems(&world).await,
            &[
                "SPREDFAST_LABEL_NAME is not set",
                "FLOW_TO is not set",
                "SLACK_CHANNEL_ID is not set",
                "TWILIO_TO is not a list of phone numbers: …0148 is not one",
                "TWILIO_FROM is not set (or TWILIO_MESSAGING_SERVICE_SID)",
            ],
        );
    })
    .await;
}
