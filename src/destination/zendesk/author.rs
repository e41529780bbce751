//! The author of a post as a user of Zendesk, so that he or she is the ticket's requester.
//!
//! Zendesk makes one user a second for the whole account, on any plan. So users are looked for in
//! batches, made one at a time, and a ticket that would have to wait for many others goes out in the
//! name of the service user: a ticket is worth more than its requester.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, oneshot};
use tracing::warn;

use super::reply::Reply;
use super::ticket::Profile;
use super::{Call, Zendesk, outcome};
use crate::retry::Outcome;

/// `create_or_update` takes one request a second, for all of an account's integrations.
const BETWEEN: Duration = Duration::from_secs(1);
/// So many may wait for their turn.
const QUEUE: usize = 10;
/// How long we take no for an answer.
const FORBIDDEN_FOR: Duration = Duration::from_secs(3600);
/// How long users are left alone after they could not be asked for.
const FAILED_FOR: Duration = Duration::from_secs(60);
/// Authors that Zendesk will not have, remembered for as long as that.
const REFUSED: usize = 1000;
/// After this many forbidden authors with no user found or created in between, the fault is not the authors'.
const SUSPECTS: usize = 3;
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
    /// Whom Zendesk would not make a user of, and when.
    refused: Mutex<HashMap<String, Instant>>,
    /// Authors whose users Zendesk denied access to since it last showed or created one.
    forbidden: Mutex<HashSet<String>>,
    service_user: Mutex<Option<u64>>,
    longest_question: Duration,
}

/// By author: how many ask, and what they share.
type UnderWay = Mutex<HashMap<String, (usize, Arc<Turn<Option<u64>>>)>>;

struct Question {
    key: String,
    answer: oneshot::Sender<Result<Found, Outcome>>,
}

/// What an author is to a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// Its requester.
    User(u64),
    Suspended,
    /// Zendesk refuses to make this user.
    Refused(String),
    /// More wait to become users than a ticket should wait for.
    TooMany,
    /// Users cannot be asked for at this time, which was logged when it began.
    NotNow,
}

impl Author {
    pub fn user(&self) -> Option<u64> {
        match self {
            Author::User(id) => Some(*id),
            _ => None,
        }
    }
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Author::User(id) => write!(f, "the author is user {id}"),
            Author::Suspended => f.write_str("the author is suspended"),
            Author::Refused(reason) => f.write_str(reason),
            Author::TooMany => f.write_str("too many authors wait to become users"),
            Author::NotNow => f.write_str("casebridge cannot look up Zendesk users at the moment"),
        }
    }
}

impl From<User> for Author {
    fn from(user: User) -> Author {
        if user.suspended { Author::Suspended } else { Author::User(user.id) }
    }
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
            refused: Mutex::default(),
            forbidden: Mutex::default(),
            service_user: Mutex::default(),
            longest_question: attempt_limit / 3,
        }
    }

    fn refusal(&self, key: &str) -> Option<Author> {
        let refused = self.refused.lock();
        let recent = refused.get(key).is_some_and(|at| at.elapsed() < FORBIDDEN_FOR);
        recent.then(|| Author::Refused("Zendesk refused to make a user of the author".to_owned()))
    }

    fn refuse(&self, key: &str) {
        let mut refused = self.refused.lock();
        if refused.len() >= REFUSED {
            refused.clear();
        }
        refused.insert(key.to_owned(), Instant::now());
    }

    fn take_questions(&self) -> Vec<Question> {
        let mut asked = self.asked.lock();
        let count = asked.len().min(BATCH);
        asked.drain(..count).collect()
    }
}

impl Zendesk {
    /// The user that an author has or is given.
    ///
    /// # Errors
    /// What stops tickets as well: no credential, no connection, no request left in our share.
    pub async fn author(&self, profile: &Profile) -> Result<Author, Outcome> {
        if self.authors_are_closed() {
            return Ok(Author::NotNow);
        }
        if let Some(refused) = self.authors.refusal(&profile.key) {
            return Ok(refused);
        }
        // However slow they are: the ticket has to be made in the time that is left.
        let asked = tokio::time::timeout(self.authors.longest_question, self.ask_for(profile)).await;
        asked.unwrap_or_else(|_| {
            self.close_authors_for(FAILED_FOR, "Zendesk is slow to tell of users");
            Ok(Author::NotNow)
        })
    }

    async fn ask_for(&self, profile: &Profile) -> Result<Author, Outcome> {
        let question = SameAuthor::new(&self.authors.under_way, &profile.key);
        let mut known = question.turn.lock().await;
        if let Some(id) = *known {
            return Ok(Author::User(id));
        }
        let found = self.find_or_make(profile).await;
        *known = found.as_ref().ok().and_then(Author::user);
        found
    }

    /// The user of the credential, who writes what is not for customers' eyes; `None` if users cannot
    /// be asked for at this time.
    ///
    /// # Errors
    /// As above.
    pub async fn service_user(&self) -> Result<Option<u64>, Outcome> {
        let known = *self.authors.service_user.lock();
        if known.is_some() || self.authors_are_closed() {
            return Ok(known);
        }
        let request = || self.request(Method::GET, "/api/v2/users/me");
        let reply = match self.ask_users(request).await? {
            Answer::Users(reply) | Answer::Forbidden(reply) => reply,
            Answer::None => return Ok(None),
        };
        let id = reply.json::<Value>().and_then(|body| body["user"]["id"].as_u64());
        if id.is_none() {
            self.close_authors(&reply);
        }
        *self.authors.service_user.lock() = id;
        Ok(id)
    }

    async fn find_or_make(&self, profile: &Profile) -> Result<Author, Outcome> {
        match self.find(&profile.key).await? {
            Found::User(user) => Ok(user.into()),
            Found::Nobody => self.make(profile).await,
            Found::Forbidden(reason) => Ok(Author::Refused(reason)),
            Found::Closed => Ok(Author::NotNow),
        }
    }

    /// Asks for all that were asked for while the last question was under way.
    async fn find(&self, key: &str) -> Result<Found, Outcome> {
        let (answer, answered) = oneshot::channel();
        self.authors.asked.lock().push(Question { key: key.to_owned(), answer });
        {
            let _turn = self.authors.asking.lock().await;
            let questions = self.authors.take_questions();
            if !questions.is_empty() {
                self.ask(questions).await;
            }
        }
        // Who asked for us may have been stopped in the middle of it.
        answered.await.unwrap_or(Ok(Found::Closed))
    }

    async fn ask(&self, questions: Vec<Question>) {
        let keys: Vec<&str> = questions.iter().map(|question| question.key.as_str()).collect();
        let found = self.show_many(&keys).await;
        let is_about_one = questions.len() == 1;
        for question in questions {
            let found = match &found {
                // One of them is forbidden, and not the others.
                Ok(Shown::Forbidden(_)) if !is_about_one => self.show_one(&question.key).await,
                Ok(shown) => Ok(self.found(&question.key, shown)),
                Err(outcome) => Err(outcome.clone()),
            };
            let _ = question.answer.send(found);
        }
    }

    async fn show_one(&self, key: &str) -> Result<Found, Outcome> {
        match self.authors_are_closed() {
            true => Ok(Found::Closed),
            false => Ok(self.found(key, &self.show_many(&[key]).await?)),
        }
    }

    /// What an answer says of one author; a refusal is about this one.
    fn found(&self, key: &str, shown: &Shown) -> Found {
        match shown {
            Shown::Users(users) => {
                let is_of = |user: &&User| user.active != Some(false) && user.is_of(key);
                let user = users.iter().find(is_of).cloned();
                if user.is_some() {
                    self.authors.forbidden.lock().clear();
                }
                user.map_or(Found::Nobody, Found::User)
            }
            Shown::Forbidden(reply) => Found::Forbidden(self.forbid_author(key, reply)),
            Shown::None => Found::Closed,
        }
    }

    async fn show_many(&self, keys: &[&str]) -> Result<Shown, Outcome> {
        #[derive(Deserialize)]
        struct Users {
            users: Vec<User>,
        }
        let request = || {
            self.request(Method::GET, "/api/v2/users/show_many").query(&[("external_ids", keys.join(","))])
        };
        let reply = match self.ask_users(request).await? {
            Answer::Users(reply) => reply,
            Answer::Forbidden(reply) => return Ok(Shown::Forbidden(reply)),
            Answer::None => return Ok(Shown::None),
        };
        match reply.json::<Users>() {
            Some(Users { users }) => Ok(Shown::Users(users)),
            None => {
                self.close_authors(&reply);
                Ok(Shown::None)
            }
        }
    }

    async fn ask_users(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer, Outcome> {
        self.judge_users(self.repeatable(Call::Author, request).await)
    }

    /// Whatever is wrong with users, a ticket does not wait for it: they are left alone for a while.
    fn judge_users(&self, reply: Result<Reply, Outcome>) -> Result<Answer, Outcome> {
        let reply = match reply {
            Err(Outcome::Retry { reason, .. }) => {
                self.close_authors_for(FAILED_FOR, &reason.log);
                return Ok(Answer::None);
            }
            reply => reply?,
        };
        match reply.status {
            200..=299 => Ok(Answer::Users(reply)),
            401 => Err(outcome(Call::Author, &reply)),
            // The account's own limit, which tickets share.
            429 if reply.rate.remaining == Some(0) => Err(outcome(Call::Author, &reply)),
            403 | 404 => Ok(Answer::Forbidden(reply)),
            _ => {
                self.close_authors(&reply);
                Ok(Answer::None)
            }
        }
    }

    /// Records that Zendesk denies access to this author's user, for example because it is an agent's or a
    /// firewall blocks its name. After `SUSPECTS` such authors, stops all requests about users for a while.
    /// Returns the reason.
    fn forbid_author(&self, key: &str, reply: &Reply) -> String {
        let suspects = {
            let mut forbidden = self.authors.forbidden.lock();
            forbidden.insert(key.to_owned());
            forbidden.len()
        };
        if suspects >= SUSPECTS {
            self.close_authors(reply);
        }
        self.authors.refuse(key);
        reply.reason(Call::Author.name()).log
    }

    /// Waits for a turn, if not too many do.
    async fn make(&self, profile: &Profile) -> Result<Author, Outcome> {
        let waiting = Waiting::new(&self.authors.waiting);
        if waiting.before > self.authors.longest_queue {
            return Ok(Author::TooMany);
        }
        let turn = tokio::time::timeout(self.authors.longest_wait, self.authors.making.lock()).await;
        let Ok(mut last) = turn else { return Ok(Author::TooMany) };
        if self.authors_are_closed() {
            return Ok(Author::NotNow);
        }
        if let Some(last) = *last {
            tokio::time::sleep(BETWEEN.saturating_sub(last.elapsed())).await;
        }
        // Should we be stopped before the answer; otherwise from the answer on, so that no two requests
        // can come closer on their way.
        *last = Some(Instant::now());
        let made = self.create_or_update(profile).await;
        *last = Some(Instant::now());
        made
    }

    /// `POST /api/v2/users/create_or_update`: safe to repeat, since it matches by `external_id`. The
    /// role is not told, since it would change that of a user who has one.
    async fn create_or_update(&self, profile: &Profile) -> Result<Author, Outcome> {
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
        let reply = match self.repeatable(Call::Author, request).await {
            Ok(reply) if matches!(reply.status, 400 | 413 | 422) => {
                self.authors.refuse(&profile.key);
                return Ok(Author::Refused(reply.reason(Call::Author.name()).log));
            }
            reply => reply,
        };
        let reply = match self.judge_users(reply)? {
            Answer::Users(reply) => reply,
            Answer::Forbidden(reply) => {
                return Ok(Author::Refused(self.forbid_author(&profile.key, &reply)));
            }
            Answer::None => return Ok(Author::NotNow),
        };
        match reply.json::<Made>() {
            Some(Made { user }) if user.is_of(&profile.key) => {
                self.authors.forbidden.lock().clear();
                Ok(user.into())
            }
            _ => {
                self.close_authors(&reply);
                Ok(Author::NotNow)
            }
        }
    }

    fn close_authors(&self, reply: &Reply) {
        let reason = reply.reason(Call::Author.name()).log;
        match reply.status {
            403 => self.close_authors_for(
                FORBIDDEN_FOR,
                &format!(
                    "{reason}: the credential may not manage users (scope users:write, and a role that may)"
                ),
            ),
            // If nothing is at this address, the ticket will find out, and is not held up by this.
            404 => self.close_authors_for(FORBIDDEN_FOR, &reason),
            429 => self.close_authors_for(reply.retry_after.unwrap_or(FAILED_FOR), &reason),
            _ => self.close_authors_for(FAILED_FOR, &reason),
        }
    }

    fn close_authors_for(&self, wait: Duration, reason: &str) {
        let (now, until) = (Instant::now(), Instant::now() + wait);
        let mut closed_until = self.authors.closed_until.lock();
        let known = closed_until.filter(|closed| now < *closed);
        *closed_until = Some(known.map_or(until, |closed| closed.max(until)));
        // Said again only if it is about to last.
        if known.is_none_or(|closed| until > closed + FAILED_FOR) {
            let seconds = wait.as_secs();
            warn!(
                event = "authors_paused",
                "not looking up authors for {seconds} s, so the service user is the requester of their \
                 tickets: {reason}"
            );
        }
    }

    fn authors_are_closed(&self) -> bool {
        self.authors.closed_until.lock().is_some_and(|until| Instant::now() < until)
    }
}

enum Found {
    User(User),
    Nobody,
    /// We may not touch this one, for this reason.
    Forbidden(String),
    /// Users are left alone at this time.
    Closed,
}

/// What came of a request about users.
enum Answer {
    Users(Reply),
    /// 403 or 404: about one of those that were asked for, or about all users.
    Forbidden(Reply),
    /// None that is of use, and users are left alone for a while.
    None,
}

/// What came of looking for several users.
enum Shown {
    Users(Vec<User>),
    Forbidden(Reply),
    None,
}

impl User {
    fn is_of(&self, key: &str) -> bool {
        self.external_id.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(key))
    }
}

/// What posts of one author share until the last of them has its answer.
struct SameAuthor<'a> {
    under_way: &'a UnderWay,
    key: &'a str,
    turn: Arc<Turn<Option<u64>>>,
}

impl<'a> SameAuthor<'a> {
    fn new(under_way: &'a UnderWay, key: &'a str) -> SameAuthor<'a> {
        let mut held = under_way.lock();
        let (askers, turn) = held.entry(key.to_owned()).or_default();
        *askers += 1;
        SameAuthor { under_way, key, turn: turn.clone() }
    }
}

impl Drop for SameAuthor<'_> {
    fn drop(&mut self) {
        let mut held = self.under_way.lock();
        let Some((askers, _)) = held.get_mut(self.key) else { return };
        *askers -= 1;
        if *askers == 0 {
            held.remove(self.key);
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn who_asks_no_more_leaves_nothing_behind() {
        let under_way = UnderWay::default();
        for _ in 0..1000 {
            let together = Barrier::new(2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let asked = SameAuthor::new(&under_way, "a");
                        together.wait();
                        drop(asked);
                    });
                }
            });
            assert!(under_way.lock().is_empty());
        }
    }
}
