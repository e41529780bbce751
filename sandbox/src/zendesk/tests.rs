//! Tests of the stand-in itself.

use std::time::Duration;

use jiff::SignedDuration;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::*;

struct Caller {
    zendesk: Zendesk,
    http: reqwest::Client,
}

impl Caller {
    async fn start() -> Caller {
        Caller { zendesk: Zendesk::start().await.unwrap(), http: crate::http_client().build().unwrap() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v2/{path}", self.zendesk.url())
    }

    async fn send(&self, request: RequestBuilder) -> (u16, Value) {
        let user = format!("{USER_EMAIL}/token");
        let response = request.basic_auth(user, Some(API_TOKEN)).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.http.get(self.url(path))).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(self.http.post(self.url(path)).json(&body)).await
    }

    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(self.http.put(self.url(path)).json(&body)).await
    }

    async fn ticket(&self, fields: Value) -> (u16, Value) {
        let mut ticket = json!({"comment": {"body": "{{ticket.id}}, {% x %} {{", "public": true}});
        for (field, value) in fields.as_object().unwrap() {
            ticket[field] = value.clone();
        }
        self.post("tickets", json!({"ticket": ticket})).await
    }
}

fn comment(text: &str) -> Value {
    json!({"ticket": {"comment": {"body": text, "public": false}}})
}

#[tokio::test]
async fn users_are_found_written_suspended_and_deleted() {
    let caller = Caller::start().await;
    let user = |name: &str| json!({"user": {"name": name, "external_id": "Twitter:1"}});
    let (status, made) = caller.post("users/create_or_update", user(" Jane Doe ")).await;
    assert_eq!((status, &made["user"]["id"]), (201, &json!(5000)));
    assert_eq!(caller.post("users/create_or_update", user("Jane")).await.0, 429);
    assert_eq!(caller.zendesk.model().too_many_user_writes, 1);
    caller.zendesk.model().last_user_write = None;
    assert_eq!(caller.post("users/create_or_update", user("Jane Doe")).await.0, 200);
    caller.zendesk.model().last_user_write = None;
    let (status, refused) = caller.post("users/create_or_update", user(" ")).await;
    assert_eq!((status, &refused["details"]["name"][0]["error"]), (422, &json!("ValueTooShort")));
    assert_eq!(caller.get("users/show_many?external_ids=x,twitter:1").await.1["count"], 1);
    assert_eq!(caller.get("users/me").await.1["user"]["id"], SERVICE_USER);
    let nobody = caller.http.get(caller.url("users/me")).send().await.unwrap();
    assert_eq!(nobody.status(), 200);

    let hers = json!({"requester_id": 5000, "submitter_id": 5000});
    let (status, made) = caller.ticket(hers.clone()).await;
    assert_eq!((status, &made["audit"]["events"][1]["author_id"]), (201, &json!(5000)));
    assert_eq!(caller.zendesk.model().tickets[0]["comment"]["body"], "{{ticket.id}}, {% x %} {{");
    caller.zendesk.model().suspend_user(5000);
    let (status, refused) = caller.ticket(hers.clone()).await;
    let text = &refused["details"]["requester"][0]["description"];
    assert_eq!((status, text), (422, &json!("Requester: Jane Doe is suspended.")));
    caller.zendesk.model().delete_user(5000);
    assert_eq!(caller.ticket(hers).await.1["details"]["requester"][0]["error"], "InvalidValue");
    assert_eq!(caller.get("users/show_many?external_ids=Twitter:1").await.1["count"], 0);
    caller.zendesk.model().forbid_users = true;
    assert_eq!(caller.get("users/show_many?external_ids=1").await.0, 403);
}

#[tokio::test]
async fn tickets_are_updated_closed_and_followed_up() {
    let caller = Caller::start().await;
    let (_, made) = caller.ticket(json!({"tags": ["khoros", "größe:1"]})).await;
    assert_eq!(caller.zendesk.model().tickets[0]["comment"]["body"], "[expanded], [expanded] {{");
    let stamp = &made["ticket"]["updated_at"];
    assert_eq!(stamp, "2026-01-01T00:00:01Z");
    let (status, updated) = caller.put("tickets/1000", comment("more")).await;
    assert_eq!((status, &updated["ticket"]["updated_at"]), (200, &json!("2026-01-01T00:00:02Z")));
    let mut guarded = comment("again");
    guarded["ticket"]["safe_update"] = json!(true);
    guarded["ticket"]["updated_stamp"] = stamp.clone();
    assert_eq!(caller.put("tickets/1000", guarded.clone()).await.0, 409);
    guarded["ticket"]["updated_stamp"] = updated["ticket"]["updated_at"].clone();
    assert_eq!(caller.put("tickets/1000", guarded).await.0, 200);
    assert_eq!(caller.put("tickets/1000", json!({"ticket": {"tags": ["a"]}})).await.0, 422);
    let (status, tags) = caller.put("tickets/1000/tags", json!({"tags": ["new", "khoros"]})).await;
    assert_eq!((status, tags), (200, json!({"tags": ["khoros", "größe:1", "new"]})));
    assert_eq!(caller.zendesk.model().comments(1000).len(), 3);

    assert_eq!(caller.ticket(json!({"via_followup_source_id": 1000})).await.0, 422);
    caller.zendesk.model().set_status(1000, "closed");
    let (status, refused) = caller.put("tickets/1000", comment("late")).await;
    let text = &refused["details"]["status"][0]["description"];
    assert_eq!((status, text), (422, &json!("closed prevents ticket update")));
    let (status, follow_up) = caller.ticket(json!({"via_followup_source_id": 1000})).await;
    assert_eq!((status, &follow_up["ticket"]["tags"][2]), (201, &json!("new")));
    caller.zendesk.model().delete_ticket(1001);
    assert_eq!(caller.get("tickets/1001").await.0, 404);
    assert_eq!(caller.put("tickets/1001", comment("gone")).await.0, 404);
    assert_eq!(caller.ticket(json!({})).await.1["ticket"]["id"], 1002);
    for field in ["group_id", "assignee_id", "brand_id", "ticket_form_id"] {
        assert_eq!(caller.ticket(json!({field: 99})).await.0, 422, "{field}");
    }
    assert_eq!(caller.ticket(json!({"custom_fields": [{"id": 50, "value": "x"}]})).await.0, 201);
    assert_eq!(caller.ticket(json!({"custom_fields": [{"id": 52, "value": "x"}]})).await.0, 422);
}

#[tokio::test]
async fn a_search_finds_tickets_by_the_words_of_a_link() {
    let caller = Caller::start().await;
    let search = |query: &str, page: &str| {
        let request = caller.http.get(caller.url("search")).query(&[("query", query), ("page", page)]);
        caller.send(request)
    };
    for link in ["https://a.example/1", "https://a.example/1/2", "https://b.example/1"] {
        caller.zendesk.model().add_old_ticket(link, "twitter:1");
    }
    caller.zendesk.model().archived.insert(1000);
    let (status, found) = search("type:ticket external_id:\"https://A.example/1\"", "1").await;
    assert_eq!((status, &found["count"], &found["next_page"]), (200, &json!(2), &Value::Null));
    assert_eq!(found["results"][0]["external_id"], "https://a.example/1");
    assert_eq!(caller.get("tickets?external_id=https://a.example/1").await.1["count"], 0);
    assert_eq!(caller.get("tickets/1000").await.0, 200);
    for query in ["type:ticket", "type:ticket external_id:\"a\"b\"", "type:ticket external_id:\"a\\\""] {
        assert_eq!(search(query, "1").await.0, 422, "{query}");
    }
    for _ in 0..100 {
        caller.zendesk.model().add_old_ticket("many", "twitter:1");
    }
    assert_eq!(search("type:ticket external_id:\"many\"", "1").await.1["next_page"], Value::Null);
    caller.zendesk.model().add_old_ticket("many", "twitter:1");
    assert!(search("type:ticket external_id:\"many\"", "1").await.1["next_page"].is_string());
    assert_eq!(search("type:ticket external_id:\"many\"", "2").await.1["results"][0]["id"], 1103);
    assert_eq!(search("type:ticket external_id:\"many\"", "11").await.0, 422);
    caller.zendesk.model().search_faults = [Fault::Status(503), Fault::TooMany(1)].into();
    for status in [503, 429] {
        assert_eq!(search("type:ticket external_id:\"many\"", "1").await.0, status);
    }
    assert_eq!(caller.zendesk.model().searches, 10);
}

#[tokio::test]
async fn audits_come_in_pages() {
    let caller = Caller::start().await;
    caller.ticket(json!({})).await;
    for n in 0..4 {
        caller.put("tickets/1000", comment(&n.to_string())).await;
    }
    assert_eq!(caller.get("tickets/1000/audits").await.1["count"], 5);
    let mut seen = Vec::new();
    let mut url = caller.url("tickets/1000/audits?page%5Bsize%5D=2&sort=-created_at");
    loop {
        let (_, page) = caller.send(caller.http.get(&url)).await;
        seen.extend(page["audits"].as_array().unwrap().iter().map(|audit| audit["id"].as_u64().unwrap()));
        match page["links"]["next"].as_str() {
            Some(next) => url = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|a, b| a > b));
}

#[tokio::test]
async fn updates_meet_limits_and_faults() {
    let caller = Caller::start().await;
    caller.ticket(json!({})).await;
    let late = Duration::from_millis(50);
    caller.zendesk.queue_updates([Fault::Status(500), Fault::StatusAfterCreate(502), Fault::TooMany(1)]);
    for status in [500, 502, 429] {
        assert_eq!(caller.put("tickets/1000", comment("x")).await.0, status);
    }
    caller.zendesk.queue_updates([Fault::Late(late)]);
    let user = format!("{USER_EMAIL}/token");
    let request = caller.http.put(caller.url("tickets/1000")).json(&comment("late"));
    assert!(request.basic_auth(user, Some(API_TOKEN)).send().await.is_err());
    caller.zendesk.wait_until(|model| model.comments(1000).len() == 3).await;
    for _ in 4..30 {
        assert_eq!(caller.put("tickets/1000", comment("x")).await.0, 200);
    }
    assert_eq!(caller.put("tickets/1000", comment("x")).await.0, 429);
    caller.zendesk.model().ticket_updates.clear();
    caller.zendesk.model().update_limit = 31;
    assert_eq!(caller.put("tickets/1000/tags", json!({"tags": []})).await.0, 200);
    assert_eq!(caller.put("tickets/1000/tags", json!({"tags": []})).await.0, 429);
    assert_eq!(caller.zendesk.model().too_many_updates, 2);
}

#[tokio::test]
async fn a_token_may_do_what_its_scope_says() {
    let caller = Caller::start().await;
    let wanted = json!({"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "expires_in": 600,
        "grant_type": "client_credentials", "scope": "tickets:write tickets:read"});
    let minted =
        caller.http.post(format!("{}/oauth/tokens", caller.zendesk.url())).json(&wanted).send().await;
    let minted: Value = minted.unwrap().json().await.unwrap();
    let token = minted["access_token"].as_str().unwrap();
    for (path, status) in [("tickets/count", 200), ("users/me", 403), ("users/show_many", 403)] {
        let response = caller.http.get(caller.url(path)).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

#[tokio::test]
async fn the_account_setup_can_be_read() {
    let caller = Caller::start().await;
    for (path, field) in [
        ("groups/10", "group"),
        ("users/20", "user"),
        ("brands/30", "brand"),
        ("ticket_forms/40", "ticket_form"),
        ("ticket_fields/50", "ticket_field"),
    ] {
        let (status, shown) = caller.get(path).await;
        let number = path.split_once('/').unwrap().1;
        assert_eq!((status, shown[field]["id"].to_string().as_str()), (200, number), "{path}");
        assert_eq!(caller.get(&format!("{path}9")).await.0, 404, "{path}");
        let stranger = caller.http.get(caller.url(path)).send().await.unwrap();
        assert_eq!(stranger.status(), 401, "{path}");
    }
    caller.zendesk.model().known.inactive.extend([10, 20, 30, 40, 50]);
    assert_eq!(caller.get("groups/10").await.1["group"]["deleted"], true);
    assert_eq!(caller.get("users/20").await.1["user"]["suspended"], true);
    assert_eq!(caller.get("ticket_forms/40").await.1["ticket_form"]["active"], false);
    assert_eq!(caller.get("users/4000").await.1["user"]["role"], "agent");

    caller.zendesk.model().clock_ahead = SignedDuration::from_hours(-24);
    let response = caller.http.get(caller.url("groups/10")).send().await.unwrap();
    let date = response.headers()["date"].to_str().unwrap();
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).unwrap();
    assert!(date < jiff::Timestamp::now() - SignedDuration::from_hours(23), "{date}");
}

#[tokio::test]
async fn tickets_are_merged_and_deleted_and_rehearsals_closed() {
    let caller = Caller::start().await;
    for subject in ["casebridge rehearsal", "Printer", "Printer"] {
        caller.ticket(json!({"subject": subject})).await;
    }
    let closed = json!({"ticket": {"status": "closed"}});
    assert_eq!(caller.put("tickets/1001", closed.clone()).await.0, 422);
    assert_eq!(caller.put("tickets/1000", closed).await.1["ticket"]["status"], "closed");
    assert_eq!(caller.post("tickets/1002/merge", json!({"ids": [1000]})).await.0, 422);
    let (status, merged) = caller.post("tickets/1002/merge", json!({"ids": [1001]})).await;
    assert_eq!((status, &merged["job_status"]["status"]), (200, &json!("queued")));
    assert_eq!(caller.get("tickets/1001").await.1["ticket"]["tags"], json!(["closed_by_merge"]));
    let delete = || caller.send(caller.http.delete(caller.url("tickets/1002")));
    assert_eq!((delete().await.0, delete().await.0), (204, 404));
    assert_eq!(caller.get("deleted_tickets").await.1["deleted_tickets"], json!([{"id": 1002}]));
}
