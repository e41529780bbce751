//! The settings of Slack.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::NAME;
use crate::destination::quiet_hours::QuietHours;
use crate::destination::template::Template;
use crate::destination::zendesk::settings::ticket::{self, TICKET_PREFIX, TicketVariables};
use crate::env::doc::{Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::{Reader, variables};
use crate::item::Priority;
use crate::route::Route;

const API_URL: &str = "https://slack.com/api";
const PREFIX: &str = "SLACK_";
const MAX_PER_MINUTE: u32 = 20;

variables! {
    /// The variables of Slack, except those of routes.
    Variables:
    /// The bot token of your Slack app (`xoxb-…`); see [Slack](slack.md).
    slack_bot_token = needed("for Slack");
    /// The address of Slack's Web API. For GovSlack: `https://slack-gov.com/api`.
    slack_api_url = default(API_URL);
    /// The lowest priority at which `SLACK_MENTION` applies: `low`, `normal`, `high` or `urgent`.
    ///
    /// The priority is that of the ticket: the route's `TICKET_PRIORITY`, and `high` for an account that has lost its
    /// authorization if that is `normal`.
    slack_mention_priority = unset().note("every priority").example("high");
    /// The hours of each day, and their time zone, in which casebridge mentions nobody. It still posts messages.
    slack_quiet_hours = unset().example("'22:00-07:00 Europe/Berlin'");
    /// The most new cases that casebridge posts in a channel in any minute; further ones wait. `0`: no limit.
    slack_max_per_minute = default("20");
    /// What happens to a message that may have been posted, if casebridge may not read the channel. `resend`:
    /// casebridge posts it again, marked as a possible duplicate. `hold`: the delivery is dead, and you decide.
    slack_doubt = default("resend");
}

variables! {
    /// The variables of a channel: `SLACK_…`, and `ROUTE_<NAME>_SLACK_…` for one route.
    TargetVariables:
    /// The id of the channel, from the bottom of its details in Slack; a link to the channel works, too.
    channel_id = needed("for Slack").example("C0123456789");
    /// A [template](tickets.md#templates) for the first line of a case's message, in plain text.
    text = unset();
    /// Whom casebridge mentions when a case is new, reopened or followed up, separated by commas: `here`, `channel`,
    /// or the id of a member (`U…`) or a user group (`S…`). `none`: nobody.
    mention = unset().note("nobody").example("S0123456789");
}

pub const SECTIONS: &[Section] = &[Section {
    title: "Slack",
    intro: "See [Slack](slack.md).",
    groups: &[Group::new("", Variables::DOCS), Group::per_route(PREFIX, TargetVariables::DOCS)],
    prefixes: &[PREFIX],
}];

/// The settings of Slack.
#[derive(Clone)]
pub struct Settings {
    /// `SLACK_API_URL`
    pub url: Url,
    pub token: SecretString,
    /// `SLACK_MENTION_PRIORITY`
    pub mention_priority: Priority,
    pub quiet_hours: Option<QuietHours>,
    /// `SLACK_MAX_PER_MINUTE`; 0: no limit.
    pub max_per_minute: u32,
    /// `SLACK_DOUBT`
    pub doubt: IfUnreadable,
    /// The channels by route.
    pub targets: BTreeMap<String, Target>,
}

/// Where the messages of a route go.
#[derive(Clone, Debug)]
pub struct Target {
    pub channel: String,
    pub text: Option<Template>,
    pub mentions: Vec<Mention>,
    /// The priority of the route's tickets.
    pub priority: Priority,
}

/// Whom a message mentions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mention {
    /// The members of the channel who are active.
    Here,
    /// All members of the channel.
    Channel,
    User(String),
    Group(String),
}

impl Mention {
    /// Parses `here, channel, U…, W…, S…`, also as Slack writes them: `<!subteam^S…>`. `none` is an empty list.
    pub fn parse_list(text: &str) -> Parsed<Vec<Mention>> {
        const REASON: &str = "is neither here nor channel, nor the id of a member (U…) or a user group (S…)";
        if text.eq_ignore_ascii_case("none") {
            return Ok(Vec::new());
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let mentions: Option<Vec<Mention>> = parts.map(Mention::parse).collect();
        mentions.filter(|mentions| !mentions.is_empty()).ok_or(REASON)
    }

    fn parse(text: &str) -> Option<Mention> {
        let bare =
            text.trim_start_matches(['<', '@', '!']).trim_end_matches('>').trim_start_matches("subteam^");
        let is_id = (9..=20).contains(&bare.len())
            && bare.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        match (bare, bare.chars().next()?) {
            ("here", _) => Some(Mention::Here),
            ("channel", _) => Some(Mention::Channel),
            (id, 'U' | 'W') if is_id => Some(Mention::User(id.to_owned())),
            (id, 'S') if is_id => Some(Mention::Group(id.to_owned())),
            _ => None,
        }
    }

    /// The mention as an element of rich text.
    pub fn element(&self) -> Value {
        match self {
            Mention::Here => json!({ "type": "broadcast", "range": "here" }),
            Mention::Channel => json!({ "type": "broadcast", "range": "channel" }),
            Mention::User(id) => json!({ "type": "user", "user_id": id }),
            Mention::Group(id) => json!({ "type": "usergroup", "usergroup_id": id }),
        }
    }

    /// The mention in a text that Slack parses: this one notifies people.
    pub fn markup(&self) -> String {
        match self {
            Mention::Here => "<!here>".to_owned(),
            Mention::Channel => "<!channel>".to_owned(),
            Mention::User(id) => format!("<@{id}>"),
            Mention::Group(id) => format!("<!subteam^{id}>"),
        }
    }
}

/// What to do with a message that may have been posted, if the channel cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IfUnreadable {
    #[default]
    Resend,
    Hold,
}

/// Whether any of its variables is set.
pub fn is_configured(reader: &mut Reader) -> bool {
    let of_channel = TargetVariables::names().map(|name| format!("{PREFIX}{name}"));
    reader.is_any_set(Variables::names().chain(of_channel))
}

/// Reads the settings. Returns `None` if there is a problem.
pub fn read(reader: &mut Reader, routes: &[Route]) -> Option<Settings> {
    let variables = Variables::read(reader, "");
    let url = reader.optional(variables.slack_api_url().or_default(API_URL), parse::url);
    let token = reader.required(variables.slack_bot_token(), bot_token);
    let mention_priority = reader.or(variables.slack_mention_priority(), Priority::Low, |text| {
        parse::variant(text, "is not one of low, normal, high and urgent")
    });
    let quiet_hours = reader.optional(variables.slack_quiet_hours(), QuietHours::parse);
    let max_per_minute =
        reader.or(variables.slack_max_per_minute(), MAX_PER_MINUTE, parse::number(0..=100_000));
    let doubt = reader.or(variables.slack_doubt(), IfUnreadable::default(), |text| {
        parse::variant(text, "is neither resend nor hold")
    });
    let targets = reader.by_route(routes, NAME, read_target);
    check_common(reader);
    Some(Settings {
        url: url?,
        token: token?,
        mention_priority,
        quiet_hours,
        max_per_minute,
        doubt,
        targets: targets?,
    })
}

/// Reports wrong common settings, even if each route has its own.
fn check_common(reader: &mut Reader) {
    let common = TargetVariables::read(reader, PREFIX);
    let name = common.text().name;
    reader.optional(common.channel_id(), channel_id);
    reader.optional(common.text(), |text| template(&name, text));
    reader.optional(common.mention(), Mention::parse_list);
    reader.drop_repeated();
}

fn template(name: &str, text: &str) -> Result<Template, String> {
    Template::new(name, text).map_err(|problem| format!("is not a valid template: {problem}"))
}

fn read_target(reader: &mut Reader, route: &Route) -> Option<Target> {
    let variables = TargetVariables::read_for(reader, route, PREFIX);
    let channel = reader.required(variables.channel_id(), channel_id);
    let name = variables.text().name;
    let text = reader.optional(variables.text(), |text| template(&name, text));
    let mentions = reader.or(variables.mention(), Vec::new(), Mention::parse_list);
    let ticket = TicketVariables::read_for(reader, route, TICKET_PREFIX);
    let priority = reader.or(ticket.priority(), Priority::default(), ticket::priority);
    Some(Target { channel: channel?, text, mentions, priority })
}

/// Parses a bot token: other tokens have the rights of a person.
fn bot_token(text: &str) -> Parsed<SecretString> {
    let token = parse::token(text)?;
    match token.expose_secret().starts_with("xoxb-") {
        true => Ok(token),
        false => Err("is not a bot token (xoxb-…): OAuth & Permissions, Bot User OAuth Token"),
    }
}

/// Parses the id of a channel, or a link to it.
fn channel_id(text: &str) -> Parsed<String> {
    let id = match text.split_once("/archives/") {
        Some((_, rest)) => rest.split(['/', '?', '#']).next().unwrap_or_default(),
        None => text,
    };
    let is_id = id.starts_with(['C', 'G'])
        && (9..=20).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    match is_id {
        true => Ok(id.to_owned()),
        false => Err("is not the id of a channel (C0123456789): open the channel's details, at the bottom"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_an_id_or_a_link() {
        for text in ["C0123456789", "https://acme.slack.com/archives/C0123456789/p1747?thread_ts=1"] {
            assert_eq!(channel_id(text), Ok("C0123456789".to_owned()), "{text}");
        }
        for wrong in
            ["", "#support", "support", "c0123456789", "D0123456789", "C01", "https://acme.slack.com/"]
        {
            assert!(channel_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_bot_token_is_one() {
        for text in ["xoxb-1-2-three", "Bearer xoxb-1-2-three", "bearer xoxb-1-2-three"] {
            assert_eq!(bot_token(text).unwrap().expose_secret(), "xoxb-1-2-three");
        }
        for wrong in ["xoxp-1-2-three", "xapp-1", "xoxe.xoxb-1", "https://hooks.slack.com/services/T/B/x"] {
            assert!(bot_token(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mentions_are_read_as_people_paste_them() {
        let found = Mention::parse_list("here, @channel,<@U0123456789>, <!subteam^S0123456789>").unwrap();
        let (user, group) = (Mention::User("U0123456789".into()), Mention::Group("S0123456789".into()));
        assert_eq!(found, [Mention::Here, Mention::Channel, user, group]);
        assert_eq!(Mention::parse_list("none"), Ok(Vec::new()));
        for wrong in ["", ",", "everyone", "@jane", "U0123456789 <!channel>", "U01|x", "C0123456789"] {
            assert!(Mention::parse_list(wrong).is_err(), "{wrong}");
        }
    }
}
