//! A stand-in for Zendesk Support: credentials with scopes, users, tickets and their audits,
//! `external_id`, `Idempotency-Key`, the limits of requests, strictness about fields, and faults that a
//! test can queue. Its clock is a logical one, so that no two changes to tickets share a time.

mod setup;
#[cfg(test)]
mod tests;
mod text;
mod tickets;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use jiff::SignedDuration;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::server::{BreakOff, Running, date, start};

/// The only OAuth client and the only API token that it knows.
pub const CLIENT_ID: &str = "casebridge";
pub const CLIENT_SECRET: &str = "sandbox-client-secret";
pub const USER_EMAIL: &str = "bridge@acme.example";
pub const API_TOKEN: &str = "sandbox-api-token";
const ACCESS_TOKEN: &str = "sandbox-access-token";

/// The user whom the credential acts as; not among [`Model::users`].
pub const SERVICE_USER: u64 = 4000;
/// The agent whose clicks a test plays, as with [`Model::set_status`].
pub const AGENT: u64 = 20;

/// Something that goes wrong once: at the next create unless said otherwise, and at the next update of
/// a ticket if it is among [`Model::update_faults`]. "Created" is "changed" there.
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
    /// The connection is reset; the ticket is created so much later. A late update looks at what the
    /// ticket has become by then.
    Late(Duration),
    /// 200 with an HTML page.
    Html,
    /// 422 with words about the subject, which repeat a customer's.
    Invalid,
    /// 422: the comment is blank.
    Blank,
    /// The ticket is created, and the answer is that of the first ticket of all.
    Mixed,
    /// 401 to the next call of any kind, and the access token is void. Among the faults of updates: to
    /// the next update.
    Unauthorized,
}

/// Faults by chance; the same seed draws the same ones.
#[derive(Clone, Debug)]
pub struct Chaos {
    pub chance: fastrand::Rng,
    /// Of 100 requests, so many meet a fault. Those for tokens and the count never do; reads and the
    /// writing of users meet it before anything is done.
    pub percent: u32,
    pub faults: Vec<Fault>,
}

/// What an administrator of the account has set up; other ids are refused.
#[derive(Clone, Debug)]
pub struct Known {
    pub groups: BTreeSet<u64>,
    pub assignees: BTreeSet<u64>,
    pub brands: BTreeSet<u64>,
    pub forms: BTreeSet<u64>,
    pub fields: BTreeSet<u64>,
    /// Of all these, what is switched off; an agent is suspended. Looks at them tell, tickets take them
    /// all the same.
    pub inactive: BTreeSet<u64>,
}

impl Default for Known {
    fn default() -> Known {
        Known {
            groups: BTreeSet::from([10]),
            assignees: BTreeSet::from([AGENT]),
            brands: BTreeSet::from([30]),
            forms: BTreeSet::from([40]),
            fields: BTreeSet::from([50, 51]),
            inactive: BTreeSet::new(),
        }
    }
}

#[derive(Default)]
pub struct Model {
    /// As they are now, with the first comment and the metadata, which no answer shows.
    pub tickets: Vec<Value>,
    /// Tickets that nothing finds any more.
    pub deleted: Vec<Value>,
    /// Of the deleted tickets, those that the list of them does not show any more.
    pub purged: BTreeSet<u64>,
    /// Tickets that the user of the credential may not see: not found, as if there was none.
    pub hidden: BTreeSet<u64>,
    /// What stands before Zendesk answers 403 with an HTML page to creates that hold this text.
    pub firewall: Option<String>,
    /// Authors, by their `external_id`, whose users cannot be read or written, and the status that is
    /// answered.
    pub refused_authors: BTreeMap<String, u16>,
    /// Of all tickets, in the order of their changes.
    pub audits: Vec<Value>,
    /// End users, deleted ones included: those are not `active`.
    pub users: Vec<Value>,
    pub known: Known,
    /// Seconds of the logical clock since the beginning of 2026.
    seconds: u64,
    /// Audits and their events so far; they share their numbers.
    events: u64,
    /// By key: the bytes that came first and the answer that they got.
    idempotency: HashMap<String, (Bytes, Value)>,
    /// What goes wrong with creates, one by one.
    pub faults: VecDeque<Fault>,
    /// What goes wrong with `PUT /api/v2/tickets/{id}`, one by one.
    pub update_faults: VecDeque<Fault>,
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
    /// Of these, what a token is made without although it was asked for.
    pub withheld: BTreeSet<&'static str>,
    /// How far its clock is ahead, as far as the `Date` of its answers tells.
    pub clock_ahead: SignedDuration,
    /// What each minted token may do.
    granted: Vec<String>,
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
    /// Makes every comment private, whatever was asked for, as an account's settings can.
    pub private_only: bool,
    /// Calls of `PUT /api/v2/tickets/{id}`, whatever came of them.
    pub updates: u32,
    /// Updates per minute, those of tags included, that the account allows.
    pub update_limit: u32,
    /// Those of them that agents have used once a minute has begun.
    pub updates_by_agents: u32,
    update_minute: Option<Minute>,
    /// When each ticket was updated of late.
    ticket_updates: HashMap<u64, Recent>,
    /// Updates that were refused because there were too many.
    pub too_many_updates: u32,
    /// Whether the role of the credential keeps it from all users but itself.
    pub forbid_users: bool,
    /// What the endpoints of users answer, while those of tickets are well.
    pub user_outage: Option<u16>,
    /// Calls of `GET /api/v2/users/show_many`.
    pub user_reads: u32,
    /// Calls of `POST /api/v2/users/create_or_update`, whatever came of them.
    pub user_writes: u32,
    last_user_write: Option<Instant>,
    /// Other integrations of the account use up each second's one user.
    pub users_are_made_by_others: bool,
    /// When each user was written of late, by `external_id` in lower case.
    recent_user_writes: HashMap<String, Recent>,
    /// Writes of users that were refused by the limits of that one endpoint.
    pub too_many_user_writes: u32,
}

/// The requests of one minute.
struct Minute {
    began: Instant,
    used: u32,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Minute {
    /// The minute that it is now; of a new one `used` are gone already.
    fn current(slot: &mut Option<Minute>, used: u32) -> &mut Minute {
        if slot.as_ref().is_some_and(|minute| minute.began.elapsed() >= MINUTE) {
            *slot = None;
        }
        slot.get_or_insert_with(|| Minute { began: Instant::now(), used })
    }

    /// Seconds until it is over, never 0.
    fn left(&self) -> u64 {
        MINUTE.saturating_sub(self.began.elapsed()).as_secs() + 1
    }
}

/// When something was done within a span that slides.
#[derive(Default)]
struct Recent(VecDeque<Instant>);

impl Recent {
    /// Seconds to wait if `most` were done within `span` already.
    fn wait(&mut self, span: Duration, most: usize) -> Option<u64> {
        self.0.retain(|done| done.elapsed() < span);
        let oldest = self.0.front().filter(|_| self.0.len() >= most)?;
        Some(span.saturating_sub(oldest.elapsed()).as_secs() + 1)
    }

    fn note(&mut self) {
        self.0.push_back(Instant::now());
    }
}

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
            update_limit: 100,
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

    /// Two hours pass, after which no `Idempotency-Key` is known any more.
    pub fn forget_keys(&self) {
        self.model().idempotency.clear();
    }

    /// A look at the state, or a change to it.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    pub fn queue(&self, faults: impl IntoIterator<Item = Fault>) {
        self.model().faults.extend(faults);
    }

    /// As [`Zendesk::queue`], for the updates of tickets.
    pub fn queue_updates(&self, faults: impl IntoIterator<Item = Fault>) {
        self.model().update_faults.extend(faults);
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
        .route("/api/v2/tickets", post(tickets::create).get(tickets::list))
        .route("/api/v2/tickets/count", get(tickets::count))
        .route("/api/v2/deleted_tickets", get(tickets::deleted))
        .route("/api/v2/tickets/{id}", get(tickets::show).put(tickets::update))
        .route("/api/v2/tickets/{id}/tags", put(tickets::add_tags))
        .route("/api/v2/tickets/{id}/audits", get(tickets::audits))
        .route("/api/v2/users/me", get(users::me))
        .route("/api/v2/users/show_many", get(users::show_many))
        .route("/api/v2/users/create_or_update", post(users::create_or_update))
        .route("/api/v2/users/{id}", get(setup::user))
        .route("/api/v2/groups/{id}", get(setup::group))
        .route("/api/v2/ticket_forms/{id}", get(setup::form))
        .route("/api/v2/brands/{id}", get(setup::brand))
        .route("/api/v2/ticket_fields/{id}", get(setup::field))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "InvalidEndpoint", "Not found") })
        .layer(middleware::map_response_with_state(shared.clone(), tell_time))
        .with_state(shared)
}

async fn tell_time(State(shared): State<Shared>, response: Response) -> Response {
    let ahead = lock(&shared.model).clock_ahead;
    date(response, ahead)
}

impl Shared {
    /// Changes the model, and wakes whoever waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        let changed = change(&mut lock(&self.model));
        self.changes.send_replace(());
        changed
    }

    /// Refuses what carries no valid credential or one without any of these scopes, and everything
    /// during an outage.
    fn refuse(&self, headers: &HeaderMap, scopes: &[&str]) -> Option<Response> {
        self.change(|model| {
            if model.faults.front() == Some(&Fault::Unauthorized) {
                model.faults.pop_front();
                model.void = model.minted;
            }
            let Some(granted) = model.granted(headers) else { return Some(unauthorized()) };
            let suffices = granted.split(' ').any(|scope| scopes.contains(&scope));
            if !model.use_one() {
                return Some(too_many(model.reset()));
            }
            let text = "The token lacks the scope for this";
            (!suffices).then(|| with_rate(model, "", refusal(StatusCode::FORBIDDEN, "Forbidden", text)))
        })
    }

    /// Does the work as far as the fault that it meets allows, and answers what comes of it.
    async fn perform(
        &self,
        draw: impl FnOnce(&mut Model) -> Option<Fault>,
        work: impl FnOnce(&mut Model) -> Response + Send + 'static,
    ) -> Response {
        let (response, hangs) = self.change(|model| {
            let fault = draw(model);
            let hangs = matches!(fault, Some(Fault::Hang | Fault::HangAfterCreate));
            (self.perform_under(fault, model, work), hangs)
        });
        if hangs {
            // Until the caller goes: its connection is dropped with this future.
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        response
    }

    fn perform_under(
        &self,
        fault: Option<Fault>,
        model: &mut Model,
        work: impl FnOnce(&mut Model) -> Response + Send + 'static,
    ) -> Response {
        match fault {
            None => work(model),
            Some(Fault::StatusAfterCreate(status)) => {
                work(model);
                error_page(status)
            }
            Some(Fault::ResetAfter | Fault::HangAfterCreate) => {
                work(model);
                BreakOff.into_response()
            }
            Some(Fault::Late(delay)) => {
                tokio::spawn(self.clone().perform_late(delay, work));
                BreakOff.into_response()
            }
            Some(Fault::Hang | Fault::ResetBefore) => BreakOff.into_response(),
            Some(Fault::Status(status)) => error_page(status),
            Some(Fault::Html) => Html("<html>Welcome</html>").into_response(),
            Some(Fault::TooMany(seconds)) => too_many(seconds),
            Some(Fault::Invalid) => {
                invalid(flaw("subject", "Subject: Jane Doe is no subject", "InvalidValue"))
            }
            Some(Fault::Mixed) => {
                work(model);
                let other = model.tickets.first().cloned().unwrap_or_default();
                (StatusCode::CREATED, Json(json!({"ticket": other}))).into_response()
            }
            Some(Fault::Blank) => invalid(flaw("comment", "Description: cannot be blank", "BlankValue")),
            Some(Fault::Unauthorized) => {
                model.void = model.minted;
                unauthorized()
            }
        }
    }

    /// Zendesk goes on with what it has begun, whether or not its caller still listens.
    async fn perform_late(self, delay: Duration, work: impl FnOnce(&mut Model) -> Response) {
        tokio::time::sleep(delay).await;
        self.change(work);
    }
}

impl Model {
    /// The scopes of the credential, if it is valid.
    fn granted(&self, headers: &HeaderMap) -> Option<&str> {
        let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        if self.outage == Some(Fault::Unauthorized) {
            return None;
        }
        if authorization == basic(&format!("{USER_EMAIL}/token:{API_TOKEN}")) {
            return Some("read write");
        }
        let number = authorization.strip_prefix(&format!("Bearer {ACCESS_TOKEN}-"))?.parse::<u32>().ok()?;
        let scope = self.granted.get(number.checked_sub(1)? as usize)?;
        (number > self.void).then_some(scope)
    }

    /// Counts a request; false if the minute has no more.
    fn use_one(&mut self) -> bool {
        let minute = Minute::current(&mut self.minute, self.used_by_others);
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
        self.minute.as_ref().map_or(0, Minute::left)
    }

    /// What happens to a read, or to the writing of a user, instead of an answer.
    fn lost_answer(&mut self) -> Option<Response> {
        match self.outage_or_chaos()? {
            Fault::Status(status) | Fault::StatusAfterCreate(status) => Some(error_page(status)),
            Fault::ResetBefore | Fault::ResetAfter | Fault::Late(_) => Some(BreakOff.into_response()),
            Fault::TooMany(seconds) => Some(too_many(seconds)),
            Fault::Html => Some(Html("<html>Welcome</html>").into_response()),
            Fault::Hang | Fault::HangAfterCreate | Fault::Invalid | Fault::Blank => None,
            Fault::Mixed | Fault::Unauthorized => None,
        }
    }

    fn blocks(&self, body: &Bytes) -> bool {
        let text = String::from_utf8_lossy(body);
        self.firewall.as_ref().is_some_and(|blocked| text.contains(blocked))
    }

    fn outage_or_chaos(&mut self) -> Option<Fault> {
        self.outage.clone().or_else(|| self.chaos.as_mut()?.draw())
    }

    /// The fault that this create meets.
    fn next_fault(&mut self) -> Option<Fault> {
        let planned = self.outage.clone().or_else(|| self.faults.pop_front());
        planned.or_else(|| self.chaos.as_mut()?.draw())
    }

    /// The fault that this update of a ticket meets.
    fn next_update_fault(&mut self) -> Option<Fault> {
        let planned = self.outage.clone().or_else(|| self.update_faults.pop_front());
        planned.or_else(|| self.chaos.as_mut()?.draw())
    }

    /// Moves the clock on by a second, and tells the time.
    fn tick(&mut self) -> String {
        const START: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z
        self.seconds += 1;
        let now = jiff::Timestamp::from_second(START.saturating_add_unsigned(self.seconds));
        now.unwrap_or_default().to_string()
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
            Some(Fault::TooMany(seconds)) => return too_many(*seconds),
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
        let granted: Vec<&str> = scope.split(' ').filter(|scope| !model.withheld.contains(scope)).collect();
        let scope = granted.join(" ");
        model.granted.push(scope.clone());
        let token = format!("{ACCESS_TOKEN}-{}", model.minted);
        let token =
            json!({"access_token": token, "token_type": "bearer", "scope": scope, "expires_in": life});
        (StatusCode::CREATED, Json(token)).into_response()
    })
}

/// The body, if it is JSON and says so.
fn json_of(headers: &HeaderMap, body: &Bytes) -> Option<Value> {
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    serde_json::from_slice(body).ok().filter(|_| is_json)
}

/// The details of a 422 about one field.
fn flaw(field: &str, text: &str, error: &str) -> Value {
    let mut details = Map::new();
    details.insert(field.to_owned(), json!([{"description": text, "error": error}]));
    Value::Object(details)
}

fn wrong(field: &str, text: &str) -> Value {
    flaw(field, text, "InvalidValue")
}

fn suspended(name: &str) -> Value {
    flaw("requester", &format!("Requester: {name} is suspended."), "Suspended")
}

/// Stricter than Zendesk, which passes over a property that it does not know: a typing error of
/// ours must not go unnoticed.
fn only(map: &Map<String, Value>, fields: &[&str]) -> Result<(), Value> {
    match map.keys().find(|field| !fields.contains(&field.as_str())) {
        Some(field) => Err(wrong(field, "is not a field that is known here")),
        None => Ok(()),
    }
}

fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    (status, Json(json!({"error": error, "description": description}))).into_response()
}

fn unauthorized() -> Response {
    refusal(StatusCode::UNAUTHORIZED, "Couldn't authenticate you", "")
}

fn malformed() -> Response {
    refusal(StatusCode::BAD_REQUEST, "InvalidJSON", "Unprocessable")
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
