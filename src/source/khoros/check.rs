//! The rows about Khoros. The answers are gathered first and judged later: a subscription that points
//! elsewhere is wrong only if our own address is right.

use jiff::Timestamp;
use regex::Regex;
use url::Url;

use crate::report::{Finding, Mark};
use crate::report::{INCOMPLETE, within};
use crate::route::Route;
use crate::source::khoros::client::{Company, Khoros, Label, Refusal, RemoteSubscription, TokenUser};
use crate::source::khoros::endpoint;
use crate::source::khoros::settings::route::SPECIAL;
use crate::source::khoros::settings::{KhorosSettings, Mode};
use crate::source::khoros::subscription::{Desired, Field};

const TOKEN_REMEDY: &str = "copy a new API Access Token from Profile Settings in Khoros to SPREDFAST_API_TOKEN, or \
                            ask Khoros support to enable API access for the company";
const ADDRESS_REMEDY: &str = "remove SPREDFAST_API_URL to get the default, or correct it; if it is not set, a proxy or \
                              a firewall answers instead of Khoros: see HTTPS_PROXY";
const AWAY_REMEDY: &str = "see Khoros' status page, and whether this host reaches it (DNS, firewall, proxy, \
                           SPREDFAST_API_URL)";
const COMPANY_REMEDY: &str = "compare SPREDFAST_COMPANY_ID with the `companyId` of incoming events, or ask \
                              Khoros support which of the numbers belongs there";
const LABEL_REMEDY: &str = "add the label in Khoros, or correct the variable that names it (SPREDFAST_LABEL_NAME, \
                            ROUTE_<NAME>_LABEL)";
const INACTIVE_REMEDY: &str = "activate the label in Khoros, or set another one";
const SIMILAR_REMEDY: &str = "set ROUTE_<NAME>_LABEL, which matches exactly this name, instead of SPREDFAST_LABEL_NAME, \
                              which Khoros reads as a regular expression";
const REPAIR_REMEDY: &str = "start the service, or wait: it repairs this at its start and every SPREDFAST_CHECK_MINUTES \
                             (after `casebridge unsubscribe`, only at its next start); if the problem returns, \
                             another deployment uses this name: give each environment its own \
                             SPREDFAST_EXTERNAL_ID";
const SUBSCRIBE_REMEDY: &str = "start the service: it subscribes automatically";
const DUPLICATES_REMEDY: &str = "the running service disables the others within SPREDFAST_CHECK_MINUTES";
const POLL_REMEDY: &str = "set SPREDFAST_MODE to both, so that Khoros pushes the events";

/// A token that lasts longer needs no attention yet.
const SOON_DAYS: i64 = 60;

/// Khoros' answers, and the settings to compare them with.
pub struct Answers<'a> {
    config: &'a KhorosSettings,
    desired: Vec<Desired>,
    user: Result<TokenUser, Refusal>,
    expiry: Option<Timestamp>,
    labels: Result<Vec<Label>, Refusal>,
    remote: Result<Vec<RemoteSubscription>, Refusal>,
    /// Whether the feed of each route can be read. None: there is no subscription.
    feeds: Vec<Option<Result<(), Refusal>>>,
}

impl<'a> Answers<'a> {
    /// Asks whose token it is, and then for the rest if Khoros answers at all.
    pub async fn gather(
        config: &'a KhorosSettings,
        routes: &[Route],
        public_url: Option<&Url>,
        client: reqwest::Client,
    ) -> Answers<'a> {
        let public_url = public_url.filter(|_| config.mode.pushes());
        let desired = Desired::of_routes(config.company_id, routes, public_url, None);
        let khoros = Khoros::new(config, client);
        let answers = Answers {
            config,
            desired,
            user: in_time(khoros.who_am_i()).await,
            expiry: config.token_ends,
            labels: Err(Refusal::NotOffered),
            remote: Err(Refusal::NotOffered),
            feeds: Vec::new(),
        };
        if answers.user.as_ref().is_err_and(is_broken) {
            return answers;
        }
        let subscriptions = async {
            let remote = in_time(khoros.subscriptions()).await;
            let feeds = answers.read_feeds(&khoros, remote.as_deref().unwrap_or_default()).await;
            (remote, feeds)
        };
        let (labels, (remote, feeds)) = tokio::join!(in_time(khoros.labels()), subscriptions);
        Answers { labels, remote, feeds, ..answers }
    }

    /// Reads the first event of each feed that the service would read.
    async fn read_feeds(
        &self,
        khoros: &Khoros,
        remote: &[RemoteSubscription],
    ) -> Vec<Option<Result<(), Refusal>>> {
        let polled = self.desired.iter().filter(|_| self.config.mode.polls());
        let chosen: Vec<_> = polled.map(|desired| Some(desired.choose(remote)?.0)).collect();
        let mut feeds: Vec<_> = chosen.iter().map(|chosen| chosen.map(|_| Err(no_answer()))).collect();
        let read = async {
            for (feed, chosen) in feeds.iter_mut().zip(chosen) {
                if let Some(chosen) = chosen {
                    *feed = Some(khoros.feed(&chosen.uuid, 0, 1).await.map(drop));
                }
            }
        };
        let _ = within(read).await;
        feeds
    }

    /// The findings of four rows: token, label, subscription and pull. `is_reached`: our public address is
    /// known to be right. `feed_since`: from when on events of the feeds are new in our database (milliseconds
    /// since 1970), if that is decided.
    pub fn findings(&self, is_reached: bool, feed_since: Option<i64>) -> [Vec<Finding>; 4] {
        let token = self.token(Timestamp::now());
        let reason = match &self.user {
            Err(refusal) if is_broken(refusal) => match refusal {
                Refusal::Token(_) => "the token is refused",
                Refusal::Unreachable(_) | Refusal::Failed(..) => "Khoros does not answer",
                _ => "Khoros is not at this address",
            },
            _ if self.desired.is_empty() => INCOMPLETE,
            _ => return [token, self.label(), self.subscription(is_reached), self.pull(feed_since)],
        };
        let not_checked = || vec![Finding::not_checked(reason)];
        [token, not_checked(), not_checked(), not_checked()]
    }

    fn token(&self, now: Timestamp) -> Vec<Finding> {
        let expiry = self.expiry.map(|end| expiry(end, now));
        match &self.user {
            Ok(user) => {
                let findings = [Finding::ok(describe_user(user)), company(user, self.config.company_id)];
                findings.into_iter().chain(expiry).collect()
            }
            Err(refusal @ Refusal::Token(_)) => {
                let expired = expiry.filter(|expiry| expiry.mark == Mark::Failed);
                [refused(refusal)].into_iter().chain(expired).collect()
            }
            Err(refusal) => vec![refused(refusal)],
        }
    }

    fn label(&self) -> Vec<Finding> {
        let routes = self.desired.iter().map(|desired| &desired.route);
        let named: Vec<(&Route, &str)> =
            routes.filter_map(|route| Some((route, route.label.as_deref()?))).collect();
        match &self.labels {
            _ if named.is_empty() => vec![Finding::ok("no route names a label")],
            Ok(labels) => named.into_iter().map(|(route, label)| judge_label(route, label, labels)).collect(),
            Err(Refusal::NotOffered) => vec![Finding::warning("Khoros does not show labels here", "")],
            Err(refusal) => vec![Finding::warning(format!("the labels cannot be read: {refusal}"), "")],
        }
    }

    fn subscription(&self, is_reached: bool) -> Vec<Finding> {
        match &self.remote {
            Ok(remote) => {
                let routes: Vec<Route> = self.desired.iter().map(|desired| desired.route.clone()).collect();
                let of_old_paths = endpoint::of_old_paths(&routes).map(|route| route.name.as_str());
                let judge = |desired: &Desired| {
                    let is_old_path_served = of_old_paths == Some(desired.route.name.as_str());
                    judge_subscription(desired, remote, is_reached, is_old_path_served)
                };
                self.desired.iter().map(judge).collect()
            }
            Err(Refusal::NotOffered) => {
                let path = self.config.api_url.path();
                let text = format!("Khoros does not show subscriptions here ({path})");
                let unknown = format!("{text}, which is not the path of a known events API");
                vec![match is_events_api(path) {
                    true => Finding::warning(text, ""),
                    false => Finding::failed(unknown, ADDRESS_REMEDY),
                }]
            }
            Err(refusal) => {
                vec![Finding::warning(format!("the subscriptions cannot be read: {refusal}"), "")]
            }
        }
    }

    fn pull(&self, feed_since: Option<i64>) -> Vec<Finding> {
        let mode = self.config.mode;
        if !mode.polls() {
            return vec![Finding::ok("not used: SPREDFAST_MODE is push")];
        }
        if self.remote.is_err() {
            let remedy = if mode == Mode::Poll { POLL_REMEDY } else { "" };
            return vec![Finding::warning("not tried: the subscription is not known", remedy)];
        }
        let stored = feed_since.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        let since = match self.config.feed_since.or(stored) {
            Some(since) => format!("events since {since:.0} are delivered"),
            None => "the first start of `serve` sets the start date".to_owned(),
        };
        let judge = |(desired, feed): (&Desired, &Option<Result<(), Refusal>>)| {
            let name = &desired.route.external_id;
            let text = match feed {
                None => {
                    let text = format!("`{name}`: no subscription to read from yet");
                    return Finding::warning(text, SUBSCRIBE_REMEDY);
                }
                Some(Ok(())) => return Finding::ok(format!("`{name}`: its feed can be read; {since}")),
                Some(Err(Refusal::NotOffered)) => format!("`{name}`: Khoros offers no feed here"),
                Some(Err(refusal)) => format!("`{name}`: its feed cannot be read: {refusal}"),
            };
            match mode {
                Mode::Poll => Finding::failed(text, POLL_REMEDY),
                Mode::Both | Mode::Push => Finding::warning(text, ""),
            }
        };
        self.desired.iter().zip(&self.feeds).map(judge).collect()
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    within(call).await.unwrap_or_else(|| Err(no_answer()))
}

fn no_answer() -> Refusal {
    Refusal::Unreachable("no answer in time".to_owned())
}

/// Whether all other calls would fail as well.
fn is_broken(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Token(_) | Refusal::Address(_) | Refusal::Html(_) | Refusal::Unreachable(_) => true,
        Refusal::Failed(status, _) => *status >= 500,
        Refusal::Forbidden | Refusal::Throttled(_) | Refusal::NotOffered | Refusal::TooLarge => false,
    }
}

fn refused(refusal: &Refusal) -> Finding {
    match refusal {
        Refusal::Token(how) => {
            Finding::failed(format!("Khoros refuses SPREDFAST_API_TOKEN ({how})"), TOKEN_REMEDY)
        }
        Refusal::Address(_) | Refusal::Html(_) => Finding::failed(refusal.to_string(), ADDRESS_REMEDY),
        broken if is_broken(broken) => Finding::failed(refusal.to_string(), AWAY_REMEDY),
        Refusal::NotOffered => Finding::warning("Khoros does not show the user of the token", ""),
        _ => {
            let remedy = "try again in a minute; if the problem stays, ask Khoros support";
            Finding::warning(format!("it could not be checked: {refusal}"), remedy)
        }
    }
}

/// Whether this is the path of an events API: the published one, or that of the 2017 example.
fn is_events_api(path: &str) -> bool {
    let company = path.rsplit_once("/v1/").and_then(|(_, rest)| rest.rsplit_once("events/company/"));
    let is_number = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    path.ends_with("/v2/events") || company.is_some_and(|(_, id)| is_number(id))
}

fn describe_user(user: &TokenUser) -> String {
    match (user.name.as_str(), user.email.as_str()) {
        ("", "") => "the token works".to_owned(),
        ("", known) | (known, "") => format!("of {known}"),
        (name, email) => format!("of {name} ({email})"),
    }
}

/// Khoros does not document which of a company's numbers belongs where, so a wrong one is only a warning.
fn company(user: &TokenUser, configured: u64) -> Finding {
    let companies: Vec<String> = user.companies.iter().map(describe_company).collect();
    let companies = companies.join("; ");
    if companies.is_empty() {
        return Finding::warning("Khoros shows no company of this token", COMPANY_REMEDY);
    }
    match user.companies.iter().flat_map(Company::ids).any(|id| id == configured) {
        true => Finding::ok(companies),
        false => {
            Finding::warning(format!("SPREDFAST_COMPANY_ID is none of these: {companies}"), COMPANY_REMEDY)
        }
    }
}

fn describe_company(company: &Company) -> String {
    let directory = company.directory_id.map(|id| format!("directory id {id}"));
    let environments = company.environment_ids.iter().map(|id| format!("environment id {id}"));
    let ids: Vec<String> = directory.into_iter().chain(environments).collect();
    format!("company {}: {}", company.name, ids.join(", "))
}

fn expiry(end: Timestamp, now: Timestamp) -> Finding {
    let day = end.strftime("%Y-%m-%d");
    match now.duration_until(end).as_hours() / 24 {
        _ if end <= now => Finding::failed(format!("it expired on {day}"), TOKEN_REMEDY),
        days if days < SOON_DAYS => {
            Finding::warning(format!("it ends on {day}, in {days} days"), TOKEN_REMEDY)
        }
        days => Finding::ok(format!("it ends on {day}, in {days} days")),
    }
}

/// Judges the label of a route. To Khoros, the label of the tutorial's route is a regular expression, which
/// need not be the name of a label.
fn judge_label(route: &Route, label: &str, labels: &[Label]) -> Finding {
    let query = route.query.as_deref().and_then(|query| Regex::new(query).ok());
    let is_match = |known: &&Label| {
        known.is_active
            && known.name != label
            && query.as_ref().is_some_and(|query| query.is_match(&known.name))
    };
    let mut others: Vec<String> =
        labels.iter().filter(is_match).map(|known| format!("`{}`", known.name)).collect();
    others.sort_unstable();
    others.dedup();
    let others = others.join(", ");
    let mut same = labels.iter().filter(|known| known.name == label).peekable();
    if same.peek().is_none() {
        let is_pattern = label.contains(SPECIAL);
        if is_pattern && !others.is_empty() {
            return Finding::ok(format!("`{label}` is a pattern that matches {others}"));
        }
        let bare = |name: &str| name.trim().to_lowercase();
        let close = labels.iter().find(|known| bare(&known.name) == bare(label));
        let close = close.map(|known| format!("; did you mean `{}`?", known.name)).unwrap_or_default();
        return Finding::failed(format!("Khoros has no label `{label}`{close}"), LABEL_REMEDY);
    }
    if !same.any(|known| known.is_active) {
        return Finding::failed(format!("label `{label}` is not active"), INACTIVE_REMEDY);
    }
    match others.is_empty() {
        true => Finding::ok(format!("label `{label}` is active")),
        false => {
            let text = format!("label `{label}` is active, but Khoros may also match {others}");
            Finding::warning(text, SIMILAR_REMEDY)
        }
    }
}

/// Judges the subscription that the service would keep.
fn judge_subscription(
    desired: &Desired,
    remote: &[RemoteSubscription],
    is_reached: bool,
    is_old_path_served: bool,
) -> Finding {
    let route = &desired.route;
    let name = &route.external_id;
    let Some((chosen, duplicates)) = desired.choose(remote) else {
        return Finding::warning(format!("`{name}`: none yet"), SUBSCRIBE_REMEDY);
    };
    let differences = desired.differences(chosen);
    if !differences.is_empty() {
        let old_path =
            |path: &str| endpoint::OLD_PATHS.iter().any(|old| path.trim_end_matches('/').ends_with(old));
        if is_old_path_served
            && differences.iter().all(|it| it.field == Field::Address && old_path(&it.theirs))
        {
            let text = format!("`{name}` points to the address of the 2017 example, which is served");
            return Finding::warning(text, REPAIR_REMEDY);
        }
        // If our address is wrong, theirs may be right; the row `public url` shows that.
        let is_wrong =
            is_reached || differences.iter().any(|it| !matches!(it.field, Field::Host | Field::Address));
        let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
        let text = format!("`{name}` {}", texts.join(" and "));
        let mark = if is_wrong { Mark::Failed } else { Mark::Warning };
        return Finding { mark, text, remedy: REPAIR_REMEDY.to_owned() };
    }
    // Khoros publishes no example of a subscription, so a missing field may only be hidden.
    let hidden = [
        ("event", chosen.event_name.is_none()),
        ("query", chosen.query.is_none() && route.query.is_some()),
        ("address", chosen.notification_uri.is_none() && desired.url.is_some()),
        ("known status", chosen.status.is_none()),
    ];
    let hidden: Vec<&str> =
        hidden.into_iter().filter(|(_, is_hidden)| *is_hidden).map(|(name, _)| name).collect();
    if !hidden.is_empty() {
        let text = format!("`{name}` exists; Khoros shows no {} of it", hidden.join(" and no "));
        return Finding::warning(text, "");
    }
    match duplicates.len() {
        0 => Finding::ok(format!("`{name}`: active")),
        more => Finding::warning(format!("`{name}`: Khoros lists it {} times", more + 1), DUPLICATES_REMEDY),
    }
}
