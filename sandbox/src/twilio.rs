//! A stand-in for Twilio: messages, Flex (interactions, flows and channels), conversations, Proxy and Programmable Chat,
//! all at one address. It takes the fields that casebridge may send, checks them as Twilio's OpenAPI files say, and
//! refuses all others.

mod chat;
mod flex;
mod form;
mod messages;
mod proxy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::faults::process;
pub use crate::faults::{Chaos, Fault, Faults};
use crate::stand_in::StandIn;
use form::Fields;

/// The account.
pub const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
/// Its auth token.
pub const AUTH_TOKEN: &str = "sandbox-twilio-auth-token";
/// An API key of the account.
pub const API_KEY: &str = "SK0123456789abcdef0123456789abcdef";
/// The secret of that key.
pub const API_KEY_SECRET: &str = "sandbox-twilio-api-key-secret";
/// A number of the account.
pub const NUMBER: &str = "+15550000002";
/// What a trial account puts in front of each text.
pub const TRIAL: &str = "Sent from your Twilio trial account - ";

/// One request that acts, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `POST` or `DELETE`.
    pub method: String,
    /// The path.
    pub path: String,
    /// The form.
    pub fields: Fields,
}

/// The state of Twilio, and what a test changes in its behaviour.
pub struct Model {
    /// Every request that acts in the order of arrival, those that it refused or dropped included.
    pub requests: Vec<Request>,
    /// The number of lists of messages that were read.
    pub lists: usize,
    /// The messages, the oldest first.
    pub messages: Vec<Value>,
    /// The interactions of Flex, as they are answered, with `request`.
    pub interactions: Vec<Value>,
    /// The messages of conversations.
    pub conversation_messages: Vec<Value>,
    /// The Flex Flows.
    pub flows: Vec<Value>,
    /// The Flex Channels, with `request`, and the attributes that Programmable Chat has.
    pub channels: Vec<Value>,
    /// The sessions of Proxy.
    pub sessions: Vec<Value>,
    /// Their participants.
    pub participants: Vec<Value>,
    /// The messages that were sent by Proxy.
    pub proxy_messages: Vec<Value>,
    /// What it answers about a number: a status and the number of an error.
    pub refused: BTreeMap<String, (u16, u32)>,
    /// What becomes of each message: its status and the number of its error.
    pub becomes: (String, Option<u32>),
    /// It puts [`TRIAL`] in front of each text.
    pub is_trial: bool,
    /// The status of the account.
    pub account_status: String,
    /// What goes wrong with requests that act.
    pub faults: Faults,
    /// What goes wrong with the request at this place in `requests`.
    pub fault_at: Option<(usize, Fault)>,
    /// What goes wrong with requests that read.
    pub read_faults: Faults,
    sids: u128,
}

impl Model {
    fn new() -> Model {
        Model {
            requests: Vec::new(),
            lists: 0,
            messages: Vec::new(),
            interactions: Vec::new(),
            conversation_messages: Vec::new(),
            flows: Vec::new(),
            channels: Vec::new(),
            sessions: Vec::new(),
            participants: Vec::new(),
            proxy_messages: Vec::new(),
            refused: BTreeMap::new(),
            becomes: ("delivered".to_owned(), None),
            is_trial: false,
            account_status: "active".to_owned(),
            faults: Faults::default(),
            fault_at: None,
            read_faults: Faults::default(),
            sids: 0,
        }
    }

    /// The texts that a number got, without the sentence of a trial account.
    pub fn texts_to(&self, number: &str) -> Vec<String> {
        let of_number = self.messages.iter().filter(|message| message["to"] == number);
        let body = |message: &Value| message["body"].as_str().unwrap_or_default().to_owned();
        of_number.map(body).map(|body| body.strip_prefix(TRIAL).unwrap_or(&body).to_owned()).collect()
    }

    /// How often a request like this arrived.
    pub fn count(&self, method: &str, end: &str) -> usize {
        self.requests.iter().filter(|request| request.method == method && request.path.ends_with(end)).count()
    }

    /// A new SID of this kind.
    fn sid(&mut self, kind: &str) -> String {
        self.sids += 1;
        format!("{kind}{:032x}", self.sids)
    }

    fn answer(&mut self, call: &Call) -> Response {
        if !call.is_authorized {
            return error(StatusCode::UNAUTHORIZED, 20003, "Authenticate");
        }
        let path: Vec<&str> = call.uri.path().trim_matches('/').split('/').collect();
        let method = &call.method;
        match (method.as_str(), path.as_slice()) {
            ("GET", ["2010-04-01", "Accounts", account]) => self.account(account),
            (_, ["2010-04-01", "Accounts", account, ..]) if *account != ACCOUNT => not_found(),
            ("POST", [_, _, _, "Messages.json"]) => self.create_message(&call.fields),
            ("GET", [_, _, _, "Messages.json"]) => self.list_messages(call),
            ("GET", [_, _, _, "Messages", file]) => self.message(file),
            ("POST", ["v1", "Interactions"]) => self.create_interaction(&call.fields),
            ("POST", ["v1", "Conversations", conversation, "Messages"]) => {
                self.create_conversation_message(conversation, &call.fields)
            }
            ("GET", ["v1", "Conversations", conversation, "Messages"]) => {
                self.list_conversation_messages(conversation)
            }
            ("POST", ["v1", "FlexFlows"]) => self.create_flow(&call.fields),
            ("GET", ["v1", "FlexFlows"]) => self.list_flows(&form::fields(call.uri.query())),
            ("POST", ["v1", "Channels"]) => self.create_channel(&call.fields),
            ("DELETE", ["v1", "Channels", channel]) => self.delete_channel(channel),
            (method, ["v1", "Services", service, "Sessions", rest @ ..]) => {
                self.proxy(method, service, rest, &call.fields)
            }
            (method, ["v2", "Services", service, "Channels", channel]) => {
                self.chat_channel(method, service, channel, &call.fields)
            }
            _ => not_found(),
        }
    }

    fn account(&self, file: &str) -> Response {
        match file == format!("{ACCOUNT}.json") {
            true => Json(json!({
                "sid": ACCOUNT,
                "friendly_name": "Acme",
                "status": self.account_status,
                "type": if self.is_trial { "Trial" } else { "Full" },
            }))
            .into_response(),
            false => not_found(),
        }
    }
}

/// The stand-in; clones share its state.
pub type Twilio = StandIn<Model>;

type Shared = crate::state::Shared<Model>;

impl AsMut<Faults> for Model {
    fn as_mut(&mut self) -> &mut Faults {
        &mut self.faults
    }
}

/// A request, with its form read.
struct Call {
    method: Method,
    uri: Uri,
    fields: Fields,
    is_authorized: bool,
}

impl StandIn<Model> {
    /// Starts it on a free port of loopback.
    pub async fn start() -> io::Result<Twilio> {
        let model = Model::new();
        StandIn::serve(model, |shared| Router::new().fallback(receive).with_state(shared)).await
    }

    /// Its address, which stands for each of Twilio's APIs.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Reports the status of a message to its `StatusCallback`, signed with this token. Returns the answer's status.
    pub async fn report(
        &self,
        sid: &str,
        status: &str,
        error: Option<u32>,
        token: &str,
    ) -> Result<u16, reqwest::Error> {
        let message = self.model().messages.iter().find(|message| message["sid"] == sid).cloned();
        let message = message.unwrap_or_default();
        let url = message["callback"].as_str().unwrap_or_default().to_owned();
        let mut fields = BTreeMap::from([
            ("MessageSid", sid.to_owned()),
            ("MessageStatus", status.to_owned()),
            ("To", message["to"].as_str().unwrap_or_default().to_owned()),
            ("AccountSid", ACCOUNT.to_owned()),
        ]);
        if let Some(error) = error {
            fields.insert("ErrorCode", error.to_string());
        }
        let signature = signature(token, &url, &fields);
        let client = crate::http_client().build()?;
        let request = client.post(url).header("x-twilio-signature", signature);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        Ok(request.body(form::write(&fields)).send().await?.status().as_u16())
    }
}

/// The signature of a request of Twilio.
fn signature(token: &str, url: &str, fields: &BTreeMap<&str, String>) -> String {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(token.as_bytes()) else { return String::new() };
    let signed: String = fields.iter().map(|(name, value)| format!("{name}{value}")).collect();
    mac.update(format!("{url}{signed}").as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

async fn receive(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let is_form = header_of(&headers, header::CONTENT_TYPE) == "application/x-www-form-urlencoded";
    let body = if is_form { String::from_utf8_lossy(&body).into_owned() } else { String::new() };
    let fields = form::fields(Some(&body));
    let call = Call { is_authorized: is_authorized(&headers), method, uri, fields };
    let acts = call.method != Method::GET;
    let take = |model: &mut Model| {
        if !acts {
            return model.read_faults.take();
        }
        let (method, path) = (call.method.to_string(), call.uri.path().to_owned());
        model.requests.push(Request { method, path, fields: call.fields.clone() });
        let place = model.requests.len() - 1;
        match model.fault_at.take_if(|(at, _)| *at == place) {
            Some((_, fault)) => Some(fault),
            None => model.faults.take(),
        }
    };
    process(&shared, take, |model| model.answer(&call)).await
}

fn is_authorized(headers: &HeaderMap) -> bool {
    let pairs = [(ACCOUNT, AUTH_TOKEN), (API_KEY, API_KEY_SECRET)];
    let known =
        pairs.map(|(user, secret)| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{secret}"))));
    known.iter().any(|known| known == header_of(headers, header::AUTHORIZATION))
}

fn header_of(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// An error as Twilio answers it.
fn error(status: StatusCode, code: u32, message: &str) -> Response {
    let body = json!({
        "code": code,
        "message": message,
        "more_info": format!("https://www.twilio.com/docs/errors/{code}"),
        "status": status.as_u16(),
    });
    (status, Json(body)).into_response()
}

fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, 20404, "The requested resource was not found")
}

fn bad_request(reason: &str) -> Response {
    error(StatusCode::BAD_REQUEST, 20001, reason)
}

/// The answer to a list without further pages.
fn list(name: &str, members: Vec<Value>) -> Response {
    Json(json!({ name: members, "meta": { "page": 0, "next_page_url": null, "key": name } })).into_response()
}
