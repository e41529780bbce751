//! Messages that Khoros' users write: to be approved, handed to a network, published.

use std::borrow::Cow;

use serde_json::Value;

use super::{Line, REPEATED, Report, Step, line, moment, network};
use crate::notification::text;

/// One ticket for each message: what is sent to a network first and published later is one story.
pub(super) fn report(step: Step, message: &Value) -> Report {
    let (id, title, words) = (text(&message["id"]), text(&message["title"]), words(&message["content"]));
    let named = title.clone().or_else(|| words.clone()).unwrap_or_else(|| "(no text)".to_owned());
    // A title that repeats the start of the text, as in the published example, tells nothing more.
    let title = title.filter(|title| words.as_ref().is_none_or(|words| !words.starts_with(title)));
    let (headline, opening) = step_words(step);
    Report {
        case: id.as_ref().map(|id| format!("message:{id}")),
        id: id.clone(),
        network: network(message),
        headline: format!("{headline}: {named}"),
        opening: opening.to_owned(),
        when: results(message).find_map(|result| moment::of(&result["datePublished"])),
        lines: lines(message, title, id),
        words,
        advice: advice(step, message),
        ..Report::default()
    }
}

fn step_words(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::NeedsApproval => ("message needs approval", "The message needs approval in Khoros"),
        Step::SentToNetwork => (
            "message sent to the network",
            "The message was sent to the network, which publishes it at the scheduled time",
        ),
        Step::Published => ("message published", "The message was published"),
        Step::Untold => ("message", "Something happened to the message in Khoros, which does not tell what"),
    }
}

fn advice(step: Step, message: &Value) -> Option<&'static str> {
    let failed = list(&message["publicationResults"]).any(|result| result["status"] == "ERROR");
    match step {
        Step::NeedsApproval => Some("Approve or reject the message in Khoros."),
        _ if failed => Some("Not all of it was published: look at the message in Khoros."),
        _ => None,
    }
}

/// A status has a text, a picture a caption, a video a description or at least a title.
fn words(content: &Value) -> Option<String> {
    let names = ["text", "caption", "description", "videoTitle"];
    names.iter().find_map(|name| text(&content[name])).or_else(|| text(content))
}

fn lines(message: &Value, title: Option<String>, id: Option<String>) -> Vec<Line> {
    let content = &message["content"];
    // Both are so for nearly every message.
    let visibility = word(&message["organicVisibility"]).filter(|word| word != "visible");
    let delegation = word(&message["delegationStatus"]).filter(|word| word != "not delegated");
    let before = [
        line("Title", title),
        line("Accounts", accounts(&message["targetAccountIds"])),
        line("State", word(&message["status"])),
        line("Scheduled for", moment::of(&message["scheduledPublishDate"])),
        line("Visibility", visibility),
        line("Delegation", delegation),
    ];
    let video = text(&content["videoTitle"]);
    let after = [line("Video", video), line("Message id", id)];
    let lines = before.into_iter().flatten().chain(results(message).filter_map(result));
    let lines = lines.chain(images(content)).chain(links(&message["links"]));
    lines.chain(after.into_iter().flatten()).collect()
}

fn results(message: &Value) -> impl Iterator<Item = &Value> {
    list(&message["publicationResults"]).take(REPEATED)
}

/// Where it can be seen, on which account and since when.
fn result(result: &Value) -> Option<Line> {
    let name = match word(&result["status"]).as_deref() {
        None | Some("published") => "Published".to_owned(),
        Some("error") => "Not published".to_owned(),
        Some("pending") => "Not published yet".to_owned(),
        Some(status) => format!("Publication {status}"),
    };
    let account = text(&result["accountId"]).map(|id| format!("account {id}"));
    let details = [moment::of(&result["datePublished"]), account];
    let details = details.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let place = text(&result["serviceLink"]).or_else(|| text(&result["serviceId"]));
    let value = match (place, details.is_empty()) {
        (Some(place), true) => place,
        (Some(place), false) => format!("{place} ({details})"),
        (None, _) => details,
    };
    (!value.is_empty()).then_some((Cow::Owned(name), value))
}

fn images(content: &Value) -> impl Iterator<Item = Line> {
    let all = std::iter::once(content).chain(list(&content["images"]));
    all.filter_map(|image| line("Image", text(&image["temporaryImageUrl"]))).take(REPEATED)
}

/// Their form is not published: whatever is the address of a page.
fn links(links: &Value) -> Vec<Line> {
    fn collect(value: &Value, found: &mut Vec<Line>) {
        match value {
            Value::String(link) if link.starts_with("http") => found.push(("Link".into(), link.clone())),
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            Value::Object(map) => map.values().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(links, &mut found);
    found.truncate(REPEATED);
    found
}

fn accounts(ids: &Value) -> Option<String> {
    let ids: Vec<String> = list(ids).filter_map(text).collect();
    (!ids.is_empty()).then(|| ids.join(", "))
}

/// A list, or the one that should have been in one.
fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    match value {
        Value::Array(values) => values.iter(),
        Value::Null => [].iter(),
        value => std::slice::from_ref(value).iter(),
    }
}

/// `AWAITING_APPROVAL` → `awaiting approval`
fn word(value: &Value) -> Option<String> {
    Some(text(value)?.replace('_', " ").to_lowercase())
}
