//! The table of `casebridge list`. On a terminal, it fits the width; ids are never cut, since other commands accept
//! them.

use std::io::{self, Write};

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use textwrap::Options;

use casebridge::inbox::Listed;
use casebridge::text::{last_four, printable};

use super::super::reason;
use super::super::terminal::{BOLD, GREEN, RED, YELLOW};
use super::ticket;

const HEADERS: [&str; 8] =
    ["STATE", "RECEIVED (UTC)", "NEXT ATTEMPT", "ATTEMPTS", "TO", "TICKET", "ROUTE", "ID"];
const ID: usize = HEADERS.len() - 1;
const GAP: &str = "  ";
/// The lines of a reason to show; `--json` has all of it.
const LINES: usize = 3;

/// The cells of all rows.
pub struct Table {
    rows: Vec<Row>,
    widths: [usize; HEADERS.len()],
}

struct Row {
    cells: [String; HEADERS.len()],
    style: Style,
    /// Why it waits or is dead, or the status of a text.
    reason: Option<String>,
}

impl Table {
    /// `now`: milliseconds since 1970, UTC.
    pub fn of(deliveries: &[Listed], now: i64) -> Table {
        let rows: Vec<Row> = deliveries.iter().map(|delivery| Row::of(delivery, now)).collect();
        let mut widths = HEADERS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = cell.chars().count().max(*width);
            }
        }
        Table { rows, widths }
    }

    /// Writes the table for a terminal of `columns`, or with one line for each delivery if there is none.
    pub fn write(&self, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
        let width = self.widths.iter().sum::<usize>() + GAP.len() * ID;
        let is_one_line = columns.is_none_or(|columns| width <= columns);
        let shown = if is_one_line { HEADERS.len() } else { ID };
        let header = self.line(&HEADERS[..shown]);
        writeln!(out, "{BOLD}{}{BOLD:#}", clipped(&header, columns))?;
        for row in &self.rows {
            let cells: Vec<&str> = row.cells[..shown].iter().map(String::as_str).collect();
            let line = self.line(&cells);
            let line = if is_one_line { line } else { clipped(&line, columns) };
            // The state, which comes first, is in colour.
            let (state, rest) = line.split_at_checked(row.cells[0].len()).unwrap_or((&line, ""));
            let style = row.style;
            write!(out, "{style}{state}{style:#}{rest}")?;
            match (columns, &row.reason) {
                (None, Some(reason)) => write!(out, "{GAP}{reason}")?,
                (None, None) => {}
                (Some(columns), reason) => {
                    if !is_one_line {
                        write!(out, "\n{GAP}{}", row.cells[ID])?;
                    }
                    write_reason(out, reason.as_deref().unwrap_or_default(), columns)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn line(&self, cells: &[&str]) -> String {
        let padded = cells.iter().zip(self.widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

impl Row {
    fn of(delivery: &Listed, now: i64) -> Row {
        let Listed { state, identity, destination, route, attempts, .. } = delivery;
        let is_waiting = state == "waiting";
        let next = if is_waiting { next_attempt(delivery, now) } else { "-".to_owned() };
        let style = match state.as_str() {
            "waiting" => YELLOW,
            "dead" => RED,
            _ => GREEN,
        };
        let received = time(delivery.received_at, "%Y-%m-%d %H:%M:%S");
        let cells = [
            state.clone(),
            received,
            next,
            attempts.to_string(),
            printable(format!("{destination} {}", last_four(&delivery.target)).trim_end()),
            printable(ticket(delivery).unwrap_or("-")),
            printable(route),
            printable(identity),
        ];
        let reason = match state.as_str() {
            "done" => delivery.note.as_deref().map(printable),
            _ => delivery.last_error.as_ref().map(|_| reason(delivery)),
        };
        Row { cells, style, reason }
    }
}

/// When a waiting delivery is tried next: the time of today, or the date, too.
fn next_attempt(delivery: &Listed, now: i64) -> String {
    match delivery.due_at {
        _ if delivery.leased => "in progress".to_owned(),
        due if due <= now => "now".to_owned(),
        due if time(due, "%F") == time(now, "%F") => time(due, "%H:%M:%S"),
        due => time(due, "%Y-%m-%d %H:%M"),
    }
}

fn time(millis: i64, format: &str) -> String {
    let time = Timestamp::from_millisecond(millis).unwrap_or_default();
    time.to_zoned(TimeZone::UTC).strftime(format).to_string()
}

fn clipped(line: &str, columns: Option<usize>) -> String {
    match columns {
        Some(columns) if line.chars().count() > columns => {
            line.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
        }
        _ => line.to_owned(),
    }
}

fn write_reason(out: &mut impl Write, reason: &str, columns: usize) -> io::Result<()> {
    if reason.is_empty() {
        return Ok(());
    }
    // Leaves room for the sign that there is more.
    let options = Options::new(columns.saturating_sub(2)).initial_indent(GAP).subsequent_indent(GAP);
    let lines = textwrap::wrap(reason, options);
    for line in lines.iter().take(LINES) {
        write!(out, "\n{line}")?;
    }
    if lines.len() > LINES { write!(out, " …") } else { Ok(()) }
}
