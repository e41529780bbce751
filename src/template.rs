//! Templates of what a ticket says, in Jinja's language. No I/O, no clock: the same item gives the
//! same bytes.
//!
//! What can be wrong with a template is found when it is made: its syntax, a name that there is not,
//! and, by a trial on an item with everything and on one with nothing, a filter or a function that
//! there is not. Fields that an item lacks are empty, so that they need no care.

mod bounds;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value as Json;

use bounds::MEMBERS;

use crate::html::{self, Html};
use crate::notification::{Item, Note};
use crate::text::clean;

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
const AUTHOR: &[&str] = &["id", "name", "screen_name", "link", "network", "followers"];
const OTHERS: &[&str] = &["event", "label", "route"];

/// So many steps a template may take: enough for thousands of notes, and over in some milliseconds.
const STEPS: u64 = 500_000;
/// Longer than anybody writes, and short enough to be read without care for how deep it nests.
const TEMPLATE_BYTES: usize = 16 << 10;
/// What comes after is not even made.
const OUTPUT_BYTES: usize = bounds::TEXT_BYTES;
/// More followers than anybody has: a template that uses the number as a length fails its trial.
const MANY_FOLLOWERS: &str = "2000000000";
/// A problem may repeat a word of the template, and not all of it.
const DETAIL_CHARS: usize = 120;

/// An item with every field, to try a template on.
const SAMPLE: &str = r#"{"eventName": "stream-item-label-applied", "data": {"labels": ["Label"], "items": [{
    "sfEntityType": "StreamItem", "entityId": "twitter:1", "text": "Text", "link": "https://example.com/1",
    "author": "Jane", "authorIcon": "https://example.com/icon", "authorId": "2",
    "authorLink": "https://example.com/jane", "authorScreenName": "jane", "initiativeIds": [5],
    "contentType": "post", "createdDate": "2011-05-26T18:23:31.000Z", "followerCount": "8424",
    "labels": ["Other"], "notes": [{"text": "Note", "createdByDisplayName": "Ann", "createdDate": "2011"}],
    "inReplyTo": "twitter:3", "repostedFrom": "twitter:4", "parentPost": "twitter:5"}]}}"#;

/// A template that was found to be right.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    source: String,
    format: Format,
    /// Holds this one template, under no name.
    environment: Arc<Environment<'static>>,
}

/// What a template is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    /// The values are escaped, and none can be declared to be markup.
    Html,
}

/// What the names in a template stand for.
pub struct Context(Value);

impl Context {
    /// `item`, `author`, `event`, `label` and `route`.
    pub fn new(item: &Item, label: &str, route: &str) -> Context {
        let author = &item.author;
        let text = |text: &Option<String>| bounded(text.as_deref().unwrap_or_default());
        let author = [
            ("id", text(&author.id)),
            ("name", text(&author.name)),
            ("screen_name", text(&author.screen_name)),
            ("link", text(&author.link)),
            ("network", Value::from(item.network().unwrap_or_default())),
            ("followers", author.followers.as_deref().map_or_else(|| Value::from(""), count)),
        ];
        Context(map([
            ("item", map(ITEM.iter().map(|field| (*field, field_of(item, field))))),
            ("author", map(author)),
            ("event", text(&item.event_name)),
            ("label", Value::from(label)),
            ("route", Value::from(route)),
        ]))
    }
}

impl Template {
    /// Checks a template; `name` is how people know it, which is by its variable.
    ///
    /// # Errors
    /// What is wrong with it, with a word of it at the most.
    pub fn new(name: &str, text: &str) -> Result<Template, String> {
        Template::of(Format::Text, name, text)
    }

    /// The same of a template that is HTML: its values are escaped and keep their line breaks.
    ///
    /// # Errors
    /// As above.
    pub fn html(name: &str, text: &str) -> Result<Template, String> {
        if text.contains("autoescape") {
            return Err("must not contain `autoescape`: casebridge escapes all values".to_owned());
        }
        Template::of(Format::Html, name, text)
    }

    fn of(format: Format, name: &str, text: &str) -> Result<Template, String> {
        if text.len() > TEMPLATE_BYTES {
            return Err(format!("is longer than {TEMPLATE_BYTES} bytes"));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        match format {
            Format::Text => environment.set_auto_escape_callback(|_| AutoEscape::None),
            Format::Html => escape_values(&mut environment),
        }
        bounds::bound_filters(&mut environment);
        environment.set_fuel(Some(STEPS));
        environment.remove_global("debug");
        environment.add_template_owned("", text.to_owned()).map_err(|error| in_detail(&error))?;
        let (name, source) = (name.to_owned(), text.to_owned());
        let template = Template { name, source, format, environment: Arc::new(environment) };
        template.check_names()?;
        for sample in [SAMPLE, &SAMPLE.replace("8424", MANY_FOLLOWERS)] {
            let item = Item::from_payload(sample).unwrap_or_default();
            template.try_on(&item).map_err(|error| in_detail(&error))?;
        }
        // With little of an item it may fail for want of it, but not for want of a filter.
        match template.try_on(&Item::default()) {
            Err(error) if is_unknown(error.kind()) => Err(in_detail(&error)),
            _ => Ok(template),
        }
    }

    fn try_on(&self, item: &Item) -> Result<String, minijinja::Error> {
        self.render_with(&Context::new(item, "Label", "route"))
    }

    /// The variable that it comes from.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn is_html(&self) -> bool {
        self.format == Format::Html
    }

    /// What it says of an item, up to a length that is more than a ticket takes.
    ///
    /// # Errors
    /// The kind of the failure and its line: nothing of the item.
    pub fn render(&self, context: &Context) -> Result<String, String> {
        self.render_with(context).map_err(|error| in_short(&error))
    }

    fn render_with(&self, context: &Context) -> Result<String, minijinja::Error> {
        let mut output = Output::default();
        let rendered =
            self.environment.get_template("")?.render_captured_to(context.0.clone(), &mut output).map(drop);
        match rendered {
            Err(_) if output.is_full => {}
            rendered => rendered?,
        }
        Ok(output.text())
    }

    fn check_names(&self) -> Result<(), String> {
        let template = self.environment.get_template("").map_err(|error| in_short(&error))?;
        let mut unknown: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        unknown.retain(|name| !self.is_known(name));
        unknown.sort();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<String> = unknown.iter().map(|name| format!("`{}`", short(name))).collect();
        Err(format!("there is no {}; known are {}", unknown.join(", "), known_names().join(", ")))
    }

    /// Of `item.notes.0.text` the first two parts: what is within a field is the trial's matter.
    fn is_known(&self, name: &str) -> bool {
        let mut parts = name.split('.');
        match (parts.next(), parts.next()) {
            (Some("item"), Some(field)) => ITEM.contains(&field),
            (Some("author"), Some(field)) => AUTHOR.contains(&field),
            (Some("item" | "author"), None) => true,
            (Some(name), _) => {
                OTHERS.contains(&name) || self.environment.globals().any(|(global, _)| global == name)
            }
            (None, _) => false,
        }
    }
}

/// minijinja alone would let a text's line breaks collapse; and nothing of a post is safe.
fn escape_values(environment: &mut Environment) {
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.remove_filter("safe");
    environment.add_filter("link", |address: String| {
        Value::from_safe_string(Html::link(&address).as_str().to_owned())
    });
    environment.set_formatter(|out, state, value| match value.as_str().filter(|_| !value.is_safe()) {
        Some(text) => Ok(out.write_str(&html::escaped(&clean(text)))?),
        None => minijinja::escape_formatter(out, state, value),
    });
}

/// Every name that a template can use.
pub fn known_names() -> Vec<String> {
    let item = ITEM.iter().map(|field| format!("item.{field}"));
    let author = AUTHOR.iter().map(|field| format!("author.{field}"));
    item.chain(author).chain(OTHERS.iter().map(|name| (*name).to_owned())).collect()
}

/// As it came, but for what Khoros sends in several forms, which has one.
fn field_of(item: &Item, field: &str) -> Value {
    match field {
        "labels" => item.labels.iter().take(MEMBERS).map(|label| bounded(label)).collect(),
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

/// Khoros sends counts as texts, and a text is greater than any number.
fn count(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| bounded(text), Value::from)
}

fn is_unknown(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod
    )
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
            // An id of thirty digits should not become a fraction: its digits are kept as they came.
            (None, None) => Value::from(number.to_string()),
        },
    }
}

fn map<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let fields: BTreeMap<String, Value> =
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Value::from(fields)
}

fn in_short(error: &minijinja::Error) -> String {
    let kind = match error.kind() {
        ErrorKind::OutOfFuel => "too many steps".to_owned(),
        kind => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{kind} in line {line}"),
        None => kind,
    }
}

/// For what cannot hold anything of an item.
fn in_detail(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {}", in_short(error), short(detail)),
        None => in_short(error),
    }
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DETAIL_CHARS).collect()
}

/// Takes so much and then refuses, which ends the rendering.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Output {
    fn text(self) -> String {
        match String::from_utf8(self.bytes) {
            Ok(text) => text,
            // Cut within a character.
            Err(error) => {
                let whole = error.utf8_error().valid_up_to();
                String::from_utf8_lossy(&error.as_bytes()[..whole]).into_owned()
            }
        }
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(OUTPUT_BYTES - self.bytes.len());
        if taken == 0 && !bytes.is_empty() {
            self.is_full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(fields: Json) -> Item {
        let json = json!({"eventName": "e", "data": {"items": [fields]}});
        Item::from_payload(&json.to_string()).unwrap()
    }

    fn rendered(text: &str, fields: Json) -> Result<String, String> {
        Template::new("T", text).unwrap().render(&Context::new(&item(fields), "CreateCase", "label"))
    }

    #[test]
    fn the_names_stand_for_what_came() {
        let fields = json!({
            "entityId": "twitter:1:2", "text": "<b>&\"{{ label }}", "author": "Jane", "authorId": 42,
            "authorScreenName": "jane", "authorLink": "https://t.example/jane", "followerCount": "8424",
            "initiativeIds": [5, 123456789012345678901234567890u128 as f64], "labels": "VIP",
            "notes": [{"text": "n", "createdByDisplayName": "Ann"}, "plain"],
        });
        for (text, expected) in [
            ("Case from Social Network {{ item.entityId }}", "Case from Social Network twitter:1:2"),
            ("{{ item.text }}", "<b>&\"{{ label }}"),
            (
                "{{ author.id }} {{ author.name }} {{ author.screen_name }} {{ author.network }}",
                "42 Jane jane twitter",
            ),
            ("{{ author.link }} {{ author.followers }}", "https://t.example/jane 8424"),
            ("{{ event }} {{ label }} {{ route }}", "e CreateCase label"),
            ("{{ item.followerCount > 10000 }} {{ author.followers > 8000 }}", "False True"),
            ("{{ item.initiativeIds[0] }}", "5"),
            ("{{ item.labels|join(', ') }}", "VIP"),
            (
                "{% for n in item.notes %}{{ n.createdByDisplayName }}:{{ n.text }} {% endfor %}",
                "Ann:n :plain ",
            ),
            (
                "{% if item.followerCount|int > 1000 %}many{% else %}few{% endif %}{{ \"\\n\" }}{{ item.followerCount|int + 1 }}",
                "many\n8425",
            ),
            (
                "{% for name, value in item|items %}{% if name == 'text' %}{{ name }}{% endif %}{% endfor %}",
                "text",
            ),
            (
                "{% set first = item.text|first %}{{ first|upper }}{{ item['entityId']|replace('twitter:', '') }}",
                "<1:2",
            ),
        ] {
            assert_eq!(rendered(text, fields.clone()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_empty() {
        for name in known_names() {
            let text = format!("[{{% if {name} %}}{{{{ {name} }}}}{{% endif %}}]");
            let expected = match name.as_str() {
                "item.text" => "[t]",
                "event" => "[e]",
                "label" => "[CreateCase]",
                "route" => "[label]",
                _ => "[]",
            };
            assert_eq!(
                rendered(&text, json!({"text": "t", "link": null})).as_deref(),
                Ok(expected),
                "{name}"
            );
        }
    }

    #[test]
    fn the_sample_has_every_field() {
        let sample = Item::from_payload(SAMPLE).unwrap();
        let context = Context::new(&sample, "Label", "route");
        for name in known_names() {
            let template = Template::new("T", &format!("{{{{ {name} }}}}")).unwrap();
            assert!(!template.render(&context).unwrap().trim_matches(['[', ']']).is_empty(), "{name}");
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        let digits = "123456789012345678901234567890";
        let json =
            format!(r#"{{"data":{{"items":[{{"text":"t","authorIcon":{digits},"contentType":1.50}}]}}}}"#);
        let item = Item::from_payload(&json).unwrap();
        let template = Template::new("T", "{{ item.authorIcon }} {{ item.contentType }}").unwrap();
        let rendered = template.render(&Context::new(&item, "l", "r")).unwrap();
        assert_eq!(rendered, format!("{digits} 1.50"));
    }

    #[test]
    fn what_is_wrong_is_found_at_once() {
        for (text, told) in [
            ("{{ item.text", "syntax error in line 1"),
            ("a\n{% if %}", "syntax error in line 2"),
            ("{% include 'x' %}", "syntax error in line 1"),
            (
                "{{ item.entityID }}",
                "there is no `item.entityID`; known are item.sfEntityType, item.entityId,",
            ),
            ("{{ author.screenName }}", "there is no `author.screenName`; known are"),
            ("{{ a }}{{ b.c }}", "there is no `a`, `b.c`; known are"),
            ("{% if false %}{{ ticket.id }}{% endif %}", "there is no `ticket.id`"),
            ("{{ item['entityID'] }}", "undefined value in line 1"),
            ("{{ label.length }}", "undefined value in line 1"),
            ("\n\n{{ item.text|shout }}", "unknown filter in line 3: filter shout is unknown"),
            ("{{ item.text is loud }}", "unknown test in line 1"),
            ("{% if not item.inReplyTo %}{{ item.text|shout }}{% endif %}", "unknown filter in line 1"),
            ("{% if not item.notes %}{{ item.text.upper() }}{% endif %}", "unknown method in line 1"),
            ("{{ shout(item.text) }}", "there is no `shout`"),
            ("{{ debug() }}", "there is no `debug`"),
            ("{{ item.text.upper() }}", "unknown method in line 1"),
            ("{{ '=' * author.followers }}", "invalid operation in line 1: repeated string is too large"),
            ("{{ item.text|indent(item.followerCount) }}", "invalid operation in line 1: a width is larger"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
                "too many steps",
            ),
        ] {
            let error = Template::new("T", text).unwrap_err();
            assert!(error.starts_with(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_failure_tells_nothing_of_the_item() {
        let error =
            rendered("{{ item.text|int if item.text != 'Text' }}", json!({"text": "zebra"})).unwrap_err();
        assert_eq!(error, "invalid operation in line 1");
    }

    #[test]
    fn a_template_takes_no_more_memory_than_its_bounds() {
        let text = "a\n".repeat(1 << 20);
        let fields = json!({"text": text, "author": text, "notes": vec![&text[..1000]; 2000]});
        for template in [
            "{{ item.text|replace('a', item.text) }}",
            "{{ item.notes|map(attribute='text')|join(item.text) }}",
            "{{ author.name|indent(1000) }}",
            "{% for note in item.notes %}{{ item.text|replace('a', note.text) }}{% endfor %}",
        ] {
            let made = rendered(template, fields.clone()).unwrap();
            assert!((900..=OUTPUT_BYTES).contains(&made.len()), "{template}: {}", made.len());
        }
    }

    #[test]
    fn no_template_makes_more_than_a_ticket_takes() {
        let text = "é".repeat(OUTPUT_BYTES);
        let all =
            rendered("x{% for n in range(500) %}{{ item.text }}{% endfor %}", json!({"text": text})).unwrap();
        assert!((OUTPUT_BYTES - 2..=OUTPUT_BYTES).contains(&all.len()));
        assert!(all.starts_with("xé") && all.ends_with('é'));
    }
}
