//! Failures of Zendesk: nothing is lost and nothing is duplicated.

use std::time::Duration;

use casebridge_sandbox::zendesk::Fault;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Kind, World, event, event_with, on_both, run, run_on_sqlite};

async fn check_no_try_was_used_up(world: &World) {
    for delivery in world.list().await {
        assert_eq!(delivery["tries"], 0, "{delivery}");
    }
}

on_both! {
    async fn zendesk_is_down_and_comes_back(world: World) {
        world.zendesk.stop();
        let bridge = world.start().await;
        for post in 0..20 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("destination_paused", 3).await;
        world.zendesk.restart().await.unwrap();
        bridge.wait_for("destination_resumed").await;
        bridge.wait_for_nth("delivery_done", 20).await;
        check_no_try_was_used_up(&world).await;
        world.check_one_ticket_per_case().await;
    }

    async fn a_refused_credential_uses_up_no_try(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "0");
        let bridge = world.start().await;
        bridge.wait_for("destination_ready").await;
        world.zendesk.model().outage = Some(Fault::Unauthorized);
        for post in 0..5 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for("destination_paused alert=zendesk_credential").await;
        bridge.wait_for_nth("destination_paused", 2).await;
        world.zendesk.model().outage = None;
        bridge.wait_for_nth("delivery_done", 5).await;
        check_no_try_was_used_up(&world).await;
        world.check_one_ticket_per_case().await;
    }

    async fn zendesk_answers_503_for_a_while(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "0");
        world.zendesk.model().outage = Some(Fault::Status(503));
        let bridge = world.start().await;
        for post in 0..5 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("destination_paused", 2).await;
        world.zendesk.model().outage = None;
        bridge.wait_for_nth("delivery_done", 5).await;
        check_no_try_was_used_up(&world).await;
        world.check_one_ticket_per_case().await;
    }

    async fn refused_deliveries_are_dead_and_can_be_replayed(world: World) {
        world.zendesk.queue([Fault::Invalid]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        let line = bridge.wait_for("delivery_dead").await;
        assert!(line.contains("RecordInvalid") && line.contains("subject InvalidValue"), "{line}");
        bridge.wait_for("deliveries_dead alert=delivery_dead").await;
        let dead = world.list().await.remove(0);
        assert_eq!(dead["state"], "dead");
        assert!(dead["reason"].as_str().unwrap().contains("Jane Doe is no subject"), "{dead}");
        // The same post again, while its first delivery is dead: looked up, and then created.
        world.notify(&event("event-2", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;

        let replayed = world.command(&["replay", "--all-dead"]).await;
        assert!(replayed.status.success(), "{replayed:?}");
        bridge.wait_for_nth("delivery_done ticket=1000", 2).await;
        world.check_one_ticket_per_case().await;
    }

    async fn an_unanswered_last_try_is_waited_for(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "3");
        world.zendesk.queue([Fault::Status(500)]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_retry case=*:twitter:1").await;
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_done case=*:twitter:2 ticket=1000").await;
        // The answer is lost, and Zendesk creates seconds later, when the delivery is dead.
        world.zendesk.queue([Fault::Late(Duration::from_secs(4))]);
        bridge.wait_for("delivery_dead case=*:twitter:1").await;
        world.notify(&event("event-3", "1")).await;
        assert!(world.command(&["replay", "--all-dead"]).await.status.success());
        bridge.wait_for_nth("delivery_done case=*:twitter:1 ticket=1001", 2).await;
        world.check_one_ticket_per_case().await;
    }

    async fn a_delivery_dies_after_its_schedule_and_a_replay_looks_it_up_first(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "3");
        world.zendesk.queue([Fault::Status(500)]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_retry case=*:twitter:1").await;
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_done case=*:twitter:2 ticket=1000").await;
        world.zendesk.queue([Fault::StatusAfterCreate(500)]);
        bridge.wait_for("delivery_dead case=*:twitter:1").await;
        let dead = world.list().await.remove(0);
        assert!(dead["reason"].as_str().unwrap().starts_with("given up after 2 tries"), "{dead}");
        let id = dead["id"].as_str().unwrap();
        assert!(world.command(&["replay", id]).await.status.success());
        bridge.wait_for("delivery_done ticket=1001").await;
        assert_eq!(world.zendesk.model().creates, 3, "the replay found what was there");
        world.check_one_ticket_per_case().await;
    }
}

#[tokio::test]
async fn every_doubtful_answer_ends_in_one_ticket_on_sqlite() {
    every_doubtful_answer(Kind::Sqlite).await;
}

#[tokio::test]
async fn every_doubtful_answer_ends_in_one_ticket_on_postgres() {
    every_doubtful_answer(Kind::Postgres).await;
}

/// Runs a world for each fault, all at once.
async fn every_doubtful_answer(kind: Kind) {
    let faults = [
        Fault::StatusAfterCreate(500),
        Fault::Status(500),
        Fault::ResetAfter,
        Fault::ResetBefore,
        Fault::HangAfterCreate,
        Fault::Hang,
        Fault::StatusAfterCreate(409),
        Fault::Status(409),
        Fault::StatusAfterCreate(502),
        Fault::Status(502),
        Fault::StatusAfterCreate(503),
        Fault::StatusAfterCreate(504),
        Fault::Html,
        Fault::TooMany(1),
        Fault::Unauthorized,
    ];
    let stories = faults.map(|fault| {
        run(kind, async move |mut world: World| {
            world.set("RETRY_SCHEDULE", "1,1");
            let bridge = world.start().await;
            bridge.wait_for("destination_ready").await;
            world.zendesk.queue([fault]);
            world.notify(&event("event-1", "1")).await;
            bridge.wait_for("delivery_done ticket=1000").await;
            assert_eq!(world.zendesk.model().tickets.len(), 1);
            assert!(world.zendesk.model().faults.is_empty());
            world.check_one_ticket_per_case().await;
        })
    });
    join_all(stories).await;
}

#[tokio::test]
async fn a_delivery_that_fails_while_nothing_passes_does_not_die() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0");
        world.zendesk.queue([Fault::Status(500), Fault::Status(500)]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_refusal_of_all_tickets_pauses_and_loses_two_at_most() {
    run_on_sqlite(|world| async move {
        world.zendesk.model().outage = Some(Fault::Invalid);
        let bridge = world.start().await;
        for post in 0..10 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
            bridge
                .wait_for(if post < 2 { "delivery_dead" } else { "destination_paused alert=zendesk_refuses" })
                .await;
        }
        world.zendesk.model().outage = None;
        bridge.wait_for_nth("delivery_done", 8).await;
        assert!(world.command(&["replay", "--all-dead"]).await.status.success());
        bridge.wait_for_nth("delivery_done", 10).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn one_item_that_fails_does_not_stop_the_others() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "3600");
        world.zendesk.queue([Fault::Status(500)]);
        let bridge = world.start().await;
        world.notify(&event("event-0", "0")).await;
        bridge.wait_for("delivery_retry").await;
        for post in 1..6 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done", 5).await;
        assert_eq!(bridge.count("destination_paused"), 0);
        let list = world.list().await;
        let waiting: Vec<&Value> = list.iter().filter(|delivery| delivery["state"] == "waiting").collect();
        assert_eq!(waiting.len(), 1);
    })
    .await;
}

/// A firewall in front of Zendesk blocks one post for its text.
#[tokio::test]
async fn a_post_that_a_firewall_refuses_dies_and_holds_up_no_other() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0,0");
        world.zendesk.model().firewall = Some("union select".to_owned());
        let bridge = world.start().await;
        let bad = event_with("bad", "bad", |item| item["text"] = json!("' union select password --"));
        world.notify(&bad).await;
        bridge.wait_for("destination_paused alert=zendesk_forbidden").await;
        // Its own failures count only while others pass.
        let mut line = String::new();
        for post in 0..20 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
            bridge.wait_for_nth("delivery_done", post + 1).await;
            line = bridge.wait_for_nth("* level=WARN case=khoros:1234:twitter:bad", post + 1).await;
            if line.contains("\"delivery_dead\"") {
                break;
            }
        }
        assert!(
            line.contains("\"delivery_dead\"") && line.contains("403") && line.contains("HTML page"),
            "{line}"
        );
        // It paused the others once, before they had shown that the destination works.
        assert_eq!(bridge.count("destination_paused"), 1, "{}", bridge.log());
    })
    .await;
}

#[tokio::test]
async fn a_wrong_address_says_so_and_loses_nothing() {
    run_on_sqlite(|mut world| async move {
        let right = world.vars["ZENDESK_API_URL"].clone();
        // casebridge itself is not a Zendesk.
        let wrong = world.url("");
        world.set("ZENDESK_API_URL", wrong);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("destination_paused alert=zendesk_address").await;
        assert!(bridge.stop().await.success());

        world.set("ZENDESK_API_URL", right);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}
