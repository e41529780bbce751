//! From the bytes of a notification to the items that it carries. No I/O, no clock.
//!
//! Khoros publishes examples, not a contract: ids come as strings or numbers, `labels` as a string,
//! an array or not at all, and fields are missing. So nothing here refuses what is JSON. What can
//! become a ticket becomes an [`Item`]; the rest is kept whole, with the reason, for a person to
//! look at.

mod redact;

use std::collections::HashMap;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::event::{CredentialChange, Event, Report, moment};
use crate::memory::Repetition;
use redact::{may_hold_secrets, redact};

/// One item of a notification as it goes into the inbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// `khoros:{company}:{event}:{entity}`: a redelivery has the same one, a re-applied label not. An
    /// event that is about no post has no entity, but for the id of a message. Within the ids, what
    /// separates them is escaped.
    pub identity: String,
    /// The case that the item belongs to, and the ticket's `external_id`. Networks are in lower case.
    pub case_key: String,
    pub event_id: String,
    pub event_name: String,
    /// The envelope with this item alone, as JSON; secrets are redacted.
    pub payload: String,
    /// Set when nothing can be made of it.
    pub unprocessable: Option<Unprocessable>,
}

/// Why no ticket can be made of something authenticated. The text goes to the operator.
pub type Unprocessable = &'static str;

/// The body is not JSON.
#[derive(Debug, PartialEq)]
pub struct NotJson;

/// What a ticket is about, as far as its fields could be read: a post, comment or message of a
/// network, or what an event tells that is about none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    pub event: Event,
    pub event_id: Option<String>,
    pub event_name: Option<String>,
    /// When the event was made, if that can be read.
    pub event_made: Option<Timestamp>,
    /// Set if it is no post: then all that belongs to one is empty, but for what has the same name.
    pub report: Option<Report>,
    /// The rule that was applied to it.
    pub rule: Option<String>,
    /// `{network}:{native id}`
    pub entity_id: Option<String>,
    pub text: Option<String>,
    pub link: Option<String>,
    pub author: Author,
    /// As published: ISO 8601 for items.
    pub created: Option<String>,
    pub in_reply_to: Option<String>,
    /// Those of the event, then those of the item. Both may be empty in an event about a label.
    pub labels: Vec<String>,
    pub notes: Vec<Note>,
    /// All its fields as they came, for templates.
    pub fields: Value,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Author {
    /// The network's own, which outlives a change of name; unique within the network.
    pub id: Option<String>,
    pub name: Option<String>,
    pub screen_name: Option<String>,
    pub link: Option<String>,
    /// A number, which Khoros sends as a string.
    pub followers: Option<String>,
}

/// What Khoros' users wrote beside the item.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub author: Option<String>,
    /// As published: its format is not documented.
    pub created: Option<String>,
    pub text: String,
}

/// Splits a body into its items. `company` is the configured one: the event's own may be missing or
/// of the other kind (Khoros has two).
///
/// # Errors
/// [`NotJson`], and nothing else.
pub fn parse(body: &[u8], company: u64) -> Result<Vec<Arrival>, NotJson> {
    parse_as("", body, company)
}

/// The same of a body that came to an endpoint for events of this name: some come without telling it.
///
/// # Errors
/// [`NotJson`], and nothing else.
pub fn parse_as(event: &str, body: &[u8], company: u64) -> Result<Vec<Arrival>, NotJson> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match serde_json::from_slice(body) {
        Ok(value) => Ok(split_all(event, value, company)),
        Err(_) => parse_repaired(event, body, company),
    }
}

/// What is valid JSON, and still cannot be held as it is.
fn parse_repaired(event: &str, body: &[u8], company: u64) -> Result<Vec<Arrival>, NotJson> {
    serde_json::from_slice::<IgnoredAny>(body).map_err(|_| NotJson)?;
    let text = String::from_utf8_lossy(body);
    match read(&text) {
        Some(value) => Ok(split_all(event, value, company)),
        None => Ok(vec![unreadable(&text, company)]),
    }
}

fn split_all(event: &str, value: Value, company: u64) -> Vec<Arrival> {
    match value {
        Value::Array(envelopes) if envelopes.iter().any(Value::is_object) => {
            envelopes.into_iter().flat_map(|envelope| split(event, envelope, company)).collect()
        }
        envelope => split(event, envelope, company),
    }
}

/// Valid JSON that serde_json still cannot hold: a lone half of an emoji (social texts are cut
/// anywhere) is repaired; what nests deeper than 128 levels is not.
pub(crate) fn read(text: &str) -> Option<Value> {
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_lone_surrogates(text))).ok()
}

fn unreadable(text: &str, company: u64) -> Arrival {
    let event_id = sha256(text);
    Arrival {
        identity: key(&format!("khoros:{company}:{event_id}")),
        case_key: key(&format!("khoros:{company}:{event_id}")),
        event_id,
        event_name: "unknown".to_owned(),
        payload: match may_hold_secrets(text) {
            true => "\"removed: it nests too deeply to be read, and may hold a credential\"".to_owned(),
            false => text.to_owned(),
        },
        unprocessable: Some(TOO_DEEP),
    }
}

fn split(event: &str, mut envelope: Value, company: u64) -> Vec<Arrival> {
    redact(&mut envelope);
    let event_id = event_id(&envelope);
    if !event.is_empty() && envelope.is_object() && text(&envelope["eventName"]).is_none() {
        envelope["eventName"] = Value::from(event);
    }
    let event_name = text(&envelope["eventName"]).unwrap_or_else(|| "unknown".to_owned());
    let arrival = |identity: String, case_key: String, payload: String, unprocessable| Arrival {
        identity: key(&identity),
        case_key: key(&case_key),
        event_id: key(&event_id),
        event_name: key(&event_name),
        payload,
        unprocessable,
    };
    let event = format!("khoros:{company}:{event_id}");
    let own = format!("khoros:{company}:{}", event_component(&envelope, &event_id));
    if let Some(report) = Report::of(&envelope) {
        let identity = report.id.map_or_else(|| own.clone(), |id| format!("{own}:{}", escape_id(&id)));
        let case_key = report.case.map_or(event, |case| format!("khoros:{company}:{case}"));
        return vec![arrival(identity, case_key, envelope.to_string(), None)];
    }
    let items = match take_items(&mut envelope) {
        Ok(items) => items,
        Err(unprocessable) => return vec![arrival(own, event, envelope.to_string(), Some(unprocessable))],
    };
    let only = items.len() == 1;
    let mut envelope = Envelope::new(envelope, items.len());
    let mut arrivals = Vec::with_capacity(items.len());
    let mut seen: HashMap<String, String> = HashMap::new();
    for item in items {
        let unprocessable = why_unprocessable(&item);
        let (identity, case_key) = match text(&item["entityId"]) {
            Some(entity) => (
                format!("{own}:{}", escape_id(&entity)),
                format!("khoros:{company}:{}", case_entity(&entity)),
            ),
            // Without an id the event is its own case; with several of them, each item is.
            None if only => (own.clone(), event.clone()),
            None => {
                let hash = sha256(&item.to_string());
                (format!("{own}:{hash}"), format!("{event}:{hash}"))
            }
        };
        // The same post twice, and not with the same words: both are owed.
        let identity = match only {
            true => identity,
            false => {
                let hash = sha256(&item.to_string());
                match seen.entry(identity.clone()).or_insert_with(|| hash.clone()) {
                    first if *first != hash => format!("{identity}:{hash}"),
                    _ => identity,
                }
            }
        };
        arrivals.push(arrival(identity, case_key, envelope.with(item), unprocessable));
    }
    arrivals
}

/// What an item is stored in: the notification without its items.
struct Envelope {
    value: Value,
    items: usize,
    kept: Kept,
}

/// What an envelope still holds.
#[derive(Clone, Copy)]
enum Kept {
    All,
    Short,
    Nothing,
}

impl Envelope {
    /// Of what surrounds the items of one notification, so many bytes are stored at the most.
    const REPEATED_BYTES: usize = 8 << 20;

    fn new(value: Value, items: usize) -> Envelope {
        Envelope { value, items, kept: Kept::All }
    }

    /// The envelope with this item alone. One that is too large to be repeated for each item is
    /// whole around the first, and around the others there is what a ticket needs of it, if that is
    /// short enough.
    fn with(&mut self, item: Value) -> String {
        self.value["data"]["items"] = json!([item]);
        let payload = self.value.to_string();
        self.value["data"]["items"] = Value::Null;
        if self.items > 1 && payload.len() * self.items > Envelope::REPEATED_BYTES {
            (self.kept, self.value) = match self.kept {
                Kept::All => (Kept::Short, short_fields(&self.value)),
                Kept::Short | Kept::Nothing => (Kept::Nothing, json!({"data": {}})),
            };
        }
        payload
    }
}

/// What is read of an envelope, and what tells which one it was, as far as it is short.
fn short_fields(envelope: &Value) -> Value {
    let short = |value: &Value, names: &[&str]| -> Map<String, Value> {
        let fields = names.iter().filter_map(|name| Some(((*name).to_owned(), value.get(name)?.clone())));
        fields.filter(|(_, value)| value.to_string().len() <= 500).collect()
    };
    let mut kept = short(envelope, &["eventName", "eventUuid", "eventTimestamp", "companyId"]);
    kept.insert("data".to_owned(), Value::Object(short(&envelope["data"], &["labels", "ruleMatched"])));
    Value::Object(kept)
}

impl Item {
    /// Reads the one item of a stored payload.
    ///
    /// # Errors
    /// The reason why no ticket can be made of it.
    pub fn from_payload(payload: &str) -> Result<Item, Unprocessable> {
        if payload.is_empty() {
            return Err("its text was removed when it had been settled for longer than texts are kept");
        }
        let mut envelope = read(payload).ok_or(TOO_DEEP)?;
        if let Some(report) = Report::of(&envelope) {
            return Ok(Item::of_report(&envelope, report));
        }
        let items = take_items(&mut envelope)?;
        let item = items.first().ok_or(NO_ITEMS)?;
        why_unprocessable(item).map_or_else(|| Ok(Item::new(&envelope, item)), Err)
    }

    fn new(envelope: &Value, item: &Value) -> Item {
        let mut all_labels = labels(&envelope["data"]["labels"]);
        all_labels.extend(labels(&item["labels"]));
        let mut seen = std::collections::HashSet::new();
        all_labels.retain(|label| seen.insert(label.clone()));
        let event_name = text(&envelope["eventName"]);
        Item {
            event: event_name.as_deref().map_or(Event::Label, Event::named),
            event_id: text(&envelope["eventUuid"]),
            event_name,
            event_made: moment::read(&envelope["createdDate"]),
            report: None,
            rule: rule(&envelope["data"]["ruleMatched"]),
            entity_id: text(&item["entityId"]),
            text: text(&item["text"]),
            link: text(&item["link"]),
            author: Author {
                id: text(&item["authorId"]),
                name: text(&item["author"]),
                screen_name: text(&item["authorScreenName"]),
                link: text(&item["authorLink"]),
                followers: text(&item["followerCount"]),
            },
            created: text(&item["createdDate"]),
            in_reply_to: text(&item["inReplyTo"]),
            labels: all_labels,
            notes: notes(&item["notes"]),
            fields: item.clone(),
        }
    }

    fn of_report(envelope: &Value, report: Report) -> Item {
        let event = Event::of(envelope);
        let fields = event.body(envelope).cloned().unwrap_or_default();
        Item {
            event,
            event_id: text(&envelope["eventUuid"]),
            event_name: text(&envelope["eventName"]),
            event_made: moment::read(&envelope["createdDate"]),
            text: report.text.clone(),
            report: Some(report),
            labels: labels(&fields["labels"]),
            notes: notes(&fields["notes"]),
            fields,
            ..Item::default()
        }
    }

    /// Something has stopped working, and waits for somebody to mend it.
    pub fn is_urgent(&self) -> bool {
        self.report.is_some() && self.event == Event::Credential(CredentialChange::Deauthorised)
    }

    /// When it happened, in words that can be compared: `2018-03-14 00:31 UTC`.
    pub fn happened(&self) -> Option<&str> {
        let when = self.report.as_ref()?.when.as_deref()?;
        (when.len() == "2018-03-14 00:31 UTC".len() && when.ends_with(" UTC")).then_some(when)
    }

    /// Breaks or repairs an account: added to its ticket even if repeated events are ignored.
    pub fn is_status_change(&self) -> bool {
        self.is_urgent() || self.is_resolution()
    }

    /// Solves the ticket: an account works again.
    pub fn is_resolution(&self) -> bool {
        self.report.is_some() && self.event == Event::Credential(CredentialChange::Reauthorised)
    }

    /// How often it is added to its ticket when it brings no changes.
    pub fn repetition(&self) -> Repetition {
        match (&self.report, self.event) {
            (None, _) => Repetition::Never,
            (Some(_), Event::CrmError) => Repetition::Hourly,
            (Some(_), _) => Repetition::Always,
        }
    }

    /// The part of `entityId` before its *first* colon (a native id may hold more of them), or what
    /// the link's host tells; of what is no post, the network that it is about.
    pub fn network(&self) -> Option<&str> {
        if let Some(report) = &self.report {
            return report.network.as_deref();
        }
        let of_id = self.entity_id.as_deref().and_then(|id| id.split_once(':')).map(|(network, _)| network);
        let is_name = |name: &&str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.len() <= 40
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        };
        of_id.filter(is_name).or_else(|| self.link.as_deref().and_then(network_of_link))
    }
}

/// Why no ticket can be made of an item.
fn why_unprocessable(item: &Value) -> Option<Unprocessable> {
    match looks_like_item(item) {
        true => too_deep(item),
        false => Some("the item has no id, no text and no link"),
    }
}

/// An item may have come with less around it than it is stored in, and then be too deep to be read
/// again: serde_json holds 127 levels, and three are the envelope's.
fn too_deep(item: &Value) -> Option<Unprocessable> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    (depth(item) > 124).then_some(TOO_DEEP)
}

const TOO_DEEP: Unprocessable = "the notification nests too deeply to be read";
const NO_ITEMS: Unprocessable = "the event holds no items to make a ticket of";

/// Takes the items out of where they may be: `data.items` as published, an object in its place,
/// `items` beside `data`, the item or the list of them as `data`, or the item itself as the body.
/// What is left has an object as `data`.
fn take_items(envelope: &mut Value) -> Result<Vec<Value>, Unprocessable> {
    if !envelope.is_object() {
        return Err("the notification is not a JSON object");
    }
    let data = &envelope["data"];
    let found = if has_items(&data["items"]) {
        list(envelope["data"]["items"].take())
    } else if has_items(&envelope["items"]) {
        list(envelope["items"].take())
    } else if data.as_array().is_some_and(|items| !items.is_empty()) || looks_like_item(data) {
        list(envelope["data"].take())
    } else if data.is_null() && looks_like_item(envelope) {
        list(std::mem::replace(envelope, json!({})))
    } else if data["items"].is_null() || data["items"].is_array() {
        Ok(Vec::new())
    } else {
        Err("`items` is not a list")
    }?;
    if found.is_empty() {
        return Err(NO_ITEMS);
    }
    if !envelope["data"].is_object() {
        envelope["data"] = json!({});
    }
    Ok(found)
}

pub(crate) fn has_items(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => looks_like_item(value) || !map.is_empty() && map.values().all(Value::is_object),
        _ => false,
    }
}

fn list(found: Value) -> Result<Vec<Value>, Unprocessable> {
    match found {
        Value::Array(items) => Ok(items),
        Value::Object(map) if !looks_like_item(&Value::Object(map.clone())) => {
            Ok(map.into_values().collect())
        }
        item => Ok(vec![item]),
    }
}

fn looks_like_item(value: &Value) -> bool {
    ["entityId", "text", "link"].iter().any(|field| text(&value[field]).is_some())
}

/// `eventUuid`, or a hash of the envelope (serde_json sorts its keys), so that a redelivery is known.
fn event_id(envelope: &Value) -> String {
    text(&envelope["eventUuid"]).unwrap_or_else(|| sha256(&envelope.to_string()))
}

/// The event within an identity. Ours has a colon, and one of Khoros' has none: it ends at the next.
fn event_component(envelope: &Value, event_id: &str) -> String {
    match text(&envelope["eventUuid"]) {
        Some(id) => escape_id(&id).replace(':', "%3A"),
        None => event_id.to_owned(),
    }
}

/// An id of Khoros' as the last part of an identity: `@{route}` and `#{revision}` may follow.
fn escape_id(id: &str) -> String {
    id.replace('%', "%25").replace('@', "%40").replace('#', "%23")
}

/// `Twitter:1` and `twitter:1` are one post.
fn case_entity(entity: &str) -> String {
    match entity.split_once(':') {
        Some((network, id)) => format!("{}:{id}", network.to_ascii_lowercase()),
        None => entity.to_owned(),
    }
}

/// An id as it may travel in headers and index rows: visible ASCII of at most 200 bytes.
pub(crate) fn key(id: &str) -> String {
    match id.len() <= 200 && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => id.to_owned(),
        false => sha256(id),
    }
}

fn sha256(text: &str) -> String {
    format!("sha256:{:x}", Sha256::digest(text))
}

/// A string, or what could be meant as one; blank is nothing.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The members of a list that are read: more than any post has, and few enough to be compared with
/// each other. The payload holds them all.
const MEMBERS: usize = 500;

/// Published as a string, shown as an array, and elsewhere an array of objects.
fn labels(value: &Value) -> Vec<String> {
    match value {
        Value::Array(labels) => labels.iter().take(MEMBERS).flat_map(labels_of_one).collect(),
        other => labels_of_one(other).into_iter().collect(),
    }
}

fn labels_of_one(value: &Value) -> Option<String> {
    text(value).or_else(|| ["name", "title", "label"].iter().find_map(|field| text(&value[field])))
}

/// By its name, or else its id.
fn rule(value: &Value) -> Option<String> {
    ["ruleName", "name", "ruleId"].iter().find_map(|field| text(&value[field])).or_else(|| text(value))
}

fn notes(value: &Value) -> Vec<Note> {
    let one = |note: &Value| {
        Some(Note {
            author: text(&note["createdByDisplayName"]),
            created: text(&note["createdDate"]),
            text: text(&note["text"]).or_else(|| text(note))?,
        })
    };
    match value {
        Value::Array(notes) => notes.iter().filter_map(one).take(MEMBERS).collect(),
        other => one(other).into_iter().collect(),
    }
}

fn network_of_link(link: &str) -> Option<&'static str> {
    const HOSTS: &[(&str, &str)] = &[
        ("twitter.com", "twitter"),
        ("x.com", "twitter"),
        ("facebook.com", "facebook"),
        ("instagram.com", "instagram"),
        ("linkedin.com", "linkedin"),
        ("youtube.com", "youtube"),
        ("tiktok.com", "tiktok"),
    ];
    let url = url::Url::parse(link).ok()?;
    let host = url.host_str()?.trim_start_matches("www.").trim_start_matches("m.");
    HOSTS.iter().find_map(|(known, network)| (*known == host).then_some(*network))
}

/// Replaces `\ud83d` without its other half, which is valid JSON but no Unicode, by `\ufffd`.
fn without_lone_surrogates(json: &str) -> String {
    let unit = |at: usize| {
        let escape = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(escape, 16).ok()
    };
    let mut repaired = String::with_capacity(json.len());
    let mut at = 0;
    while let Some(found) = json[at..].find('\\') {
        let escape = at + found;
        repaired.push_str(&json[at..escape]);
        let high = unit(escape).is_some_and(|unit| (0xd800..0xdc00).contains(&unit));
        let low = unit(escape).is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
        let paired = high && unit(escape + 6).is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
        let length = if paired {
            12
        } else if high || low {
            6
        } else {
            2
        };
        let escaped = json.get(escape..escape + length).unwrap_or(&json[escape..]);
        repaired.push_str(if (high || low) && !paired { "\\ufffd" } else { escaped });
        at = escape + escaped.len();
    }
    repaired.push_str(&json[at..]);
    repaired
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWITTER: &str = include_str!("../tests/fixtures/stream-item-label-applied-twitter.json");
    const RULE: &str = include_str!("../tests/fixtures/rule-applied-twitter.json");

    fn parsed(json: &str) -> Vec<Arrival> {
        parse(json.as_bytes(), 7).unwrap_or_else(|_| panic!("not JSON: {json}"))
    }

    fn only(json: &str) -> Arrival {
        let mut arrivals = parsed(json);
        assert_eq!(arrivals.len(), 1, "{json}");
        arrivals.remove(0)
    }

    #[test]
    fn the_published_example_is_one_item() {
        let arrival = only(TWITTER);
        assert_eq!(arrival.identity, "khoros:7:67c53595-efc3-46aa-963b-89650bd4bd98:twitter:<twitterId>");
        assert_eq!(arrival.case_key, "khoros:7:twitter:<twitterId>");
        assert_eq!(arrival.event_name, "stream-item-label-applied");
        assert_eq!(arrival.unprocessable, None);

        let item = Item::from_payload(&arrival.payload).unwrap();
        assert_eq!(item.network(), Some("twitter"));
        assert_eq!(item.text.as_deref(), Some("Post Text"));
        assert_eq!(item.author.followers.as_deref(), Some("8424"));
        assert_eq!(item.in_reply_to.as_deref(), Some("twitter:855485181481934848"));
    }

    #[test]
    fn items_of_a_rule_can_be_tickets_too() {
        assert_eq!(only(RULE).unprocessable, None);
    }

    #[test]
    fn a_payload_is_a_notification_of_one_item() {
        let two = TWITTER.replace(r#""items": ["#, r#""items": [{"entityId": 12, "text": "another"},"#);
        let arrivals = parsed(&two);
        assert_eq!(arrivals.len(), 2);
        for arrival in &arrivals {
            assert_eq!(std::slice::from_ref(arrival), parsed(&arrival.payload));
        }
        assert_eq!(arrivals[0].case_key, "khoros:7:12");
    }

    #[test]
    fn odd_shapes_that_still_are_a_ticket() {
        for (json, case) in [
            (r#"{"eventUuid":"e","data":{"items":{"entityId":"t:1"}}}"#, "khoros:7:t:1"),
            (r#"{"eventUuid":"e","data":{"items":{"0":{"entityId":"t:1"}}}}"#, "khoros:7:t:1"),
            (r#"{"eventUuid":"e","data":{"entityId":"t:1","labels":null}}"#, "khoros:7:t:1"),
            (r#"{"eventUuid":"e","items":[{"entityId":"t:1"}]}"#, "khoros:7:t:1"),
            (r#"{"eventUuid":"e","items":[{"entityId":"t:1"}],"data":{"items":[]}}"#, "khoros:7:t:1"),
            (r#"{"eventUuid":"e","data":[{"entityId":"t:1"}]}"#, "khoros:7:t:1"),
            (r#"{"entityId":"t:1","eventUuid":"e"}"#, "khoros:7:t:1"),
            ("\u{feff}{\"eventUuid\":\"e\",\"data\":{\"items\":[{\"entityId\":\"t:1\"}]}}", "khoros:7:t:1"),
            (r#"[{"eventUuid":"e","data":{"items":[{"entityId":"t:1"}]}}]"#, "khoros:7:t:1"),
            (
                r#"{"eventUuid":5,"data":{"items":[{"entityId":123456789012345678901234567890}]}}"#,
                "khoros:7:123456789012345678901234567890",
            ),
            (r#"{"eventUuid":"e","data":{"labels":"A","items":[{"text":"no id"}]}}"#, "khoros:7:e"),
            (
                r#"{"eventUuid":"e","data":{"items":[{"entityId":"t:1","labels":[{"name":"A"}],"notes":null}]}}"#,
                "khoros:7:t:1",
            ),
        ] {
            let arrival = only(json);
            assert_eq!((arrival.unprocessable, arrival.case_key.as_str()), (None, case), "{json}");
            let again = only(&arrival.payload);
            assert_eq!(
                (again.case_key, again.unprocessable, again.payload),
                (arrival.case_key, None, arrival.payload),
                "{json}"
            );
        }
    }

    #[test]
    fn what_is_no_ticket_is_kept_with_a_reason() {
        for json in [
            "null",
            "[]",
            "5",
            "\"text\"",
            "{}",
            "[1,2]",
            r#"{"data":null}"#,
            r#"{"data":[]}"#,
            r#"{"data":{"items":[]}}"#,
            r#"{"data":{"items":"text"}}"#,
            r#"{"data":{"items":[null]}}"#,
            r#"{"data":{"items":[{}]}}"#,
            r#"{"eventName":"something-new","data":{"directoryCompanyId":1}}"#,
        ] {
            let arrival = only(json);
            assert!(arrival.unprocessable.is_some(), "{json}");
            assert!(Item::from_payload(&arrival.payload).is_err(), "{json}");
        }
    }

    #[test]
    fn what_is_no_post_has_the_case_that_it_is_about() {
        for (event, data, identity, case) in [
            ("message-published", json!({"id": 5}), "khoros:7:e:5", "khoros:7:message:5"),
            ("message-sent-to-network", json!({"id": "5"}), "khoros:7:e:5", "khoros:7:message:5"),
            ("message-published", json!({}), "khoros:7:e", "khoros:7:e"),
            (
                "credential-deauth",
                json!({"service": "instagram", "serviceId": "1"}),
                "khoros:7:e",
                "khoros:7:credential:instagram:1",
            ),
            ("credential-deauth", json!({"service": "instagram"}), "khoros:7:e", "khoros:7:e"),
            (
                "pass-conversation-control",
                json!({"passConversationControl": {"service": "Twitter",
                    "privateMessageConversationId": {"endUserAccountId": 1, "ownedAccountId": 2}}}),
                "khoros:7:e",
                "khoros:7:conversation:twitter:2:1",
            ),
            (
                "error-custom-crm",
                json!({"operation": "createCase", "externalCall": {"responseCode": 500}}),
                "khoros:7:e",
                "khoros:7:crm:createCase:500",
            ),
            ("vault-user-create", json!({"directoryCompanyId": 1}), "khoros:7:e", "khoros:7:e"),
        ] {
            let json = json!({"eventName": event, "eventUuid": "e", "data": data}).to_string();
            let arrival = only(&json);
            assert_eq!((arrival.identity.as_str(), arrival.case_key.as_str()), (identity, case));
            assert_eq!(only(&arrival.payload), arrival);
            let item = Item::from_payload(&arrival.payload).unwrap();
            assert_eq!((item.event_name.as_deref(), item.report.is_some()), (Some(event), true));
        }
        let without_id = only(r#"{"eventName":"vault-user-create","data":{"a":1}}"#);
        assert!(without_id.identity.starts_with("khoros:7:sha256:"), "{}", without_id.identity);
    }

    #[test]
    fn a_message_has_what_a_post_has_by_the_same_names() {
        let json = include_str!("../tests/fixtures/message-needs-approval-facebook.json");
        let item = Item::from_payload(&only(json).payload).unwrap();
        assert_eq!((item.network(), item.labels.len(), item.notes.len()), (Some("facebook"), 1, 1));
        assert_eq!((&item.fields["sfEntityType"], &item.entity_id), (&json!("Message"), &None));
    }

    #[test]
    fn only_what_is_not_json_is_refused() {
        for body in [&b""[..], b"{", b"<html>", b"{\"a\":1}x", b"{'a':1}"] {
            assert_eq!(parse(body, 7), Err(NotJson));
        }
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(only(&deep).unprocessable.is_some());
    }

    #[test]
    fn texts_cut_within_a_character_are_repaired() {
        let json = r#"{"eventUuid":"e","data":{"items":[{"entityId":"t:1",
            "text":"\ud83d cut \\ud83d \ude00 whole \ud83d\ude00 \" end \ud83d"}]}}"#;
        let item = Item::from_payload(&only(json).payload).unwrap();
        let expected = "\u{fffd} cut \\ud83d \u{fffd} whole \u{1f600} \" end \u{fffd}";
        assert_eq!(item.text.as_deref(), Some(expected));

        let bytes = b"{\"eventUuid\":\"e\",\"data\":{\"items\":[{\"text\":\"caf\xe9\"}]}}";
        let item = Item::from_payload(&parse(bytes, 7).unwrap()[0].payload).unwrap();
        assert_eq!(item.text.as_deref(), Some("caf\u{fffd}"));
    }

    #[test]
    fn ids_that_contain_separators_do_not_collide() {
        let identity = |event: &str, entity: &str| {
            let json = json!({"eventUuid": event, "data": {"items": [{"entityId": entity}]}});
            only(&json.to_string()).identity
        };
        // As they have always been.
        assert_eq!(identity("67c53595-efc3", "twitter:1:2"), "khoros:7:67c53595-efc3:twitter:1:2");
        // A route and a revision are appended to what is stored.
        for (one, other) in [
            (format!("{}@vip", identity("e", "t:9")), identity("e", "t:9@vip")),
            (format!("{}#1", identity("e", "t:1")), identity("e", "t:1#1")),
            (identity("e:t", "1"), identity("e", "t:1")),
            (identity("e", "t:1@"), identity("e", "t:1%40")),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn the_network_of_a_case_is_in_lower_case_and_its_id_is_not() {
        let case = |entity: &str| {
            only(&json!({"eventUuid": "e", "data": {"items": [{"entityId": entity}]}}).to_string()).case_key
        };
        for (entity, expected) in [
            ("Twitter:1", "khoros:7:twitter:1"),
            ("youTube:aB:C@d#1", "khoros:7:youtube:aB:C@d#1"),
            ("A9", "khoros:7:A9"),
        ] {
            assert_eq!(case(entity), expected);
        }
    }

    #[test]
    fn ids_fit_into_headers() {
        for id in ["a".repeat(300), "with space".to_owned(), "été".to_owned()] {
            let json = json!({"eventUuid": id, "eventName": id, "data": {"items": [{"entityId": id}]}});
            let arrival = only(&json.to_string());
            for key in [&arrival.identity, &arrival.case_key, &arrival.event_id, &arrival.event_name] {
                assert!(key.starts_with("sha256:") && key.len() == 71, "{key}");
            }
        }
    }

    #[test]
    fn a_redelivery_without_an_id_is_known() {
        let one = r#"{"eventName":"x","data":{"items":[{"text":"a"},{"text":"b"}]}}"#;
        let same = r#"{"data":{"items":[{"text":"a"},{"text":"b"}]},"eventName":"x"}"#;
        assert_eq!(parsed(one), parsed(same));
        assert_ne!(parsed(one)[0].case_key, parsed(one)[1].case_key);
    }

    #[test]
    fn many_items_do_not_multiply_what_surrounds_them() {
        let items: Vec<Value> = (0..10_000).map(|n| json!({"entityId": n})).collect();
        let surroundings = "x".repeat(1 << 20);
        let json =
            json!({"eventUuid": "e", "data": {"labels": ["L"], "other": surroundings, "items": items}});
        let arrivals = parsed(&json.to_string());
        assert_eq!(arrivals.len(), 10_000);
        assert!(arrivals[0].payload.contains(&surroundings), "nothing of it is lost");
        let stored: usize = arrivals.iter().map(|arrival| arrival.payload.len()).sum();
        assert!(stored < 4 << 20, "{stored} bytes");
        let last = Item::from_payload(&arrivals[9_999].payload).unwrap();
        assert_eq!((last.labels, last.entity_id.as_deref()), (vec!["L".to_owned()], Some("9999")));
    }

    #[test]
    fn nothing_that_surrounds_many_items_is_stored_without_bound() {
        let fields: Map<String, Value> =
            (0..200).map(|n| (format!("f{n}"), json!("x".repeat(900)))).collect();
        for surroundings in [
            json!({"data": "x".repeat(200_000)}),
            json!({"labels": "x".repeat(490)}),
            json!({"data": {"data": "x".repeat(200_000)}}),
            Value::Object(fields),
        ] {
            let mut data = surroundings.clone();
            data["items"] = (0..20_000).map(|n| json!({"text": n})).collect();
            let mut envelope = surroundings;
            envelope["data"] = data;
            let arrivals = parsed(&envelope.to_string());
            assert_eq!(arrivals.len(), 20_000);
            let stored: usize = arrivals.iter().map(|arrival| arrival.payload.len()).sum();
            assert!(stored < 16 << 20, "{stored} bytes");
            assert!(arrivals.iter().all(|arrival| Item::from_payload(&arrival.payload).is_ok()));
        }
    }

    #[test]
    fn a_post_that_comes_twice_with_other_words_is_owed_twice() {
        let item = |text: &str| json!({"entityId": "t:1", "text": text});
        let json = json!({"eventUuid": "e", "data": {"items": [item("one"), item("two"), item("one"), item("two")]}});
        let arrivals = parsed(&json.to_string());
        assert_eq!(arrivals, parsed(&json.to_string()), "and known again");
        let identities: HashMap<&str, &str> =
            arrivals.iter().map(|arrival| (arrival.identity.as_str(), arrival.payload.as_str())).collect();
        assert_eq!(identities.len(), 2);
        assert!(arrivals.iter().all(|arrival| arrival.case_key == arrivals[0].case_key));
    }

    #[test]
    fn secrets_of_an_error_event_are_redacted() {
        let arrival = only(include_str!("../tests/fixtures/error-custom-crm.json"));
        assert!(!arrival.payload.contains("not-to-be-stored"), "{}", arrival.payload);
        assert!(arrival.payload.contains("GET") && arrival.payload.contains("crm.example.com/cases"));
    }

    #[test]
    fn what_cannot_be_read_is_stored_without_its_secrets() {
        let deep = |inside: &str| format!("{{\"data\":{}{inside}{}}}", "[".repeat(200), "]".repeat(200));
        let payload = |body: String| parse(body.as_bytes(), 7).unwrap().remove(0).payload;
        assert!(!payload(deep(r#"{"requestHeaders":"s3cret"}"#)).contains("s3cret"));
        assert!(payload(deep("\"words\"")).contains("words"));
    }

    #[test]
    fn a_door_tells_what_an_event_does_not() {
        let bare = br#"{"service": "instagram", "serviceId": "1", "name": "will.i.am"}"#;
        let arrival = parse_as("credential-deauth", bare, 7).unwrap().remove(0);
        assert_eq!((arrival.event_name.as_str(), arrival.unprocessable), ("credential-deauth", None));
        assert!(Item::from_payload(&arrival.payload).unwrap().is_urgent());
        let named = parse_as("credential-deauth", br#"{"eventName": "rule-applied"}"#, 7).unwrap().remove(0);
        assert_eq!(named.event_name, "rule-applied");
    }

    #[test]
    fn labels_and_notes_in_every_form() {
        let json = r#"{"eventUuid":"e","data":{"labels":"One","items":[{"entityId":"t:1",
            "labels":["One","Two",null,{"title":"Three"}],
            "notes":[{"text":"call them","id":5,"createdByDisplayName":"Ann","createdDate":"today"},"plain",{}]}]}}"#;
        let item = Item::from_payload(&only(json).payload).unwrap();
        assert_eq!(item.labels, ["One", "Two", "Three"]);
        assert_eq!(item.notes.len(), 2);
        assert_eq!(item.notes[0].author.as_deref(), Some("Ann"));
    }
}
