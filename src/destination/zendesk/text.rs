//! Texts as they stand in the fields of a ticket. Pure.

use unicode_segmentation::UnicodeSegmentation;

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
