//! Compares a comment as it was sent with the comment that Zendesk stored. Pure.

use std::collections::BTreeSet;

use crate::destination::html::visible_text;

/// The word in front of the placeholder in the text of a rehearsal.
pub const PLACEHOLDER: &str = "Placeholder:";

/// Returns how the stored HTML differs from what was sent, apart from placeholders and links; `None` if a reader sees
/// the same. Zendesk may add attributes and a frame.
pub fn difference(sent: &str, stored: &str) -> Option<String> {
    let lost: Vec<&str> = tags(sent).difference(&tags(stored)).copied().collect();
    if !lost.is_empty() {
        return Some(format!("these tags were lost: {}", lost.join(", ")));
    }
    let is_compared = |line: &String| !line.contains(PLACEHOLDER);
    let sent: Vec<String> = lines(sent).filter(is_compared).collect();
    let stored: Vec<String> = lines(stored).filter(is_compared).collect();
    if sent == stored {
        return None;
    }
    let first = sent.iter().zip(&stored).find(|(sent, stored)| sent != stored);
    Some(match first {
        Some((sent, stored)) => format!("sent `{sent}`, shown `{stored}`"),
        None => format!("sent {} lines, shown {}", sent.len(), stored.len()),
    })
}

/// The placeholder, as readers see it.
pub fn placeholder(html: &str) -> Option<String> {
    lines(html).find_map(|line| Some(line.split_once(PLACEHOLDER)?.1.trim().replace('\u{2060}', "")))
}

pub fn links(html: &str) -> usize {
    html.match_indices("<a ").count()
}

/// The visible lines. Zendesk may store a space that does not break as that character.
fn lines(html: &str) -> impl Iterator<Item = String> {
    let text = visible_text(html, "").replace('\u{a0}', " ");
    let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.into_iter().filter(|line| !line.is_empty())
}

/// The names of the opening tags.
fn tags(html: &str) -> BTreeSet<&str> {
    let names = html.split('<').skip(1).map(|tag| {
        let end = tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len());
        &tag[..end]
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_attributes_make_no_difference() {
        let sent = "<p>a</p><blockquote>b &lt;i&gt; &nbsp;c<br>d</blockquote>";
        for stored in [
            "<div class=\"zd-comment\" dir=\"auto\"><p dir=\"auto\">a</p>\n<blockquote>b &lt;i&gt; \u{a0}c<br>d</blockquote></div>",
            sent,
        ] {
            assert_eq!(difference(sent, stored), None, "{stored}");
        }
        for (stored, expected) in [
            ("<p>a</p>b &lt;i&gt; &nbsp;c<br>d", "these tags were lost: blockquote"),
            ("<p>a</p><blockquote>b <i> &nbsp;c<br>d</blockquote>", "sent `b <i>  c`, shown `b   c`"),
            ("<p>a</p><blockquote>b &lt;i&gt; &nbsp;c<br></blockquote>", "sent 3 lines, shown 2"),
        ] {
            assert_eq!(difference(sent, stored).as_deref(), Some(expected), "{stored}");
        }
    }

    #[test]
    fn placeholders_and_links_are_compared_alone() {
        let (sent, stored) = ("<p>a<br>Placeholder: {{b}}</p>", "<p>a<br>Placeholder: 7</p>");
        assert_eq!(difference(sent, stored), None);
        assert_eq!(
            (placeholder(sent).as_deref(), placeholder(stored).as_deref()),
            (Some("{{b}}"), Some("7"))
        );
        assert_eq!(links("<p><a href=\"x\">x</a> <abbr>y</abbr></p>"), 1);
    }
}
