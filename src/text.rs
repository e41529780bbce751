//! Cleans foreign text: removes invisible characters and defuses placeholders. Pure.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_segmentation::UnicodeSegmentation;

/// Removes invisible characters from a text: control characters, bidirectional overrides and other
/// characters without a shape, except those that shape an emoji or a letter. Line breaks become `\n`.
///
/// A placeholder loses its meaning: a comment of our user is an agent's, in which Zendesk would fill in
/// the `{{ticket.requester.email}}` of a post. The word joiner that breaks it is invisible.
pub fn clean(text: &str) -> String {
    let lines = text.replace("\r\n", "\n");
    let mut clean = String::with_capacity(lines.len());
    // Kept only between two characters that can be seen.
    let mut joiner = None;
    for c in lines.chars().map(line_break) {
        let last = clean.chars().next_back().filter(|last| !last.is_whitespace());
        match c {
            ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER => joiner = last.map(|_| c),
            c if is_selector(c) => {
                if joiner.is_none() && last.is_some_and(|last| !is_selector(last)) {
                    clean.push(c);
                }
            }
            c if is_tag(c) => {
                if last.is_some_and(|last| last == BLACK_FLAG || is_tag(last)) {
                    clean.push(c);
                }
            }
            c if c.is_control() && !matches!(c, '\n' | '\t') || is_invisible(c) => {}
            c => {
                let joined = joiner.take().filter(|_| !c.is_whitespace());
                let opens = matches!(c, '{' | '%') && last == Some('{');
                clean.extend(joined.or(opens.then_some(WORD_JOINER)));
                clean.push(c);
            }
        }
    }
    clean
}

/// Replaces characters that control a terminal or change the direction of writing with spaces.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if controls_terminal(c) { ' ' } else { c }).collect()
}

/// Whether the character controls a terminal or changes the direction of writing.
pub fn controls_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether Zendesk would treat the text as empty.
pub fn is_blank(text: &str) -> bool {
    clean(text).trim().is_empty()
}

const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
const ZERO_WIDTH_JOINER: char = '\u{200d}';
const WORD_JOINER: char = '\u{2060}';
/// With tags behind it, the flag of a region.
const BLACK_FLAG: char = '\u{1f3f4}';

fn line_break(c: char) -> char {
    if matches!(c, '\r' | '\u{2028}' | '\u{2029}') { '\n' } else { c }
}

/// Chooses between the forms of the character in front of it.
fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' | '\u{180b}'..='\u{180d}' | '\u{180f}')
}

fn is_tag(c: char) -> bool {
    matches!(c, '\u{e0020}'..='\u{e007f}')
}

/// Unicode's `Default_Ignorable_Code_Point`, and the marks of interlinear annotations.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Joins the text into one line, with single spaces.
pub fn one_line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A date as `2011-05-26 20:23 CEST`, or as `20:23` if it is on the same day as `day`. Any other text stays as it
/// is.
pub fn time(published: &str, zone: &TimeZone, day: &str) -> String {
    let local = |text: &str| date(text).map(|time| time.to_zoned(zone.clone()));
    match (local(published), local(day)) {
        (Some(time), Some(day)) if time.date() == day.date() => time.strftime("%H:%M").to_string(),
        (Some(time), _) => time.strftime("%Y-%m-%d %H:%M %Z").to_string(),
        (None, _) => published.to_owned(),
    }
}

/// Reads the two forms of a date in an item: `2011-05-26T18:23:31.000Z` and `2011-05-26 18:23 UTC`.
fn date(text: &str) -> Option<Timestamp> {
    let minute = |text: &str| Some(format!("{}:00Z", text.strip_suffix(" UTC")?));
    text.parse().ok().or_else(|| minute(text)?.parse().ok())
}

/// Cuts a text between graphemes, so that the result with its `mark` has at most `room` bytes.
pub fn clip(text: &str, room: usize, mark: &str) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(mark.len());
    let fits = |grapheme: &&str| {
        let fits = grapheme.len() <= left;
        left = left.saturating_sub(grapheme.len());
        fits
    };
    let kept: String = graphemes(text).take_while(fits).collect();
    format!("{kept}{mark}")
}

/// Cuts a text between graphemes, with `…`, to at most `room` characters, counted as JavaScript does.
pub fn shorten(text: &str, room: usize) -> String {
    shorten_mapped(text, room, "…", Cow::Borrowed)
}

/// As [`shorten`] with another mark, but replaces each grapheme first.
pub fn shorten_mapped<'a>(
    text: &'a str,
    room: usize,
    mark: &str,
    replace: impl Fn(&'a str) -> Cow<'a, str>,
) -> String {
    let (mut whole, mut used, mut fitting) = (String::new(), 0, 0);
    let left = room.saturating_sub(mark.encode_utf16().count());
    for grapheme in graphemes(text) {
        let piece = replace(grapheme);
        used += piece.encode_utf16().count();
        if used > room {
            whole.truncate(fitting);
            return whole + mark;
        }
        whole.push_str(&piece);
        if used <= left {
            fitting = whole.len();
        }
    }
    whole
}

/// The end of a phone number, as logs and lists show it: `…0147`; empty for an empty text.
pub fn last_four(number: &str) -> String {
    let start = number.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
    if number.is_empty() { String::new() } else { format!("…{}", &number[start..]) }
}

/// Iterates over the graphemes of a text; splits a grapheme of more than 200 bytes into its characters.
pub fn graphemes(text: &str) -> impl Iterator<Item = &str> {
    const LONGEST: usize = 200;
    text.graphemes(true).flat_map(|grapheme| {
        let pieces = if grapheme.len() <= LONGEST { 1 } else { grapheme.chars().count() };
        let mut rest = grapheme;
        (0..pieces).map(move |_| {
            let first = rest.chars().next().map_or(0, char::len_utf8);
            let (piece, after) = rest.split_at(if pieces == 1 { rest.len() } else { first });
            rest = after;
            piece
        })
    })
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn invisible_characters_are_those_that_unicode_names() {
        let named = Regex::new(r"[\p{Default_Ignorable_Code_Point}\x{fff9}-\x{fffb}]").unwrap();
        let all: String = ('\0'..=char::MAX).collect();
        let named: Vec<&str> = named.find_iter(&all).map(|c| c.as_str()).collect();
        let ours: String = all.chars().filter(|c| is_invisible(*c)).collect();
        assert_eq!(named.concat(), ours);
    }

    #[test]
    fn a_time_is_that_of_its_zone() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        for (published, zone, day, expected) in [
            ("2011-05-26T18:23:31.000Z", &TimeZone::UTC, "", "2011-05-26 18:23 UTC"),
            ("2011-05-26T22:23:31.000Z", &berlin, "", "2011-05-27 00:23 CEST"),
            ("2011-12-26 18:23 UTC", &berlin, "", "2011-12-26 19:23 CET"),
            ("2011-05-26T18:23:31Z", &berlin, "2011-05-26 21:59 UTC", "20:23"),
            ("2011-05-26T18:23:31Z", &berlin, "2011-05-26 22:00 UTC", "2011-05-26 20:23 CEST"),
            ("last week", &berlin, "last week", "last week"),
            ("", &berlin, "", ""),
        ] {
            assert_eq!(time(published, zone, day), expected);
        }
    }

    #[test]
    fn characters_that_shape_emoji_or_letters_stay() {
        for text in [
            "👩\u{200d}👩\u{200d}👧\u{200d}👦",
            "❤\u{fe0f}\u{200d}🔥",
            "1\u{fe0f}\u{20e3}",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "می\u{200c}خواهم",
            "葛\u{e0100}",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn invisible_characters_are_removed() {
        for (text, expected) in [
            ("a\u{202e}b\u{2066}c\u{2069}", "abc"),
            ("\u{200b}\u{feff}\u{200d}\u{fe0f}\u{e0067}", ""),
            ("a\u{200d}\u{200d} b\u{200c}", "a b"),
            ("a\u{fe0f}\u{fe0f}\u{fe0f}", "a\u{fe0f}"),
            ("a\u{0}\u{1b}[31m\u{9b}", "a[31m"),
            ("a\r\nb\rc\u{2028}d\te", "a\nb\nc\nd\te"),
            ("{\u{200b}{ {\u{200d}{ {%", "{\u{2060}{ {\u{200d}{ {\u{2060}%"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
            assert_eq!(clean(&clean(text)), expected, "{text:?}");
        }
        assert!(is_blank("\u{200b}\u{a0}\u{3000}\u{2028}\t") && !is_blank("\u{200b}."));
    }
}
