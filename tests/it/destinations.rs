//! Several destinations: which item goes where, and what follows a ticket.

use casebridge_sandbox::webhook::{self, Webhook};
use casebridge_sandbox::zendesk::Fault;
use serde_json::{Value, json};

use crate::harness::{PRIVATE, World, data, event, event_with, message, on_both, run_on_sqlite};
use crate::pull::{read_twice_more, start_reading, with_feeds};

/// An event about a post with one note.
fn noted(number: &str, post: &str, note: &str) -> String {
    event_with(number, post, |item| item["notes"] = json!([{"text": format!("{PRIVATE} {note}")}]))
}

/// The types of the accepted messages, in the order of their arrival.
fn types(webhook: &Webhook) -> Vec<String> {
    let model = webhook.model();
    let kind = |body: Value| body["type"].as_str().unwrap().to_owned();
    model.events().into_iter().map(|request| kind(message(request))).collect()
}

async fn start_with_follower(world: &mut World) -> Webhook {
    world.set("DELIVER_THEN", "webhook");
    world.set("RETRY_SCHEDULE", ["0"; 8].join(","));
    world.with_webhook().await
}

on_both! {
    async fn an_item_for_two_destinations_is_one_ticket_and_one_message(world: World) {
        let mut world = world;
        let webhook = world.with_webhook().await;
        world.set("DELIVER_TO", "zendesk,webhook");
        let bridge = world.start().await;
        // The answer to Khoros counts items, not rows.
        assert_eq!(world.notify(&event("event-1", "1")).await, json!({"received": 1, "new": 1}));
        bridge.wait_for("delivery_done destination=zendesk").await;
        bridge.wait_for("delivery_done destination=webhook").await;
        assert_eq!(world.notify(&event("event-1", "1")).await, json!({"received": 1, "new": 0}));
        let items = [json!({"entityId": "twitter:2", "text": "a"}), json!({"entityId": "twitter:3", "text": "b"})];
        let two = json!({"eventUuid": "event-2", "data": {"items": items}}).to_string();
        assert_eq!(world.notify(&two).await, json!({"received": 2, "new": 2}));
        assert_eq!(world.notify(&two).await, json!({"received": 2, "new": 0}));
        bridge.wait_for_nth("delivery_done destination=zendesk", 3).await;
        bridge.wait_for_nth("delivery_done destination=webhook", 3).await;
        assert_eq!((world.list().await.len(), webhook.model().sends()), (6, 3));
        assert_eq!(types(&webhook), ["casebridge.item.received"; 3]);
        assert!(data(&webhook).iter().all(|data| data["ticket"].is_null()));
        world.check_one_ticket_per_case().await;
    }

    async fn a_message_follows_each_change_of_a_ticket(world: World) {
        let mut world = world;
        let webhook = start_with_follower(&mut world).await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=webhook delivery=*:event-1:twitter:1").await;
        world.notify(&noted("event-2", "1", "more")).await;
        bridge.wait_for_nth("delivery_done destination=webhook", 2).await;
        // This one changes nothing.
        world.notify(&noted("event-3", "1", "more")).await;
        bridge.wait_for("delivery_done destination=zendesk action=unchanged").await;
        world.notify(&event("event-4", "4")).await;
        bridge.wait_for_nth("delivery_done destination=webhook", 3).await;
        assert_eq!(
            types(&webhook),
            ["casebridge.ticket.created", "casebridge.ticket.commented", "casebridge.ticket.created"]
        );
        let ticket = |number: &str, action: &str| {
            let url = format!("{}/agent/tickets/{number}", world.zendesk.url());
            json!({"number": number, "url": url, "action": action})
        };
        let tickets: Vec<Value> = data(&webhook).iter().map(|data| data["ticket"].clone()).collect();
        assert_eq!(tickets, [ticket("1000", "created"), ticket("1000", "commented"), ticket("1001", "created")]);
        assert_eq!((world.list_of("webhook").await.len(), webhook.model().sends()), (3, 3));
        world.check_one_ticket_per_case().await;
    }

    async fn a_change_that_is_found_later_is_followed_by_what_it_was(world: World) {
        let mut world = world;
        let webhook = start_with_follower(&mut world).await;
        world.zendesk.queue([Fault::ResetAfter]);
        world.zendesk.queue_updates([Fault::StatusAfterCreate(502)]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=zendesk action=found delivery=*:event-1:twitter:1").await;
        bridge.wait_for("delivery_done destination=webhook").await;
        world.notify(&noted("event-2", "1", "more")).await;
        bridge.wait_for("delivery_done destination=zendesk action=found delivery=*:event-2:twitter:1").await;
        bridge.wait_for_nth("delivery_done destination=webhook", 2).await;
        assert_eq!(types(&webhook), ["casebridge.ticket.created", "casebridge.ticket.commented"]);
        let actions: Vec<Value> = data(&webhook).iter().map(|data| data["ticket"]["action"].clone()).collect();
        assert_eq!(actions, ["created", "commented"]);
        world.check_one_ticket_per_case().await;
    }

    async fn a_kill_neither_loses_nor_changes_what_follows(world: World) {
        let mut world = world;
        let webhook = start_with_follower(&mut world).await;
        // Before and after the ticket.
        world.zendesk.queue([Fault::Hang]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        world.zendesk.wait_until(|model| model.creates == 1).await;
        bridge.kill().await;
        world.zendesk.queue([Fault::HangAfterCreate]);
        let bridge = world.start().await;
        world.tickets(1).await;
        bridge.kill().await;
        assert_eq!(world.list_of("webhook").await.len(), 0);
        // Before and after the receiver has processed the message.
        webhook.queue([webhook::Fault::Hang, webhook::Fault::HangAfter]);
        for sends in [1, 2] {
            let bridge = world.start().await;
            webhook.wait_until(|model| model.sends() == sends).await;
            bridge.kill().await;
        }
        // Before and after a comment.
        world.zendesk.queue_updates([Fault::Hang, Fault::HangAfterCreate]);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done destination=webhook").await;
        world.notify(&noted("event-2", "1", "more")).await;
        world.zendesk.wait_until(|model| model.update_faults.len() == 1).await;
        bridge.kill().await;
        let bridge = world.start().await;
        world.zendesk.wait_until(|model| model.update_faults.is_empty()).await;
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for("delivery_done destination=zendesk action=found").await;
        bridge.wait_for("delivery_done destination=webhook").await;
        assert_eq!(types(&webhook), ["casebridge.ticket.created", "casebridge.ticket.commented"]);
        {
            let model = webhook.model();
            assert_eq!((model.sends(), model.distinct_ids(), model.changed_bodies()), (4, 2, 0));
        }
        world.check_one_ticket_per_case().await;
    }

    async fn a_destination_that_is_added_later_gets_no_known_item(world: World) {
        let mut world = world;
        with_feeds(&mut world);
        let bridge = start_reading(&world).await;
        for post in 1..4 {
            let notification = event(&format!("event-{post}"), &post.to_string());
            world.khoros.apply_label("CreateCase", &notification).await;
        }
        bridge.wait_for_nth("delivery_done", 3).await;
        assert!(bridge.stop().await.success());

        let webhook = world.with_webhook().await;
        world.set("DELIVER_TO", "zendesk,webhook");
        let bridge = start_reading(&world).await;
        read_twice_more(&world).await;
        assert_eq!(world.notify(&event("event-1", "1")).await, json!({"received": 1, "new": 0}));
        world.khoros.apply_label("CreateCase", &event("event-4", "4")).await;
        bridge.wait_for("delivery_done destination=webhook delivery=*:event-4:twitter:4").await;
        bridge.wait_for("delivery_done destination=zendesk delivery=*:event-4:twitter:4").await;
        assert_eq!((world.list().await.len(), webhook.model().sends()), (5, 1));
        world.check_one_ticket_per_case().await;
    }
}

#[tokio::test]
async fn each_route_has_its_own_destinations() {
    run_on_sqlite(|mut world| async move {
        let webhook = world.with_webhook().await;
        world.set("ROUTE_VIP_LABEL", "VIP");
        world.set("ROUTE_VIP_TO", "webhook");
        world.set("ROUTE_GOLD_LABEL", "Gold");
        world.set("ROUTE_GOLD_THEN", "webhook");
        let bridge = world.start().await;
        for (route, number) in [("label", "1"), ("vip", "2"), ("gold", "3")] {
            world.notify_route(route, event(&format!("event-{number}"), number)).await;
        }
        bridge.wait_for_nth("delivery_done destination=zendesk", 2).await;
        bridge.wait_for_nth("delivery_done destination=webhook", 2).await;
        let mut rows: Vec<String> = world.list().await.iter().map(route_and_destination).collect();
        rows.sort();
        assert_eq!(rows, ["gold webhook", "gold zendesk", "label zendesk", "vip webhook"]);
        let mut sent: Vec<(Value, Value, bool)> = data(&webhook)
            .into_iter()
            .map(|data| (data["route"].clone(), data["label"].clone(), data["ticket"].is_object()))
            .collect();
        sent.sort_by_key(|(route, ..)| route.to_string());
        assert_eq!(sent, [(json!("gold"), json!("Gold"), true), (json!("vip"), json!("VIP"), false)]);
        bridge.stop().await;

        // The tutorial's route has the variable of its name.
        world.set("ROUTE_LABEL_TO", "webhook");
        let bridge = world.start().await;
        world.notify_route("label", event("event-4", "4")).await;
        bridge.wait_for("delivery_done destination=webhook delivery=*:event-4:twitter:4").await;
        assert_eq!(world.zendesk.model().tickets.len(), 2);
    })
    .await;
}

fn route_and_destination(delivery: &Value) -> String {
    let text = |name: &str| delivery[name].as_str().unwrap();
    format!("{} {}", text("route"), text("destination"))
}

#[tokio::test]
async fn without_zendesk_no_setting_of_it_is_needed() {
    run_on_sqlite(|mut world| async move {
        let webhook = world.with_webhook().await;
        world.without_zendesk();
        world.set("DELIVER_TO", "webhook");
        let bridge = world.start_subscribed().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        assert_eq!(types(&webhook), ["casebridge.item.received"]);
        let destinations = world.status().await["destinations"].clone();
        assert_eq!(destinations.as_object().unwrap().keys().collect::<Vec<_>>(), ["webhook"]);
        assert_eq!(world.zendesk.model().minted, 0);
        assert_eq!(bridge.stop().await.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_destination_can_follow_another_that_makes_no_ticket() {
    run_on_sqlite(|mut world| async move {
        let (webhook, flow) = (world.with_webhook().await, world.with_flow().await);
        world.without_zendesk();
        world.set("DELIVER_TO", "webhook");
        world.set("DELIVER_THEN", "flow");
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=flow").await;
        let broadcasts = flow.model().broadcasts.clone();
        let params = broadcasts[0]["payload"]["metadata"]["params"].as_object().unwrap();
        assert_eq!((broadcasts.len(), params.contains_key("ticketId")), (1, false));
        bridge.stop().await;

        world.set("DELIVER_TO", "flow");
        world.set("DELIVER_THEN", "webhook");
        let bridge = world.start().await;
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        assert_eq!(types(&webhook), ["casebridge.item.received"; 2]);
        assert!(data(&webhook).iter().all(|data| data["ticket"].is_null()));
    })
    .await;
}
