//! A stand-in for Slack's Web API: channels with messages and threads. It knows the methods and arguments that
//! casebridge uses, and refuses others. Errors are HTTP 200 with a word, as at Slack.

mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::faults::process;
pub use crate::faults::{Chaos, Fault, Faults};
use crate::stand_in::StandIn;
pub use message::Message;

/// The bot token that it knows unless [`Model::token`] is changed.
pub const TOKEN: &str = "xoxb-1234-5678-sandbox-slack-token";
/// The id of the app's bot.
pub const BOT_ID: &str = "B0SANDBOX1";
/// Every scope that it knows.
pub const SCOPES: &[&str] = &["chat:write", "channels:history", "groups:history"];
/// The channel that exists from the start; [`Model::add_channel`] adds others.
pub const CHANNEL: &str = "C0SANDBOX1";

/// A channel.
#[derive(Default)]
pub struct Channel {
    /// Every message that is there, the oldest first.
    pub messages: Vec<Message>,
    /// Nothing can be posted.
    pub is_archived: bool,
    /// The bot was not invited.
    pub is_uninvited: bool,
    posted_at: Option<Instant>,
}

impl Channel {
    /// The messages outside threads.
    pub fn roots(&self) -> Vec<&Message> {
        self.messages.iter().filter(|message| message.thread_ts.is_none()).collect()
    }

    /// The replies to a message.
    pub fn replies(&self, root: &str) -> Vec<&Message> {
        self.messages.iter().filter(|message| message.thread_ts.as_deref() == Some(root)).collect()
    }
}

/// The state of Slack, and what a test changes in its behaviour.
pub struct Model {
    /// The channels by their ids.
    pub channels: BTreeMap<String, Channel>,
    /// The bot token.
    pub token: String,
    /// The scopes of the token.
    pub scopes: BTreeSet<&'static str>,
    /// The least time between two messages in a channel.
    pub pace: Duration,
    /// The number of requests, by method.
    pub calls: BTreeMap<String, usize>,
    /// The bodies of all edits that it took.
    pub edits: Vec<Value>,
    /// Messages with metadata are refused with this word.
    pub refuses_metadata: Option<&'static str>,
    /// Messages with blocks are refused with this word.
    pub refuses_blocks: Option<&'static str>,
    /// Metadata is not stored, as if it were not registered.
    pub drops_metadata: bool,
    /// What goes wrong with new messages. An outage is one of all requests.
    pub faults: Faults,
    /// What goes wrong with edits.
    pub edit_faults: Faults,
    /// What goes wrong with lookups.
    pub read_faults: Faults,
    last_ts: i64,
}

impl Model {
    /// Adds a channel to which the bot was invited.
    pub fn add_channel(&mut self, id: &str) {
        self.channels.insert(id.to_owned(), Channel::default());
    }

    /// A channel that exists.
    #[allow(clippy::missing_panics_doc, clippy::expect_used, reason = "a test names one that it has added")]
    pub fn channel(&mut self, id: &str) -> &mut Channel {
        self.channels.get_mut(id).expect("the channel exists")
    }

    /// The number of requests of a method.
    pub fn count(&self, method: &str) -> usize {
        self.calls.get(method).copied().unwrap_or_default()
    }

    /// Deletes a message; its replies stay.
    pub fn delete(&mut self, channel: &str, ts: &str) {
        self.channel(channel).messages.retain(|message| message.ts != ts);
    }

    fn fault(&mut self, method: &str) -> Option<Fault> {
        *self.calls.entry(method.to_owned()).or_default() += 1;
        match method {
            "chat.postMessage" => self.faults.take(),
            _ if self.faults.outage.is_some() => self.faults.outage.clone(),
            "chat.update" => self.edit_faults.take(),
            "conversations.history" | "conversations.replies" => self.read_faults.take(),
            _ => None,
        }
    }

    fn call(&mut self, call: &Call) -> Response {
        if call.bearer.as_deref() != Some(&self.token) {
            let word = if call.bearer.is_none() { "not_authed" } else { "invalid_auth" };
            return refusal(word);
        }
        let answer = match (call.method.as_str(), &call.http) {
            ("auth.test", _) => Ok(json!({
                "ok": true, "team": "Sandbox", "team_id": "T0SANDBOX1", "user": "casebridge", "user_id": "U0SANDBOX1",
                "bot_id": BOT_ID,
            })),
            ("chat.postMessage", &Method::POST) => match self.too_soon(&call.arguments) {
                Some(response) => return response,
                None => self.post(&call.arguments),
            },
            ("chat.update", &Method::POST) => self.update(&call.arguments),
            ("conversations.history", &Method::GET) => self.history(&call.arguments, false),
            ("conversations.replies", &Method::GET) => self.history(&call.arguments, true),
            _ => Err("unknown_method"),
        };
        answer.map_or_else(refusal, |answer| Json(answer).into_response())
    }

    /// The answer to a message that comes too soon after the last one of its channel.
    fn too_soon(&mut self, arguments: &Value) -> Option<Response> {
        let pace = self.pace;
        let channel = self.channels.get(arguments["channel"].as_str()?)?;
        let wait = pace.saturating_sub(channel.posted_at?.elapsed());
        // A second that was shortened on the way is no offence.
        (wait > pace / 20).then(|| {
            let headers = [(header::RETRY_AFTER, wait.as_secs().max(1).to_string())];
            (StatusCode::TOO_MANY_REQUESTS, headers, r#"{"ok":false,"error":"ratelimited"}"#).into_response()
        })
    }

    fn post(&mut self, arguments: &Value) -> Result<Value, &'static str> {
        self.check_scope("chat:write")?;
        message::check(arguments, message::POST)?;
        self.check_refusals(arguments)?;
        let id = arguments["channel"].as_str().unwrap_or_default();
        let thread = arguments["thread_ts"].as_str();
        let channel = self.writable(id)?;
        if thread.is_some_and(|ts| {
            !channel.messages.iter().any(|known| known.ts == ts && known.thread_ts.is_none())
        }) {
            return Err("thread_not_found");
        }
        channel.posted_at = Some(Instant::now());
        let mut first = None;
        for part in message::split(arguments) {
            let ts = self.next_ts();
            let message = Message::new(&ts, &part, self.drops_metadata);
            first.get_or_insert((ts, message.json(true)));
            self.channel(id).messages.push(message);
        }
        let (ts, message) = first.ok_or("no_text")?;
        Ok(json!({ "ok": true, "channel": id, "ts": ts, "message": message }))
    }

    fn update(&mut self, arguments: &Value) -> Result<Value, &'static str> {
        self.check_scope("chat:write")?;
        message::check(arguments, message::UPDATE)?;
        let (id, ts) = (arguments["channel"].as_str().unwrap_or_default(), arguments["ts"].as_str());
        let drops_metadata = self.drops_metadata;
        let known = self.writable(id)?.messages.iter_mut().find(|known| Some(known.ts.as_str()) == ts);
        let known = known.ok_or("message_not_found")?;
        known.edit(arguments, drops_metadata)?;
        let ts = known.ts.clone();
        self.edits.push(arguments.clone());
        Ok(json!({ "ok": true, "channel": id, "ts": ts, "text": arguments["text"] }))
    }

    fn history(&self, arguments: &Value, of_thread: bool) -> Result<Value, &'static str> {
        const KNOWN: &[&str] = &["channel", "oldest", "limit", "cursor", "include_all_metadata"];
        let fields = arguments.as_object().ok_or("invalid_arguments")?;
        let is_known = |name: &String| KNOWN.contains(&name.as_str()) || of_thread && name == "ts";
        if !fields.keys().all(is_known) {
            return Err("invalid_arg_name");
        }
        let text = |name: &str| arguments[name].as_str();
        let id = text("channel").ok_or("channel_not_found")?;
        let channel = self.channels.get(id).ok_or("channel_not_found")?;
        self.check_scope(if id.starts_with('G') { "groups:history" } else { "channels:history" })?;
        if channel.is_uninvited {
            return Err("not_in_channel");
        }
        let oldest = text("oldest").map_or(Ok(0.0), str::parse::<f64>).map_err(|_| "invalid_ts_oldest")?;
        let is_new = |message: &&Message| message.ts.parse::<f64>().is_ok_and(|ts| ts >= oldest);
        let found: Vec<&Message> = match text("ts").filter(|_| of_thread) {
            Some(root) => {
                let root =
                    channel.messages.iter().find(|known| known.ts == root).ok_or("thread_not_found")?;
                std::iter::once(root).chain(channel.replies(&root.ts).into_iter().filter(is_new)).collect()
            }
            None if of_thread => return Err("invalid_arguments"),
            None => channel.roots().into_iter().rev().filter(is_new).collect(),
        };
        let limit = text("limit").map_or(Ok(100), str::parse).map_err(|_| "invalid_limit")?;
        if !(1..1000).contains(&limit) {
            return Err("invalid_limit");
        }
        let begin: usize = text("cursor").map_or(Ok(0), str::parse).map_err(|_| "invalid_cursor")?;
        let with_metadata = text("include_all_metadata") == Some("true");
        let page: Vec<Value> =
            found.iter().skip(begin).take(limit).map(|it| it.json(with_metadata)).collect();
        let end = begin + page.len();
        let next_cursor = if end < found.len() { end.to_string() } else { String::new() };
        Ok(json!({
            "ok": true, "messages": page, "has_more": !next_cursor.is_empty(),
            "response_metadata": { "next_cursor": next_cursor },
        }))
    }

    fn check_scope(&self, scope: &'static str) -> Result<(), &'static str> {
        self.scopes.contains(scope).then_some(()).ok_or("missing_scope")
    }

    fn check_refusals(&self, arguments: &Value) -> Result<(), &'static str> {
        let refusals = [("metadata", self.refuses_metadata), ("blocks", self.refuses_blocks)];
        let refusal =
            refusals.into_iter().find_map(|(name, word)| word.filter(|_| !arguments[name].is_null()));
        refusal.map_or(Ok(()), Err)
    }

    fn writable(&mut self, id: &str) -> Result<&mut Channel, &'static str> {
        let channel = self.channels.get_mut(id).ok_or("channel_not_found")?;
        match (channel.is_archived, channel.is_uninvited) {
            (true, _) => Err("is_archived"),
            (_, true) => Err("not_in_channel"),
            (false, false) => Ok(channel),
        }
    }

    /// The time in microseconds, larger than any before.
    fn next_ts(&mut self) -> String {
        self.last_ts = Timestamp::now().as_microsecond().max(self.last_ts + 1);
        format!("{}.{:06}", self.last_ts / 1_000_000, self.last_ts % 1_000_000)
    }
}

/// The stand-in; clones share its state.
pub type Slack = StandIn<Model>;

type Shared = crate::state::Shared<Model>;

impl AsMut<Faults> for Model {
    fn as_mut(&mut self) -> &mut Faults {
        &mut self.faults
    }
}

impl StandIn<Model> {
    /// Starts it on a free port of loopback.
    pub async fn start() -> io::Result<Slack> {
        let model = Model {
            channels: BTreeMap::from([(CHANNEL.to_owned(), Channel::default())]),
            token: TOKEN.to_owned(),
            scopes: SCOPES.iter().copied().collect(),
            pace: Duration::from_secs(1),
            calls: BTreeMap::new(),
            edits: Vec::new(),
            refuses_metadata: None,
            refuses_blocks: None,
            drops_metadata: false,
            faults: Faults::default(),
            edit_faults: Faults::default(),
            read_faults: Faults::default(),
            last_ts: 0,
        };
        StandIn::serve(model, |shared| Router::new().route("/api/{method}", any(receive)).with_state(shared))
            .await
    }

    /// The address of its API, which stands for `https://slack.com/api`.
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.address)
    }
}

/// One request.
struct Call {
    method: String,
    http: Method,
    bearer: Option<String>,
    arguments: Value,
}

async fn receive(
    State(shared): State<Shared>,
    Path(method): Path<String>,
    http: Method,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_json = text(header::CONTENT_TYPE) == Some("application/json; charset=utf-8");
    let arguments = match http {
        Method::GET => json!(query),
        // Slack takes a form then, which has none of the arguments.
        _ if !is_json => json!({}),
        _ => serde_json::from_slice(&body).unwrap_or_default(),
    };
    let bearer =
        text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let call = Call { method, http, bearer, arguments };
    process(&shared, |model| model.fault(&call.method), |model| model.call(&call)).await
}

fn refusal(word: &'static str) -> Response {
    Json(json!({ "ok": false, "error": word })).into_response()
}
