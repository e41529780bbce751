//! The rows of Slack in `casebridge check`. They only read.

use std::collections::BTreeSet;

use super::answer::Kind;
use super::{NAME, Settings, Slack};
use crate::report::{Finding, INCOMPLETE, Row, STEP, within};

/// What to do about a channel that takes no messages from us, by Slack's error.
pub(super) fn advice(word: &str) -> &'static str {
    match word {
        "not_in_channel" => "type /invite @casebridge in the channel",
        "channel_not_found" => {
            "if the channel is private, type /invite @casebridge in it; otherwise correct its id"
        }
        "is_archived" => "unarchive it, or set another SLACK_CHANNEL_ID",
        _ => "allow the app to post there, or set another SLACK_CHANNEL_ID",
    }
}

pub async fn rows(settings: Option<&Settings>, http: &reqwest::Client) -> Vec<Row> {
    let Some(settings) = settings else {
        return vec![Row::of(NAME, [Finding::not_checked(INCOMPLETE)])];
    };
    let slack = Slack::new(settings.clone(), http.clone(), STEP * 5);
    let account = within(slack.write("auth.test", "{}", None)).await;
    let token = match account {
        Some(Ok(account)) if account["bot_id"].is_string() => {
            let name = |field: &str| account[field].as_str().unwrap_or("?").to_owned();
            Finding::ok(format!("the token belongs to {} in {}", name("user"), name("team")))
        }
        Some(Ok(_)) => Finding::failed("the token is not a bot's", "set SLACK_BOT_TOKEN to xoxb-…"),
        Some(Err(failure)) => {
            let remedy = "check SLACK_BOT_TOKEN and SLACK_API_URL; the Bot User OAuth Token is under OAuth & Permissions";
            Finding::failed(format!("the token cannot be used: {}", failure.word), remedy)
        }
        None => Finding::failed("Slack does not answer", "check SLACK_API_URL, DNS, firewall and proxy"),
    };
    let works = token.mark == crate::report::Mark::Ok;
    let mut channels = Vec::new();
    for channel in settings.targets.values().map(|target| &target.channel).collect::<BTreeSet<_>>() {
        channels.push(match works {
            true => channel_finding(&slack, channel).await,
            false => Finding::not_checked("the token does not work"),
        });
    }
    vec![Row::of("slack token", [token]), Row::of("slack channels", channels)]
}

async fn channel_finding(slack: &Slack, channel: &str) -> Finding {
    let page = within(slack.read("conversations.history", &[("channel", channel), ("limit", "1")])).await;
    match page {
        Some(Ok(_)) => Finding::ok(format!("{channel} can be read: messages are posted exactly once")),
        Some(Err(failure)) if failure.kind == Kind::Permission => Finding::warning(
            format!(
                "{channel} cannot be read ({}): a lost answer may lead to a second message",
                failure.word
            ),
            "to prevent that, add the scopes channels:history and groups:history, and reinstall the app",
        ),
        Some(Err(failure)) => {
            Finding::failed(format!("{channel}: Slack answers {}", failure.word), advice(&failure.word))
        }
        None => Finding::failed(format!("{channel}: Slack does not answer"), "try again in a minute"),
    }
}
