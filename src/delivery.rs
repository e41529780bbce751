//! Outcomes of attempts, and the transition that follows from each. Pure: time and chance are arguments.

use std::time::Duration;

use crate::destination::zendesk::memory::CaseMemory;

/// How an attempt ended, as decided by the destination.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The destination has a ticket with this number.
    Done { reference: String, action: Action, memory: CaseMemory },
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
    /// The destination will never accept the content. This says nothing about other deliveries.
    Dead { reason: Reason },
}

impl Outcome {
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
            | Outcome::Dead { reason } => Some(reason),
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

/// The effect of a delivery on its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Created,
    /// Created a ticket that follows up a closed one.
    FollowedUp,
    /// An earlier attempt had already done it.
    Found,
    Commented,
    /// Added a comment to a solved ticket and opened it again.
    Reopened,
    /// Added a comment and solved the ticket.
    Solved,
    /// There was nothing to add.
    Unchanged,
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
            Action::Unchanged => "unchanged",
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
    /// Set if somebody has to act: the code under which the README has the remedy.
    pub alert: Option<&'static str>,
}

impl Reason {
    pub fn new(text: impl Into<String>) -> Reason {
        let text = text.into();
        Reason { kind: text.clone(), log: text.clone(), full: text, alert: None }
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
        memory: CaseMemory,
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
        Outcome::Done { reference, memory, .. } => {
            return Transition::Done { reference: reference.clone(), memory: memory.clone() };
        }
        Outcome::Refused { reason } | Outcome::Dead { reason } => {
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
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn schedule() -> Vec<Duration> {
        [5, 30, 120].map(Duration::from_secs).to_vec()
    }

    fn after(outcome: &Outcome, tries: i64, jitter: f64) -> Transition {
        next(outcome, tries, &schedule(), LEASE, jitter)
    }

    fn retry(doubt: Doubt) -> Outcome {
        Outcome::Retry { reason: Reason::new("it failed"), doubt }
    }

    #[test]
    fn a_delivery_is_given_up_after_its_schedule() {
        for (tries, seconds) in [(0, 5), (1, 30), (2, 120)] {
            for (jitter, factor) in [(0.0, 1.0), (1.0, 1.2)] {
                let Transition::Again { after, tries: next, .. } = after(&retry(Doubt::None), tries, jitter)
                else {
                    panic!("dead after {tries} tries");
                };
                assert_eq!(after, Duration::from_secs(seconds).mul_f64(factor));
                assert_eq!(next, tries + 1);
            }
        }
        for (doubt, in_doubt, rest) in [
            (Doubt::None, false, Duration::ZERO),
            (Doubt::Answered, true, Duration::ZERO),
            (Doubt::Unanswered, true, LEASE),
        ] {
            let reason = "given up after 4 tries: it failed".to_owned();
            assert_eq!(after(&retry(doubt), 3, 0.5), Transition::GivenUp { reason, in_doubt, rest });
        }
    }

    #[test]
    fn a_pause_uses_up_no_try() {
        let pause = |retry_after, doubt| Outcome::Pause { reason: Reason::new("down"), doubt, retry_after };
        for tries in [0, 3, 100] {
            let Transition::Again { after, tries: next, in_doubt, .. } =
                after(&pause(Some(Duration::from_secs(93)), Doubt::None), tries, 0.5)
            else {
                panic!("a pause made it dead");
            };
            assert_eq!((after, next, in_doubt), (Duration::from_secs(93), tries, false));
        }
    }

    #[test]
    fn unanswered_requests_wait_for_the_lease() {
        for (doubt, least, expected) in [
            (Doubt::None, Duration::from_secs(5), false),
            (Doubt::Answered, Duration::from_secs(5), true),
            (Doubt::Unanswered, LEASE, true),
        ] {
            let Transition::Again { after, in_doubt, .. } = after(&retry(doubt), 0, 0.0) else {
                panic!("dead");
            };
            assert_eq!((after, in_doubt), (least, expected));
        }
    }
}
