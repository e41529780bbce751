//! The settings of tickets: `TICKET_*`, and `ROUTE_<NAME>_TICKET_*` for one route.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::destination::template::Template;
use crate::env::doc::{Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::{Reader, Setting, variables};
use crate::item::Priority;

/// The first part of the variables' names.
pub const TICKET_PREFIX: &str = "TICKET_";

variables! {
    /// The variables of a ticket.
    TicketVariables:
    /// The requester of the ticket. `author`: the author of the post. `service`: the service user, in whose name casebridge
    /// works in Zendesk.
    requester = default("author");
    /// A ticket that cannot wait for its author's Zendesk user has the service user as requester and the tag
    /// `casebridge_no_author`. `1`: casebridge makes the author the requester later and removes the tag. `0`: both
    /// stay.
    requester_later = default("1");
    /// What a later event about a post does to its ticket. `new`: it adds a comment if something is new. `comment`: it
    /// always adds a comment. `ignore`: nothing.
    repeat = default("new");
    /// Maximum number of new tickets of a route in any hour, up to 10,000; `0`: no limit. Further tickets wait until the
    /// limit allows them. Comments are not limited.
    ///
    /// See [Too many tickets at once](behaviour.md#too-many-tickets-at-once).
    max_per_hour = default("300");
    /// `1` makes the first comment public, and leaves out the notes of Khoros' users.
    ///
    /// See [Settings](tickets.md#settings).
    public = default("0");
    /// `urgent`, `high`, `normal` or `low`.
    priority = default("normal");
    /// `problem`, `incident`, `question` or `task`.
    r#type = unset();
    /// `new`, `open`, `pending`, `hold` or `solved`.
    status = unset();
    /// The number of the group that gets the tickets.
    group_id = unset().app();
    /// The number of the agent who gets the tickets.
    assignee_id = unset();
    /// The number of the brand.
    brand_id = unset();
    /// The number of the ticket form.
    form_id = unset();
    /// Tags in addition to casebridge's own, separated by commas.
    ///
    /// Up to 20 tags of 80 characters: letters, digits and `_-/.:`.
    tags = unset().example("social,vip").app();
    /// The [template](tickets.md#templates) of the subject.
    subject = unset().note("built in").example("'[{{ author.network }}] {{ item.text }}'");
    /// The [template](tickets.md#templates) of the first comment.
    comment = unset().note("built in");
    /// The [template](tickets.md#templates) of an internal comment about a later event.
    update = unset().note("built in");
    /// The format of `TICKET_COMMENT` and `TICKET_UPDATE`. `text`: shown as written. `html`: markup, in which casebridge
    /// escapes the values.
    comment_format = default("text");
    /// The time zone of the times in a ticket: a name of the IANA database, as in `Europe/Berlin`.
    time_zone = default("UTC");
    /// A JSON object: the numbers of ticket fields, and their values or the [templates](tickets.md#templates) of them.
    custom_fields = unset().example(r#"'{"360001": "{{ item.link }}", "360002": true}'"#);
}

pub const SECTION: Section = Section {
    title: "Tickets",
    intro: "See [Tickets](tickets.md), and try these settings with `casebridge render`.",
    groups: &[Group::per_route(TICKET_PREFIX, TicketVariables::DOCS)],
    prefixes: &[TICKET_PREFIX],
};

/// The settings of a ticket: `TICKET_*`.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub requester: Requester,
    pub requester_later: RequesterLater,
    pub repeat: Repeat,
    /// `TICKET_MAX_PER_HOUR`: the most tickets that a route makes in any hour; 0: no limit.
    pub max_per_hour: u32,
    /// `TICKET_PUBLIC`: the first comment is public.
    pub public: bool,
    /// `TICKET_PRIORITY`
    pub priority: Priority,
    pub kind: Option<TicketType>,
    pub status: Option<TicketStatus>,
    /// `TICKET_GROUP_ID`
    pub group_id: Option<u64>,
    /// `TICKET_ASSIGNEE_ID`
    pub assignee_id: Option<u64>,
    /// `TICKET_BRAND_ID`
    pub brand_id: Option<u64>,
    /// `TICKET_FORM_ID`
    pub form_id: Option<u64>,
    /// `TICKET_TAGS`, in addition to those that every ticket has.
    pub tags: Vec<String>,
    /// `TICKET_SUBJECT`
    pub subject: Option<Template>,
    /// `TICKET_COMMENT`, in the format that `TICKET_COMMENT_FORMAT` says.
    pub comment: Option<Template>,
    /// `TICKET_UPDATE`, in the same format.
    pub update: Option<Template>,
    pub time_zone: TimeZone,
    /// `TICKET_CUSTOM_FIELDS`, by their ids.
    pub custom_fields: Vec<CustomField>,
}

impl Default for Ticket {
    fn default() -> Ticket {
        Ticket {
            requester: Requester::default(),
            requester_later: RequesterLater::default(),
            repeat: Repeat::default(),
            public: false,
            priority: Priority::default(),
            kind: None,
            status: None,
            group_id: None,
            assignee_id: None,
            brand_id: None,
            form_id: None,
            tags: Vec::new(),
            subject: None,
            comment: None,
            update: None,
            time_zone: TimeZone::UTC,
            max_per_hour: 300,
            custom_fields: Vec::new(),
        }
    }
}

impl Ticket {
    /// Whether anything is set that a Zendesk account may lack, or may have deleted.
    pub fn may_be_refused(&self) -> bool {
        let ids = [self.group_id, self.assignee_id, self.brand_id, self.form_id];
        let is_set = self.kind.is_some() || self.status.is_some() || self.priority != Priority::default();
        is_set || ids.iter().any(Option::is_some) || !self.custom_fields.is_empty()
    }
}

/// `TICKET_REQUESTER`: which user becomes the requester of the ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Requester {
    /// The author of the post.
    #[default]
    Author,
    /// The user of the credential.
    Service,
}

/// `TICKET_REQUESTER_LATER`: what happens to a ticket that was created before its author was a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequesterLater {
    /// The author becomes its requester as soon as there is a user.
    #[default]
    Set,
    /// The requester stays the service user.
    Keep,
}

/// `TICKET_REPEAT`: what a later event about a post does to the post's ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repeat {
    /// A comment for new notes, a changed text or another route; a solved ticket is reopened.
    #[default]
    New,
    /// A comment for every event.
    Comment,
    /// Nothing.
    Ignore,
}

/// `TICKET_COMMENT_FORMAT`: the format of `TICKET_COMMENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CommentFormat {
    Text,
    Html,
}

/// `TICKET_TYPE`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TicketType {
    Problem,
    Incident,
    Question,
    Task,
}

/// `TICKET_STATUS`; never closed, since a closed ticket can never be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TicketStatus {
    New,
    Open,
    Pending,
    Hold,
    Solved,
}

/// A field that an account has added to its tickets.
#[derive(Clone, Debug)]
pub struct CustomField {
    pub id: u64,
    pub value: CustomValue,
}

/// The value of a custom field.
#[derive(Clone, Debug)]
pub enum CustomValue {
    Text(Template),
    Number(Number),
    Bool(bool),
    /// For a field that takes several values.
    List(Vec<Template>),
}

/// The id of something that has to exist in Zendesk, and the variable that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub variable: String,
    pub to: ReferenceKind,
    pub id: u64,
}

/// What an id in a variable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    Group,
    Assignee,
    Brand,
    Form,
    Field,
}

/// The tag of tickets for which Zendesk refused the configured fields. `TICKET_TAGS` must not contain it.
pub const FALLBACK_TAG: &str = "casebridge_fallback";
/// The tag of tickets that were created before their author was a user. `TICKET_TAGS` must not contain it.
pub const NO_AUTHOR_TAG: &str = "casebridge_no_author";

const TAG_CHARS: usize = 80;
/// Together with our own tags they fit into Zendesk's limit of 5,096 characters.
const TAGS: usize = 20;

/// Reads the settings of one kind of ticket from the variables with this prefix; missing ones are as in
/// `base`.
pub fn read(reader: &mut Reader, prefix: &str, base: &Ticket, references: &mut Vec<Reference>) -> Ticket {
    let variables = TicketVariables::read(reader, prefix);
    let public = reader.or(variables.public(), base.public, parse::switch);
    if public && !base.public {
        reader.warnings.push(format!(
            "{}: notes of Khoros' users are internal: they are left out of the first comment",
            variables.public().name
        ));
    }
    let status = reader.optional(variables.status(), status).or(base.status);
    let assignee_id = reference(reader, references, variables.assignee_id(), ReferenceKind::Assignee);
    let assignee_id = assignee_id.or(base.assignee_id);
    if status == Some(TicketStatus::Solved) && assignee_id.is_none() && base.status != status {
        reader.warnings.push(format!(
            "{} is solved, which Zendesk accepts only for a ticket with an assignee: set {} as well",
            variables.status().name,
            variables.assignee_id().name
        ));
    }
    let format = comment_format(reader, &variables, base);
    Ticket {
        requester: reader.or(variables.requester(), base.requester, |text| {
            parse::variant(text, "is neither author nor service")
        }),
        requester_later: reader.or(variables.requester_later(), base.requester_later, requester_later),
        repeat: reader.or(variables.repeat(), base.repeat, |text| {
            parse::variant(text, "is not one of new, comment and ignore")
        }),
        max_per_hour: reader.or(variables.max_per_hour(), base.max_per_hour, parse::number(0..=10_000)),
        public,
        priority: reader.or(variables.priority(), base.priority, priority),
        kind: reader.or(variables.r#type(), base.kind, |text| {
            parse::variant(text, "is not one of problem, incident, question and task").map(Some)
        }),
        status,
        group_id: reference(reader, references, variables.group_id(), ReferenceKind::Group).or(base.group_id),
        assignee_id,
        brand_id: reference(reader, references, variables.brand_id(), ReferenceKind::Brand).or(base.brand_id),
        form_id: reference(reader, references, variables.form_id(), ReferenceKind::Form).or(base.form_id),
        tags: reader.or(variables.tags(), base.tags.clone(), tags),
        subject: subject(reader, variables.subject()).or_else(|| base.subject.clone()),
        comment: comment(reader, variables.comment(), format, base.comment.as_ref()),
        update: comment(reader, variables.update(), format, base.update.as_ref()),
        time_zone: reader.or(variables.time_zone(), base.time_zone.clone(), time_zone),
        custom_fields: custom_fields(reader, references, variables.custom_fields(), &base.custom_fields),
    }
}

fn reference(
    reader: &mut Reader,
    references: &mut Vec<Reference>,
    setting: Setting,
    to: ReferenceKind,
) -> Option<u64> {
    let variable = setting.name.clone();
    let id = reader.optional(setting, id)?;
    references.push(Reference { variable, to, id });
    Some(id)
}

fn subject(reader: &mut Reader, setting: Setting) -> Option<Template> {
    let name = setting.name.clone();
    checked(reader, &name, Template::new(&name, setting.value?))
}

fn checked(reader: &mut Reader, name: &str, template: Result<Template, String>) -> Option<Template> {
    template.map_err(|problem| reader.problems.push(format!("{name}: {problem}"))).ok()
}

/// Reads the format of the comments.
fn comment_format(reader: &mut Reader, variables: &TicketVariables, base: &Ticket) -> Option<CommentFormat> {
    let format =
        reader.optional(variables.comment_format(), |text| parse::variant(text, "is neither text nor html"));
    let is_used = base.comment.is_some()
        || base.update.is_some()
        || variables.comment().value.is_some()
        || variables.update().value.is_some();
    if format.is_some() && !is_used {
        let (format, comment) = (variables.comment_format().name, variables.comment().name);
        let update = variables.update().name;
        reader.warnings.push(format!(
            "{format} has no effect without {comment} or {update}: set one of them, or remove {format}"
        ));
    }
    format
}

/// Reads the template of a comment. If only a format is set, it is the format of the template in `base`.
fn comment(
    reader: &mut Reader,
    Setting { name, value }: Setting,
    format: Option<CommentFormat>,
    base: Option<&Template>,
) -> Option<Template> {
    let inherited = base.map(Template::is_html);
    let is_html = format.map_or(inherited == Some(true), |format| format == CommentFormat::Html);
    let text = match value {
        Some(text) => text,
        None if inherited.is_none_or(|inherited| inherited == is_html) => return base.cloned(),
        None => base?.source(),
    };
    let template = if is_html { Template::html(&name, text) } else { Template::new(&name, text) };
    checked(reader, &name, template)
}

fn custom_fields(
    reader: &mut Reader,
    references: &mut Vec<Reference>,
    setting: Setting,
    base: &[CustomField],
) -> Vec<CustomField> {
    if setting.value.is_none() {
        return base.to_owned();
    }
    let name = setting.name.clone();
    let values: Option<BTreeMap<String, Value>> = reader.optional(setting, |json| {
        serde_json::from_str(json).map_err(|error| {
            format!(
                "is not a JSON object of field ids and values, as in \
                 {{\"360001\": \"{{{{ item.link }}}}\"}} (see line {}, column {})",
                error.line(),
                error.column()
            )
        })
    });
    let mut fields = Vec::new();
    for (key, value) in values.into_iter().flatten() {
        let Ok(id) = id(&key) else {
            reader.problems.push(format!("{name}: a key is not the number of a field: {}", cut(&key)));
            continue;
        };
        match custom_value(&format!("{name}: field {id}"), value) {
            Ok(value) => fields.push(CustomField { id, value }),
            Err(problem) => reader.problems.push(format!("{name}: field {id}: {problem}")),
        }
    }
    fields.sort_by_key(|field| field.id);
    let field = |id| Reference { variable: name.clone(), to: ReferenceKind::Field, id };
    references.extend(fields.iter().map(|CustomField { id, .. }| field(*id)));
    fields
}

fn custom_value(name: &str, value: Value) -> Result<CustomValue, String> {
    match value {
        Value::String(text) if !text.is_empty() => Template::new(name, &text).map(CustomValue::Text),
        Value::Number(number) => Ok(CustomValue::Number(number)),
        Value::Bool(bool) => Ok(CustomValue::Bool(bool)),
        Value::Array(values) if !values.is_empty() => {
            let templates = values.iter().map(|value| match value {
                Value::String(text) => Template::new(name, text),
                _ => Err("a list can only hold strings".to_owned()),
            });
            templates.collect::<Result<_, _>>().map(CustomValue::List)
        }
        Value::Null | Value::Object(_) | Value::String(_) | Value::Array(_) => Err(
            "its value must be a string, a number, true, false or a list of strings, and not empty: to set no \
             value, leave the field out"
                .to_owned(),
        ),
    }
}

/// Parses `TICKET_PRIORITY`.
pub fn priority(text: &str) -> Parsed<Priority> {
    parse::variant(text, "is not one of urgent, high, normal and low")
}

fn requester_later(text: &str) -> Parsed<RequesterLater> {
    let is_set = parse::switch(text)?;
    Ok(if is_set { RequesterLater::Set } else { RequesterLater::Keep })
}

fn time_zone(text: &str) -> Parsed<TimeZone> {
    TimeZone::get(text).map_err(|_| "is not the name of a time zone, as in Europe/Berlin or America/New_York")
}

fn status(text: &str) -> Parsed<TicketStatus> {
    if text.eq_ignore_ascii_case("closed") {
        return Err("cannot be closed: a closed ticket can never be changed again (solved can)");
    }
    parse::variant(text, "is not one of new, open, pending, hold and solved")
}

fn id(text: &str) -> Parsed<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    // Zendesk's ids are signed numbers of 64 bits.
    let id = text.parse::<i64>().ok().filter(|_| is_number);
    id.and_then(|id| u64::try_from(id).ok()).ok_or("is not an id (digits, as in 360001234567)")
}

/// Parses tags. Zendesk stores them in lower case and splits them at spaces.
fn tags(text: &str) -> Parsed<Vec<String>> {
    let tag = |tag: &str| {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.' | ':');
        match tag.chars().all(allowed) && tag.chars().count() <= TAG_CHARS {
            true => Ok(tag.to_owned()),
            false => {
                Err("is not a list of tags, as in social,vip (letters, digits and _-/.: without spaces, \
                          at most 80 characters each)")
            }
        }
    };
    let mut tags: Vec<String> = Vec::new();
    for part in text.to_lowercase().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let tag = tag(part)?;
        if tag == FALLBACK_TAG || tag == NO_AUTHOR_TAG {
            return Err("contains casebridge_fallback or casebridge_no_author, which only casebridge sets");
        }
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    match tags.len() <= TAGS {
        true => Ok(tags),
        false => Err("contains more than 20 tags"),
    }
}

fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(20).collect()
}
