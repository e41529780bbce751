//! What the ticket of a case has been told so far, and what of a later event is new to it. Pure.
//!
//! Texts are kept for a month and cases for ever, so what was told is kept as fingerprints.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::notification::Note;

/// What a ticket has been told. Cumulative: that of the last delivery holds all before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    routes: Vec<String>,
    /// Of the text that was told last.
    text: Option<String>,
    notes: Vec<String>,
    /// When the newest event happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<String>,
}

/// What an event has to say.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    pub route: &'a str,
    pub text: Option<&'a str>,
    pub notes: &'a [Note],
    pub pace: Pace,
    /// When it happened, if that can be compared.
    pub when: Option<&'a str>,
}

/// How often an event is told that says nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// That of a post, never.
    Never,
    /// That of what has just happened, each time.
    EachTime,
    /// Once in an hour by the clock: what is broken fails again and again.
    Hourly,
}

/// What of an event its ticket does not hold yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// The event came by a route that the ticket has not heard of.
    pub other_route: bool,
    pub text_changed: bool,
    pub notes: Vec<Note>,
    /// It is about no post: each such event tells something that has just happened.
    pub is_report: bool,
}

impl News {
    /// The label was applied again, and that is all.
    pub fn is_empty(&self) -> bool {
        !self.is_report && !self.other_route && !self.text_changed && self.notes.is_empty()
    }
}

/// Of notes and of routes, so many are remembered: the newest.
const REMEMBERED: usize = 500;

impl Told {
    /// From the column. What cannot be read, or is not there, is a ticket that we know nothing of.
    pub fn read(stored: Option<&str>) -> Told {
        stored.and_then(|stored| serde_json::from_str(stored).ok()).unwrap_or_default()
    }

    /// For the column.
    pub fn stored(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What of these words has not been told. Of a ticket that we know nothing of, neither the text nor
    /// the route is taken to be another.
    pub fn news(&self, case_key: &str, words: &Words) -> News {
        let text = words.text.map(|text| fingerprint(case_key, &[text]));
        let is_new = |note: &&Note| !self.notes.contains(&of_note(case_key, note));
        News {
            other_route: !self.routes.is_empty() && !self.routes.iter().any(|known| known == words.route),
            text_changed: self.text.is_some() && text.is_some() && self.text != text,
            notes: words.notes.iter().filter(is_new).cloned().collect(),
            is_report: match words.pace {
                Pace::Never => false,
                Pace::EachTime => true,
                Pace::Hourly => !self.has_heard_in_the_hour_of(words.when),
            },
        }
    }

    /// Whether something newer than of this time has been told.
    pub fn is_newer_than(&self, when: Option<&str>) -> bool {
        when.is_some() && self.when.as_deref() > when
    }

    fn has_heard_in_the_hour_of(&self, when: Option<&str>) -> bool {
        let hour = |when: &str| when.split_once(':').map(|(hour, _)| hour.to_owned());
        let heard = self.when.as_deref().and_then(hour);
        heard.zip(when.and_then(hour)).is_some_and(|(heard, this)| heard >= this)
    }

    /// What has been told once these words have been told too.
    pub fn with(&self, case_key: &str, words: &Words) -> Told {
        let text = words.text.map(|text| fingerprint(case_key, &[text]));
        let notes = words.notes.iter().map(|note| of_note(case_key, note));
        Told {
            routes: joined(&self.routes, std::iter::once(words.route.to_owned())),
            text: text.or_else(|| self.text.clone()),
            when: words.when.max(self.when.as_deref()).map(str::to_owned),
            notes: joined(&self.notes, notes),
        }
    }
}

/// The known ones and those that are not among them, the newest last.
fn joined(known: &[String], more: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = known.to_vec();
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all.split_off(all.len().saturating_sub(REMEMBERED))
}

fn of_note(case_key: &str, note: &Note) -> String {
    let author = note.author.as_deref().unwrap_or_default();
    fingerprint(case_key, &[author, note.created.as_deref().unwrap_or_default(), &note.text])
}

/// The first 64 bits of a SHA-256. The case is part of it, so that equal words in two cases differ.
fn fingerprint(case_key: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&case_key).chain(parts) {
        hash.update(part);
        hash.update([0]);
    }
    format!("{:.16}", format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: &str = "khoros:1:twitter:1";

    fn notes(texts: &[&str]) -> Vec<Note> {
        let note = |text: &&str| Note { author: None, created: None, text: (*text).to_owned() };
        texts.iter().map(note).collect()
    }

    fn words<'a>(route: &'a str, text: &'a str, notes: &'a [Note]) -> Words<'a> {
        Words { route, text: Some(text), notes, pace: Pace::Never, when: None }
    }

    #[test]
    fn only_what_was_not_told_is_new() {
        let (one, both) = (notes(&["call them"]), notes(&["call them", "done"]));
        let first = words("label", "hello", &one);
        let told = Told::default().with(CASE, &first);
        let told = Told::read(Some(&told.stored()));
        assert!(told.news(CASE, &first).is_empty());

        let news = told.news(CASE, &words("label", "hello", &both));
        assert_eq!(news, News { notes: notes(&["done"]), ..News::default() });
        assert!(told.news(CASE, &words("label", "hello!", &[])).text_changed);
        assert!(told.news(CASE, &words("vip", "hello", &[])).other_route);
        let told = told.with(CASE, &words("vip", "hello!", &both));
        assert!(told.news(CASE, &words("label", "hello!", &both)).is_empty());
        assert!(told.news(CASE, &first).text_changed, "changed back");
        let silent = Words { route: "label", text: None, notes: &[], pace: Pace::Never, when: None };
        assert!(told.news(CASE, &silent).is_empty());
        assert_eq!(told.with(CASE, &silent), told);
    }

    #[test]
    fn of_an_unknown_ticket_only_the_notes_are_news() {
        for stored in [None, Some(""), Some("no JSON"), Some("{}")] {
            let note = notes(&["a note"]);
            let news = Told::read(stored).news(CASE, &words("label", "hello", &note));
            assert_eq!((news.other_route, news.text_changed, news.notes.len()), (false, false, 1));
        }
    }

    #[test]
    fn what_is_no_post_is_news_each_time() {
        let deauthorised = Words { pace: Pace::EachTime, ..words("accounts", "lost", &[]) };
        let told = Told::default().with(CASE, &deauthorised);
        let news = told.news(CASE, &deauthorised);
        assert_eq!(news, News { is_report: true, ..News::default() });
        assert!(!news.is_empty());
    }

    #[test]
    fn what_fails_again_and_again_is_news_once_an_hour() {
        let at = |when| Words { pace: Pace::Hourly, when, ..words("errors", "failed", &[]) };
        let told = Told::default().with(CASE, &at(Some("2018-09-13 14:15 UTC")));
        let is_news = |when| told.news(CASE, &at(when)).is_report;
        assert!(!is_news(Some("2018-09-13 14:59 UTC")) && !is_news(Some("2018-09-13 13:59 UTC")));
        assert!(is_news(Some("2018-09-13 15:00 UTC")) && is_news(Some("2018-09-14 14:15 UTC")));
        // Of what nobody knows when it happened, nobody knows that it was told.
        assert!(Told::default().news(CASE, &at(Some("2018-09-13 14:15 UTC"))).is_report);
        assert!(told.news(CASE, &at(None)).is_report);
    }

    #[test]
    fn it_knows_the_newest_event() {
        let at = |when| Words { when, ..words("accounts", "lost", &[]) };
        let told = Told::default().with(CASE, &at(Some("2021-05-14 10:18 UTC")));
        let told = told.with(CASE, &at(Some("2018-03-14 00:31 UTC"))).with(CASE, &at(None));
        assert!(told.is_newer_than(Some("2021-05-14 10:17 UTC")) && !told.is_newer_than(None));
        assert!(
            !told.is_newer_than(Some("2021-05-14 10:18 UTC")) && !Told::default().is_newer_than(Some("2018"))
        );
    }

    #[test]
    fn it_does_not_grow_for_ever_and_holds_no_words() {
        let mut told = Told::default();
        for n in 0..2000 {
            told = told.with(CASE, &words(&format!("route-{n}"), "zebra", &notes(&[&format!("note {n}")])));
        }
        assert!(told.stored().len() < 30_000);
        assert!(told.news(CASE, &words("route-1999", "zebra", &notes(&["note 1999"]))).is_empty());
        assert!(!told.stored().contains("zebra") && !told.stored().contains("note 1"));
    }
}
