//! Forms: reading them, and checking their fields.

use std::collections::BTreeMap;

use axum::response::Response;
use serde_json::Value;
use url::form_urlencoded;

use super::bad_request;

/// The fields of a form by name.
pub type Fields = BTreeMap<String, String>;

/// What a field may hold.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Any text that is not empty.
    Text,
    /// A SID that begins with these letters.
    Sid(&'static str),
    /// `true` or `false`.
    Bool,
    /// A number in this range.
    Number(u64, u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A JSON object.
    Json,
    /// An http or https address.
    Url,
}

/// Reads a form or a query.
pub fn fields(text: Option<&str>) -> Fields {
    form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect()
}

/// Writes a form.
pub fn write(fields: &BTreeMap<&str, String>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Checks that a form has the required fields, and none but the known ones.
pub fn check(fields: &Fields, required: &[&str], known: &[(&str, Kind)]) -> Result<(), Box<Response>> {
    let refuse = |reason: String| Err(Box::new(bad_request(&reason)));
    if let Some(missing) = required.iter().find(|name| !fields.contains_key(**name)) {
        return refuse(format!("Missing required parameter {missing}"));
    }
    for (name, value) in fields {
        match known.iter().find(|(known, _)| known == name) {
            None => return refuse(format!("Unknown parameter {name}")),
            Some((_, kind)) if !kind.holds(value) => return refuse(format!("Invalid {name}")),
            Some(_) => {}
        }
    }
    Ok(())
}

impl Kind {
    fn holds(self, value: &str) -> bool {
        match self {
            Kind::Text => !value.trim().is_empty(),
            Kind::Sid(kind) => is_sid(value, kind),
            Kind::Bool => matches!(value, "true" | "false"),
            Kind::Number(least, most) => value.parse().is_ok_and(|number| (least..=most).contains(&number)),
            Kind::OneOf(words) => words.contains(&value),
            Kind::Json => serde_json::from_str::<Value>(value).is_ok_and(|value| value.is_object()),
            Kind::Url => value.starts_with("http://") || value.starts_with("https://"),
        }
    }
}

/// Whether a text is a SID of this kind.
pub fn is_sid(text: &str, kind: &str) -> bool {
    let digits = text.strip_prefix(kind).unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a text is a number in the form E.164, with or without `whatsapp:`.
pub fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix("whatsapp:").unwrap_or(text).strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len())
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}
