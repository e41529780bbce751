//! `casebridge render`.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};

use casebridge::config::Preview;
use casebridge::destination::html::visible_text;
use casebridge::destination::zendesk::memory::Changes;
use casebridge::destination::zendesk::plan::{Fields, Plan, RequesterUser};
use casebridge::destination::zendesk::settings::ticket::{Requester, Ticket};
use casebridge::destination::zendesk::ticket::{self, Draft};
use casebridge::item::Arrival;
use casebridge::item::Item;
use casebridge::route::Route;
use casebridge::source;
use casebridge::source::khoros::notification;

/// The printed form of a ticket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TicketForm {
    /// Its fields, and its comment as an agent sees it.
    Readable,
    /// Its fields, and its comment as it is sent.
    Html,
    /// As it is sent.
    Json,
}

/// The printed part of a ticket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The ticket of a first event.
    Ticket,
    /// The comment about a later event.
    Update,
}

/// A text of the ticket that a template can replace.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum BuiltIn {
    /// The template of TICKET_SUBJECT
    Subject,
    /// The template of TICKET_COMMENT, with TICKET_COMMENT_FORMAT=html
    Comment,
    /// The template of TICKET_UPDATE, with TICKET_COMMENT_FORMAT=html
    Update,
}

impl BuiltIn {
    pub fn source(self) -> &'static str {
        match self {
            BuiltIn::Subject => ticket::SUBJECT,
            BuiltIn::Comment => ticket::COMMENT,
            BuiltIn::Update => ticket::UPDATE,
        }
    }
}

/// Prints the tickets that a notification would make by a route; by the first route if none is named.
pub fn render(
    preview: &Preview,
    file: &Path,
    route: Option<&str>,
    part: Part,
    form: TicketForm,
) -> anyhow::Result<()> {
    let name = route.map(str::to_lowercase);
    let is_named = |route: &&Route| name.as_ref().is_none_or(|name| route.name == *name);
    let Some(route) = preview.routes.iter().find(is_named) else {
        let names: Vec<&str> = preview.routes.iter().map(|route| route.name.as_str()).collect();
        bail!("there is no such route; the configured routes are {}", names.join(", "));
    };
    for note in preview.assumptions.iter().chain(&preview.warnings) {
        writeln!(std::io::stderr(), "casebridge: {note}")?;
    }
    let (source, body) = match file == Path::new("-") {
        true => {
            let mut body = Vec::new();
            ("standard input".to_owned(), std::io::stdin().read_to_end(&mut body).map(|_| body))
        }
        false => (file.display().to_string(), std::fs::read(file)),
    };
    let body = body.with_context(|| format!("{source} cannot be read"))?;
    let arrivals = notification::parse(&route.event, &body, preview.company_id);
    let arrivals = arrivals.map_err(|_| anyhow!("{source} is not JSON"))?;
    let settings = preview.tickets.get(&route.name).unwrap_or(&preview.ticket);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut unprocessable = 0;
    for (number, arrival) in (1..).zip(&arrivals) {
        match arrival.unprocessable.map_or_else(|| source::item(&arrival.payload), Err) {
            Ok(item) => {
                let rendered = match part {
                    Part::Ticket => render_item(route, settings, arrival, &item, form)?,
                    Part::Update => render_update(route, settings, &item, form)?,
                };
                out.write_all(rendered.as_bytes())?;
            }
            Err(reason) => {
                unprocessable += 1;
                let mut err = std::io::stderr();
                writeln!(err, "casebridge: item {number} cannot become a ticket: {reason}")?;
            }
        }
    }
    out.flush()?;
    match unprocessable {
        0 => Ok(()),
        _ => bail!("{unprocessable} of {} item(s) cannot become tickets", arrivals.len()),
    }
}

fn render_item(
    route: &Route,
    settings: &Ticket,
    arrival: &Arrival,
    item: &Item,
    form: TicketForm,
) -> anyhow::Result<String> {
    let author = ticket::author_profile(item).filter(|_| settings.requester == Requester::Author);
    // Only Zendesk knows the number of the author's user; the ticket is rendered as if it was known.
    let requester = author.as_ref().map_or(RequesterUser::Service, |_| RequesterUser::Author(0));
    let rendered = ticket::render(&Draft {
        item,
        case_key: &arrival.case_key,
        delivery: &arrival.identity,
        route: &route.name,
        label: route.label.as_deref().unwrap_or_default(),
        settings,
        plan: Plan { requester, fields: Fields::Configured, follow_up: None },
        service_user: None,
    });
    report_failures(&rendered.failures)?;
    let mut body = rendered.ticket;
    if let Some(ticket) = body["ticket"].as_object_mut() {
        ticket.remove("requester_id");
        ticket.remove("submitter_id");
    }
    if form == TicketForm::Json {
        return Ok(format!("{body}\n"));
    }
    let requester = match author {
        Some(author) => {
            format!("the Zendesk user {} ({}), created if missing", author.key, author.name)
        }
        None if settings.requester == Requester::Author && item.report.is_none() => {
            "the user of the credential, since the event does not have the author's id".to_owned()
        }
        None => "the user of the credential".to_owned(),
    };
    let comment = take_comment(&mut body, form);
    Ok(format!("{}\n\n{comment}\nRequester: {requester}\n\n", serde_json::to_string_pretty(&body)?))
}

/// Renders the comment about a later event as if its text and all of its notes were new.
fn render_update(route: &Route, settings: &Ticket, item: &Item, form: TicketForm) -> anyhow::Result<String> {
    let changes = Changes {
        text_changed: item.text.is_some(),
        notes: item.notes.clone(),
        is_report: item.report.is_some(),
        other_route: false,
    };
    let label = route.label.as_deref().unwrap_or_default();
    let rendered = ticket::render_update(item, label, &route.name, settings, &changes);
    report_failures(&rendered.failures)?;
    let mut body = json!({ "ticket": {
        "comment": { "html_body": rendered.comment.as_str(), "public": false },
    }});
    Ok(match form {
        TicketForm::Json => format!("{body}\n"),
        TicketForm::Readable | TicketForm::Html => format!("{}\n", take_comment(&mut body, form)),
    })
}

fn report_failures(failures: &[String]) -> anyhow::Result<()> {
    for failure in failures {
        let mut err = std::io::stderr();
        writeln!(err, "casebridge: a template failed, so the built-in text replaces it: {failure}")?;
    }
    Ok(())
}

/// Takes the comment out of `body` to print it separately: a JSON string would be unreadable.
fn take_comment(body: &mut Value, form: TicketForm) -> String {
    let comment = body["ticket"].as_object_mut().and_then(|ticket| ticket.remove("comment"));
    let comment = comment.unwrap_or_default();
    let kind = if comment["public"] == true { "Public" } else { "Internal" };
    let html = comment["html_body"].as_str().unwrap_or_default();
    let text = if form == TicketForm::Html { html.to_owned() } else { visible_text(html, "> ") };
    let text: String = text.lines().map(|line| format!("  | {line}\n")).collect();
    format!("{kind} comment:\n{text}")
}
