//! A delivery: the unit of work, the outcomes of its attempts, and the transition that follows from each. Pure: time
//! and chance are arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::json::hex;

/// A delivery that this process alone works on until its lease ends.
#[derive(Clone, Debug)]
pub struct Claim {
    pub identity: String,
    pub destination: String,
    /// Empty unless the destination delivers to each target of an item separately.
    pub target: String,
    pub case_key: String,
    pub route: String,
    pub payload: String,
    pub origin: Origin,
    /// For a delivery that follows another one: a [`Cause`] as JSON.
    pub cause: Option<String>,
    /// The bytes of the request, once they are frozen.
    pub request: Option<String>,
    /// A memo of the decisions behind these bytes. Older versions stored none.
    pub request_memo: Option<String>,
    pub revision: i64,
    /// The fence: each claim raises it.
    pub attempts: i64,
    pub tries: i64,
    pub in_doubt: bool,
    pub received_at: i64,
    /// The operator has declared the case's earlier result at the destination gone for good.
    pub anew: bool,
}

/// The part of an identity that names the target: `~` and 12 digits.
const TARGET_ID: usize = 13;

/// Returns the identity of an item's delivery to a target. The target may be a person's number, so that only its hash
/// is in the identity.
pub fn identity_for(item: &str, target: &str) -> String {
    match target {
        "" => item.to_owned(),
        target => format!("{item}~{}", target_id(target)),
    }
}

/// Returns the identity of the item of a delivery to this target.
pub fn item_identity<'a>(identity: &'a str, target: &str) -> &'a str {
    let end = identity.len().saturating_sub(TARGET_ID);
    match target {
        "" => identity,
        _ => identity.get(..end).unwrap_or(identity),
    }
}

/// Returns 12 hexadecimal digits that identify a target.
pub fn target_id(target: &str) -> String {
    format!("{:.12}", hex(Sha256::digest(target)))
}

impl Claim {
    /// The identity of the item, which its deliveries to several targets share.
    pub fn item_identity(&self) -> &str {
        item_identity(&self.identity, &self.target)
    }

    /// The key of the request: a new one for each revision of its bytes.
    pub fn idempotency_key(&self) -> String {
        match self.revision {
            0 => self.identity.clone(),
            revision => format!("{}#{revision}", self.identity),
        }
    }

    /// Returns the cause that the delivery follows, if there is one.
    pub fn cause(&self) -> Option<Cause> {
        serde_json::from_str(self.cause.as_deref()?).ok()
    }
}

/// How an item reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its source sent it.
    Push,
    /// It was read from a feed. Feeds also contain old items: one may have been delivered although the inbox does
    /// not know it.
    Feed,
}

impl Origin {
    /// The value of the column `origin`.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Push => "push",
            Origin::Feed => "feed",
        }
    }
}

impl From<String> for Origin {
    fn from(name: String) -> Origin {
        if name == Origin::Feed.name() { Origin::Feed } else { Origin::Push }
    }
}

/// The result of a delivery that other deliveries follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// The destination's reference, as in `reference` of the delivery.
    pub reference: String,
    /// The number by which people know it; empty for a message that was only sent.
    pub number: String,
    pub url: String,
    /// The name of the action; the earlier attempt's if this one found the work done.
    pub action: String,
}

impl Cause {
    /// Whether it has a number by which it can be opened, unlike a message that was only sent.
    pub fn has_number(&self) -> bool {
        !self.number.is_empty()
    }
}

/// The results of a case at a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub latest: Latest,
    /// The delivery may have been delivered although nothing here says so: it is older than this run, or the
    /// database is older than this run, and so may have been restored.
    pub may_be_restored: bool,
}

/// The latest result of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Latest {
    /// No other delivery of this case was ever tried, so casebridge cannot have created anything.
    None,
    /// Others were tried, and none is known to be done.
    Unknown,
    Done {
        reference: String,
        /// What the destination remembered; empty if it is not known.
        memo: String,
        /// When the youngest event in the memo was received.
        as_of: i64,
    },
}

/// How an attempt ended, as decided by the destination.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is done under this reference. Only the destination can read the `memo`, which is stored for the next
    /// delivery of the case. Other destinations follow if there is a `cause`.
    Done { reference: String, action: Action, memo: String, cause: Option<Box<Cause>> },
    /// This delivery failed; the next one may succeed.
    Retry { reason: Reason, doubt: Doubt },
    /// Nothing gets through to the destination. It pauses, and the delivery uses up no try.
    Pause { reason: Reason, doubt: Doubt, retry_after: Option<Duration> },
    /// Something in front of the destination blocked the request, or a permission is missing. The destination
    /// pauses unless other deliveries pass.
    Blocked { reason: Reason, doubt: Doubt },
    /// Nothing was tried: the delivery has to wait for its turn.
    Later { reason: Reason, wait: Duration },
    /// Only this delivery has to wait. It uses up no try.
    Wait { reason: Reason, doubt: Doubt, wait: Duration },
    /// The delivery cannot succeed until somebody acts. This says nothing about other deliveries.
    Stuck { reason: Reason },
    /// The destination refuses the content. The delivery is dead unless others are refused for the same reason.
    Refused { reason: Reason },
    /// The request may have been carried out, which cannot be looked up. The delivery is dead, and only a replay
    /// sends it again. The destination pauses, so that one outage does not end all deliveries.
    Uncertain { reason: Reason },
    /// The destination will never accept the content. This says nothing about other deliveries.
    Dead { reason: Reason },
}

/// The names of outcomes, in the record of attempts and in metrics. `given_up`: the last try of a schedule failed.
pub const OUTCOMES: [&str; 11] =
    ["done", "retry", "pause", "held", "later", "wait", "stuck", "refused", "uncertain", "dead", "given_up"];

/// How the reason of a held delivery begins. It waits until its destination wakes it.
pub const HELD: &str = "held: ";

/// Names the limit of a held delivery by the first words of its reason: `storm_limit` for `storm limit of 200 …`.
/// Settings and times follow after `of`, `until`, `for` or a number.
pub fn limit_name(reason: &str) -> String {
    let is_of_name = |word: &&str| {
        !matches!(*word, "of" | "until" | "for") && !word.contains(|c: char| c.is_ascii_digit())
    };
    reason.split_whitespace().take_while(is_of_name).collect::<Vec<_>>().join("_")
}

impl Outcome {
    /// A limit of the destination holds the delivery back. The destination wakes it; `wait` is the fallback.
    pub fn held(reason: &str, wait: Duration) -> Outcome {
        Outcome::Later { reason: Reason::new(format!("{HELD}{reason}")), wait }
    }

    /// A message was sent. Others may follow, with nothing to open.
    pub fn sent(reference: String) -> Outcome {
        Outcome::sent_as(Action::Sent, reference, String::new())
    }

    /// A message was sent, perhaps by an earlier attempt, and the case gets a memo.
    pub fn sent_as(action: Action, reference: String, memo: String) -> Outcome {
        let sent = Action::Sent.name().to_owned();
        let cause = Cause { reference: reference.clone(), action: sent, ..Cause::default() };
        Outcome::Done { reference, action, memo, cause: Some(Box::new(cause)) }
    }

    /// Why the delivery is not done; `None` if it is.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Outcome::Done { .. } => None,
            Outcome::Retry { reason, .. }
            | Outcome::Pause { reason, .. }
            | Outcome::Blocked { reason, .. }
            | Outcome::Later { reason, .. }
            | Outcome::Wait { reason, .. }
            | Outcome::Stuck { reason }
            | Outcome::Refused { reason }
            | Outcome::Uncertain { reason }
            | Outcome::Dead { reason } => Some(reason),
        }
    }

    /// The outcome as a word, one of [`OUTCOMES`], with the transition that follows from it.
    pub fn name(&self, transition: &Transition) -> &'static str {
        match self {
            _ if matches!(transition, Transition::GivenUp { .. }) => "given_up",
            Outcome::Done { .. } => "done",
            Outcome::Retry { .. } => "retry",
            Outcome::Pause { .. } | Outcome::Blocked { .. } => "pause",
            Outcome::Later { reason, .. } if reason.log.starts_with(HELD) => "held",
            Outcome::Later { .. } => "later",
            Outcome::Wait { .. } => "wait",
            Outcome::Stuck { .. } => "stuck",
            Outcome::Refused { .. } => "refused",
            Outcome::Uncertain { .. } => "uncertain",
            Outcome::Dead { .. } => "dead",
        }
    }

    /// The reason as logged; empty if the delivery is done.
    pub fn log(&self) -> &str {
        self.reason().map_or("", |reason| &reason.log)
    }

    /// The same outcome after an earlier request of the attempt may have had an effect.
    pub fn in_doubt(mut self) -> Outcome {
        match &mut self {
            Outcome::Retry { doubt, .. }
            | Outcome::Pause { doubt, .. }
            | Outcome::Blocked { doubt, .. }
            | Outcome::Wait { doubt, .. } => *doubt = (*doubt).max(Doubt::Answered),
            Outcome::Later { reason, wait } => {
                return Outcome::Wait { reason: reason.clone(), doubt: Doubt::Answered, wait: *wait };
            }
            _ => {}
        }
        self
    }
}

/// The effect of a delivery on its case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Created,
    /// Created another one that follows up a closed one.
    FollowedUp,
    /// An earlier attempt had already done it.
    Found,
    Commented,
    /// Added a comment to a solved case and opened it again.
    Reopened,
    /// Added a comment and solved the case.
    Solved,
    /// There was nothing to add.
    Unchanged,
    /// There was nothing to add, which was clear without asking the destination.
    Ignored,
    /// Sent a message, which the destination accepted.
    Sent,
    /// There was no recipient: the item yields no number.
    NoNumber,
}

impl Action {
    /// The value of `action` in the log.
    pub fn name(self) -> &'static str {
        match self {
            Action::Created => "created",
            Action::FollowedUp => "followed_up",
            Action::Found => "found",
            Action::Commented => "commented",
            Action::Reopened => "reopened",
            Action::Solved => "solved",
            Action::Unchanged | Action::Ignored => "unchanged",
            Action::Sent => "sent",
            Action::NoNumber => "no_number",
        }
    }
}

/// Whether a failed attempt may have had an effect at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// It had none.
    None,
    /// The destination answered, but the answer does not say.
    Answered,
    /// The destination has not answered and may still be at work.
    Unanswered,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// For the log: contains nothing of a customer's text.
    pub log: String,
    /// For the operator, stored as `last_error`: may contain names and texts.
    pub full: String,
    /// Equal for failures of the same kind.
    pub kind: String,
    /// Set if somebody has to act: the code under which `docs/alerts.md` has the remedy.
    pub alert: Option<&'static str>,
    /// Only something sent shows that the reason is gone: checks and lookups pass meanwhile.
    pub until_sent: bool,
    /// The answer that caused it.
    pub response: Option<Box<Response>>,
}

/// A destination's answer, as it is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The destination's own id of the request.
    pub request_id: Option<String>,
    /// The beginning of its body: can contain a customer's text, which no log may.
    pub beginning: String,
}

impl Response {
    /// The bytes of a body that are kept.
    const LENGTH: usize = 500;

    pub fn new(status: u16, request_id: Option<&str>, body: &[u8]) -> Response {
        let beginning = String::from_utf8_lossy(&body[..body.len().min(Self::LENGTH)]);
        // Drops a character that the limit has cut in two.
        let beginning = beginning.trim_end_matches('\u{fffd}').to_owned();
        Response { status, request_id: request_id.map(str::to_owned), beginning }
    }
}

/// How an attempt went, as it is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// One of [`OUTCOMES`].
    pub outcome: &'static str,
    /// What a done delivery did.
    pub action: Option<&'static str>,
    /// The address of the result.
    pub url: Option<String>,
    /// Why it is not done; contains no text from a customer.
    pub reason: Option<String>,
    /// Whether a lookup found the result of an earlier request; `None` without a lookup.
    pub found: Option<bool>,
    /// The answer to its last request.
    pub response: Option<Response>,
    /// A fingerprint of the item's link.
    pub link: Option<String>,
    pub took: Duration,
}

impl Reason {
    pub fn new(text: impl Into<String>) -> Reason {
        let text = text.into();
        let (kind, log) = (text.clone(), text.clone());
        Reason { kind, log, full: text, alert: None, until_sent: false, response: None }
    }

    pub fn alert(code: &'static str, text: impl Into<String>) -> Reason {
        Reason { alert: Some(code), ..Reason::new(text) }
    }
}

/// The next state of the delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Transition {
    Done {
        reference: String,
        memo: String,
        cause: Option<Box<Cause>>,
    },
    /// Refused for good: the destination has nothing of it.
    Dead {
        reason: String,
    },
    /// Its schedule is used up. The destination may still be at work on the last request: until `rest` is
    /// over, no other delivery of the case may start.
    GivenUp {
        reason: String,
        in_doubt: bool,
        rest: Duration,
    },
    /// The delivery waits. `tries` is its new number of failed tries.
    Again {
        after: Duration,
        tries: i64,
        in_doubt: bool,
        reason: String,
    },
}

/// Returns the transition that follows an outcome.
///
/// `tries` counts earlier failures of this delivery; `jitter` is from 0 to 1. After an unanswered request the
/// delivery waits at least `lease`, since until then the destination may be at work on it.
pub fn next(
    outcome: &Outcome,
    tries: i64,
    schedule: &[Duration],
    lease: Duration,
    jitter: f64,
) -> Transition {
    let (reason, doubt) = match outcome {
        Outcome::Done { reference, memo, cause, .. } => {
            let (reference, memo, cause) = (reference.clone(), memo.clone(), cause.clone());
            return Transition::Done { reference, memo, cause };
        }
        Outcome::Refused { reason } | Outcome::Uncertain { reason } | Outcome::Dead { reason } => {
            return Transition::Dead { reason: reason.full.clone() };
        }
        Outcome::Later { reason, .. } | Outcome::Stuck { reason } => (&reason.full, Doubt::None),
        Outcome::Retry { reason, doubt }
        | Outcome::Pause { reason, doubt, .. }
        | Outcome::Blocked { reason, doubt }
        | Outcome::Wait { reason, doubt, .. } => (&reason.full, *doubt),
    };
    let in_doubt = doubt != Doubt::None;
    let least = if doubt == Doubt::Unanswered { lease } else { Duration::ZERO };
    let (wait, tries) = match outcome {
        Outcome::Later { wait, .. } | Outcome::Wait { wait, .. } => (*wait, tries),
        Outcome::Pause { retry_after, .. } => (retry_after.unwrap_or_default(), tries),
        Outcome::Blocked { .. } => (Duration::ZERO, tries),
        _ => match usize::try_from(tries).ok().and_then(|tries| schedule.get(tries)) {
            Some(wait) => (wait.mul_f64(1.0 + jitter * 0.2), tries + 1),
            None => {
                let reason = format!("given up after {} tries: {reason}", tries + 1);
                return Transition::GivenUp { reason, in_doubt, rest: least };
            }
        },
    };
    Transition::Again { after: wait.max(least), tries, in_doubt, reason: reason.clone() }
}

#[cfg(test)]
mod tests;
