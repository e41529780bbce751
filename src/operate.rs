//! The operator's subcommands: `list` and `replay`, on the same database as the running service.

use std::io::{BufWriter, Write};

use anyhow::bail;
use jiff::Timestamp;
use serde_json::json;

use casebridge::config::Database;
use casebridge::inbox::{Inbox, Listed, State};

/// Rows read at once: the list may be longer than the memory.
const PAGE: usize = 1000;

/// Prints deliveries, oldest first.
pub async fn list(database: &Database, state: Option<State>, as_json: bool) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if !as_json {
        writeln!(out, "{:<7}  {:<20}  {:>8}  {:>8}  ID", "STATE", "RECEIVED", "ATTEMPTS", "TICKET")?;
    }
    let mut last: Option<Listed> = None;
    loop {
        let page = inbox.list(state, last.as_ref(), PAGE).await?;
        for delivery in &page {
            match as_json {
                true => writeln!(out, "{}", json_line(delivery))?,
                false => write!(out, "{}", text_lines(delivery))?,
            }
        }
        match page.into_iter().next_back() {
            Some(delivery) => last = Some(delivery),
            None => break,
        }
    }
    out.flush()?;
    Ok(())
}

/// Gives dead deliveries a new schedule: those named, or all of them.
pub async fn replay(database: &Database, ids: &[String], dry_run: bool) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let chosen = match ids {
        [] => all_dead(&inbox).await?,
        ids => named(&inbox, ids).await?,
    };
    let mut out = std::io::stdout().lock();
    let mut replayed = 0;
    for delivery in &chosen {
        // Another operator may have been quicker.
        if dry_run || inbox.replay(delivery).await? {
            replayed += 1;
            let done = if dry_run { "would replay" } else { "replayed" };
            writeln!(out, "{done} {} ({})", delivery.identity, reason(delivery))?;
        }
    }
    let done = if dry_run { "would be replayed" } else { "replayed" };
    writeln!(out, "{replayed} {done}")?;
    Ok(())
}

async fn all_dead(inbox: &Inbox) -> sqlx::Result<Vec<Listed>> {
    let mut dead: Vec<Listed> = Vec::new();
    loop {
        let page = inbox.list(Some(State::Dead), dead.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(dead);
        }
        dead.extend(page);
    }
}

/// All of them or none: a typing error should not leave half a replay behind.
async fn named(inbox: &Inbox, ids: &[String]) -> anyhow::Result<Vec<Listed>> {
    let mut chosen = Vec::new();
    for id in ids {
        let found = inbox.find(id).await?;
        match found.first() {
            None => bail!("there is no delivery `{id}`: `casebridge list` shows their ids"),
            Some(delivery) if found.iter().all(|delivery| delivery.state != "dead") => {
                bail!("`{id}` is {}, and only dead deliveries can be replayed", delivery.state)
            }
            Some(_) => chosen.extend(found.into_iter().filter(|delivery| delivery.state == "dead")),
        }
    }
    Ok(chosen)
}

fn json_line(delivery: &Listed) -> serde_json::Value {
    json!({
        "id": delivery.identity,
        "case": delivery.case_key,
        "event_name": delivery.event_name,
        "event_id": delivery.event_id,
        "route": delivery.route,
        "destination": delivery.destination,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "tries": delivery.tries,
        "ticket": delivery.reference,
        "reason": delivery.last_error,
        "received_at": time(delivery.received_at),
        "due_at": (delivery.state == "waiting").then(|| time(delivery.due_at)),
        "settled_at": delivery.settled_at.map(time),
    })
}

fn text_lines(delivery: &Listed) -> String {
    let ticket = delivery.reference.as_deref().unwrap_or("-");
    let mut lines = format!(
        "{:<7}  {:<20}  {:>8}  {:>8}  {}\n",
        delivery.state,
        time(delivery.received_at),
        delivery.attempts,
        ticket,
        delivery.identity
    );
    if delivery.last_error.is_some() {
        lines.push_str(&format!("         {}\n", reason(delivery)));
    }
    lines
}

/// On one line, and without what could take over a terminal.
fn reason(delivery: &Listed) -> String {
    let reason = delivery.last_error.as_deref().unwrap_or("no reason known");
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

fn time(millis: i64) -> String {
    let time = Timestamp::from_millisecond(millis).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
