//! The forms of text that the fields of a ticket have. Pure.

use unicode_segmentation::UnicodeSegmentation;

pub fn first_chars(text: &str, count: usize) -> String {
    text.chars().take(count).collect::<String>().trim_end().to_owned()
}

/// Text on one line, with at most `max_graphemes` and `max_chars`: one grapheme may have thousands of characters.
pub fn cut_line(text: &str, max_graphemes: usize, max_chars: usize) -> String {
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

/// Text as a tag: letters and digits in lower case, everything else as single underscores. Letters of other
/// scripts become their code points, so that a tag is ASCII and can be cut anywhere.
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
