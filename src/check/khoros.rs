//! The rows about Khoros. First everything is asked, and then judged, since what Khoros holds is wrong
//! only if what we hold is right.

use jiff::Timestamp;
use regex::Regex;
use url::Url;

use super::report::{Finding, Mark, Row};
use super::{INCOMPLETE, KHOROS_LABEL, KHOROS_PULL, KHOROS_SUBSCRIPTION, KHOROS_TOKEN, within};
use crate::app;
use crate::config::{self, LABEL_ROUTE, Mode, Route};
use crate::http;
use crate::khoros::{Company, Khoros, Label, Refusal, RemoteSubscription, Status, User};
use crate::subscription::{self, host};

const TOKEN_REMEDY: &str = "copy a new API Access Token from Profile Settings in Khoros to SPREDFAST_API_TOKEN, or \
                            ask Khoros support to enable API access for the company";
const ADDRESS_REMEDY: &str = "remove SPREDFAST_API_URL to get the default, or correct it; if it is not set, a proxy or \
                              a firewall answers in Khoros' place: see HTTPS_PROXY";
const AWAY_REMEDY: &str = "see Khoros' status page, and whether this host reaches it (DNS, firewall, proxy, \
                           SPREDFAST_API_URL)";
const COMPANY_REMEDY: &str = "compare SPREDFAST_COMPANY_ID with the `companyId` of the events that come, or ask \
                              Khoros support which of the numbers belongs there";
const LABEL_REMEDY: &str = "make the label in Khoros, or correct the variable that names it (SPREDFAST_LABEL_NAME, \
                            ROUTE_<NAME>_LABEL)";
const INACTIVE_REMEDY: &str = "make the label active again in Khoros, or name another one";
const SIMILAR_REMEDY: &str = "name the label by ROUTE_<NAME>_LABEL, which takes it exactly, in place of \
                              SPREDFAST_LABEL_NAME, which Khoros takes for a regular expression";
const REPAIR_REMEDY: &str = "start the service, or wait: it repairs this at its start and each SPREDFAST_CHECK_MINUTES \
                             (after `casebridge unsubscribe` at its next start alone); if it comes back, \
                             somebody else subscribes under this name: give each environment its own \
                             SPREDFAST_EXTERNAL_ID";
const SUBSCRIBE_REMEDY: &str = "start the service: it subscribes by itself";
const DOUBLED_REMEDY: &str = "the running service disables the others within SPREDFAST_CHECK_MINUTES";
const POLL_REMEDY: &str = "set SPREDFAST_MODE to both, so that Khoros pushes the events";

/// Earlier than this nobody has to think of a new token.
const SOON_DAYS: i64 = 60;

/// The settings that these rows are about.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    pub khoros: &'a config::KhorosSettings,
    pub routes: &'a [Route],
    pub public_url: Option<&'a Url>,
}

/// What Khoros answered, as far as it was asked.
pub struct Seen {
    user: Result<User, Refusal>,
    expiry: Option<Timestamp>,
    labels: Result<Vec<Label>, Refusal>,
    remote: Result<Vec<RemoteSubscription>, Refusal>,
    /// Of each route that has a subscription, whether its feed can be read.
    feeds: Vec<(String, Result<(), Refusal>)>,
}

impl Seen {
    /// Asks who we are, and then for the rest, if that makes sense.
    pub async fn ask(config: Settings<'_>, client: reqwest::Client) -> Seen {
        let khoros = Khoros::new(config.khoros, client);
        let user = in_time(khoros.who_am_i()).await;
        let expiry = khoros.token_expiry();
        if user.as_ref().is_err_and(is_broken) {
            let (labels, remote) = (Err(Refusal::NotOffered), Err(Refusal::NotOffered));
            return Seen { user, expiry, labels, remote, feeds: Vec::new() };
        }
        let subscriptions = async {
            let remote = in_time(khoros.subscriptions()).await;
            let feeds = feeds(&khoros, config, remote.as_deref().unwrap_or_default()).await;
            (remote, feeds)
        };
        let (labels, (remote, feeds)) = tokio::join!(in_time(khoros.labels()), subscriptions);
        Seen { user, expiry, labels, remote, feeds }
    }

    /// The four rows; `is_reached` if our public address is known to be right.
    pub fn rows(&self, config: Settings<'_>, is_reached: bool) -> [Row; 4] {
        let token = self.token(config, Timestamp::now());
        let why = match &self.user {
            Err(refusal) if is_broken(refusal) => match refusal {
                Refusal::Token(_) => "the token is refused",
                Refusal::Unreachable(_) | Refusal::Failed(..) => "Khoros does not answer",
                _ => "Khoros is not at this address",
            },
            _ if config.routes.is_empty() => INCOMPLETE,
            _ => {
                let subscription = self.subscription(config, is_reached);
                return [token, self.label(config.routes), subscription, self.pull(config)];
            }
        };
        let not_checked = |name| Row::not_checked(name, why);
        [token, not_checked(KHOROS_LABEL), not_checked(KHOROS_SUBSCRIPTION), not_checked(KHOROS_PULL)]
    }

    fn token(&self, config: Settings<'_>, now: Timestamp) -> Row {
        let user = match &self.user {
            Ok(user) => user,
            Err(refusal) => {
                let mut row = refused(refusal);
                let is_over =
                    matches!(refusal, Refusal::Token(_)) && self.expiry.is_some_and(|end| end <= now);
                if let Some(expiry) = self.expiry.filter(|_| is_over) {
                    row.text.push_str(&format!(": {}", ending(expiry, now).text));
                }
                return row;
            }
        };
        let mut findings = vec![Finding::ok(who(user)), company(user, config.khoros.company_id)];
        findings.extend(self.expiry.map(|expiry| ending(expiry, now)));
        Row::of(KHOROS_TOKEN, &findings)
    }

    fn label(&self, routes: &[Route]) -> Row {
        let named: Vec<&Route> = routes.iter().filter(|route| route.label.is_some()).collect();
        if named.is_empty() {
            return Row::ok(KHOROS_LABEL, "no route is about a label that is named");
        }
        match &self.labels {
            Ok(labels) => Row::of(
                KHOROS_LABEL,
                &named.iter().map(|route| judge_label(route, labels)).collect::<Vec<_>>(),
            ),
            Err(Refusal::NotOffered) => Row::warning(KHOROS_LABEL, "Khoros does not show labels here", None),
            Err(refusal) => Row::warning(KHOROS_LABEL, format!("the labels cannot be read: {refusal}"), None),
        }
    }

    fn subscription(&self, config: Settings<'_>, is_reached: bool) -> Row {
        let remote = match &self.remote {
            Ok(remote) => remote,
            Err(Refusal::NotOffered) => {
                let path = config.khoros.api_url.path();
                let text = format!("Khoros does not show subscriptions here ({path})");
                return match is_known(path) {
                    true => Row::warning(KHOROS_SUBSCRIPTION, text, None),
                    false => Row::failed(
                        KHOROS_SUBSCRIPTION,
                        format!("{text}, which is no path of an events API that is known"),
                        ADDRESS_REMEDY,
                    ),
                };
            }
            Err(refusal) => {
                let text = format!("the subscriptions cannot be read: {refusal}");
                return Row::warning(KHOROS_SUBSCRIPTION, text, None);
            }
        };
        let judged = config.routes.iter().map(|route| {
            let endpoint = config.public_url.map(|url| app::route_url(url, &route.name));
            let endpoint = endpoint.filter(|_| config.khoros.mode.pushes());
            judge_subscription(
                &Expected { route, endpoint, is_reached, config },
                &subscription::named(remote, &route.external_id, config.khoros.company_id),
            )
        });
        Row::of(KHOROS_SUBSCRIPTION, &judged.collect::<Vec<_>>())
    }

    fn pull(&self, config: Settings<'_>) -> Row {
        if !config.khoros.mode.polls() {
            return Row::ok(KHOROS_PULL, "not used: SPREDFAST_MODE is push");
        }
        if self.remote.is_err() {
            let text = "not tried: it is not known whether there is a subscription";
            let remedy = (config.khoros.mode == Mode::Poll).then(|| POLL_REMEDY.to_owned());
            return Row::warning(KHOROS_PULL, text, remedy);
        }
        let judged = config.routes.iter().map(|route| {
            let name = &route.external_id;
            match self.feeds.iter().find(|(route_name, _)| *route_name == route.name) {
                None => {
                    Finding::warning(format!("`{name}`: no subscription to read from yet"), SUBSCRIBE_REMEDY)
                }
                Some((_, Ok(()))) => Finding::ok(format!("`{name}`: its feed can be read")),
                Some((_, Err(refusal))) => {
                    let text = match refusal {
                        Refusal::NotOffered => format!("`{name}`: Khoros offers no feed here"),
                        refusal => format!("`{name}`: its feed cannot be read: {refusal}"),
                    };
                    match config.khoros.mode {
                        Mode::Poll => Finding::failed(text, POLL_REMEDY),
                        Mode::Both | Mode::Push => Finding::warning(text, ""),
                    }
                }
            }
        });
        Row::of(KHOROS_PULL, &judged.collect::<Vec<_>>())
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    within(call).await.unwrap_or(Err(Refusal::Unreachable("no answer in time")))
}

/// The first event of each subscription that one of ours would be read from.
async fn feeds(
    khoros: &Khoros,
    config: Settings<'_>,
    remote: &[RemoteSubscription],
) -> Vec<(String, Result<(), Refusal>)> {
    let mut feeds = Vec::new();
    let wanted = config.routes.iter().filter(|_| config.khoros.mode.polls());
    let wanted = wanted.filter_map(|route| {
        Some((route, *subscription::named(remote, &route.external_id, config.khoros.company_id).first()?))
    });
    let ask = async {
        for (route, remote) in wanted.clone() {
            feeds.push((route.name.clone(), khoros.feed(&remote.uuid, 0, 1).await.map(drop)));
        }
    };
    let _ = within(ask).await;
    let late: Vec<String> = wanted.skip(feeds.len()).map(|(route, _)| route.name.clone()).collect();
    feeds.extend(late.into_iter().map(|route| (route, Err(Refusal::Unreachable("no answer in time")))));
    feeds
}

/// Whatever else were asked would fail as well.
fn is_broken(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Token(_) | Refusal::Address(_) | Refusal::Html(_) | Refusal::Unreachable(_) => true,
        Refusal::Failed(status, _) => *status >= 500,
        Refusal::Forbidden | Refusal::Throttled(_) | Refusal::NotOffered | Refusal::TooLarge => false,
    }
}

fn refused(refusal: &Refusal) -> Row {
    match refusal {
        Refusal::Token(how) => {
            let text = format!("Khoros refuses SPREDFAST_API_TOKEN ({how})");
            Row::failed(KHOROS_TOKEN, text, TOKEN_REMEDY)
        }
        Refusal::Address(_) | Refusal::Html(_) => {
            Row::failed(KHOROS_TOKEN, refusal.to_string(), ADDRESS_REMEDY)
        }
        broken if is_broken(broken) => Row::failed(KHOROS_TOKEN, refusal.to_string(), AWAY_REMEDY),
        Refusal::NotOffered => Row::warning(KHOROS_TOKEN, "Khoros does not tell whose token it is", None),
        _ => {
            let remedy = "try again in a minute; if it stays, ask Khoros support";
            Row::warning(KHOROS_TOKEN, format!("it cannot be asked: {refusal}"), Some(remedy.to_owned()))
        }
    }
}

/// Whether this is the path of an events API, as it is published or as the 2017 example has it.
fn is_known(path: &str) -> bool {
    let company = path.rsplit_once("/v1/").and_then(|(_, rest)| rest.rsplit_once("events/company/"));
    let is_number = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    path.ends_with("/v2/events") || company.is_some_and(|(_, id)| is_number(id))
}

fn who(user: &User) -> String {
    match (user.name.as_str(), user.email.as_str()) {
        ("", "") => "it works".to_owned(),
        ("", known) | (known, "") => format!("of {known}"),
        (name, email) => format!("of {name} ({email})"),
    }
}

/// Khoros does not document which of the numbers belongs where, so a wrong one is a suspicion.
fn company(user: &User, configured: u64) -> Finding {
    let companies: Vec<String> = user.companies.iter().map(described).collect();
    let companies = companies.join("; ");
    if companies.is_empty() {
        return Finding::warning("no company is shown to it", COMPANY_REMEDY);
    }
    match user.companies.iter().flat_map(Company::ids).any(|id| id == configured) {
        true => Finding::ok(companies),
        false => {
            Finding::warning(format!("SPREDFAST_COMPANY_ID is none of these: {companies}"), COMPANY_REMEDY)
        }
    }
}

fn described(company: &Company) -> String {
    let directory = company.directory_id.map(|id| format!("directory id {id}"));
    let environments = company.environment_ids.iter().map(|id| format!("environment id {id}"));
    let ids: Vec<String> = directory.into_iter().chain(environments).collect();
    format!("company {}: {}", company.name, ids.join(", "))
}

fn ending(expiry: Timestamp, now: Timestamp) -> Finding {
    let day = expiry.strftime("%Y-%m-%d");
    let days = now.duration_until(expiry).as_hours() / 24;
    match days {
        _ if expiry <= now => Finding::failed(format!("it has ended on {day}"), TOKEN_REMEDY),
        days if days < SOON_DAYS => {
            Finding::warning(format!("it ends on {day}, in {days} days"), TOKEN_REMEDY)
        }
        days => Finding::ok(format!("it ends on {day}, in {days} days")),
    }
}

fn judge_label(route: &Route, labels: &[Label]) -> Finding {
    let wanted = route.label.as_deref().unwrap_or_default();
    let mut same = labels.iter().filter(|label| label.name == wanted).peekable();
    if same.peek().is_none() {
        return judge_pattern(route, wanted, labels);
    }
    if !same.any(|label| label.is_active) {
        return Finding::failed(format!("label `{wanted}` is not active"), INACTIVE_REMEDY);
    }
    let others = matches_of(route, labels).into_iter().filter(|label| *label != wanted);
    let others: Vec<String> = others.map(|label| format!("`{label}`")).collect();
    match others.is_empty() {
        true => Finding::ok(format!("label `{wanted}` is active")),
        false => {
            let text =
                format!("label `{wanted}` is active, and Khoros may take {} for it, too", others.join(", "));
            Finding::warning(text, SIMILAR_REMEDY)
        }
    }
}

/// The tutorial's label is a regular expression to Khoros, so it need not be a label itself.
fn judge_pattern(route: &Route, wanted: &str, labels: &[Label]) -> Finding {
    let is_pattern = wanted.contains(|c| "\\.[]{}()*+?^$|".contains(c));
    let matched: Vec<String> = matches_of(route, labels).iter().map(|label| format!("`{label}`")).collect();
    if is_pattern && !matched.is_empty() {
        return Finding::ok(format!("`{wanted}` is no label, and matches {}", matched.join(", ")));
    }
    let bare = |name: &str| name.trim().to_lowercase();
    let close = labels.iter().find(|label| bare(&label.name) == bare(wanted));
    let close = close.map(|label| format!("; there is `{}`", label.name)).unwrap_or_default();
    Finding::failed(format!("Khoros knows no label `{wanted}`{close}"), LABEL_REMEDY)
}

/// The active labels that the route's query may be about, if Khoros searches for it as most do.
fn matches_of<'a>(route: &Route, labels: &'a [Label]) -> Vec<&'a str> {
    let query = route.query.as_deref().filter(|_| route.name == LABEL_ROUTE);
    let Some(query) = query.and_then(|query| Regex::new(query).ok()) else { return Vec::new() };
    let matched = labels.iter().filter(|label| label.is_active && query.is_match(&label.name));
    let mut matched: Vec<&str> = matched.map(|label| label.name.as_str()).collect();
    matched.sort_unstable();
    matched.dedup();
    matched
}

/// What a route's subscription is to be like.
struct Expected<'a> {
    route: &'a Route,
    /// Where events are pushed to, if they are.
    endpoint: Option<Url>,
    is_reached: bool,
    config: Settings<'a>,
}

/// `held` are those of its name, and the first is the one that the service keeps.
fn judge_subscription(expected: &Expected, remote: &[&RemoteSubscription]) -> Finding {
    let name = &expected.route.external_id;
    let Some((kept, others)) = remote.split_first() else {
        return Finding::warning(format!("`{name}`: none yet"), SUBSCRIBE_REMEDY);
    };
    if let Some(flaw) = flaw(expected, kept) {
        return Finding { text: format!("`{name}` {}", flaw.text), ..flaw };
    }
    match others.iter().filter(|other| other.status != Some(Status::Disabled)).count() {
        0 => Finding::ok(format!("`{name}`: active")),
        doubles => {
            Finding::warning(format!("`{name}`: there are {} under this name", doubles + 1), DOUBLED_REMEDY)
        }
    }
}

/// What is wrong with the one that is kept, or cannot be known. Khoros publishes no example of one that
/// is shown, so what is not there may only be hidden.
fn flaw(expected: &Expected, remote: &RemoteSubscription) -> Option<Finding> {
    let route = expected.route;
    let wrong = |text: String| Some(Finding::failed(text, REPAIR_REMEDY));
    if let Some(theirs) = remote.event_name.as_deref().filter(|theirs| *theirs != route.event) {
        return wrong(format!("is about the event `{theirs}` instead of `{}`", route.event));
    }
    if let Some(theirs) =
        remote.query.as_deref().filter(|theirs| *theirs != route.query.as_deref().unwrap_or_default())
    {
        let ours = route.query.as_deref().map_or("none".to_owned(), |ours| format!("`{ours}`"));
        return wrong(format!("has the query `{theirs}` instead of {ours}"));
    }
    if let Some(status) = remote.status.filter(|status| *status != Status::Active) {
        return wrong(format!("is {}", status.word()));
    }
    if let (Some(endpoint), Some(uri)) = (&expected.endpoint, &remote.notification_uri)
        && let Some(astray) = astray(expected, endpoint, uri)
    {
        return Some(astray);
    }
    let hidden: Vec<&str> = [
        ("event", remote.event_name.is_none()),
        ("query", remote.query.is_none() && route.query.is_some()),
        ("address", remote.notification_uri.is_none() && expected.endpoint.is_some()),
        ("known status", remote.status.is_none()),
    ]
    .into_iter()
    .filter_map(|(field, is_hidden)| is_hidden.then_some(field))
    .collect();
    let text = || format!("is there; Khoros shows no {} of it", hidden.join(" and no "));
    (!hidden.is_empty()).then(|| Finding::warning(text(), ""))
}

fn astray(expected: &Expected, endpoint: &Url, uri: &str) -> Option<Finding> {
    let there = Url::parse(uri).ok();
    let is_same = |there: &Url| (there.origin(), there.path()) == (endpoint.origin(), endpoint.path());
    if there.as_ref().is_some_and(is_same) {
        return None;
    }
    // Served as well, until the next start.
    let is_first = expected.config.routes.first().is_some_and(|first| first.name == expected.route.name);
    let is_old_path =
        |path: &str| http::OLD_PATHS.iter().any(|old| path.trim_end_matches('/').ends_with(old));
    let is_old = |there: &Url| there.origin() == endpoint.origin() && is_old_path(there.path());
    if is_first && there.as_ref().is_some_and(is_old) {
        return Some(Finding::warning(
            "points to the address of the 2017 example, which is served",
            REPAIR_REMEDY,
        ));
    }
    let text = match there {
        Some(there) if there.origin() == endpoint.origin() => {
            format!("points to {} instead of {}", there.path(), endpoint.path())
        }
        Some(there) => format!("points to {} instead of {}", host(&there), host(endpoint)),
        None => format!("points to an invalid address instead of {}", host(endpoint)),
    };
    // If ours is wrong theirs may be right, and that row tells.
    let mark = if expected.is_reached { Mark::Failed } else { Mark::Warning };
    Some(Finding { mark, text, remedy: REPAIR_REMEDY })
}
