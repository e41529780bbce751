//! `casebridge reconcile` finds what is missing in Zendesk, in the database and in the feeds. `casebridge status` and
//! `casebridge health` ask the running service.

use std::process::Output;

use casebridge_sandbox::zendesk::{self, Fault};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::{Kind, World, event, leak, on_both, run, run_on_sqlite};
use crate::metrics::wait_for;
use crate::pull::with_feeds;

/// Before the dates of the fixtures, and of the stand-in for Zendesk.
const BEGINNING: &str = "2016-01-01";

/// As in docs/monitoring.md.
const RECOUNT: &str = "
    delete from delivery_count;
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    select route, destination, case when state = 'done' then coalesce(settled_at, 0) / 3600000 else 0 end, count(*),
           sum(case when state = 'waiting' then 1 else 0 end),
           sum(case when state = 'waiting' and in_doubt then 1 else 0 end),
           sum(case when state = 'done' then 1 else 0 end), sum(case when state = 'dead' then 1 else 0 end),
           max(received_at)
      from delivery group by 1, 2, 3;";

/// Runs `casebridge reconcile --json`, and returns its exit code and its document.
async fn reconcile(world: &World) -> (Option<i32>, Value) {
    let output = world.command_with_settings(&["reconcile", "--since", BEGINNING, "--json"]).await;
    let text = text(&output);
    assert_eq!(leak(&text), None, "{text}");
    (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}")))
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The kinds of the differences.
fn kinds(document: &Value) -> Vec<&str> {
    let differences = document["differences"].as_array().unwrap();
    differences.iter().map(|difference| difference["kind"].as_str().unwrap()).collect()
}

/// Three posts with a ticket each, and nobody runs any longer.
async fn delivered(world: &mut World) {
    with_feeds(world);
    let bridge = world.start_subscribed().await;
    for post in 1..=3 {
        world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
    }
    for post in 1..=3 {
        bridge.wait_for(&format!("delivery_done case=*:twitter:{post}")).await;
    }
    bridge.stop().await;
}

on_both! {
    async fn what_cannot_be_compared_is_named(world: World) {
        let mut world = world;
        world.set("DELIVER_TO", "zendesk,webhook");
        let _receiver = world.with_webhook().await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=zendesk").await;
        bridge.wait_for("delivery_done destination=webhook").await;
        bridge.stop().await;
        let (code, document) = reconcile(&world).await;
        let left_out = document["left_out"].as_array().unwrap();
        assert_eq!((code, left_out.len()), (Some(0), 2), "{document}");
        assert_eq!(left_out[1], "what webhook has");
    }

    async fn nothing_is_reported_if_everything_agrees(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, &document["agrees"]), (Some(0), &json!(true)), "{document}");
        let account = json!({
            "route": "label", "destination": "zendesk", "received": 3, "waiting": 0, "done": 3, "dead": 0,
        });
        assert_eq!(document["deliveries"], json!([account]));
        let output = world.command_with_settings(&["reconcile", "--since", "12h"]).await;
        let text = text(&output);
        assert!(text.starts_with("everything agrees: 3 deliveries") && text.lines().count() == 1, "{text}");
        // The search index lacks tickets that are not new, so it proves nothing.
        world.zendesk.model().outdated_index = Some(Vec::new());
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec![]), "{document}");
        assert_eq!(document["unchecked"][0]["part"], "zendesk search", "{document}");
        // It lags behind.
        for ticket in &mut world.zendesk.model().tickets {
            ticket["created_at"] = json!(Timestamp::now().to_string());
        }
        assert_eq!(reconcile(&world).await.0, Some(0));
    }

    async fn a_ticket_with_our_tag_made_by_hand_is_found(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        {
            let mut model = world.zendesk.model();
            for (id, external_id) in [(987_655, Value::Null), (987_656, json!("khoros:4321:twitter:1"))] {
                let mut other = model.tickets[0].clone();
                (other["id"], other["external_id"]) = (json!(id), external_id);
                model.tickets.push(other);
            }
        }
        // The second one belongs to another company.
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec!["ticket_unknown"]), "{document}");
        assert!(document["differences"][0]["text"].as_str().unwrap().contains("987655"), "{document}");
    }

    async fn a_ticket_that_was_deleted_in_zendesk_is_found(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        let deleted = {
            let mut model = world.zendesk.model();
            let ticket = model.tickets.remove(1);
            model.deleted.push(ticket.clone());
            ticket
        };
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec!["ticket_missing"]), "{document}");
        let text = document["differences"][0]["text"].as_str().unwrap();
        assert!(text.contains(&deleted["id"].to_string()) && text.contains("was deleted"), "{text}");
        // It may also be out of sight.
        world.zendesk.model().deleted.clear();
        let (_, document) = reconcile(&world).await;
        assert!(document["differences"][0]["text"].as_str().unwrap().contains("is not found"), "{document}");
    }

    async fn a_second_ticket_made_by_hand_is_found(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        {
            let mut model = world.zendesk.model();
            let mut second = model.tickets[0].clone();
            second["id"] = json!(987_654);
            model.tickets.push(second);
        }
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec!["ticket_duplicate"]), "{document}");
        assert!(document["differences"][0]["text"].as_str().unwrap().contains("987654"), "{document}");
        // Even if the search index has none of them.
        world.zendesk.model().outdated_index = Some(Vec::new());
        assert_eq!(kinds(&reconcile(&world).await.1), ["ticket_duplicate"]);
    }

    async fn a_delivery_that_was_deleted_from_the_database_is_found(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        world.khoros.model().subscriptions[0].feed.clear();
        world.database.execute("delete from delivery where event_id = 'event-2'").await;
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec!["books", "ticket_unknown"]), "{document}");
        assert!(document["differences"][1]["text"].as_str().unwrap().contains(":twitter:2"), "{document}");
    }

    async fn rows_that_are_gone_without_a_trace_are_found(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        world.khoros.model().subscriptions[0].feed.clear();
        // No trigger runs.
        let delete = "delete from delivery where event_id = 'event-2'";
        let without_trigger = match world.database.kind {
            Kind::Postgres => "set session_replication_role = replica",
            Kind::Sqlite => "drop trigger delivery_deleted",
        };
        world.database.execute(&format!("{without_trigger}; {delete}")).await;
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec!["books", "ticket_unknown"]), "{document}");
        assert!(document["differences"][0]["text"].as_str().unwrap().contains("1 received"), "{document}");
    }

    async fn a_row_in_another_state_than_was_counted_is_found(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        let count = "update delivery_count set done = done - 1, dead = dead + 1 where hour > 0 and done > 0";
        world.database.execute(count).await;
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec!["books"]), "{document}");
        world.database.execute(RECOUNT).await;
        assert_eq!(reconcile(&world).await.0, Some(0));
    }

    async fn a_deliberate_deletion_can_be_acknowledged(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        world.database.execute("delete from delivery where event_id = 'event-2'").await;
        world.zendesk.model().tickets.retain(|ticket| ticket["external_id"] != "khoros:1234:twitter:2");
        world.khoros.model().subscriptions[0].feed.clear();
        let (_, document) = reconcile(&world).await;
        assert_eq!(kinds(&document), ["books"], "{document}");
        world.database.execute("update delivery_count set received = waiting + done + dead").await;
        assert_eq!(reconcile(&world).await.0, Some(0));
    }

    async fn rows_that_move_to_another_route_or_destination_are_no_loss(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        world.database.execute("update delivery set route = 'other' where event_id = 'event-2'").await;
        world.database.execute("update delivery set destination = 'webhook' where event_id = 'event-3'").await;
        let (_, document) = reconcile(&world).await;
        assert!(!kinds(&document).contains(&"books"), "{document}");
    }

    async fn an_event_that_is_only_in_the_feed_is_found(world: World) {
        let mut world = world;
        delivered(&mut world).await;
        let missed: Value = serde_json::from_str(&event("event-4", "4")).unwrap();
        world.khoros.model().subscriptions[0].feed.push(missed);
        let (code, document) = reconcile(&world).await;
        assert_eq!((code, kinds(&document)), (Some(1), vec!["event_missing"]), "{document}");
        let difference = &document["differences"][0];
        assert!(difference["text"].as_str().unwrap().contains("event-4"), "{difference}");
        assert!(difference["remedy"].as_str().unwrap().starts_with("casebridge backfill --since "));
    }
}

#[tokio::test]
async fn rows_that_were_truncated_are_found() {
    run(Kind::Postgres, |mut world| async move {
        delivered(&mut world).await;
        world.zendesk.model().tickets.clear();
        world.khoros.model().subscriptions[0].feed.clear();
        world.database.execute("truncate delivery").await;
        let (_, document) = reconcile(&world).await;
        assert_eq!(kinds(&document), ["books"], "{document}");
        let bridge = world.start().await;
        let samples = wait_for(&world, "casebridge_unaccounted", 3.0).await;
        assert_eq!(samples["casebridge_deliveries{destination=\"zendesk\",state=\"done\"}"], 0.0);
        bridge.stop().await;
        let inbox = crate::inbox::open(&world).await;
        assert!(inbox.attempts("khoros:1234:event-1:twitter:1", "zendesk").await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_zendesk_does_not_answer_is_said_and_not_guessed() {
    run_on_sqlite(|mut world| async move {
        delivered(&mut world).await;
        // Nothing of this may be taken for the answer that no ticket exists.
        for fault in [Fault::TooMany(60), Fault::Status(500), Fault::Status(403), Fault::Html] {
            world.zendesk.model().outage = Some(fault.clone());
            let (code, document) = reconcile(&world).await;
            assert_eq!((code, &document["agrees"]), (Some(1), &json!(false)), "{fault:?}");
            assert_eq!(kinds(&document), [] as [&str; 0], "{fault:?}");
            assert_eq!(document["unchecked"][0]["part"], "zendesk", "{fault:?}");
        }
        world.zendesk.model().outage = None;
        world.zendesk.stop();
        let output = world.command_with_settings(&["reconcile"]).await;
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains("! zendesk: could not be checked:") && !text.contains('✗'), "{text}");
        assert!(!text.contains(zendesk::CLIENT_SECRET));
    })
    .await;
}

on_both! {
    async fn the_status_is_one_screen(world: World) {
        let bridge = world.start_subscribed().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        let output = world.command_with_settings(&["status"]).await;
        let text = text(&output);
        assert!(output.status.success(), "{output:?}");
        assert!(text.starts_with("casebridge ") && text.contains("no alert is firing"), "{text}");
        assert!(text.contains("zendesk      ok") && text.contains("subscribed"), "{text}");
        assert!(text.contains("1 deliveries done in 24 h") && text.lines().count() < 24, "{text}");
        assert_eq!(leak(&text), None);

        // The database answers for a service that does not.
        world.zendesk.stop();
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("destination_paused").await;
        bridge.kill().await;
        let output = world.command_with_settings(&["status"]).await;
        let text = self::text(&output);
        assert!(output.status.success(), "{output:?}");
        assert!(text.starts_with("no status from the service (refused"), "{text}");
        assert!(text.contains("1 waiting") && text.contains("last event"), "{text}");
    }
}

#[tokio::test]
async fn health_is_an_exit_code() {
    run_on_sqlite(|mut world| async move {
        let bridge = world.start().await;
        let output = world.command_with_settings(&["health"]).await;
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "ok\n"));
        bridge.kill().await;
        let output = world.command_with_settings(&["health"]).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        assert!(String::from_utf8(output.stderr).unwrap().contains("refused"));
        // Neither answers.
        world.set("DATABASE_URL", "sqlite:///nowhere/casebridge.db");
        let output = world.command_with_settings(&["status"]).await;
        assert_eq!(output.status.code(), Some(1));
    })
    .await;
}
