//! What we want Khoros to hold for a route, and what has to be done so that it does. No I/O.

use std::cmp::Reverse;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use crate::config::Route;
use crate::khoros::{RemoteSubscription, Status, Subscription};

/// What we want Khoros to hold for a route.
pub struct Desired {
    pub company_id: u64,
    pub route: Route,
    /// None: the events are only read from the feed.
    pub push: Option<Push>,
}

/// Where notifications are to go, and the secret that they are to show.
#[derive(Clone)]
pub struct Push {
    pub url: Url,
    pub bearer_token: SecretString,
}

/// One call to Khoros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make or correct the subscription.
    Declare(Why),
    /// Switch on the one that is kept.
    Activate { uuid: String, was: Status },
    /// Switch off another of the same name.
    Disable { uuid: String },
}

/// Why a subscription has to be declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Our settings differ from those that Khoros was last told, as far as we know.
    Changed,
    Missing,
    /// It has another value here.
    Differs(Field),
    /// It sends its events to this host.
    Foreign(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Address,
    Event,
    Query,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Address => "address",
            Field::Event => "event",
            Field::Query => "query",
        })
    }
}

impl Desired {
    pub fn declaration(&self) -> Subscription<'_> {
        Subscription {
            company_id: self.company_id,
            external_id: &self.route.external_id,
            event_name: &self.route.event,
            notification_uri: self.push.as_ref().map(|push| push.url.as_str()),
            query: self.route.query.as_deref(),
            bearer_token: self.push.as_ref().map(|push| push.bearer_token.expose_secret()),
        }
    }

    /// Tells one declaration from another without revealing the token in it.
    pub fn fingerprint(&self) -> String {
        let declaration = serde_json::to_vec(&self.declaration()).unwrap_or_default();
        format!("{:x}", Sha256::digest(declaration))
    }

    /// The subscriptions with our name.
    pub fn ours<'a>(&self, observed: &'a [RemoteSubscription]) -> Vec<&'a RemoteSubscription> {
        named(observed, &self.route.external_id, self.company_id)
    }

    /// What has to be done about the subscriptions with our name; nothing if all is well.
    pub fn steps(&self, ours: &[&RemoteSubscription]) -> Vec<Step> {
        let is_on = |remote: &RemoteSubscription| remote.status != Some(Status::Disabled);
        // If a server corrects the older of two, the older one is the better one to keep.
        let good = ours.iter().position(|remote| is_on(remote) && self.difference(remote).is_none());
        let place = good.unwrap_or_default();
        let Some(kept) = ours.get(place) else { return vec![Step::Declare(Why::Missing)] };
        if let Some(why) = self.difference(kept) {
            return vec![Step::Declare(why)];
        }
        let off = kept.status.filter(|status| *status != Status::Active);
        let activate = off.map(|was| Step::Activate { uuid: kept.uuid.clone(), was });
        let others = ours.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, remote)| remote);
        let doubles = others.filter(|remote| remote.status.is_some_and(|status| status != Status::Disabled));
        let disable = doubles.map(|remote| Step::Disable { uuid: remote.uuid.clone() });
        activate.into_iter().chain(disable).collect()
    }

    /// What a subscription has that we do not want. Khoros does not publish which fields it shows, so a field
    /// that is not shown is not compared.
    fn difference(&self, remote: &RemoteSubscription) -> Option<Why> {
        if let (Some(push), Some(uri)) = (&self.push, &remote.notification_uri) {
            match Url::parse(uri) {
                Ok(theirs) if host(&theirs) != host(&push.url) => return Some(Why::Foreign(host(&theirs))),
                Ok(theirs) if theirs == push.url => {}
                _ => return Some(Why::Differs(Field::Address)),
            }
        }
        if remote.event_name.as_ref().is_some_and(|event| *event != self.route.event) {
            return Some(Why::Differs(Field::Event));
        }
        let desired = self.route.query.as_deref().unwrap_or_default();
        let is_other = remote.query.as_ref().is_some_and(|query| query != desired);
        is_other.then_some(Why::Differs(Field::Query))
    }

    /// Whether a subscription of another name sends its events to one of our endpoints.
    pub fn is_leftover(&self, remote: &RemoteSubscription) -> bool {
        let endpoints = self.push.as_ref().and_then(|push| push.url.join(".").ok());
        let is_on = remote.status.is_none_or(|status| status == Status::Active);
        let uri = remote.notification_uri.as_deref();
        is_on && endpoints.zip(uri).is_some_and(|(endpoints, uri)| uri.starts_with(endpoints.as_str()))
    }
}

/// The subscriptions with this name: the newest first, and disabled ones last. If one of them shows the number
/// of our company, those of other companies are not ours; if none does, Khoros may number ours otherwise.
pub fn named<'a>(
    observed: &'a [RemoteSubscription],
    external_id: &str,
    company_id: u64,
) -> Vec<&'a RemoteSubscription> {
    let mut named: Vec<&RemoteSubscription> =
        observed.iter().filter(|remote| remote.external_id == external_id).collect();
    if named.iter().any(|remote| remote.company_id == Some(company_id)) {
        named.retain(|remote| remote.company_id.is_none_or(|company| company == company_id));
    }
    // Stable, and from the end: of two of the same age the later one in the list comes first.
    named.reverse();
    named.sort_by_key(|remote| (remote.status == Some(Status::Disabled), Reverse(remote.created)));
    named
}

/// The host, and the port if it is not the usual one.
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired() -> Desired {
        let route = Route {
            name: "label".to_owned(),
            event: "stream-item-label-applied".to_owned(),
            query: Some("CreateCase".to_owned()),
            label: Some("CreateCase".to_owned()),
            external_id: "ours".to_owned(),
            ticket: Default::default(),
        };
        let url = Url::parse("https://bridge.example/base/khoros/label").unwrap();
        let push = Some(Push { url, bearer_token: "0123456789abcdef".into() });
        Desired { company_id: 1, route, push }
    }

    fn remote(uuid: &str, day: &str) -> RemoteSubscription {
        RemoteSubscription {
            uuid: uuid.to_owned(),
            external_id: "ours".to_owned(),
            company_id: Some(1),
            event_name: Some("stream-item-label-applied".to_owned()),
            query: Some("CreateCase".to_owned()),
            notification_uri: Some("https://bridge.example/base/khoros/label".to_owned()),
            status: Some(Status::Active),
            created: Some(format!("2026-01-{day}T00:00:00Z").parse().unwrap()),
        }
    }

    fn steps(observed: &[RemoteSubscription]) -> Vec<Step> {
        desired().steps(&desired().ours(observed))
    }

    fn disable(uuid: &str) -> Step {
        Step::Disable { uuid: uuid.to_owned() }
    }

    #[test]
    fn a_subscription_as_desired_is_left_alone() {
        assert_eq!(steps(&[remote("a", "01")]), []);
        let no_status = RemoteSubscription { status: None, ..remote("a", "01") };
        assert_eq!(steps(&[no_status]), []);
        let hidden =
            RemoteSubscription { query: None, event_name: None, notification_uri: None, ..remote("a", "01") };
        assert_eq!(steps(&[hidden]), []);
        let others = RemoteSubscription { external_id: "theirs".to_owned(), ..remote("a", "01") };
        assert_eq!(steps(&[others]), [Step::Declare(Why::Missing)]);
    }

    #[test]
    fn a_subscription_with_another_value_is_declared_again() {
        let good = remote("a", "01");
        let uri = |uri: &str| RemoteSubscription { notification_uri: Some(uri.to_owned()), ..good.clone() };
        for (remote, why) in [
            (
                RemoteSubscription { event_name: Some("rule-applied".to_owned()), ..good.clone() },
                Why::Differs(Field::Event),
            ),
            (
                RemoteSubscription { query: Some("Other".to_owned()), ..good.clone() },
                Why::Differs(Field::Query),
            ),
            (uri("nonsense"), Why::Differs(Field::Address)),
            (uri("https://bridge.example/createTicket"), Why::Differs(Field::Address)),
            (uri("https://other.example/khoros/label"), Why::Foreign("other.example".to_owned())),
            (
                uri("https://bridge.example:8443/base/khoros/label"),
                Why::Foreign("bridge.example:8443".to_owned()),
            ),
        ] {
            assert_eq!(steps(&[remote]), [Step::Declare(why)]);
        }
        // Without pushes the address does not matter.
        let polled = Desired { push: None, ..desired() };
        let remote = [uri("https://other.example/khoros/label")];
        assert_eq!(polled.steps(&polled.ours(&remote)), []);
    }

    #[test]
    fn the_newest_of_several_is_kept() {
        let off =
            |remote: RemoteSubscription| RemoteSubscription { status: Some(Status::Disabled), ..remote };
        let several = [remote("b", "02"), remote("c", "03"), off(remote("z", "04")), remote("a", "01")];
        assert_eq!(steps(&several), [disable("b"), disable("a")]);
        let paused = RemoteSubscription { status: Some(Status::Paused), ..remote("c", "03") };
        assert_eq!(
            steps(&[off(remote("a", "01")), paused]),
            [Step::Activate { uuid: "c".to_owned(), was: Status::Paused }]
        );
        let undated = RemoteSubscription { created: None, ..remote("u", "01") };
        assert_eq!(steps(&[undated, remote("a", "01")]), [disable("u")]);
    }

    #[test]
    fn of_several_one_as_desired_is_kept() {
        let other = RemoteSubscription { query: Some("Other".to_owned()), ..remote("b", "02") };
        assert_eq!(steps(&[remote("a", "01"), other]), [disable("b")]);
    }

    #[test]
    fn a_subscription_of_another_company_is_not_ours() {
        let of = |company_id, uuid| RemoteSubscription { company_id, ..remote(uuid, "01") };
        let several = [of(Some(1), "a"), of(None, "b"), of(Some(99), "c")];
        assert_eq!(desired().ours(&several), [&several[1], &several[0]]);
        // The number that is configured may be that of the directory.
        assert_eq!(desired().ours(&several[2..]), [&several[2]]);
    }

    #[test]
    fn an_old_name_at_our_endpoint_is_a_leftover() {
        let at =
            |uri: &str| RemoteSubscription { notification_uri: Some(uri.to_owned()), ..remote("a", "01") };
        assert!(desired().is_leftover(&at("https://bridge.example/base/khoros/old")));
        for other in ["https://bridge.example/khoros/old", "https://other.example/base/khoros/old"] {
            assert!(!desired().is_leftover(&at(other)), "{other}");
        }
        let off = RemoteSubscription {
            status: Some(Status::Disabled),
            ..at("https://bridge.example/base/khoros/old")
        };
        assert!(!desired().is_leftover(&off));
    }

    #[test]
    fn another_token_is_another_declaration() {
        let (one, mut two) = (desired(), desired());
        assert_eq!(one.fingerprint(), two.fingerprint());
        let push = two.push.as_mut().unwrap();
        push.bearer_token = "fedcba9876543210".into();
        assert_ne!(one.fingerprint(), two.fingerprint());
    }
}
