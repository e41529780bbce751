//! What each event of Khoros is about. No I/O, no clock.
//!
//! Events about posts carry them as items; the others tell of a message, an account, a conversation, a
//! call or a vault, and what they tell becomes a [`Report`]. As with posts, examples are published and
//! no contract: whatever is missing is left out, and nothing is refused.

mod message;
pub(crate) mod moment;

use std::borrow::Cow;

use serde_json::Value;

use crate::notification::{has_items, looks_like_item, text};

/// The events that Khoros publishes, by their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// `stream-item-label-applied`; posts that come without the name of an event are taken for one.
    #[default]
    Label,
    /// `rule-applied`
    Rule,
    /// `message-…`
    Message(Step),
    /// `credential-…`
    Credential(Change),
    /// `pass-conversation-control`
    ConversationPassed,
    /// `error-custom-crm`
    CrmError,
    /// `vault-…`: eleven of them, which have one shape.
    Vault,
    /// What carries items is taken for posts; of the rest nothing is known.
    Unknown,
}

/// How far a message has come that Khoros' users write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    NeedsApproval,
    /// The network has it, and publishes it later.
    SentToNetwork,
    Published,
    /// The event came without its name.
    Untold,
}

/// What became of the authorisation by which Khoros uses an account of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Authorised,
    Reauthorised,
    Deauthorised,
    Deleted,
    /// The event came without its name.
    Untold,
}

/// What an event that is about no post tells, for a person to read. All of it is as it came: whoever
/// prints it cleans it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What the ticket of its case is about, within the company: `credential:instagram:673abc9794`.
    /// `None`: the event alone.
    pub case: Option<String>,
    /// What tells it from the others of one notification.
    pub id: Option<String>,
    /// As in `{network}:{native id}`.
    pub network: Option<String>,
    /// For a subject.
    pub headline: String,
    /// What happened: a sentence without its full stop.
    pub opening: String,
    /// What that means: whole sentences.
    pub meaning: Option<&'static str>,
    /// `2018-03-14 00:31 UTC`, or as published.
    pub when: Option<String>,
    /// The words of a message.
    pub words: Option<String>,
    pub lines: Vec<Line>,
    /// What there is to do: a whole sentence.
    pub advice: Option<&'static str>,
}

/// A fact: its name and its value.
pub type Line = (Cow<'static, str>, String);

/// Of one kind of facts, so many are told.
const REPEATED: usize = 20;

impl Event {
    /// By its name; without one, by its shape.
    pub fn of(envelope: &Value) -> Event {
        match text(&envelope["eventName"]) {
            Some(name) => Event::named(&name),
            None => Event::of_shape(body(envelope)),
        }
    }

    /// Whether there is an event of exactly this name to subscribe to.
    pub fn is_published(name: &str) -> bool {
        const VAULT: &[&str] = &[
            "vault-account-create",
            "vault-account-update",
            "vault-account-delete",
            "vault-account-credential-update",
            "vault-account-user-create",
            "vault-account-user-update",
            "vault-account-user-delete",
            "vault-account-session-create",
            "vault-user-create",
            "vault-user-update",
            "vault-user-delete",
        ];
        match Event::named(name) {
            Event::Unknown => false,
            Event::Vault => VAULT.iter().any(|known| known.eq_ignore_ascii_case(name)),
            _ => true,
        }
    }

    pub(crate) fn named(name: &str) -> Event {
        match name.to_ascii_lowercase().as_str() {
            "stream-item-label-applied" => Event::Label,
            "rule-applied" => Event::Rule,
            "message-needs-approval" => Event::Message(Step::NeedsApproval),
            "message-sent-to-network" => Event::Message(Step::SentToNetwork),
            "message-published" => Event::Message(Step::Published),
            "credential-auth" => Event::Credential(Change::Authorised),
            "credential-reauth" => Event::Credential(Change::Reauthorised),
            "credential-deauth" => Event::Credential(Change::Deauthorised),
            "credential-delete" => Event::Credential(Change::Deleted),
            "pass-conversation-control" => Event::ConversationPassed,
            "error-custom-crm" => Event::CrmError,
            name if name.starts_with("vault-") => Event::Vault,
            _ => Event::Unknown,
        }
    }

    /// Some examples are published without an envelope, and with it without the event's name.
    fn of_shape(body: &Value) -> Event {
        let has = |name: &str| text(&body[name]).is_some();
        if looks_like_item(body) {
            Event::Label
        } else if body["passConversationControl"].is_object() {
            Event::ConversationPassed
        } else if body["sfEntityType"] == "Message" && has("id") {
            Event::Message(Step::Untold)
        } else if has("service") && has("serviceId") {
            Event::Credential(Change::Untold)
        } else {
            Event::Label
        }
    }

    /// The object that an event which is about no post tells of. Posts are what they are, whatever the
    /// event says of itself; several objects are not known to be published.
    pub(crate) fn body<'a>(&self, envelope: &'a Value) -> Option<&'a Value> {
        let is_posts = has_items(envelope);
        let is_several = envelope["data"].as_array().is_some_and(|list| list.len() > 1);
        let (wrapper, own) = match self {
            _ if is_posts || is_several || !envelope.is_object() => return None,
            Event::Label | Event::Rule | Event::Unknown => return None,
            Event::Message(_) => ("message", "id"),
            Event::Credential(_) => ("credential", "serviceId"),
            Event::ConversationPassed => ("passconversationcontrol", "privateMessageConversationId"),
            Event::CrmError => ("error", "operation"),
            Event::Vault => ("vault", "actorDirectoryUserId"),
        };
        let body = body(envelope);
        if !body[own].is_null() {
            return Some(body);
        }
        let mut fields = body.as_object().into_iter().flatten();
        let wrapped =
            fields.find(|(name, value)| value.is_object() && name.to_ascii_lowercase().starts_with(wrapper));
        Some(wrapped.map_or(body, |(_, wrapped)| wrapped))
    }
}

/// `data` as published, the one object in a list of that name, or all of it.
fn body(envelope: &Value) -> &Value {
    let data = match &envelope["data"] {
        Value::Array(list) if list.len() == 1 => &list[0],
        data => data,
    };
    if data.is_object() { data } else { envelope }
}

impl Report {
    /// `None`: the event is about posts, or nothing is known of it.
    pub fn of(envelope: &Value) -> Option<Report> {
        let event = Event::of(envelope);
        let body = event.body(envelope)?;
        let mut report = match event {
            Event::Message(step) => message::report(step, body),
            Event::Credential(change) => credential(change, body),
            Event::ConversationPassed => conversation(body),
            Event::CrmError => crm_error(body),
            Event::Vault => vault(&text(&envelope["eventName"]).unwrap_or_default(), body),
            Event::Label | Event::Rule | Event::Unknown => return None,
        };
        report.when = report.when.or_else(|| moment::of(&envelope["createdDate"]));
        Some(report)
    }
}

fn line(name: &'static str, value: Option<String>) -> Option<Line> {
    Some((Cow::Borrowed(name), value?))
}

/// A network's name as ids and tags have it; what cannot be one is none.
fn network(body: &Value) -> Option<String> {
    let name = text(&body["service"])?.to_ascii_lowercase();
    let fits = name.len() <= 40 && name.starts_with(|c: char| c.is_ascii_alphabetic());
    (fits && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).then_some(name)
}

/// One ticket for each account, so that its story is in one place: what was lost, and when it came back.
fn credential(change: Change, body: &Value) -> Report {
    let (service, id, name) = (text(&body["service"]), text(&body["serviceId"]), text(&body["name"]));
    let called = name.as_ref().map(|name| format!("\"{name}\"")).or_else(|| id.clone());
    let words = [service.clone(), Some("account".to_owned()), called];
    let account = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let (became, opening, meaning, advice) = credential_words(change);
    // It tells that the event was recorded, and not that all is well.
    let message = text(&body["message"]).filter(|message| !message.eq_ignore_ascii_case("success"));
    Report {
        case: service
            .as_ref()
            .zip(id.as_ref())
            .map(|(service, id)| format!("credential:{}:{id}", service.to_ascii_lowercase())),
        network: network(body),
        headline: format!("{account} {became}"),
        opening: opening.to_owned(),
        meaning,
        when: moment::of(&body["when"]),
        lines: [line("Account", name), line("Account id", id), line("Khoros says", message)]
            .into_iter()
            .flatten()
            .collect(),
        advice,
        ..Report::default()
    }
}

/// What became of the account, what happened, what that means, and what there is to do.
fn credential_words(
    change: Change,
) -> (&'static str, &'static str, Option<&'static str>, Option<&'static str>) {
    match change {
        Change::Authorised => ("was authorised", "The account was authorised in Khoros", None, None),
        Change::Reauthorised => (
            "was re-authorised",
            "The account was re-authorised in Khoros",
            Some("It can be used again."),
            None,
        ),
        Change::Deauthorised => (
            "lost its authorisation",
            "Khoros can no longer use this account: its authorisation ended and could not be refreshed",
            Some("Until it is authorised again, nothing is published to it and nothing comes in from it."),
            Some("Re-authorise the account in Khoros: Company Settings > Accounts."),
        ),
        Change::Deleted => (
            "was deleted from Khoros",
            "A user deleted this account from Khoros",
            Some("Nothing is published to it any more and nothing comes in from it."),
            Some("If that was not meant, add the account again in Khoros: Company Settings > Accounts."),
        ),
        Change::Untold => (
            "changed its authorisation",
            "The authorisation of this account changed in Khoros, which does not tell how",
            None,
            Some("Look at the account in Khoros: Company Settings > Accounts."),
        ),
    }
}

fn conversation(body: &Value) -> Report {
    let ids = match &body["privateMessageConversationId"] {
        ids if ids.is_object() => ids,
        _ => body,
    };
    let (service, customer) = (text(&body["service"]), text(&ids["endUserAccountId"]));
    let own = text(&ids["ownedAccountId"]);
    let case =
        (service.as_ref().zip(customer.as_ref()).zip(own.as_ref())).map(|((service, customer), own)| {
            format!("conversation:{}:{own}:{customer}", service.to_ascii_lowercase())
        });
    let with = customer.as_ref().map(|customer| format!(" with {customer}")).unwrap_or_default();
    let kind = text(&body["type"]).map(|kind| kind.to_ascii_lowercase());
    let opening = match kind.as_deref() {
        Some("default") => "The conversation was passed to a bot, which answers from now on",
        Some("reset") => "The conversation was passed to a bot, which waits until the customer writes again",
        _ => "The conversation was passed to a bot",
    };
    Report {
        case,
        network: network(body),
        headline: format!("conversation{with} passed to a bot"),
        opening: opening.to_owned(),
        when: moment::of(&body["timestampRequested"]),
        lines: [line("Customer's account", customer), line("Own account", own)]
            .into_iter()
            .flatten()
            .collect(),
        ..Report::default()
    }
}

/// A broken CRM fails each call of each user. What is called and how it fails tell one cause from
/// another, so that a storm of errors is one ticket for each cause, and not one for each call.
fn crm_error(body: &Value) -> Report {
    let call = &body["externalCall"];
    let (operation, code) = (text(&body["operation"]), text(&call["responseCode"]));
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
    let of = operation.as_ref().map(|operation| format!(": {operation}")).unwrap_or_default();
    let with = code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    // What was asked for can be a customer's name.
    let address = text(&call["requestUri"]).map(|uri| uri.split(['?', '#']).next().unwrap_or("").to_owned());
    let request = [text(&call["requestMethod"]), address].into_iter().flatten().collect::<Vec<_>>().join(" ");
    Report {
        case: Some(format!("crm:{}:{}", part(&operation), part(&code))),
        headline: format!("call to the CRM failed{of}{with}"),
        opening: "A call from Khoros to the CRM failed".to_owned(),
        lines: [
            line("Operation", operation),
            line("Status code", code),
            line("Request", Some(request).filter(|request| !request.is_empty())),
            line("Tracking id", text(&body["trackingId"])),
            line("Description", text(&body["description"])),
            line("Khoros says", text(&body["spredfastErrorMessage"])),
        ]
        .into_iter()
        .flatten()
        .collect(),
        advice: Some(
            "Find the call in the log of the CRM's gateway; users of Khoros are shown the tracking id.",
        ),
        ..Report::default()
    }
}

/// Who opened or changed a shared account. Khoros publishes the fields that all of these events have;
/// whatever else they hold is told as it is named.
fn vault(event: &str, body: &Value) -> Report {
    const TOLD: &[&str] = &[
        "createdDate",
        "actorDirectoryUserId",
        "directoryCompanyId",
        "change",
        "eventName",
        "eventUuid",
        "companyId",
        "uuid",
        "subscriptionUuid",
        "type",
    ];
    let (what, done) = vault_words(event);
    let article = if what.starts_with('a') { "An" } else { "A" };
    let user = text(&body["actorDirectoryUserId"]).map(|id| format!("Khoros user {id}"));
    let company = text(&body["directoryCompanyId"]);
    let fields = body.as_object().into_iter().flatten();
    let others = fields.filter(|(name, _)| !TOLD.contains(&name.as_str()));
    let others = others.filter_map(|(name, value)| Some((Cow::Owned(name.clone()), text(value)?)));
    let lines =
        [line("Who", user), line("Change", text(&body["change"])), line("Directory company", company)];
    Report {
        headline: format!("vault: {what} {done}"),
        opening: format!("{article} {what} was {done} in Khoros' vault"),
        when: moment::of(&body["createdDate"]),
        lines: lines.into_iter().flatten().chain(others.take(REPEATED)).collect(),
        advice: Some("Ask the user if nobody expected it."),
        ..Report::default()
    }
}

fn vault_words(event: &str) -> (&'static str, &'static str) {
    let event = event.to_ascii_lowercase();
    let (what, done) = event.rsplit_once('-').unwrap_or_default();
    let what = match what {
        "vault-account" => "account",
        "vault-account-credential" => "credential of an account",
        "vault-account-user" => "user of an account",
        "vault-account-session" => "session of an account",
        "vault-user" => "user",
        _ => "part",
    };
    let done = match done {
        "create" if what.starts_with("session") => "opened",
        "create" => "created",
        "delete" => "deleted",
        _ => "updated",
    };
    (what, done)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn report(event: &str, data: Value) -> Report {
        Report::of(&json!({"eventName": event, "data": data})).unwrap()
    }

    fn credential_event() -> Value {
        let json = include_str!("../tests/fixtures/credential-deauth-instagram.json");
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
            ("message-needs-approval", Event::Message(Step::NeedsApproval)),
            ("message-sent-to-network", Event::Message(Step::SentToNetwork)),
            ("Message-Published", Event::Message(Step::Published)),
            ("credential-auth", Event::Credential(Change::Authorised)),
            ("credential-reauth", Event::Credential(Change::Reauthorised)),
            ("credential-deauth", Event::Credential(Change::Deauthorised)),
            ("credential-delete", Event::Credential(Change::Deleted)),
            ("pass-conversation-control", Event::ConversationPassed),
            ("error-custom-crm", Event::CrmError),
            ("vault-user-create", Event::Vault),
            ("credential-other", Event::Unknown),
        ] {
            assert_eq!(Event::of(&json!({"eventName": name})), event, "{name}");
        }
    }

    #[test]
    fn an_event_tells_the_same_with_less_around_it() {
        let event = credential_event();
        let expected = Report::of(&event).unwrap();
        let data = &event["data"];
        let mut bare = data.clone();
        bare["eventName"] = json!("credential-deauth");
        for event in [
            bare,
            json!({"eventName": "credential-deauth", "data": [data]}),
            json!({"eventName": "credential-deauth", "data": {"credential": data}}),
            json!({"eventName": "credential-deauth", "data": data, "items": [], "other": {}}),
        ] {
            assert_eq!(Report::of(&event), Some(expected.clone()), "{event}");
        }
    }

    #[test]
    fn without_a_name_the_shape_tells() {
        let account = credential_event()["data"].clone();
        let conversation = json!({"passConversationControl": {"service": "twitter"}});
        let message = json!({"sfEntityType": "Message", "id": 5});
        for (data, headline) in [
            (account, "instagram account \"will.i.am\" changed its authorisation"),
            (conversation, "conversation passed to a bot"),
            (message, "message: (no text)"),
        ] {
            for event in [json!({"data": data}), data] {
                assert_eq!(Report::of(&event).unwrap().headline, headline, "{event}");
            }
        }
    }

    #[test]
    fn posts_are_no_report() {
        let post = json!({"entityId": "twitter:1"});
        for event in [
            json!({"eventName": "rule-applied", "data": {"items": [post]}}),
            json!({"eventName": "credential-deauth", "data": {"items": [post]}}),
            json!({"service": "twitter", "serviceId": "1", "text": "t"}),
            json!({"eventName": "credential-other", "data": {"service": "twitter", "serviceId": "1"}}),
            json!({"eventName": "credential-deauth", "data": [{"serviceId": "1"}, {"serviceId": "2"}]}),
            json!({"data": {}}),
            json!(null),
            json!(["vault-user-create"]),
        ] {
            assert_eq!(Report::of(&event), None, "{event}");
        }
    }

    #[test]
    fn whatever_is_missing_is_left_out() {
        for (event, headline, case) in [
            ("message-published", "message published: (no text)", None),
            ("credential-deauth", "account lost its authorisation", None),
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
        let others =
            [json!(null), json!(5), json!("text"), json!([]), json!([[1], {"id": 2}]), json!({"a": {}})];
        for json in [
            include_str!("../tests/fixtures/message-published.json"),
            include_str!("../tests/fixtures/credential-deauth-instagram.json"),
            include_str!("../tests/fixtures/pass-conversation-control-twitter.json"),
            include_str!("../tests/fixtures/error-custom-crm.json"),
            include_str!("../tests/fixtures/vault-user-create.json"),
        ] {
            let event: Value = serde_json::from_str(json).unwrap();
            let names: Vec<String> = event["data"].as_object().unwrap().keys().cloned().collect();
            for (name, other) in names.iter().flat_map(|name| others.iter().map(move |other| (name, other))) {
                let mut event = event.clone();
                event["data"][name] = other.clone();
                assert!(Report::of(&event).is_some(), "{event}");
            }
        }
    }

    #[test]
    fn an_account_has_one_case() {
        for (data, case, network) in [
            (
                json!({"service": "Instagram", "serviceId": 5}),
                Some("credential:instagram:5"),
                Some("instagram"),
            ),
            (json!({"service": "a b", "serviceId": "x:y"}), Some("credential:a b:x:y"), None),
            (json!({"service": "x"}), None, Some("x")),
            (json!({"serviceId": "1"}), None, None),
        ] {
            let report = report("credential-delete", data);
            assert_eq!((report.case.as_deref(), report.network.as_deref()), (case, network));
        }
    }

    #[test]
    fn success_is_no_news_of_an_account() {
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
    fn a_call_is_told_without_what_was_asked_for() {
        let call = json!({"requestMethod": "GET", "requestUri": "https://crm.example/a?name=Jane#Doe"});
        assert_eq!(
            values(&report("error-custom-crm", json!({"externalCall": call}))),
            ["GET https://crm.example/a"]
        );
    }

    #[test]
    fn the_words_of_every_kind_of_message() {
        for (content, words) in [
            (json!({"sfEntityType": "Status", "text": "words"}), Some("words")),
            (json!({"sfEntityType": "ImageShare", "caption": "words"}), Some("words")),
            (json!({"caption": "words", "images": [{"caption": "other"}]}), Some("words")),
            (json!({"videoTitle": "title", "description": "words"}), Some("words")),
            (json!({"videoTitle": "words"}), Some("words")),
            (json!("words"), Some("words")),
            (json!({"images": []}), None),
            (json!(null), None),
        ] {
            let report = report("message-published", json!({"content": content}));
            assert_eq!(report.words.as_deref(), words);
            let named = words.unwrap_or("(no text)");
            assert_eq!(report.headline, format!("message published: {named}"));
        }
    }

    #[test]
    fn a_message_tells_where_it_is() {
        let report = report(
            "message-published",
            json!({
                "targetAccountIds": 7,
                "organicVisibility": "INVISIBLE",
                "publicationResults": [
                    {"serviceLink": "https://a.example"},
                    {"status": "ERROR", "accountId": 8},
                    {"status": "DELETED", "serviceId": "9"},
                    {},
                ],
                "links": {"self": {"href": "https://b.example"}, "other": ["c"]},
            }),
        );
        let lines: Vec<String> =
            report.lines.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            lines,
            [
                "Accounts: 7",
                "Visibility: invisible",
                "Published: https://a.example",
                "Not published: account 8",
                "Publication deleted: 9",
                "Link: https://b.example",
            ]
        );
        assert!(report.advice.unwrap().starts_with("Not all of it was published"));
    }

    #[test]
    fn nothing_is_told_without_bound() {
        let many: Vec<Value> = (0..1000).map(|n| json!({"accountId": n, "temporaryImageUrl": "i"})).collect();
        let links: Vec<&str> = vec!["https://a.example"; 1000];
        let message = json!({"publicationResults": many, "content": {"images": many}, "links": links});
        assert_eq!(report("message-published", message).lines.len(), 3 * REPEATED);
        let fields: Map<String, Value> = (0..1000).map(|n| (format!("f{n}"), json!(n))).collect();
        assert_eq!(report("vault-user-create", fields.into()).lines.len(), REPEATED);
    }

    #[test]
    fn a_vault_tells_what_else_it_holds() {
        let data =
            json!({"actorDirectoryUserId": 1, "change": "c", "accountId": 2, "vaultAccount": {"a": 1}});
        let report = report("vault-account-update", data);
        assert_eq!(report.opening, "An account was updated in Khoros' vault");
        assert_eq!(values(&report), ["Khoros user 1", "c", "2"]);
        let wrapped =
            self::report("vault-user-create", json!({"VaultUserCreate": {"actorDirectoryUserId": 1}}));
        assert_eq!(values(&wrapped), ["Khoros user 1"]);
    }
}
