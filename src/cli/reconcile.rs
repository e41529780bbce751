//! `casebridge reconcile`: compares the database, Zendesk and the feeds. It changes nothing.

mod feeds;
mod tickets;

use std::fmt::Display;
use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use casebridge::config::Config;
use casebridge::connect;
use casebridge::destination::{self, zendesk};
use casebridge::inbox::{Account, Inbox, Surplus};
use casebridge::text::printable;

use super::terminal;

/// A difference, and what to do about it.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// `books`, `ticket_missing`, `ticket_duplicate`, `ticket_unknown` or `event_missing`
    kind: &'static str,
    text: String,
    remedy: String,
}

/// A part that could not be compared.
#[derive(Debug, Serialize)]
pub struct Unchecked {
    part: String,
    reason: String,
}

/// The result of the comparison.
#[derive(Debug, Default)]
pub struct Findings {
    differences: Vec<Difference>,
    unchecked: Vec<Unchecked>,
    /// What was compared, for the sentence at the end.
    compared: Vec<String>,
    /// What cannot be compared in this configuration.
    left_out: Vec<String>,
}

impl Findings {
    fn differs(&mut self, kind: &'static str, text: String, remedy: impl Into<String>) {
        self.differences.push(Difference { kind, text, remedy: remedy.into() });
    }

    fn unchecked(&mut self, part: impl Into<String>, reason: impl Display) {
        self.unchecked.push(Unchecked { part: part.into(), reason: reason.to_string() });
    }
}

/// Compares everything that was received since then. Returns whether everything agrees.
pub async fn reconcile(config: Config, since: Timestamp, as_json: bool) -> anyhow::Result<bool> {
    let inbox = Inbox::open_beside(&config.database).await?;
    let mut findings = Findings::default();
    let accounts = inbox.accounts(since.as_millisecond()).await?;
    let received: i64 = accounts.iter().map(|account| account.received).sum();
    findings.compared.push(format!("{received} deliveries since {since:.0}"));
    check_books(&inbox.surpluses().await?, &mut findings);
    let client = connect::http_client(config.general.is_local)?;
    feeds::compare(&config, &inbox, &client, since, &mut findings).await?;
    let others = destination::NAMES.iter().filter(|name| **name != zendesk::NAME);
    let is_used = |name: &&&str| config.general.routes.iter().any(|route| route.goes_to(name));
    findings.left_out.extend(others.filter(is_used).map(|name| format!("what {name} has")));
    if let Some(settings) = config.destinations.zendesk {
        let company = config.khoros.company_id;
        tickets::compare(settings, client, company, &inbox, since, &mut findings).await?;
    }
    inbox.close().await;
    let agrees = findings.differences.is_empty() && findings.unchecked.is_empty();
    let text = match as_json {
        true => {
            format!("{}\n", terminal::json(&format!("{:#}", document(&accounts, since, &findings, agrees))))
        }
        false => screen(&findings),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(agrees)
}

/// Compares the counts that triggers keep, of all times, with the rows.
fn check_books(surpluses: &[Surplus], findings: &mut Findings) {
    for surplus in surpluses {
        let Surplus { route, destination, received, waiting, in_doubt, done, dead } = surplus;
        let (problem, remedy) = match received {
            1.. => (
                format!("{received} received deliveries are no longer in the database"),
                "somebody deleted rows: compare the database with the last backup",
            ),
            _ => (
                format!(
                    "the counts differ from the rows by {received} received, {waiting} waiting, {in_doubt} in doubt, \
                     {done} done, {dead} dead"
                ),
                "the triggers were off, or somebody changed the counts: count again as in docs/monitoring.md",
            ),
        };
        findings.differs("books", format!("route {route} to {destination}: {problem}"), remedy);
    }
}

fn screen(findings: &Findings) -> String {
    let Findings { differences, unchecked, compared, left_out } = findings;
    let mut lines = Vec::new();
    for Difference { text, remedy, .. } in differences {
        lines.push(format!("✗ {}", printable(text)));
        lines.push(format!("  → {}", printable(remedy)));
    }
    for Unchecked { part, reason } in unchecked {
        lines.push(format!("! {}: could not be checked: {}", printable(part), printable(reason)));
    }
    lines.push(match (differences.len(), unchecked.len()) {
        (0, 0) => format!("everything agrees: {}", compared.join(", ")),
        (different, unchecked) => format!("{different} difference(s), {unchecked} part(s) not checked"),
    });
    if !left_out.is_empty() {
        lines.push(format!("not compared: {}", left_out.join("; ")));
    }
    lines.join("\n") + "\n"
}

fn document(accounts: &[Account], since: Timestamp, findings: &Findings, agrees: bool) -> serde_json::Value {
    let account = |account: &Account| {
        json!({
            "route": account.route,
            "destination": account.destination,
            "received": account.received,
            "waiting": account.waiting,
            "done": account.done,
            "dead": account.dead,
        })
    };
    json!({
        "agrees": agrees,
        "since": since.to_string(),
        "deliveries": accounts.iter().map(account).collect::<Vec<_>>(),
        "differences": findings.differences,
        "unchecked": findings.unchecked,
        "left_out": findings.left_out,
    })
}
