//! What a ticket is like: `TICKET_*`.
//!
//! The variables have their names without the prefix here, so that another prefix can have a set of
//! its own.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde_json::{Number, Value};

use super::Check;
use super::parse::{self, Parsed};
use super::variables::RawTicket;
use crate::template::Template;

/// What the names of the variables begin with.
pub(super) const PREFIX: &str = "TICKET_";

/// What a ticket is like and what becomes of it: `TICKET_*`.
#[derive(Clone, Debug, Default)]
pub struct Ticket {
    pub requester: Requester,
    pub requester_later: RequesterLater,
    pub repeat: Repeat,
    /// `TICKET_PUBLIC`: the first comment is public.
    pub public: bool,
    pub priority: Priority,
    pub kind: Option<Kind>,
    pub status: Option<Status>,
    /// `TICKET_GROUP_ID`
    pub group_id: Option<u64>,
    /// `TICKET_ASSIGNEE_ID`
    pub assignee_id: Option<u64>,
    /// `TICKET_BRAND_ID`
    pub brand_id: Option<u64>,
    /// `TICKET_FORM_ID`
    pub form_id: Option<u64>,
    /// `TICKET_TAGS`, beside those that every ticket has.
    pub tags: Vec<String>,
    /// `TICKET_SUBJECT`
    pub subject: Option<Template>,
    /// `TICKET_COMMENT`, in the format that `TICKET_COMMENT_FORMAT` says.
    pub comment: Option<Template>,
    /// `TICKET_CUSTOM_FIELDS`, by their ids.
    pub custom_fields: Vec<CustomField>,
}

impl Ticket {
    /// Whether anything is set that a Zendesk account may not have, or may have no more.
    pub fn may_be_refused(&self) -> bool {
        let ids = [self.group_id, self.assignee_id, self.brand_id, self.form_id];
        let is_set = self.kind.is_some() || self.status.is_some() || self.priority != Priority::default();
        is_set || ids.iter().any(Option::is_some) || !self.custom_fields.is_empty()
    }
}

/// `TICKET_REQUESTER`: who asks for help, as Zendesk sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Requester {
    /// Who wrote the post.
    #[default]
    Author,
    /// The user of the credential.
    Service,
}

/// `TICKET_REQUESTER_LATER`: what becomes of a ticket that could not wait for its author to become a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequesterLater {
    /// The author becomes its requester as soon as there is a user.
    #[default]
    Set,
    /// It stays the service user's.
    Keep,
}

/// `TICKET_REPEAT`: what a later event about a post does to the ticket that the post has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
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

/// `TICKET_COMMENT_FORMAT`: what `TICKET_COMMENT` is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum CommentFormat {
    Text,
    Html,
}

/// `TICKET_PRIORITY`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Urgent,
    High,
    #[default]
    Normal,
    Low,
}

/// `TICKET_TYPE`
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Problem,
    Incident,
    Question,
    Task,
}

/// `TICKET_STATUS`; never closed, which cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    New,
    Open,
    Pending,
    Hold,
    Solved,
}

/// One of the fields that an account has added to its tickets.
#[derive(Clone, Debug)]
pub struct CustomField {
    pub id: u64,
    pub value: CustomValue,
}

/// What a custom field is filled with.
#[derive(Clone, Debug)]
pub enum CustomValue {
    Text(Template),
    Number(Number),
    Bool(bool),
    /// For a field that takes several.
    List(Vec<Template>),
}

/// The number of something that has to be there in Zendesk, and the variable that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub variable: String,
    pub to: ReferenceKind,
    pub id: u64,
}

/// What a variable can name by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    Group,
    Assignee,
    Brand,
    Form,
    Field,
}

/// On a ticket for which Zendesk has refused the configured fields; so it cannot be asked for.
pub const FALLBACK_TAG: &str = "casebridge_fallback";
/// On a ticket that could not wait for its author to become a user.
pub const NO_AUTHOR_TAG: &str = "casebridge_no_author";

const TAG_CHARS: usize = 80;
/// With ours beside them they fit into the 5,096 characters that Zendesk has for all.
const TAGS: usize = 20;

impl Check {
    /// The settings of one kind of ticket; `prefix` is what the names of its variables begin with, and
    /// what is not set is as in `base`.
    pub(super) fn ticket(&mut self, prefix: &str, raw: RawTicket, base: &Ticket) -> Ticket {
        let name = |end: &str| format!("{prefix}{end}");
        let public = self.or(&name("PUBLIC"), raw.public, base.public, parse::switch);
        if public && !base.public {
            self.warnings.push(format!(
                "{}: notes of Khoros' users are internal: they are left out of the first comment",
                name("PUBLIC")
            ));
        }
        let status = self.optional(&name("STATUS"), raw.status, status).or(base.status);
        let assignee_id = self.reference(name("ASSIGNEE_ID"), ReferenceKind::Assignee, raw.assignee_id);
        let assignee_id = assignee_id.or(base.assignee_id);
        if status == Some(Status::Solved) && assignee_id.is_none() && base.status != status {
            self.warnings.push(format!(
                "{} is solved, which Zendesk takes only of a ticket that has an assignee: set {} as well",
                name("STATUS"),
                name("ASSIGNEE_ID")
            ));
        }
        let format = self.optional(&name("COMMENT_FORMAT"), raw.comment_format, |text| {
            word::<CommentFormat>(text, "is neither text nor html")
        });
        Ticket {
            requester: self.or(&name("REQUESTER"), raw.requester, base.requester, |text| {
                word(text, "is neither author nor service")
            }),
            requester_later: self.or(
                &name("REQUESTER_LATER"),
                raw.requester_later,
                base.requester_later,
                requester_later,
            ),
            repeat: self.or(&name("REPEAT"), raw.repeat, base.repeat, |text| {
                word(text, "is none of new, comment and ignore")
            }),
            public,
            priority: self.or(&name("PRIORITY"), raw.priority, base.priority, |text| {
                word(text, "is none of urgent, high, normal and low")
            }),
            kind: self
                .optional(&name("TYPE"), raw.r#type, |text| {
                    word(text, "is none of problem, incident, question and task")
                })
                .or(base.kind),
            status,
            group_id: self.reference(name("GROUP_ID"), ReferenceKind::Group, raw.group_id).or(base.group_id),
            assignee_id,
            brand_id: self.reference(name("BRAND_ID"), ReferenceKind::Brand, raw.brand_id).or(base.brand_id),
            form_id: self.reference(name("FORM_ID"), ReferenceKind::Form, raw.form_id).or(base.form_id),
            tags: self.or(&name("TAGS"), raw.tags, base.tags.clone(), tags),
            subject: self.template(&name("SUBJECT"), raw.subject).or_else(|| base.subject.clone()),
            comment: self.comment(&name("COMMENT"), raw.comment, format, base.comment.as_ref()),
            custom_fields: match raw.custom_fields {
                Some(json) => self.custom_fields(&name("CUSTOM_FIELDS"), &json),
                None => base.custom_fields.clone(),
            },
        }
    }

    fn reference(&mut self, variable: String, to: ReferenceKind, value: Option<String>) -> Option<u64> {
        let id = self.optional(&variable, value, id)?;
        self.references.push(Reference { variable, to, id });
        Some(id)
    }

    fn template(&mut self, name: &str, text: Option<String>) -> Option<Template> {
        let template = Template::new(name, &text?);
        template.map_err(|problem| self.problems.push(format!("{name}: {problem}"))).ok()
    }

    /// A format alone is that of the comment in `base`.
    fn comment(
        &mut self,
        name: &str,
        text: Option<String>,
        format: Option<CommentFormat>,
        base: Option<&Template>,
    ) -> Option<Template> {
        let inherited = base.map(Template::is_html);
        let is_html = format.map_or(inherited == Some(true), |format| format == CommentFormat::Html);
        if text.is_none() && base.is_none() && format.is_some() {
            self.warnings
                .push(format!("{name}_FORMAT does nothing without {name}: the built-in comment is used"));
        }
        let text = match text {
            Some(text) => text,
            None if inherited.is_none_or(|inherited| inherited == is_html) => return base.cloned(),
            None => base?.source().to_owned(),
        };
        let template = if is_html { Template::html(name, &text) } else { Template::new(name, &text) };
        template.map_err(|problem| self.problems.push(format!("{name}: {problem}"))).ok()
    }

    fn custom_fields(&mut self, name: &str, json: &str) -> Vec<CustomField> {
        let Pairs(pairs) = match serde_json::from_str(json) {
            Ok(pairs) => pairs,
            Err(error) => {
                let place = format!("line {}, column {}", error.line(), error.column());
                self.problems.push(format!(
                    "{name} is not a JSON object of field ids and values, as in \
                     {{\"360001\": \"{{{{ item.link }}}}\"}} (see {place})"
                ));
                return Vec::new();
            }
        };
        let mut seen = HashSet::new();
        let mut fields = Vec::new();
        for (key, value) in pairs {
            match id(&key) {
                Err(_) => {
                    self.problems.push(format!("{name}: a key is not the number of a field: {}", cut(&key)))
                }
                Ok(id) if !seen.insert(id) => {
                    self.problems.push(format!("{name}: field {id} is there twice"))
                }
                Ok(id) => match custom_value(&format!("{name}: field {id}"), value) {
                    Ok(value) => fields.push(CustomField { id, value }),
                    Err(problem) => self.problems.push(format!("{name}: field {id}: {problem}")),
                },
            }
        }
        fields.sort_by_key(|field| field.id);
        self.references.extend(fields.iter().map(|field| Reference {
            variable: name.to_owned(),
            to: ReferenceKind::Field,
            id: field.id,
        }));
        fields
    }
}

fn custom_value(name: &str, value: Value) -> Result<CustomValue, String> {
    match value {
        Value::String(text) if text.is_empty() => {
            Err("an empty text is no value: leave the field out".to_owned())
        }
        Value::Array(values) if values.is_empty() => {
            Err("an empty list is no value: leave the field out".to_owned())
        }
        Value::String(text) => Template::new(name, &text).map(CustomValue::Text),
        Value::Number(number) => Ok(CustomValue::Number(number)),
        Value::Bool(bool) => Ok(CustomValue::Bool(bool)),
        Value::Array(values) => {
            let templates = values.iter().map(|value| match value {
                Value::String(text) => Template::new(name, text),
                _ => Err("a list can hold strings alone".to_owned()),
            });
            templates.collect::<Result<_, _>>().map(CustomValue::List)
        }
        Value::Null => Err("null is no value: leave the field out".to_owned()),
        Value::Object(_) => {
            Err("an object is no value: a string, a number, true, false or a list".to_owned())
        }
    }
}

fn word<T: DeserializeOwned>(text: &str, reason: &'static str) -> Parsed<T> {
    let word = text.to_ascii_lowercase();
    let deserializer: StrDeserializer<Error> = word.as_str().into_deserializer();
    T::deserialize(deserializer).map_err(|_| reason)
}

fn requester_later(text: &str) -> Parsed<RequesterLater> {
    let is_set = parse::switch(text)?;
    Ok(if is_set { RequesterLater::Set } else { RequesterLater::Keep })
}

fn status(text: &str) -> Parsed<Status> {
    if text.eq_ignore_ascii_case("closed") {
        return Err("cannot be closed: a closed ticket can never be changed again (solved can)");
    }
    word(text, "is none of new, open, pending, hold and solved")
}

fn id(text: &str) -> Parsed<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    // Zendesk's ids are signed numbers of 64 bits.
    let id = text.parse::<i64>().ok().filter(|_| is_number);
    id.and_then(|id| u64::try_from(id).ok()).ok_or("is not an id (digits, as in 360001234567)")
}

/// Zendesk keeps tags in lower case and takes a blank for the end of one.
fn tags(text: &str) -> Parsed<Vec<String>> {
    let tag = |tag: &str| {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.' | ':');
        match tag.chars().all(allowed) && tag.chars().count() <= TAG_CHARS {
            true => Ok(tag.to_owned()),
            false => {
                Err("is not a list of tags, as in social,vip (letters, digits and _-/.: without blanks, \
                          at most 80 characters each)")
            }
        }
    };
    let mut tags: Vec<String> = Vec::new();
    for part in text.to_lowercase().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let tag = tag(part)?;
        if tag == FALLBACK_TAG || tag == NO_AUTHOR_TAG {
            return Err("holds casebridge_fallback or casebridge_no_author, which only casebridge sets");
        }
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    match tags.len() <= TAGS {
        true => Ok(tags),
        false => Err("holds more than 20 tags"),
    }
}

fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(20).collect()
}

/// A JSON object as it is written: a map would keep one of two equal keys and say nothing.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}
