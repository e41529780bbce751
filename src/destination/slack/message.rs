//! The messages of a case: the first one, which shows its current state, and the replies. Pure.
//!
//! Text from outside is placed where Slack parses nothing: in `text` elements of rich text and in `plain_text`. In the
//! text for notifications and screen readers, which Slack parses, it is escaped.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::settings::{Mention, Target};
use crate::delivery::Cause;
use crate::destination::template::{Context, Subject, Template};
use crate::destination::{Job, summary};
use crate::item::Note;
use crate::json::hex;
use crate::text::{clean, shorten, shorten_mapped};

/// Slack posts a longer `text` as several messages, from 4,041 characters on.
const TEXT: usize = 3900;
const HEADLINE: usize = 500;
/// Each text has room in a block, and all of them in a message.
const QUOTE: usize = 2500;
const NOTE: usize = 600;
/// The number of notes that a message shows: the last ones.
const NOTES: usize = 5;
const HEADING: &str = "{% if report %}{{ report.headline }}{% else %}{{ author.display_name or 'Somebody' }}\
    {% if network %} on {{ network }}{% endif %}{% for label in labels %}{{ ' · ' if loop.first else ', ' }}{{ label }}\
    {% endfor %}{% endif %}";

/// The mark by which a message is found again: hashes of its delivery and its case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub id: String,
    pub case: String,
}

impl Mark {
    pub fn new(delivery: &str, case: &str) -> Mark {
        Mark { id: hash(delivery), case: hash(case) }
    }

    /// Reads it from a message's metadata or, because Slack may drop that, from the id of its first block.
    pub fn of(message: &Value) -> Option<Mark> {
        if let Ok(mark) = serde_json::from_value(message["metadata"]["event_payload"].clone()) {
            return Some(mark);
        }
        let mut parts = message["blocks"][0]["block_id"].as_str()?.strip_prefix("cb:")?.split(':');
        Some(Mark { id: parts.next()?.to_owned(), case: parts.next()?.to_owned() })
    }
}

/// 128 bits, in hexadecimal digits.
pub fn hash(text: &str) -> String {
    format!("{:.32}", hex(Sha256::digest(text)))
}

/// A message to be rendered.
pub struct Message<'a> {
    pub job: &'a Job<'a>,
    pub target: &'a Target,
    pub mark: &'a Mark,
    pub place: Place<'a>,
    pub mentions: &'a [Mention],
    /// What casebridge says about the message itself.
    pub notices: Vec<String>,
    /// Slack has refused its blocks.
    pub is_plain: bool,
    /// Slack has refused its metadata.
    pub has_no_metadata: bool,
}

/// Which message of its case it is.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// The first one.
    Root,
    /// The first one, which already has this time stamp and this number of replies. `editor` is a new part of its block
    /// id, as Slack demands of an edit.
    Edit { ts: &'a str, editor: &'a str, replies: usize },
    /// A reply to the message with this time stamp, with these notes.
    Reply { root: &'a str, notes: &'a [&'a Note] },
}

impl Message<'_> {
    /// The body of the request, and why the template of the first line failed.
    pub fn body(&self) -> (Value, Option<String>) {
        let (item, cause) = (self.job.item, self.job.claim.cause().filter(Cause::has_number));
        let all: Vec<&Note> = item.notes.iter().collect();
        let is_reply = matches!(self.place, Place::Reply { .. });
        let (headline, failure) = match &cause {
            Some(cause) if is_reply => (summary::change(cause), None),
            _ => self.headline(cause.as_ref()),
        };
        let quote = if is_reply && item.report.is_none() { None } else { summary::text(item, QUOTE) };
        let notes = if let Place::Reply { notes, .. } = self.place { notes } else { &all };
        let notes = notes.iter().skip(notes.len().saturating_sub(NOTES));
        let notes = notes.map(|note| summary::note(note, NOTE)).collect::<Vec<_>>().join("\n");
        let links = summary::links(item, cause.as_ref());
        let notices = self.notices(cause.as_ref()).join(" · ");

        let links_as_text = links.iter().map(|(name, url)| format!("{name}: {url}"));
        let texts = [headline.clone()].into_iter().chain(links_as_text);
        let texts = texts.chain(quote.clone()).chain([notes.clone(), notices.clone()]);
        let text = texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n");
        let mentions: String = self.mentions.iter().map(|mention| mention.markup() + " ").collect();
        let mut body = json!({
            "channel": self.target.channel,
            "text": escaped(&text, TEXT.saturating_sub(mentions.len()), mentions),
            "mrkdwn": false,
            "unfurl_links": false,
            "unfurl_media": false,
        });
        match self.place {
            Place::Root => body["client_msg_id"] = json!(self.uuid()),
            Place::Edit { ts, .. } => body["ts"] = json!(ts),
            Place::Reply { root, .. } => {
                body["thread_ts"] = json!(root);
                body["client_msg_id"] = json!(self.uuid());
            }
        }
        if !self.is_plain {
            body["blocks"] = self.blocks(&headline, &links, quote, notes, notices);
        }
        if !self.has_no_metadata {
            let ticket = cause.map(|cause| cause.number);
            let payload = json!({ "id": self.mark.id, "case": self.mark.case, "ticket": ticket });
            body["metadata"] = json!({ "event_type": "casebridge_delivery", "event_payload": payload });
        }
        (body, failure)
    }

    fn blocks(
        &self,
        headline: &str,
        links: &[(String, String)],
        quote: Option<String>,
        notes: String,
        notices: String,
    ) -> Value {
        let text = |text: &str| json!({ "type": "text", "text": text });
        let mut first: Vec<Value> =
            self.mentions.iter().flat_map(|mention| [mention.element(), text(" ")]).collect();
        first.push(json!({ "type": "text", "text": headline, "style": { "bold": true } }));
        for (name, url) in links {
            first.extend([text(" · "), json!({ "type": "link", "url": url, "text": name })]);
        }
        let mut parts = vec![json!({ "type": "rich_text_section", "elements": first })];
        parts.extend(quote.map(|it| json!({ "type": "rich_text_quote", "elements": [text(&it)] })));
        if !notes.is_empty() {
            parts.push(json!({ "type": "rich_text_section", "elements": [text(&notes)] }));
        }
        let mut block_id = format!("cb:{}:{}", self.mark.id, self.mark.case);
        if let Place::Edit { editor, .. } = self.place {
            block_id = format!("{block_id}:{editor}");
        }
        let mut blocks = vec![json!({ "type": "rich_text", "block_id": block_id, "elements": parts })];
        if !notices.is_empty() {
            let notices = json!({ "type": "plain_text", "text": notices, "emoji": false });
            blocks.push(json!({ "type": "context", "elements": [notices] }));
        }
        json!(blocks)
    }

    fn headline(&self, cause: Option<&Cause>) -> (String, Option<String>) {
        let Job { item, route, claim } = *self.job;
        let subject = Subject {
            item,
            label: route.label.as_deref().unwrap_or_default(),
            route: &claim.route,
            is_public: false,
            notes: &item.notes,
            more_notes: 0,
            time_zone: &TimeZone::UTC,
        };
        let context = Context::new(&subject).with_cause(&cause.cloned().unwrap_or_default());
        let render = |template: &Template| {
            let line = shorten(clean(&template.render(&context)?).trim(), HEADLINE);
            if line.is_empty() { Err("it gives no text for this item".to_owned()) } else { Ok(line) }
        };
        let built_in = || render(&Template::built_in(HEADING)).unwrap_or_else(|_| "A new case".to_owned());
        match self.target.text.as_ref().map(render) {
            Some(Ok(line)) => (line, None),
            Some(Err(failure)) => (built_in(), Some(failure)),
            None => (built_in(), None),
        }
    }

    fn notices(&self, cause: Option<&Cause>) -> Vec<String> {
        let replies = match self.place {
            Place::Reply { .. } => return self.notices.clone(),
            Place::Root => 0,
            Place::Edit { replies, .. } => replies,
        };
        let state = summary::state(self.job.item, cause).map(|state| format!("State: {state}"));
        let updates = match replies {
            0 => None,
            1 => Some("1 update in the thread".to_owned()),
            _ => Some(format!("{replies} updates in the thread")),
        };
        state.into_iter().chain(updates).chain(self.notices.iter().cloned()).collect()
    }

    /// Slack's own clients create such an id for each message.
    fn uuid(&self) -> String {
        let part = |range| self.mark.id.get(range).unwrap_or_default();
        format!("{}-{}-5{}-a{}-{}", part(0..8), part(8..12), part(13..16), part(17..20), part(20..32))
    }
}

/// Escapes what Slack parses, in at most `room` characters after `start`, which stays as it is.
fn escaped(text: &str, room: usize, start: String) -> String {
    start + &shorten_mapped(text, room, "…", |grapheme| escape(grapheme).into())
}

/// Escapes what Slack parses, even without mrkdwn: `<!channel>`, and links
/// (<https://docs.slack.dev/messaging/formatting-message-text>).
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
