//! Signed webhooks: what the receiver gets, and what happens while it does not work.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use casebridge_sandbox::webhook::{self, Fault, Request, Webhook};
use casebridge_sandbox::zendesk;
use futures_util::future::join_all;
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use standardwebhooks::Webhook as Verifier;

use crate::harness::{Bridge, PRIVATE, World, event, event_with, leak, message, on_both, run_on_sqlite};

const OTHER_SECRET: &str = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI=";

/// Verifies a request as receivers do that use the published library.
fn is_signed(request: &Request, secret: &str) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", request.id.parse().unwrap());
    headers.insert("webhook-timestamp", request.timestamp.parse().unwrap());
    headers.insert("webhook-signature", request.signature.parse().unwrap());
    Verifier::new(secret).unwrap().verify(request.body.as_bytes(), &headers).is_ok()
}

/// A world whose items go to Zendesk and to the webhook.
async fn with_both(world: &mut World) -> Webhook {
    world.set("DELIVER_TO", "zendesk,webhook");
    world.set("RETRY_SCHEDULE", ["1"; 20].join(","));
    world.with_webhook().await
}

async fn notify(world: &World, posts: std::ops::Range<usize>) {
    for post in posts {
        world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
    }
}

/// An event with everything that people write.
fn written() -> String {
    event_with("event-1", "1", |item| {
        item["authorId"] = json!("author-17");
        item["notes"] = json!([{"text": format!("{PRIVATE} note"), "createdByDisplayName": "Ann Agent"}]);
    })
}

#[tokio::test]
async fn a_published_library_verifies_the_signature() {
    run_on_sqlite(|mut world| async move {
        let webhook = with_both(&mut world).await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        let request = webhook.model().requests[0].clone();
        assert!(request.is_accepted && is_signed(&request, webhook::SECRET));
        assert!(!is_signed(&request, OTHER_SECRET));
        let changed = Request { body: request.body.replace("twitter", "facebook"), ..request };
        assert!(!is_signed(&changed, webhook::SECRET));
    })
    .await;
}

#[tokio::test]
async fn two_secrets_both_sign() {
    run_on_sqlite(|mut world| async move {
        let webhook = with_both(&mut world).await;
        world.set("WEBHOOK_SECRET", format!("{OTHER_SECRET}, {}", webhook::SECRET));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        // The receiver knows only the second.
        bridge.wait_for("delivery_done destination=webhook").await;
        let request = webhook.model().requests[0].clone();
        assert_eq!(request.signature.split(' ').count(), 2);
        assert!(is_signed(&request, OTHER_SECRET) && is_signed(&request, webhook::SECRET));
    })
    .await;
}

#[tokio::test]
async fn a_body_has_nothing_that_people_wrote_unless_it_is_full() {
    run_on_sqlite(|mut world| async move {
        let webhook = with_both(&mut world).await;
        let bridge = world.start().await;
        world.notify(&written()).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        let thin = webhook.model().requests[0].body.clone();
        assert_eq!(leak(&thin), None, "{thin}");
        for written in ["author-17", "Ann Agent", "note", "text"] {
            assert!(!thin.contains(written), "{written} in {thin}");
        }
        bridge.stop().await;

        let mut world = world.with_an_empty_database().await;
        world.set("WEBHOOK_PAYLOAD", "full");
        let bridge = world.start().await;
        world.notify(&written()).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        let full = message(&webhook.model().requests[1]);
        let data = &full["data"];
        assert_eq!(data["text"], format!("{PRIVATE} 1"));
        assert_eq!(data["author"]["name"], "Jane Doe");
        assert_eq!(data["notes"][0]["text"], format!("{PRIVATE} note"));
        assert_eq!(data["notes"][0]["author"], "Ann Agent");
        // Otherwise it is the same.
        for (name, value) in serde_json::from_str::<Value>(&thin).unwrap()["data"].as_object().unwrap() {
            assert!(name == "received" || data[name] == *value, "{name}: {data}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_is_a_cloud_event_and_a_standard_webhook() {
    run_on_sqlite(|mut world| async move {
        let webhook = with_both(&mut world).await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        let request = webhook.model().requests[0].clone();
        assert_eq!(request.content_type, "application/json");
        assert!(request.body.len() < 20_000);
        let body = message(&request);
        // CloudEvents 1.0: these four are required, and names have only lower-case letters and digits.
        assert_eq!((&body["specversion"], &body["id"]), (&json!("1.0"), &json!(request.id)));
        for required in ["source", "type"] {
            assert!(body[required].as_str().is_some_and(|text| !text.is_empty()), "{required}: {body}");
        }
        for (name, value) in body.as_object().unwrap() {
            let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            assert!(is_name && (name == "data" || value.is_string()), "{name}: {body}");
        }
        assert_eq!(body["datacontenttype"], "application/json");
        assert_eq!(body["subject"], "khoros:1234:twitter:1");
        assert!(body["time"].as_str().unwrap().parse::<Timestamp>().is_ok(), "{body}");
        // Standard Webhooks: a type of words between full stops, a time and the data.
        let kind = body["type"].as_str().unwrap();
        assert!(
            kind.split('.').all(|word| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        );
        assert!(body["timestamp"].as_str().unwrap().parse::<Timestamp>().is_ok(), "{body}");
        assert_eq!(body["data"]["delivery"], "khoros:1234:event-1:twitter:1");
        assert_eq!(body["data"]["case"], "khoros:1234:twitter:1");
        assert_eq!(body["data"]["route"], "label");
        assert_eq!(body["data"]["label"], "CreateCase");
    })
    .await;
}

/// A failure of the receiver, and the alert that it raises at once.
enum Failure {
    Down,
    /// Every request meets this fault.
    Outage(Fault, Option<&'static str>),
    /// A redirect to another server.
    Redirect,
}

/// Runs a world for each failure, all at once.
#[tokio::test]
async fn while_the_receiver_fails_tickets_go_on_and_afterwards_every_message_arrives() {
    let page = |status| {
        let headers = vec![("content-type", "text/html".to_owned())];
        Fault::Answer { status, headers, body: "<html>Bad gateway</html>".to_owned() }
    };
    let failures = [
        Failure::Down,
        Failure::Redirect,
        Failure::Outage(Fault::Hang, None),
        Failure::Outage(Fault::ResetBefore, None),
        Failure::Outage(Fault::Status(500), None),
        Failure::Outage(page(502), None),
        Failure::Outage(Fault::TooMany(7), None),
        Failure::Outage(Fault::Status(401), Some("webhook_forbidden")),
        Failure::Outage(Fault::Status(404), Some("webhook_address")),
    ];
    join_all(failures.map(|failure| run_on_sqlite(|world| fail_and_recover(world, failure)))).await;
}

async fn fail_and_recover(mut world: World, failure: Failure) {
    let webhook = with_both(&mut world).await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let (outage, alert) = match failure {
        Failure::Down => (None, None),
        Failure::Outage(fault, alert) => (Some(fault), alert),
        Failure::Redirect => {
            let address = format!("http://{}/hook", elsewhere.local_addr().unwrap());
            (Some(Fault::Redirect(address)), Some("webhook_address"))
        }
    };
    match &outage {
        None => webhook.stop(),
        Some(fault) => webhook.model().faults.outage = Some(fault.clone()),
    }
    let bridge = world.start().await;
    notify(&world, 0..4).await;
    bridge.wait_for("destination_paused destination=webhook").await;
    notify(&world, 4..8).await;
    bridge.wait_for_nth("delivery_done destination=zendesk", 8).await;
    assert_eq!(
        (world.state_of("webhook").await, world.state_of("zendesk").await),
        ("paused".into(), "ok".into())
    );
    assert_eq!(webhook.model().distinct_ids(), 0);
    // The alert is not repeated with each pause.
    bridge.wait_for_nth("destination_paused destination=webhook", 2).await;
    let alerts = usize::from(alert.is_some());
    assert_eq!(
        bridge.count("destination_paused destination=webhook level=ERROR"),
        alerts,
        "{}",
        bridge.log()
    );
    if let Some(alert) = alert {
        bridge.wait_for(&format!("destination_paused destination=webhook level=ERROR alert={alert}")).await;
    }

    webhook.model().faults.outage = None;
    if outage.is_none() {
        webhook.restart().await.unwrap();
    }
    bridge.wait_for("destination_resumed destination=webhook").await;
    bridge.wait_for_nth("delivery_done destination=webhook", 8).await;
    assert_eq!(world.state_of("webhook").await, "ok");
    let tries = check_tries(&webhook);
    assert!(outage.is_none() || tries > 8);
    assert!(
        elsewhere.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
        "a redirect was followed"
    );
    world.check_one_ticket_per_case().await;
}

/// Checks that all tries of a message have the same bytes, and that the last has a new timestamp. Returns the number
/// of tries.
fn check_tries(webhook: &Webhook) -> usize {
    let model = webhook.model();
    assert_eq!(model.distinct_ids(), 8);
    let mut tries: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in &model.requests {
        tries.entry(&request.id).or_default().push(request);
    }
    assert_eq!(tries.len(), 8);
    for tries in tries.values() {
        let (first, last) = (tries[0], tries[tries.len() - 1]);
        assert!(tries.iter().all(|request| request.body == first.body), "an id came with other bytes");
        assert!(tries.len() == 1 || last.timestamp > first.timestamp, "{} has an old time", last.id);
        assert!(is_signed(last, webhook::SECRET));
    }
    model.sends()
}

#[tokio::test]
async fn an_answer_without_end_is_an_answer() {
    run_on_sqlite(|mut world| async move {
        let webhook = with_both(&mut world).await;
        webhook.queue([Fault::EndlessBody, Fault::SlowBody(Duration::from_secs(1)), Fault::Html]);
        let bridge = world.start().await;
        notify(&world, 0..3).await;
        bridge.wait_for_nth("delivery_done destination=webhook", 3).await;
        assert_eq!(webhook.model().sends(), 3);
        let peak = bridge.peak_memory();
        assert!(peak < 200 << 20, "{} MiB", peak >> 20);
    })
    .await;
}

on_both! {
    async fn a_receiver_that_is_gone_gets_nothing_until_the_next_start(world: World) {
        let mut world = world;
        let webhook = with_both(&mut world).await;
        webhook.queue([Fault::Status(410)]);
        let bridge = world.start().await;
        notify(&world, 0..1).await;
        bridge.wait_for("destination_paused destination=webhook alert=webhook_gone").await;
        bridge.wait_for("delivery_done destination=zendesk").await;
        // The pauses of Zendesk are the clock: the second one ends long after the first of the webhook.
        world.zendesk.model().outage = Some(zendesk::Fault::Status(503));
        notify(&world, 1..4).await;
        bridge.wait_for_nth("destination_paused destination=zendesk", 3).await;
        assert_eq!((world.state_of("webhook").await, webhook.model().sends()), ("paused".to_owned(), 1));
        world.zendesk.model().outage = None;
        bridge.stop().await;

        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done destination=webhook", 4).await;
        let model = webhook.model();
        assert_eq!((model.distinct_ids(), model.sends_of(&model.requests[0].id)), (4, 2));
        assert_eq!(model.requests[0].body, model.events().iter().find(|event| event.id == model.requests[0].id).unwrap().body);
    }
}

/// Tries are used up only while other messages pass.
#[tokio::test]
async fn a_message_that_stays_refused_is_dead() {
    run_on_sqlite(|mut world| async move {
        let webhook = with_both(&mut world).await;
        world.set("RETRY_SCHEDULE", ["0"; 20].join(","));
        webhook.model().refused = Some("twitter:bad".to_owned());
        let bridge = world.start().await;
        world.notify(&event("bad", "bad")).await;
        let mut line = String::new();
        for post in 0..20 {
            notify(&world, post..post + 1).await;
            bridge.wait_for_nth("delivery_done destination=webhook", post + 1).await;
            line = next_failure(&bridge, post + 1).await;
            if line.contains("\"delivery_dead\"") {
                break;
            }
        }
        assert!(line.contains("\"delivery_dead\"") && line.contains("400"), "{line}");
        let dead = world.list().await.into_iter().find(|delivery| delivery["state"] == "dead").unwrap();
        assert_eq!(dead["destination"], "webhook");
        assert_eq!(dead["reason"], "the webhook answered 400");

        webhook.model().refused = None;
        assert!(world.command(&["replay", dead["id"].as_str().unwrap()]).await.status.success());
        bridge.wait_for("delivery_done destination=webhook delivery=*:bad:twitter:bad").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

async fn next_failure(bridge: &Bridge, nth: usize) -> String {
    bridge.wait_for_nth("* level=WARN destination=webhook delivery=*:bad:twitter:bad", nth).await
}
