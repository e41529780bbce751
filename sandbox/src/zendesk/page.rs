//! Pages on which a person sees the tickets, at the addresses of Zendesk's agent interface.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::Value;

use super::text::tag;
use super::{Fault, Model, SERVICE_USER, Shared};

const FRAME: &str = include_str!("../../../tests/fixtures/tickets/frame.html");
/// Neither scripts nor anything from another host.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// The tags that a comment keeps, without their attributes; links keep their address.
const TAGS: &[&str] = &[
    "b",
    "blockquote",
    "br",
    "code",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "i",
    "li",
    "ol",
    "p",
    "pre",
    "strong",
    "ul",
];

/// A comment on a page: who wrote it, and its HTML.
pub struct Comment {
    /// A line of plain text above the comment.
    pub head: String,
    /// Tags other than those of simple formatting are shown as text.
    pub html: String,
}

/// Returns a page with a ticket as an agent sees it. All values but the HTML of comments are plain text.
pub fn ticket_page(subject: &str, priority: &str, tags: &[String], comments: &[Comment]) -> String {
    let tags: Vec<String> = tags.iter().map(|tag| format!("<span>{}</span>", escaped(tag))).collect();
    let comments: Vec<String> = comments
        .iter()
        .map(|comment| {
            let (head, html) = (escaped(&comment.head), formatted(&comment.html));
            format!("<div class=\"comment\"><div class=\"who\">{head}</div>\n{html}\n</div>")
        })
        .collect();
    fill(
        FRAME,
        &[
            ("SUBJECT", &escaped(subject)),
            // The class, in quotation marks.
            ("PRIORITY", &escaped(priority).replace('"', "&quot;")),
            ("PRIORITY", &escaped(priority)),
            ("TAGS", &tags.join(" ")),
            ("COMMENTS", &comments.join("\n")),
        ],
    )
}

/// Fills the placeholders of a frame in their order, so that no value is taken for a placeholder.
fn fill(frame: &str, values: &[(&str, &str)]) -> String {
    let (mut page, mut rest) = (String::new(), frame);
    for (place, value) in values {
        let (before, after) = rest.split_once(place).unwrap_or((rest, ""));
        page.extend([before, value]);
        rest = after;
    }
    page + rest
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// HTML with only simple formatting and links to web pages: anything else that looks like a tag is shown as text.
fn formatted(html: &str) -> String {
    let (mut clean, mut rest) = (String::new(), html);
    while let Some((before, from)) = rest.split_once('<').map(|(before, _)| (before, &rest[before.len()..])) {
        clean.push_str(before);
        let kept = tag(from).and_then(|(name, length)| Some((kept(&name, &from[..length])?, length)));
        let (shown, length) = kept.unwrap_or(("&lt;".to_owned(), 1));
        clean.push_str(&shown);
        rest = &from[length..];
    }
    clean + rest
}

/// The tag as the page has it; `None` if it is not kept.
fn kept(name: &str, tag: &str) -> Option<String> {
    let is_end = tag.starts_with("</");
    match name {
        "a" if is_end => Some("</a>".to_owned()),
        "a" => {
            let (_, address) = tag.split_once("href=\"")?;
            let (address, _) = address.split_once('"')?;
            let is_web = ["http://", "https://"].iter().any(|scheme| address.starts_with(scheme));
            is_web.then(|| format!("<a href=\"{address}\" rel=\"noopener noreferrer\">"))
        }
        name if TAGS.contains(&name) => Some(format!("<{}{name}>", if is_end { "/" } else { "" })),
        _ => None,
    }
}

/// `GET /agent/tickets/{id}`
pub(super) async fn ticket(State(shared): State<Shared>, Path(id): Path<u64>) -> Response {
    let model = shared.model();
    match model.ticket(id) {
        Some(ticket) => page(page_of(&model, id, ticket)),
        None => (StatusCode::NOT_FOUND, "there is no such ticket\n").into_response(),
    }
}

/// `GET /agent/tickets`: links to all tickets, the newest first.
pub(super) async fn tickets(State(shared): State<Shared>) -> Response {
    let model = shared.model();
    let links = model.tickets.iter().rev().map(|ticket| {
        let subject = escaped(ticket["subject"].as_str().unwrap_or_default());
        format!("<li><a href=\"/agent/tickets/{id}\">{id}</a> {subject}</li>", id = ticket["id"])
    });
    let links: String = links.collect();
    page(format!("<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>Tickets</title>\n<ul>{links}</ul>\n"))
}

/// `POST /refuse`: the next ticket is refused, for somebody at a terminal who wants to see a dead delivery.
pub(super) async fn refuse(State(shared): State<Shared>) -> &'static str {
    shared.change(|model| model.faults.push_back(Fault::Invalid));
    "Zendesk will refuse the next ticket\n"
}

fn page(html: String) -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(html)).into_response()
}

fn page_of(model: &Model, id: u64, ticket: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tags: Vec<String> = ticket["tags"].as_array().into_iter().flatten().map(text).collect();
    let comments = model.comments(id).into_iter().map(|comment| {
        let kind = if comment["public"] == true { "public reply" } else { "internal note" };
        Comment {
            head: format!("{} · {kind}", name_of(model, &comment["author_id"])),
            html: text(&comment["html_body"]),
        }
    });
    let comments: Vec<Comment> = comments.collect();
    let requester = name_of(model, &ticket["requester_id"]);
    let tags: Vec<String> = std::iter::once(format!("Requester: {requester}")).chain(tags).collect();
    ticket_page(&text(&ticket["subject"]), ticket["priority"].as_str().unwrap_or("normal"), &tags, &comments)
}

/// The name of a user, of the service user or of an agent.
fn name_of(model: &Model, id: &Value) -> String {
    let user = id.as_u64().and_then(|id| model.user(id));
    match user.and_then(|user| user["name"].as_str()) {
        Some(name) => name.to_owned(),
        None if *id == SERVICE_USER => "casebridge".to_owned(),
        None => format!("Agent {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_keeps_simple_formatting_alone() {
        for (html, shown) in [
            ("<p>a<br>b &lt;c&gt;</p>", "<p>a<br>b &lt;c&gt;</p>"),
            ("<script>x</script>", "&lt;script>x&lt;/script>"),
            ("</div><p onclick=\"x\">1 < 2", "&lt;/div><p>1 &lt; 2"),
            (
                "<a href=\"https://a.example/?b&amp;c\" onclick=\"x\">d</a>",
                "<a href=\"https://a.example/?b&amp;c\" rel=\"noopener noreferrer\">d</a>",
            ),
            ("<a href=\"javascript:x\">d</a>", "&lt;a href=\"javascript:x\">d</a>"),
        ] {
            assert_eq!(formatted(html), shown);
        }
    }

    #[test]
    fn a_value_is_not_taken_for_a_place() {
        let comment = Comment { head: "TAGS".to_owned(), html: "<p>SUBJECT</p>".to_owned() };
        let page = ticket_page("COMMENTS <b>", "high", &["PRIORITY".to_owned()], &[comment]);
        assert!(
            page.contains("<h1>COMMENTS &lt;b></h1>") && page.contains("<span>PRIORITY</span>"),
            "{page}"
        );
        assert!(page.contains("<div class=\"who\">TAGS</div>\n<p>SUBJECT</p>"), "{page}");
    }
}
