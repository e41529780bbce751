//! Tests of the stand-in itself.

use reqwest::{Method, RequestBuilder};

use super::paging::window;
use super::*;

const RULE: &str = include_str!("../../../tests/fixtures/rule-applied-twitter.json");

/// Bearers and event ids, in the order of their arrival.
type Pushed = Arc<Mutex<Vec<(String, String)>>>;

struct Caller {
    khoros: Khoros,
    http: reqwest::Client,
    /// What came to its bridge.
    pushed: Pushed,
    bridge: Running,
}

impl Caller {
    async fn start() -> Caller {
        let pushed: Pushed = Arc::default();
        let (bridge, http) =
            (start(bridge(pushed.clone())).await.unwrap(), crate::http_client().build().unwrap());
        let khoros = Khoros::start().await.unwrap();
        khoros.model().style = Style::Json;
        Caller { khoros, http, pushed, bridge }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.khoros.url()))
    }

    async fn text(&self, method: Method, path: &str) -> (u16, String) {
        answered(self.request(method, path).bearer_auth(TOKEN)).await
    }

    async fn send(&self, method: Method, path: &str) -> (u16, Value) {
        let (status, text) = self.text(method, path).await;
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path).await.1
    }

    async fn subscribe(&self, sent: Value) -> (u16, Value) {
        let request = self.request(Method::POST, "/v2/events/subscription").bearer_auth(TOKEN).json(&sent);
        let (status, text) = answered(request).await;
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// A subscription whose notifications come to this caller.
    async fn listen(&self, name: &str, query: &str) -> String {
        let mut sent = subscription(name, query);
        sent["notificationUri"] = json!(format!("http://{}/", self.bridge.address));
        self.subscribe(sent).await.1["uuid"].as_str().unwrap().to_owned()
    }

    /// The names of the subscriptions of a page.
    async fn page(&self, number: u32, size: u32) -> Vec<String> {
        let path = format!("/v2/events/subscription?pageNumber={number}&pageSize={size}");
        texts_at(&self.get(&path).await, "externalId")
    }

    /// The ids of the events of a page.
    async fn feed(&self, uuid: &str, offset: u32, limit: u32) -> Vec<String> {
        let path = format!("/v2/events/data/{uuid}?offset={offset}&limit={limit}");
        texts_at(&self.get(&path).await, "eventUuid")
    }

    fn arrived(&self) -> Vec<String> {
        let pushed = std::mem::take(&mut *self.pushed.lock().unwrap());
        pushed.into_iter().map(|(_, event)| event).collect()
    }
}

fn bridge(pushed: Pushed) -> Router {
    let take = |State(pushed): State<Pushed>, headers: HeaderMap, body: String| async move {
        let bearer = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        let event: Value = serde_json::from_str(&body).unwrap();
        let event = event["eventUuid"].as_str().unwrap().to_owned();
        pushed.lock().unwrap().push((bearer.unwrap_or_default(), event));
    };
    Router::new().route("/", post(take)).with_state(pushed)
}

async fn answered(request: RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

fn texts_at(list: &Value, field: &str) -> Vec<String> {
    let entries = list.as_array().unwrap();
    entries.iter().map(|entry| entry[field].as_str().unwrap().to_owned()).collect()
}

fn subscription(name: &str, query: &str) -> Value {
    json!({
        "companyId": COMPANY_ID,
        "externalId": name,
        "eventName": "stream-item-label-applied",
        "notificationUri": "https://bridge.example.com/",
        "query": query,
        "bearerToken": "secret",
    })
}

fn label_event(id: &str) -> String {
    json!({"eventName": "stream-item-label-applied", "eventUuid": id, "data": {"labels": []}}).to_string()
}

#[test]
fn pages_end_and_some_repeat() {
    let entries = [1, 2, 3, 4, 5];
    for (start, size, page, nearest) in [
        (0, 0, &[][..], &[][..]),
        (0, 2, &[1, 2], &[1, 2]),
        (2, 2, &[3, 4], &[3, 4]),
        (3, 3, &[4, 5], &[4, 5]),
        (4, 9, &[5], &[5]),
        (5, 2, &[], &[5]),
        (9, 5, &[], &[1, 2, 3, 4, 5]),
        (-2, 2, &[], &[1, 2]),
        (i64::MAX, 2, &[], &[5]),
    ] {
        assert_eq!(window(&entries, start, size, false), page, "{start}, {size}");
        assert_eq!(window(&entries, start, size, true), nearest, "{start}, {size}");
    }
    assert!(window::<u8>(&[], 0, 2, true).is_empty());
}

#[test]
fn a_query_is_searched_for_in_labels_and_rule_names() {
    let known = |event: &str, query: Option<&str>| {
        let mut model = Model::default();
        model.add(json!({"externalId": "a", "eventName": event, "query": query}));
        model.subscriptions.remove(0)
    };
    let label_event = label_event("1");
    let rule = Emission::of(RULE.to_owned());
    let message = Emission::of(r#"{"eventName":"message-published"}"#.to_owned());
    let named =
        Emission::of(json!({"eventName": events::LABEL_EVENT, "data": {"labels": ["x", "VIP"]}}).to_string());
    let label = |label| Emission::of_label(label, &label_event);
    for (event, query, emission, wanted) in [
        (events::LABEL_EVENT, Some("CreateCase"), &label("CreateCase"), true),
        (events::LABEL_EVENT, Some("CreateCase"), &label("DoNotCreateCase"), true),
        (events::LABEL_EVENT, Some("^CreateCase$"), &label("DoNotCreateCase"), false),
        (events::LABEL_EVENT, Some("createcase"), &label("CreateCase"), false),
        (events::LABEL_EVENT, Some("^Größe \\(1\\)$"), &label("Größe (1)"), true),
        (events::LABEL_EVENT, Some("("), &label("("), false),
        (events::LABEL_EVENT, Some("VIP"), &named, true),
        (events::LABEL_EVENT, None, &label("CreateCase"), true),
        ("rule-applied", Some("^test"), &rule, true),
        ("rule-applied", Some("^Rule"), &rule, false),
        ("rule-applied", Some("CreateCase"), &label("CreateCase"), false),
        ("message-published", Some("anything"), &message, true),
    ] {
        assert_eq!(known(event, query).wants(emission), wanted, "{event} {query:?}");
    }
    assert!(known(events::LABEL_EVENT, Some("VIP")).wants(&Emission::of_label("VIP", "{}")));
    assert!(!known(events::LABEL_EVENT, Some("VIP")).wants(&Emission::of(label_event)));
}

#[tokio::test]
async fn a_subscription_is_made_updated_shown_and_deleted() {
    let caller = Caller::start().await;
    let (status, made) = caller.subscribe(subscription("a", "CreateCase")).await;
    let uuid = made["uuid"].as_str().unwrap().to_owned();
    assert_eq!((status, &made["status"], &made["query"]), (200, &json!("ACTIVE"), &json!("CreateCase")));
    assert_eq!(made["createdDate"], "2026-01-01T00:00:01.000Z");
    assert_eq!(made["key"], json!({"uuid": uuid, "companyId": COMPANY_ID, "eventName": events::LABEL_EVENT}));
    assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));

    let path = format!("/v2/events/subscription/{uuid}");
    assert_eq!(caller.send(Method::PUT, &format!("{path}/PAUSED")).await.0, 200);
    let (_, updated) = caller.subscribe(subscription("a", "VIP")).await;
    assert_eq!((&updated["uuid"], &updated["status"]), (&json!(uuid), &json!("PAUSED")));
    caller.khoros.model().echoes_bearer = false;
    let shown = caller.get(&path).await;
    assert_eq!((&shown["query"], &shown["bearerToken"]), (&json!("VIP"), &Value::Null));
    assert_eq!(caller.khoros.model().subscriptions, [subscription("a", "VIP")]);

    assert_eq!(caller.text(Method::PUT, &format!("{path}/active")).await, (422, String::new()));
    assert_eq!(caller.text(Method::PUT, "/v2/events/subscription/x/ACTIVE").await, (404, "{}".to_owned()));
    caller.khoros.model().duplicates = true;
    assert_ne!(caller.subscribe(subscription("a", "VIP")).await.1["uuid"], json!(uuid));
    assert_eq!(caller.send(Method::DELETE, &path).await.0, 200);
    assert_eq!(caller.text(Method::DELETE, &path).await, (404, "{}".to_owned()));
    assert_eq!(caller.khoros.model().subscriptions.len(), 1);
    let model = caller.khoros.model();
    assert_eq!((model.calls, model.puts, model.shows, model.deletes), (3, 3, 1, 2));
}

#[tokio::test]
async fn invalid_subscriptions_are_refused() {
    let caller = Caller::start().await;
    for field in ["externalId", "eventName"] {
        let mut sent = subscription("a", "CreateCase");
        sent.as_object_mut().unwrap().remove(field);
        assert_eq!(caller.subscribe(sent).await, (400, json!({})), "{field}");
    }
    let mut sent = subscription("a", "(");
    assert_eq!(caller.subscribe(sent.clone()).await.0, 400);
    sent["query"] = json!("CreateCase");
    sent["companyId"] = json!("1234");
    assert_eq!(caller.subscribe(sent.clone()).await.0, 400);
    let v1 = caller.http.post(format!("{}/subscription", caller.khoros.v1_api_url())).bearer_auth(TOKEN);
    assert_eq!(answered(v1.json(&sent)).await.0, 200);
    let v2 = caller.request(Method::POST, "/v2/events/subscription").bearer_auth(TOKEN).body("{");
    assert_eq!(answered(v2).await.0, 406);
    let feed_alone = json!({"externalId": "b", "eventName": "rule-applied"});
    assert_eq!(caller.subscribe(feed_alone).await.0, 200);
}

#[tokio::test]
async fn lists_are_paged() {
    let caller = Caller::start().await;
    for name in ["a", "b", "c"] {
        caller.subscribe(subscription(name, "CreateCase")).await;
    }
    assert_eq!(caller.get("/v2/events/subscription").await, json!([]));
    assert_eq!(caller.page(0, 2).await, ["a", "b"]);
    assert_eq!(caller.page(1, 2).await, ["c"]);
    assert!(caller.page(2, 2).await.is_empty());
    caller.khoros.model().repeats_last_page = true;
    assert_eq!(caller.page(7, 2).await, ["c"]);
    caller.khoros.model().first_page = 1;
    assert_eq!(caller.page(0, 2).await, ["a", "b"]);
    assert_eq!(caller.page(1, 2).await, ["a", "b"]);
    assert_eq!(caller.page(2, 2).await, ["c"]);
    caller.khoros.model().style = Style::JsonUnderData;
    let list = caller.get("/v2/events/subscription?pageNumber=2&pageSize=2").await;
    assert_eq!((&list["data"][0]["externalId"], &list["status"]["succeeded"]), (&json!("c"), &json!(true)));
    caller.khoros.queue(Call::List, [Answer::Text, Answer::Nothing, Answer::Html]);
    let path = "/v2/events/subscription?pageNumber=1&pageSize=2";
    assert_eq!(caller.text(Method::GET, path).await, (200, "Coming Soon".to_owned()));
    assert_eq!(caller.text(Method::GET, path).await, (204, String::new()));
    assert!(caller.text(Method::GET, path).await.1.starts_with("<html>"));
    assert_eq!(caller.khoros.model().lists, 12);
}

#[tokio::test]
async fn pushes_are_lost_doubled_and_late_and_the_feed_has_each_once() {
    let caller = Caller::start().await;
    let uuid = caller.listen("a", "^CreateCase$").await;
    let (lost, twice, late) = (PushFault::Lost, PushFault::Twice, PushFault::Late);
    caller.khoros.model().push_faults = VecDeque::from([lost, twice, late, late]);
    let mut answers = Vec::new();
    for event in ["1", "2", "3", "4", "5"] {
        answers.push(caller.khoros.apply_label("CreateCase", &label_event(event)).await.len());
    }
    assert_eq!(
        (answers, caller.arrived()),
        (vec![0, 2, 0, 0, 3], ["2", "2", "5", "3", "4"].map(String::from).to_vec())
    );
    caller.khoros.model().push_faults.push_back(late);
    assert!(caller.khoros.apply_label("CreateCase", &label_event("6")).await.is_empty());
    assert_eq!(caller.khoros.release().await.len(), 1);
    assert_eq!(caller.pushed.lock().unwrap()[0], ("Bearer secret".to_owned(), "6".to_owned()));
    caller.khoros.model().feed_shape = FeedShape::Array;
    assert_eq!(caller.feed(&uuid, 0, 9).await, ["1", "2", "3", "4", "5", "6"]);
}

#[tokio::test]
async fn inactive_subscriptions_are_not_called() {
    let caller = Caller::start().await;
    let (paused, active) = (caller.listen("a", "CreateCase").await, caller.listen("b", "CreateCase").await);
    caller.khoros.model().feed_shape = FeedShape::Array;
    caller.khoros.model().set_status(&paused, Status::Paused);
    assert_eq!(caller.khoros.apply_label("CreateCase", &label_event("1")).await.len(), 1);
    caller.khoros.model().feeds_while_paused = true;
    caller.khoros.apply_label("CreateCase", &label_event("2")).await;
    caller.khoros.model().set_status(&paused, Status::Disabled);
    caller.khoros.model().repoint(&active, "http://127.0.0.1:9/");
    let answers = caller.khoros.apply_label("CreateCase", &label_event("3")).await;
    assert!(answers.len() == 1 && answers[0].is_err());
    assert_eq!(caller.arrived(), ["1", "2"]);
    assert_eq!(caller.feed(&paused, 0, 9).await, ["2"]);
    assert_eq!(caller.feed(&active, 0, 9).await, ["1", "2", "3"]);
    assert!(caller.khoros.emit(RULE).await.is_empty());
}

#[tokio::test]
async fn feeds_are_read_in_every_order_and_shape() {
    let caller = Caller::start().await;
    let uuid = caller.khoros.model().add(json!({"externalId": "a", "eventName": "rule-applied"}));
    for event in ["1", "2", "3"] {
        caller.khoros.emit(json!({"eventName": "rule-applied", "eventUuid": event})).await;
    }
    let path = format!("/v2/events/data/{uuid}");
    let page = format!("{path}?offset=2&limit=5");
    assert_eq!(caller.text(Method::GET, &page).await.1, "Coming Soon");
    caller.khoros.model().feed_shape = FeedShape::Array;
    assert_eq!(caller.get(&path).await, json!([]));
    assert_eq!(caller.feed(&uuid, 0, 2).await, ["1", "2"]);
    assert_eq!(caller.feed(&uuid, 1, 2).await, ["2", "3"]);
    assert!(caller.feed(&uuid, 3, 2).await.is_empty());
    caller.khoros.model().feed_repeats_last_page = true;
    assert_eq!(caller.feed(&uuid, 3, 2).await, ["3"]);
    caller.khoros.model().feed_order = FeedOrder::NewestFirst;
    assert_eq!(caller.feed(&uuid, 0, 2).await, ["3", "2"]);
    caller.khoros.model().feed_shape = FeedShape::UnderData;
    assert_eq!(caller.get(&page).await["data"][0]["eventUuid"], "1");
    caller.khoros.model().feed_shape = FeedShape::Single;
    assert_eq!(caller.get(&page).await["eventUuid"], "1");
    assert_eq!(texts_at(&caller.get(&format!("{path}?limit=2")).await, "eventUuid"), ["3", "2"]);
    assert_eq!(caller.text(Method::GET, "/v2/events/data/x?limit=1").await, (404, "{}".to_owned()));
    assert_eq!(caller.text(Method::GET, &format!("{path}?limit=-1")).await, (400, "{}".to_owned()));
    assert_eq!(caller.khoros.model().feed_reads, 12);
}

#[tokio::test]
async fn the_account_and_its_labels_can_be_read() {
    let caller = Caller::start().await;
    let whoami = caller.get("/v2/whoami/").await;
    assert_eq!(whoami["companies"][0]["id"], DIRECTORY_ID);
    assert_eq!(whoami["companies"][0]["products"][0]["externalCompanyId"], COMPANY_ID.to_string());
    let labels = (1..=9).map(|number| (format!("Label {number}"), "ACTIVE".to_owned())).collect();
    caller.khoros.model().labels = labels;
    let page = caller.get("/v2/labelsets/?pageNumber=2&pageSize=2").await;
    assert_eq!((&page["totalRecords"], page["data"].as_array().unwrap().len()), (&json!(3), 1));
    assert_eq!(page["data"][0]["labels"][0]["name"], "Label 9");
    assert_eq!(caller.send(Method::GET, "/v2/labelsets/?pageNumber=1").await.0, 400);
}

#[tokio::test]
async fn an_outage_meets_every_call() {
    let caller = Caller::start().await;
    let uuid = caller.listen("a", "CreateCase").await;
    let calls = [
        (Method::GET, "/v2/whoami/".to_owned()),
        (Method::GET, "/v2/labelsets/?pageNumber=1&pageSize=20".to_owned()),
        (Method::GET, format!("/v2/events/data/{uuid}?limit=1")),
        (Method::DELETE, format!("/v2/events/subscription/{uuid}")),
        (Method::PUT, format!("/v2/events/subscription/{uuid}/PAUSED")),
    ];
    for (outage, status, text) in [
        (Answer::Html, 200, "<html><h1>Welcome</h1></html>"),
        (Answer::ServiceNotFound, 586, "<html><h1>Service Not Found</h1></html>"),
        (Answer::DeveloperInactive, 403, "<html><h1>Developer Inactive</h1></html>"),
        (Answer::Throttled, 403, "Account Over Queries Per Second Limit"),
        (Answer::Text, 200, "Coming Soon"),
        (Answer::Nothing, 204, ""),
        (Answer::Status(503), 503, ""),
    ] {
        caller.khoros.model().outage = Some(outage);
        for (method, path) in &calls {
            assert_eq!(caller.text(method.clone(), path).await, (status, text.to_owned()), "{path}");
        }
    }
    caller.khoros.model().outage = Some(Answer::Reset);
    let whoami = || caller.request(Method::GET, "/v2/whoami/").bearer_auth(TOKEN);
    assert!(whoami().send().await.is_err());
    caller.khoros.model().outage = Some(Answer::Throttled);
    assert!(whoami().send().await.unwrap().headers().contains_key("x-mashery-error-code"));
    caller.khoros.model().outage = None;
    caller.khoros.queue(Call::SetStatus, [Answer::ResetAfter]);
    let pause = caller.request(calls[4].0.clone(), &calls[4].1).bearer_auth(TOKEN);
    assert!(pause.send().await.is_err());
    assert_eq!(caller.khoros.model().subscriptions[0].status, Status::Paused);
}

#[tokio::test]
async fn strangers_and_unknown_paths_are_turned_away() {
    let caller = Caller::start().await;
    for authorization in ["", "bearer sandbox-khoros-token", "Bearer sandbox-khoros-token2"] {
        let request = caller.request(Method::GET, "/v2/whoami/").header("authorization", authorization);
        assert_eq!(answered(request).await.0, 401, "{authorization}");
    }
    assert_eq!(answered(caller.request(Method::GET, "/.well-known/x")).await.0, 401);
    for (method, path) in [
        (Method::GET, "/v1/events/company/1234/subscription"),
        (Method::GET, "/v1/events/company/1234/data/x"),
        (Method::PUT, "/v1/events/company/1234/subscription/x/ACTIVE"),
        (Method::PUT, "/v2/events/subscription"),
        (Method::GET, "/v2/Events/subscription"),
    ] {
        let (status, text) = caller.text(method, path).await;
        assert_eq!((status, text.contains("Service Not Found")), (586, true), "{path}");
    }
}
