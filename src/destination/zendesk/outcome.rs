//! The table of outcomes: what follows from an answer of Zendesk, or from a missing one.

use std::time::Duration;

use super::alerts;
use super::reply::{Lost, Reply};
use super::token;
use crate::delivery::{Doubt, Outcome, Reason};

/// The purpose of a request; the table of outcomes distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    /// Adds a comment. Not idempotent.
    Comment,
    Tags,
    /// Makes the author the requester of a ticket.
    Requester,
    LookUp,
    /// Searches for a ticket to adopt.
    Search,
    /// Reads a ticket or its audits.
    Show,
    /// Lists the deleted tickets.
    Deleted,
    /// Finds or creates the user of an author, or reads the service user.
    Author,
    Check,
    /// Looks up a configured number.
    SetUp,
}

/// Returns the outcome of an unexpected answer.
pub fn outcome(call: Call, reply: &Reply) -> Outcome {
    let reason = reply.reason(call.name());
    let alerting = |code| Reason { alert: Some(code), ..reason.clone() };
    let doubt = |doubt| if call.can_be_repeated() { Doubt::None } else { doubt };
    let pause = |reason, doubt| Outcome::Pause { reason, doubt, retry_after: reply.retry_after };
    let blocked = |reason, doubt| Outcome::Blocked { reason, doubt };
    match reply.status {
        // A page of another server, which does not count tickets.
        200..=299 if call == Call::Check => blocked(alerting(alerts::ADDRESS), Doubt::None),
        300..=399 | 404 => blocked(alerting(alerts::ADDRESS), Doubt::None),
        // Even several of them in a row are the fault of their texts, not of a setting.
        422 if reply.refuses_blank_comment() => Outcome::Dead { reason },
        400 | 413 | 422 => Outcome::Refused { reason },
        401 => pause(token::advised(reason), Doubt::None),
        // We may not touch this ticket. If that is the case for several, the destination pauses.
        403 if call.is_about_one_ticket() => Outcome::Retry { reason, doubt: Doubt::None },
        // Checks and lookups need no such permission.
        403 => {
            let reason = Reason { until_sent: true, ..alerting(alerts::FORBIDDEN) };
            blocked(reason, Doubt::None)
        }
        // Each of these has its own limit, which says nothing about creates.
        429 if !matches!(call, Call::Create | Call::Check) && reply.rate.remaining != Some(0) => {
            let wait = reply.retry_after.unwrap_or(Duration::from_secs(5));
            Outcome::Wait { reason, doubt: Doubt::None, wait }
        }
        429 => pause(reason, Doubt::None),
        // Maintenance, or a timeout of the database.
        500..=599 if reply.retry_after.is_some() => pause(reason, doubt(Doubt::Answered)),
        503 => blocked(reason, doubt(Doubt::Answered)),
        // A gateway answers for a Zendesk that may still be at work.
        502 | 504 | 520..=530 => blocked(reason, doubt(Doubt::Unanswered)),
        // A conflict can mean that an earlier copy of the same request got through.
        _ => Outcome::Retry { reason, doubt: doubt(Doubt::Answered) },
    }
}

/// Returns the outcome of a request without an answer.
pub fn lost_outcome(call: Call, lost: &Lost) -> Outcome {
    let reason = Reason::new(lost.to_string());
    if lost.unsent {
        return Outcome::Pause { reason, doubt: Doubt::None, retry_after: None };
    }
    let doubt = if call.can_be_repeated() { Doubt::None } else { Doubt::Unanswered };
    Outcome::Retry { reason, doubt }
}

impl Call {
    pub fn name(self) -> &'static str {
        match self {
            Call::Create => "the ticket",
            Call::Comment => "the comment",
            Call::Tags => "the tags",
            Call::Requester => "the requester",
            Call::LookUp => "the lookup",
            Call::Search => "the search for a ticket of the 2017 example",
            Call::Show => "the request for the ticket",
            Call::Deleted => "the list of deleted tickets",
            Call::Author => "the author's user",
            Call::Check => "the check of the credential",
            Call::SetUp => "the lookup of a setting",
        }
    }

    /// Whether the request is idempotent, so that a failure leaves no doubt.
    fn can_be_repeated(self) -> bool {
        !matches!(self, Call::Create | Call::Comment)
    }

    fn is_about_one_ticket(self) -> bool {
        matches!(self, Call::Comment | Call::Tags | Call::Requester | Call::Show)
    }

    pub fn is_update(self) -> bool {
        matches!(self, Call::Comment | Call::Tags | Call::Requester)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Describes a cell of the table.
    fn cell(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Done { .. } => "done".to_owned(),
            Outcome::Dead { .. } => "dead".to_owned(),
            Outcome::Refused { .. } => "refused".to_owned(),
            Outcome::Stuck { .. } => "stuck".to_owned(),
            Outcome::Uncertain { .. } => "uncertain".to_owned(),
            Outcome::Blocked { reason, doubt } => {
                format!("blocked {doubt:?} {}", reason.alert.unwrap_or("-"))
            }
            Outcome::Wait { .. } => "wait".to_owned(),
            Outcome::Later { .. } => "later".to_owned(),
            Outcome::Retry { doubt, .. } => format!("retry {doubt:?}"),
            Outcome::Pause { reason, doubt, .. } => {
                format!("pause {doubt:?} {}", reason.alert.unwrap_or("-"))
            }
        }
    }

    #[test]
    fn the_table_of_outcomes() {
        for (status, create, comment, look_up) in [
            (200, "retry Answered", "retry Answered", "retry None"),
            (
                302,
                "blocked None zendesk_address",
                "blocked None zendesk_address",
                "blocked None zendesk_address",
            ),
            (400, "refused", "refused", "refused"),
            (
                401,
                "pause None zendesk_credential",
                "pause None zendesk_credential",
                "pause None zendesk_credential",
            ),
            (403, "blocked None zendesk_forbidden", "retry None", "blocked None zendesk_forbidden"),
            (
                404,
                "blocked None zendesk_address",
                "blocked None zendesk_address",
                "blocked None zendesk_address",
            ),
            (409, "retry Answered", "retry Answered", "retry None"),
            (413, "refused", "refused", "refused"),
            (422, "refused", "refused", "refused"),
            (429, "pause None -", "wait", "wait"),
            (500, "retry Answered", "retry Answered", "retry None"),
            (502, "blocked Unanswered -", "blocked Unanswered -", "blocked None -"),
            (503, "blocked Answered -", "blocked Answered -", "blocked None -"),
            (504, "blocked Unanswered -", "blocked Unanswered -", "blocked None -"),
            (522, "blocked Unanswered -", "blocked Unanswered -", "blocked None -"),
        ] {
            let reply = Reply::of(status, "<html>");
            assert_eq!(cell(&outcome(Call::Create, &reply)), create, "create, {status}");
            assert_eq!(cell(&outcome(Call::Comment, &reply)), comment, "comment, {status}");
            assert_eq!(cell(&outcome(Call::LookUp, &reply)), look_up, "look-up, {status}");
            for call in [Call::Show, Call::Tags] {
                let expected = if status == 403 { "retry None" } else { look_up };
                assert_eq!(cell(&outcome(call, &reply)), expected, "{}, {status}", call.name());
            }
        }
    }

    #[test]
    fn requests_without_an_answer() {
        for (unsent, create, look_up) in
            [(true, "pause None -", "pause None -"), (false, "retry Unanswered", "retry None")]
        {
            let lost = Lost { unsent, how: "gone".into() };
            assert_eq!(cell(&lost_outcome(Call::Create, &lost)), create);
            assert_eq!(cell(&lost_outcome(Call::LookUp, &lost)), look_up);
        }
    }
}
