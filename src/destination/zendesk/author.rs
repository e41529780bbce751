//! The author of a post as a user of Zendesk, so that he or she is the ticket's requester.
//!
//! Zendesk makes one user a second for the whole account, on any plan. So users are looked for in
//! batches, made one at a time, and a ticket that would have to wait for many others goes out in the
//! name of the service user: a ticket is worth more than its requester.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, OnceCell, oneshot};
use tracing::{info, warn};

use super::ticket::Profile;
use super::{Call, Zendesk, lock, outcome};
use crate::retry::{Doubt, Outcome, Reason};

/// `create_or_update` takes one request a second, for all of an account's integrations.
const BETWEEN: Duration = Duration::from_secs(1);
/// So many may wait for their turn.
const QUEUE: usize = 10;
/// How long we take no for an answer.
const FORBIDDEN_FOR: Duration = Duration::from_secs(3600);
/// `show_many` takes so many ids.
const BATCH: usize = 100;

/// The lane of authors: its own limit, its own pause.
pub struct Authors {
    /// Held while a user is made; when the last one was answered.
    making: Turn<Option<Instant>>,
    waiting: AtomicUsize,
    longest_queue: usize,
    longest_wait: Duration,
    /// No user is made, or looked for, before.
    closed_until: Mutex<Option<Instant>>,
    /// Posts of one author that come together are one question.
    under_way: UnderWay,
    asked: Mutex<Vec<Question>>,
    asking: Turn<()>,
    service_user: OnceCell<Option<u64>>,
}

type UnderWay = Mutex<HashMap<String, Arc<Turn<Option<u64>>>>>;

struct Question {
    key: String,
    answer: oneshot::Sender<Result<Option<User>, Outcome>>,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    id: u64,
    external_id: Option<String>,
    #[serde(default)]
    suspended: bool,
    active: Option<bool>,
}

impl Authors {
    /// `attempt_limit`: nobody waits longer for a turn than a part of it.
    pub fn new(attempt_limit: Duration) -> Authors {
        let longest_queue = QUEUE.min(attempt_limit.as_secs() as usize / 4);
        Authors {
            making: Turn::default(),
            waiting: AtomicUsize::new(0),
            longest_queue,
            longest_wait: attempt_limit / 4,
            closed_until: Mutex::default(),
            under_way: Mutex::default(),
            asked: Mutex::default(),
            asking: Turn::default(),
            service_user: OnceCell::new(),
        }
    }

    fn take_questions(&self) -> Vec<Question> {
        let mut asked = lock(&self.asked);
        let count = asked.len().min(BATCH);
        asked.drain(..count).collect()
    }
}

impl Zendesk {
    /// The user that an author has or is given. `None`: this ticket goes out in the service user's
    /// name. `tried` if the delivery has failed before, and is not to fail again for want of a user.
    ///
    /// # Errors
    /// The outcome of an attempt that should not go on without knowing.
    pub async fn author(&self, profile: &Profile, tried: bool) -> Result<Option<u64>, Outcome> {
        if self.authors_are_closed() {
            return Ok(None);
        }
        let question = SameAuthor::new(&self.authors.under_way, &profile.key);
        let mut known = question.turn.lock().await;
        let found = match *known {
            Some(id) => Ok(Some(id)),
            None => self.find_or_make(profile).await,
        };
        *known = found.clone().unwrap_or_default();
        match found {
            Err(Outcome::Retry { reason, .. }) if tried => {
                warn!("a ticket goes out in the name of the service user: {}", reason.log);
                Ok(None)
            }
            found => found,
        }
    }

    /// The user of the credential, who writes what is not for customers' eyes.
    ///
    /// # Errors
    /// As above.
    pub async fn service_user(&self, tried: bool) -> Result<Option<u64>, Outcome> {
        let known = self.authors.service_user.get_or_try_init(|| async {
            let request = || self.request(Method::GET, "/api/v2/users/me");
            let reply = self.call(Call::Author, request, || ()).await?;
            let user = reply.json::<Value>().map(|body| body["user"]["id"].as_u64());
            match user {
                Some(id) if reply.is_success() => Ok(id),
                _ if matches!(reply.status, 403 | 404) => Ok(None),
                _ => Err(outcome(Call::Author, &reply)),
            }
        });
        match known.await {
            Ok(known) => Ok(*known),
            Err(Outcome::Retry { .. }) if tried => Ok(None),
            Err(outcome) => Err(outcome),
        }
    }

    async fn find_or_make(&self, profile: &Profile) -> Result<Option<u64>, Outcome> {
        match self.find(&profile.key).await? {
            Found::User(user) if user.suspended => {
                info!(user = user.id, "a suspended author: the service user is the requester");
                Ok(None)
            }
            Found::User(user) => Ok(Some(user.id)),
            Found::Nobody => self.make(profile).await,
            Found::Closed => Ok(None),
        }
    }

    /// Asks for all that were asked for while the last question was under way.
    async fn find(&self, key: &str) -> Result<Found, Outcome> {
        let (answer, answered) = oneshot::channel();
        lock(&self.authors.asked).push(Question { key: key.to_owned(), answer });
        {
            let _turn = self.authors.asking.lock().await;
            let questions = self.authors.take_questions();
            if !questions.is_empty() {
                self.ask(questions).await;
            }
        }
        match answered.await {
            Ok(Ok(Some(user))) => Ok(Found::User(user)),
            Ok(Ok(None)) if self.authors_are_closed() => Ok(Found::Closed),
            Ok(Ok(None)) => Ok(Found::Nobody),
            Ok(Err(outcome)) => Err(outcome),
            // Who asked for us was stopped in the middle of it.
            Err(_) => {
                let reason = Reason::new("the author was not looked for");
                Err(Outcome::Wait { reason, doubt: Doubt::None, wait: Duration::ZERO })
            }
        }
    }

    async fn ask(&self, questions: Vec<Question>) {
        let keys: Vec<&str> = questions.iter().map(|question| question.key.as_str()).collect();
        let users = self.show_many(&keys.join(",")).await;
        for question in questions {
            let user = users.as_ref().map(|users| {
                let matches = |user: &&User| {
                    let id = user.external_id.as_deref().unwrap_or_default();
                    user.active != Some(false) && id.eq_ignore_ascii_case(&question.key)
                };
                users.iter().find(matches).cloned()
            });
            let _ = question.answer.send(user.map_err(Outcome::clone));
        }
    }

    async fn show_many(&self, keys: &str) -> Result<Vec<User>, Outcome> {
        #[derive(Deserialize)]
        struct Users {
            users: Vec<User>,
        }
        let request =
            || self.request(Method::GET, "/api/v2/users/show_many").query(&[("external_ids", keys)]);
        let reply = self.call(Call::Author, request, || ()).await?;
        match reply.json::<Users>() {
            Some(Users { users }) if reply.is_success() => Ok(users),
            _ if self.closes_authors(&reply) => Ok(Vec::new()),
            _ => Err(outcome(Call::Author, &reply)),
        }
    }

    /// Waits for a turn, if not too many do.
    async fn make(&self, profile: &Profile) -> Result<Option<u64>, Outcome> {
        let waiting = Waiting::new(&self.authors.waiting);
        if waiting.before > self.authors.longest_queue {
            info!("{} authors wait to become users: the service user is the requester", waiting.before);
            return Ok(None);
        }
        let turn = tokio::time::timeout(self.authors.longest_wait, self.authors.making.lock()).await;
        let Ok(mut last) = turn else { return Ok(None) };
        if self.authors_are_closed() {
            return Ok(None);
        }
        if let Some(last) = *last {
            tokio::time::sleep(BETWEEN.saturating_sub(last.elapsed())).await;
        }
        let made = self.create_or_update(profile).await;
        // From the answer on, so that no two requests can come closer on their way.
        *last = Some(Instant::now());
        made
    }

    /// `POST /api/v2/users/create_or_update`: safe to repeat, since it matches by `external_id`. The
    /// role is not told, since it would change that of a user who has one.
    async fn create_or_update(&self, profile: &Profile) -> Result<Option<u64>, Outcome> {
        #[derive(Deserialize)]
        struct Made {
            user: User,
        }
        let user = json!({
            "name": profile.name,
            "external_id": profile.key,
            "details": profile.details,
            "skip_verify_email": true,
        });
        let request =
            || self.request(Method::POST, "/api/v2/users/create_or_update").json(&json!({ "user": user }));
        let reply = self.call(Call::Author, request, || ()).await?;
        match reply.json::<Made>() {
            Some(Made { user }) if reply.is_success() => Ok(Some(user.id).filter(|_| !user.suspended)),
            _ if self.closes_authors(&reply) => Ok(None),
            _ if matches!(reply.status, 400 | 413 | 422) => {
                let reason = reply.reason(Call::Author.name());
                warn!("the service user is the requester of a ticket: {}", reason.log);
                Ok(None)
            }
            _ => Err(outcome(Call::Author, &reply)),
        }
    }

    /// Whether an answer means that no more authors should be asked for, for a while.
    fn closes_authors(&self, reply: &super::reply::Reply) -> bool {
        let wait = match reply.status {
            // If nothing is at this address, the ticket will find out, and is not held up by this.
            403 | 404 => FORBIDDEN_FOR,
            429 if reply.rate.remaining != Some(0) => reply.retry_after.unwrap_or(BETWEEN * 5),
            _ => return false,
        };
        let until = Instant::now() + wait;
        let mut closed_until = lock(&self.authors.closed_until);
        let said = closed_until.is_some_and(|closed| Instant::now() < closed);
        *closed_until = Some(closed_until.map_or(until, |closed| closed.max(until)));
        if !said && matches!(reply.status, 403 | 404) {
            warn!(
                "the service user is the requester of all tickets: the credential may not manage users \
                 (scope users:write, and a role that may); it is tried again in an hour"
            );
        } else if !said {
            let seconds = wait.as_secs();
            warn!("the service user is the requester of new tickets for {seconds} s: too many new users");
        }
        true
    }

    fn authors_are_closed(&self) -> bool {
        lock(&self.authors.closed_until).is_some_and(|until| Instant::now() < until)
    }
}

enum Found {
    User(User),
    Nobody,
    /// We may not ask.
    Closed,
}

/// What posts of one author share until the last of them has its answer.
struct SameAuthor<'a> {
    under_way: &'a UnderWay,
    key: &'a str,
    turn: Arc<Turn<Option<u64>>>,
}

impl<'a> SameAuthor<'a> {
    fn new(under_way: &'a UnderWay, key: &'a str) -> SameAuthor<'a> {
        let turn = lock(under_way).entry(key.to_owned()).or_default().clone();
        SameAuthor { under_way, key, turn }
    }
}

impl Drop for SameAuthor<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(self.under_way);
        // Ours and the map's: nobody else waits for it.
        if Arc::strong_count(&self.turn) == 2 {
            under_way.remove(self.key);
        }
    }
}

/// One that waits, until it is dropped.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        Waiting { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
