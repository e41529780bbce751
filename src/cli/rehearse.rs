//! `casebridge rehearse`.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use anyhow::anyhow;
use tokio_util::sync::CancellationToken;

use casebridge::config::RehearsalSettings;
use casebridge::connect;
use casebridge::destination::zendesk::rehearse::{Left, MOST_TICKETS, Rehearsal, Report, State, TAG};

use super::progress::Progress;
use super::terminal;

/// How `casebridge rehearse` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rehearsed {
    /// Nothing is refuted.
    Ok,
    Failed,
    /// Nothing was created: --yes-create-tickets was not given.
    Refused,
}

/// Tests what casebridge assumes about Zendesk. If it may not create tickets, it only shows the account.
pub async fn rehearse(may_create: bool, as_json: bool, stop: CancellationToken) -> anyhow::Result<Rehearsed> {
    let RehearsalSettings { zendesk, lease, is_local } = RehearsalSettings::from_env()?;
    let http = connect::http_client(is_local)?;
    let rehearsal = Rehearsal::open(zendesk, http, lease, stop).await.map_err(|reason| anyhow!(reason))?;
    let head = format!("{}\n\n{}\n", rehearsal.account(), plan());
    if !may_create {
        let problem = "Nothing was created. On a trial or sandbox, add --yes-create-tickets";
        let report = Report::refused(rehearsal.account().clone(), problem.to_owned());
        print(if as_json { json(&report)? } else { format!("{head}\n{problem}\n") })?;
        return Ok(Rehearsed::Refused);
    }
    if !as_json {
        print(format!("{head}\nThis may take a few minutes because of the account's limits.\n\n"))?;
    }
    let progress = Progress::spinner("rehearsing");
    let report = rehearsal.run().await;
    drop(progress);
    print(if as_json { json(&report)? } else { screen(&report) })?;
    Ok(if report.is_ok() { Rehearsed::Ok } else { Rehearsed::Failed })
}

fn plan() -> String {
    format!(
        "A rehearsal creates at most {MOST_TICKETS} tickets and one end user in this account, all named \"casebridge \
         rehearsal\".\nThe tickets have the tag {TAG}. Finally, one is deleted and the others are solved or \
         closed;\nthe user remains. The account's triggers run for each ticket and can e-mail agents."
    )
}

fn json(report: &Report) -> anyhow::Result<String> {
    Ok(format!("{}\n", terminal::json(&serde_json::to_string_pretty(report)?)))
}

fn screen(report: &Report) -> String {
    let mut text = String::new();
    for verdict in &report.assumptions {
        let sign = match verdict.state {
            State::Confirmed => '✓',
            State::Refuted => '✗',
            State::NotTestable => '?',
        };
        let _ = writeln!(text, "{sign} {:<22}{}", verdict.id, verdict.seen);
        if verdict.state == State::Refuted {
            let _ = writeln!(text, "  {:<22}casebridge assumes: {}", "", verdict.assumption);
        }
    }
    text.push('\n');
    for made in &report.tickets {
        let state = match (made.state, &made.problem) {
            (Left::Open, Some(problem)) => format!("still open: {problem}. Solve it in Zendesk"),
            (Left::Open, None) => "still open. Solve it in Zendesk".to_owned(),
            (Left::Solved, _) => "solved".to_owned(),
            (Left::Closed, _) => "closed".to_owned(),
            (Left::Deleted, _) => "deleted".to_owned(),
        };
        let _ = writeln!(text, "ticket {}: {state}", made.ticket);
    }
    if let Some(user) = report.user {
        let _ = writeln!(text, "user {user}: not deleted");
    }
    if let Some(problem) = &report.problem {
        let _ = writeln!(text, "\nThe rehearsal is incomplete: {problem}");
    }
    let [confirmed, refuted, untested] =
        [State::Confirmed, State::Refuted, State::NotTestable].map(|state| report.count(state));
    let _ =
        writeln!(text, "\n{confirmed} confirmed (✓), {refuted} refuted (✗), {untested} not testable (?).");
    text
}

/// A reader that closed the pipe may still need the exit code.
fn print(text: String) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
