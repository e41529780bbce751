//! `casebridge reconcile`: whether our books, Zendesk and the feeds agree. It changes nothing.

mod feeds;
mod tickets;

use std::fmt::Display;
use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use casebridge::config::Config;
use casebridge::connect;
use casebridge::inbox::{Account, Counts, Inbox};
use casebridge::text::printable;

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

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    differences: Vec<Difference>,
    unchecked: Vec<Unchecked>,
    /// What was compared, for the sentence at the end.
    compared: Vec<String>,
}

impl Findings {
    fn differs(&mut self, kind: &'static str, text: String, remedy: impl Into<String>) {
        self.differences.push(Difference { kind, text, remedy: remedy.into() });
    }

    fn unchecked(&mut self, part: impl Into<String>, reason: impl Display) {
        self.unchecked.push(Unchecked { part: part.into(), reason: reason.to_string() });
    }
}

/// Compares everything that was received since. Returns whether all agrees.
pub async fn reconcile(config: Config, since: Timestamp, as_json: bool) -> anyhow::Result<bool> {
    let inbox = Inbox::open_beside(&config.database).await?;
    let mut findings = Findings::default();
    let accounts = inbox.accounts(since.as_millisecond()).await?;
    check_books(&accounts, since, &mut findings);
    check_counts(&inbox.counts().await?, &mut findings);
    let client = connect::http_client(config.general.is_local)?;
    feeds::compare(&config, &inbox, &client, since, &mut findings).await?;
    if let Some(settings) = config.destinations.zendesk {
        let company = config.khoros.company_id;
        tickets::compare(settings, client, company, &inbox, since, &mut findings).await?;
    }
    inbox.close().await;
    let agrees = findings.differences.is_empty() && findings.unchecked.is_empty();
    let text = match as_json {
        true => format!("{:#}\n", document(&accounts, since, &findings, agrees)),
        false => screen(&findings),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(agrees)
}

fn check_books(accounts: &[Account], since: Timestamp, findings: &mut Findings) {
    for account in accounts.iter().filter(|account| account.unaccounted() != 0) {
        let Account { route, destination, received, waiting, done, dead } = account;
        let text = format!(
            "route {route} to {destination}: {received} received, but {waiting} waiting, {done} done, {dead} dead"
        );
        findings.differs("books", text, "report this as a defect of casebridge, with the version");
    }
    let received: i64 = accounts.iter().map(|account| account.received).sum();
    findings.compared.push(format!("{received} deliveries since {since:.0}"));
}

/// Compares what was ever received, which triggers count, with what is still there.
fn check_counts(counts: &[Counts], findings: &mut Findings) {
    for counts in counts.iter().filter(|counts| counts.unaccounted() != 0) {
        let Counts { route, destination, .. } = counts;
        let text = format!(
            "route {route} to {destination}: {} received deliveries are no longer in the database",
            counts.unaccounted()
        );
        findings.differs("books", text, "somebody deleted rows: compare the database with the last backup");
    }
}

fn screen(findings: &Findings) -> String {
    let Findings { differences, unchecked, compared } = findings;
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
    })
}
