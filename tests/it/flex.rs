//! Conversations in Flex, by the Interactions API and by the API of the UI 1.x: complete after a kill at any step.

use casebridge_sandbox::twilio::{Fault, Model, NUMBER, Twilio};
use serde_json::{Value, json};

use crate::harness::{Bridge, PHONE, World, event, on_both, run_on_sqlite};
use crate::metrics;

const ID: &str = "khoros:1234:event-1:twitter:1";

fn sid(kind: &str) -> String {
    format!("{kind}{}", "a".repeat(32))
}

/// A world in which a conversation follows each new ticket.
async fn with_flex(world: &mut World) -> Twilio {
    world.set("DELIVER_THEN", "twilio");
    let twilio = world.with_twilio().await;
    world.set("TWILIO_TO", PHONE);
    world.set("TWILIO_MODE", "flex");
    world.set("TWILIO_TEXT", "Ticket {{ ticket.number }}: how can we help?");
    world.set("TWILIO_FLEX_WORKSPACE_SID", sid("WS"));
    world.set("TWILIO_FLEX_WORKFLOW_SID", sid("WW"));
    world.set("TWILIO_FLEX_WORKER_SID", sid("WK"));
    twilio
}

/// The same by the API of the UI 1.x, in which the task begins when the customer replies.
async fn with_legacy_flex(world: &mut World) -> Twilio {
    let twilio = with_flex(world).await;
    world.set("TWILIO_MODE", "flex-legacy");
    world.set("TWILIO_FLEX_STRATEGY", "2");
    world.set("TWILIO_PROXY_SERVICE_SID", sid("KS"));
    world.set("TWILIO_CHAT_SERVICE_SID", sid("IS"));
    twilio
}

/// Kills casebridge at a step of the next event, and starts it again.
async fn kill_at(world: &World, twilio: &Twilio, number: usize, step: usize, fault: Fault) -> Bridge {
    let first = twilio.model().requests.len();
    twilio.model().fault_at = Some((first + step, fault));
    let bridge = world.start().await;
    world.notify(&event(&format!("event-{number}"), &number.to_string())).await;
    twilio.wait_until(|model| model.requests.len() > first + step).await;
    bridge.kill().await;
    world.start().await
}

/// The numbers of conversations and of their messages.
fn conversations(twilio: &Twilio) -> (usize, usize) {
    let model = twilio.model();
    (model.interactions.len(), model.conversation_messages.len())
}

/// Waits until this process has counted a lookup.
async fn wait_for_lookup(world: &World, found: &str) {
    let lookups = format!("casebridge_lookups_total{{destination=\"twilio\",found=\"{found}\"}}");
    metrics::wait_for(world, &lookups, 1.0).await;
}

fn parsed(text: &Value) -> Value {
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

fn check_conversation(model: &Model, world: &World, ticket: u64) {
    let number = (ticket - 1000) as usize;
    let interaction = &model.interactions[number];
    let channel = &interaction["request"]["Channel"];
    assert_eq!(channel["participants"], json!([{"address": PHONE, "proxy_address": NUMBER}]));
    let properties = &interaction["request"]["Routing"]["properties"];
    assert_eq!(properties["worker_sid"], sid("WK"));
    assert_eq!(properties.get("queue_sid"), None);
    let url = format!("{}/agent/tickets/{ticket}", world.zendesk.url());
    let attributes = &properties["attributes"];
    assert_eq!(
        (&attributes["ticketNumber"], &attributes["ticketUrl"]),
        (&json!(ticket.to_string()), &json!(url))
    );
    assert_eq!((&attributes["author"], &attributes["customerAddress"]), (&json!("Jane Doe"), &json!(PHONE)));
    let conversation = parsed(&interaction["routing"]["properties"]["attributes"])["conversationSid"].clone();
    let of_it =
        model.conversation_messages.iter().filter(|message| message["conversation_sid"] == conversation);
    let bodies: Vec<&Value> = of_it.map(|message| &message["body"]).collect();
    assert_eq!(bodies, [&json!(format!("Ticket {ticket}: how can we help?"))]);
}

/// What must be there after the delivery of a ticket by the old API, and nothing else.
fn check_legacy(model: &Model, ticket: u64) {
    let number = (ticket - 1000) as usize;
    assert_eq!((model.flows.len(), model.channels.len(), model.sessions.len()), (1, number + 1, number + 1));
    let (channel, session) = (&model.channels[number], &model.sessions[number]);
    assert_eq!((&session["unique_name"], &session["mode"]), (&channel["sid"], &json!("message-only")));
    let of_session = model.participants.iter().filter(|known| known["session_sid"] == session["sid"]);
    let identifiers: Vec<_> =
        of_session.map(|known| (&known["identifier"], &known["proxy_identifier"])).collect();
    let expected = [(json!(PHONE), Value::Null), (channel["sid"].clone(), json!(NUMBER))];
    assert_eq!(identifiers, expected.each_ref().map(|(identifier, proxy)| (identifier, proxy)));
    let attributes = parsed(&channel["attributes"]);
    assert_eq!(attributes, json!({"from": PHONE, "channel_type": "sms", "proxySession": session["sid"]}));
    assert_eq!(parsed(&channel["request"]["TaskAttributes"])["ticketNumber"], ticket.to_string());
    assert_eq!(model.proxy_messages.len(), number + 1);
    let text = format!("Ticket {ticket}: how can we help?");
    assert_eq!(parsed(&model.proxy_messages[number]["data"]), json!({"body": text}));
}

on_both! {
    async fn a_conversation_follows_a_ticket(world: World) {
        let mut world = world;
        let twilio = with_flex(&mut world).await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=twilio action=sent").await;
        check_conversation(&twilio.model(), &world, 1000);
        let row = &world.list_of("twilio").await[0];
        assert_eq!((&row["note"], &row["reference"]), (&json!("conversation opened"), &twilio.model().interactions[0]["sid"]));

        bridge.stop().await;

        // A kill at the first message, before and after Twilio has acted.
        for (number, fault) in [(2, Fault::Hang), (3, Fault::HangAfter)] {
            let found = if fault == Fault::HangAfter { "yes" } else { "no" };
            let bridge = kill_at(&world, &twilio, number, 1, fault).await;
            bridge.wait_for("delivery_done destination=twilio").await;
            wait_for_lookup(&world, found).await;
            check_conversation(&twilio.model(), &world, 999 + number as u64);
            bridge.stop().await;
        }
        // A conversation that may have been opened cannot be looked up.
        let bridge = kill_at(&world, &twilio, 4, 0, Fault::HangAfter).await;
        bridge.wait_for("delivery_dead destination=twilio").await;
        let rows = world.list_of("twilio").await;
        assert!(rows[3]["reason"].as_str().unwrap().starts_with("may have been sent"), "{}", rows[3]);
        assert_eq!(conversations(&twilio), (4, 3));
        // Only a replay that names it opens it again.
        assert!(world.command(&["replay", "--all-dead"]).await.status.success());
        assert!(world.command(&["replay", rows[3]["id"].as_str().unwrap()]).await.status.success());
        bridge.wait_for("delivery_done destination=twilio").await;
        assert_eq!(conversations(&twilio), (5, 4));
        world.check_one_ticket_per_case().await;
    }

    async fn the_legacy_sequence_continues_after_a_kill_before_any_step(world: World) {
        legacy_with_kills(world, Fault::Hang).await;
    }

    async fn the_legacy_sequence_continues_after_a_kill_behind_any_step(world: World) {
        legacy_with_kills(world, Fault::HangAfter).await;
    }
}

async fn legacy_with_kills(mut world: World, fault: Fault) {
    let twilio = with_legacy_flex(&mut world).await;
    let found = if fault == Fault::HangAfter { "yes" } else { "no" };
    // Flex Flow (only once), Flex Channel, session, customer, agent, attributes, message.
    for (number, step) in [(1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (6, 4), (7, 5)] {
        let bridge = kill_at(&world, &twilio, number, step, fault.clone()).await;
        bridge.wait_for("delivery_done destination=twilio").await;
        // The Flex Flow is no step of the delivery, and attributes are merged again.
        if !matches!(number, 1 | 6) {
            wait_for_lookup(&world, found).await;
        }
        check_legacy(&twilio.model(), 999 + number as u64);
        bridge.stop().await;
    }
    world.check_one_ticket_per_case().await;
}

#[tokio::test]
async fn a_definite_refusal_of_flex_is_no_doubt() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_flex(&mut world).await;
        twilio.queue([Fault::TooMany(1)]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=twilio").await;
        assert_eq!(twilio.model().requests.len(), 3);
        twilio.queue([Fault::StatusAfter(502)]);
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_dead destination=twilio").await;
        assert_eq!(twilio.model().interactions.len(), 2);
        check_conversation(&twilio.model(), &world, 1000);
    })
    .await;
}

#[tokio::test]
async fn the_legacy_sequence_creates_a_task_at_once() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_legacy_flex(&mut world).await;
        world.set("TWILIO_FLEX_STRATEGY", "1");
        let bridge = world.start().await;
        bridge.wait_for("setting_warning").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=twilio action=sent").await;
        let model = twilio.model();
        assert_eq!(model.flows[0]["integration"]["creation_on_message"], "false");
        assert_eq!((model.channels.len(), model.participants.len(), model.proxy_messages.len()), (1, 2, 0));
    })
    .await;
}

#[tokio::test]
async fn a_legacy_sequence_that_ends_leaves_nothing_behind() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_legacy_flex(&mut world).await;
        twilio.model().refused.insert(PHONE.to_owned(), (400, 21211));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_dead destination=twilio").await;
        {
            let mut model = twilio.model();
            assert_eq!((model.channels.len(), model.sessions.len(), model.participants.len()), (0, 0, 0));
            assert_eq!(model.count("DELETE", ""), 2);
            model.refused.clear();
        }
        let row = &world.list_of("twilio").await[0];
        assert!(row["id"].as_str().unwrap().starts_with(ID), "{row}");
        assert!(world.command(&["replay", row["id"].as_str().unwrap()]).await.status.success());
        bridge.wait_for("delivery_done destination=twilio").await;
        check_legacy(&twilio.model(), 1000);
    })
    .await;
}

#[tokio::test]
async fn a_corrected_sender_opens_the_conversations_that_wait_for_it() {
    run_on_sqlite(|mut world| async move {
        let twilio = with_flex(&mut world).await;
        world.set("TWILIO_FROM", "+15550000009");
        let refused = json!({"code": 21606, "message": "…", "status": 400}).to_string();
        twilio.model().faults.outage =
            Some(Fault::Answer { status: 400, headers: Vec::new(), body: refused });
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("destination_paused destination=twilio alert=twilio_sender").await;
        bridge.stop().await;
        twilio.model().faults.outage = None;
        world.set("TWILIO_FROM", NUMBER);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done destination=twilio").await;
        check_conversation(&twilio.model(), &world, 1000);
    })
    .await;
}
