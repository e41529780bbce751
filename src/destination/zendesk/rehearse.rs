//! `casebridge rehearse`: tries on the configured account what casebridge assumes about Zendesk.
//!
//! Sends the requests that the service sends, and also closes, merges and deletes tickets; all of them are its own: at
//! most [`MOST_TICKETS`], for one end user, all named "casebridge rehearsal". Whatever happens in between, it solves
//! them in the end.

mod account;
mod assumption;
mod comment;
mod experiments;
mod tickets;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::reply::Reply;
use super::settings::ZendeskSettings;
use super::setup::access_error;
use super::{Call, Zendesk, check, outcome};
use crate::delivery::{Doubt, Outcome};

pub use account::{Account, ServiceUser};
pub use assumption::{Assumption, State, Verdict};
pub use tickets::{Left, Made};

/// The tag of the tickets.
pub const TAG: &str = "casebridge_rehearsal";
/// The most requests to create a ticket.
pub const MOST_TICKETS: usize = 6;
/// As of one delivery of the service, so that its requests have the same time limits.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(50);
/// The longest wait until Zendesk, or our share of its limits, allows one request.
const PATIENCE: Duration = Duration::from_secs(120);
/// The time between two polls.
const POLL: Duration = Duration::from_secs(1);

/// A rehearsal on one account.
pub struct Rehearsal {
    zendesk: Zendesk,
    account: Account,
    /// Distinguishes this rehearsal from others.
    run: String,
    /// How long the service waits before it looks for the effect of a request.
    lease: Duration,
    stop: CancellationToken,
    verdicts: BTreeMap<Assumption, (State, String)>,
    /// Why the first experiment without a result failed.
    problem: Option<String>,
    /// Requests to create a ticket so far.
    creates: usize,
    /// The cases of creates without an answer, which may have created a ticket.
    doubtful: Vec<String>,
    tickets: Vec<Made>,
    user: Option<u64>,
}

/// The result of a rehearsal.
#[derive(Debug, Serialize)]
pub struct Report {
    pub account: Account,
    /// Why the rehearsal did not begin or is incomplete.
    pub problem: Option<String>,
    pub assumptions: Vec<Verdict>,
    pub tickets: Vec<Made>,
    /// The id of the end user, which is not deleted.
    pub user: Option<u64>,
}

/// Why an experiment has no result.
enum Interrupted {
    /// A signal came.
    Stopped,
    /// Zendesk refuses the credential or a permission, so that no experiment is possible.
    NoAccess(Box<Outcome>),
    Failed(String),
}

impl From<Outcome> for Interrupted {
    fn from(outcome: Outcome) -> Interrupted {
        match outcome.reason().is_some_and(|reason| reason.alert.is_some()) {
            true => Interrupted::NoAccess(Box::new(outcome)),
            false => Interrupted::Failed(outcome.log().to_owned()),
        }
    }
}

impl Report {
    /// The report of a rehearsal that did not begin.
    pub fn refused(account: Account, problem: String) -> Report {
        Report { account, problem: Some(problem), assumptions: Vec::new(), tickets: Vec::new(), user: None }
    }

    pub fn count(&self, state: State) -> usize {
        self.assumptions.iter().filter(|verdict| verdict.state == state).count()
    }

    /// The tickets that could not be solved.
    pub fn open(&self) -> impl Iterator<Item = &Made> {
        self.tickets.iter().filter(|made| made.state == Left::Open)
    }

    /// Whether it is complete, nothing is refuted and no ticket is open.
    pub fn is_ok(&self) -> bool {
        self.problem.is_none() && self.count(State::Refuted) == 0 && self.open().next().is_none()
    }
}

impl Rehearsal {
    /// Checks the access and reads whose account it is. Creates nothing. `lease`: `LEASE_SECONDS`.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub async fn open(
        settings: ZendeskSettings,
        http: reqwest::Client,
        lease: Duration,
        stop: CancellationToken,
    ) -> Result<Rehearsal, String> {
        let zendesk = Zendesk::new(settings, http, ATTEMPT_LIMIT);
        let account = zendesk.account().await?;
        Ok(Rehearsal {
            zendesk,
            account,
            run: format!("{:08x}", fastrand::u32(..)),
            lease,
            stop,
            verdicts: BTreeMap::new(),
            problem: None,
            creates: 0,
            doubtful: Vec::new(),
            tickets: Vec::new(),
            user: None,
        })
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Creates the tickets, tries each assumption, and solves the tickets.
    pub async fn run(mut self) -> Report {
        match self.experiments().await {
            Ok(()) => {}
            Err(Interrupted::Stopped) => self.problem = Some("stopped by a signal".to_owned()),
            Err(Interrupted::NoAccess(outcome)) => self.problem = Some(self.remedy(&outcome).await),
            Err(Interrupted::Failed(reason)) => self.problem = Some(reason),
        }
        self.clean_up().await;
        let reason = format!("not reached: {}", self.problem.as_deref().unwrap_or_default());
        self.cannot_test(Assumption::ALL, &reason);
        let verdict = |(assumption, (state, seen)): (Assumption, (State, String))| {
            let (id, text, used_in) = (assumption.id(), assumption.text(), assumption.used_in());
            Verdict { id, assumption: text, used_in, state, seen }
        };
        let Rehearsal { account, problem, verdicts, tickets, user, .. } = self;
        let assumptions = verdicts.into_iter().map(verdict).collect();
        Report { account, problem, assumptions, tickets, user }
    }

    /// Returns the result of an experiment. If it failed, these assumptions are not testable now.
    ///
    /// # Errors
    /// No further experiment is possible.
    fn settle<T>(
        &mut self,
        result: Result<T, Interrupted>,
        assumptions: &[Assumption],
    ) -> Result<Option<T>, Interrupted> {
        match result {
            Ok(result) => Ok(Some(result)),
            Err(Interrupted::Failed(reason)) => {
                self.cannot_test(assumptions, &reason);
                self.problem.get_or_insert(reason);
                Ok(None)
            }
            Err(halted) => Err(halted),
        }
    }

    /// What `casebridge check` would say.
    async fn remedy(&self, outcome: &Outcome) -> String {
        let (settings, grant) = (&self.zendesk.settings, self.zendesk.grant().await);
        account::with_remedy(&check::credential(settings, &Err(access_error(outcome)), grant.as_ref()))
    }

    fn judge(&mut self, assumption: Assumption, holds: bool, seen: impl Into<String>) {
        let state = if holds { State::Confirmed } else { State::Refuted };
        self.verdicts.insert(assumption, (state, seen.into()));
    }

    fn cannot_test(&mut self, assumptions: &[Assumption], reason: &str) {
        for assumption in assumptions {
            self.verdicts.entry(*assumption).or_insert_with(|| (State::NotTestable, reason.to_owned()));
        }
    }

    /// Handles a request that the role or the account does not allow: then these assumptions are not testable.
    fn refused(&mut self, reply: &Reply, what: &str, assumptions: &[Assumption]) -> Result<(), Interrupted> {
        let reason = reply.reason(what).log;
        match reply.status {
            400..=499 => {
                self.cannot_test(assumptions, &reason);
                Ok(())
            }
            _ => Err(Interrupted::Failed(reason)),
        }
    }

    /// Sends a request, and again when Zendesk or our share of its limits allows it. Any other answer is a result.
    async fn ask(&self, call: Call, request: impl Fn() -> RequestBuilder) -> Result<Reply, Interrupted> {
        let ask = async || {
            let reply = self.zendesk.repeatable(call, &request).await?;
            let is_busy = reply.status == 503 && reply.retry_after.is_some();
            match matches!(reply.status, 401 | 429) || is_busy {
                true => Err(outcome(call, &reply)),
                false => Ok(reply),
            }
        };
        self.patiently(ask).await
    }

    /// Repeats a call as long as it only has to wait, and has had no effect.
    async fn patiently<T>(&self, call: impl AsyncFn() -> Result<T, Outcome>) -> Result<T, Interrupted> {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.stop.is_cancelled() {
                return Err(Interrupted::Stopped);
            }
            let outcome = match call().await {
                Ok(result) => return Ok(result),
                Err(outcome) => outcome,
            };
            let wait = match &outcome {
                Outcome::Later { wait, .. } | Outcome::Wait { wait, doubt: Doubt::None, .. } => *wait,
                Outcome::Pause { retry_after: Some(wait), doubt: Doubt::None, .. } => *wait,
                _ => return Err(outcome.into()),
            };
            if Instant::now() + wait > end {
                let most = PATIENCE.as_secs();
                return Err(Interrupted::Failed(format!("{}; the wait exceeds {most} s", outcome.log())));
            }
            self.pause(wait).await?;
        }
    }

    async fn pause(&self, wait: Duration) -> Result<(), Interrupted> {
        let slept = self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        slept.ok_or(Interrupted::Stopped)
    }

    /// Tries again and again until there is a result or the lease would be over.
    async fn poll<T>(
        &self,
        every: Duration,
        attempt: impl AsyncFn() -> Result<Option<T>, Interrupted>,
    ) -> Result<Option<T>, Interrupted> {
        let start = Instant::now();
        loop {
            if let Some(result) = attempt().await? {
                return Ok(Some(result));
            }
            if start.elapsed() + every > self.lease {
                return Ok(None);
            }
            self.pause(every).await?;
        }
    }
}
