//! A look at the account before anything is delivered: whether the credential works, and whether what
//! is configured by its number is there. Reads alone.

use std::fmt;

use reqwest::Method;
use serde_json::Value;

use super::token::Grant;
use super::{Call, Reply, Zendesk};
use crate::alert;
use crate::config::{Reference, Referent};
use crate::retry::Outcome;

/// Why Zendesk does not let us in. The texts hold nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
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
pub enum Presence {
    /// It is there and in use.
    Usable,
    Missing,
    /// It is there, and this is why it is of no use.
    Unusable(&'static str),
    /// It could not be looked at, for this reason.
    Unknown(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Credential(log)
            | Trouble::Forbidden(log)
            | Trouble::Address(log)
            | Trouble::Busy(log)
            | Trouble::Away(log) => f.write_str(log),
        }
    }
}

impl Zendesk {
    /// Whether the credential works, by the count of tickets: `users/me` would answer 200 to a stranger.
    ///
    /// # Errors
    /// [`Trouble`]
    pub async fn access(&self) -> Result<(), Trouble> {
        let request = || self.request(Method::GET, "/api/v2/tickets/count");
        let reply = self.repeatable(Call::Check, request).await.map_err(|outcome| trouble(&outcome))?;
        let body = reply.json::<Value>().unwrap_or_default();
        let log = reply.reason(Call::Check.name()).log;
        match reply.status {
            200..=299 if body["count"].is_object() => Ok(()),
            200..=399 | 404 => Err(Trouble::Address(log)),
            401 => Err(Trouble::Credential(log)),
            403 => Err(Trouble::Forbidden(log)),
            429 => Err(Trouble::Busy(log)),
            _ if reply.retry_after.is_some() => Err(Trouble::Busy(log)),
            _ => Err(Trouble::Away(log)),
        }
    }

    /// What the OAuth token is good for, once one was needed; none of an API token.
    pub async fn grant(&self) -> Option<Grant> {
        self.credential.grant().await
    }

    /// What is there under a number that is configured.
    pub async fn look_at(&self, reference: &Reference) -> Presence {
        let (path, field) = place(reference.to);
        let request = || self.request(Method::GET, &format!("/api/v2/{path}/{}", reference.id));
        match self.repeatable(Call::SetUp, request).await {
            Ok(reply) => presence(&reply, reference.to, field),
            Err(outcome) => Presence::Unknown(log_of(&outcome)),
        }
    }
}

/// Where one is, and under which name it comes.
fn place(to: Referent) -> (&'static str, &'static str) {
    match to {
        Referent::Group => ("groups", "group"),
        Referent::Assignee => ("users", "user"),
        Referent::Brand => ("brands", "brand"),
        Referent::Form => ("ticket_forms", "ticket_form"),
        Referent::Field => ("ticket_fields", "ticket_field"),
    }
}

fn presence(reply: &Reply, to: Referent, field: &str) -> Presence {
    let body = reply.json::<Value>().unwrap_or_default();
    let shown = &body[field];
    match reply.status {
        200..=299 if shown.is_object() => match flaw(shown, to) {
            Some(flaw) => Presence::Unusable(flaw),
            None => Presence::Usable,
        },
        404 => Presence::Missing,
        403 => Presence::Unknown("this credential may not look at it (403)".to_owned()),
        _ => Presence::Unknown(reply.reason(Call::SetUp.name()).log),
    }
}

/// Why it cannot be used although it is there. What is not told is taken for right.
fn flaw(shown: &Value, to: Referent) -> Option<&'static str> {
    let is_off = shown["active"] == false;
    match to {
        Referent::Group => (shown["deleted"] == true).then_some("is deleted"),
        Referent::Brand if shown["is_deleted"] == true => Some("is deleted"),
        Referent::Brand | Referent::Form | Referent::Field => is_off.then_some("is not active"),
        Referent::Assignee if is_off => Some("is deleted"),
        Referent::Assignee if shown["suspended"] == true => Some("is suspended"),
        Referent::Assignee => (shown["role"] == "end-user").then_some("is no agent"),
    }
}

/// Of what happened before there was an answer to look at, and of the minting of a token.
fn trouble(outcome: &Outcome) -> Trouble {
    let (alert, log) = (outcome.reason().and_then(|reason| reason.alert), log_of(outcome));
    match outcome {
        Outcome::Pause { .. } | Outcome::Blocked { .. } if alert == Some(alert::ZENDESK_ADDRESS) => {
            Trouble::Address(log)
        }
        // Without the advice of the log: the check has its own, which knows the kind of credential.
        Outcome::Pause { .. } | Outcome::Blocked { .. } if alert.is_some() => {
            Trouble::Credential(outcome.reason().map_or(log, |reason| reason.kind.clone()))
        }
        Outcome::Pause { retry_after: Some(_), .. } | Outcome::Later { .. } => Trouble::Busy(log),
        _ => Trouble::Away(log),
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
            (Referent::Group, r#"{"group":{"name":"Social"}}"#, Presence::Usable),
            (Referent::Group, r#"{"group":{"deleted":true}}"#, Presence::Unusable("is deleted")),
            (
                Referent::Brand,
                r#"{"brand":{"active":true,"is_deleted":true}}"#,
                Presence::Unusable("is deleted"),
            ),
            (Referent::Brand, r#"{"brand":{"active":false}}"#, Presence::Unusable("is not active")),
            (Referent::Form, r#"{"ticket_form":{"active":false}}"#, Presence::Unusable("is not active")),
            (Referent::Field, r#"{"ticket_field":{"title":"Link"}}"#, Presence::Usable),
            (Referent::Assignee, r#"{"user":{"role":"end-user"}}"#, Presence::Unusable("is no agent")),
            (
                Referent::Assignee,
                r#"{"user":{"role":"agent","suspended":true}}"#,
                Presence::Unusable("is suspended"),
            ),
            (
                Referent::Assignee,
                r#"{"user":{"role":"admin","active":false}}"#,
                Presence::Unusable("is deleted"),
            ),
        ] {
            assert_eq!(presence(&Reply::of(200, body), to, place(to).1), expected, "{body}");
        }
        let refused = |status| presence(&Reply::of(status, "<html>"), Referent::Group, "group");
        assert_eq!(refused(404), Presence::Missing);
        for status in [200, 403, 500] {
            assert!(matches!(refused(status), Presence::Unknown(_)), "{status}");
        }
    }
}
