//! The operator's subcommands: their output and exit codes.

use std::process::Output;

use casebridge_sandbox::zendesk::Fault;
use serde_json::{Value, json};

use crate::harness::{World, event, event_with, on_both, run_on_sqlite};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

on_both! {
    async fn the_list_shows_the_result_of_every_delivery(world: World) {
        world.zendesk.queue([Fault::Invalid]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_dead").await;
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_done").await;

        let list = world.list().await;
        let fields: Vec<&str> = list[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            ["attempts", "case", "destination", "due_at", "event_id", "event_name", "id", "note",
                "reason", "received_at", "reference", "route", "settled_at", "state", "target", "ticket", "tries"]
        );
        assert_eq!(list[0]["state"], "dead");
        assert_eq!(list[1]["id"], "khoros:1234:event-2:twitter:2");
        assert_eq!(list[1]["ticket"], "1000");
        assert_eq!(list[1]["route"], "label");

        let dead = world.command(&["list", "--state", "dead"]).await;
        assert!(text(&dead).contains("khoros:1234:event-1:twitter:1"), "{}", text(&dead));
        assert!(!text(&dead).contains("event-2"));

        let dry = world.command(&["replay", "--all-dead", "--dry-run"]).await;
        assert!(text(&dry).contains("would replay khoros:1234:event-1:twitter:1"), "{}", text(&dry));
        assert_eq!(world.list().await[0]["state"], "dead");

        let real = world.command(&["replay", "khoros:1234:event-1:twitter:1"]).await;
        assert!(text(&real).contains("1 replayed"), "{}", text(&real));
        bridge.wait_for_nth("delivery_done", 2).await;
        world.check_one_ticket_per_case().await;
    }

    async fn waiting_deliveries_are_delivered_now_and_erased_ones_are_not(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "86400");
        let bridge = world.start().await;
        world.notify(&event("event-0", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        world.zendesk.queue_updates([Fault::Status(403)]);
        world.notify(&event_with("event-1", "1", |item| item["notes"] = json!([{"text": "a note"}]))).await;
        bridge.wait_for("delivery_retry").await;
        let id = "khoros:1234:event-1:twitter:1";
        let refused = world.command(&["replay", id]).await;
        assert!(!refused.status.success() && text(&refused).contains("--now"), "{}", text(&refused));
        assert!(world.command(&["replay", "--now", id]).await.status.success());
        bridge.wait_for("delivery_done ticket=1000 action=commented").await;

        world.database.execute("update delivery set state = 'dead', payload = ''").await;
        for arguments in [&["replay", id][..], &["replay", "--now", id]] {
            let refused = world.command(arguments).await;
            assert!(!refused.status.success() && text(&refused).contains("texts were erased"), "{}", text(&refused));
        }
        let all = world.command(&["replay", "--all-dead"]).await;
        assert!(text(&all).contains("not replayed") && text(&all).contains("0 replayed"), "{}", text(&all));
        assert_eq!(world.list().await[0]["state"], "dead");
    }

    async fn a_replay_without_effect_is_refused(world: World) {
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        for (arguments, expected) in [
            (&["replay", "khoros:1234:event-1:twitter:1"][..], "only dead deliveries"),
            (&["replay", "no-such-id"], "there is no delivery `no-such-id`"),
            (&["replay"], "casebridge list --state dead"),
        ] {
            let output = world.command(arguments).await;
            assert!(!output.status.success() && text(&output).contains(expected), "{}", text(&output));
        }
        world.check_one_ticket_per_case().await;
    }
}

#[tokio::test]
async fn a_list_without_a_database_fails_with_the_reason() {
    run_on_sqlite(|world| async move {
        let output = world.command(&["list"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("cannot be opened"), "{}", text(&output));
    })
    .await;
}

#[tokio::test]
async fn all_problems_of_a_configuration_are_reported() {
    run_on_sqlite(|mut world| async move {
        world.unset("SPREDFAST_LABEL_NAME");
        world.unset("ZENDESK_OAUTH_CLIENT_SECRET");
        world.set("ZENDESK_API_URL", "http://acme.zendesk.com");
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2));
        for name in ["SPREDFAST_LABEL_NAME", "ZENDESK_OAUTH_CLIENT_SECRET", "ZENDESK_API_URL"] {
            assert!(log.contains(name), "{log}");
        }
        assert!(!log.contains("acme"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn a_dyno_without_a_database_does_not_start() {
    run_on_sqlite(|mut world| async move {
        world.set("DYNO", "web.1");
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2));
        assert!(log.contains("erases a dyno's disk"), "{log}");

        world.set("ALLOW_EPHEMERAL_STORE", "1");
        world.unset("LOG_FORMAT");
        let bridge = world.spawn();
        // As Heroku's own lines: logfmt, and its time is enough.
        bridge.wait_for_lines(1).await;
        assert!(bridge.log().starts_with("level="), "{}", bridge.log());
    })
    .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_named_with_the_user() {
    run_on_sqlite(|mut world| async move {
        world.set("DATABASE_URL", "sqlite:///no/such/folder/casebridge.db");
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2));
        assert!(log.contains("/no/such/folder/casebridge.db cannot be used by user id "), "{log}");
    })
    .await;
}

#[tokio::test]
async fn an_sqlite_file_is_served_once() {
    run_on_sqlite(|mut world| async move {
        let _first = world.start().await;
        world.set("PORT", "0");
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2));
        assert!(log.contains("another casebridge serves"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn the_json_log_is_json() {
    run_on_sqlite(|mut world| async move {
        world.set("LOG_FORMAT", "json");
        let bridge = world.start().await;
        let line: Value = serde_json::from_str(&bridge.wait_for("listening").await).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["storage"], "sqlite");
    })
    .await;
}
