//! Finds or creates the Zendesk user of a post's author, who becomes the requester of the ticket.
//!
//! Zendesk creates one user per second for the whole account, on any plan. So users are looked up in batches
//! and created one at a time, and a ticket that would have to wait for many others goes out with the service
//! user as requester: a ticket without its author beats no ticket.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::reply::Reply;
use super::ticket::Profile;
use super::{Call, Zendesk, outcome};
use crate::delivery::Outcome;

/// `create_or_update` takes one request per second, for all integrations of an account.
const BETWEEN: Duration = Duration::from_secs(1);
/// The number of authors that may wait for their user to be created.
const QUEUE: u64 = 10;
/// The pause after Zendesk forbids requests about users.
const FORBIDDEN_FOR: Duration = Duration::from_secs(3600);
/// The pause after any other failed request about users.
const FAILED_FOR: Duration = Duration::from_secs(60);
/// After this many rejected authors with no user found or created in between, the fault is not the authors'.
const SUSPECTS: usize = 3;
pub(super) const NOT_NOW: &str = "casebridge cannot look up Zendesk users at the moment";

/// The state that all lookups of authors share.
pub struct Authors {
    /// Held while a user is created; contains the time of the last answer.
    creating: AsyncMutex<Option<Instant>>,
    queue: Semaphore,
    longest_wait: Duration,
    longest_lookup: Duration,
    /// Until then there are no requests about users.
    paused_until: Mutex<Option<Instant>>,
    /// By author: the lookup that concurrent posts of this author share.
    lookups: Mutex<HashMap<String, Weak<Lookup>>>,
    questions: Mutex<Vec<Question>>,
    asking: AsyncMutex<()>,
    /// Authors that Zendesk rejected since it last showed or created a user.
    rejected: Mutex<HashSet<String>>,
    service_user: Mutex<Option<u64>>,
}

/// The user's id, once it is known.
type Lookup = AsyncMutex<Option<u64>>;

struct Question {
    key: String,
    answer: oneshot::Sender<Result<Option<AuthorLookup>, Outcome>>,
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorLookup {
    User(u64),
    /// Zendesk does not take this user as a requester, for this reason.
    Refused(String),
    /// There is no user at the moment, for this reason.
    Later(&'static str),
}

impl From<&User> for AuthorLookup {
    fn from(user: &User) -> AuthorLookup {
        match user.suspended {
            true => AuthorLookup::Refused("the author is suspended".to_owned()),
            false => AuthorLookup::User(user.id),
        }
    }
}

/// The answer to a request about users.
enum Answer<T> {
    Ok(T),
    /// Zendesk rejected one of the authors, or all requests about users.
    Rejected(Reply),
    /// The answer is unusable, and requests about users are paused.
    None,
}

#[derive(Deserialize)]
struct UserReply {
    user: User,
}

#[derive(Deserialize)]
struct UsersReply {
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    id: u64,
    external_id: Option<String>,
    #[serde(default)]
    suspended: bool,
    active: Option<bool>,
}

impl Authors {
    /// `attempt_limit` is the time limit of one attempt. A lookup may use a part of it.
    pub fn new(attempt_limit: Duration) -> Authors {
        let queue = QUEUE.min(attempt_limit.as_secs() / 4);
        Authors {
            creating: AsyncMutex::default(),
            // Those that wait, and the one whose user is being created.
            queue: Semaphore::new(queue as usize + 1),
            longest_wait: attempt_limit / 4,
            longest_lookup: attempt_limit / 3,
            paused_until: Mutex::default(),
            lookups: Mutex::default(),
            questions: Mutex::default(),
            asking: AsyncMutex::default(),
            rejected: Mutex::default(),
            service_user: Mutex::default(),
        }
    }

    /// The lookup that is in progress for this author, or a new one.
    fn lookup(&self, key: &str) -> Arc<Lookup> {
        let mut lookups = self.lookups.lock();
        lookups.retain(|_, lookup| lookup.strong_count() > 0);
        lookups.get(key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let lookup = Arc::default();
            lookups.insert(key.to_owned(), Arc::downgrade(&lookup));
            lookup
        })
    }

    fn are_paused(&self) -> bool {
        self.paused_until.lock().is_some_and(|until| Instant::now() < until)
    }
}

impl Zendesk {
    /// Finds or creates the user of an author.
    ///
    /// # Errors
    /// Failures that stop tickets as well: no credential, no connection, no request left in our share.
    pub async fn author(&self, profile: &Profile) -> Result<AuthorLookup, Outcome> {
        if self.authors.are_paused() {
            return Ok(AuthorLookup::Later(NOT_NOW));
        }
        // The rest of the attempt's time is for the ticket.
        let author = timeout(self.authors.longest_lookup, self.find_or_create(profile)).await;
        author.unwrap_or_else(|_| {
            self.pause_users(FAILED_FOR, "Zendesk answers requests about users too slowly");
            Ok(AuthorLookup::Later(NOT_NOW))
        })
    }

    async fn find_or_create(&self, profile: &Profile) -> Result<AuthorLookup, Outcome> {
        let lookup = self.authors.lookup(&profile.key);
        let mut known = lookup.lock().await;
        if let Some(id) = *known {
            return Ok(AuthorLookup::User(id));
        }
        let author = match self.find(&profile.key).await? {
            Some(author) => author,
            None => self.create_in_turn(profile).await?,
        };
        if let AuthorLookup::User(id) = author {
            *known = Some(id);
        }
        Ok(author)
    }

    /// Returns the user of the credential, who is the author of internal comments; `None` if users cannot be
    /// looked up at the moment.
    ///
    /// # Errors
    /// As above.
    pub async fn service_user(&self) -> Result<Option<u64>, Outcome> {
        let known = *self.authors.service_user.lock();
        if known.is_some() || self.authors.are_paused() {
            return Ok(known);
        }
        let request = || self.request(Method::GET, "/api/v2/users/me");
        match self.ask_users::<UserReply>(request).await? {
            Answer::Ok(UserReply { user }) => {
                *self.authors.service_user.lock() = Some(user.id);
                Ok(Some(user.id))
            }
            Answer::Rejected(reply) => {
                self.pause_users_after(&reply);
                Ok(None)
            }
            Answer::None => Ok(None),
        }
    }

    /// Looks up the user of an author, together with all authors that were queued while the previous request
    /// was under way. `None`: there is no such user.
    async fn find(&self, key: &str) -> Result<Option<AuthorLookup>, Outcome> {
        let (answer, answered) = oneshot::channel();
        self.authors.questions.lock().push(Question { key: key.to_owned(), answer });
        {
            let _asking = self.authors.asking.lock().await;
            let questions = std::mem::take(&mut *self.authors.questions.lock());
            self.answer(questions).await;
        }
        // The attempt that asked for us may have been stopped.
        answered.await.unwrap_or(Ok(Some(AuthorLookup::Later(NOT_NOW))))
    }

    async fn answer(&self, questions: Vec<Question>) {
        if questions.is_empty() {
            return;
        }
        let keys: Vec<&str> = questions.iter().map(|question| question.key.as_str()).collect();
        let is_single = keys.len() == 1;
        let shown = self.show_many(&keys.join(",")).await;
        for question in questions {
            let key = &question.key;
            let author = match &shown {
                Ok(Answer::Rejected(_)) if self.authors.are_paused() => {
                    Ok(Some(AuthorLookup::Later(NOT_NOW)))
                }
                // It may be only one of them.
                Ok(Answer::Rejected(_)) if !is_single => {
                    self.show_many(key).await.map(|shown| self.shown(key, &shown))
                }
                Ok(shown) => Ok(self.shown(key, shown)),
                Err(outcome) => Err(outcome.clone()),
            };
            let _ = question.answer.send(author);
        }
    }

    /// `GET /api/v2/users/show_many` takes up to 100 ids, which is more than the deliveries in flight.
    async fn show_many(&self, keys: &str) -> Result<Answer<UsersReply>, Outcome> {
        let show = || self.request(Method::GET, "/api/v2/users/show_many").query(&[("external_ids", keys)]);
        self.ask_users(show).await
    }

    /// Finds one author in an answer; `None`: there is no such user.
    fn shown(&self, key: &str, shown: &Answer<UsersReply>) -> Option<AuthorLookup> {
        match shown {
            Answer::Ok(UsersReply { users }) => {
                let user = users.iter().find(|user| user.active != Some(false) && user.is_of(key))?;
                self.authors.rejected.lock().clear();
                Some(user.into())
            }
            Answer::Rejected(reply) if matches!(reply.status, 403 | 404) => {
                Some(self.reject_author(key, reply))
            }
            Answer::Rejected(reply) => {
                self.pause_users_after(reply);
                Some(AuthorLookup::Later(NOT_NOW))
            }
            Answer::None => Some(AuthorLookup::Later(NOT_NOW)),
        }
    }

    /// Sends a request about users. If it fails, requests about users are paused: no ticket waits for them.
    async fn ask_users<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Answer<T>, Outcome> {
        let reply = match self.repeatable(Call::Author, request).await {
            Err(Outcome::Retry { reason, .. }) => {
                self.pause_users(FAILED_FOR, &reason.log);
                return Ok(Answer::None);
            }
            reply => reply?,
        };
        match reply.status {
            401 => return Err(outcome(Call::Author, &reply)),
            // The limit of the whole account, which tickets share.
            429 if reply.rate.remaining == Some(0) => return Err(outcome(Call::Author, &reply)),
            400 | 403 | 404 | 413 | 422 => return Ok(Answer::Rejected(reply)),
            _ => {}
        }
        match reply.json().filter(|_| reply.is_success()) {
            Some(answer) => Ok(Answer::Ok(answer)),
            None => {
                self.pause_users_after(&reply);
                Ok(Answer::None)
            }
        }
    }

    /// Records that Zendesk rejected this author, for example because the user is an agent or a firewall
    /// blocks the name. After [`SUSPECTS`] such authors, pauses all requests about users.
    fn reject_author(&self, key: &str, reply: &Reply) -> AuthorLookup {
        let suspects = {
            let mut rejected = self.authors.rejected.lock();
            rejected.insert(key.to_owned());
            rejected.len()
        };
        if suspects >= SUSPECTS {
            self.pause_users_after(reply);
        }
        AuthorLookup::Refused(reply.reason(Call::Author.name()).log)
    }

    /// Creates a user once it is this author's turn.
    async fn create_in_turn(&self, profile: &Profile) -> Result<AuthorLookup, Outcome> {
        const TOO_MANY: AuthorLookup =
            AuthorLookup::Later("too many authors wait for their user to be created");
        let Ok(_place) = self.authors.queue.try_acquire() else { return Ok(TOO_MANY) };
        let Ok(mut last) = timeout(self.authors.longest_wait, self.authors.creating.lock()).await else {
            return Ok(TOO_MANY);
        };
        if self.authors.are_paused() {
            return Ok(AuthorLookup::Later(NOT_NOW));
        }
        if let Some(last) = *last {
            tokio::time::sleep(BETWEEN.saturating_sub(last.elapsed())).await;
        }
        // Set before the request in case this attempt is stopped, and after it so that no two requests can
        // come closer on their way.
        *last = Some(Instant::now());
        let mut created = self.create_or_update(profile, profile.photo.as_deref()).await;
        if let Ok(Answer::Rejected(reply)) = &created
            && reply.refused_fields().iter().any(|field| field.contains("photo"))
        {
            tokio::time::sleep(BETWEEN).await;
            created = self.create_or_update(profile, None).await;
        }
        *last = Some(Instant::now());
        self.created(profile, created?)
    }

    /// `POST /api/v2/users/create_or_update`: safe to repeat, since it matches by `external_id`. The request
    /// names no role, which would change the role of an existing user.
    async fn create_or_update(
        &self,
        profile: &Profile,
        photo: Option<&str>,
    ) -> Result<Answer<UserReply>, Outcome> {
        let mut user = json!({
            "name": profile.name,
            "external_id": profile.key,
            "details": profile.details,
            "skip_verify_email": true,
        });
        if let Some(photo) = photo {
            user["remote_photo_url"] = json!(photo);
        }
        let request =
            || self.request(Method::POST, "/api/v2/users/create_or_update").json(&json!({ "user": user }));
        self.ask_users(request).await
    }

    fn created(&self, profile: &Profile, created: Answer<UserReply>) -> Result<AuthorLookup, Outcome> {
        match created {
            Answer::Ok(UserReply { user }) => {
                self.authors.rejected.lock().clear();
                Ok((&user).into())
            }
            Answer::Rejected(reply) if matches!(reply.status, 403 | 404) => {
                Ok(self.reject_author(&profile.key, &reply))
            }
            // Zendesk does not take this name: that says nothing about other authors.
            Answer::Rejected(reply) => Ok(AuthorLookup::Refused(reply.reason(Call::Author.name()).log)),
            Answer::None => Ok(AuthorLookup::Later(NOT_NOW)),
        }
    }

    fn pause_users_after(&self, reply: &Reply) {
        let reason = reply.reason(Call::Author.name()).log;
        match reply.status {
            403 => self.pause_users(
                FORBIDDEN_FOR,
                &format!(
                    "{reason}: the credential may not manage users (scope users:write, and a role that may)"
                ),
            ),
            404 => self.pause_users(FORBIDDEN_FOR, &reason),
            429 => self.pause_users(reply.retry_after.unwrap_or(FAILED_FOR), &reason),
            _ => self.pause_users(FAILED_FOR, &reason),
        }
    }

    fn pause_users(&self, wait: Duration, reason: &str) {
        let (now, until) = (Instant::now(), Instant::now() + wait);
        let mut paused_until = self.authors.paused_until.lock();
        // Answers to concurrent requests only repeat the pause.
        let is_known = paused_until.is_some_and(|known| now < known && until <= known + FAILED_FOR);
        *paused_until = (*paused_until).max(Some(until));
        if !is_known {
            warn!(
                event = "authors_paused",
                "not looking up authors for {} s, so the service user is the requester of their tickets: \
                 {reason}",
                wait.as_secs()
            );
        }
    }
}

impl User {
    fn is_of(&self, key: &str) -> bool {
        self.external_id.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_of_one_author_share_a_lookup_until_it_ends() {
        let authors = Authors::new(Duration::from_secs(50));
        let first = authors.lookup("a");
        assert!(Arc::ptr_eq(&first, &authors.lookup("a")));
        drop((first, authors.lookup("b")));
        let _other = authors.lookup("c");
        assert_eq!(authors.lookups.lock().len(), 1);
    }
}
