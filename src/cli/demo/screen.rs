//! The texts of the demo, which fit into a terminal of 80 columns and 24 lines.

use std::ffi::OsStr;
use std::io::{self, Write};

use serde_json::Value;
use textwrap::Options;

use casebridge::text::printable;
use casebridge_sandbox::zendesk::Model;

use super::super::terminal::{self, BOLD};
use super::{Stage, Story};

/// The narrowest and the widest screen.
const WIDTHS: (usize, usize) = (80, 100);
/// The lines of a comment to show; the page of the ticket shows all of it.
const LINES: usize = 9;

/// Prints a line.
pub fn say(line: &str) -> io::Result<()> {
    writeln!(anstream::stdout(), "{line}")
}

pub fn introduce(stage: &Stage) -> io::Result<()> {
    say(&format!("{BOLD}casebridge demo: everything stays on this machine{BOLD:#}"))?;
    say(&format!("  Khoros stand-in   {}", stage.khoros.url()))?;
    say(&format!("  Zendesk stand-in  {}", stage.zendesk.url()))?;
    for companion in &stage.companions {
        say(&format!("  {:<16}  {}", companion.destination(), companion.url()))?;
    }
    say(&format!("  casebridge        {}", stage.casebridge))
}

/// Says what to do while the demo stays up.
pub fn invite(stage: &Stage, story: Story) -> io::Result<()> {
    let (khoros, zendesk) = (stage.khoros.url(), stage.zendesk.url());
    let label = khoros.strip_prefix("http://").unwrap_or(&khoros);
    let ticket = stage.zendesk.model().tickets.last().map(|ticket| ticket["id"].to_string());
    let other = match story {
        Story::Label => ("an outage", " --story outage"),
        Story::Outage => ("a ticket", ""),
    };
    let program = program();
    next(
        "Next (Ctrl-C ends the demo):",
        &[
            ("see a ticket", format!("{zendesk}/agent/tickets/{}", ticket.unwrap_or_default())),
            ("another post", format!("curl -d 'Late again' '{label}/label?post=9&note=Call'")),
            ("its commands", format!(". {}; {program} list", stage.settings_file().display())),
            (other.0, format!("{program} demo{}", other.1)),
            ("your accounts", "docs/deploy.md".to_owned()),
        ],
    )
}

/// Says what to do after a demo that has ended.
pub fn conclude() -> io::Result<()> {
    let program = program();
    next(
        "Next:",
        &[
            ("see a ticket", format!("{program} demo")),
            ("an outage", format!("{program} demo --story outage")),
            ("your accounts", "docs/deploy.md".to_owned()),
        ],
    )
}

fn next(title: &str, steps: &[(&str, String)]) -> io::Result<()> {
    say(&format!("\n{BOLD}{title}{BOLD:#}"))?;
    steps.iter().try_for_each(|(what, how)| say(&format!("  {what:<14}{how}")))
}

/// The program as it was called.
fn program() -> String {
    let first = std::env::args_os().next();
    printable(&first.as_deref().unwrap_or(OsStr::new("casebridge")).to_string_lossy())
}

/// Wraps a text between words; further lines are indented.
pub fn wrapped(text: &str, indent: &str) -> String {
    textwrap::fill(text, Options::new(width()).subsequent_indent(indent))
}

fn width() -> usize {
    terminal::width().unwrap_or(WIDTHS.0).clamp(WIDTHS.0, WIDTHS.1)
}

/// Describes what happened to a ticket, from its history.
pub fn change(model: &Model, number: usize) -> String {
    let Some(audit) = model.audits.get(number) else { return String::new() };
    let (ticket, events) = (&audit["ticket_id"], audit["events"].as_array().cloned().unwrap_or_default());
    let comment = events.iter().find(|event| event["type"] == "Comment").map(comment_lines);
    if !events.iter().any(|event| event["type"] == "Create") {
        let fields: Vec<&str> = events.iter().filter_map(|event| event["field_name"].as_str()).collect();
        return match comment {
            Some(comment) => format!("ticket {ticket}, a comment:\n{comment}"),
            None => format!("ticket {ticket}, changed: {}", fields.join(", ")),
        };
    }
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let created = model.tickets.iter().find(|created| created["id"] == *ticket).cloned().unwrap_or_default();
    let requester = model.users.iter().find(|user| user["id"] == created["requester_id"]);
    let requester = requester.map_or("casebridge".to_owned(), |user| text(&user["name"]));
    let subject = wrapped(&format!("ticket {ticket}: {}", text(&created["subject"])), "     ");
    format!("{subject}\n     Requester: {requester}\n{}", comment.unwrap_or_default())
}

fn comment_lines(comment: &Value) -> String {
    let options = Options::new(width()).initial_indent("     | ").subsequent_indent("     | ");
    let body = comment["body"].as_str().unwrap_or_default().lines();
    let mut lines: Vec<String> = body
        .flat_map(|line| match printable(line) {
            line if line.trim().is_empty() => vec!["     |".to_owned()],
            line => textwrap::wrap(&line, &options).into_iter().map(|line| line.into_owned()).collect(),
        })
        .collect();
    if lines.len() > LINES {
        lines.truncate(LINES);
        lines.push("     | … (its page shows the rest)".to_owned());
    }
    lines.join("\n")
}
