//! A subscription as Khoros shows it. Only the request is published.

use jiff::Timestamp;
use serde_json::Value;

use crate::json::text;
use crate::source::khoros::event::moment;

/// A subscription at Khoros, ours or another deployment's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSubscription {
    pub uuid: String,
    pub external_id: String,
    /// A company has two kinds of numbers, and this may differ from the configured one.
    pub company_id: Option<u64>,
    pub event_name: Option<String>,
    /// None: it is not shown; empty: there is none.
    pub query: Option<String>,
    /// None: it is not shown; empty: there is none.
    pub notification_uri: Option<String>,
    /// None: it is not shown, or is not a published status.
    pub status: Option<RemoteStatus>,
    pub created: Option<Timestamp>,
}

/// The status of a subscription, which only a PUT changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteStatus {
    Active,
    Disabled,
    Paused,
}

impl RemoteStatus {
    /// The spelling in a path.
    pub fn as_str(self) -> &'static str {
        match self {
            RemoteStatus::Active => "ACTIVE",
            RemoteStatus::Disabled => "DISABLED",
            RemoteStatus::Paused => "PAUSED",
        }
    }

    fn read(name: &str) -> Option<RemoteStatus> {
        let statuses = [RemoteStatus::Active, RemoteStatus::Disabled, RemoteStatus::Paused];
        statuses.into_iter().find(|status| status.as_str().eq_ignore_ascii_case(name))
    }
}

impl RemoteSubscription {
    /// Reads a subscription. None: it has no name or no id, so that no call could concern it.
    pub(super) fn read(json: &Value) -> Option<RemoteSubscription> {
        let field = |name: &str| text(&json[name]).filter(|text| !text.is_empty());
        Some(RemoteSubscription {
            uuid: uuid_in(json)?,
            external_id: field("externalId")?,
            company_id: field("companyId").and_then(|id| id.trim().parse().ok()),
            event_name: field("eventName"),
            query: json.get("query").map(|query| text(query).unwrap_or_default()),
            notification_uri: json.get("notificationUri").map(|uri| text(uri).unwrap_or_default()),
            status: field("status").and_then(|name| RemoteStatus::read(&name)),
            created: moment::read(&json["createdDate"]),
        })
    }
}

/// The id of a subscription. It becomes part of a path, so only plain characters are accepted.
pub(super) fn uuid_in(json: &Value) -> Option<String> {
    let uuid = text(&json["uuid"]).or_else(|| text(&json["key"]["uuid"]))?;
    let is_plain = uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (is_plain && (1..=64).contains(&uuid.len())).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_leniently() {
        let remote = RemoteSubscription::read(&json!({
            "key": {"uuid": "8a33e123-546d"},
            "externalId": 12,
            "companyId": "1234",
            "status": "paused",
            "query": "",
            "createdDate": "2026-01-02T03:04:05.000Z",
        }));
        assert_eq!(
            remote,
            Some(RemoteSubscription {
                uuid: "8a33e123-546d".to_owned(),
                external_id: "12".to_owned(),
                company_id: Some(1234),
                event_name: None,
                query: Some(String::new()),
                notification_uri: None,
                status: Some(RemoteStatus::Paused),
                created: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            })
        );
        for nothing in [json!({"uuid": "1"}), json!({"externalId": "a"}), json!("a"), json!(null)] {
            assert_eq!(RemoteSubscription::read(&nothing), None, "{nothing}");
        }
        assert_eq!(RemoteSubscription::read(&json!({"uuid": "../1", "externalId": "a"})), None);
    }
}
