use serde_json::{Map, json};

use super::*;

fn report(event: &str, data: Value) -> Report {
    describe(&json!({"eventName": event, "data": data})).unwrap()
}

fn credential_event() -> Value {
    let json = include_str!("../../../../tests/fixtures/credential-deauth-instagram.json");
    serde_json::from_str(json).unwrap()
}

fn values(report: &Report) -> Vec<&str> {
    report.lines.iter().map(|(_, value)| value.as_str()).collect()
}

#[test]
fn the_published_names() {
    for (name, event) in [
        ("stream-item-label-applied", Event::Label),
        ("rule-applied", Event::Rule),
        ("message-needs-approval", Event::Message(MessageStep::NeedsApproval)),
        ("message-sent-to-network", Event::Message(MessageStep::SentToNetwork)),
        ("Message-Published", Event::Message(MessageStep::Published)),
        ("credential-auth", Event::Credential(CredentialChange::Authorized)),
        ("credential-reauth", Event::Credential(CredentialChange::Reauthorized)),
        ("credential-deauth", Event::Credential(CredentialChange::Deauthorized)),
        ("credential-delete", Event::Credential(CredentialChange::Deleted)),
        ("pass-conversation-control", Event::ConversationPassed),
        ("error-custom-crm", Event::CrmError),
        ("vault-user-create", Event::Vault),
        ("credential-other", Event::Unknown),
    ] {
        assert_eq!(Event::of(&json!({"eventName": name})), event, "{name}");
    }
}

#[test]
fn an_event_without_an_envelope_has_the_same_report() {
    let event = credential_event();
    let mut bare = event["data"].clone();
    bare["eventName"] = json!("credential-deauth");
    assert_eq!(describe(&bare), describe(&event));
    let conversation = json!({"service": "twitter", "type": "reset"});
    assert_eq!(
        report("pass-conversation-control", json!({"passConversationControl": conversation})),
        report("pass-conversation-control", conversation)
    );
}

#[test]
fn posts_are_not_reports() {
    let post = json!({"entityId": "twitter:1"});
    for event in [
        json!({"eventName": "rule-applied", "data": {"items": [post]}}),
        json!({"eventName": "credential-deauth", "data": {"items": [post]}}),
        json!({"service": "twitter", "serviceId": "1", "text": "t"}),
        json!({"eventName": "credential-other", "data": {"service": "twitter", "serviceId": "1"}}),
        json!({"data": {}}),
        json!(null),
        json!(["vault-user-create"]),
    ] {
        assert_eq!(describe(&event), None, "{event}");
    }
}

#[test]
fn missing_fields_are_left_out() {
    for (event, headline, case) in [
        ("message-published", "message published: (no text)", None),
        ("credential-deauth", "account lost its authorization", None),
        ("pass-conversation-control", "conversation passed to a bot", None),
        ("error-custom-crm", "call to the CRM failed", Some("crm:-:-")),
        ("vault-account-user-delete", "vault: user of an account deleted", None),
        ("vault-something-new", "vault: part updated", None),
    ] {
        for data in [json!(null), json!({}), json!([]), json!([{}])] {
            let report = report(event, data);
            assert_eq!((report.headline.as_str(), report.case.as_deref()), (headline, case));
            assert_eq!((values(&report), &report.when, &report.network), (vec![], &None, &None));
        }
    }
}

#[test]
fn no_type_of_a_field_is_refused() {
    let others = [json!(null), json!(5), json!("text"), json!([]), json!([[1], {"id": 2}]), json!({"a": {}})];
    for json in [
        include_str!("../../../../tests/fixtures/message-published.json"),
        include_str!("../../../../tests/fixtures/credential-deauth-instagram.json"),
        include_str!("../../../../tests/fixtures/pass-conversation-control-twitter.json"),
        include_str!("../../../../tests/fixtures/error-custom-crm.json"),
        include_str!("../../../../tests/fixtures/vault-user-create.json"),
    ] {
        let event: Value = serde_json::from_str(json).unwrap();
        let names: Vec<String> = event["data"].as_object().unwrap().keys().cloned().collect();
        for (name, other) in names.iter().flat_map(|name| others.iter().map(move |other| (name, other))) {
            let mut event = event.clone();
            event["data"][name] = other.clone();
            assert!(describe(&event).is_some(), "{event}");
        }
    }
}

#[test]
fn an_account_has_one_case() {
    for (data, case, network) in [
        (json!({"service": "Instagram", "serviceId": 5}), Some("credential:instagram:5"), Some("instagram")),
        (json!({"service": "a b", "serviceId": "x:y"}), Some("credential:a b:x:y"), None),
        (json!({"service": "x"}), None, Some("x")),
        (json!({"serviceId": "1"}), None, None),
    ] {
        let report = report("credential-delete", data);
        assert_eq!((report.case.as_deref(), report.network.as_deref()), (case, network));
    }
}

#[test]
fn the_message_success_is_left_out() {
    let of = |message| report("credential-deauth", json!({"message": message}));
    assert_eq!(values(&of("Success")), [""; 0]);
    assert_eq!(values(&of("token expired")), ["token expired"]);
}

#[test]
fn errors_of_one_cause_are_one_case() {
    let of = |operation: &str, code: Value| {
        let data = json!({"operation": operation, "externalCall": {"responseCode": code}});
        report("error-custom-crm", data).case.unwrap()
    };
    assert_eq!(of("createCase", json!(500)), "crm:createCase:500");
    assert_eq!(of("createCase", json!("500")), "crm:createCase:500");
    assert_eq!(of("createCase", json!(null)), "crm:createCase:-");
}

#[test]
fn the_query_of_a_call_is_left_out() {
    let call = json!({"requestMethod": "GET", "requestUri": "https://crm.example/a?name=Jane#Doe"});
    assert_eq!(
        values(&report("error-custom-crm", json!({"externalCall": call}))),
        ["GET https://crm.example/a"]
    );
}

#[test]
fn the_fields_of_a_vault_report_are_bounded() {
    let fields: Map<String, Value> = (0..1000).map(|n| (format!("f{n}"), json!(n))).collect();
    assert_eq!(report("vault-user-create", fields.into()).lines.len(), MAX_LINES);
}

#[test]
fn a_vault_report_lists_unknown_fields() {
    let data = json!({"actorDirectoryUserId": 1, "change": "c", "accountId": 2, "vaultAccount": {"a": 1}});
    let report = report("vault-account-update", data);
    assert_eq!(report.opening, "An account was updated in Khoros' vault");
    assert_eq!(values(&report), ["1", "c", "2"]);
    let wrapped = self::report("vault-user-create", json!({"VaultUserCreate": {"actorDirectoryUserId": 1}}));
    assert_eq!(values(&wrapped), ["1"]);
}
