//! Access to Khoros: `SPREDFAST_*`, and the tokens of its notifications.

pub mod route;

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::env::doc::{Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::{Reader, variables};
use crate::source::khoros::client::token_expiry;

/// Access to Khoros.
pub struct KhorosSettings {
    /// `SPREDFAST_API_URL`, without a trailing slash.
    pub api_url: Url,
    /// `SPREDFAST_API_TOKEN`
    pub token: SecretString,
    /// When the token expires: `SPREDFAST_API_TOKEN_EXPIRES`, or the claim of a JWT. `None`: unknown.
    pub token_ends: Option<Timestamp>,
    /// `SPREDFAST_COMPANY_ID`
    pub company_id: u64,
    /// `SPREDFAST_MODE`
    pub mode: Mode,
    /// `SPREDFAST_CHECK_MINUTES`: how often the subscriptions are checked.
    pub check_every: Duration,
    /// `SPREDFAST_POLL_SECONDS`: how often the feeds are read.
    pub poll_every: Duration,
    /// `FEED_SINCE`: older events of the feeds are skipped. `None`: the first start decides it.
    pub feed_since: Option<Timestamp>,
}

/// How events come from Khoros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Khoros pushes them, and the feed repairs lost pushes.
    #[default]
    Both,
    Push,
    /// Only from the feed, which needs no public address.
    Poll,
}

impl Mode {
    pub fn pushes(self) -> bool {
        self != Mode::Poll
    }

    pub fn polls(self) -> bool {
        self != Mode::Push
    }
}

variables! {
    /// The variables of Khoros, except those of routes.
    Variables:
    /// Your Khoros API Access Token, from Profile Settings. A company admin has to ask Khoros support to enable API
    /// access.
    ///
    /// casebridge removes a pasted `Bearer `.
    spredfast_api_token = required().app();
    /// The date on which the token expires, as in `2028-05-01`: the alert `credential_expires` fires 30, 7 and 1 days
    /// before.
    ///
    /// Not needed if the token is a JWT, which shows it.
    spredfast_api_token_expires = unset().example("2028-05-01");
    /// The number of your company at Khoros. Thousands separators may stay, as in `20,307,234`.
    ///
    /// Khoros has two numbers for a company; see [Deploy](deploy.md#khoros-token-company-id-label).
    spredfast_company_id = required().app();
    /// The Khoros label that creates a ticket, for example `CreateCase`. Khoros reads it as a regular expression.
    ///
    /// casebridge removes invisible characters. The log warns if the expression does not match the label's own name,
    /// or if it contains a `#`.
    spredfast_label_name = required().note("unless a `ROUTE_…` names the events").app();
    /// The secret that Khoros sends with each notification: at least 16 characters, 8 of them different, no spaces.
    /// `openssl rand -hex 32` makes a good one. During a rotation it may hold several, separated by commas: Khoros
    /// gets the first, and casebridge accepts all.
    ///
    /// 24 or more characters are better.
    notification_bearer_token = required().note("unless `SPREDFAST_MODE=poll`").app_generated(
        "The secret that Khoros sends with each notification. Heroku generates it, and casebridge gives it to Khoros.");
    /// The 2017 example's name for `NOTIFICATION_BEARER_TOKEN`. It still works, with a warning.
    notifier_bearer_token = old_name();
    /// The name under which Khoros stores the subscription. Each environment needs its own: with the same name,
    /// staging would take over production's subscription.
    ///
    /// The subscription of a `ROUTE_<NAME>_…` is named `send-to-zendesk-{name}`.
    spredfast_external_id = default(EXTERNAL_ID).app();
    /// The events API of Khoros.
    ///
    /// The address of the 2017 example is `https://api.spredfast.com/v1/events/company/{id}`.
    spredfast_api_url = default(API_URL);
    /// How events arrive. `push`: Khoros sends them. `poll`: casebridge reads them from the feeds of its
    /// subscriptions, which needs neither a public address nor `NOTIFICATION_BEARER_TOKEN`. `both`: Khoros sends
    /// them, and casebridge reads lost ones from the feed.
    spredfast_mode = default("both");
    /// Seconds between two readings of the feeds, 1 to 86400.
    ///
    /// See [Push and pull](behaviour.md#push-and-pull).
    spredfast_poll_seconds = default("300").note("`30` with `SPREDFAST_MODE=poll`");
    /// Oldest date of feed events to deliver, in UTC unless it has an offset. casebridge skips and counts older ones;
    /// `casebridge backfill` imports them. It never skips pushed events.
    ///
    /// Only the event's own date counts; events without a readable date are delivered. The 10 minutes allow for clocks
    /// that differ. To deliver everything that the feeds hold, set `1970-01-01`.
    feed_since = unset()
        .note("10 minutes before the first start; if the database already holds deliveries, the time of the oldest")
        .example("2026-05-01T08:00Z");
    /// Minutes between two checks of the subscriptions, which also repair them; at most 1440. `0.5` is half a minute.
    spredfast_check_minutes = default("10");
    /// After this many hours without an event of a busy route, the log has the alert `route_silent`; at most 8760.
    /// `0.5` is half an hour. Without it, never.
    ///
    /// A route is busy if it had five events in the seven days before its last one.
    silence_alert_hours = unset();
}

pub const SECTION: Section = Section {
    title: "Khoros",
    intro: "Khoros Marketing was called Spredfast until 2019, so most of these names begin with `SPREDFAST_`.",
    groups: &[Group::new("", Variables::DOCS)],
    prefixes: &["SPREDFAST_", "NOTIFICATION_", "NOTIFIER_", "FEED_", "SILENCE_"],
};

const EXTERNAL_ID: &str = "send-to-zendesk";
const API_URL: &str = "https://api.spredfast.com/v2/events";
const CHECK_EVERY: Duration = Duration::from_secs(600);
/// While Khoros pushes, the feed only repairs lost pushes.
const POLL_EVERY_BESIDE_PUSH: Duration = Duration::from_secs(300);
const POLL_EVERY_ALONE: Duration = Duration::from_secs(30);

/// Reads the access to Khoros; `None` with a problem.
pub fn read(reader: &mut Reader, variables: &Variables, mode: Mode) -> Option<KhorosSettings> {
    let poll_every = if mode == Mode::Poll { POLL_EVERY_ALONE } else { POLL_EVERY_BESIDE_PUSH };
    let api_url = variables.spredfast_api_url();
    let api_url = reader.optional(api_url.or_default(API_URL), parse::api_url);
    let token = reader.required(variables.spredfast_api_token(), parse::token);
    let ends = reader.optional(variables.spredfast_api_token_expires(), parse::time);
    let company_id = reader.required(variables.spredfast_company_id(), company_id);
    let check_every = reader.or(variables.spredfast_check_minutes(), CHECK_EVERY, parse::minutes);
    let poll_every = reader.or(variables.spredfast_poll_seconds(), poll_every, parse::seconds(1..=86_400));
    let feed_since = reader.optional(variables.feed_since(), feed_since);
    Some(KhorosSettings {
        api_url: api_url?,
        token_ends: ends.or_else(|| token.as_ref().and_then(token_expiry)),
        token: token?,
        company_id: company_id?,
        mode,
        check_every,
        poll_every,
        feed_since,
    })
}

/// Parses a time in the past: a later one would skip every event until then.
fn feed_since(text: &str) -> parse::Parsed<Timestamp> {
    let since = parse::time(text)?;
    if since > Timestamp::now() { Err("is in the future") } else { Ok(since) }
}

/// Reads the tokens of notifications; empty if Khoros does not push, or with a problem.
pub fn bearer_tokens(reader: &mut Reader, variables: &Variables, mode: Mode) -> Vec<SecretString> {
    let setting = reader.aliased(variables.notification_bearer_token(), variables.notifier_bearer_token());
    if setting.value.is_none() && !mode.pushes() {
        return Vec::new();
    }
    let tokens = reader.required(setting, |text| {
        let tokens = text.split(',').filter(|token| !token.trim().is_empty());
        let tokens = tokens.map(parse::secret).collect::<Result<Vec<_>, _>>()?;
        if tokens.is_empty() { Err("contains no token") } else { Ok(tokens) }
    });
    let tokens = tokens.unwrap_or_default();
    reader.warn_of_short("NOTIFICATION_BEARER_TOKEN", &tokens);
    if tokens.len() > 1 {
        reader.warnings.push(format!(
            "NOTIFICATION_BEARER_TOKEN contains {} tokens: Khoros gets the first, all are \
             accepted; remove the old ones when the rotation is over",
            tokens.len()
        ));
    }
    tokens
}

/// Khoros shows company ids with thousands separators: `20,307,234`.
pub fn company_id(text: &str) -> Parsed<u64> {
    let groups: Vec<&str> = text.split([',', '.', ' ', '\u{a0}']).collect();
    let whole = groups.len() == 1 || groups[1..].iter().all(|group| group.len() == 3);
    let id = groups.concat().parse().ok().filter(|id| *id > 0 && whole);
    id.ok_or("is not a company id (digits, as in 1234)")
}

pub fn mode(text: &str) -> Parsed<Mode> {
    parse::variant(text, "is not one of the modes: both, push, poll")
}
