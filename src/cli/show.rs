//! `casebridge show`.

mod request;
mod timeline;

use std::io::Write;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use casebridge::config::Database;
use casebridge::inbox::{Inbox, Listed, RecordedAttempt, Shown};
use casebridge::item::Item;
use casebridge::source;
use casebridge::text::last_four;

use super::list::{json_line, ticket, time};
use super::one_line;
use super::select::select;
use super::terminal;
use request::Request;
use timeline::{Entry, timeline};

/// What to print, and how.
#[derive(Clone, Copy)]
pub struct Options {
    /// Also prints fields that can contain texts and names.
    pub texts: bool,
    pub json: bool,
}

/// A delivery with everything that the database knows about it.
struct Story {
    delivery: Listed,
    shown: Shown,
    attempts: Vec<RecordedAttempt>,
    /// The other deliveries of the case.
    others: Vec<Listed>,
    item: Option<Item>,
}

/// Prints everything about the last received delivery that a selector names.
pub async fn show(
    database: &Database,
    selector: &str,
    destination: Option<&str>,
    options: Options,
) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let story = Story::read(&inbox, selector, destination).await?;
    let request = Request::of(&story, options.texts);
    let entries = timeline(&story, options.texts);
    let text = match options.json {
        true => format!("{}\n", terminal::json(&format!("{:#}", story.to_json(&entries, &request)))),
        false => story.to_text(&entries, &request),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

impl Story {
    async fn read(inbox: &Inbox, selector: &str, destination: Option<&str>) -> anyhow::Result<Story> {
        let mut found = select(inbox, selector).await?.deliveries;
        if let Some(name) = destination {
            found.retain(|delivery| delivery.destination == name);
        }
        // Among the deliveries of one item, the one that the others follow comes first.
        let mut chosen: Option<(Listed, Shown)> = None;
        for delivery in found {
            let shown = inbox.shown(&delivery).await?.context("the delivery was deleted just now")?;
            let is_better = chosen.as_ref().is_none_or(|(best, best_shown)| {
                let key = |one: &Listed, shown: &Shown| (one.received_at, shown.cause.is_none());
                key(&delivery, &shown) > key(best, best_shown)
            });
            if is_better {
                chosen = Some((delivery, shown));
            }
        }
        let Some((delivery, shown)) = chosen else {
            let destination = destination.unwrap_or("any destination");
            bail!("`{}` has no delivery to {}", one_line(selector), one_line(destination))
        };
        let attempts = inbox.attempts(&delivery.identity, &delivery.destination).await?;
        let mut others = inbox.of_case(&delivery.case_key).await?;
        others.retain(|other| {
            (&other.identity, &other.destination) != (&delivery.identity, &delivery.destination)
        });
        let item = source::item(&shown.payload).ok();
        Ok(Story { delivery, shown, attempts, others, item })
    }

    /// The link of the post.
    fn post(&self) -> Option<&str> {
        self.item.as_ref()?.link.as_deref()
    }

    /// The address of what the delivery became.
    fn url(&self) -> Option<&str> {
        self.attempts.iter().rev().find_map(|attempt| attempt.url.as_deref())
    }

    fn to_json(&self, entries: &[Entry], request: &Request) -> Value {
        let mut delivery = json_line(&self.delivery);
        if let Some(fields) = delivery.as_object_mut() {
            // The answer of a destination is in it. The timeline has the reasons.
            fields.remove("reason");
            fields.insert("origin".to_owned(), json!(self.shown.origin));
            fields.insert("may_be_sent".to_owned(), json!(self.delivery.may_be_sent));
        }
        json!({
            "delivery": delivery,
            "post": self.post(),
            "ticket_url": self.url(),
            "timeline": entries.iter().map(|entry| &entry.json).collect::<Vec<_>>(),
            "request": request.to_json(),
            "case": self.others.iter().map(|other| json!({
                "id": other.identity,
                "destination": other.destination,
                "state": other.state,
                "ticket": ticket(other),
                "received_at": time(other.received_at),
            })).collect::<Vec<_>>(),
        })
    }

    fn to_text(&self, entries: &[Entry], request: &Request) -> String {
        let Listed { identity, destination, case_key, route, event_name, .. } = &self.delivery;
        let mut text = format!("{} to {destination}\n\n", one_line(identity));
        let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<8} {}\n", one_line(value)));
        line("state", &self.delivery.state);
        line("case", case_key);
        line("route", route);
        line("event", event_name);
        if let Some(post) = self.post() {
            line("post", post);
        }
        if !self.delivery.target.is_empty() {
            line("to", &last_four(&self.delivery.target));
        }
        if let Some(note) = self.delivery.note.as_deref().filter(|note| !note.is_empty()) {
            line("note", note);
        }
        if let Some(ticket) = ticket(&self.delivery) {
            line("ticket", &format!("{ticket}  {}", self.url().unwrap_or_default()));
        }
        text.push('\n');
        for entry in entries {
            let at = entry.at.map(time).unwrap_or_default();
            text.push_str(&format!("{at:<20}  {}\n", entry.text));
        }
        if !self.others.is_empty() {
            text.push_str("\nOther deliveries of the case:\n");
        }
        for other in &self.others {
            let Listed { identity, destination, state, target, .. } = other;
            let received = time(other.received_at);
            let line = format!(
                "{received:<20}  {state:<7}  {destination:<11}  {}  {}",
                one_line(identity),
                last_four(target)
            );
            text.push_str(&format!("{}\n", line.trim_end()));
        }
        text.push_str(&format!("\n{}", request.to_text()));
        text
    }
}
