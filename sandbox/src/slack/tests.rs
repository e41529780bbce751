//! The stand-in behaves as its documentation and Slack's say.

use reqwest::Client;
use serde_json::{Value, json};

use super::*;

struct Caller {
    slack: Slack,
    http: Client,
}

impl Caller {
    async fn new() -> Caller {
        let slack = Slack::start().await.unwrap();
        slack.model().pace = Duration::ZERO;
        Caller { slack, http: Client::new() }
    }

    async fn write(&self, method: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/{method}", self.slack.api_url())).bearer_auth(TOKEN);
        let request =
            request.header("content-type", "application/json; charset=utf-8").body(body.to_string());
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn post(&self, more: Value) -> Value {
        let mut body =
            json!({ "channel": CHANNEL, "text": "text", "unfurl_links": false, "unfurl_media": false });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.write("chat.postMessage", body).await
    }

    async fn read(&self, method: &str, query: &str) -> Value {
        let url = format!("{}/{method}?channel={CHANNEL}&{query}", self.slack.api_url());
        self.http.get(url).bearer_auth(TOKEN).send().await.unwrap().json().await.unwrap()
    }
}

fn section(text: &str) -> Value {
    json!([{ "type": "section", "text": { "type": "mrkdwn", "text": text } }])
}

#[tokio::test]
async fn time_stamps_increase_and_threads_have_their_replies() {
    let caller = Caller::new().await;
    let root = caller.post(json!({})).await;
    let second = caller.post(json!({})).await;
    assert!(root["ts"].as_str() < second["ts"].as_str());
    let reply = caller.post(json!({ "thread_ts": root["ts"] })).await;
    assert_eq!((&reply["ok"], &reply["message"]["thread_ts"]), (&json!(true), &root["ts"]));
    for unknown in [json!("1.000001"), reply["ts"].clone()] {
        assert_eq!(caller.post(json!({ "thread_ts": unknown })).await["error"], "thread_not_found");
    }
    let history = caller.read("conversations.history", "").await;
    let listed: Vec<&Value> = history["messages"].as_array().unwrap().iter().map(|it| &it["ts"]).collect();
    assert_eq!(listed, [&second["ts"], &root["ts"]]);
    let replies = caller.read("conversations.replies", &format!("ts={}", root["ts"].as_str().unwrap())).await;
    assert_eq!(replies["messages"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_history_has_pages_and_metadata_on_request() {
    let caller = Caller::new().await;
    let metadata = json!({ "event_type": "test", "event_payload": { "id": 1 } });
    for _ in 0..3 {
        caller.post(json!({ "metadata": metadata })).await;
    }
    let page = caller.read("conversations.history", "limit=2&include_all_metadata=true").await;
    assert_eq!(page["messages"][0]["metadata"], metadata);
    let cursor = page["response_metadata"]["next_cursor"].as_str().unwrap();
    let last = caller.read("conversations.history", &format!("limit=2&cursor={cursor}")).await;
    assert_eq!((last["messages"].as_array().unwrap().len(), &last["has_more"]), (1, &json!(false)));
    assert_eq!(last["messages"][0]["metadata"], json!({ "event_type": "test" }));
}

#[tokio::test]
async fn a_channel_takes_one_message_a_second() {
    let caller = Caller::new().await;
    caller.slack.model().pace = Duration::from_secs(3600);
    caller.slack.model().add_channel("C0SANDBOX2");
    assert_eq!(caller.post(json!({})).await["ok"], true);
    assert_eq!(caller.post(json!({})).await["error"], "ratelimited");
    assert_eq!(caller.post(json!({ "channel": "C0SANDBOX2" })).await["ok"], true);
}

#[tokio::test]
async fn limits_are_kept() {
    let caller = Caller::new().await;
    for (message, error) in [
        (json!({ "text": " " }), "no_text"),
        (json!({ "link_names": true }), "invalid_arg_name"),
        (json!({ "blocks": section(&"x".repeat(3001)) }), "invalid_blocks"),
        (
            json!({ "blocks": [{ "type": "rich_text", "block_id": "x".repeat(256), "elements": [] }] }),
            "invalid_blocks",
        ),
        (json!({ "metadata": { "event_type": "test" } }), "invalid_metadata_format"),
        (json!({ "channel": "C0ELSEWHERE" }), "channel_not_found"),
    ] {
        assert_eq!(caller.post(message.clone()).await["error"], error, "{message}");
    }
    caller.post(json!({ "text": "x".repeat(4040) })).await;
    assert_eq!(caller.slack.model().channel(CHANNEL).messages.len(), 1);
    caller.post(json!({ "text": "x".repeat(4041) })).await;
    assert_eq!(caller.slack.model().channel(CHANNEL).messages.len(), 3);
}

#[tokio::test]
async fn scopes_and_channels_are_checked() {
    let caller = Caller::new().await;
    caller.slack.model().scopes.remove("channels:history");
    assert_eq!(caller.read("conversations.history", "").await["error"], "missing_scope");
    caller.slack.model().channel(CHANNEL).is_archived = true;
    assert_eq!(caller.post(json!({})).await["error"], "is_archived");
    caller.slack.model().token = "xoxb-another".to_owned();
    assert_eq!(caller.post(json!({})).await["error"], "invalid_auth");
}

#[tokio::test]
async fn only_markup_that_slack_parses_notifies() {
    let caller = Caller::new().await;
    for (more, notified) in [
        (json!({ "text": "<!here> <@U1> &lt;!channel&gt; @here" }), vec!["<!here>", "<@U1>"]),
        (json!({ "blocks": section("<!channel>") }), vec!["<!channel>"]),
        (
            json!({ "blocks": [{ "type": "rich_text", "elements": [{ "type": "rich_text_quote", "elements": [
                { "type": "text", "text": "<!here>" }, { "type": "usergroup", "usergroup_id": "S1" },
            ] }] }] }),
            vec!["<!subteam^S1>"],
        ),
    ] {
        caller.post(more.clone()).await;
        let model = caller.slack.model();
        assert_eq!(model.channels[CHANNEL].messages.last().unwrap().notified, notified, "{more}");
    }
}

#[tokio::test]
async fn an_edit_keeps_the_kind_of_blocks_and_has_new_ids() {
    let caller = Caller::new().await;
    let rich = |id: &str| {
        let text = json!({ "type": "text", "text": "text" });
        json!([{ "type": "rich_text", "block_id": id, "elements": [{ "type": "rich_text_section", "elements": [text] }] }])
    };
    let ts = caller.post(json!({ "blocks": rich("a") })).await["ts"].clone();
    let edit =
        |ts: &Value, blocks: Value| json!({ "channel": CHANNEL, "ts": ts, "text": "new", "blocks": blocks });
    for (ts, blocks, error) in [
        (&ts, rich("a"), json!("invalid_blocks")),
        (&ts, section("text"), json!("block_mismatch")),
        (&json!("1.000001"), rich("b"), json!("message_not_found")),
        (&ts, rich("b"), Value::Null),
    ] {
        assert_eq!(caller.write("chat.update", edit(ts, blocks.clone())).await["error"], error, "{blocks}");
    }
    let model = caller.slack.model();
    let message = &model.channels[CHANNEL].messages[0];
    assert_eq!((message.text.as_str(), message.edits), ("new", 1));
}
