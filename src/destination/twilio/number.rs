//! Phone numbers and SIDs, as people paste them.

use crate::destination::texting;
use crate::env::parse::Parsed;

/// The prefix of a number that Twilio reaches by WhatsApp.
pub const WHATSAPP: &str = "whatsapp:";

/// Parses a number, with or without `whatsapp:`.
pub fn address(text: &str) -> Option<String> {
    let text = text.trim();
    match text.get(..WHATSAPP.len()).filter(|start| start.eq_ignore_ascii_case(WHATSAPP)) {
        Some(_) => texting::phone_number(&text[WHATSAPP.len()..]).map(|number| format!("{WHATSAPP}{number}")),
        None => texting::phone_number(text),
    }
}

/// Parses a sender: a number, a short code, or a name of at most eleven letters and digits.
pub fn sender(text: &str) -> Parsed<String> {
    let is_code = (3..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = text.len() <= 11
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ');
    match address(text) {
        Some(number) => Ok(number),
        None if is_code || is_name => Ok(text.to_owned()),
        None => Err(
            "is not a sender: a number as in +15557654321, a short code, or a name of 11 characters at most",
        ),
    }
}

/// Parses a SID: two letters, and 32 hexadecimal digits.
pub fn sid(kind: &'static str) -> impl Fn(&str) -> Result<String, String> {
    move |text| match is_sid(text, kind) {
        true => Ok(text.to_owned()),
        false => Err(format!("is not a SID of this kind: {kind} and 32 hexadecimal digits")),
    }
}

/// Whether a text is a SID of this kind.
pub fn is_sid(text: &str, kind: &str) -> bool {
    text.strip_prefix(kind)
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
