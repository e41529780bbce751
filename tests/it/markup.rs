//! What strangers write is shown as they typed it, in its place, and is never markup.

use std::collections::BTreeSet;

use casebridge::destination::template::Template;
use casebridge::destination::zendesk::memory::Changes;
use casebridge::destination::zendesk::plan::{Fields, Plan, RequesterUser};
use casebridge::destination::zendesk::settings::ticket::Ticket;
use casebridge::destination::zendesk::ticket::{self, Draft};
use casebridge::item::Item;
use casebridge::source::khoros::notification;
use casebridge::text::clean;
use casebridge_sandbox::zendesk::Fault;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use scraper::{ElementRef, Html, Node};

use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use crate::harness::{PRIVATE, event_with, for_any, run_on_sqlite};

/// A comment as a browser reads it.
struct Seen {
    elements: BTreeSet<String>,
    /// Address and text of each link.
    links: Vec<(String, String)>,
    /// The blocks, each by its element and its text; of a list, its items.
    blocks: Vec<(String, String)>,
}

impl Seen {
    fn of(html: &str) -> Seen {
        let document = Html::parse_fragment(html);
        let mut seen = Seen { elements: BTreeSet::new(), links: Vec::new(), blocks: Vec::new() };
        for block in document.root_element().child_elements() {
            match block.value().name() {
                "ul" => block.child_elements().for_each(|item| seen.add(item)),
                _ => seen.add(block),
            }
        }
        let outside = document.root_element().children().filter_map(|node| node.value().as_text());
        assert_eq!(outside.count(), 0, "text outside of a block: {html}");
        seen
    }

    fn add(&mut self, block: ElementRef) {
        let text = self.read(block);
        self.blocks.push((block.value().name().to_owned(), text));
    }

    fn names(&self) -> Vec<&str> {
        self.blocks.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The texts of all blocks of one kind.
    fn texts(&self, name: &str) -> Vec<&str> {
        self.blocks.iter().filter(|(own, _)| own == name).map(|(_, text)| text.as_str()).collect()
    }

    fn read(&mut self, element: ElementRef) -> String {
        let (name, text) = (element.value().name().to_owned(), self.read_children(element));
        for (attribute, value) in element.value().attrs() {
            match attribute {
                "href" => self.links.push((value.to_owned(), text.clone())),
                "rel" | "title" => {}
                _ => panic!("{name} has {attribute}"),
            }
        }
        let is_break = name == "br";
        self.elements.insert(name);
        if is_break { "\n".to_owned() } else { text }
    }

    fn read_children(&mut self, element: ElementRef) -> String {
        let mut all = String::new();
        for node in element.children() {
            match (node.value(), ElementRef::wrap(node)) {
                // The mark behind letters from right to left is ours, and nobody sees it.
                (Node::Text(text), _) => all.push_str(&text.replace('\u{a0}', " ").replace('\u{200e}', "")),
                (_, Some(child)) => all.push_str(&self.read(child)),
                (other, None) => panic!("neither text nor element: {other:?}"),
            }
        }
        all
    }
}

/// What of a text is to be seen.
fn typed(text: &str) -> String {
    clean(text).replace('\u{2060}', "").replace('\t', "    ").replace('\u{a0}', " ")
}

fn is_quoted(seen: &str, text: &str) -> bool {
    let seen = seen.replace('\u{2060}', "");
    seen == typed(text)
}

fn on_one_line(text: &str) -> String {
    typed(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn item(fields: Value) -> Item {
    let json = json!({"eventUuid": "e", "data": {"items": [fields]}}).to_string();
    let arrivals = notification::parse("", json.as_bytes(), 7).unwrap();
    casebridge::source::item(&arrivals[0].payload).unwrap()
}

fn rendered(item: &Item, settings: &Ticket) -> Value {
    let plan = Plan { requester: RequesterUser::Service, fields: Fields::Configured, follow_up: None };
    let draft = Draft {
        item,
        case_key: "case",
        delivery: "delivery",
        route: "label",
        label: "CreateCase",
        settings,
        plan,
        service_user: None,
    };
    let rendered = ticket::render(&draft);
    assert_eq!(rendered.failures, [""; 0]);
    rendered.ticket["ticket"].clone()
}

/// Pieces of markup and of our own layout, characters that cannot be seen, and anything else.
fn foreign_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => select(vec![
            "<", ">", "&", "\"", "'", "<br>", "<p>", "</p>", "</blockquote>", "<script>alert(1)</script>",
            "<a href=\"https://evil.example\">", "<img src=x onerror=alert(1)>", "&lt;", "&#60;", "&nbsp;",
            "[https://bank.example](https://evil.example)", "![](https://evil.example/p.png)", "**", "__",
            "# ", "> ", "`", "~~", "1. ", "{{", "{%", "}}", "{", "Khoros notes (internal)", "refund approved", " · ", "</li><li>",
            "\n", "\r\n", "\u{2028}", "  ", "\t", "\u{202e}", "\u{2066}", "\u{200b}", "\u{200d}", "\u{fe0f}",
            "javascript:alert(1)", "https://t.example/a?b=1&c=2", "<!--", "-->", "<![CDATA[", "\0",
            "👩\u{200d}👧", "é", "日本",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    vec(piece, 1..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn foreign_text_is_shown_as_typed() {
    let texts = (foreign_text(), foreign_text(), foreign_text(), foreign_text(), foreign_text());
    for_any(300, texts, |(text, name, handle, link, note)| {
        let item = item(json!({
            "entityId": "twitter:1", "text": format!("t{text}"), "author": name, "authorScreenName": handle,
            "link": format!("https://t.example/{link}"), "authorLink": link, "labels": [name],
            "notes": [{"text": format!("n{note}"), "createdByDisplayName": name, "createdDate": note}],
        }));
        let ticket = rendered(&item, &Ticket::default());
        let html = ticket["comment"]["html_body"].as_str().unwrap();
        let seen = Seen::of(html);
        check_markup(html, &seen);
        check_places(&seen, &item, html);
        let subject = ticket["subject"].as_str().unwrap();
        assert!(!subject.contains(['\n', '\r', '\u{202e}']) && !subject.contains("{{"), "{subject}");
    });
}

/// Everything of the item stands in its own place, and nothing outside of the quotation has a second line.
fn check_places(seen: &Seen, item: &Item, html: &str) {
    let labels = item.labels.iter().map(|label| on_one_line(label));
    let has_others = labels.clone().any(|label| !label.is_empty() && label != "CreateCase");
    let labels = if has_others { &["p"][..] } else { &[] };
    assert_eq!(seen.names(), [&["p", "blockquote", "p"][..], labels, &["p", "li"]].concat(), "{html}");
    assert!(is_quoted(seen.texts("blockquote")[0], item.text.as_deref().unwrap()), "{html}");
    let lines = seen.texts("p");
    assert!(lines.iter().all(|line| !line.contains('\n')), "{html}");
    assert!(lines[0].starts_with("Open on t.example ↗ · ") || lines[0].starts_with("Address: "), "{html}");
    assert!(
        lines[0].ends_with(
            " · reply there: a reply to this ticket does not reach the author · labelled \"CreateCase\""
        ),
        "{html}"
    );
    let name = on_one_line(item.author.name.as_deref().unwrap_or_default());
    // A long one is cut.
    let start: String = name.chars().take(15).collect();
    assert!(lines[1].replace('\u{2060}', "").starts_with(start.trim_end()), "{html}");
    assert_eq!(lines.last(), Some(&"Khoros notes (internal)"), "{html}");
    let note = seen.texts("li")[0].replace('\u{2060}', "");
    let author = if name.is_empty() { "Khoros user" } else { &name };
    assert!(note.starts_with(author) && note.ends_with(&on_one_line(&item.notes[0].text)), "{html}");
    assert!(!note.contains('\n'), "{html}");
}

fn check_markup(html: &str, seen: &Seen) {
    let known = ["a", "blockquote", "br", "li", "p", "strong"].map(str::to_owned).into();
    assert!(seen.elements.is_subset(&known), "{:?} of {html}", seen.elements);
    for (address, text) in &seen.links {
        assert!(address.starts_with("https://") || address.starts_with("http://"), "{html}");
        let host = address.split('/').nth(2).unwrap();
        assert!(text.contains(host), "{html}");
    }
    assert!(!html.contains("{{") && !html.contains("{%"), "{html}");
}

#[test]
fn a_later_comment_and_templates_are_no_markup_either() {
    let template =
        |text: &str| Ticket { comment: Some(Template::new("T", text).unwrap()), ..Ticket::default() };
    let html = |text: &str| Ticket { comment: Some(Template::html("T", text).unwrap()), ..Ticket::default() };
    let as_text = template("{{ item.text }}");
    let as_html = html("<p>{{ item.text }}</p><p title=\"{{ item.text }}\">{{ item.notes[0].text }}</p>");
    for_any(200, (foreign_text(), foreign_text()), |(text, note)| {
        let item = item(json!({
            "entityId": "twitter:1", "text": format!("t{text}"), "notes": [{"text": format!("n{note}")}],
        }));
        let notes = item.notes.clone();
        let update = ticket::render_update(
            &item,
            &text,
            &note,
            &Ticket::default(),
            &Changes { text_changed: true, notes, ..Changes::default() },
        );
        let html = update.comment.as_str();
        let seen = Seen::of(html);
        check_markup(html, &seen);
        assert_eq!(seen.names(), ["p", "p", "blockquote", "p", "li"], "{html}");
        assert!(is_quoted(seen.texts("blockquote")[0], item.text.as_deref().unwrap()), "{html}");
        let note = format!("Khoros user: {}", on_one_line(&item.notes[0].text));
        assert_eq!(seen.texts("li")[0].replace('\u{2060}', ""), note, "{html}");

        let ticket = rendered(&item, &as_text);
        let html = ticket["comment"]["html_body"].as_str().unwrap();
        let seen = Seen::of(html);
        check_markup(html, &seen);
        assert!(
            is_quoted(seen.texts("blockquote")[0], clean(item.text.as_deref().unwrap()).trim()),
            "{html}"
        );

        let ticket = rendered(&item, &as_html);
        let html = ticket["comment"]["html_body"].as_str().unwrap();
        let html = html.split_once("<p title=").map(|(first, _)| first).unwrap();
        let seen = Seen::of(html);
        check_markup(html, &seen);
        let all = seen.texts("p").join("\n");
        assert!(is_quoted(&all, &format!("t{text}")), "{html}");
    });
}

/// Each of these was lost, changed or live when it was sent as Markdown.
#[tokio::test]
async fn markdown_in_a_post_reaches_zendesk_as_typed() {
    let posts = [
        "Your app says <order number missing> and 5 < 10 but 20 > 3, I <3 you no more",
        "<br>",
        "*** WORST SERVICE *** it is __not__ ok, pay me 5*20*3 dollars, see order _12_34_",
        "# one of many\nI ordered and nothing came",
        "Refund form: [https://bank.example/refund](https://evil.example/steal)",
        "look ![x](https://evil.example/pixel.png?who=agent)",
        "2019. was a good year\n3. and then this",
        "> you said this\nand I say no",
        "use `code` SAVE10 and\n\n    four spaces",
        "seat   A   B\n      12  13\n\n\n\nbye",
        "price ~~10~~ 20 and a_b_c",
    ];
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        for (number, post) in posts.iter().enumerate() {
            let notification = event_with(&format!("e{number}"), &number.to_string(), |item| {
                item["text"] = json!(format!("{PRIVATE}: {post}"));
                item["authorScreenName"] = json!("_jane_doe_");
            });
            world.notify(&notification).await;
            bridge.wait_for_nth("delivery_done", number + 1).await;
            let ticket = world.tickets(number + 1).await.pop().unwrap();
            let html = ticket["comment"]["html_body"].as_str().unwrap();
            let seen = Seen::of(html);
            check_markup(html, &seen);
            assert_eq!(seen.texts("blockquote"), [format!("{PRIVATE}: {post}")]);
            assert!(seen.texts("p")[1].starts_with("Jane Doe (@_jane_doe_ · "), "{html}");
        }
    })
    .await;
}

/// Nobody sees such a text, and Zendesk may refuse a comment of it.
#[tokio::test]
async fn posts_without_a_visible_text_are_tickets_and_stop_nothing() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_COMMENT", "{{ item.text }}");
        let bridge = world.start().await;
        for (number, text) in
            ["\u{200b}", "\u{202e}\u{2066}", "\u{feff}\u{ad}", "\u{3164}"].iter().enumerate()
        {
            let notification =
                event_with(&format!("e{number}"), &number.to_string(), |item| item["text"] = json!(text));
            world.notify(&notification).await;
            bridge.wait_for_nth("delivery_done", number + 1).await;
        }
        for ticket in world.tickets(4).await {
            assert!(ticket["comment"]["body"].as_str().unwrap().contains("(no text)"), "{ticket}");
            assert!(ticket["subject"].as_str().unwrap().ends_with("(no text)"), "{ticket}");
        }
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// Three posts that Zendesk takes for blank, for a reason that we do not know: each is its own failure.
#[tokio::test]
async fn refused_empty_comments_do_not_pause_the_others() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        for number in 0..5 {
            world.zendesk.queue([Fault::Blank]);
            let post = number.to_string();
            world.notify(&event_with(&format!("e{number}"), &post, |_| {})).await;
            bridge.wait_for_nth("delivery_dead", number + 1).await;
        }
        world.notify(&event_with("e9", "9", |_| {})).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert_eq!(bridge.count("destination_paused"), 0);
    })
    .await;
}

/// As version 0.1 froze it: the same key with other bytes would be refused.
#[tokio::test]
async fn bytes_frozen_by_an_earlier_version_are_sent_unchanged() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        world.zendesk.queue([Fault::TooMany(2)]);
        world.notify(&event_with("e1", "1", |item| item["notes"] = json!([{"text": "call them at once"}]))).await;
        bridge.wait_for("destination_paused").await;
        bridge.kill().await;
        let frozen = json!({"ticket": {
            "subject": "[Twitter] old", "external_id": "khoros:1234:twitter:1", "priority": "normal",
            "tags": ["khoros"], "metadata": {"delivery": "khoros:1234:e1:twitter:1"},
            "comment": {"body": "old\n\nNotes in Khoros:\n- Khoros user: call them at once\n", "public": false},
        }})
        .to_string();
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        let changed = sqlx::query("update delivery set request = $1").bind(&frozen);
        assert_eq!(changed.execute(&mut connection).await.unwrap().rows_affected(), 1);

        let bridge = world.start().await;
        bridge.wait_for("delivery_done ticket=1000").await;
        let ticket = world.tickets(1).await.remove(0);
        assert_eq!(ticket["comment"]["body"], "old\n\nNotes in Khoros:\n- Khoros user: call them at once\n");
        // What it holds of the notes is still known.
        world.notify(&event_with("e2", "1", |item| {
            item["notes"] = json!([{"text": "call them at once"}]);
        }))
        .await;
        bridge.wait_for("delivery_done delivery=khoros:1234:e2:* ticket=1000").await;
        assert_eq!(world.zendesk.model().comments(1000).len(), 1);
        world.check_one_ticket_per_case().await;
    })
    .await;
}
