//! Checks of the account without changing it: whether the credential works, and whether the configured numbers
//! refer to something usable.

use reqwest::Method;
use serde_json::Value;

use super::alerts;
use super::settings::ticket::{Reference, ReferenceKind};
use super::token::Grant;
use super::{Call, Reply, Zendesk};
use crate::delivery::Outcome;

/// Why the credential does not work. The texts contain nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is wrong, switched off or expired.
    #[error("{0}")]
    Credential(String),
    /// It is valid but may not even count tickets.
    #[error("{0}")]
    Forbidden(String),
    /// There is no Zendesk at this address.
    #[error("{0}")]
    Address(String),
    /// Zendesk limits our requests, which says nothing about the credential.
    #[error("{0}")]
    Busy(String),
    /// Zendesk does not answer, or has failed.
    #[error("{0}")]
    Away(String),
}

/// The result of a lookup of a configured number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    Usable,
    Missing,
    /// It exists but cannot be used, for this reason.
    Unusable(&'static str),
    /// The lookup failed, for this reason.
    Unknown(String),
}

impl Zendesk {
    /// Checks the credential.
    ///
    /// # Errors
    /// [`AccessError`]
    pub async fn access(&self) -> Result<(), AccessError> {
        self.check_credential().await.map_err(|outcome| access_error(&outcome))
    }

    /// Returns the grant of the OAuth token; `None` before the first, and for an API token.
    pub async fn grant(&self) -> Option<Grant> {
        self.credential.grant().await
    }

    /// Looks up a configured number.
    pub async fn check_reference(&self, reference: &Reference) -> LookupResult {
        let (path, field) = endpoint(reference.to);
        let request = || self.request(Method::GET, &format!("/api/v2/{path}/{}", reference.id));
        match self.repeatable(Call::SetUp, request).await {
            Ok(reply) => lookup_result(&reply, reference.to, field),
            Err(outcome) => LookupResult::Unknown(outcome.log().to_owned()),
        }
    }
}

/// Returns the path of its endpoint, and the name of the object in the answer.
fn endpoint(to: ReferenceKind) -> (&'static str, &'static str) {
    match to {
        ReferenceKind::Group => ("groups", "group"),
        ReferenceKind::Assignee => ("users", "user"),
        ReferenceKind::Brand => ("brands", "brand"),
        ReferenceKind::Form => ("ticket_forms", "ticket_form"),
        ReferenceKind::Field => ("ticket_fields", "ticket_field"),
    }
}

fn lookup_result(reply: &Reply, to: ReferenceKind, field: &str) -> LookupResult {
    let body = reply.json::<Value>().unwrap_or_default();
    let shown = &body[field];
    match reply.status {
        200..=299 if shown.is_object() => match flaw(shown, to) {
            Some(flaw) => LookupResult::Unusable(flaw),
            None => LookupResult::Usable,
        },
        404 => LookupResult::Missing,
        403 => LookupResult::Unknown("this credential may not read it (403)".to_owned()),
        _ => LookupResult::Unknown(reply.reason(Call::SetUp.name()).log),
    }
}

/// Returns why an existing object cannot be used. Missing fields count as fine.
fn flaw(shown: &Value, to: ReferenceKind) -> Option<&'static str> {
    let is_off = shown["active"] == false;
    match to {
        ReferenceKind::Group => (shown["deleted"] == true).then_some("is deleted"),
        ReferenceKind::Brand if shown["is_deleted"] == true => Some("is deleted"),
        ReferenceKind::Brand | ReferenceKind::Form | ReferenceKind::Field => {
            is_off.then_some("is not active")
        }
        ReferenceKind::Assignee if is_off => Some("is deleted"),
        ReferenceKind::Assignee if shown["suspended"] == true => Some("is suspended"),
        ReferenceKind::Assignee => (shown["role"] == "end-user").then_some("is not an agent"),
    }
}

/// Classifies an outcome that says that nothing gets through.
pub(super) fn access_error(outcome: &Outcome) -> AccessError {
    let log = outcome.log().to_owned();
    let alert = outcome.reason().and_then(|reason| reason.alert);
    match (alert, outcome) {
        (Some(alerts::ADDRESS), _) => AccessError::Address(log),
        (Some(alerts::FORBIDDEN), _) => AccessError::Forbidden(log),
        // Without the advice of the log: the check has its own, which knows the kind of credential.
        (Some(_), Outcome::Pause { reason, .. }) => AccessError::Credential(reason.kind.clone()),
        (_, Outcome::Pause { retry_after: Some(_), .. } | Outcome::Later { .. }) => AccessError::Busy(log),
        _ => AccessError::Away(log),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_objects_can_be_unusable() {
        for (to, body, expected) in [
            (ReferenceKind::Group, r#"{"group":{"name":"Social"}}"#, LookupResult::Usable),
            (ReferenceKind::Group, r#"{"group":{"deleted":true}}"#, LookupResult::Unusable("is deleted")),
            (
                ReferenceKind::Brand,
                r#"{"brand":{"active":true,"is_deleted":true}}"#,
                LookupResult::Unusable("is deleted"),
            ),
            (ReferenceKind::Brand, r#"{"brand":{"active":false}}"#, LookupResult::Unusable("is not active")),
            (
                ReferenceKind::Form,
                r#"{"ticket_form":{"active":false}}"#,
                LookupResult::Unusable("is not active"),
            ),
            (ReferenceKind::Field, r#"{"ticket_field":{"title":"Link"}}"#, LookupResult::Usable),
            (
                ReferenceKind::Assignee,
                r#"{"user":{"role":"end-user"}}"#,
                LookupResult::Unusable("is not an agent"),
            ),
            (
                ReferenceKind::Assignee,
                r#"{"user":{"role":"agent","suspended":true}}"#,
                LookupResult::Unusable("is suspended"),
            ),
            (
                ReferenceKind::Assignee,
                r#"{"user":{"role":"admin","active":false}}"#,
                LookupResult::Unusable("is deleted"),
            ),
        ] {
            assert_eq!(lookup_result(&Reply::of(200, body), to, endpoint(to).1), expected, "{body}");
        }
        let refused = |status| lookup_result(&Reply::of(status, "<html>"), ReferenceKind::Group, "group");
        assert_eq!(refused(404), LookupResult::Missing);
        for status in [200, 403, 500] {
            assert!(matches!(refused(status), LookupResult::Unknown(_)), "{status}");
        }
    }
}
