//! What happened to a delivery, in order.

use serde_json::{Value, json};

use casebridge::delivery::Cause;
use casebridge::inbox::RecordedAttempt;

use super::{Story, one_line, time};

/// One line of the timeline.
pub struct Entry {
    /// Milliseconds since 1970, UTC; `None` if it was not recorded.
    pub at: Option<i64>,
    pub text: String,
    pub json: Value,
}

impl Entry {
    fn new(at: Option<i64>, event: &str, text: String, mut fields: Value) -> Entry {
        fields["event"] = json!(event);
        fields["at"] = json!(at.map(time));
        Entry { at, text, json: fields }
    }
}

/// Lists what happened to a delivery. `texts`: includes the answers of the destination.
pub fn timeline(story: &Story, texts: bool) -> Vec<Entry> {
    let mut entries = vec![received(story)];
    let mut next = 1;
    let mut is_final = false;
    for attempt in &story.attempts {
        if is_final {
            entries.push(replayed());
        }
        entries.extend(missing(next, attempt.number - 1));
        entries.push(attempted(attempt, texts));
        is_final = matches!(attempt.outcome.as_str(), "refused" | "uncertain" | "dead" | "given_up");
        next = attempt.number + 1;
    }
    if is_final && story.delivery.state != "dead" {
        entries.push(replayed());
    }
    // The last one may be in progress.
    let ended = story.delivery.attempts - i64::from(story.delivery.leased);
    entries.extend(missing(next, ended));
    entries.push(now(story, texts));
    entries
}

fn received(story: &Story) -> Entry {
    let origin = &story.shown.origin;
    let cause: Option<Cause> = story.shown.cause.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let by = if origin == "feed" { "read from a feed" } else { "pushed" };
    let mut text = format!("received ({by}) and stored");
    if let Some(cause) = &cause {
        let action = one_line(&cause.action);
        text.push_str(&format!("; follows the delivery that {action} {}", one_line(&cause.reference)));
    }
    let follows = cause.map(|cause| json!({ "action": cause.action, "reference": cause.reference }));
    let fields = json!({ "origin": origin, "follows": follows });
    Entry::new(Some(story.delivery.received_at), "received", text, fields)
}

fn replayed() -> Entry {
    Entry::new(None, "replayed", "an operator replayed it".to_owned(), json!({}))
}

/// Attempts whose outcome was not stored, or is not stored any longer.
fn missing(first: i64, last: i64) -> Option<Entry> {
    let which = match first == last {
        true => format!("attempt {first}"),
        false => format!("attempts {first} to {last}"),
    };
    let text =
        format!("{which}: no outcome recorded; the process ended, the lease expired, or it is too old");
    (first <= last).then(|| Entry::new(None, "missing", text, json!({ "first": first, "last": last })))
}

fn attempted(attempt: &RecordedAttempt, texts: bool) -> Entry {
    let RecordedAttempt { number, outcome, action, reason, found, status, request_id, .. } = attempt;
    let took_ms = attempt.ended_at - attempt.began_at;
    let mut text = format!("attempt {number}: {}", action.as_deref().unwrap_or(outcome));
    let mut details = Vec::new();
    match found {
        Some(true) => details.push("looked up: an earlier request had got through".to_owned()),
        Some(false) => details.push("looked up: nothing there yet".to_owned()),
        None => {}
    }
    details.extend(status.map(|status| format!("HTTP {status}")));
    details.extend(request_id.as_ref().map(|id| format!("request {}", one_line(id))));
    details.push(format!("{took_ms} ms"));
    text.push_str(&format!(" ({})", details.join(", ")));
    if let Some(reason) = reason {
        text.push_str(&format!(": {}", one_line(reason)));
    }
    if let Some(next) = attempt.next_at {
        text.push_str(&format!("; next try at {}", time(next)));
    }
    let response = attempt.response.as_ref().filter(|_| texts);
    if let Some(response) = response.filter(|response| !response.is_empty()) {
        text.push_str(&format!("\n{:22}answer: {}", "", one_line(response)));
    }
    let mut fields = json!({
        "number": number, "ended_at": time(attempt.ended_at), "took_ms": took_ms, "outcome": outcome,
        "action": action, "reason": reason, "found": found, "status": status, "request_id": request_id,
        "next_at": attempt.next_at.map(time),
    });
    if texts {
        fields["response"] = json!(response);
    }
    Entry::new(Some(attempt.began_at), "attempt", text, fields)
}

/// The current state of the delivery.
fn now(story: &Story, texts: bool) -> Entry {
    let delivery = &story.delivery;
    let last = story.attempts.last().filter(|last| last.number == delivery.attempts);
    let reason = match last {
        Some(last) if delivery.state == "waiting" || last.next_at.is_none() => last.reason.clone(),
        // casebridge's own words, unless the reason comes from an attempt that is not recorded.
        _ if texts || delivery.attempts == 0 || last.is_some() => delivery.last_error.clone(),
        _ => None,
    };
    let because = reason.as_ref().map(|reason| format!(": {}", one_line(reason))).unwrap_or_default();
    let due = time(delivery.due_at);
    let (at, event, text) = match delivery.state.as_str() {
        "done" => {
            let reference = one_line(delivery.reference.as_deref().unwrap_or_default());
            (delivery.settled_at, "done", format!("done: {reference}"))
        }
        "dead" => (delivery.settled_at, "dead", format!("dead{because}")),
        _ if delivery.leased => {
            let text = format!("attempt {} is in progress, until {due} at the latest", delivery.attempts);
            (None, "attempting", text)
        }
        _ => (None, "waiting", format!("waits, due at {due}{because}")),
    };
    let fields = json!({
        "reason": reason,
        "reference": delivery.reference,
        "due_at": (delivery.state == "waiting").then_some(due),
    });
    Entry::new(at, event, text, fields)
}
