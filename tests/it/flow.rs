//! Broadcasts by Khoros Flow: their shape, and at most one for each item.

use casebridge_sandbox::flow::{API_KEY, Fault, Flow};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{EXTERNAL_ID, FLOW_EVENT, LABEL, PHONE, PRIVATE, World, event, on_both, run_on_sqlite};

const ID: &str = "khoros:1234:event-1:twitter:1";

/// A world in which a broadcast follows each change of a ticket.
async fn with_follower(world: &mut World) -> Flow {
    world.set("DELIVER_THEN", "flow");
    world.with_flow().await
}

/// A broadcast as the reference of Flow's API shows it, with each parameter as a list of values.
fn broadcast(payload: Value) -> Value {
    json!({
        "audience": [{"name": "Anonymous", "phoneNumber": PHONE}],
        "channel": {"channelName": "khoros", "externalId": EXTERNAL_ID},
        "payload": payload,
    })
}

fn params(world: &World) -> Value {
    json!({
        "ticketId": [{"value": "1000"}],
        "ticketUrl": [{"value": format!("{}/agent/tickets/1000", world.zendesk.url())}],
        "label": [{"value": LABEL}],
        "author": [{"value": "Jane Doe"}],
        "text": [{"value": format!("{PRIVATE} 1")}],
    })
}

/// The numbers of requests and of processed broadcasts.
fn counts(flow: &Flow) -> (usize, usize) {
    let model = flow.model();
    (model.requests.len(), model.broadcasts.len())
}

/// Checks that the broadcast alone is dead, and that `casebridge list` says why.
async fn check_dead(world: &World) {
    let output = world.command(&["list", "--state", "dead", "--json"]).await;
    let lines = String::from_utf8(output.stdout).unwrap();
    let dead: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!((&dead[0]["destination"], &dead[0]["id"]), (&json!("flow"), &json!(ID)));
    assert!(dead[0]["reason"].as_str().unwrap().starts_with("may have been sent"), "{dead:?}");
}

#[tokio::test]
async fn an_event_is_broadcast_as_published() {
    run_on_sqlite(|mut world| async move {
        let flow = with_follower(&mut world).await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=flow").await;
        let expected = broadcast(json!({
            "type": "event",
            "eventName": FLOW_EVENT,
            "metadata": {"params": params(&world)},
        }));
        let model = flow.model();
        assert_eq!(model.broadcasts, [expected]);
        // The key alone.
        assert_eq!((model.requests.len(), model.requests[0].authorization.as_str()), (1, API_KEY));
    })
    .await;
}

#[tokio::test]
async fn a_text_is_broadcast_as_published() {
    run_on_sqlite(|mut world| async move {
        let flow = with_follower(&mut world).await;
        flow.model().requires_bearer = true;
        world.unset("FLOW_EVENT_NAME");
        world.set("FLOW_AUTH_PREFIX", "Bearer");
        world.set("FLOW_CHANNEL_NAME", "whatsapp");
        world.set("FLOW_TO", format!("{PHONE}, Duty team <+49 170 1234567>"));
        world.set("FLOW_TEXT", "Ticket {{ ticket.number }} {{ ticket.action }}: {{ ticket.url }}");
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=flow").await;
        let url = format!("{}/agent/tickets/1000", world.zendesk.url());
        let mut expected = broadcast(json!({
            "type": "text",
            "speech": format!("Ticket 1000 created: {url}"),
            "metadata": {"params": params(&world)},
        }));
        expected["channel"]["channelName"] = json!("whatsapp");
        let audience = expected["audience"].as_array_mut().unwrap();
        audience.push(json!({"name": "Duty team", "phoneNumber": "+491701234567"}));
        let model = flow.model();
        assert_eq!(model.broadcasts, [expected]);
        assert_eq!(model.requests[0].authorization, format!("Bearer {API_KEY}"));
    })
    .await;
}

/// Runs a world for each fault, all at once.
#[tokio::test]
async fn a_doubtful_broadcast_is_not_repeated_but_by_a_replay() {
    let faults = [
        (Fault::ResetAfter, 1),
        (Fault::StatusAfter(500), 1),
        (Fault::HangAfter, 1),
        (Fault::EndlessBody, 1),
        (Fault::ResetBefore, 0),
        (Fault::Status(502), 0),
        (Fault::Hang, 0),
        (Fault::Html, 0),
    ];
    join_all(faults.map(|(fault, sent)| run_on_sqlite(move |world| doubt(world, fault, sent)))).await;
}

async fn doubt(mut world: World, fault: Fault, sent: usize) {
    let flow = with_follower(&mut world).await;
    flow.queue([fault]);
    let bridge = world.start().await;
    world.notify(&event("event-1", "1")).await;
    bridge.wait_for("delivery_dead destination=flow").await;
    check_dead(&world).await;
    assert_eq!(counts(&flow), (1, sent));
    // A second event of the case goes out, once the pause is over.
    bridge.wait_for("destination_paused destination=flow").await;
    world.notify(&event("event-2", "2")).await;
    bridge.wait_for("delivery_done destination=flow").await;
    assert_eq!(counts(&flow), (2, sent + 1));

    // The case has other deliveries, which its replay may be about.
    let output = world.command(&["replay", "khoros:1234:twitter:1"]).await;
    let of_case = String::from_utf8(output.stdout).unwrap();
    assert!(of_case.contains("1 to flow left out") && of_case.ends_with("0 replayed\n"), "{of_case}");
    assert!(world.command(&["replay", ID]).await.status.success());
    bridge.wait_for(&format!("delivery_done destination=flow delivery={ID}")).await;
    assert_eq!(counts(&flow), (3, sent + 2));
    world.check_one_ticket_per_case().await;
}

on_both! {
    async fn a_kill_while_flow_is_at_work_repeats_nothing(world: World) {
        let mut world = world;
        let flow = with_follower(&mut world).await;
        flow.queue([Fault::HangAfter]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        flow.wait_until(|model| model.broadcasts.len() == 1).await;
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for("delivery_dead destination=flow").await;
        check_dead(&world).await;
        assert_eq!(counts(&flow), (1, 1));
        assert!(world.command(&["replay", ID]).await.status.success());
        bridge.wait_for("delivery_done destination=flow").await;
        assert_eq!(counts(&flow), (2, 2));
        world.check_one_ticket_per_case().await;
    }

    async fn a_refused_connection_is_tried_again(world: World) {
        let mut world = world;
        let flow = with_follower(&mut world).await;
        flow.stop();
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for_nth("destination_paused destination=flow", 2).await;
        assert_eq!((world.state_of("flow").await, world.state_of("zendesk").await), ("paused".into(), "ok".into()));
        // A waiting delivery is only delivered sooner, so its case may name it.
        let output = world.command(&["replay", "--now", "khoros:1234:twitter:1"]).await;
        assert!(String::from_utf8(output.stdout).unwrap().ends_with("1 replayed\n"));
        flow.restart().await.unwrap();
        bridge.wait_for("delivery_done destination=flow").await;
        assert_eq!((counts(&flow), world.list_of("flow").await[0]["tries"].clone()), ((1, 1), json!(0)));
        world.check_one_ticket_per_case().await;
    }

    async fn a_replay_without_a_connection_waits_for_one(world: World) {
        let mut world = world;
        let flow = with_follower(&mut world).await;
        flow.queue([Fault::Status(500)]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_dead destination=flow").await;
        flow.stop();
        assert!(world.command(&["replay", ID]).await.status.success());
        bridge.wait_for_nth("destination_paused destination=flow", 3).await;
        flow.restart().await.unwrap();
        bridge.wait_for("delivery_done destination=flow").await;
        assert_eq!(counts(&flow), (2, 1));
        world.check_one_ticket_per_case().await;
    }
}

#[tokio::test]
async fn after_a_refused_connection_a_doubtful_broadcast_is_not_repeated() {
    run_on_sqlite(|mut world| async move {
        let flow = with_follower(&mut world).await;
        flow.stop();
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("destination_paused destination=flow").await;
        flow.queue([Fault::HangAfter]);
        flow.restart().await.unwrap();
        flow.wait_until(|model| model.broadcasts.len() == 1).await;
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for("delivery_dead destination=flow").await;
        check_dead(&world).await;
        assert_eq!(counts(&flow), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn one_doubtful_broadcast_holds_the_others_back() {
    run_on_sqlite(|mut world| async move {
        let flow = with_follower(&mut world).await;
        flow.model().faults.outage = Some(Fault::StatusAfter(500));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("destination_paused destination=flow").await;
        for post in 2..10 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done destination=zendesk", 9).await;
        assert_eq!(world.state_of("flow").await, "paused");
        // One of them shows that it is not over.
        bridge.wait_for_nth("delivery_dead destination=flow", 2).await;
        flow.model().faults.outage = None;
        bridge.wait_for_nth("delivery_done destination=flow", 7).await;
        assert_eq!(counts(&flow), (9, 9));
        assert_eq!(bridge.count("delivery_dead"), 2);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn an_outage_ends_no_more_than_four_broadcasts() {
    run_on_sqlite(|mut world| async move {
        let flow = with_follower(&mut world).await;
        flow.model().faults.outage = Some(Fault::HangAfter);
        let bridge = world.start().await;
        for post in 0..12 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for("destination_paused destination=flow").await;
        flow.model().faults.outage = None;
        bridge.wait_for_nth("delivery_done destination=zendesk", 12).await;
        bridge.wait_for_nth("delivery_done destination=flow", 8).await;
        let dead = bridge.count("delivery_dead");
        assert!((1..=4).contains(&dead), "{dead} of 12");
        bridge.wait_for_nth("delivery_done destination=flow", 12 - dead).await;
        assert_eq!(counts(&flow), (12, 12));
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_definite_refusal_of_flow_is_no_doubt() {
    run_on_sqlite(|mut world| async move {
        let flow = with_follower(&mut world).await;
        flow.queue([Fault::Status(401), Fault::TooMany(1)]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("destination_paused destination=flow alert=flow_credential").await;
        bridge.wait_for("delivery_done destination=flow").await;
        assert_eq!(counts(&flow), (3, 1));
        flow.queue([Fault::Status(400)]);
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_dead destination=flow").await;
        let list = world.list_of("flow").await;
        assert_eq!(list[1]["reason"], "Flow answered 400");
        assert_eq!(counts(&flow), (4, 1));
    })
    .await;
}
