//! What Twilio's answers and error codes mean.
//!
//! The codes are those of <https://www.twilio.com/docs/api/errors>.

use serde_json::Value;

use super::{ADDRESS, CREDENTIAL, SENDER};
use crate::delivery::{Doubt, Outcome, Reason};
use crate::exchange::{Answer, NoAnswer};
use crate::json;

/// Why a request did not succeed.
pub enum Failure {
    Outcome(Outcome),
    /// This number cannot get texts.
    Number(Reason),
    /// The owner of the number has opted out.
    OptedOut,
}

impl Failure {
    /// Whether the request certainly had no effect.
    pub fn is_certain(&self) -> bool {
        match self {
            Failure::Number(_) | Failure::OptedOut => true,
            Failure::Outcome(
                Outcome::Retry { doubt, .. } | Outcome::Pause { doubt, .. } | Outcome::Blocked { doubt, .. },
            ) => *doubt == Doubt::None,
            Failure::Outcome(Outcome::Uncertain { .. }) => false,
            Failure::Outcome(_) => true,
        }
    }
}

/// The table of outcomes for a request that is not a 2xx with the documented body.
pub fn failure(answer: Result<Answer, NoAnswer>) -> Failure {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer { unsent: true, how }) => {
            let reason = Reason::new(format!("no connection to Twilio: {how}"));
            return Failure::Outcome(Outcome::Pause { reason, doubt: Doubt::None, retry_after: None });
        }
        Err(NoAnswer { how, .. }) => return Failure::Outcome(may_have_been_sent(&how)),
    };
    let code = code_of(&answer);
    let text = match code {
        Some(code) => format!("Twilio answered {} ({})", answer.status, described(code)),
        None => format!("Twilio answered {}", answer.status),
    };
    let reason = Reason { response: Some(Box::new(answer.response())), ..Reason::new(text) };
    let pause = |reason| Outcome::Pause { reason, doubt: Doubt::None, retry_after: answer.retry_after };
    let blocked = |alert| {
        let reason = Reason { alert: Some(alert), until_sent: true, ..reason.clone() };
        Outcome::Blocked { reason, doubt: Doubt::None }
    };
    Failure::Outcome(match (answer.status, code.unwrap_or(0)) {
        (408 | 500..=599 | ..300, _) => may_have_been_sent(&reason.log),
        (_, 20429 | 30022 | 30027) | (429, _) => pause(reason),
        (_, 20003 | 20005 | 20404) | (401 | 403, 0) => pause(Reason { alert: Some(CREDENTIAL), ..reason }),
        (_, 14107 | 30001 | 30017) => Outcome::Retry { reason, doubt: Doubt::None },
        (_, 21211 | 21214 | 21217 | 21421 | 21612 | 21614 | 30003..=30006) => return Failure::Number(reason),
        (_, 21610) => return Failure::OptedOut,
        (_, code) if is_of_sender(code) => blocked(SENDER),
        (_, 21617) => Outcome::Dead { reason },
        (300..=399 | 404 | 405, 0) => blocked(ADDRESS),
        _ => Outcome::Refused { reason },
    })
}

/// The outcome of a failed lookup: the earlier request is still in doubt.
pub fn failed_lookup(answer: Result<Answer, NoAnswer>) -> Outcome {
    match failure(answer) {
        Failure::Outcome(outcome @ (Outcome::Pause { .. } | Outcome::Blocked { .. })) => outcome.in_doubt(),
        Failure::Outcome(outcome) => unfinished_lookup(outcome.log()),
        Failure::Number(reason) => Outcome::Retry { reason, doubt: Doubt::Answered },
        Failure::OptedOut => {
            let reason = Reason::new("may have been sent, and the lookup failed");
            Outcome::Retry { reason, doubt: Doubt::Answered }
        }
    }
}

/// The outcome of a failed reading before which nothing was sent.
pub fn unread(answer: Result<Answer, NoAnswer>) -> Outcome {
    let why = match &answer {
        Ok(answer) => format!("Twilio answered {}", answer.status),
        Err(NoAnswer { how, .. }) => format!("no answer from Twilio: {how}"),
    };
    match failure(answer) {
        Failure::Outcome(outcome @ (Outcome::Pause { .. } | Outcome::Blocked { .. })) => outcome,
        _ => Outcome::Retry { reason: Reason::new(why), doubt: Doubt::None },
    }
}

/// The outcome of a lookup that may have missed its message.
pub fn unfinished_lookup(why: &str) -> Outcome {
    let reason = Reason::new(format!("may have been sent, and the lookup failed: {why}"));
    Outcome::Retry { reason, doubt: Doubt::Answered }
}

/// The outcome of a request that has no definite answer. Twilio may still be working on it.
pub fn may_have_been_sent(why: &str) -> Outcome {
    let reason = Reason::new(format!("may have been sent: {why}"));
    Outcome::Retry { reason, doubt: Doubt::Unanswered }
}

/// The carrier filtered a text for its content. It says nothing about other texts.
pub const FILTERED: u32 = 30007;

/// Whether an error is about our number or account and not about the recipient.
pub fn is_of_sender(code: u32) -> bool {
    matches!(code, 21408 | 21603 | 21606 | 21608 | 21659 | 21660 | 21704 | 30002 | 30032 | 30034)
}

/// The number of an error with its meaning.
pub fn described(code: u32) -> String {
    match meaning(code) {
        Some(meaning) => format!("{code}: {meaning}"),
        None => code.to_string(),
    }
}

fn meaning(code: u32) -> Option<&'static str> {
    Some(match code {
        20003 => "the account SID and the token or key do not belong together",
        20005 => "the account is not active",
        20404 => "there is no such account",
        20429 => "too many requests",
        21211 | 21217 => "not a valid phone number",
        21214 | 21421 | 21612 => "texts do not reach this number",
        21408 => "texts to this country are not enabled: see Geo permissions in the console",
        21603 | 21606 | 21659 | 21660 => "the account has no such number that can send texts",
        21608 => "a trial account texts only numbers that are verified in the console",
        21610 => "the recipient has opted out with STOP",
        21614 => "not a mobile number",
        21617 => "the text is too long",
        21704 => "the messaging service has no number",
        30001 => "Twilio's queue is full",
        30002 => "the account is suspended",
        30003 => "the phone is switched off or out of reach",
        30004 => "the recipient or the carrier blocks texts",
        30005 => "the number is not in use",
        30006 => "a landline, or a carrier that accepts no texts",
        30007 => "the carrier filtered the text: check its content and the registration of the number",
        30008 => "the carrier gave no reason",
        30017 => "the carrier's network is congested",
        30022 | 30027 => "the limit of the registered campaign is reached",
        30032 => "the toll-free number is not verified: verify it in the console",
        30034 => "the US number is not registered: register it with A2P 10DLC in the console",
        63016 => "WhatsApp needs an approved template: set TWILIO_CONTENT_SID",
        _ => return None,
    })
}

fn code_of(answer: &Answer) -> Option<u32> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    json::text(&body["code"])?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome_of(status: u16, code: u32) -> &'static str {
        let body = if code == 0 { String::new() } else { format!(r#"{{"code":{code}}}"#) };
        let answer = Answer { status, retry_after: None, body: body.into() };
        match failure(Ok(answer)) {
            Failure::Number(_) => "number",
            Failure::OptedOut => "opted out",
            Failure::Outcome(outcome) => match outcome {
                Outcome::Pause { reason, doubt: Doubt::None, .. }
                | Outcome::Blocked { reason, doubt: Doubt::None } => reason.alert.unwrap_or("pause"),
                Outcome::Retry { doubt: Doubt::Unanswered, .. } => "doubt",
                Outcome::Retry { doubt: Doubt::None, .. } => "retry",
                Outcome::Refused { .. } => "refused",
                Outcome::Dead { .. } => "dead",
                outcome => panic!("{outcome:?}"),
            },
        }
    }

    #[test]
    fn a_failed_reading_is_in_no_doubt() {
        let answer = Answer { status: 503, retry_after: None, body: Vec::new() };
        let broken = NoAnswer { unsent: false, how: "the connection broke".to_owned() };
        for (answer, expected) in [
            (Ok(answer), "Twilio answered 503"),
            (Err(broken), "no answer from Twilio: the connection broke"),
        ] {
            match unread(answer) {
                Outcome::Retry { reason, doubt: Doubt::None } => assert_eq!(reason.log, expected),
                outcome => panic!("{outcome:?}"),
            }
        }
    }

    #[test]
    fn the_table_of_outcomes() {
        for (status, code, expected) in [
            (200, 0, "doubt"),
            (204, 0, "doubt"),
            (302, 0, "twilio_address"),
            (404, 0, "twilio_address"),
            (401, 0, "twilio_credential"),
            (401, 20003, "twilio_credential"),
            (403, 20005, "twilio_credential"),
            (404, 20404, "twilio_credential"),
            (429, 0, "pause"),
            (429, 20429, "pause"),
            (400, 30022, "pause"),
            (400, 14107, "retry"),
            (400, 30001, "retry"),
            (400, 21211, "number"),
            (400, 21614, "number"),
            (400, 21612, "number"),
            (400, 21610, "opted out"),
            (400, 21408, "twilio_sender"),
            (400, 21606, "twilio_sender"),
            (403, 21608, "twilio_sender"),
            (400, 30034, "twilio_sender"),
            (400, 30032, "twilio_sender"),
            (400, 21617, "dead"),
            (400, 0, "refused"),
            (400, 21602, "refused"),
            (408, 0, "doubt"),
            (500, 20500, "doubt"),
            (502, 0, "doubt"),
            (503, 0, "doubt"),
        ] {
            assert_eq!(outcome_of(status, code), expected, "{status} {code}");
        }
        let lost = |unsent| failure(Err(NoAnswer { unsent, how: "gone".to_owned() }));
        assert!(lost(true).is_certain());
        assert!(!lost(false).is_certain());
    }
}
