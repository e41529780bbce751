//! Words as Zendesk takes them: cleaned of what it would fill in, and cut where it would cut. Pure.

use unicode_segmentation::UnicodeSegmentation;

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
    let line = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    clip(&line, FIELD_BYTES, "…")
}

/// Without control characters, and without what Zendesk would take for a placeholder: a comment by
/// our user is an agent's, and `{{ticket.requester.email}}` in a post would be filled in.
pub fn clean(text: &str) -> String {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut clean = String::with_capacity(lines.len());
    for c in lines.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()) {
        if matches!(c, '{' | '%') && clean.ends_with('{') {
            clean.push('\u{2060}');
        }
        clean.push(c);
    }
    clean
}

/// Cut between graphemes, so that the result with its `mark` has at most `room` bytes as HTML.
pub fn clip(text: &str, room: usize, mark: &str) -> String {
    if html_bytes(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(html_bytes(mark));
    let fits = |grapheme: &&str| {
        let bytes = html_bytes(grapheme);
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    };
    let kept: String = text.graphemes(true).flat_map(bounded).take_while(fits).collect();
    format!("{kept}{mark}")
}

/// A grapheme, or its characters if it is one of those that somebody made to be endless.
fn bounded(grapheme: &str) -> impl Iterator<Item = &str> {
    let whole = grapheme.len() <= 200;
    let parts = if whole { 1 } else { grapheme.chars().count() };
    let mut rest = grapheme;
    (0..parts).map(move |_| {
        let length = if whole { rest.len() } else { rest.chars().next().map_or(0, char::len_utf8) };
        let (part, after) = rest.split_at(length);
        rest = after;
        part
    })
}

pub fn first_chars(text: &str, count: usize) -> String {
    text.chars().take(count).collect::<String>().trim_end().to_owned()
}

/// The length as Zendesk counts it.
pub fn html_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'&' => 5,
        b'<' | b'>' => 4,
        b'"' => 6,
        b'\'' => 5,
        b'\n' => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
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
