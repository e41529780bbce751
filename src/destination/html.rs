//! Comments as HTML, in which nothing that others wrote is markup.
//!
//! Zendesk renders the `body` of an agent's comment as Markdown, strips its HTML and collapses its
//! white space; an `html_body` is displayed as written
//! (<https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/#bodies>). So texts
//! are escaped, and texts of several lines are quoted, so that readers cannot mistake them for ours.

use url::Url;

use crate::text::{clean, graphemes, is_blank, one_line};

/// A comment, or a part of one, in which foreign text is escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Html(String);

/// The longest HTML of a line: it is a name, a link or a date, and a hostile one may be of any length.
const LINE_BYTES: usize = 2_000;
/// A cut text says how much is missing if it has at least this room.
const SHORT_ROOM: usize = 200;
/// The usual sign for an external link.
const LEADS_AWAY: &str = "↗";

impl Html {
    /// A link that shows where it leads if it leads to a web page whose host is visible; otherwise text.
    pub fn link(address: &str) -> Html {
        let text = escaped(&line(address));
        match visible_web_url(address) {
            Some(url) => {
                Html(format!("<a href=\"{}\" rel=\"noopener noreferrer\">{text}</a>", escaped(url.as_str())))
            }
            None => Html(text),
        }
    }

    /// A link of the form `Open on twitter.com ↗`: it shows only the host. An address that cannot be a link is
    /// shown as text behind `before`.
    pub fn link_to_host(before: &str, address: &str) -> Html {
        let before = escaped(&line(before));
        let space = if before.is_empty() { "" } else { " " };
        match visible_web_url(address) {
            Some(url) => {
                let (href, host) = (escaped(url.as_str()), escaped(&host_of(&url)));
                let text = format!("{before}{space}{host} {LEADS_AWAY}");
                Html(format!("<a href=\"{href}\" rel=\"noopener noreferrer\">{text}</a>"))
            }
            None => Html(format!("{before}{space}{}", escaped(&line(address)))),
        }
    }

    /// A text of several lines as it was typed, in a quotation of at most `room` bytes. Zendesk may refuse
    /// an invisible text: "(no text)" replaces it.
    pub fn quote(text: &str, room: usize) -> Html {
        const TAGS: usize = "<blockquote></blockquote>".len();
        if is_blank(text) {
            return Html("<p>(no text)</p>".to_owned());
        }
        let text = cut(&clean(text), room.saturating_sub(TAGS));
        Html(format!("<blockquote>{}</blockquote>", escaped(&text)))
    }

    /// The output of an HTML template, in which all values are escaped.
    pub fn from_template(html: &str) -> Html {
        Html(clean(html))
    }

    #[must_use]
    pub fn then(mut self, next: &Html) -> Html {
        self.0.push_str(&next.0);
        self
    }

    /// The length as it is sent, which is how Zendesk counts it.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text on one line whose HTML has at most 2,000 bytes.
pub fn line(text: &str) -> String {
    line_of(text, LINE_BYTES)
}

/// Text on one line whose HTML has at most `room` bytes.
pub fn line_of(text: &str, room: usize) -> String {
    cut(&one_line(text), room)
}

/// The host of a web address, as a reader sees it in a link.
pub fn visible_host(address: &str) -> Option<String> {
    visible_web_url(address).map(|url| host_of(&url))
}

/// The host, with its port unless that is the usual one.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the text contains letters that are written from right to left: they change the order of what follows.
pub fn is_right_to_left(text: &str) -> bool {
    text.chars().any(|c| {
        matches!(c,
            '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}'
            | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
    })
}

/// Ends right-to-left text on a line. An entity, because casebridge removes the character itself.
pub const LEFT_TO_RIGHT: &str = "&lrm;";

/// Text as HTML that shows it as it was typed.
pub fn escaped(text: &str) -> String {
    let mut escaper = Escaper::default();
    escaper.push(text);
    escaper.html
}

/// Returns the URL of a web address if a reader can see where it leads: the displayed host is the one that the
/// browser opens, no user name precedes it, and all characters are ASCII.
fn visible_web_url(address: &str) -> Option<Url> {
    let address = address.trim();
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let start = format!("{}://{}", url.scheme(), url.host_str()?);
    let shows_host = address.get(..start.len())?.eq_ignore_ascii_case(&start)
        && matches!(address.as_bytes().get(start.len()), None | Some(b'/' | b'?' | b'#' | b':'));
    let is_whole = address.len() <= LINE_BYTES && address.bytes().all(|byte| byte.is_ascii_graphic());
    let is_plain = is_whole && clean(address) == address;
    (shows_host && is_plain && url.username().is_empty() && url.password().is_none()).then_some(url)
}

/// Cuts clean text between graphemes, so that its HTML has at most `room` bytes, and says how much is missing.
fn cut(text: &str, room: usize) -> String {
    // Most texts are short, and no text gets shorter.
    if text.len() <= room && escaped(text).len() <= room {
        return text.to_owned();
    }
    // In a short place, a number would take the room of the text.
    let mark = |characters: usize| match room < SHORT_ROOM {
        true => "…".to_owned(),
        false => format!("… ({characters} more characters)"),
    };
    let room = room.saturating_sub(mark(text.len()).len());
    let (mut kept, mut end) = (Escaper::default(), 0);
    for grapheme in graphemes(text) {
        kept.push(grapheme);
        if kept.html.len() > room {
            break;
        }
        end += grapheme.len();
    }
    text[..end].to_owned() + &mark(text[end..].chars().count())
}

/// Escapes text piece by piece.
#[derive(Default)]
struct Escaper {
    html: String,
    /// The last character was visible, so that a following space needs no `&nbsp;`.
    is_after_text: bool,
}

impl Escaper {
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.html.push_str("&amp;"),
                '<' => self.html.push_str("&lt;"),
                '>' => self.html.push_str("&gt;"),
                '"' => self.html.push_str("&quot;"),
                '\'' => self.html.push_str("&#39;"),
                '\n' => self.html.push_str("<br>"),
                '\t' => self.html.push_str("&nbsp;&nbsp;&nbsp;&nbsp;"),
                ' ' if !self.is_after_text => self.html.push_str("&nbsp;"),
                c => self.html.push(c),
            }
            self.is_after_text = !matches!(c, ' ' | '\n' | '\t');
        }
    }
}

/// Returns the visible text of HTML, with an empty line between blocks and `mark` before each line of a quotation.
pub fn visible_text(html: &str, mark: &str) -> String {
    let mut visible = VisibleText { mark: mark.to_owned(), ..VisibleText::default() };
    let mut rest = html;
    while let Some(at) = rest.find(['<', '&']) {
        visible.text(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.find(if rest.starts_with('<') { '>' } else { ';' }) {
            Some(end) => end + 1,
            None => break,
        };
        let (part, after) = rest.split_at(length);
        match part.strip_prefix('<') {
            Some(tag) => visible.tag(tag),
            None => visible.text(&entity(part)),
        }
        rest = after;
    }
    visible.text(rest);
    visible.text.trim_end().to_owned()
}

#[derive(Default)]
struct VisibleText {
    text: String,
    mark: String,
    quotes: usize,
    /// A block has begun or ended, and no text has followed yet.
    is_at_block: bool,
}

impl VisibleText {
    fn text(&mut self, text: &str) {
        if text.is_empty() || self.is_at_block && text.trim().is_empty() {
            return;
        }
        self.begin();
        self.text.push_str(&text.replace('\n', " "));
    }

    /// Starts a new block or line if the next text needs one.
    fn begin(&mut self) {
        if std::mem::take(&mut self.is_at_block) && !self.text.is_empty() {
            self.text.push_str("\n\n");
        }
        if self.text.is_empty() || self.text.ends_with('\n') {
            self.text.push_str(&self.mark.repeat(self.quotes));
        }
    }

    /// `br>`, `/p>`, `a href="…">`
    fn tag(&mut self, tag: &str) {
        const BLOCKS: &[&str] =
            &["p", "div", "li", "ul", "ol", "hr", "pre", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6"];
        let name = tag.split(|c: char| c.is_whitespace() || matches!(c, '>')).next().unwrap_or_default();
        match name.trim_end_matches('/').to_ascii_lowercase().as_str() {
            "br" => {
                self.begin();
                self.text.push('\n');
            }
            "blockquote" => (self.quotes, self.is_at_block) = (self.quotes + 1, true),
            "/blockquote" => (self.quotes, self.is_at_block) = (self.quotes.saturating_sub(1), true),
            name if BLOCKS.contains(&name.trim_start_matches('/')) => self.is_at_block = true,
            _ => {}
        }
    }
}

/// Decodes an entity; returns an unknown one unchanged.
fn entity(entity: &str) -> String {
    let name = entity.trim_matches(['&', ';']);
    let number = name.strip_prefix('#').and_then(|number| match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    });
    match name {
        "amp" => "&".to_owned(),
        "lt" => "<".to_owned(),
        "gt" => ">".to_owned(),
        "quot" => "\"".to_owned(),
        "nbsp" => " ".to_owned(),
        "lrm" => String::new(),
        _ => number.and_then(char::from_u32).map_or_else(|| entity.to_owned(), String::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_it_was_typed() {
        for (text, html) in [
            ("5 < 10 & <b>\"it's\"</b>", "5 &lt; 10 &amp; &lt;b&gt;&quot;it&#39;s&quot;&lt;/b&gt;"),
            (
                "seat   A\n      12\n\nbye",
                "seat &nbsp;&nbsp;A<br>&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;12<br><br>bye",
            ),
            ("[a](b) **c** `d` &lt;", "[a](b) **c** `d` &amp;lt;"),
        ] {
            let quote = Html::quote(text, 1000);
            assert_eq!(quote.as_str(), format!("<blockquote>{html}</blockquote>"));
            assert_eq!(visible_text(quote.as_str(), ""), text);
        }
    }

    #[test]
    fn a_link_shows_its_host() {
        for address in
            ["https://t.example", "http://T.example/a?b=c&d#e", "https://t.example:8443/", "https://[::1]/"]
        {
            let html = Html::link(address);
            assert!(html.as_str().starts_with("<a href=\"http"), "{html:?}");
            assert_eq!(visible_text(html.as_str(), ""), address);
        }
        for address in [
            "javascript:alert(1)",
            "ftp://t.example",
            "https://bank.example@evil.example/",
            "https:\\\\evil.example",
            "https:evil.example",
            "https://bänk.example/",
            "https://t.example/{{ticket.id}}",
            "https://t.example/\" onclick=\"x",
            "see https://t.example",
            &format!("https://t.example/{}", "x".repeat(LINE_BYTES)),
        ] {
            assert!(!Html::link(address).as_str().contains("<a"), "{address}");
        }
    }

    #[test]
    fn it_fits_whatever_it_is_made_of() {
        for text in ["x", "é", "👩\u{200d}👩\u{200d}👧", "<", "\"", "\n.", "  ", "{{", "e\u{301}", "\t."]
        {
            let long = text.repeat(3000);
            for room in [60, 500, 2999] {
                let quote = Html::quote(&format!("x{long}"), room);
                let mark = if room < SHORT_ROOM { "…" } else { " more characters)" };
                let end = format!("{mark}</blockquote>");
                assert!(quote.bytes() <= room && quote.as_str().ends_with(&end), "{quote:?}");
            }
            assert!(escaped(&line(&long)).len() <= LINE_BYTES);
        }
        let zalgo = Html::quote(&format!("e{}", "\u{301}".repeat(300_000)), 1000);
        assert!(zalgo.bytes() <= 1000 && zalgo.as_str().contains("e\u{301}\u{301}"));
    }

    #[test]
    fn html_is_read_as_a_person_reads_it() {
        for (html, text) in [
            ("<p>a<br>b</p><blockquote>c<br><br>d</blockquote><p>e</p>", "a\nb\n\n> c\n> \n> d\n\ne"),
            ("<H2 class=\"x\">a</H2>\n<ul>\n<li>b<li>c&nbsp;&#x41;&amp;lt;</ul>", "a\n\nb\n\nc A&lt;"),
            ("1 <2 & 3; &mdash;", "1 <2 & 3; &mdash;"),
            ("<br/>a<img src=x>", "\na"),
            ("", ""),
        ] {
            assert_eq!(visible_text(html, "> "), text);
        }
    }
}
