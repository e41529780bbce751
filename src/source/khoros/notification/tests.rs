use serde_json::json;

use super::*;

const TWITTER: &str = include_str!("../../../../tests/fixtures/stream-item-label-applied-twitter.json");
const RULE: &str = include_str!("../../../../tests/fixtures/rule-applied-twitter.json");

fn parsed(json: &str) -> Vec<Arrival> {
    parse("", json.as_bytes(), 7).unwrap_or_else(|_| panic!("not JSON: {json}"))
}

fn only(json: &str) -> Arrival {
    let mut arrivals = parsed(json);
    assert_eq!(arrivals.len(), 1, "{json}");
    arrivals.remove(0)
}

#[test]
fn the_published_example_is_one_item() {
    let arrival = only(TWITTER);
    assert_eq!(arrival.identity, "khoros:7:67c53595-efc3-46aa-963b-89650bd4bd98:twitter:<twitterId>");
    assert_eq!(arrival.case_key, "khoros:7:twitter:<twitterId>");
    assert_eq!(arrival.event_name, "stream-item-label-applied");
    assert_eq!(arrival.unprocessable, None);

    let item = item(&arrival.payload).unwrap();
    assert_eq!(item.network(), Some("twitter"));
    assert_eq!(item.text.as_deref(), Some("Post Text"));
    assert_eq!(item.author.followers.as_deref(), Some("8424"));
    assert_eq!(item.in_reply_to.as_deref(), Some("twitter:855485181481934848"));
}

#[test]
fn items_of_a_rule_can_be_tickets_too() {
    assert_eq!(only(RULE).unprocessable, None);
}

#[test]
fn a_payload_is_a_notification_of_one_item() {
    let two = TWITTER.replace(r#""items": ["#, r#""items": [{"entityId": 12, "text": "another"},"#);
    let arrivals = parsed(&two);
    assert_eq!(arrivals.len(), 2);
    for arrival in &arrivals {
        assert_eq!(std::slice::from_ref(arrival), parsed(&arrival.payload));
    }
    assert_eq!(arrivals[0].case_key, "khoros:7:12");
}

#[test]
fn unusual_shapes_that_are_a_ticket() {
    for (json, case) in [
        (r#"{"eventUuid":"e","data":{"items":{"entityId":"t:1"}}}"#, "khoros:7:t:1"),
        ("\u{feff}{\"eventUuid\":\"e\",\"data\":{\"items\":[{\"entityId\":\"t:1\"}]}}", "khoros:7:t:1"),
        (
            r#"{"eventUuid":5,"data":{"items":[{"entityId":123456789012345678901234567890}]}}"#,
            "khoros:7:123456789012345678901234567890",
        ),
        (r#"{"eventUuid":"e","data":{"labels":"A","items":[{"text":"no id"}]}}"#, "khoros:7:e"),
        (
            r#"{"eventUuid":"e","data":{"items":[{"entityId":"t:1","labels":[{"name":"A"}],"notes":null}]}}"#,
            "khoros:7:t:1",
        ),
    ] {
        let arrival = only(json);
        assert_eq!((arrival.unprocessable, arrival.case_key.as_str()), (None, case), "{json}");
        let again = only(&arrival.payload);
        assert_eq!(
            (again.case_key, again.unprocessable, again.payload),
            (arrival.case_key, None, arrival.payload),
            "{json}"
        );
    }
}

#[test]
fn unprocessable_events_are_stored_with_a_reason() {
    for json in [
        "null",
        "[]",
        "5",
        "\"text\"",
        "{}",
        "[1,2]",
        r#"{"data":null}"#,
        r#"{"data":[]}"#,
        r#"{"data":{"items":[]}}"#,
        r#"{"data":{"items":"text"}}"#,
        r#"[{"eventUuid":"e","data":{"items":[{"entityId":"t:1"}]}}]"#,
        r#"{"eventUuid":"e","items":[{"entityId":"t:1"}]}"#,
        r#"{"eventUuid":"e","entityId":"t:1"}"#,
        r#"{"data":{"items":[null]}}"#,
        r#"{"data":{"items":[{}]}}"#,
        r#"{"eventName":"something-new","data":{"directoryCompanyId":1}}"#,
    ] {
        let arrival = only(json);
        assert!(arrival.unprocessable.is_some(), "{json}");
        assert!(item(&arrival.payload).is_err(), "{json}");
    }
}

#[test]
fn an_event_without_a_post_has_the_case_of_its_subject() {
    for (event, data, identity, case) in [
        ("message-published", json!({"id": 5}), "khoros:7:e:5", "khoros:7:message:5"),
        ("message-sent-to-network", json!({"id": "5"}), "khoros:7:e:5", "khoros:7:message:5"),
        ("message-published", json!({}), "khoros:7:e", "khoros:7:e"),
        (
            "credential-deauth",
            json!({"service": "instagram", "serviceId": "1"}),
            "khoros:7:e",
            "khoros:7:credential:instagram:1",
        ),
        ("credential-deauth", json!({"service": "instagram"}), "khoros:7:e", "khoros:7:e"),
        (
            "pass-conversation-control",
            json!({"passConversationControl": {"service": "Twitter",
                "privateMessageConversationId": {"endUserAccountId": 1, "ownedAccountId": 2}}}),
            "khoros:7:e",
            "khoros:7:conversation:twitter:2:1",
        ),
        (
            "error-custom-crm",
            json!({"operation": "createCase", "externalCall": {"responseCode": 500}}),
            "khoros:7:e",
            "khoros:7:crm:createCase:500",
        ),
        ("vault-user-create", json!({"directoryCompanyId": 1}), "khoros:7:e", "khoros:7:e"),
    ] {
        let json = json!({"eventName": event, "eventUuid": "e", "data": data}).to_string();
        let arrival = only(&json);
        assert_eq!((arrival.identity.as_str(), arrival.case_key.as_str()), (identity, case));
        assert_eq!(only(&arrival.payload), arrival);
        let item = item(&arrival.payload).unwrap();
        assert_eq!((item.event_name.as_deref(), item.report.is_some()), (Some(event), true));
    }
    let without_id = only(r#"{"eventName":"vault-user-create","data":{"a":1}}"#);
    assert!(without_id.identity.starts_with("khoros:7:sha256:"), "{}", without_id.identity);
}

#[test]
fn a_message_has_what_a_post_has_by_the_same_names() {
    let json = include_str!("../../../../tests/fixtures/message-needs-approval-facebook.json");
    let item = item(&only(json).payload).unwrap();
    assert_eq!((item.network(), item.labels.len(), item.notes.len()), (Some("facebook"), 1, 1));
    assert_eq!((&item.fields["sfEntityType"], &item.entity_id), (&json!("Message"), &None));
}

#[test]
fn only_invalid_json_is_refused() {
    for body in [&b""[..], b"{", b"<html>", b"{\"a\":1}x", b"{'a':1}"] {
        assert_eq!(parse("", body, 7), Err(NotJson));
    }
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(only(&deep).unprocessable.is_some());
}

#[test]
fn texts_cut_within_a_character_are_repaired() {
    let json = r#"{"eventUuid":"e","data":{"items":[{"entityId":"t:1",
        "text":"\ud83d cut \\ud83d \ude00 whole \ud83d\ude00 \" end \ud83d"}]}}"#;
    let item = item(&only(json).payload).unwrap();
    let expected = "\u{fffd} cut \\ud83d \u{fffd} whole \u{1f600} \" end \u{fffd}";
    assert_eq!(item.text.as_deref(), Some(expected));

    let bytes = b"{\"eventUuid\":\"e\",\"data\":{\"items\":[{\"text\":\"caf\xe9\"}]}}";
    let item = super::item(&parse("", bytes, 7).unwrap()[0].payload).unwrap();
    assert_eq!(item.text.as_deref(), Some("caf\u{fffd}"));
}

#[test]
fn ids_that_contain_separators_do_not_collide() {
    let identity = |event: &str, entity: &str| {
        let json = json!({"eventUuid": event, "data": {"items": [{"entityId": entity}]}});
        only(&json.to_string()).identity
    };
    // As they have always been.
    assert_eq!(identity("67c53595-efc3", "twitter:1:2"), "khoros:7:67c53595-efc3:twitter:1:2");
    // A route and a revision are appended to what is stored.
    for (one, other) in [
        (format!("{}@vip", identity("e", "t:9")), identity("e", "t:9@vip")),
        (format!("{}#1", identity("e", "t:1")), identity("e", "t:1#1")),
        (identity("e:t", "1"), identity("e", "t:1")),
        (identity("e", "t:1@"), identity("e", "t:1%40")),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn the_network_of_a_case_is_in_lower_case_and_its_id_is_not() {
    let case = |entity: &str| {
        only(&json!({"eventUuid": "e", "data": {"items": [{"entityId": entity}]}}).to_string()).case_key
    };
    for (entity, expected) in [
        ("Twitter:1", "khoros:7:twitter:1"),
        ("youTube:aB:C@d#1", "khoros:7:youtube:aB:C@d#1"),
        ("A9", "khoros:7:A9"),
    ] {
        assert_eq!(case(entity), expected);
    }
}

#[test]
fn ids_fit_into_headers() {
    for id in ["a".repeat(300), "with space".to_owned(), "été".to_owned()] {
        let json = json!({"eventUuid": id, "eventName": id, "data": {"items": [{"entityId": id}]}});
        let arrival = only(&json.to_string());
        for key in [&arrival.identity, &arrival.case_key, &arrival.event_id, &arrival.event_name] {
            assert!(key.starts_with("sha256:") && key.len() == 71, "{key}");
        }
    }
}

#[test]
fn a_redelivery_without_an_id_is_known() {
    let one = r#"{"eventName":"x","data":{"items":[{"text":"a"},{"text":"b"}]}}"#;
    let same = r#"{"data":{"items":[{"text":"a"},{"text":"b"}]},"eventName":"x"}"#;
    assert_eq!(parsed(one), parsed(same));
    assert_ne!(parsed(one)[0].case_key, parsed(one)[1].case_key);
}

#[test]
fn many_items_do_not_multiply_their_envelope() {
    let items: Vec<Value> = (0..10_000).map(|n| json!({"entityId": n})).collect();
    let surroundings = "x".repeat(1 << 20);
    let json = json!({"eventUuid": "e", "data": {"labels": ["L"], "other": surroundings, "items": items}});
    let arrivals = parsed(&json.to_string());
    assert_eq!(arrivals.len(), 10_000);
    assert!(arrivals[0].payload.contains(&surroundings), "nothing of it is lost");
    let stored: usize = arrivals.iter().map(|arrival| arrival.payload.len()).sum();
    assert!(stored < 4 << 20, "{stored} bytes");
    let last = item(&arrivals[9_999].payload).unwrap();
    assert_eq!((last.labels, last.entity_id.as_deref()), (vec!["L".to_owned()], Some("9999")));
}

#[test]
fn the_envelope_of_many_items_is_stored_within_bounds() {
    let fields: Map<String, Value> = (0..200).map(|n| (format!("f{n}"), json!("x".repeat(900)))).collect();
    for surroundings in [
        json!({"data": "x".repeat(200_000)}),
        json!({"labels": "x".repeat(490)}),
        json!({"data": {"data": "x".repeat(200_000)}}),
        Value::Object(fields),
    ] {
        let mut data = surroundings.clone();
        data["items"] = (0..20_000).map(|n| json!({"text": n})).collect();
        let mut envelope = surroundings;
        envelope["data"] = data;
        let arrivals = parsed(&envelope.to_string());
        assert_eq!(arrivals.len(), 20_000);
        let stored: usize = arrivals.iter().map(|arrival| arrival.payload.len()).sum();
        assert!(stored < 16 << 20, "{stored} bytes");
        assert!(arrivals.iter().all(|arrival| item(&arrival.payload).is_ok()));
    }
}

#[test]
fn a_post_that_comes_twice_with_other_contents_is_stored_twice() {
    let item = |text: &str| json!({"entityId": "t:1", "text": text});
    let items = [item("one"), item("two"), item("one"), item("two")];
    let json = json!({"eventUuid": "e", "data": {"items": items}}).to_string();
    let arrivals = parsed(&json);
    assert_eq!(arrivals, parsed(&json), "and recognized again");
    let identities: std::collections::HashSet<&str> =
        arrivals.iter().map(|arrival| arrival.identity.as_str()).collect();
    assert_eq!(identities.len(), 2);
    assert!(arrivals.iter().all(|arrival| arrival.case_key == arrivals[0].case_key));
}

#[test]
fn secrets_of_an_error_event_are_redacted() {
    let arrival = only(include_str!("../../../../tests/fixtures/error-custom-crm.json"));
    assert!(!arrival.payload.contains("not-to-be-stored"), "{}", arrival.payload);
    assert!(arrival.payload.contains("GET") && arrival.payload.contains("crm.example.com/cases"));
}

#[test]
fn unreadable_bodies_are_stored_without_secrets() {
    let deep = |inside: &str| format!("{{\"data\":{}{inside}{}}}", "[".repeat(200), "]".repeat(200));
    let payload = |body: String| parse("", body.as_bytes(), 7).unwrap().remove(0).payload;
    assert!(!payload(deep(r#"{"requestHeaders":"s3cret"}"#)).contains("s3cret"));
    assert!(payload(deep("\"words\"")).contains("words"));
}

#[test]
fn an_endpoint_names_an_event_without_a_name() {
    let bare = br#"{"service": "instagram", "serviceId": "1", "name": "will.i.am"}"#;
    let arrival = parse("credential-deauth", bare, 7).unwrap().remove(0);
    assert_eq!((arrival.event_name.as_str(), arrival.unprocessable), ("credential-deauth", None));
    assert!(item(&arrival.payload).unwrap().is_urgent());
    let named = parse("credential-deauth", br#"{"eventName": "rule-applied"}"#, 7).unwrap().remove(0);
    assert_eq!(named.event_name, "rule-applied");
}

#[test]
fn labels_and_notes_in_every_form() {
    let json = r#"{"eventUuid":"e","data":{"labels":"One","items":[{"entityId":"t:1",
        "labels":["One","Two",null,{"name":"Three"}],
        "notes":[{"text":"call them","id":5,"createdByDisplayName":"Ann","createdDate":"today"},{"text":"second"},{}]}]}}"#;
    let item = item(&only(json).payload).unwrap();
    assert_eq!(item.labels, ["One", "Two", "Three"]);
    assert_eq!(item.notes.len(), 2);
    assert_eq!(item.notes[0].author.as_deref(), Some("Ann"));
}
