//! From an item to the ticket. Pure: the same item gives the same bytes, on any day.

use serde_json::{Value, json};
use unicode_segmentation::UnicodeSegmentation;

use crate::config;
use crate::notification::{Item, Note};

/// Zendesk documents no limit for a subject and was seen to cut at 255 characters.
const SUBJECT_GRAPHEMES: usize = 150;
/// A grapheme can be of any length: a letter may carry thousands of marks.
const SUBJECT_CHARS: usize = 2000;
/// Zendesk takes about 65,000 bytes of a comment, counted as HTML.
const COMMENT_BYTES: usize = 60_000;
const NOTES_BYTES: usize = 20_000;
/// For what is a name, a link or a date and may turn out to be a novel.
const FIELD_BYTES: usize = 2_000;
const TAG_LENGTH: usize = 80;
const TAGS: usize = 20;

/// All that a ticket is made of.
pub struct Draft<'a> {
    pub item: &'a Item,
    pub case_key: &'a str,
    /// The delivery's identity, by which a ticket of ours is known again.
    pub delivery: &'a str,
    pub route: &'a str,
    /// The one that the subscription is about: the event itself need not tell.
    pub label: &'a str,
    pub settings: &'a config::Ticket,
    pub plan: Plan,
    /// The user of the credential, if it is known.
    pub service_user: Option<u64>,
    /// The closed ticket that this one goes on with.
    pub follow_up: Option<u64>,
}

/// How much of what is configured a ticket has: each refusal takes something away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The author's user, or `None`: the user of the credential.
    pub requester: Option<u64>,
    pub fields: Fields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    Configured,
    /// None of those that only exist in one Zendesk account, and the tag [`FALLBACK_TAG`].
    Plain,
}

/// On a ticket for which Zendesk has refused the configured fields.
pub const FALLBACK_TAG: &str = "casebridge_fallback";

/// The body of `POST /api/v2/tickets`.
pub fn render(draft: &Draft) -> Value {
    let Draft { item, label, .. } = *draft;
    let mut ticket = json!({
        "subject": subject(item),
        "comment": { "body": comment(item, label), "public": draft.settings.public },
        "priority": "normal",
        "external_id": draft.case_key,
        "tags": tags(item, label),
        "metadata": { "delivery": draft.delivery, "eventUuid": item.event_id.as_deref().map(field) },
    });
    if let Some(closed) = draft.follow_up {
        ticket["via_followup_source_id"] = json!(closed);
    }
    json!({ "ticket": ticket })
}

/// `[Twitter] @jane: start of the text`
fn subject(item: &Item) -> String {
    let text = item.text.as_deref().unwrap_or("(no text)");
    let subject = format!("[{}] {}: {}", network_name(item), handle_or_name(item), clean(text));
    let collapsed = subject.split_whitespace().collect::<Vec<_>>().join(" ");
    let graphemes: Vec<&str> = collapsed.graphemes(true).take(SUBJECT_GRAPHEMES + 1).collect();
    let fits = graphemes.len() <= SUBJECT_GRAPHEMES && collapsed.chars().count() <= SUBJECT_CHARS;
    if fits {
        return collapsed;
    }
    let mut left = SUBJECT_CHARS - 1;
    let kept = graphemes.iter().take(SUBJECT_GRAPHEMES - 1).take_while(|grapheme| {
        let chars = grapheme.chars().count();
        let fits = chars <= left;
        left = left.saturating_sub(chars);
        fits
    });
    format!("{}…", kept.copied().collect::<String>().trim_end())
}

/// The link first, then the text, then who and when, and last what an agent must not overlook.
fn comment(item: &Item, label: &str) -> String {
    let before = item.link.as_deref().map(|link| format!("{}\n\n", field(link))).unwrap_or_default();
    let after = format!("\n\n{}{}\n{}", details(item, label), notes(&item.notes), last_line(item));
    let text = match item.text.as_deref().map(clean) {
        Some(text) => text,
        None if item.link.is_some() => "(This post has no text: see the link above.)".to_owned(),
        None => "(This post has no text and no link.)".to_owned(),
    };
    let room = COMMENT_BYTES.saturating_sub(html_bytes(&before) + html_bytes(&after));
    format!("{before}{}{after}", clip(&text, room, "… (cut here)"))
}

fn details(item: &Item, label: &str) -> String {
    let author = match (item.author.name.as_deref(), handle(item)) {
        (Some(name), Some(handle)) => Some(format!("{} ({handle})", field(name))),
        (Some(name), None) => Some(field(name)),
        (None, handle) => handle,
    };
    let others = item.labels.iter().map(String::as_str).filter(|other| *other != label);
    let labels: Vec<&str> = std::iter::once(label).chain(others).collect();
    let lines = [
        ("Author", author),
        ("Profile", item.author.link.as_deref().map(field)),
        ("Posted", item.created.as_deref().map(time)),
        ("Followers", item.author.followers.as_deref().map(field)),
        ("Labels", Some(field(&labels.join(", ")))),
        ("In reply to", item.in_reply_to.as_deref().map(field)),
    ];
    lines.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}\n", value?))).collect()
}

fn notes(notes: &[Note]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let lines = notes.iter().map(|note| {
        let author = note.author.as_deref().map_or("Khoros user".to_owned(), field);
        let created = note.created.as_deref().map(|created| format!(", {}", time(created)));
        format!("- {author}{}: {}\n", created.unwrap_or_default(), clean(&note.text))
    });
    let lines: String = lines.collect();
    format!("\nNotes in Khoros:\n{}", clip(&lines, NOTES_BYTES, "… (cut here)\n"))
}

fn last_line(item: &Item) -> String {
    format!(
        "A public reply to this ticket does not reach the author: answer on {}.",
        item.network().map_or("the network".to_owned(), |_| network_name(item))
    )
}

/// Always prefixed: a bare tag can select a value of a customer's own field.
fn tags(item: &Item, label: &str) -> Vec<String> {
    let network = item.network().map(|network| format!("khoros_{}", slug(network)));
    let labels = std::iter::once(label).chain(item.labels.iter().map(String::as_str));
    let labels = labels.map(slug).filter(|slug| !slug.is_empty());
    let labels = labels.map(|slug| format!("khoros_label_{slug}"));
    let mut tags = vec!["khoros".to_owned()];
    for mut tag in network.into_iter().chain(labels) {
        tag.truncate(TAG_LENGTH);
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags.truncate(TAGS);
    tags
}

/// Letters and digits of any script in lower case, all else as single underscores: ASCII only, so
/// that a tag can be cut anywhere; a label in another script is told by its code points.
fn slug(text: &str) -> String {
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

fn network_name(item: &Item) -> String {
    match item.network().map(str::to_lowercase).as_deref() {
        Some("linkedin") => "LinkedIn".to_owned(),
        Some("youtube") => "YouTube".to_owned(),
        Some("tiktok") => "TikTok".to_owned(),
        Some("x") => "X".to_owned(),
        Some(network) => network[..1].to_uppercase() + &network[1..],
        None => "Social".to_owned(),
    }
}

fn handle_or_name(item: &Item) -> String {
    let name = || item.author.name.as_deref().map(field);
    handle(item).or_else(name).unwrap_or_else(|| "unknown author".to_owned())
}

fn handle(item: &Item) -> Option<String> {
    let bare = item.author.screen_name.as_deref()?.trim_start_matches('@');
    (!bare.is_empty()).then(|| format!("@{}", field(bare)))
}

/// `2011-05-26T18:23:31.000Z` → `2011-05-26 18:23 UTC`; what is no such date stays as it is.
fn time(published: &str) -> String {
    match published.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => field(published),
    }
}

/// On one line and of bounded length.
fn field(text: &str) -> String {
    let line = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    clip(&line, FIELD_BYTES, "…")
}

/// Without control characters, and without what Zendesk would take for a placeholder: a comment by
/// our user is an agent's, and `{{ticket.requester.email}}` in a post would be filled in.
fn clean(text: &str) -> String {
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
fn clip(text: &str, room: usize, mark: &str) -> String {
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

/// The length as Zendesk counts it.
fn html_bytes(text: &str) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification;

    fn published(json: &str) -> Item {
        let arrivals = notification::parse(json.as_bytes(), 1234).unwrap();
        Item::from_payload(&arrivals[0].payload).unwrap()
    }

    fn item(fields: Value) -> Item {
        let json = json!({"eventUuid": "e", "data": {"items": [fields]}});
        published(&json.to_string())
    }

    fn ticket(item: &Item) -> Value {
        let draft = Draft {
            item,
            case_key: "khoros:1234:twitter:1",
            delivery: "khoros:1234:e:twitter:1",
            route: "label",
            label: "CreateCase",
            settings: &config::Ticket::default(),
            plan: Plan { requester: None, fields: Fields::Configured },
            service_user: None,
            follow_up: None,
        };
        render(&draft)["ticket"].clone()
    }

    #[test]
    fn the_published_example() {
        let json = include_str!("../../../tests/fixtures/stream-item-label-applied-twitter.json");
        assert_eq!(
            ticket(&published(json)),
            json!({
                "subject": "[Twitter] @author: Post Text",
                "comment": {
                    "body": "https://twitter.com/link\n\nPost Text\n\n\
                        Author: author (@author)\n\
                        Profile: https://twitter.com/author\n\
                        Posted: 2011-05-26 18:23 UTC\n\
                        Followers: 8424\n\
                        Labels: CreateCase\n\
                        In reply to: twitter:855485181481934848\n\n\
                        A public reply to this ticket does not reach the author: answer on Twitter.",
                    "public": false,
                },
                "priority": "normal",
                "external_id": "khoros:1234:twitter:1",
                "tags": ["khoros", "khoros_twitter", "khoros_label_createcase"],
                "metadata": {
                    "delivery": "khoros:1234:e:twitter:1",
                    "eventUuid": "67c53595-efc3-46aa-963b-89650bd4bd98",
                },
            })
        );
    }

    #[test]
    fn labels_and_notes() {
        let ticket = ticket(&item(json!({
            "entityId": "facebook:1_2", "text": "t", "labels": ["VIP - Gold!", "CreateCase", "日本"],
            "notes": [{"text": "call {{them}}", "createdByDisplayName": "Ann", "createdDate": "2017-04-12T09:01:11Z"},
                      {"text": "second"}],
        })));
        let body = ticket["comment"]["body"].as_str().unwrap();
        assert!(body.contains("Labels: CreateCase, VIP - Gold!, 日本\n"), "{body}");
        let notes =
            "\nNotes in Khoros:\n- Ann, 2017-04-12 09:01 UTC: call {\u{2060}{them}}\n- Khoros user: second\n";
        assert!(body.contains(notes), "{body}");
        assert_eq!(
            ticket["tags"],
            json!([
                "khoros",
                "khoros_facebook",
                "khoros_label_createcase",
                "khoros_label_vip_gold",
                "khoros_label_u65e5u672c"
            ])
        );
    }

    #[test]
    fn an_item_without_text_is_a_ticket_that_says_so() {
        let ticket =
            ticket(&item(json!({"entityId": "instagram:1", "link": "https://i.example/p/1", "text": " "})));
        assert_eq!(ticket["subject"], "[Instagram] unknown author: (no text)");
        let body = ticket["comment"]["body"].as_str().unwrap();
        assert!(body.starts_with("https://i.example/p/1\n\n(This post has no text: see the link above.)"));
    }

    #[test]
    fn a_subject_is_one_line_of_at_most_150_graphemes() {
        let family = "👩‍👩‍👧‍👦";
        let ticket = ticket(&item(json!({"text": family.repeat(500), "author": "A\n\tB"})));
        let subject = ticket["subject"].as_str().unwrap();
        assert_eq!(subject.graphemes(true).count(), SUBJECT_GRAPHEMES);
        assert!(subject.starts_with("[Social] A B: 👩‍👩‍👧‍👦") && subject.ends_with("👦…"));
    }

    #[test]
    fn placeholders_are_defused_everywhere() {
        let bomb = "{{ticket.requester.email}} {%if%} {{{x}}} {\u{0}{a}} {\r{";
        let ticket = ticket(&item(json!({
            "entityId": "twitter:1", "text": bomb, "author": bomb, "authorScreenName": bomb, "link": bomb,
            "authorLink": bomb, "createdDate": bomb, "followerCount": bomb, "inReplyTo": bomb,
            "labels": [bomb], "notes": [{"text": bomb, "createdByDisplayName": bomb, "createdDate": bomb}],
        })));
        let ticket = ticket.to_string();
        assert!(!ticket.contains("{{") && !ticket.contains("{%"), "{ticket}");
        assert!(ticket.contains("{\u{2060}{ticket.requester.email}}"), "only an invisible mark is added");
    }

    #[test]
    fn control_characters_are_removed() {
        let ticket =
            ticket(&item(json!({"entityId": "twitter:1", "text": "a\u{0}b\u{1b}[31m\u{7f}\u{9b}\r\nc\td"})));
        assert!(ticket["comment"]["body"].as_str().unwrap().starts_with("ab[31m\nc\td\n"));
    }

    #[test]
    fn a_comment_fits_whatever_it_is_made_of() {
        for text in ["x", "é", "👩‍👩‍👧‍👦", "<", "&", "\n.", "{{", "e\u{301}"] {
            let long = text.repeat(COMMENT_BYTES / text.len() + 1);
            let ticket = ticket(&item(json!({
                "text": long, "link": long, "author": long, "authorScreenName": long,
                "labels": [long], "notes": [{"text": long, "createdByDisplayName": long}],
            })));
            let body = ticket["comment"]["body"].as_str().unwrap();
            assert!(html_bytes(body) <= COMMENT_BYTES, "{} bytes of {text}", html_bytes(body));
            assert!(body.ends_with("answer on the network."));
        }
    }

    #[test]
    fn a_letter_with_endless_marks_is_cut_as_well() {
        let zalgo = format!("e{}", "\u{301}".repeat(300_000));
        let ticket = ticket(&item(json!({"entityId": "twitter:1", "text": zalgo, "author": "Jane"})));
        assert!(ticket["subject"].as_str().unwrap().chars().count() <= SUBJECT_CHARS);
        let body = ticket["comment"]["body"].as_str().unwrap();
        assert!(body.starts_with("e\u{301}\u{301}") && html_bytes(body) <= COMMENT_BYTES);
    }
}
