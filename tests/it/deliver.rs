//! A label becomes a ticket, and only one.

use casebridge_sandbox::zendesk;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::harness::{BEARER, FACEBOOK, LABEL, TWITTER, World, event, on_both, run_on_sqlite};

on_both! {
    async fn the_published_examples_become_tickets(world: World) {
        let bridge = world.start_subscribed().await;
        for notification in [TWITTER, FACEBOOK] {
            let answers = world.khoros.apply_label(LABEL, notification).await;
            assert!(matches!(answers[..], [Ok(200)]), "{answers:?}");
        }
        let tickets = world.tickets(2).await;
        for (network, name) in [("twitter", "Twitter"), ("facebook", "Facebook")] {
            let case = format!("khoros:1234:{network}:<{network}Id>");
            let ticket = tickets.iter().find(|ticket| ticket["external_id"] == *case).unwrap();
            assert_eq!(ticket["subject"], format!("[{name}] @author: Post Text"));
            let body = ticket["comment"]["body"].as_str().unwrap();
            assert!(body.starts_with(&format!("Open on {network}.com ↗ · ")), "{body}");
            assert!(body.contains("\n\nPost Text\n\n"), "{body}");
            assert!(body.contains("\nauthor (@author · "), "{body}");
            assert_eq!(ticket["comment"]["public"], false);
            assert_eq!(ticket["tags"][1], format!("khoros_{network}"));
        }
        bridge.wait_for_nth("delivery_done", 2).await;
        world.check_one_ticket_per_case().await;
        // Nothing was in doubt, so there was no look-up.
        let model = world.zendesk.model();
        assert_eq!((model.creates, model.look_ups), (2, 0));
    }

    async fn the_same_notification_ten_times_is_one_ticket(world: World) {
        let bridge = world.start().await;
        let notification = event("event-1", "1");
        let first: Vec<Value> = join_all((0..5).map(|_| world.notify(&notification))).await;
        world.tickets(1).await;
        bridge.wait_for("delivery_done").await;
        let second: Vec<Value> = join_all((0..5).map(|_| world.notify(&notification))).await;
        let answers = first.iter().chain(&second);
        assert!(answers.clone().all(|answer| answer["received"] == 1));
        let new: u64 = answers.map(|answer| answer["new"].as_u64().unwrap()).sum();
        assert_eq!(new, 1);
        assert_eq!(world.zendesk.model().creates, 1);
        world.check_one_ticket_per_case().await;
    }

    async fn a_label_applied_again_makes_no_second_ticket(world: World) {
        let bridge = world.start().await;
        // All at once: the later ones wait for the first and then find its ticket.
        let events: Vec<String> = (0..5).map(|n| event(&format!("event-{n}"), "1")).collect();
        join_all(events.iter().map(|notification| world.notify(notification))).await;
        bridge.wait_for_nth("delivery_done ticket=1000", 5).await;
        assert_eq!(world.list().await.len(), 5);
        world.check_one_ticket_per_case().await;
    }

    async fn a_notification_of_many_items_is_as_many_tickets(world: World) {
        let bridge = world.start().await;
        let items: Vec<Value> = (0..300).map(|n| json!({"entityId": format!("twitter:{n}"), "text": "t"})).collect();
        let notification = json!({"eventUuid": "many", "data": {"items": items}}).to_string();
        assert_eq!(world.notify(&notification).await, json!({"received": 300, "new": 300}));
        assert_eq!(world.notify(&notification).await, json!({"received": 300, "new": 0}));
        // The rest wait for the budget; ten are enough.
        bridge.wait_for_nth("delivery_done", 10).await;
    }

    async fn unprocessable_items_are_kept_with_their_reason(world: World) {
        let bridge = world.start().await;
        let unknown = json!({"eventUuid": "e1", "eventName": "something-new", "data": {"change": "x"}});
        assert_eq!(world.notify(&unknown.to_string()).await, json!({"received": 1, "new": 1}));
        let mixed = json!({"eventUuid": "e2", "eventName": "stream-item-label-applied",
            "data": {"labels": null, "items": [null, {"entityId": 5, "link": "https://x.com/a"}]}});
        assert_eq!(world.notify(&mixed.to_string()).await, json!({"received": 2, "new": 2}));
        let tickets = world.tickets(1).await;
        assert_eq!(tickets[0]["subject"], "[Social] unknown author: (no text)");
        bridge.wait_for("delivery_done").await;
        let list = world.list().await;
        let states: Vec<&str> = list.iter().map(|delivery| delivery["state"].as_str().unwrap()).collect();
        assert_eq!(states.iter().filter(|state| **state == "dead").count(), 2, "{list:?}");
        for dead in list.iter().filter(|delivery| delivery["state"] == "dead") {
            assert!(dead["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{dead}");
        }
    }
}

#[tokio::test]
async fn the_api_token_of_the_tutorial_still_works() {
    run_on_sqlite(|mut world| async move {
        world.unset("ZENDESK_OAUTH_CLIENT_ID");
        world.unset("ZENDESK_OAUTH_CLIENT_SECRET");
        world.set("ZENDESK_USER_EMAIL", zendesk::USER_EMAIL);
        world.set("ZENDESK_API_TOKEN", zendesk::API_TOKEN);
        let bridge = world.start().await;
        bridge.wait_for("setting_warning").await;
        bridge.wait_for("destination_ready").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_of_narrow_scope_works_with_a_warning() {
    run_on_sqlite(|world| async move {
        world.zendesk.model().scopes = ["tickets:write", "tickets:read"].into();
        let bridge = world.start().await;
        bridge.wait_for("token_scope_narrow").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
    })
    .await;
}

#[tokio::test]
async fn a_renewed_token_is_minted_once() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        bridge.wait_for("destination_ready").await;
        world.zendesk.queue([zendesk::Fault::Unauthorized]);
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        assert_eq!(world.zendesk.model().minted, 2);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn every_token_of_a_rotation_is_accepted_and_khoros_gets_the_first() {
    run_on_sqlite(|mut world| async move {
        world.set("NOTIFICATION_BEARER_TOKEN", format!("the-new-token-0123456789, {BEARER}"));
        let bridge = world.start_subscribed().await;
        let given = world.khoros.model().subscriptions[0]["bearerToken"].clone();
        assert_eq!(given, "the-new-token-0123456789");
        world.notify(&event("event-1", "1")).await;
        world.khoros.apply_label(LABEL, &event("event-2", "2")).await;
        bridge.wait_for_nth("delivery_done", 2).await;
    })
    .await;
}

/// Some of the older failed deliveries are always due.
#[tokio::test]
async fn new_work_does_not_wait_for_old_retries() {
    run_on_sqlite(|mut world| async move {
        const OLD: usize = 200;
        world.set("RETRY_SCHEDULE", "0");
        world.zendesk.stop();
        let bridge = world.start().await;
        let old: Vec<String> = (0..OLD).map(|post| format!("old-{post}")).collect();
        let old: Vec<String> = old.iter().map(|id| event(id, id)).collect();
        join_all(old.iter().map(|notification| world.notify(notification))).await;
        bridge.stop().await;
        tried_before(&world).await;

        world.zendesk.restart().await.unwrap();
        // Our share is 6 per second, so the old deliveries take half a minute.
        world.zendesk.model().limit = 600;
        let bridge = world.start().await;
        world.notify(&event("new", "new")).await;
        bridge.wait_for("delivery_done case=*:twitter:new").await;
        let before = world.zendesk.model().tickets.len();
        assert!(before < OLD / 2, "{before} of {OLD} old ones went before the new one");
    })
    .await;
}

async fn tried_before(world: &World) {
    let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
    connection.execute("update delivery set attempts = attempts + 1, tries = 1").await.unwrap();
}
