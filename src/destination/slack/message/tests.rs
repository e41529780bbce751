use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::delivery::{Claim, Origin};
use crate::item::{Author, Item, Priority, Report};
use crate::route::Route;

fn claim(cause: Option<&Cause>) -> Claim {
    Claim {
        target: String::new(),
        identity: "khoros:1:e:twitter:1".to_owned(),
        destination: "slack".to_owned(),
        case_key: "khoros:1:twitter:1".to_owned(),
        route: "label".to_owned(),
        payload: String::new(),
        origin: Origin::Push,
        cause: cause.map(|cause| serde_json::to_string(cause).unwrap()),
        request: None,
        request_memo: None,
        revision: 0,
        attempts: 1,
        tries: 0,
        in_doubt: false,
        received_at: 0,
        anew: false,
    }
}

/// Text as strangers write it: anything, and what Slack parses.
fn foreign() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        any::<String>(),
        Just("<!channel>".to_owned()),
        Just("<@U0123456789>".to_owned()),
        Just("<https://evil.example|bank>".to_owned()),
        Just("&lt;!here&gt;".to_owned()),
        Just("&&&&<<<<>>>>".repeat(200)),
        Just("\u{202e}\u{2066}`*_~".to_owned()),
        Just("👩\u{200d}👩\u{200d}👧".repeat(300)),
    ];
    vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

fn item() -> impl Strategy<Value = Item> {
    let report = (foreign(), foreign(), vec((foreign(), foreign()), 0..4));
    let report = report.prop_map(|(headline, opening, lines)| Report {
        headline,
        opening,
        lines: lines.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        ..Report::default()
    });
    let notes = vec((option::of(foreign()), foreign()), 0..8);
    let fields = (foreign(), foreign(), foreign(), foreign(), notes, option::of(report));
    fields.prop_map(|(text, name, link, label, notes, report)| Item {
        text: Some(text),
        author: Author { name: Some(name), ..Author::default() },
        link: Some(format!("https://twitter.com/{link}")),
        labels: vec![label],
        notes: notes.into_iter().map(|(author, text)| Note { author, created: None, text }).collect(),
        report,
        ..Item::default()
    })
}

/// The texts that Slack parses: the top-level text, and those of the type `mrkdwn`.
fn parsed(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) if fields.get("type") == Some(&json!("mrkdwn")) => {
            found.extend(fields["text"].as_str().map(str::to_owned));
        }
        Value::Object(fields) => fields.values().for_each(|value| parsed(value, found)),
        Value::Array(values) => values.iter().for_each(|value| parsed(value, found)),
        _ => {}
    }
}

fn characters(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.values().map(characters).sum(),
        Value::Array(values) => values.iter().map(characters).sum(),
        Value::String(text) => text.encode_utf16().count(),
        _ => 0,
    }
}

fn check(message: &Message) {
    let (body, failure) = message.body();
    assert_eq!(failure, None);
    let mentions: String = message.mentions.iter().map(|mention| mention.markup() + " ").collect();
    let text = body["text"].as_str().unwrap();
    let mut texts = vec![text.strip_prefix(&mentions).unwrap().to_owned()];
    parsed(&body["blocks"], &mut texts);
    for text in texts {
        assert!(!text.contains(['<', '>']), "{text}");
        let entities = text.split('&').skip(1);
        let is_entity = |rest: &str| ["amp;", "lt;", "gt;"].iter().any(|entity| rest.starts_with(entity));
        assert!(entities.into_iter().all(is_entity), "{text}");
    }
    assert!(text.encode_utf16().count() <= TEXT && !text.trim().is_empty());
    for block in body["blocks"].as_array().into_iter().flatten() {
        assert!(block["block_id"].as_str().is_none_or(|id| id.len() <= 255));
        for part in block["elements"].as_array().unwrap() {
            let texts = part["elements"].as_array().cloned().unwrap_or_else(|| vec![part.clone()]);
            for text in texts {
                let length = text["text"].as_str().unwrap_or_default().encode_utf16().count();
                assert!(length <= 3100 && (text["text"] != ""), "{length}");
            }
        }
    }
    // Slack adds up all texts of the blocks.
    assert!(characters(&body["blocks"]) <= 13_200, "{}", characters(&body["blocks"]));
    assert_eq!((&body["unfurl_links"], &body["unfurl_media"]), (&json!(false), &json!(false)));
    assert_eq!(Mark::of(&body).as_ref(), Some(message.mark));
    let mut without = body.clone();
    without["metadata"] = Value::Null;
    assert_eq!(Mark::of(&without), (!message.is_plain).then(|| message.mark.clone()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_foreign_is_parsed_and_no_limit_is_exceeded(item in item(), has_ticket: bool, is_plain: bool) {
        let cause = Cause { number: "4711".into(), url: "https://a.zendesk.com/agent/tickets/4711".into(), action: "commented".into(), ..Cause::default() };
        let claim = claim(Some(&cause).filter(|_| has_ticket));
        let job = Job { claim: &claim, item: &item, route: &Route::default() };
        let mentions = vec![Mention::Here, Mention::Group("S0123456789".into())];
        let target = Target { channel: "C0123456789".into(), text: None, mentions: mentions.clone(), priority: Priority::Normal };
        let mark = Mark::new(&claim.identity, &claim.case_key);
        let notes: Vec<&Note> = item.notes.iter().collect();
        for place in [
            Place::Root,
            Place::Edit { ts: "1.2", editor: &mark.id, replies: 3 },
            Place::Reply { root: "1.2", notes: &notes },
        ] {
            let notices = vec!["This may be a duplicate".to_owned()];
            check(&Message { job: &job, target: &target, mark: &mark, place, mentions: &mentions, notices, is_plain, has_no_metadata: false });
        }
    }
}
