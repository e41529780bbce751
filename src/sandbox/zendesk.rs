//! A stand-in for Zendesk Support: credentials, tickets, `external_id`, `Idempotency-Key`, a limit of
//! requests per minute, strictness about fields, and faults that a test can queue.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::server::{BreakOff, Running, start};

/// The only OAuth client and the only API token that it knows.
pub const CLIENT_ID: &str = "casebridge";
pub const CLIENT_SECRET: &str = "sandbox-client-secret";
pub const USER_EMAIL: &str = "bridge@acme.example";
pub const API_TOKEN: &str = "sandbox-api-token";
const ACCESS_TOKEN: &str = "sandbox-access-token";

/// Something that goes wrong once, at the next create unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, with nothing created.
    Status(u16),
    /// This status, with the ticket created.
    StatusAfterCreate(u16),
    /// 429 with this `Retry-After` in seconds.
    TooMany(u64),
    /// The connection is reset; nothing was created.
    ResetBefore,
    /// The connection is reset; the ticket was created.
    ResetAfter,
    /// No answer ever; nothing is created.
    Hang,
    /// No answer ever; the ticket is created.
    HangAfterCreate,
    /// The connection is reset; the ticket is created so much later.
    Late(Duration),
    /// 200 with an HTML page.
    Html,
    /// 422 with the description of a suspended requester.
    Invalid,
    /// 401 to the next call of any kind, and the access token is void.
    Unauthorized,
}

/// Faults by chance; the same seed draws the same ones.
#[derive(Clone, Debug)]
pub struct Chaos {
    pub chance: fastrand::Rng,
    /// Of 100 creates and look-ups, so many meet a fault.
    pub percent: u32,
    pub faults: Vec<Fault>,
}

#[derive(Default)]
pub struct Model {
    pub tickets: Vec<Value>,
    /// By key: the bytes that came first and the ticket that they made.
    idempotency: HashMap<String, (Bytes, u64)>,
    /// What goes wrong, one by one.
    pub faults: VecDeque<Fault>,
    /// What goes wrong every time, until it is cleared; reads are refused too.
    pub outage: Option<Fault>,
    /// What else goes wrong now and then.
    pub chaos: Option<Chaos>,
    /// Requests per minute that the account allows, and that the headers tell of.
    pub limit: u32,
    /// Those of them that other integrations of the account have used once a minute has begun.
    pub used_by_others: u32,
    minute: Option<Minute>,
    /// Requests that were refused because there were too many.
    pub too_many: u32,
    /// Scopes that the OAuth client may ask for.
    pub scopes: BTreeSet<&'static str>,
    /// How often tokens were asked for; the number is part of the token.
    pub minted: u32,
    /// Tokens up to this one are void.
    void: u32,
    /// Calls to create, whatever came of them.
    pub creates: u32,
    /// Looks by `external_id`.
    pub look_ups: u32,
    /// Creates without a key: a defect of the caller.
    pub keyless: u32,
    /// Creates whose key was known with other bytes: a defect of the caller.
    pub key_mismatches: u32,
}

/// The requests of one minute.
struct Minute {
    began: Instant,
    used: u32,
}

const MINUTE: Duration = Duration::from_secs(60);

/// The stand-in; clones share its state.
#[derive(Clone)]
pub struct Zendesk {
    model: Arc<Mutex<Model>>,
    changes: watch::Sender<()>,
    running: Arc<Mutex<Option<Running>>>,
    address: SocketAddr,
}

impl Zendesk {
    /// Starts it on a free port of loopback.
    pub async fn start() -> io::Result<Zendesk> {
        let model = Model {
            limit: 700,
            scopes: BTreeSet::from(["tickets:write", "tickets:read", "users:write", "read"]),
            ..Model::default()
        };
        let model = Arc::new(Mutex::new(model));
        let shared = Shared { model: model.clone(), changes: watch::Sender::default() };
        let changes = shared.changes.clone();
        let running = start(router(shared), None).await?;
        let address = running.address;
        Ok(Zendesk { model, changes, running: Arc::new(Mutex::new(Some(running))), address })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// No longer listens: connections are refused. What it holds stays.
    pub fn stop(&self) {
        lock(&self.running).take();
    }

    /// Listens again where it did before.
    pub async fn restart(&self) -> io::Result<()> {
        let shared = Shared { model: self.model.clone(), changes: self.changes.clone() };
        let running = start(router(shared), Some(self.address)).await?;
        *lock(&self.running) = Some(running);
        Ok(())
    }

    /// A look at the state, or a change to it.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    pub fn queue(&self, faults: impl IntoIterator<Item = Fault>) {
        self.model().faults.extend(faults);
    }

    /// Waits until the state is as wanted.
    pub async fn wait_until(&self, mut wanted: impl FnMut(&Model) -> bool) {
        let mut changes = self.changes.subscribe();
        loop {
            if wanted(&self.model()) {
                return;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }
}

#[derive(Clone)]
struct Shared {
    model: Arc<Mutex<Model>>,
    changes: watch::Sender<()>,
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/oauth/tokens", post(mint))
        .route("/api/v2/tickets", post(create).get(list))
        .route("/api/v2/tickets/count", get(count))
        .route("/api/v2/tickets/{id}", get(show))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "InvalidEndpoint", "Not found") })
        .with_state(shared)
}

impl Shared {
    /// Changes the model, and wakes whoever waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        let changed = change(&mut lock(&self.model));
        self.changes.send_replace(());
        changed
    }

    /// Refuses what carries no valid credential, and everything during an outage.
    fn refuse(&self, headers: &HeaderMap) -> Option<Response> {
        self.change(|model| {
            if model.faults.front() == Some(&Fault::Unauthorized) {
                model.faults.pop_front();
                model.void = model.minted;
            }
            if model.outage == Some(Fault::Unauthorized) || !model.admits(headers) {
                return Some(refusal(StatusCode::UNAUTHORIZED, "Couldn't authenticate you", ""));
            }
            (!model.use_one()).then(|| too_many(model.reset()))
        })
    }
}

impl Model {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(authorization) = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()) else {
            return false;
        };
        let api_token = basic(&format!("{USER_EMAIL}/token:{API_TOKEN}"));
        let current = authorization.strip_prefix(&format!("Bearer {ACCESS_TOKEN}-"));
        let current = current.and_then(|number| number.parse::<u32>().ok());
        authorization == api_token || current.is_some_and(|n| n > self.void && n <= self.minted)
    }

    /// Counts a request; false if the minute has no more.
    fn use_one(&mut self) -> bool {
        if self.minute.as_ref().is_none_or(|minute| minute.began.elapsed() >= MINUTE) {
            self.minute = Some(Minute { began: Instant::now(), used: self.used_by_others });
        }
        let minute = self.minute.get_or_insert_with(|| Minute { began: Instant::now(), used: 0 });
        let allowed = minute.used < self.limit;
        minute.used += u32::from(allowed);
        self.too_many += u32::from(!allowed);
        allowed
    }

    fn remaining(&self) -> u32 {
        self.limit.saturating_sub(self.minute.as_ref().map_or(0, |minute| minute.used))
    }

    /// Seconds until the next minute begins.
    fn reset(&self) -> u64 {
        let left = self.minute.as_ref().map(|minute| MINUTE.saturating_sub(minute.began.elapsed()));
        left.map_or(0, |left| left.as_secs() + 1)
    }

    /// What happens to a look-up instead of an answer.
    fn lost_answer(&mut self) -> Option<Response> {
        if let Some(Fault::Status(status)) = self.outage {
            return Some(error_page(status));
        }
        match self.chaos.as_mut()?.draw()? {
            Fault::Status(status) | Fault::StatusAfterCreate(status) => Some(error_page(status)),
            Fault::ResetBefore | Fault::ResetAfter | Fault::Late(_) => Some(BreakOff.into_response()),
            Fault::TooMany(seconds) => Some(too_many(seconds)),
            Fault::Html => Some(Html("<html>Welcome</html>").into_response()),
            Fault::Hang | Fault::HangAfterCreate | Fault::Invalid | Fault::Unauthorized => None,
        }
    }

    /// The fault that this create meets.
    fn next_fault(&mut self) -> Option<Fault> {
        let planned = self.outage.clone().or_else(|| self.faults.pop_front());
        planned.or_else(|| self.chaos.as_mut()?.draw())
    }

    fn add_ticket(&mut self, ticket: &Map<String, Value>) -> u64 {
        let id = 1000 + self.tickets.len() as u64;
        let mut ticket = ticket.clone();
        ticket.insert("id".to_owned(), json!(id));
        ticket.insert("status".to_owned(), json!("new"));
        self.tickets.push(Value::Object(ticket));
        id
    }

    fn ticket(&self, id: u64) -> Option<&Value> {
        self.tickets.iter().find(|ticket| ticket["id"] == json!(id))
    }
}

impl Chaos {
    fn draw(&mut self) -> Option<Fault> {
        let strikes = self.chance.u32(..100) < self.percent;
        strikes.then(|| self.chance.choice(&self.faults).cloned()).flatten()
    }
}

/// `POST /oauth/tokens`: not under `/api/v2`, and JSON.
async fn mint(State(shared): State<Shared>, Json(body): Json<Value>) -> Response {
    shared.change(|model| {
        match &model.outage {
            Some(Fault::Status(status)) => return error_page(*status),
            Some(Fault::Unauthorized) => {
                return refusal(StatusCode::UNAUTHORIZED, "invalid_client", "Client authentication failed");
            }
            _ => {}
        }
        if body["client_id"] != CLIENT_ID || body["client_secret"] != CLIENT_SECRET {
            return refusal(StatusCode::UNAUTHORIZED, "invalid_client", "Client authentication failed");
        }
        let life = body["expires_in"].as_u64();
        if body["grant_type"] != "client_credentials" || life.is_none_or(|s| s <= 300 || s >= 172_800) {
            return refusal(StatusCode::BAD_REQUEST, "invalid_request", "grant_type or expires_in");
        }
        let scope = body["scope"].as_str().unwrap_or_default();
        if scope.split(' ').any(|scope| !model.scopes.contains(scope)) {
            return refusal(StatusCode::BAD_REQUEST, "invalid_scope", "The requested scope is invalid");
        }
        model.minted += 1;
        let token = format!("{ACCESS_TOKEN}-{}", model.minted);
        let token =
            json!({"access_token": token, "token_type": "bearer", "scope": scope, "expires_in": life});
        (StatusCode::CREATED, Json(token)).into_response()
    })
}

async fn create(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(refused) = shared.refuse(&headers) {
        return refused;
    }
    let (response, hang) = shared.change(|model| {
        model.creates += 1;
        match model.next_fault() {
            None => (create_ticket(model, &headers, &body), false),
            Some(Fault::StatusAfterCreate(status)) => {
                create_ticket(model, &headers, &body);
                (error_page(status), false)
            }
            Some(Fault::ResetAfter) => {
                create_ticket(model, &headers, &body);
                (BreakOff.into_response(), false)
            }
            Some(Fault::HangAfterCreate) => {
                create_ticket(model, &headers, &body);
                (BreakOff.into_response(), true)
            }
            Some(Fault::Hang) => (BreakOff.into_response(), true),
            Some(Fault::Late(delay)) => {
                tokio::spawn(create_late(shared.clone(), delay, headers.clone(), body.clone()));
                (BreakOff.into_response(), false)
            }
            Some(Fault::ResetBefore) => (BreakOff.into_response(), false),
            Some(Fault::Status(status)) => (error_page(status), false),
            Some(Fault::Html) => (Html("<html>Welcome</html>").into_response(), false),
            Some(Fault::TooMany(seconds)) => (too_many(seconds), false),
            Some(Fault::Invalid) => {
                let details = json!({"requester": [{"description": "Requester: Jane Doe is suspended.", "error": "Suspended"}]});
                (invalid(details), false)
            }
            Some(Fault::Unauthorized) => {
                (refusal(StatusCode::UNAUTHORIZED, "Couldn't authenticate you", ""), false)
            }
        }
    });
    if hang {
        // Until the caller goes: its connection is dropped with this future.
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    response
}

/// Zendesk goes on with what it has begun, whether or not its caller still listens.
async fn create_late(shared: Shared, delay: Duration, headers: HeaderMap, body: Bytes) {
    tokio::time::sleep(delay).await;
    shared.change(|model| {
        create_ticket(model, &headers, &body);
    });
}

fn create_ticket(model: &mut Model, headers: &HeaderMap, body: &Bytes) -> Response {
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let Some(parsed) = parsed.filter(|_| is_json) else {
        return refusal(StatusCode::BAD_REQUEST, "InvalidJSON", "Unprocessable");
    };
    let ticket = match valid_ticket(&parsed) {
        Ok(ticket) => ticket,
        Err(details) => return invalid(details),
    };
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    model.keyless += u32::from(key.is_none());
    if let Some((bytes, id)) = key.as_ref().and_then(|key| model.idempotency.get(key)) {
        if bytes != body {
            model.key_mismatches += 1;
            let text = "Request parameters don't match the given idempotency key";
            return refusal(StatusCode::BAD_REQUEST, "IdempotentRequestError", text);
        }
        let ticket = model.ticket(*id).cloned();
        return with_rate(model, "hit", created(ticket.unwrap_or_default()));
    }
    let id = model.add_ticket(ticket);
    if let Some(key) = key {
        model.idempotency.insert(key, (body.clone(), id));
    }
    let ticket = model.ticket(id).cloned();
    with_rate(model, "miss", created(ticket.unwrap_or_default()))
}

fn created(ticket: Value) -> Response {
    (StatusCode::CREATED, Json(json!({"ticket": ticket, "audit": {"events": []}}))).into_response()
}

/// Stricter than Zendesk, which passes over a property that it does not know: a typing error of
/// ours must not go unnoticed.
fn valid_ticket(body: &Value) -> Result<&Map<String, Value>, Value> {
    const TICKET: &[&str] = &["subject", "comment", "priority", "external_id", "tags", "metadata"];
    const COMMENT: &[&str] = &["body", "public"];
    let wrong = |field: &str, text: &str| {
        let mut details = Map::new();
        details.insert(field.to_owned(), json!([{"description": text, "error": "InvalidValue"}]));
        Err(Value::Object(details))
    };
    let Some(ticket) = body["ticket"].as_object() else { return wrong("base", "no ticket") };
    let comment = &body["ticket"]["comment"];
    let known = |map: &Map<String, Value>, fields: &[&str]| {
        map.keys().find(|field| !fields.contains(&field.as_str())).cloned()
    };
    if let Some(field) = known(ticket, TICKET).or_else(|| known(comment.as_object()?, COMMENT)) {
        return wrong(&field, "is not a field that is known here");
    }
    let text = comment["body"].as_str().unwrap_or_default();
    let priority = ticket.get("priority").and_then(Value::as_str).unwrap_or("normal");
    let tags = ticket.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
    let slug = |tag: &Value| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        tag.as_str().is_some_and(|tag| !tag.is_empty() && tag.bytes().all(plain))
    };
    match () {
        () if text.trim().is_empty() => wrong("comment", "cannot be blank"),
        () if text.len() > 65_000 => wrong("comment", "is too long"),
        () if !comment["public"].is_boolean() => wrong("public", "is to be said"),
        () if !["urgent", "high", "normal", "low"].contains(&priority) => wrong("priority", "is not valid"),
        () if !tags.iter().all(slug) => wrong("tags", "are not valid"),
        () => Ok(ticket),
    }
}

/// `GET /api/v2/tickets?external_id=`: none, one or several; ids are not unique.
async fn list(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = shared.refuse(&headers) {
        return refused;
    }
    shared.change(|model| {
        model.look_ups += 1;
        if let Some(lost) = model.lost_answer() {
            return lost;
        }
        let wanted = query.get("external_id");
        let matches = |ticket: &&Value| wanted.is_none_or(|id| ticket["external_id"] == id.as_str());
        let tickets: Vec<&Value> = model.tickets.iter().filter(matches).collect();
        let response = Json(json!({"tickets": tickets, "count": tickets.len()})).into_response();
        with_rate(model, "", response)
    })
}

async fn count(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Some(refused) = shared.refuse(&headers) {
        return refused;
    }
    shared.change(|model| {
        if let Some(Fault::Status(status)) = model.outage {
            return error_page(status);
        }
        let count = json!({"count": {"value": model.tickets.len(), "refreshed_at": null}});
        with_rate(model, "", Json(count).into_response())
    })
}

async fn show(State(shared): State<Shared>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    if let Some(refused) = shared.refuse(&headers) {
        return refused;
    }
    let ticket = lock(&shared.model).ticket(id).cloned();
    match ticket {
        Some(ticket) => Json(json!({"ticket": ticket})).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "RecordNotFound", "Not found"),
    }
}

fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    (status, Json(json!({"error": error, "description": description}))).into_response()
}

fn invalid(details: Value) -> Response {
    let body =
        json!({"error": "RecordInvalid", "description": "Record validation errors", "details": details});
    (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
}

/// What stands before Zendesk answers with, when Zendesk does not.
fn error_page(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Html("<html><h1>Something went wrong</h1></html>")).into_response()
}

/// In plain text, as was observed.
fn too_many(seconds: u64) -> Response {
    let text = "Number of allowed API requests per minute exceeded";
    let headers = [(header::RETRY_AFTER, seconds.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, headers, text).into_response()
}

fn with_rate(model: &Model, lookup: &'static str, mut response: Response) -> Response {
    response.headers_mut().insert("x-rate-limit", HeaderValue::from(model.limit));
    response.headers_mut().insert("x-rate-limit-remaining", HeaderValue::from(model.remaining()));
    response.headers_mut().insert("ratelimit-reset", HeaderValue::from(model.reset()));
    if !lookup.is_empty() {
        response.headers_mut().insert("x-idempotency-lookup", HeaderValue::from_static(lookup));
    }
    response
}

/// What a client sends for `user:password`.
fn basic(credential: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::from("Basic ");
    for chunk in credential.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            encoded.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    encoded
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
