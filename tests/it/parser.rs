//! Whatever comes as a body: nothing that is JSON is refused, no item is lost, and nothing panics.

use std::collections::BTreeSet;

use casebridge::item::Arrival;
use casebridge::source::khoros::notification::{self, NotJson};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

use crate::harness::{FACEBOOK, TWITTER, for_any};

const RULE: &str = include_str!("../fixtures/rule-applied-twitter.json");
/// Events that are about no post.
const REPORTS: [&str; 5] = [
    include_str!("../fixtures/message-needs-approval-facebook.json"),
    include_str!("../fixtures/credential-deauth-instagram.json"),
    include_str!("../fixtures/pass-conversation-control-twitter.json"),
    include_str!("../fixtures/error-custom-crm.json"),
    include_str!("../fixtures/vault-account-credential-update.json"),
];
/// What `http` lets in.
const BODY_LIMIT: usize = 2 << 20;

/// Parses a body and checks what holds of any.
fn checked(body: &[u8]) -> Result<Vec<Arrival>, NotJson> {
    let parsed = notification::parse("", body, 7);
    assert_eq!(parsed, notification::parse("", body, 7), "once more is the same");
    match &parsed {
        Ok(arrivals) => {
            assert!(!arrivals.is_empty(), "nothing came of it");
            arrivals.iter().for_each(check_arrival);
        }
        Err(NotJson) => assert!(serde_json::from_slice::<Value>(body).is_err(), "refused although JSON"),
    }
    if let (Ok(notification), Ok(arrivals)) = (serde_json::from_slice(body), &parsed) {
        check_items(&notification, arrivals);
    }
    parsed
}

/// Its ids fit into headers and index rows, and the worker finds in it what was promised.
fn check_arrival(arrival: &Arrival) {
    for key in [&arrival.identity, &arrival.case_key, &arrival.event_id, &arrival.event_name] {
        let fits = (1..=200).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(fits, "{key:?}");
    }
    assert_eq!(
        casebridge::source::item(&arrival.payload).err(),
        arrival.unprocessable,
        "{}",
        arrival.payload
    );
    if arrival.unprocessable.is_none() {
        let again = notification::parse("", arrival.payload.as_bytes(), 7).unwrap();
        assert_eq!(again.len(), 1, "{}", arrival.payload);
        assert_eq!((&again[0].payload, again[0].unprocessable), (&arrival.payload, None));
    }
}

/// Each item of the published shape arrives, in order, with the envelope and none of the others.
fn check_items(notification: &Value, arrivals: &[Arrival]) {
    let Some(items) = notification["data"]["items"].as_array().filter(|items| !items.is_empty()) else {
        return;
    };
    assert_eq!(arrivals.len(), items.len(), "{notification}");
    let mut envelope = notification.clone();
    for (item, arrival) in items.iter().zip(arrivals) {
        envelope["data"]["items"] = json!([item]);
        assert_eq!(arrival.payload, envelope.to_string());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "twitter:[0-9]{1,3}| |[a-z]{190,210}".prop_map(Value::from),
        Just(json!({"entityId": "twitter:1", "text": "text"})),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        let entries = vec((name(), inner.clone()), 0..6);
        prop_oneof![
            vec(inner, 0..6).prop_map(Value::from),
            entries.prop_map(|entries| Value::Object(Map::from_iter(entries))),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    let known =
        ["eventUuid", "eventName", "data", "items", "entityId", "text", "link", "labels", "notes", "name"];
    prop_oneof![4 => select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

/// What to do to one node of a notification.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Value),
    Delete,
    Duplicate,
    Retype,
    /// Puts it into a list.
    Wrap,
}

fn mutations() -> impl Strategy<Value = Vec<(Index, Mutation)>> {
    let mutation = prop_oneof![
        any_json().prop_map(Mutation::Replace),
        Just(Mutation::Delete),
        Just(Mutation::Duplicate),
        Just(Mutation::Retype),
        Just(Mutation::Wrap),
    ];
    vec((any::<Index>(), mutation), 1..8)
}

fn published() -> impl Strategy<Value = Value> {
    let all = [&[TWITTER, FACEBOOK, RULE], &REPORTS[..]].concat();
    select(all).prop_map(|json| serde_json::from_str(json).unwrap())
}

fn mutated(notification: Value, mutations: &[(Index, Mutation)]) -> Value {
    mutations.iter().fold(notification, |value, (index, mutation)| {
        let mut place = index.index(count(&value));
        mutate(value, &mut place, mutation).into_iter().next().unwrap_or_default()
    })
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// What stands in a node's place once the one that is `place` nodes further is mutated: one value,
/// none, or two.
fn mutate(value: Value, place: &mut usize, mutation: &Mutation) -> Vec<Value> {
    let here = *place == 0;
    *place = place.wrapping_sub(1);
    match value {
        value if here => match mutation {
            Mutation::Replace(other) => vec![other.clone()],
            Mutation::Delete => vec![],
            Mutation::Duplicate => vec![value.clone(), value],
            Mutation::Retype => vec![retyped(value)],
            Mutation::Wrap => vec![json!([value])],
        },
        Value::Array(values) => {
            vec![values.into_iter().flat_map(|value| mutate(value, place, mutation)).collect()]
        }
        Value::Object(map) => {
            let mut changed = Map::new();
            for (name, value) in map {
                for value in mutate(value, place, mutation) {
                    let name = if changed.contains_key(&name) { format!("{name}2") } else { name.clone() };
                    changed.insert(name, value);
                }
            }
            vec![changed.into()]
        }
        value => vec![value],
    }
}

/// The same as another type, as far as there is one.
fn retyped(value: Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(value) => json!(u8::from(value)),
        Value::Number(number) => number.to_string().into(),
        Value::String(text) => text.parse::<i64>().map_or(Value::Null, Value::from),
        Value::Array(values) => {
            values.into_iter().enumerate().map(|(place, value)| (place.to_string(), value)).collect()
        }
        Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
    }
}

/// A text as Khoros may escape it, and its UTF-16.
fn escaped() -> impl Strategy<Value = (String, Vec<u16>)> {
    let pieces = [
        (r"\ud83d", vec![0xd83d]),
        (r"\uDE00", vec![0xde00]),
        (r"\ud83d\ude00", vec![0xd83d, 0xde00]),
        (r"\\", vec![0x5c]),
        (r#"\""#, vec![0x22]),
        (r"\n", vec![0xa]),
        (r"\u0000", vec![0]),
        ("ud83d", "ud83d".encode_utf16().collect()),
        ("é", vec![0xe9]),
        ("😀", "😀".encode_utf16().collect()),
    ];
    vec(select(pieces.to_vec()), 0..12).prop_map(|pieces| {
        let json = pieces.iter().map(|(json, _)| *json).collect();
        (json, pieces.into_iter().flat_map(|(_, units)| units).collect())
    })
}

/// A label event with one item of this text, which is already escaped.
fn event_with_text(escaped: &str) -> String {
    let item = format!(r#"{{"entityId":"twitter:1","text":"{escaped}"}}"#);
    format!(r#"{{"eventUuid":"event","data":{{"items":[{item}]}}}}"#)
}

#[test]
fn any_json_is_taken() {
    for_any(1000, any_json(), |json| {
        checked(json.to_string().as_bytes()).unwrap();
    });
}

#[test]
fn any_items_arrive() {
    for_any(500, vec(any_json(), 1..8), |items| {
        let body = json!({"eventUuid": "event", "data": {"labels": "one", "items": items}});
        checked(body.to_string().as_bytes()).unwrap();
    });
}

#[test]
fn a_mutated_notification_is_taken() {
    for_any(1000, (published(), mutations()), |(notification, mutations)| {
        checked(mutated(notification, &mutations).to_string().as_bytes()).unwrap();
    });
}

#[test]
fn damaged_bytes_are_refused_or_taken_whole() {
    let flips = vec((any::<Index>(), 1..=255u8), 1..4);
    for_any(1000, (published(), flips), |(notification, flips)| {
        let mut body = notification.to_string().into_bytes();
        for (index, mask) in flips {
            let place = index.index(body.len());
            body[place] ^= mask;
        }
        let _ = checked(&body);
    });
}

#[test]
fn truncated_json_is_refused() {
    for_any(500, (published(), any::<Index>()), |(notification, end)| {
        let body = notification.to_string();
        let body = &body.as_bytes()[..end.index(body.len())];
        assert_eq!(checked(body), Err(NotJson));
    });
}

#[test]
fn any_bytes_are_refused_or_taken_whole() {
    for_any(1000, vec(any::<u8>(), 0..40), |body| {
        let _ = checked(&body);
    });
}

#[test]
fn a_text_loses_its_lone_surrogates_alone() {
    for_any(1000, escaped(), |(escaped, units)| {
        let arrivals = checked(event_with_text(&escaped).as_bytes()).unwrap();
        let text = casebridge::source::item(&arrivals[0].payload).unwrap().text;
        assert_eq!(text.unwrap_or_default(), String::from_utf16_lossy(&units).trim());
    });
}

#[test]
fn secrets_are_redacted_wherever_they_stand() {
    let secret = select(vec!["requestHeaders", "authHeaderValue", "bearerToken"]);
    let place = (published(), any::<Index>(), secret, any_json());
    for_any(500, place, |(notification, index, name, around)| {
        let secret = json!({name: {"Authorization": ["s3cret"]}, "around": around});
        let body = mutated(notification, &[(index, Mutation::Replace(secret))]).to_string();
        assert!(body.contains("s3cret"));
        for arrival in notification::parse("", body.as_bytes(), 7).unwrap() {
            assert!(!arrival.payload.contains("s3cret"), "{}", arrival.payload);
        }
    });
}

/// Around the depth at which JSON stops to be readable, in all the shapes that an item comes in.
#[test]
fn deeply_nested_items_are_read_again_as_at_first() {
    for depth in 110..140 {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let item = format!(r#"{{"entityId":"twitter:1","deep":{deep}}}"#);
        for body in [
            format!(r#"{{"data":{{"items":[{item}]}}}}"#),
            format!(r#"{{"data":{{"items":{item}}}}}"#),
            format!(r#"{{"data":{{"items":[{{"0":{item}}}]}}}}"#),
            format!(r#"{{"data":{item}}}"#),
        ] {
            assert_eq!(checked(body.as_bytes()).unwrap().len(), 1);
        }
    }
}

#[test]
fn the_largest_notification_is_accepted() {
    let half = BODY_LIMIT / 2;
    let lists = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let most = format!("{}{}", "[".repeat(half), "]".repeat(half));
    for nested in [lists, objects, most] {
        assert!(checked(nested.as_bytes()).unwrap()[0].unprocessable.is_some());
    }
    let text = "x".repeat(BODY_LIMIT - 100);
    let halves = r"\ud83d".repeat((BODY_LIMIT - 100) / 6);
    for text in [text, halves] {
        let arrivals = checked(event_with_text(&text).as_bytes()).unwrap();
        assert_eq!((arrivals.len(), arrivals[0].unprocessable), (1, None));
        assert_eq!(checked(format!("\"{text}\"").as_bytes()).unwrap().len(), 1);
    }
    assert_eq!(checked("[".repeat(BODY_LIMIT).as_bytes()), Err(NotJson));
}

#[test]
fn ten_thousand_items_arrive() {
    let item = |n| json!({"entityId": format!("twitter:{n}"), "text": "x".repeat(160)});
    let items: Vec<Value> = (0..10_000).map(item).collect();
    let body = json!({"eventUuid": "event", "data": {"items": items}}).to_string();
    assert!(body.len() < BODY_LIMIT);
    let arrivals = notification::parse("", body.as_bytes(), 7).unwrap();
    let identities: BTreeSet<&str> = arrivals.iter().map(|arrival| arrival.identity.as_str()).collect();
    assert_eq!((arrivals.len(), identities.len()), (10_000, 10_000));
    assert!(arrivals.iter().all(|arrival| arrival.unprocessable.is_none()));
    let size: usize = arrivals.iter().map(|arrival| arrival.payload.len()).sum();
    assert!(size < 2 * body.len(), "{size} bytes of {}", body.len());
}
