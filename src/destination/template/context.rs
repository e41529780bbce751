//! The values of the names in a template.

use std::collections::BTreeMap;
use std::fmt::{Formatter, Result as FmtResult};
use std::sync::Arc;

use jiff::tz::TimeZone;
use minijinja::value::{Object, Value};
use serde_json::Value as Json;

use super::bounds::{self, MEMBERS};
use crate::delivery::Cause;
use crate::destination::html;
use crate::item::{Item, Kind, Note, Report};
use crate::text::{is_blank, time};

/// The fields of an item that Khoros publishes, in its order.
const ITEM: &[&str] = &[
    "sfEntityType",
    "entityId",
    "text",
    "link",
    "author",
    "authorIcon",
    "authorId",
    "authorLink",
    "authorScreenName",
    "initiativeIds",
    "contentType",
    "createdDate",
    "followerCount",
    "labels",
    "notes",
    "inReplyTo",
    "repostedFrom",
    "parentPost",
];
const AUTHOR: &[&str] =
    &["id", "name", "screen_name", "handle", "display_name", "link", "network", "followers"];
const OTHERS: &[&str] = &[
    "text",
    "network",
    "labels",
    "notes",
    "more_notes",
    "rule",
    "report",
    "public",
    "event",
    "event_kind",
    "label",
    "route",
];
const TICKET: &[&str] = &["number", "url", "action"];
const EVENT: &[&str] = &["name", "time", "rule", "id"];
const CHANGES: &[&str] = &["text", "route", "notes"];
/// The bytes of HTML that [`super::Template`] leaves to the text of the item.
pub(super) const TEXT_BYTES_NAME: &str = "text_bytes";
/// The time zone of all times.
pub(super) const TIME_ZONE_NAME: &str = "time_zone";

/// The values of all names, for one item.
#[derive(Clone)]
pub struct Context {
    values: BTreeMap<&'static str, Value>,
    event: Arc<Event>,
}

/// A time zone as a value.
#[derive(Debug)]
pub(super) struct Zone(pub TimeZone);

impl Object for Zone {}

/// The event. Printed as a whole, it is its name.
#[derive(Debug)]
struct Event {
    name: String,
    fields: BTreeMap<String, Value>,
}

impl Object for Event {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.fields.get(key.as_str()?).cloned()
    }

    fn render(self: &Arc<Self>, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str(&self.name)
    }
}

/// The subject of a ticket or a comment.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub item: &'a Item,
    /// The label of the route.
    pub label: &'a str,
    pub route: &'a str,
    /// The author may read it.
    pub is_public: bool,
    /// The notes that it contains; none if it is public.
    pub notes: &'a [Note],
    /// The number of notes for which it has no room.
    pub more_notes: usize,
    pub time_zone: &'a TimeZone,
}

impl Context {
    pub fn new(subject: &Subject) -> Context {
        let Subject { item, label, route, is_public, notes, more_notes, time_zone } = *subject;
        let author = &item.author;
        let text = |text: &Option<String>| bounded(text.as_deref().unwrap_or_default());
        let author = map([
            ("id", text(&author.id)),
            ("name", text(&author.name)),
            ("screen_name", text(&author.screen_name)),
            ("handle", text(&handle(item))),
            ("display_name", text(&display_name(item))),
            ("link", text(&author.link)),
            ("network", Value::from(item.network().unwrap_or_default())),
            ("followers", author.followers.as_deref().map_or_else(|| Value::from(""), count)),
        ]);
        let kind = match item.kind {
            Kind::Label => "label",
            Kind::Rule => "rule",
            Kind::Other => "other",
        };
        let labels = labels(item, label).map(html::line).filter(|label| !label.is_empty());
        let made = item.event_made.map(|made| Value::from(made.to_string()));
        let name = item.event_name.as_deref().map(|name| bounds::start_of(name, bounds::TEXT_BYTES));
        let event = fields([
            ("name", text(&item.event_name)),
            ("time", made.unwrap_or_else(|| Value::from(""))),
            ("rule", text(&item.rule)),
            ("id", text(&item.event_id)),
        ]);
        let event = Arc::new(Event { name: name.unwrap_or_default().to_owned(), fields: event });
        let values = BTreeMap::from([
            ("item", map(ITEM.iter().map(|field| (*field, field_of(item, field, is_public))))),
            ("author", author),
            ("text", bounded(item.text.as_deref().filter(|text| !is_blank(text)).unwrap_or_default())),
            ("network", Value::from(item.network_name().unwrap_or_default())),
            ("labels", labels.take(MEMBERS).collect()),
            ("notes", notes.iter().map(note).collect()),
            ("more_notes", Value::from(more_notes)),
            ("rule", text(&item.rule)),
            ("report", item.report.as_ref().map_or_else(|| Value::from(()), |it| report(it, time_zone))),
            ("public", Value::from(is_public)),
            ("event", text(&item.event_name)),
            ("event_kind", Value::from(kind)),
            ("label", Value::from(label)),
            ("route", Value::from(route)),
            ("ticket", ticket(&Cause::default())),
            ("changes", changes(false, false, &[])),
            (TEXT_BYTES_NAME, Value::from(usize::MAX)),
            (TIME_ZONE_NAME, Value::from_object(Zone(time_zone.clone()))),
        ]);
        Context { values, event }
    }

    /// Adds the changes of the event: whether its text is new, whether its route is, and its new notes.
    #[must_use]
    pub fn with_changes(mut self, text: bool, route: bool, notes: &[Note]) -> Context {
        self.values.insert("changes", changes(text, route, notes));
        self
    }

    /// Adds the preceding ticket: its number, address and action.
    #[must_use]
    pub fn with_cause(mut self, cause: &Cause) -> Context {
        self.values.insert("ticket", ticket(cause));
        self
    }

    /// Limits the text of the item to this many bytes of HTML.
    #[must_use]
    pub(super) fn with_text_bytes(mut self, bytes: usize) -> Context {
        self.values.insert(TEXT_BYTES_NAME, Value::from(bytes));
        self
    }

    /// The values for a template. `with_event_fields`: it uses a field of the event. Otherwise `event` is its name, a
    /// text that can be compared with another.
    pub(super) fn value(&self, with_event_fields: bool) -> Value {
        let mut values = fields(self.values.iter().map(|(name, value)| (*name, value.clone())));
        if with_event_fields {
            values.insert("event".to_owned(), Value::from_dyn_object(self.event.clone()));
        }
        Value::from(values)
    }
}

/// Every name that a template can use.
pub fn template_names() -> Vec<String> {
    let item = ITEM.iter().map(|field| format!("item.{field}"));
    let author = AUTHOR.iter().map(|field| format!("author.{field}"));
    let ticket = TICKET.iter().map(|field| format!("ticket.{field}"));
    let event = EVENT.iter().map(|field| format!("event.{field}"));
    let changes = CHANGES.iter().map(|field| format!("changes.{field}"));
    let others = OTHERS.iter().map(|name| (*name).to_owned());
    item.chain(author).chain(ticket).chain(event).chain(changes).chain(others).collect()
}

/// Whether a template may use a name. Of `item.notes.0.text`, only the first two parts are known.
pub(super) fn is_known(name: &str) -> bool {
    let mut parts = name.split('.');
    match (parts.next(), parts.next()) {
        (Some("item"), Some(field)) => ITEM.contains(&field),
        (Some("author"), Some(field)) => AUTHOR.contains(&field),
        (Some("ticket"), Some(field)) => TICKET.contains(&field),
        (Some("event"), Some(field)) => EVENT.contains(&field),
        (Some("changes"), Some(field)) => CHANGES.contains(&field),
        (Some("item" | "author" | "ticket" | "changes"), None) => true,
        (Some(name), _) => OTHERS.contains(&name),
        (None, _) => false,
    }
}

/// `@jane`
pub fn handle(item: &Item) -> Option<String> {
    let bare = visible_line(item.author.screen_name.as_deref())?.trim_start_matches('@').to_owned();
    (!bare.is_empty()).then(|| format!("@{bare}"))
}

/// The author's name, on one line.
pub fn author_name(item: &Item) -> Option<String> {
    visible_line(item.author.name.as_deref())
}

/// `Jane Doe (@jane)`, or the one that is known.
fn display_name(item: &Item) -> Option<String> {
    match (author_name(item), handle(item)) {
        (Some(name), Some(handle)) => Some(format!("{name} ({handle})")),
        (name, handle) => name.or(handle),
    }
}

/// A text on one line; `None` if nothing of it can be seen.
pub fn visible_line(text: Option<&str>) -> Option<String> {
    text.map(html::line).filter(|text| !text.is_empty())
}

/// The label that the event is about, if it is about one, and the others.
pub fn labels<'a>(item: &'a Item, label: &'a str) -> impl Iterator<Item = &'a str> {
    let applied = Some(label).filter(|label| item.kind == Kind::Label && !label.is_empty());
    let others = item.labels.iter().map(String::as_str).filter(move |other| Some(*other) != applied);
    applied.into_iter().chain(others)
}

fn changes(text: bool, route: bool, notes: &[Note]) -> Value {
    map([
        ("text", Value::from(text)),
        ("route", Value::from(route)),
        ("notes", notes.iter().take(MEMBERS).map(note).collect()),
    ])
}

/// Empty without a ticket.
fn ticket(cause: &Cause) -> Value {
    map([
        ("number", bounded(&cause.number)),
        ("url", bounded(&cause.url)),
        ("action", bounded(&cause.action)),
    ])
}

fn report(report: &Report, time_zone: &TimeZone) -> Value {
    let optional = |text: Option<&str>| Value::from(text.unwrap_or_default());
    let lines = report.lines.iter().map(|(name, value)| {
        let value = own_time(&html::line(value), time_zone);
        Value::from_iter([Value::from(html::line(name)), Value::from(value)])
    });
    map([
        ("place", bounded(&report.place)),
        ("kind", Value::from(report.kind.as_str())),
        ("subject", bounded(&report.subject)),
        ("headline", bounded(&report.headline)),
        ("opening", bounded(&report.opening)),
        ("meaning", optional(report.meaning)),
        ("when", bounded(&own_time(report.when.as_deref().unwrap_or_default(), time_zone))),
        ("lines", lines.collect()),
        ("advice", optional(report.advice)),
    ])
}

/// Converts a time that the source has written. Any other text stays as it is, even if it is a date.
fn own_time(text: &str, time_zone: &TimeZone) -> String {
    if text.ends_with(" UTC") { time(text, time_zone, "") } else { text.to_owned() }
}

/// The field as it came, except for fields that Khoros sends in several forms: they have one form here.
fn field_of(item: &Item, field: &str, is_public: bool) -> Value {
    match field {
        "labels" => item.labels.iter().take(MEMBERS).map(|label| bounded(label)).collect(),
        // Notes are internal, whatever a template of a public comment asks for.
        "notes" if is_public => Value::from_iter::<[Value; 0]>([]),
        "notes" => item.notes.iter().take(MEMBERS).map(note).collect(),
        "initiativeIds" => match &item.fields[field] {
            Json::Array(ids) => ids.iter().take(MEMBERS).map(value).collect(),
            Json::Null => Value::from_iter::<[Value; 0]>([]),
            id => Value::from_iter([value(id)]),
        },
        "followerCount" => item.author.followers.as_deref().map_or_else(|| Value::from(""), count),
        field => value(&item.fields[field]),
    }
}

/// Khoros sends counts as strings, and strings compare greater than numbers.
fn count(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| bounded(text), Value::from)
}

fn note(note: &Note) -> Value {
    map([
        ("text", bounded(&note.text)),
        ("createdByDisplayName", bounded(note.author.as_deref().unwrap_or_default())),
        ("createdDate", bounded(note.created.as_deref().unwrap_or_default())),
    ])
}

fn bounded(text: &str) -> Value {
    Value::from(bounds::start_of(text, bounds::TEXT_BYTES))
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(""),
        Json::Bool(bool) => Value::from(*bool),
        Json::String(text) => bounded(text),
        Json::Array(values) => values.iter().take(MEMBERS).map(value).collect(),
        Json::Object(fields) => {
            map(fields.iter().take(MEMBERS).map(|(name, json)| (name.as_str(), value(json))))
        }
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            // An id of thirty digits must not become a fraction: its digits stay as they came.
            (None, None) => Value::from(number.to_string()),
        },
    }
}

fn map<'a>(values: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::from(fields(values))
}

fn fields<'a>(values: impl IntoIterator<Item = (&'a str, Value)>) -> BTreeMap<String, Value> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
