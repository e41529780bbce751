//! `casebridge list`.

mod table;

use std::io::{self, BufWriter, Write};

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::{Value, json};

use casebridge::config::Database;
use casebridge::destination::{self, zendesk};
use casebridge::env::parse;
use casebridge::inbox::{Filter, Inbox, Listed, State};
use casebridge::text::last_four;

use super::terminal;
use table::Table;

/// Rows of the table, unless `--limit` is given.
const ROWS: usize = 50;
/// Rows are counted up to this number, so that the list is fast with millions of rows.
const COUNTED: usize = 10_000;
/// Rows that are read at once. Each page of waiting deliveries sorts them all, so pages are large.
const PAGE: usize = 5000;

#[derive(clap::Args)]
pub struct ListOptions {
    /// Only deliveries in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only deliveries to this destination
    #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
    destination: Option<String>,
    /// Only deliveries of this route, as in ROUTE_<NAME>_…; SPREDFAST_LABEL_NAME makes the route `label`
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only deliveries of this case, as in khoros:1234:twitter:855485181481934848: the external_id of its ticket
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    /// Only deliveries that were received at this time or later: 2026-11-26T14:00:00Z, a date (UTC), or 7d, 12h or
    /// 30m (minutes) ago
    #[arg(long, value_name = "TIME", value_parser = parse::time_or_age)]
    since: Option<Timestamp>,
    /// At most this number of deliveries; by default 50 in the table, and all with --json
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    /// One JSON object per line: {"id", "case", "event_name", "event_id", "route", "destination", "target", "state",
    /// "attempts", "tries", "reference", "ticket", "reason", "note", "received_at", "due_at", "settled_at"}
    #[arg(long)]
    json: bool,
}

impl ListOptions {
    fn filter(&self) -> Filter {
        Filter {
            state: self.state,
            destination: self.destination.clone(),
            route: self.route.as_deref().map(str::to_lowercase),
            case_key: self.case.clone(),
            since: self.since.map(Timestamp::as_millisecond),
        }
    }
}

/// Prints deliveries, the newest first.
pub async fn list(database: &Database, options: &ListOptions) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let filter = options.filter();
    match options.json {
        true => print_json(&inbox, &filter, options.limit.unwrap_or(usize::MAX)).await,
        false => print_table(&inbox, &filter, options.limit.unwrap_or(ROWS)).await,
    }
}

async fn print_json(inbox: &Inbox, filter: &Filter, limit: usize) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut left, mut last): (usize, Option<Listed>) = (limit, None);
    while left > 0 {
        let page = inbox.search(filter, last.as_ref(), PAGE.min(left)).await?;
        for delivery in &page {
            writeln!(out, "{}", terminal::json(&json_line(delivery).to_string()))?;
        }
        left -= page.len();
        let Some(delivery) = page.into_iter().next_back() else { break };
        last = Some(delivery);
    }
    Ok(out.flush()?)
}

async fn print_table(inbox: &Inbox, filter: &Filter, limit: usize) -> anyhow::Result<()> {
    let mut rows: Vec<Listed> = Vec::new();
    while rows.len() < limit {
        let asked = PAGE.min(limit - rows.len());
        let page = inbox.search(filter, rows.last(), asked).await?;
        let is_last = page.len() < asked;
        rows.extend(page);
        if is_last {
            break;
        }
    }
    let (total, now) = (inbox.count(filter, COUNTED).await?, inbox.time().await?);
    let mut out = BufWriter::new(anstream::AutoStream::auto(io::stdout().lock()));
    if !rows.is_empty() {
        Table::of(&rows, now).write(&mut out, terminal::width())?;
        writeln!(out)?;
    }
    writeln!(out, "{}", summary(rows.len(), total))?;
    Ok(out.flush()?)
}

/// The line below the table.
fn summary(shown: usize, total: usize) -> String {
    let noun = if total == 1 { "delivery" } else { "deliveries" };
    match total {
        0 => "no deliveries".to_owned(),
        total if total >= COUNTED.max(shown + 1) => {
            format!("the newest {shown} of more than {COUNTED} deliveries; --limit shows more, --json all")
        }
        total if shown < total => {
            format!("the newest {shown} of {total} {noun}; --limit shows more, --json all")
        }
        _ => format!("{shown} {}", if shown == 1 { "delivery" } else { "deliveries" }),
    }
}

pub(super) fn json_line(delivery: &Listed) -> Value {
    json!({
        "id": delivery.identity,
        "case": delivery.case_key,
        "event_name": delivery.event_name,
        "event_id": delivery.event_id,
        "route": delivery.route,
        "destination": delivery.destination,
        "target": (!delivery.target.is_empty()).then(|| last_four(&delivery.target)),
        "state": delivery.state,
        "attempts": delivery.attempts,
        "tries": delivery.tries,
        "reference": delivery.reference,
        "ticket": ticket(delivery),
        "reason": delivery.last_error,
        "note": delivery.note,
        "received_at": time(delivery.received_at),
        "due_at": (delivery.state == "waiting").then(|| time(delivery.due_at)),
        "settled_at": delivery.settled_at.map(time),
    })
}

/// Returns the number of the delivery's ticket. The references of other destinations are not ticket numbers.
pub(super) fn ticket(delivery: &Listed) -> Option<&str> {
    delivery.reference.as_deref().filter(|_| delivery.destination == zendesk::NAME)
}

/// A time as the command line shows it.
pub(super) fn time(millis: i64) -> String {
    let time = Timestamp::from_millisecond(millis).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_is_left_out() {
        for (shown, total, expected) in [
            (0, 0, "no deliveries"),
            (1, 1, "1 delivery"),
            (50, 50, "50 deliveries"),
            (50, 51, "the newest 50 of 51 deliveries; --limit shows more, --json all"),
            (50, 10_000, "the newest 50 of more than 10000 deliveries; --limit shows more, --json all"),
            (20_000, 10_000, "20000 deliveries"),
        ] {
            assert_eq!(summary(shown, total), expected);
        }
    }
}
