//! Items: posts and events, independent of their source. No I/O, no clock.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::json::hex;

/// One thing to deliver: a post, comment or message of a network, or an event that is not about a post.
/// Fields that could not be read are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    pub kind: Kind,
    pub condition: Condition,
    /// How often the item is added to its case when it brings no changes.
    pub repetition: Repetition,
    pub event_id: Option<String>,
    pub event_name: Option<String>,
    /// The date of the event, if it can be read.
    pub event_made: Option<Timestamp>,
    /// Set for events that are not about a post. The post fields are then empty, except where the event has a
    /// field of the same name.
    pub report: Option<Report>,
    /// The rule that was applied to the item.
    pub rule: Option<String>,
    /// `{network}:{native id}`
    pub entity_id: Option<String>,
    pub text: Option<String>,
    pub link: Option<String>,
    pub author: Author,
    /// As published: ISO 8601 for posts.
    pub created: Option<String>,
    /// `post`, `comment` or `message`, as published.
    pub content_type: Option<String>,
    /// `{network}:{native id}` of the posts that it refers to.
    pub in_reply_to: Option<String>,
    pub reposted_from: Option<String>,
    pub parent_post: Option<String>,
    /// The ids of the groups of users who are responsible for it.
    pub initiatives: Vec<String>,
    /// The labels of the event, then those of the item. Both may be empty in an event about a label.
    pub labels: Vec<String>,
    pub notes: Vec<Note>,
    /// All fields as they came, for templates.
    pub fields: Value,
}

/// Why an item came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A person applied a label to the item.
    #[default]
    Label,
    /// A rule selected the item.
    Rule,
    Other,
}

/// The condition that an item reports of its case's subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Unchanged,
    /// It has stopped working until an administrator repairs it.
    Broken,
    /// It works again.
    Repaired,
}

/// How soon somebody should see to an item, the least urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Urgent,
}

/// How often an event without changes is added to its case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repetition {
    /// Events about posts.
    #[default]
    Never,
    /// Events that report something new each time.
    Always,
    /// Once in each hour of the clock: a broken system keeps failing.
    Hourly,
}

/// The part of a link that counts when links are compared: without its scheme, and without slashes at its end.
pub fn link_part(link: &str) -> &str {
    let link = link.trim();
    link.split_once("://").map_or(link, |(_, rest)| rest).trim_end_matches('/')
}

/// The fingerprint by which a post is found by its link: 64 bits of a SHA-256 over the [`link_part`].
pub fn link_fingerprint(link: &str) -> String {
    format!("{:.16}", hex(Sha256::digest(link_part(link))))
}

/// One item of an event on its way into the inbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// `{source}:{company}:{event}:{entity}`: the same for a redelivery, another one for a label that is applied
    /// again. An event that is not about a post has no entity, except the id of a message. Separators within
    /// the ids are escaped.
    pub identity: String,
    /// What the item is about: `{source}:{company}:{entity}`. Networks are in lower case.
    pub case_key: String,
    pub event_id: String,
    pub event_name: String,
    /// The envelope with this item alone, as JSON; secrets are redacted.
    pub payload: String,
    /// Set if it cannot be processed.
    pub unprocessable: Option<Unprocessable>,
}

/// Why an item cannot be processed, for the operator.
pub type Unprocessable = &'static str;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Author {
    /// The id in the network, which stays the same if the name changes.
    pub id: Option<String>,
    pub name: Option<String>,
    pub screen_name: Option<String>,
    pub link: Option<String>,
    /// The address of a picture.
    pub icon: Option<String>,
    /// A number, as text.
    pub followers: Option<String>,
}

/// A note that a colleague added to the item.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub author: Option<String>,
    /// As published: its format is not documented.
    pub created: Option<String>,
    pub text: String,
}

/// An event that is not about posts, described for a person. Its texts are as they came: print them cleaned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The case within its company, as in `credential:instagram:673abc9794`. `None`: each event is a case.
    pub case: Option<String>,
    /// Distinguishes this report from others of the same event.
    pub id: Option<String>,
    /// Where it happened: the network as people write it, or the product.
    pub place: String,
    /// As in `{network}:{native id}`.
    pub network: Option<String>,
    /// Names the text about it, for a translation: the event, and a variant: `message-published:partly`.
    pub kind: String,
    /// The name of what it is about, without casebridge's own wording: `Instagram "acme"`. Empty if it has none.
    pub subject: String,
    /// For a subject line.
    pub headline: String,
    /// The event in a sentence, without its full stop.
    pub opening: String,
    /// The consequence, in full sentences.
    pub meaning: Option<&'static str>,
    /// `2018-03-14 00:31 UTC`, or as published.
    pub when: Option<String>,
    /// The text of a message.
    pub text: Option<String>,
    pub lines: Vec<Line>,
    /// The action to take, in a full sentence.
    pub advice: Option<&'static str>,
}

/// A fact: its name and its value.
pub type Line = (Cow<'static, str>, String);

impl Item {
    pub fn is_urgent(&self) -> bool {
        self.condition == Condition::Broken
    }

    /// The configured priority; without one, urgent items have a high priority.
    pub fn priority(&self, configured: Priority) -> Priority {
        match configured == Priority::default() && self.is_urgent() {
            true => Priority::High,
            false => configured,
        }
    }

    pub fn is_resolution(&self) -> bool {
        self.condition == Condition::Repaired
    }

    /// Whether the item is added to its case even if repeated events are ignored.
    pub fn is_status_change(&self) -> bool {
        self.condition != Condition::Unchanged
    }

    /// Returns the time of the event, in a form that can be compared: `2018-03-14 00:31 UTC`.
    pub fn happened(&self) -> Option<&str> {
        let when = self.report.as_ref()?.when.as_deref()?;
        (when.len() == "2018-03-14 00:31 UTC".len() && when.ends_with(" UTC")).then_some(when)
    }

    /// The part of the entity's id before its *first* colon (a native id may contain more colons). The report of
    /// an event that is not about a post names the network.
    pub fn network(&self) -> Option<&str> {
        if let Some(report) = &self.report {
            return report.network.as_deref();
        }
        let network = self.entity_id.as_deref()?.split_once(':')?.0;
        is_network(network).then_some(network)
    }

    /// The network as people write it: `LinkedIn`.
    pub fn network_name(&self) -> Option<String> {
        self.network().map(network_name)
    }
}

/// Whether a text can be the name of a network, as in ids and tags.
pub fn is_network(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 40
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// The name of a network as people write it: `LinkedIn`.
pub fn network_name(network: &str) -> String {
    let lower = network.to_lowercase();
    match lower.as_str() {
        "linkedin" => "LinkedIn".to_owned(),
        "youtube" => "YouTube".to_owned(),
        "tiktok" => "TikTok".to_owned(),
        "x" => "X".to_owned(),
        "vk" => "VK".to_owned(),
        "googleplus" => "Google+".to_owned(),
        "sinaweibo" => "Weibo".to_owned(),
        "multi_channel" => "Several networks".to_owned(),
        _ => {
            let mut letters = lower.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
        }
    }
}

/// The key of a case, `{source}:{company}:{entity}`, with its network in lower case: earlier versions kept the
/// spelling of the source.
pub fn with_lower_network(case_key: &str) -> String {
    match case_key.splitn(3, ':').collect::<Vec<_>>()[..] {
        [source, company, entity] => format!("{source}:{company}:{}", case_entity(entity)),
        _ => case_key.to_owned(),
    }
}

/// `Twitter:1` and `twitter:1` are one post.
pub fn case_entity(entity: &str) -> String {
    match entity.split_once(':') {
        Some((network, id)) => format!("{}:{id}", network.to_ascii_lowercase()),
        None => entity.to_owned(),
    }
}
