//! Tests of the stand-in itself.

use reqwest::RequestBuilder;

use super::*;

struct Caller {
    flow: Flow,
    http: reqwest::Client,
}

impl Caller {
    async fn start() -> Caller {
        let http = crate::http_client().build().unwrap();
        Caller { flow: Flow::start().await.unwrap(), http }
    }

    fn request(&self, authorization: &str, body: &Value) -> RequestBuilder {
        let request = self.http.post(self.flow.broadcast_url()).header("authorization", authorization);
        request.json(body)
    }

    async fn status(&self, authorization: &str, body: &Value) -> u16 {
        self.request(authorization, body).send().await.unwrap().status().as_u16()
    }
}

fn broadcast() -> Value {
    json!({
        "audience": [{"name": "Anonymous", "phoneNumber": "+12025550123"}],
        "channel": {"channelName": "khoros", "externalId": "+12025550199"},
        "payload": {
            "type": "event",
            "eventName": "TICKET_CREATED",
            "metadata": {"params": {"ticketId": [{"value": "35436"}]}},
        },
    })
}

/// A broadcast with another value at this path, or without any value if it is null.
fn with(pointer: &str, value: Value) -> Value {
    let mut broadcast = broadcast();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = broadcast.pointer_mut(parent).unwrap();
    match (value, parent) {
        (Value::Null, Value::Object(fields)) => _ = fields.remove(field),
        (value, Value::Object(fields)) => _ = fields.insert(field.to_owned(), value),
        _ => panic!("{pointer} is not in an object"),
    }
    broadcast
}

#[tokio::test]
async fn broadcasts_are_remembered() {
    let caller = Caller::start().await;
    let response = caller.request(API_KEY, &broadcast()).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.text().await.unwrap().as_str()),
        (200, r#"{"status":"ok"}"#)
    );
    for (pointer, value) in [
        ("/audience", json!([{"name": "Jane", "identifier": "user-1", "profile": {}}])),
        ("/channel/channelName", json!("whatsapp")),
        ("/payload", json!({"type": "text", "speech": "my parcel", "metadata": {"language": "fr"}})),
        ("/payload/metadata", Value::Null),
        ("/payload/metadata/params", json!({"a": [{"value": "1"}, {"value": "2"}], "b": [{"value": ""}]})),
    ] {
        assert_eq!(caller.status(API_KEY, &with(pointer, value.clone())).await, 200, "{pointer} {value}");
    }
    let model = caller.flow.model();
    assert_eq!((model.broadcasts.len(), model.requests.len()), (6, 6));
    assert_eq!(model.broadcasts[0], broadcast());
    assert_eq!(model.requests[0].authorization, API_KEY);
}

#[tokio::test]
async fn invalid_broadcasts_are_refused() {
    let caller = Caller::start().await;
    for (pointer, value) in [
        ("/audience", Value::Null),
        ("/audience", json!([])),
        ("/audience", json!([{"phoneNumber": "+12025550123"}])),
        ("/audience", json!([{"name": " ", "phoneNumber": "+12025550123"}])),
        ("/audience", json!([{"name": "Jane"}])),
        ("/audience", json!([{"name": "Jane", "phoneNumber": "2025550123"}])),
        ("/audience", json!([{"name": "Jane", "phoneNumber": "+02025550123"}])),
        ("/audience", json!([{"name": "Jane", "phoneNumber": "+1 202 555 0123"}])),
        ("/audience", json!([{"name": "Jane", "phoneNumber": "+1234567890123456"}])),
        ("/audience", json!([{"name": "Jane", "identifier": ""}])),
        ("/audience", json!([{"name": "Jane", "identifier": "1", "profile": 1}])),
        ("/audience", json!([{"name": "Jane", "identifier": "1", "email": "j@acme.example"}])),
        ("/channel", Value::Null),
        ("/channel/channelName", json!("sms")),
        ("/channel/externalId", Value::Null),
        ("/channel/name", json!("khoros")),
        ("/payload", Value::Null),
        ("/payload/type", json!("speech")),
        ("/payload/eventName", Value::Null),
        ("/payload/speech", json!("my parcel")),
        ("/payload/type", json!("text")),
        ("/payload/metadata/ticketId", json!("35436")),
        ("/payload/metadata/language", json!(1)),
        ("/payload/metadata/params", json!([])),
        ("/payload/metadata/params/ticketId", json!("35436")),
        ("/payload/metadata/params/ticketId", json!([])),
        ("/payload/metadata/params/ticketId", json!(["35436"])),
        ("/payload/metadata/params/ticketId", json!([{"value": 35436}])),
        ("/payload/metadata/params/ticketId", json!([{"value": "35436", "unit": "1"}])),
        ("/segment", json!("all")),
    ] {
        assert_eq!(caller.status(API_KEY, &with(pointer, value.clone())).await, 400, "{pointer} {value}");
    }
    let plain = HeaderMap::from_iter([(header::CONTENT_TYPE, "text/plain".parse().unwrap())]);
    let text = caller.request(API_KEY, &broadcast()).headers(plain);
    assert_eq!(text.send().await.unwrap().status(), 400);
    let segment = format!("{}/segment", caller.flow.broadcast_url());
    assert_eq!(caller.http.post(segment).send().await.unwrap().status(), 404);
    assert!(caller.flow.model().broadcasts.is_empty());
}

#[tokio::test]
async fn the_key_is_raw_or_behind_bearer() {
    let caller = Caller::start().await;
    let bearer = format!("Bearer {API_KEY}");
    for (requires_bearer, authorization, status) in [
        (false, API_KEY, 200),
        (false, bearer.as_str(), 401),
        (false, "", 401),
        (true, API_KEY, 401),
        (true, &bearer, 200),
    ] {
        caller.flow.model().requires_bearer = requires_bearer;
        assert_eq!(caller.status(authorization, &broadcast()).await, status, "{authorization}");
    }
}

#[tokio::test]
async fn a_lost_answer_may_belong_to_a_broadcast() {
    let caller = Caller::start().await;
    caller.flow.queue([Fault::Status(503), Fault::ResetBefore, Fault::ResetAfter]);
    assert_eq!(caller.status(API_KEY, &broadcast()).await, 503);
    for sent in [0, 1] {
        assert!(caller.request(API_KEY, &broadcast()).send().await.is_err());
        assert_eq!(caller.flow.model().broadcasts.len(), sent);
    }
    for (fault, requests, sent) in [(Fault::Hang, 4, 1), (Fault::HangAfter, 5, 2)] {
        caller.flow.queue([fault]);
        let arrived = caller.flow.wait_until(|model| model.requests.len() == requests);
        tokio::select! {
            _ = caller.request(API_KEY, &broadcast()).send() => panic!("there is an answer"),
            () = arrived => {}
        }
        assert_eq!(caller.flow.model().broadcasts.len(), sent);
    }
}
