//! The operator's subcommands: `list` and `replay`, on the same database as the running service, and
//! `render`, on a file alone.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use serde_json::{Value, json};

use casebridge::app;
use casebridge::config::{Config, Database, Preview, Requester, Route};
use casebridge::destination::zendesk::plan::{Fields, Plan, RequesterUser};
use casebridge::destination::zendesk::ticket::{self, Draft};
use casebridge::html::visible_text;
use casebridge::inbox::{self, Inbox, Listed, State};
use casebridge::khoros::{Khoros, Refusal, RemoteSubscription, Status};
use casebridge::notification::{self, Arrival, Item};
use casebridge::subscription;

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

/// What becomes of deliveries that are replayed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Dead ones get a new schedule.
    Again,
    /// The same, and a new ticket if Zendesk does not find the old one.
    NewTicket,
    /// Waiting ones are due now; dead ones get a new schedule.
    Now,
}

impl Replay {
    /// Why a delivery is not replayed; `None` if it is.
    fn refuses(self, delivery: &Listed) -> Option<String> {
        match delivery.state.as_str() {
            _ if delivery.erased => Some("cannot be replayed: its texts were erased".to_owned()),
            "dead" => None,
            "waiting" if self == Replay::Now => None,
            "waiting" => Some("is waiting: --now delivers it now".to_owned()),
            state => Some(format!("is {state}, and only dead deliveries can be replayed")),
        }
    }

    async fn of(self, inbox: &Inbox, delivery: &Listed) -> sqlx::Result<bool> {
        match delivery.state.as_str() {
            "waiting" => inbox.hasten(delivery).await,
            _ => inbox.replay(delivery, self == Replay::NewTicket).await,
        }
    }
}

/// Replays deliveries: those named, or all that are dead.
pub async fn replay(database: &Database, ids: &[String], how: Replay, dry_run: bool) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let chosen = match ids {
        [] => all_dead(&inbox).await?,
        ids => named(&inbox, ids, how).await?,
    };
    let mut out = std::io::stdout().lock();
    let mut replayed = 0;
    for delivery in &chosen {
        if let Some(refusal) = how.refuses(delivery) {
            writeln!(out, "not replayed: {} {refusal}", delivery.identity)?;
        // Another operator may have been quicker.
        } else if dry_run || how.of(&inbox, delivery).await? {
            replayed += 1;
            let done = if dry_run { "would replay" } else { "replayed" };
            writeln!(out, "{done} {} ({})", delivery.identity, reason(delivery))?;
        }
    }
    let done = if dry_run { "would be replayed" } else { "replayed" };
    writeln!(out, "{replayed} {done}")?;
    Ok(())
}

/// Copies the SQLite file.
pub async fn backup(database: &Database, file: &Path) -> anyhow::Result<()> {
    inbox::backup(database, file).await?;
    writeln!(std::io::stdout(), "{} is a copy of the database", file.display())?;
    Ok(())
}

/// Ends subscriptions at Khoros, those of our routes or those named, and leaves word of it to the running
/// service, which would set them active again.
pub async fn unsubscribe(config: &Config, external_ids: &[String]) -> anyhow::Result<()> {
    let ours = config.general.routes.iter().map(|route| &route.external_id);
    let names: Vec<&String> =
        if external_ids.is_empty() { ours.collect() } else { external_ids.iter().collect() };
    let mut out = std::io::stdout().lock();
    let words = match Words::leave(&config.database, &names).await {
        Ok(words) => Some(words),
        Err(error) => {
            writeln!(out, "no word is left to a running service, which may subscribe again: {error:#}")?;
            None
        }
    };
    let ended = end(config, &names, &mut out).await;
    let not_ended: &[&String] = ended.as_ref().map_or(&names, Vec::as_slice);
    if let Some(words) = words {
        words.take_back(not_ended).await?;
    }
    match ended?.len() {
        0 => Ok(()),
        failed => bail!("{failed} subscription(s) could not be ended, and are kept up: try again"),
    }
}

/// Disables the subscriptions of these names; returns those of which one could not be.
async fn end<'a>(
    config: &Config,
    names: &[&'a String],
    out: &mut impl Write,
) -> anyhow::Result<Vec<&'a String>> {
    let khoros = Khoros::new(&config.khoros, app::http_client(config.general.is_local)?);
    let remote = match khoros.subscriptions().await {
        Ok(remote) => remote,
        Err(Refusal::NotOffered) => bail!(
            "Khoros does not show its subscriptions at SPREDFAST_API_URL, so none can be ended from here: \
             ask Khoros support to end {}",
            names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ),
        Err(refusal) => bail!("{refusal}"),
    };
    let mut not_ended = Vec::new();
    for name in names {
        let named = subscription::named(&remote, name, config.khoros.company_id).into_iter();
        let on: Vec<&RemoteSubscription> =
            named.filter(|remote| remote.status != Some(Status::Disabled)).collect();
        if on.is_empty() {
            writeln!(out, "nothing to end: no subscription `{name}` is active at Khoros")?;
        }
        for remote in on {
            match khoros.set_status(&remote.uuid, Status::Disabled).await {
                Ok(()) => writeln!(out, "ended `{name}` ({})", remote.uuid)?,
                Err(refusal) => {
                    not_ended.push(*name);
                    writeln!(out, "`{name}` ({}) is not ended: {refusal}", remote.uuid)?;
                }
            }
        }
    }
    Ok(not_ended)
}

/// Word to a running service of what is being ended, left before it can see that, and what was there.
struct Words {
    inbox: Inbox,
    before: Vec<(String, Option<i64>)>,
}

impl Words {
    async fn leave(database: &Database, names: &[&String]) -> anyhow::Result<Words> {
        let inbox = Inbox::open_beside(database).await?;
        let mut before = Vec::new();
        for name in names {
            before.push(((*name).clone(), inbox.ended_at(name).await?));
            inbox.end_subscription(name).await?;
        }
        Ok(Words { inbox, before })
    }

    async fn take_back(&self, not_ended: &[&String]) -> anyhow::Result<()> {
        for (name, ended_at) in self.before.iter().filter(|(name, _)| not_ended.contains(&name)) {
            self.inbox.restore_end(name, *ended_at).await?;
        }
        Ok(())
    }
}

/// How a ticket is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TicketForm {
    /// Its fields, and its comment as an agent sees it.
    Shown,
    /// Its fields, and its comment as it is sent.
    Html,
    /// As it is sent.
    Json,
}

/// Prints the tickets that would come of a notification by a route; the first, if none is named.
pub fn render(preview: &Preview, file: &Path, route: Option<&str>, form: TicketForm) -> anyhow::Result<()> {
    let company = preview.company_id;
    let wanted = route.map(str::to_lowercase);
    let is_wanted = |route: &&Route| wanted.as_ref().is_none_or(|wanted| route.name == *wanted);
    let Some(route) = preview.routes.iter().find(is_wanted) else {
        let names: Vec<&str> = preview.routes.iter().map(|route| route.name.as_str()).collect();
        bail!("there is no such route; there are {}", names.join(", "));
    };
    say_assumptions(preview)?;
    let body = read(file)?;
    let arrivals = notification::parse_as(&route.event, &body, company);
    let arrivals = arrivals.map_err(|_| anyhow!("{} is not JSON", name_of(file)))?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut without = 0;
    for (number, arrival) in (1..).zip(&arrivals) {
        match arrival.unprocessable.map_or_else(|| Item::from_payload(&arrival.payload), Err) {
            Ok(item) => write!(out, "{}", rendered(route, arrival, &item, form)?)?,
            Err(unprocessable) => {
                without += 1;
                writeln!(
                    std::io::stderr(),
                    "casebridge: no ticket can be made of item {number}: {unprocessable}"
                )?;
            }
        }
    }
    out.flush()?;
    match without {
        0 => Ok(()),
        _ => bail!("no ticket can be made of {without} of {} item(s)", arrivals.len()),
    }
}

fn say_assumptions(preview: &Preview) -> std::io::Result<()> {
    let mut out = std::io::stderr().lock();
    let told = preview.assumptions.iter().chain(&preview.warnings);
    told.into_iter().try_for_each(|warning| writeln!(out, "casebridge: {warning}"))
}

fn name_of(file: &Path) -> String {
    match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body).context("standard input cannot be read")?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn rendered(route: &Route, arrival: &Arrival, item: &Item, form: TicketForm) -> anyhow::Result<String> {
    let settings = &route.ticket;
    let author = ticket::author_profile(item).filter(|_| settings.requester == Requester::Author);
    // The author's user has a number that only Zendesk knows; the ticket is as if it were known.
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
    for failure in &rendered.failures {
        let told = "a template failed, and the ticket does without it";
        writeln!(std::io::stderr(), "casebridge: {told}: {failure}")?;
    }
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
            format!("the Zendesk user {} ({}), made if it is missing", author.key, author.name)
        }
        None if settings.requester == Requester::Author && item.report.is_none() => {
            "the user of the credential, since Khoros does not tell the author's id".to_owned()
        }
        None => "the user of the credential".to_owned(),
    };
    let comment = take_comment(&mut body, form);
    Ok(format!("{}\n\n{comment}\nRequester: {requester}\n\n", serde_json::to_string_pretty(&body)?))
}

/// Takes the comment out of `body` to print it separately: as a JSON string nobody could read it.
fn take_comment(body: &mut Value, form: TicketForm) -> String {
    let comment = body["ticket"].as_object_mut().and_then(|ticket| ticket.remove("comment"));
    let comment = comment.unwrap_or_default();
    let kind = if comment["public"] == true { "Public" } else { "Internal" };
    let html = comment["html_body"].as_str().unwrap_or_default();
    let text = if form == TicketForm::Html { html.to_owned() } else { visible_text(html, "> ") };
    let text: String = text.lines().map(|line| format!("  | {line}\n")).collect();
    format!("{kind} comment:\n{text}")
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
async fn named(inbox: &Inbox, ids: &[String], how: Replay) -> anyhow::Result<Vec<Listed>> {
    let mut chosen = Vec::new();
    for id in ids {
        let found = inbox.find(id).await?;
        let Some(first) = found.first() else {
            bail!("there is no delivery `{id}`: `casebridge list` shows their ids");
        };
        let refusal = how.refuses(first);
        let taken: Vec<Listed> =
            found.into_iter().filter(|delivery| how.refuses(delivery).is_none()).collect();
        if let (true, Some(refusal)) = (taken.is_empty(), refusal) {
            bail!("`{id}` {refusal}");
        }
        chosen.extend(taken);
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
