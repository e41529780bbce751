//! Tests of the stand-in itself.

use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::redirect::Policy;

use super::*;

const BODY: &str = r#"{"type":"ticket.created","timestamp":"2026-01-01T00:00:00Z","data":{}}"#;
const OTHER: &str = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI=";

struct Sender {
    webhook: Webhook,
    http: reqwest::Client,
}

impl Sender {
    async fn start() -> Sender {
        let http = crate::http_client().redirect(Policy::none()).build().unwrap();
        Sender { webhook: Webhook::start().await.unwrap(), http }
    }

    fn request(&self, id: &str, timestamp: &str, signature: &str, body: &str) -> RequestBuilder {
        let request = self.http.post(self.webhook.url()).header("content-type", "application/json");
        let request = request.header("webhook-id", id).header("webhook-timestamp", timestamp);
        request.header("webhook-signature", signature).body(body.to_owned())
    }

    /// A request with a valid signature.
    fn valid(&self, id: &str, body: &str) -> RequestBuilder {
        let now = now();
        self.request(id, &now, &sign(SECRET, id, &now, body), body)
    }

    /// The numbers of requests and of accepted ids.
    fn counts(&self) -> (usize, usize) {
        let model = self.webhook.model();
        (model.sends(), model.distinct_ids())
    }

    async fn status(&self, request: RequestBuilder) -> u16 {
        request.send().await.unwrap().status().as_u16()
    }
}

fn now() -> String {
    Timestamp::now().as_second().to_string()
}

fn sign(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let mac = signed(secret, id, timestamp, body.as_bytes()).unwrap();
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

/// The example in the documentation of the specification's libraries.
#[test]
fn the_published_example_is_valid() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
    let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(sign(secret, id, timestamp, r#"{"test": 2432232314}"#), signature);
    assert!(is_valid(signature, secret, id, timestamp, br#"{"test": 2432232314}"#));
    assert!(!is_valid(signature, secret, id, timestamp, br#"{"test":2432232314}"#));
    assert!(signed("whsec_c2hvcnQ=", id, timestamp, b"").is_none());
}

#[tokio::test]
async fn repeated_requests_are_one_event() {
    let sender = Sender::start().await;
    for id in ["a", "b", "a"] {
        assert_eq!(sender.status(sender.valid(id, BODY)).await, 204);
    }
    {
        let model = sender.webhook.model();
        assert_eq!((model.sends(), model.sends_of("a"), model.distinct_ids()), (3, 2, 2));
        let events: Vec<_> = model.events().into_iter().map(|event| event.id.as_str()).collect();
        assert_eq!((events, model.changed_bodies()), (vec!["a", "b"], 0));
        assert_eq!(model.requests[0].body, BODY);
        assert!(model.requests[0].signature.starts_with("v1,"));
    }
    assert_eq!(sender.status(sender.valid("a", "{}")).await, 204);
    assert_eq!(sender.webhook.model().changed_bodies(), 1);
}

#[tokio::test]
async fn one_valid_signature_of_the_list_is_enough() {
    let sender = Sender::start().await;
    let now = now();
    let (old, new) = (sign(SECRET, "a", &now, BODY), sign(OTHER, "a", &now, BODY));
    let request = |signature: &str| sender.request("a", &now, signature, BODY);
    assert_eq!(sender.status(request(&new)).await, 401);
    assert_eq!(sender.status(request(&format!("v1a,{} {new} {old}", "x"))).await, 204);
    sender.webhook.model().secrets = vec![SECRET.to_owned(), OTHER.to_owned()];
    assert_eq!(sender.status(request(&new)).await, 204);
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let sender = Sender::start().await;
    let now = now();
    let good = sign(SECRET, "a", &now, BODY);
    let early = (Timestamp::now() - SignedDuration::from_mins(6)).as_second().to_string();
    let late = (Timestamp::now() + SignedDuration::from_mins(6)).as_second().to_string();
    for (id, timestamp, signature, body, status) in [
        ("", now.as_str(), good.as_str(), BODY, 400),
        ("a", "", &good, BODY, 400),
        ("a", &now, "", BODY, 400),
        ("a", "today", &good, BODY, 400),
        ("a", "+1", &good, BODY, 400),
        ("a", &early, &sign(SECRET, "a", &early, BODY), BODY, 400),
        ("a", &late, &sign(SECRET, "a", &late, BODY), BODY, 400),
        ("a.b", &now, &sign(SECRET, "a.b", &now, BODY), BODY, 400),
        ("b", &now, &good, BODY, 401),
        ("a", &now, &good, "{}", 401),
        ("a", &now, &good.replace("v1,", "v2,"), BODY, 401),
        ("a", &now, &sign(SECRET, "a", &now, "{"), "{", 400),
    ] {
        let request = sender.request(id, timestamp, signature, body);
        assert_eq!(sender.status(request).await, status, "{id} {timestamp} {signature} {body}");
    }
    let plain = HeaderMap::from_iter([(header::CONTENT_TYPE, "text/plain".parse().unwrap())]);
    assert_eq!(sender.status(sender.valid("a", BODY).headers(plain)).await, 400);
    let elsewhere = sender.http.post(format!("{}/other", sender.webhook.url()));
    assert_eq!(sender.status(elsewhere).await, 404);
    assert_eq!(sender.status(sender.http.get(sender.webhook.url())).await, 405);
    assert_eq!(sender.counts(), (13, 0));
    sender.webhook.model().clock_ahead = SignedDuration::from_mins(-6);
    assert_eq!(sender.status(sender.request("a", &early, &sign(SECRET, "a", &early, BODY), BODY)).await, 204);
}

#[tokio::test]
async fn faults_come_before_or_after_the_work() {
    let sender = Sender::start().await;
    let headers = vec![("x-reason", "maintenance".to_owned())];
    sender.webhook.queue([
        Fault::Answer { status: 503, headers, body: "later".to_owned() },
        Fault::Html,
        Fault::Redirect("http://127.0.0.1:9/".to_owned()),
        Fault::TooMany(7),
        Fault::Status(410),
    ]);
    let answer = || async { sender.valid("a", BODY).send().await.unwrap() };
    let response = answer().await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-reason"]),
        (503, &"maintenance".parse().unwrap())
    );
    assert_eq!(response.text().await.unwrap(), "later");
    assert!(answer().await.text().await.unwrap().starts_with("<html>"));
    let response = answer().await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (307, &"http://127.0.0.1:9/".parse().unwrap())
    );
    let response = answer().await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"7".parse().unwrap())
    );
    assert_eq!(answer().await.status(), 410);
    sender.webhook.queue([Fault::ResetBefore]);
    assert!(sender.valid("a", BODY).send().await.is_err());
    assert_eq!(sender.counts(), (6, 0));

    sender.webhook.queue([Fault::ResetAfter, Fault::StatusAfter(502)]);
    assert!(sender.valid("b", BODY).send().await.is_err());
    assert_eq!(sender.status(sender.valid("c", BODY)).await, 502);
    assert_eq!(sender.webhook.model().distinct_ids(), 2);
    sender.webhook.model().faults.outage = Some(Fault::Status(500));
    for _ in 0..2 {
        assert_eq!(answer().await.status(), 500);
    }
}

#[tokio::test]
async fn some_answers_take_long() {
    let sender = Sender::start().await;
    sender.webhook.queue([Fault::SlowBody(Duration::ZERO), Fault::EndlessBody]);
    assert_eq!(sender.valid("a", BODY).send().await.unwrap().text().await.unwrap(), "xxxxxxxxxx");
    let mut endless = sender.valid("b", BODY).send().await.unwrap();
    for _ in 0..10 {
        assert!(!endless.chunk().await.unwrap().unwrap().is_empty());
    }
    for (fault, id, accepted) in [(Fault::Hang, "c", 2), (Fault::HangAfter, "d", 3)] {
        sender.webhook.queue([fault]);
        let arrived = sender.webhook.wait_until(|model| model.sends_of(id) == 1);
        tokio::select! {
            _ = sender.valid(id, BODY).send() => panic!("there is an answer"),
            () = arrived => {}
        }
        assert_eq!(sender.webhook.model().distinct_ids(), accepted);
    }
}
