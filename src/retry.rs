//! What follows from how an attempt ended. Pure: time and chance are arguments.

use std::time::Duration;

use crate::memory::CaseMemory;

/// How one attempt ended; decided by the destination.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The destination holds it under this number.
    Done { reference: String, action: Action, memory: CaseMemory },
    /// This delivery failed; the next one may not.
    Retry { reason: Reason, doubt: Doubt },
    /// Nothing of this lane gets through; the delivery is none the worse for it.
    Pause { reason: Reason, doubt: Doubt, retry_after: Option<Duration> },
    /// Something in front of the destination blocked it, or a permission is missing. The lane pauses unless
    /// other deliveries pass.
    Blocked { reason: Reason, doubt: Doubt },
    /// Its turn has not come: nothing was tried.
    Later { reason: Reason, wait: Duration },
    /// Only this delivery has to wait; it is none the worse for it.
    Wait { reason: Reason, doubt: Doubt, wait: Duration },
    /// It cannot be done as things are, and may be later. This says nothing about other deliveries.
    Stuck { reason: Reason },
    /// The destination refuses its content. It is dead unless others are refused for the same reason.
    Refused { reason: Reason },
    /// The destination will never accept its content. This says nothing about other deliveries.
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

    /// The same of an attempt that may have done something before it failed.
    pub fn in_doubt(mut self) -> Outcome {
        if let Outcome::Later { reason, wait } = self {
            return Outcome::Wait { reason, doubt: Doubt::Answered, wait };
        }
        match &mut self {
            Outcome::Retry { doubt, .. }
            | Outcome::Pause { doubt, .. }
            | Outcome::Blocked { doubt, .. }
            | Outcome::Wait { doubt, .. } => {
                if *doubt == Doubt::None {
                    *doubt = Doubt::Answered;
                }
            }
            Outcome::Stuck { .. }
            | Outcome::Later { .. }
            | Outcome::Done { .. }
            | Outcome::Refused { .. }
            | Outcome::Dead { .. } => {}
        }
        self
    }
}

/// How a delivery came to its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It made it.
    Created,
    /// It made one that goes on with a closed one.
    FollowedUp,
    /// An earlier attempt had done what there was to do.
    Found,
    /// It added a comment.
    Commented,
    /// It added a comment to a solved one, which is open again.
    Reopened,
    /// It added a comment, and its matter is closed.
    Solved,
    /// There was nothing to add.
    Unchanged,
}

impl Action {
    /// As it stands in the log.
    pub fn word(self) -> &'static str {
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

/// Whether the destination may have acted on what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It has not.
    None,
    /// It answered, and the answer does not tell.
    Answered,
    /// It has not answered, and may be at work still.
    Unanswered,
}

/// Why an attempt failed: one text for the log, one for the operator's eyes alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// Holds nothing of a customer's text.
    pub log: String,
    /// What is stored as `last_error`; may hold names and texts.
    pub full: String,
    /// The same for failures of the same kind.
    pub kind: String,
    /// Set when somebody has to act: the code under which the README has the remedy.
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

/// What becomes of the delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Transition {
    Done {
        reference: String,
        memory: CaseMemory,
    },
    /// Refused for good: nothing of it is at the destination.
    Dead {
        reason: String,
    },
    /// Its schedule is used up. What it last sent may still be worked on for so long, and nobody may
    /// touch its case before.
    GivenUp {
        reason: String,
        in_doubt: bool,
        rest: Duration,
    },
    /// It waits; `tries` is what the count of its own failures becomes.
    Again {
        after: Duration,
        tries: i64,
        in_doubt: bool,
        reason: String,
    },
}

/// The transition that follows an outcome.
///
/// `tries` is how often the delivery has failed by itself before; `jitter` is from 0 to 1. What was
/// not answered waits at least `lease`: until then the destination may be at work on it.
pub fn next(
    outcome: &Outcome,
    tries: i64,
    schedule: &[Duration],
    lease: Duration,
    jitter: f64,
) -> Transition {
    match outcome {
        Outcome::Done { reference, memory, .. } => {
            Transition::Done { reference: reference.clone(), memory: memory.clone() }
        }
        Outcome::Refused { reason } | Outcome::Dead { reason } => {
            Transition::Dead { reason: reason.full.clone() }
        }
        Outcome::Later { reason, wait } => {
            Transition::Again { after: *wait, tries, in_doubt: false, reason: reason.full.clone() }
        }
        Outcome::Wait { reason, doubt, wait } => Transition::Again {
            after: (*wait).max(doubt.least_wait(lease)),
            tries,
            in_doubt: *doubt != Doubt::None,
            reason: reason.full.clone(),
        },
        Outcome::Stuck { reason } => {
            let retry = Outcome::Retry { reason: reason.clone(), doubt: Doubt::None };
            next(&retry, tries, schedule, lease, jitter)
        }
        Outcome::Blocked { reason, doubt } => {
            let pause = Outcome::Pause { reason: reason.clone(), doubt: *doubt, retry_after: None };
            next(&pause, tries, schedule, lease, jitter)
        }
        Outcome::Pause { reason, doubt, retry_after } => Transition::Again {
            after: retry_after.unwrap_or_default().max(doubt.least_wait(lease)),
            tries,
            in_doubt: *doubt != Doubt::None,
            reason: reason.full.clone(),
        },
        Outcome::Retry { reason, doubt } => {
            let wait = usize::try_from(tries).ok().and_then(|tries| schedule.get(tries));
            match wait {
                Some(wait) => Transition::Again {
                    after: wait.mul_f64(1.0 + jitter * 0.2).max(doubt.least_wait(lease)),
                    tries: tries + 1,
                    in_doubt: *doubt != Doubt::None,
                    reason: reason.full.clone(),
                },
                None => Transition::GivenUp {
                    reason: format!("given up after {} tries: {}", tries + 1, reason.full),
                    in_doubt: *doubt != Doubt::None,
                    rest: doubt.least_wait(lease),
                },
            }
        }
    }
}

impl Doubt {
    fn least_wait(self, lease: Duration) -> Duration {
        match self {
            Doubt::None | Doubt::Answered => Duration::ZERO,
            Doubt::Unanswered => lease,
        }
    }
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
    fn the_schedule_is_used_up_and_then_it_is_dead() {
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
    fn a_pause_burns_no_try() {
        let pause = |retry_after, doubt| Outcome::Pause { reason: Reason::new("down"), doubt, retry_after };
        for tries in [0, 3, 100] {
            let Transition::Again { after, tries: next, in_doubt, .. } =
                after(&pause(Some(Duration::from_secs(93)), Doubt::None), tries, 0.5)
            else {
                panic!("a pause killed it");
            };
            assert_eq!((after, next, in_doubt), (Duration::from_secs(93), tries, false));
        }
    }

    #[test]
    fn what_was_not_answered_waits_until_it_must_be_over() {
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
