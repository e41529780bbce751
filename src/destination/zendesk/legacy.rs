//! Requests that were frozen before their decisions were stored with them: these are read from the bytes.

use jiff::tz::TimeZone;
use serde_json::Value;

use super::memory::CaseMemory;
use super::plan::{Decision, Fields, Plan, RequesterUser};
use super::settings::ticket::{FALLBACK_TAG, NO_AUTHOR_TAG};
use super::ticket::shown_notes;
use crate::destination::html;
use crate::item::{Item, Note};

/// Reads what was decided from the bytes of a create.
pub(super) fn decision(bytes: &str, service_user: Option<u64>, memory: CaseMemory) -> Decision {
    let body: Value = serde_json::from_str(bytes).unwrap_or_default();
    let ticket = &body["ticket"];
    let has = |name: &str| ticket["tags"].as_array().into_iter().flatten().any(|tag| tag == name);
    let author = ticket["requester_id"].as_u64().filter(|id| Some(*id) != service_user);
    let plan = Plan {
        requester: match author {
            _ if has(NO_AUTHOR_TAG) => RequesterUser::Pending,
            Some(id) => RequesterUser::Author(id),
            None => RequesterUser::Service,
        },
        fields: if has(FALLBACK_TAG) { Fields::Plain } else { Fields::Configured },
        follow_up: ticket["via_followup_source_id"].as_u64(),
    };
    Decision { plan, public: ticket["comment"]["public"].as_bool().unwrap_or(false), memory }
}

/// Returns the notes of an item that the ticket's first comment contains.
pub(super) fn notes_in_ticket(item: &Item, bytes: &str) -> Vec<Note> {
    let body: Value = serde_json::from_str(bytes).unwrap_or_default();
    let comment = &body["ticket"]["comment"];
    let shown = match comment["html_body"].as_str() {
        Some(html) => html::visible_text(html, ""),
        None => comment["body"].as_str().unwrap_or_default().to_owned(),
    };
    shown_notes(&item.notes, &shown, &TimeZone::UTC)
}
