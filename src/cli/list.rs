//! `casebridge list`.

use std::io::{self, BufWriter, Write};

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::{Value, json};

use casebridge::config::Database;
use casebridge::destination::{self, zendesk};
use casebridge::inbox::{Inbox, Listed, State};
use casebridge::text::last_four;

use super::{PAGE, reason};

#[derive(clap::Args)]
pub struct ListOptions {
    /// Only deliveries in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only deliveries to this destination
    #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
    destination: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Prints deliveries, the oldest first.
pub async fn list(database: &Database, options: &ListOptions) -> anyhow::Result<()> {
    let (state, destination, as_json) = (options.state, options.destination.as_deref(), options.json);
    let inbox = Inbox::open_beside(database).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    if !as_json {
        writeln!(
            out,
            "{:<7}  {:<20}  {:>8}  {:<11}  {:>8}  ID",
            "STATE", "RECEIVED", "ATTEMPTS", "DESTINATION", "TICKET"
        )?;
    }
    let mut last: Option<Listed> = None;
    loop {
        let page = inbox.list(state, destination, last.as_ref(), PAGE).await?;
        for delivery in &page {
            match as_json {
                true => writeln!(out, "{}", json_line(delivery))?,
                false => write_lines(&mut out, delivery)?,
            }
        }
        let Some(delivery) = page.into_iter().next_back() else { break };
        last = Some(delivery);
    }
    out.flush()?;
    Ok(())
}

fn json_line(delivery: &Listed) -> Value {
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
fn ticket(delivery: &Listed) -> Option<&str> {
    delivery.reference.as_deref().filter(|_| delivery.destination == zendesk::NAME)
}

fn write_lines(out: &mut impl Write, delivery: &Listed) -> io::Result<()> {
    let Listed { state, attempts, identity, destination, .. } = delivery;
    let (received, ticket) = (time(delivery.received_at), ticket(delivery).unwrap_or("-"));
    writeln!(out, "{state:<7}  {received:<20}  {attempts:>8}  {destination:<11}  {ticket:>8}  {identity}")?;
    if delivery.last_error.is_some() {
        writeln!(out, "         {}", reason(delivery))?;
    }
    let notes =
        [delivery.note.clone(), Some(last_four(&delivery.target)).filter(|target| !target.is_empty())];
    if let [Some(note), target] = notes {
        let to = target.map(|target| format!("to {target}: ")).unwrap_or_default();
        writeln!(out, "         {to}{note}")?;
    }
    Ok(())
}

/// A time as the command line shows it.
pub(super) fn time(millis: i64) -> String {
    let time = Timestamp::from_millisecond(millis).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
