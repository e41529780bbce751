//! Describes items and changes of tickets in plain text, for messages to people. Pure.
//!
//! The texts are cleaned and cut, but still untrusted: each destination places or escapes them itself.

use url::Url;

use crate::delivery::Cause;
use crate::item::{Condition, Item, Note};
use crate::text::{clean, one_line, shorten};

/// The longest address of a link.
const ADDRESS: usize = 3000;

/// What a change of a ticket means for its case.
pub fn change(cause: &Cause) -> String {
    let number = &cause.number;
    match cause.action.as_str() {
        "created" => format!("Ticket {number} replaces the earlier one"),
        "followed_up" => format!("Ticket {number} follows up the earlier one"),
        "reopened" => format!("Ticket {number} is open again"),
        "solved" => format!("Ticket {number} is solved"),
        _ => format!("Ticket {number} has a new comment"),
    }
}

/// The current state of a case, if it has one.
pub fn state(item: &Item, cause: Option<&Cause>) -> Option<&'static str> {
    match (cause.map(|cause| cause.action.as_str()), item.condition) {
        (Some("created"), _) => Some("new ticket"),
        (Some("followed_up"), _) => Some("new ticket that follows up an earlier one"),
        (Some("reopened"), _) => Some("open again"),
        (Some("solved"), _) => Some("solved"),
        (Some(_), _) => Some("new comment"),
        (None, Condition::Broken) => Some("does not work"),
        (None, Condition::Repaired) => Some("works again"),
        (None, Condition::Unchanged) => None,
    }
}

/// The text of a post, or the facts of a report, in at most `room` characters. `None` if it is empty.
pub fn text(item: &Item, room: usize) -> Option<String> {
    let text = match &item.report {
        None => item.text.clone().unwrap_or_default(),
        Some(report) => {
            let opening = format!("{}.", report.opening);
            let meaning = report.meaning.map(str::to_owned);
            let facts = report.lines.iter().map(|(name, value)| format!("{name}: {value}"));
            let advice = report.advice.map(str::to_owned);
            let lines = [Some(opening), meaning, report.text.clone()].into_iter().flatten();
            lines.chain(facts).chain(advice).collect::<Vec<_>>().join("\n")
        }
    };
    let text = shorten(clean(&text).trim(), room);
    (!text.is_empty()).then_some(text)
}

/// `Note by Ann Agent: …`, in at most `room` characters.
pub fn note(note: &Note, room: usize) -> String {
    let author = note.author.as_deref().map(|author| format!(" by {}", one_line(author))).unwrap_or_default();
    shorten(&format!("Note{author}: {}", clean(&note.text).trim()), room)
}

/// The links to the ticket and the post, with their names.
pub fn links(item: &Item, cause: Option<&Cause>) -> Vec<(String, String)> {
    let network = item.network_name().unwrap_or_else(|| "the network".to_owned());
    let ticket = cause.map(|cause| (format!("Ticket {}", cause.number), cause.url.as_str()));
    let post = item.link.as_deref().map(|link| (format!("On {network}"), link));
    let links = ticket.into_iter().chain(post);
    links.filter_map(|(name, address)| Some((name, web_address(address)?))).collect()
}

fn web_address(address: &str) -> Option<String> {
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    (url.as_str().len() <= ADDRESS).then(|| url.into())
}
