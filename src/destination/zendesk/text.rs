//! Texts as they stand in the fields of a ticket. Pure.

use unicode_segmentation::UnicodeSegmentation;

use crate::text::{clip, one_line};

/// For what is a name, a link or a date and may turn out to be a novel.
pub const FIELD_BYTES: usize = 2_000;

/// `2011-05-26T18:23:31.000Z` → `2011-05-26 18:23 UTC`; what is no such date stays as it is.
pub fn time(published: &str) -> String {
    match published.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => field(published),
    }
}

/// On one line and of bounded length.
pub fn field(text: &str) -> String {
    clip(&one_line(text), FIELD_BYTES, "…")
}

pub fn first_chars(text: &str, count: usize) -> String {
    text.chars().take(count).collect::<String>().trim_end().to_owned()
}

/// On one line of at most so many graphemes, and characters: a letter may carry thousands of marks.
pub fn line(text: &str, max_graphemes: usize, max_chars: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let graphemes: Vec<&str> = line.graphemes(true).take(max_graphemes + 1).collect();
    if graphemes.len() <= max_graphemes && line.chars().count() <= max_chars {
        return line;
    }
    let mut left = max_chars - 1;
    let kept = graphemes.iter().take(max_graphemes - 1).take_while(|grapheme| {
        let chars = grapheme.chars().count();
        let fits = chars <= left;
        left = left.saturating_sub(chars);
        fits
    });
    format!("{}…", kept.copied().collect::<String>().trim_end())
}

/// Letters and digits of any script in lower case, all else as single underscores: ASCII only, so
/// that a tag can be cut anywhere; a label in another script is told by its code points.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            c if c.is_alphanumeric() => slug.push_str(&format!("u{:x}", u32::from(c))),
            _ if slug.ends_with('_') => {}
            _ => slug.push('_'),
        }
    }
    slug.trim_matches('_').to_owned()
}
