//! Messages of Khoros' users, which are approved, sent to a network, and published.

use serde_json::Value;

use super::{MAX_LINES, MessageStep, moment, network};
use crate::item::{Line, Report};
use crate::json::text;

/// Each message is one case: it is sent to a network first and published later.
pub(super) fn describe(step: MessageStep, message: &Value) -> Report {
    let content = &message["content"];
    let (id, title) = (text(&message["id"]), text(&message["title"]));
    // A status has a text, a picture a caption, a video a description or at least a title.
    let names = ["text", "caption", "description", "videoTitle"];
    let message_text = names.iter().find_map(|name| text(&content[name]));
    let name = title.clone().or_else(|| message_text.clone()).unwrap_or_else(|| "(no text)".to_owned());
    // In the published example, the title repeats the start of the text.
    let title = title
        .filter(|title| message_text.as_ref().is_none_or(|message_text| !message_text.starts_with(title)));
    let failed = results(message).filter(|result| result["status"] == "ERROR").count();
    let (kind, headline, opening) = match step {
        MessageStep::NeedsApproval => ("", "message needs approval", "The message needs approval in Khoros"),
        MessageStep::SentToNetwork => (
            "",
            "message sent to the network",
            "The message was sent to the network, which publishes it at the scheduled time",
        ),
        MessageStep::Published if failed == 0 => ("", "message published", "The message was published"),
        MessageStep::Published if failed < results(message).count() => {
            ("partly", "message partly published", "The message was not published everywhere")
        }
        MessageStep::Published => ("failed", "message not published", "The message could not be published"),
    };
    let when = results(message).find_map(|result| moment::of(&result["datePublished"]));
    Report {
        case: id.as_ref().map(|id| format!("message:{id}")),
        id: id.clone(),
        kind: kind.to_owned(),
        network: network(message),
        headline: format!("{headline}: {name}"),
        subject: name,
        opening: opening.to_owned(),
        lines: lines(message, title, id, when.as_deref()),
        when,
        text: message_text,
        advice: match step {
            MessageStep::NeedsApproval => Some("Approve or reject the message in Khoros."),
            _ if failed > 0 => Some("Check in Khoros where the message was not published."),
            _ => None,
        },
        ..Report::default()
    }
}

fn lines(message: &Value, title: Option<String>, id: Option<String>, when: Option<&str>) -> Vec<Line> {
    let content = &message["content"];
    let accounts: Vec<String> = list(&message["targetAccountIds"]).filter_map(text).collect();
    let mut lines = super::lines([
        ("Title", title),
        ("Accounts", Some(accounts.join(", ")).filter(|accounts| !accounts.is_empty())),
        ("State", readable(&message["status"])),
        ("Scheduled for", moment::of(&message["scheduledPublishDate"])),
        // Nearly every message is visible and not delegated.
        ("Visibility", readable(&message["organicVisibility"]).filter(|state| state != "visible")),
        ("Delegation", readable(&message["delegationStatus"]).filter(|state| state != "not delegated")),
    ]);
    lines.extend(results(message).take(MAX_LINES).flat_map(|one| result(one, when)));
    let images = std::iter::once(content).chain(list(&content["images"]));
    let images = images.filter_map(|image| Some(("Image".into(), text(&image["temporaryImageUrl"])?)));
    lines.extend(images.take(MAX_LINES));
    lines.extend(super::lines([("Video", text(&content["videoTitle"])), ("Message id", id)]));
    lines
}

fn results(message: &Value) -> impl Iterator<Item = &Value> {
    list(&message["publicationResults"])
}

/// Lists the address, or else the account, and the time of a publication. Omits the time if the report has it.
fn result(result: &Value, when: Option<&str>) -> impl Iterator<Item = Line> {
    let name = match readable(&result["status"]).as_deref() {
        None | Some("published") => "Published".to_owned(),
        Some("error") => "Not published".to_owned(),
        Some("pending") => "Not published yet".to_owned(),
        Some(status) => format!("Publication {status}"),
    };
    let fields = ["serviceLink", "serviceId", "accountId"];
    let value = fields.iter().find_map(|field| text(&result[field]));
    let time = moment::of(&result["datePublished"]).filter(|time| Some(time.as_str()) != when);
    let time = time.map(|time| ("Published at".into(), time));
    value.map(|value| (name.into(), value)).into_iter().chain(time)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `AWAITING_APPROVAL` → `awaiting approval`
fn readable(value: &Value) -> Option<String> {
    Some(text(value)?.replace('_', " ").to_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn published(message: Value) -> Report {
        describe(MessageStep::Published, &message)
    }

    #[test]
    fn the_text_of_every_kind_of_message() {
        for (content, text) in [
            (json!({"sfEntityType": "Status", "text": "words"}), Some("words")),
            (json!({"sfEntityType": "ImageShare", "caption": "words"}), Some("words")),
            (json!({"caption": "words", "images": [{"caption": "other"}]}), Some("words")),
            (json!({"videoTitle": "title", "description": "words"}), Some("words")),
            (json!({"videoTitle": "words"}), Some("words")),
            (json!({"images": []}), None),
            (json!(null), None),
        ] {
            let report = published(json!({"content": content}));
            assert_eq!(report.text.as_deref(), text);
            let name = text.unwrap_or("(no text)");
            assert_eq!(report.headline, format!("message published: {name}"));
        }
    }

    #[test]
    fn a_message_lists_where_it_is_published() {
        let report = published(json!({
            "targetAccountIds": [7],
            "organicVisibility": "INVISIBLE",
            "publicationResults": [
                {"serviceLink": "https://a.example"},
                {"status": "ERROR", "accountId": 8},
                {"status": "DELETED", "serviceId": "9"},
                {},
            ],
        }));
        let lines: Vec<String> =
            report.lines.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            lines,
            [
                "Accounts: 7",
                "Visibility: invisible",
                "Published: https://a.example",
                "Not published: 8",
                "Publication deleted: 9",
            ]
        );
        assert!(report.advice.unwrap().starts_with("Check in Khoros where"));
        assert_eq!((report.kind.as_str(), &report.headline[..24]), ("partly", "message partly published"));
        let failed = published(json!({"publicationResults": [{"status": "ERROR"}]}));
        assert_eq!((failed.kind.as_str(), &failed.headline[..21]), ("failed", "message not published"));
    }

    #[test]
    fn lists_of_facts_are_bounded() {
        let many: Vec<Value> = (0..1000).map(|n| json!({"accountId": n, "temporaryImageUrl": "i"})).collect();
        let message = json!({"publicationResults": many, "content": {"images": many}});
        assert_eq!(published(message).lines.len(), 2 * MAX_LINES);
    }
}
