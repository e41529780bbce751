//! The filters that templates have in addition to minijinja's own. In HTML, each one escapes its input.

use jiff::tz::TimeZone;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State};

use super::context::{TEXT_BYTES_NAME, TIME_ZONE_NAME, Zone};
use crate::destination::html::{self, Html};
use crate::text;

/// The bytes of HTML that `facts` and `row` make at most.
const FACTS_BYTES: usize = 20_000;

/// Adds the filters that make text.
pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("line", line);
    environment.add_filter("time", time);
    environment.add_filter("thousands", thousands);
    environment.add_filter("host", |value: &Value| html::visible_host(&string(value)).unwrap_or_default());
}

/// Adds the filters that make HTML.
pub fn add_html_to(environment: &mut Environment<'static>) {
    environment.add_filter("link", link);
    environment.add_filter("quote", quote);
    environment.add_filter("row", row);
    environment.add_filter("facts", facts);
}

/// A text on one line, whose HTML has at most `bytes`.
fn line(value: &Value, bytes: Option<usize>) -> String {
    match bytes {
        Some(bytes) => html::line_of(&string(value), bytes),
        None => html::line(&string(value)),
    }
}

/// A date in the time zone of the ticket; without its date if that is the date of `day`.
fn time(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let day: Option<Value> = options.get("day")?;
    options.assert_all_used()?;
    let zone = state.lookup(TIME_ZONE_NAME);
    let zone = zone.as_ref().and_then(|zone| zone.downcast_object_ref::<Zone>());
    let utc = TimeZone::UTC;
    let zone = zone.map_or(&utc, |Zone(zone)| zone);
    let day = day.as_ref().map(string).unwrap_or_default();
    Ok(text::time(&html::line(&string(value)), zone, &day))
}

/// A number with a separator between groups of three digits: `8,424`. Other values stay as they are.
fn thousands(value: &Value, separator: Option<&str>) -> String {
    let digits = string(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits;
    }
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push_str(separator.unwrap_or(","));
        }
        grouped.push(digit);
    }
    grouped
}

/// A web address as a link: the whole address, or with `before`, this text and the host.
fn link(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let before: Option<Value> = options.get("before")?;
    options.assert_all_used()?;
    Ok(safe(&match before {
        Some(before) => Html::link_to_host(&string(&before), &string(value)),
        None => Html::link(&string(value)),
    }))
}

/// A text of several lines as a quotation: of `bytes` at most, or as long as there is room for it.
fn quote(state: &State, value: &Value, bytes: Option<usize>) -> Value {
    let room = || state.lookup(TEXT_BYTES_NAME).and_then(|room| room.as_usize());
    safe(&Html::quote(&string(value), bytes.or_else(room).unwrap_or(usize::MAX)))
}

/// Values on one line, with ` · ` between them and without the empty ones.
fn row(values: &Value) -> Result<Value, Error> {
    const BETWEEN: &str = " · ";
    let mut parts: Vec<String> = Vec::new();
    let mut room = FACTS_BYTES;
    if values.as_str().is_some() {
        return Err(Error::new(ErrorKind::InvalidOperation, "row needs a list"));
    }
    for value in values.try_iter()? {
        let part = as_html(&value, false);
        match room.checked_sub(part.len() + BETWEEN.len()) {
            Some(left) if !part.is_empty() => {
                room = left;
                parts.push(part);
            }
            _ => {}
        }
    }
    Ok(Value::from_safe_string(parts.join(BETWEEN)))
}

/// Pairs of a name and a value as the lines of a paragraph. A pair without a value has no line. `links` lists the
/// names whose values are web addresses; `names` translates the names.
fn facts(pairs: &Value, options: Kwargs) -> Result<Value, Error> {
    let links = options.get::<Option<Vec<String>>>("links")?.unwrap_or_default();
    let names = options.get::<Option<Value>>("names")?.unwrap_or_default();
    options.assert_all_used()?;
    let mut lines: Vec<String> = Vec::new();
    let mut room = FACTS_BYTES;
    for pair in pairs.try_iter()? {
        let name = pair.get_item_by_index(0)?;
        let value = as_html(&pair.get_item_by_index(1)?, links.contains(&string(&name)));
        if value.is_empty() {
            continue;
        }
        let name = names.get_item(&name).ok().filter(|name| !name.is_undefined()).unwrap_or(name);
        let line = format!("{}: {value}", html::escaped(&html::line(&string(&name))));
        match room.checked_sub(line.len()) {
            Some(left) => room = left,
            None => {
                lines.push("(more in Khoros)".to_owned());
                break;
            }
        }
        lines.push(line);
    }
    Ok(match lines.is_empty() {
        true => Value::from(""),
        false => Value::from_safe_string(format!("<p>{}</p>", lines.join("<br>"))),
    })
}

/// A value on one line as HTML. Keeps HTML from filters.
fn as_html(value: &Value, link: bool) -> String {
    match value.is_safe() {
        _ if value.is_none() || value.is_undefined() => String::new(),
        true => string(value),
        false if link => Html::link(&string(value)).as_str().to_owned(),
        false => escaped_line(&html::line(&string(value))),
    }
}

/// A text of one line as HTML, which cannot change the order of what follows.
pub(super) fn escaped_line(line: &str) -> String {
    let mark = if html::is_right_to_left(line) { html::LEFT_TO_RIGHT } else { "" };
    html::escaped(line) + mark
}

fn string(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn safe(html: &Html) -> Value {
    Value::from_safe_string(html.as_str().to_owned())
}
