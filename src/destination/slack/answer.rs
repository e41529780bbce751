//! The answers of Slack's Web API, and the table of their outcomes.

use std::time::Duration;

use serde_json::Value;

use super::{ADDRESS, CREDENTIAL, REFUSES};
use crate::delivery::{Doubt, Outcome, Reason};
use crate::exchange::{Answer, NoAnswer};

/// The wait after a 429 without `Retry-After`.
const THROTTLED: Duration = Duration::from_secs(30);
/// The wait of a free workspace that has used up its messages.
const QUOTA: Duration = Duration::from_secs(900);

/// A request that did not succeed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub kind: Kind,
    /// Slack's error, or our own description.
    pub word: String,
    pub retry_after: Option<Duration>,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Slack did not get the request.
    Unsent,
    /// Slack may have carried it out.
    Doubt,
    /// Too many messages for this channel.
    Throttled,
    /// There is no Slack at `SLACK_API_URL`.
    Address,
    Credential,
    /// A permission of the app or the workspace is missing.
    Permission,
    /// The workspace is being moved.
    Moving,
    /// The workspace has used up its messages.
    Quota,
    /// The channel takes no messages from us.
    Channel,
    /// The thread takes no replies, or its first message is gone.
    Thread,
    /// Our blocks are refused.
    Markup,
    Metadata,
    /// Our request is wrong.
    Invalid,
    /// Slack does not document this error for these methods.
    Unknown,
}

/// The table. `word` is Slack's `error`; empty if the answer is no JSON of Slack's.
/// Source: the reference of `chat.postMessage` and `chat.update`, May 2026.
pub fn kind(status: u16, word: &str) -> Kind {
    match word {
        _ if status == 429 => Kind::Throttled,
        "ratelimited" | "rate_limited" => Kind::Throttled,
        "" if matches!(status, 300..=399 | 401 | 403..=405 | 407) => Kind::Address,
        "not_authed"
        | "invalid_auth"
        | "account_inactive"
        | "token_revoked"
        | "token_expired"
        | "not_allowed_token_type"
        | "two_factor_setup_required"
        | "org_login_required" => Kind::Credential,
        "missing_scope"
        | "no_permission"
        | "access_denied"
        | "accesslimited"
        | "ekm_access_denied"
        | "enterprise_is_restricted"
        | "team_access_not_granted"
        | "app_access_restricted"
        | "restricted_action"
        | "method_deprecated"
        | "deprecated_endpoint" => Kind::Permission,
        "team_added_to_org" => Kind::Moving,
        "message_limit_exceeded" => Kind::Quota,
        "channel_not_found"
        | "not_in_channel"
        | "is_archived"
        | "restricted_action_read_only_channel"
        | "restricted_action_thread_only_channel"
        | "team_not_found"
        | "messages_tab_disabled" => Kind::Channel,
        "cannot_reply_to_message"
        | "restricted_action_thread_locked"
        | "restricted_action_non_threadable_channel"
        | "message_not_found"
        | "thread_not_found" => Kind::Thread,
        "invalid_blocks"
        | "invalid_blocks_format"
        | "msg_blocks_too_long"
        | "markdown_text_conflict"
        | "attachment_payload_limit_exceeded"
        | "too_many_attachments" => Kind::Markup,
        "invalid_metadata_format"
        | "invalid_metadata_schema"
        | "metadata_too_large"
        | "metadata_must_be_sent_from_app" => Kind::Metadata,
        "no_text" | "invalid_arguments" | "invalid_arg_name" | "invalid_array_arg" | "invalid_charset"
        | "invalid_form_data" | "invalid_post_type" | "missing_post_type" => Kind::Invalid,
        ""
        | "internal_error"
        | "fatal_error"
        | "request_timeout"
        | "service_unavailable"
        | "duplicate_message_not_found"
        | "duplicate_channel_not_found" => Kind::Doubt,
        _ if status >= 500 => Kind::Doubt,
        _ => Kind::Unknown,
    }
}

/// Returns the JSON of a successful answer.
pub fn success(answer: Result<Answer, NoAnswer>) -> Result<Value, Failure> {
    let answer = answer.map_err(|NoAnswer { unsent, how }| Failure {
        kind: if unsent { Kind::Unsent } else { Kind::Doubt },
        word: how,
        retry_after: None,
    })?;
    let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
    if let Some(json) = json.as_ref().filter(|json| json["ok"] == true && answer.status == 200) {
        return Ok(json.clone());
    }
    let error = json.as_ref().and_then(|json| json["error"].as_str()).filter(|word| is_word(word));
    let kind = kind(answer.status, error.unwrap_or_default());
    let needed = json.as_ref().and_then(|json| json["needed"].as_str()).filter(|scope| is_word(scope));
    let word = match (error, needed) {
        (Some(word), Some(scope)) => format!("{word} ({scope})"),
        (Some(word), None) => word.to_owned(),
        (None, _) => format!("status {}", answer.status),
    };
    Err(Failure { kind, word, retry_after: answer.retry_after })
}

/// Whether this looks like an error of Slack's, which may go into the log: something else may answer instead of Slack.
fn is_word(text: &str) -> bool {
    text.len() <= 80 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:,".contains(&byte))
}

impl Failure {
    /// How long Slack asks to wait.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after.or((self.kind == Kind::Throttled).then_some(THROTTLED))
    }

    /// The outcome of the delivery, unless the failure is about its channel, its thread or its form. `doubt` applies to
    /// a request that Slack may have carried out.
    pub fn outcome(&self, doubt: Doubt) -> Outcome {
        let reason = Reason::new(match self.kind {
            Kind::Unsent => format!("no connection to Slack (SLACK_API_URL): {}", self.word),
            Kind::Doubt => format!("no usable answer from Slack: {}", self.word),
            _ => format!("Slack answered {}", self.word),
        });
        let alerting = |code| Reason { alert: Some(code), until_sent: true, ..reason.clone() };
        let pause = |reason, retry_after| Outcome::Pause { reason, doubt: Doubt::None, retry_after };
        match self.kind {
            Kind::Unsent | Kind::Moving | Kind::Throttled => pause(reason, self.wait()),
            Kind::Doubt => Outcome::Retry { reason, doubt },
            Kind::Credential => pause(Reason { until_sent: false, ..alerting(CREDENTIAL) }, None),
            Kind::Address => Outcome::Blocked { reason: alerting(ADDRESS), doubt: Doubt::None },
            Kind::Permission => Outcome::Blocked { reason: alerting(REFUSES), doubt: Doubt::None },
            Kind::Quota => pause(alerting(REFUSES), Some(QUOTA)),
            Kind::Channel | Kind::Thread | Kind::Markup | Kind::Metadata | Kind::Invalid | Kind::Unknown => {
                Outcome::Refused { reason }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row of the table: the answers, what they mean, and the outcome of a delivery.
    #[test]
    fn the_table_of_outcomes() {
        for (kind, outcome, answers) in [
            (Kind::Throttled, "pause -", &[(429, ""), (200, "ratelimited"), (200, "rate_limited")][..]),
            (
                Kind::Doubt,
                "retry Unanswered",
                &[
                    (200, ""),
                    (500, ""),
                    (502, ""),
                    (503, "unheard_of"),
                    (200, "internal_error"),
                    (200, "fatal_error"),
                    (200, "request_timeout"),
                    (200, "service_unavailable"),
                    (200, "duplicate_message_not_found"),
                    (200, "duplicate_channel_not_found"),
                ],
            ),
            (
                Kind::Address,
                "blocked slack_address",
                &[(302, ""), (401, ""), (403, ""), (404, ""), (407, "")],
            ),
            (
                Kind::Credential,
                "pause slack_credential",
                &[
                    (200, "not_authed"),
                    (200, "invalid_auth"),
                    (200, "account_inactive"),
                    (200, "token_revoked"),
                    (200, "token_expired"),
                    (200, "not_allowed_token_type"),
                    (200, "two_factor_setup_required"),
                    (200, "org_login_required"),
                ],
            ),
            (
                Kind::Permission,
                "blocked slack_refuses",
                &[
                    (200, "missing_scope"),
                    (200, "no_permission"),
                    (200, "access_denied"),
                    (200, "accesslimited"),
                    (200, "ekm_access_denied"),
                    (200, "enterprise_is_restricted"),
                    (200, "team_access_not_granted"),
                    (200, "app_access_restricted"),
                    (200, "restricted_action"),
                    (200, "method_deprecated"),
                    (200, "deprecated_endpoint"),
                ],
            ),
            (Kind::Moving, "pause -", &[(200, "team_added_to_org")]),
            (Kind::Quota, "pause slack_refuses", &[(200, "message_limit_exceeded")]),
            (
                Kind::Channel,
                "refused",
                &[
                    (200, "channel_not_found"),
                    (200, "not_in_channel"),
                    (200, "is_archived"),
                    (200, "restricted_action_read_only_channel"),
                    (200, "restricted_action_thread_only_channel"),
                    (200, "team_not_found"),
                    (200, "messages_tab_disabled"),
                ],
            ),
            (
                Kind::Thread,
                "refused",
                &[
                    (200, "cannot_reply_to_message"),
                    (200, "restricted_action_thread_locked"),
                    (200, "restricted_action_non_threadable_channel"),
                    (200, "message_not_found"),
                    (200, "thread_not_found"),
                ],
            ),
            (
                Kind::Markup,
                "refused",
                &[
                    (200, "invalid_blocks"),
                    (200, "invalid_blocks_format"),
                    (200, "msg_blocks_too_long"),
                    (200, "attachment_payload_limit_exceeded"),
                    (200, "too_many_attachments"),
                    (200, "markdown_text_conflict"),
                ],
            ),
            (
                Kind::Metadata,
                "refused",
                &[
                    (200, "invalid_metadata_format"),
                    (200, "invalid_metadata_schema"),
                    (200, "metadata_too_large"),
                    (200, "metadata_must_be_sent_from_app"),
                ],
            ),
            (
                Kind::Invalid,
                "refused",
                &[
                    (200, "no_text"),
                    (200, "invalid_arguments"),
                    (200, "invalid_arg_name"),
                    (200, "invalid_array_arg"),
                    (200, "invalid_charset"),
                    (200, "invalid_form_data"),
                    (200, "invalid_post_type"),
                    (200, "missing_post_type"),
                ],
            ),
            (Kind::Unknown, "refused", &[(200, "unheard_of"), (400, "unheard_of")]),
        ] {
            for (status, word) in answers {
                let body = match word.is_empty() {
                    true => "<html>".to_owned(),
                    false => format!(r#"{{"ok":false,"error":"{word}"}}"#),
                };
                let answer = Answer { status: *status, retry_after: None, body: body.into_bytes() };
                let failure = success(Ok(answer)).unwrap_err();
                assert_eq!(failure.kind, kind, "{status} {word}");
                assert_eq!(cell(&failure.outcome(Doubt::Unanswered)), outcome, "{status} {word}");
            }
        }
    }

    fn cell(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Retry { doubt, .. } => format!("retry {doubt:?}"),
            Outcome::Refused { .. } => "refused".to_owned(),
            Outcome::Pause { reason, doubt: Doubt::None, .. } => {
                format!("pause {}", reason.alert.unwrap_or("-"))
            }
            Outcome::Blocked { reason, doubt: Doubt::None } => {
                format!("blocked {}", reason.alert.unwrap_or("-"))
            }
            outcome => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn requests_without_an_answer() {
        for (unsent, outcome) in [(true, "pause -"), (false, "retry Unanswered")] {
            let failure = success(Err(NoAnswer { unsent, how: "gone".to_owned() })).unwrap_err();
            assert_eq!(cell(&failure.outcome(Doubt::Unanswered)), outcome);
        }
    }

    #[test]
    fn only_words_reach_the_log() {
        for (body, word) in [
            (r#"{"ok":false,"error":"missing_scope","needed":"chat:write"}"#, "missing_scope (chat:write)"),
            (r#"{"ok":false,"error":"zebra crossing <b>"}"#, "status 200"),
            (r#"{"ok":"yes"}"#, "status 200"),
            ("zebra", "status 200"),
        ] {
            let answer = Answer { status: 200, retry_after: None, body: body.into() };
            assert_eq!(success(Ok(answer)).unwrap_err().word, word);
        }
    }
}
