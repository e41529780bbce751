//! The memory of a case: recognizes the content that its ticket already has, and the changes in later events. Pure.
//!
//! Texts are erased after a month, but cases never end. So the memory consists of fingerprints.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::item::{Note, Repetition};
use crate::json::hex;

/// The content of a ticket. Cumulative: the memory of the latest delivery includes all earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaseMemory {
    routes: Vec<String>,
    /// The fingerprint of the latest text.
    text: Option<String>,
    /// The fingerprints of the notes.
    notes: Vec<String>,
    /// When the newest event happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<String>,
}

/// The content of an event.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    pub route: &'a str,
    pub text: Option<&'a str>,
    pub notes: &'a [Note],
    pub repetition: Repetition,
    /// When the event happened, as a text that can be compared.
    pub when: Option<&'a str>,
}

/// The part of an event that its ticket does not contain yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// The event came by a route that is new to the ticket.
    pub other_route: bool,
    pub text_changed: bool,
    pub notes: Vec<Note>,
    /// The event is not about a post and is added because of its [`Repetition`].
    pub is_report: bool,
}

impl Changes {
    /// Whether the event only repeats what the ticket contains, such as a label that was applied again.
    pub fn is_empty(&self) -> bool {
        !self.is_report && !self.other_route && !self.text_changed && self.notes.is_empty()
    }
}

/// The number of notes, and of routes, that are remembered. The oldest are forgotten.
const REMEMBERED: usize = 500;

impl CaseMemory {
    /// Reads the memo of a delivery. An empty or unreadable one is an empty memory.
    pub fn from_memo(memo: &str) -> CaseMemory {
        serde_json::from_str(memo).unwrap_or_default()
    }

    pub fn to_memo(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Compares an event with the ticket. If the memory is empty, text and route count as unchanged.
    pub fn changes(&self, case_key: &str, content: &Content) -> Changes {
        let text = content.text.map(|text| fingerprint(case_key, &[text]));
        let is_new = |note: &&Note| !self.notes.contains(&note_fingerprint(case_key, note));
        Changes {
            other_route: !self.routes.is_empty() && !self.routes.iter().any(|known| known == content.route),
            text_changed: self.text.is_some() && text.is_some() && self.text != text,
            notes: content.notes.iter().filter(is_new).cloned().collect(),
            is_report: match content.repetition {
                Repetition::Never => false,
                Repetition::Always => true,
                Repetition::Hourly => !self.has_event_in_hour_of(content.when),
            },
        }
    }

    /// Whether the ticket contains an event that happened later.
    pub fn is_newer_than(&self, when: Option<&str>) -> bool {
        when.is_some() && self.when.as_deref() > when
    }

    fn has_event_in_hour_of(&self, when: Option<&str>) -> bool {
        let hour = |when: &str| when.split_once(':').map(|(hour, _)| hour.to_owned());
        let newest = self.when.as_deref().and_then(hour);
        newest.zip(when.and_then(hour)).is_some_and(|(newest, this)| newest >= this)
    }

    /// The memory after an event with this content was added to the ticket.
    pub fn with(&self, case_key: &str, content: &Content) -> CaseMemory {
        let text = content.text.map(|text| fingerprint(case_key, &[text]));
        let notes = content.notes.iter().map(|note| note_fingerprint(case_key, note));
        CaseMemory {
            routes: add_missing(&self.routes, std::iter::once(content.route.to_owned())),
            text: text.or_else(|| self.text.clone()),
            when: content.when.max(self.when.as_deref()).map(str::to_owned),
            notes: add_missing(&self.notes, notes),
        }
    }
}

/// Appends the values that are not known yet and keeps the newest.
fn add_missing(known: &[String], more: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = known.to_vec();
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all.split_off(all.len().saturating_sub(REMEMBERED))
}

fn note_fingerprint(case_key: &str, note: &Note) -> String {
    let author = note.author.as_deref().unwrap_or_default();
    fingerprint(case_key, &[author, note.created.as_deref().unwrap_or_default(), &note.text])
}

/// The first 64 bits of a SHA-256. It includes the case, so that equal texts in two cases differ.
fn fingerprint(case_key: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&case_key).chain(parts) {
        hash.update(part);
        hash.update([0]);
    }
    format!("{:.16}", hex(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: &str = "khoros:1:twitter:1";

    fn notes(texts: &[&str]) -> Vec<Note> {
        let note = |text: &&str| Note { author: None, created: None, text: (*text).to_owned() };
        texts.iter().map(note).collect()
    }

    fn content<'a>(route: &'a str, text: &'a str, notes: &'a [Note]) -> Content<'a> {
        Content { route, text: Some(text), notes, repetition: Repetition::Never, when: None }
    }

    #[test]
    fn only_unknown_content_is_a_change() {
        let (one, both) = (notes(&["call them"]), notes(&["call them", "done"]));
        let first = content("label", "hello", &one);
        let memory = CaseMemory::default().with(CASE, &first);
        let memory = CaseMemory::from_memo(&memory.to_memo());
        assert!(memory.changes(CASE, &first).is_empty());

        let changes = memory.changes(CASE, &content("label", "hello", &both));
        assert_eq!(changes, Changes { notes: notes(&["done"]), ..Changes::default() });
        assert!(memory.changes(CASE, &content("label", "hello!", &[])).text_changed);
        assert!(memory.changes(CASE, &content("vip", "hello", &[])).other_route);
        let memory = memory.with(CASE, &content("vip", "hello!", &both));
        assert!(memory.changes(CASE, &content("label", "hello!", &both)).is_empty());
        assert!(memory.changes(CASE, &first).text_changed, "changed back");
        let silent = Content { text: None, ..content("label", "", &[]) };
        assert!(memory.changes(CASE, &silent).is_empty());
        assert_eq!(memory.with(CASE, &silent), memory);
    }

    #[test]
    fn with_an_empty_memory_only_the_notes_are_changes() {
        for stored in ["", "no JSON", "{}"] {
            let note = notes(&["a note"]);
            let changes = CaseMemory::from_memo(stored).changes(CASE, &content("label", "hello", &note));
            assert_eq!((changes.other_route, changes.text_changed, changes.notes.len()), (false, false, 1));
        }
    }

    #[test]
    fn reports_are_changes_each_time() {
        let deauthorized = Content { repetition: Repetition::Always, ..content("accounts", "lost", &[]) };
        let memory = CaseMemory::default().with(CASE, &deauthorized);
        let changes = memory.changes(CASE, &deauthorized);
        assert_eq!(changes, Changes { is_report: true, ..Changes::default() });
        assert!(!changes.is_empty());
    }

    #[test]
    fn repeated_failures_are_changes_once_an_hour() {
        let at = |when| Content { repetition: Repetition::Hourly, when, ..content("errors", "failed", &[]) };
        let memory = CaseMemory::default().with(CASE, &at(Some("2018-09-13 14:15 UTC")));
        let is_new = |when| memory.changes(CASE, &at(when)).is_report;
        assert!(!is_new(Some("2018-09-13 14:59 UTC")) && !is_new(Some("2018-09-13 13:59 UTC")));
        assert!(is_new(Some("2018-09-13 15:00 UTC")) && is_new(Some("2018-09-14 14:15 UTC")));
        // Without a time on either side, there is no hour to compare.
        assert!(CaseMemory::default().changes(CASE, &at(Some("2018-09-13 14:15 UTC"))).is_report);
        assert!(memory.changes(CASE, &at(None)).is_report);
    }

    #[test]
    fn it_knows_the_newest_event() {
        let at = |when| Content { when, ..content("accounts", "lost", &[]) };
        let memory = CaseMemory::default().with(CASE, &at(Some("2021-05-14 10:18 UTC")));
        let memory = memory.with(CASE, &at(Some("2018-03-14 00:31 UTC"))).with(CASE, &at(None));
        assert!(memory.is_newer_than(Some("2021-05-14 10:17 UTC")) && !memory.is_newer_than(None));
        assert!(!memory.is_newer_than(Some("2021-05-14 10:18 UTC")));
        assert!(!CaseMemory::default().is_newer_than(Some("2018")));
    }

    #[test]
    fn it_is_bounded_and_contains_no_texts() {
        let mut memory = CaseMemory::default();
        for n in 0..2000 {
            let notes = notes(&[&format!("note {n}")]);
            memory = memory.with(CASE, &content(&format!("route-{n}"), "zebra", &notes));
        }
        assert!(memory.to_memo().len() < 30_000);
        assert!(memory.changes(CASE, &content("route-1999", "zebra", &notes(&["note 1999"]))).is_empty());
        assert!(!memory.to_memo().contains("zebra") && !memory.to_memo().contains("note 1"));
    }
}
