//! What standard output can show. `anstream` decides about colours: a terminal has them unless `NO_COLOR` is set or
//! `TERM` is `dumb`.

use std::io;

use anstyle::{AnsiColor, Style};
use terminal_size::{Width, terminal_size_of};

pub const BOLD: Style = Style::new().bold();
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const RED: Style = AnsiColor::Red.on_default();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();

/// The columns of the terminal that standard output is; `None` if it is none.
pub fn width() -> Option<usize> {
    terminal_size_of(io::stdout()).map(|(Width(columns), _)| columns.into())
}

/// JSON that does not control a terminal: foreign characters that could do so are escaped.
pub fn json(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for c in document.chars() {
        // Below U+0020, JSON itself escapes them in texts; the others are line breaks of the document.
        match c >= '\u{7f}' && casebridge::text::controls_terminal(c) {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn json_controls_no_terminal_and_keeps_its_meaning() {
        let document = json!({"a": "\u{1b}[2J \u{9b}2J \u{7f} \u{202e} ü \n"});
        let escaped = super::json(&document.to_string());
        assert!(!escaped.chars().any(casebridge::text::controls_terminal), "{escaped}");
        assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), document);
    }
}
