//! Comments as an agent reads them.

/// Returns HTML as plain text, as browsers lay it out: spaces collapse, `<br>` ends a line, and an empty
/// line stands between blocks.
pub(super) fn plain_text(html: &str) -> String {
    let mut layout = Layout::default();
    let mut rest = html;
    while let Some(c) = rest.chars().next() {
        let length = match (c, tag(rest), entity(rest)) {
            ('<', Some((name, length)), _) => {
                layout.add_tag(&name);
                length
            }
            ('&', _, Some((decoded, length))) => {
                layout.add_visible(decoded);
                length
            }
            _ => {
                layout.add(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    layout.text.trim_end().to_owned()
}

/// Whether Zendesk refuses the text as blank: it has nothing but white space and characters without a shape.
pub(super) fn is_blank(text: &str) -> bool {
    let is_shapeless = |c| {
        matches!(c,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
    };
    text.chars().all(|c| c.is_whitespace() || c.is_control() || is_shapeless(c))
}

/// Fills in the placeholders of an agent's comment, which Zendesk treats as a template.
pub(super) fn fill_placeholders(body: &str) -> String {
    fill_between(&fill_between(body, "{{", "}}"), "{%", "%}")
}

fn fill_between(body: &str, open: &str, close: &str) -> String {
    let (mut filled, mut rest) = (String::new(), body);
    while let Some((before, after)) = rest.split_once(open) {
        let Some((_, behind)) = after.split_once(close) else { break };
        filled.push_str(before);
        filled.push_str("[expanded]");
        rest = behind;
    }
    filled + rest
}

/// The text so far, and the space before its next visible character.
#[derive(Default)]
struct Layout {
    text: String,
    gap: Gap,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Gap {
    #[default]
    None,
    Space,
    Paragraph,
}

impl Layout {
    fn add(&mut self, c: char) {
        match c.is_ascii_whitespace() {
            true if self.gap == Gap::None => self.gap = Gap::Space,
            true => {}
            false => self.add_visible(c),
        }
    }

    /// Adds a character that does not collapse.
    fn add_visible(&mut self, c: char) {
        let is_line_start = self.text.is_empty() || self.text.ends_with('\n');
        self.end_paragraph();
        if std::mem::take(&mut self.gap) == Gap::Space && !is_line_start {
            self.text.push(' ');
        }
        self.text.push(c);
    }

    fn end_paragraph(&mut self) {
        if self.gap == Gap::Paragraph {
            self.gap = Gap::None;
            self.text.push_str(if self.text.is_empty() { "" } else { "\n\n" });
        }
    }

    fn add_tag(&mut self, name: &str) {
        match name {
            "br" => {
                self.end_paragraph();
                self.gap = Gap::None;
                self.text.push('\n');
            }
            "p" | "div" | "blockquote" | "pre" | "hr" | "ul" | "ol" | "li" | "table" | "tr" | "h1" | "h2"
            | "h3" | "h4" | "h5" | "h6" => self.gap = Gap::Paragraph,
            _ => {}
        }
    }
}

/// The name of the tag that the text begins with, and the length of the tag.
pub(super) fn tag(text: &str) -> Option<(String, usize)> {
    let inside = text.strip_prefix('<')?;
    let (inside, _) = inside.split_once('>')?;
    let name = inside.strip_prefix('/').unwrap_or(inside);
    // Browsers show any other `<` as it is.
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!').then(|| {
        let end = name.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(name.len());
        (name[..end].to_ascii_lowercase(), inside.len() + 2)
    })
}

/// The character of the entity that the text begins with, and the length of the entity.
fn entity(text: &str) -> Option<(char, usize)> {
    let (name, _) = text.strip_prefix('&')?.split_once(';')?;
    let decoded = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
    };
    Some((decoded, name.len() + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_laid_out_as_text() {
        for (html, text) in [
            ("<p>a<br>b</p>\n<blockquote>c &amp; d</blockquote>", "a\nb\n\nc & d"),
            ("a  b\n c&nbsp;&nbsp;d <BR/> e", "a b c  d\ne"),
            ("1 < 2 &amp;lt; <b class=\"x\">&#x41;&#66;</b> &mdash;", "1 < 2 &lt; AB &mdash;"),
            ("<ul><li>a<li>b</ul><!-- c --> ", "a\n\nb"),
            ("a & b; <", "a & b; <"),
        ] {
            assert_eq!(plain_text(html), text, "{html}");
        }
    }

    #[test]
    fn text_without_a_visible_character_is_blank() {
        assert!(is_blank("") && is_blank(" \n\u{a0}\u{200b}\u{feff}\u{e0067}"));
        assert!(!is_blank("\u{200b}.") && !is_blank("👍"));
    }
}
