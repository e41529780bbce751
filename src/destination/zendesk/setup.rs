//! A look at the account before anything is delivered: whether the credential works, and whether what
//! is configured by its number is there. Reads alone.

use std::fmt;

use reqwest::Method;
use serde_json::Value;

use super::token::Grant;
use super::{Call, Reply, Zendesk};
use crate::alert;
use crate::config::{Reference, ReferenceKind};
use crate::retry::Outcome;

/// Why Zendesk does not let us in. The texts hold nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The credential is wrong, switched off or expired.
    Credential(String),
    /// It is known, and may not even count tickets.
    Forbidden(String),
    /// There is no Zendesk at this address.
    Address(String),
    /// It asks to come back later, which says nothing of the credential.
    Busy(String),
    /// It does not answer, or answers with a failure of its own.
    Away(String),
}

/// What is at a number that is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// It is there and in use.
    Usable,
    Missing,
    /// It is there, and this is why it is of no use.
    Unusable(&'static str),
    /// It could not be looked at, for this reason.
    Unknown(String),
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessError::Credential(log)
            | AccessError::Forbidden(log)
            | AccessError::Address(log)
            | AccessError::Busy(log)
            | AccessError::Away(log) => f.write_str(log),
        }
    }
}

impl Zendesk {
    /// Whether the credential works, by the count of tickets: `users/me` would answer 200 to a stranger.
    ///
    /// # Errors
    /// [`AccessError`]
    pub async fn access(&self) -> Result<(), AccessError> {
        let request = || self.request(Method::GET, "/api/v2/tickets/count");
        let reply = self.repeatable(Call::Check, request).await.map_err(|outcome| trouble(&outcome))?;
        let body = reply.json::<Value>().unwrap_or_default();
        let log = reply.reason(Call::Check.name()).log;
        match reply.status {
            200..=299 if body["count"].is_object() => Ok(()),
            200..=399 | 404 => Err(AccessError::Address(log)),
            401 => Err(AccessError::Credential(log)),
            403 => Err(AccessError::Forbidden(log)),
            429 => Err(AccessError::Busy(log)),
            _ if reply.retry_after.is_some() => Err(AccessError::Busy(log)),
            _ => Err(AccessError::Away(log)),
        }
    }

    /// What the OAuth token is good for, once one was needed; none of an API token.
    pub async fn grant(&self) -> Option<Grant> {
        self.credential.grant().await
    }

    /// What is there under a number that is configured.
    pub async fn look_at(&self, reference: &Reference) -> LookupResult {
        let (path, field) = place(reference.to);
        let request = || self.request(Method::GET, &format!("/api/v2/{path}/{}", reference.id));
        match self.repeatable(Call::SetUp, request).await {
            Ok(reply) => presence(&reply, reference.to, field),
            Err(outcome) => LookupResult::Unknown(log_of(&outcome)),
        }
    }
}

/// Where one is, and under which name it comes.
fn place(to: ReferenceKind) -> (&'static str, &'static str) {
    match to {
        ReferenceKind::Group => ("groups", "group"),
        ReferenceKind::Assignee => ("users", "user"),
        ReferenceKind::Brand => ("brands", "brand"),
        ReferenceKind::Form => ("ticket_forms", "ticket_form"),
        ReferenceKind::Field => ("ticket_fields", "ticket_field"),
    }
}

fn presence(reply: &Reply, to: ReferenceKind, field: &str) -> LookupResult {
    let body = reply.json::<Value>().unwrap_or_default();
    let shown = &body[field];
    match reply.status {
        200..=299 if shown.is_object() => match flaw(shown, to) {
            Some(flaw) => LookupResult::Unusable(flaw),
            None => LookupResult::Usable,
        },
        404 => LookupResult::Missing,
        403 => LookupResult::Unknown("this credential may not look at it (403)".to_owned()),
        _ => LookupResult::Unknown(reply.reason(Call::SetUp.name()).log),
    }
}

/// Why it cannot be used although it is there. What is not told is taken for right.
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
        ReferenceKind::Assignee => (shown["role"] == "end-user").then_some("is no agent"),
    }
}

/// Of what happened before there was an answer to look at, and of the minting of a token.
fn trouble(outcome: &Outcome) -> AccessError {
    let (alert, log) = (outcome.reason().and_then(|reason| reason.alert), log_of(outcome));
    match outcome {
        Outcome::Pause { .. } | Outcome::Blocked { .. } if alert == Some(alert::ZENDESK_ADDRESS) => {
            AccessError::Address(log)
        }
        // Without the advice of the log: the check has its own, which knows the kind of credential.
        Outcome::Pause { .. } | Outcome::Blocked { .. } if alert.is_some() => {
            AccessError::Credential(outcome.reason().map_or(log, |reason| reason.kind.clone()))
        }
        Outcome::Pause { retry_after: Some(_), .. } | Outcome::Later { .. } => AccessError::Busy(log),
        _ => AccessError::Away(log),
    }
}

fn log_of(outcome: &Outcome) -> String {
    outcome.reason().map(|reason| reason.log.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_can_be_of_no_use() {
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
                LookupResult::Unusable("is no agent"),
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
            assert_eq!(presence(&Reply::of(200, body), to, place(to).1), expected, "{body}");
        }
        let refused = |status| presence(&Reply::of(status, "<html>"), ReferenceKind::Group, "group");
        assert_eq!(refused(404), LookupResult::Missing);
        for status in [200, 403, 500] {
            assert!(matches!(refused(status), LookupResult::Unknown(_)), "{status}");
        }
    }
}
