//! Items to try templates on.

use serde_json::json;

use crate::item::{Author, Item, Note, Report};

/// A post with every field, whose author has this many followers.
pub fn post(followers: &str) -> Item {
    let note = Note { author: text("Ann"), created: text("2011"), text: "Note".to_owned() };
    Item {
        event_id: text("event"),
        event_name: text("stream-item-label-applied"),
        rule: text("Rule"),
        entity_id: text("twitter:1"),
        text: text("Text"),
        link: text("https://example.com/1"),
        author: Author {
            id: text("2"),
            name: text("Jane"),
            screen_name: text("jane"),
            link: text("https://example.com/jane"),
            icon: text("https://example.com/icon"),
            followers: text(followers),
        },
        created: text("2011-05-26T18:23:31.000Z"),
        event_made: "2011-05-26T18:24:31Z".parse().ok(),
        content_type: text("post"),
        in_reply_to: text("twitter:3"),
        reposted_from: text("twitter:4"),
        parent_post: text("twitter:5"),
        initiatives: vec!["5".to_owned()],
        labels: vec!["Label".to_owned(), "Other".to_owned()],
        notes: vec![note],
        fields: json!({
            "sfEntityType": "StreamItem", "entityId": "twitter:1", "text": "Text",
            "link": "https://example.com/1", "author": "Jane", "authorIcon": "https://example.com/icon",
            "authorId": "2", "authorLink": "https://example.com/jane", "authorScreenName": "jane",
            "initiativeIds": [5], "contentType": "post", "createdDate": "2011-05-26T18:23:31.000Z",
            "inReplyTo": "twitter:3", "repostedFrom": "twitter:4", "parentPost": "twitter:5",
        }),
        ..Item::default()
    }
}

/// An event that is about no post.
pub fn report() -> Item {
    let report = Report {
        place: "Instagram".to_owned(),
        network: text("instagram"),
        subject: "Instagram \"acme\"".to_owned(),
        headline: "Instagram \"acme\" lost its authorization".to_owned(),
        opening: "The account can no longer be used".to_owned(),
        meaning: Some("Nothing is published to it."),
        when: text("2018-03-14 00:31 UTC"),
        lines: vec![("Account".into(), "acme".to_owned())],
        advice: Some("Authorize it again."),
        ..Report::default()
    };
    Item { event_name: text("credential-deauth"), report: Some(report), ..Item::default() }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}
