//! What we want Khoros to hold for a route, and what has to be done so that it does. No I/O.

use std::cmp::Reverse;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use crate::config::Route;
use crate::khoros::{Held, Status, Subscription};

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
pub enum Action {
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
    pub fn ours<'a>(&self, observed: &'a [Held]) -> Vec<&'a Held> {
        named(observed, &self.route.external_id, self.company_id)
    }

    /// What has to be done about the subscriptions with our name; nothing if all is well.
    pub fn actions(&self, ours: &[&Held]) -> Vec<Action> {
        let is_on = |held: &Held| held.status != Some(Status::Disabled);
        // If a server corrects the older of two, the older one is the better one to keep.
        let good = ours.iter().position(|held| is_on(held) && self.difference(held).is_none());
        let place = good.unwrap_or_default();
        let Some(kept) = ours.get(place) else { return vec![Action::Declare(Why::Missing)] };
        if let Some(why) = self.difference(kept) {
            return vec![Action::Declare(why)];
        }
        let off = kept.status.filter(|status| *status != Status::Active);
        let activate = off.map(|was| Action::Activate { uuid: kept.uuid.clone(), was });
        let others = ours.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, held)| held);
        let doubles = others.filter(|held| held.status.is_some_and(|status| status != Status::Disabled));
        let disable = doubles.map(|held| Action::Disable { uuid: held.uuid.clone() });
        activate.into_iter().chain(disable).collect()
    }

    /// What a subscription has that we do not want. Khoros does not publish which fields it shows, so a field
    /// that is not shown is not compared.
    fn difference(&self, held: &Held) -> Option<Why> {
        if let (Some(push), Some(uri)) = (&self.push, &held.notification_uri) {
            match Url::parse(uri) {
                Ok(theirs) if host(&theirs) != host(&push.url) => return Some(Why::Foreign(host(&theirs))),
                Ok(theirs) if theirs == push.url => {}
                _ => return Some(Why::Differs(Field::Address)),
            }
        }
        if held.event_name.as_ref().is_some_and(|event| *event != self.route.event) {
            return Some(Why::Differs(Field::Event));
        }
        let is_other = held.query.as_ref().is_some_and(|query| Some(query) != self.route.query.as_ref());
        is_other.then_some(Why::Differs(Field::Query))
    }

    /// Whether a subscription of another name sends its events to one of our endpoints.
    pub fn is_leftover(&self, held: &Held) -> bool {
        let endpoints = self.push.as_ref().and_then(|push| push.url.join(".").ok());
        let is_on = held.status.is_none_or(|status| status == Status::Active);
        let uri = held.notification_uri.as_deref();
        is_on && endpoints.zip(uri).is_some_and(|(endpoints, uri)| uri.starts_with(endpoints.as_str()))
    }
}

/// The subscriptions with this name: the newest first, and disabled ones last. If one of them shows the number
/// of our company, those of other companies are not ours; if none does, Khoros may number ours otherwise.
pub fn named<'a>(observed: &'a [Held], external_id: &str, company_id: u64) -> Vec<&'a Held> {
    let mut named: Vec<&Held> = observed.iter().filter(|held| held.external_id == external_id).collect();
    if named.iter().any(|held| held.company_id == Some(company_id)) {
        named.retain(|held| held.company_id.is_none_or(|company| company == company_id));
    }
    // Stable, and from the end: of two of the same age the later one in the list comes first.
    named.reverse();
    named.sort_by_key(|held| (held.status == Some(Status::Disabled), Reverse(held.created)));
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

    fn held(uuid: &str, day: &str) -> Held {
        Held {
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

    fn actions(observed: &[Held]) -> Vec<Action> {
        desired().actions(&desired().ours(observed))
    }

    fn disable(uuid: &str) -> Action {
        Action::Disable { uuid: uuid.to_owned() }
    }

    #[test]
    fn a_subscription_as_desired_is_left_alone() {
        assert_eq!(actions(&[held("a", "01")]), []);
        let no_status = Held { status: None, ..held("a", "01") };
        assert_eq!(actions(&[no_status]), []);
        let hidden = Held { query: None, event_name: None, notification_uri: None, ..held("a", "01") };
        assert_eq!(actions(&[hidden]), []);
        let others = Held { external_id: "theirs".to_owned(), ..held("a", "01") };
        assert_eq!(actions(&[others]), [Action::Declare(Why::Missing)]);
    }

    #[test]
    fn a_subscription_with_another_value_is_declared_again() {
        let good = held("a", "01");
        let uri = |uri: &str| Held { notification_uri: Some(uri.to_owned()), ..good.clone() };
        for (held, why) in [
            (
                Held { event_name: Some("rule-applied".to_owned()), ..good.clone() },
                Why::Differs(Field::Event),
            ),
            (Held { query: Some("Other".to_owned()), ..good.clone() }, Why::Differs(Field::Query)),
            (uri("nonsense"), Why::Differs(Field::Address)),
            (uri("https://bridge.example/createTicket"), Why::Differs(Field::Address)),
            (uri("https://other.example/khoros/label"), Why::Foreign("other.example".to_owned())),
            (
                uri("https://bridge.example:8443/base/khoros/label"),
                Why::Foreign("bridge.example:8443".to_owned()),
            ),
        ] {
            assert_eq!(actions(&[held]), [Action::Declare(why)]);
        }
        // Without pushes the address does not matter.
        let polled = Desired { push: None, ..desired() };
        let held = [uri("https://other.example/khoros/label")];
        assert_eq!(polled.actions(&polled.ours(&held)), []);
    }

    #[test]
    fn the_newest_of_several_is_kept() {
        let off = |held: Held| Held { status: Some(Status::Disabled), ..held };
        let several = [held("b", "02"), held("c", "03"), off(held("z", "04")), held("a", "01")];
        assert_eq!(actions(&several), [disable("b"), disable("a")]);
        let paused = Held { status: Some(Status::Paused), ..held("c", "03") };
        assert_eq!(
            actions(&[off(held("a", "01")), paused]),
            [Action::Activate { uuid: "c".to_owned(), was: Status::Paused }]
        );
        let undated = Held { created: None, ..held("u", "01") };
        assert_eq!(actions(&[undated, held("a", "01")]), [disable("u")]);
    }

    #[test]
    fn of_several_one_as_desired_is_kept() {
        let other = Held { query: Some("Other".to_owned()), ..held("b", "02") };
        assert_eq!(actions(&[held("a", "01"), other]), [disable("b")]);
    }

    #[test]
    fn a_subscription_of_another_company_is_not_ours() {
        let of = |company_id, uuid| Held { company_id, ..held(uuid, "01") };
        let several = [of(Some(1), "a"), of(None, "b"), of(Some(99), "c")];
        assert_eq!(desired().ours(&several), [&several[1], &several[0]]);
        // The number that is configured may be that of the directory.
        assert_eq!(desired().ours(&several[2..]), [&several[2]]);
    }

    #[test]
    fn an_old_name_at_our_endpoint_is_a_leftover() {
        let at = |uri: &str| Held { notification_uri: Some(uri.to_owned()), ..held("a", "01") };
        assert!(desired().is_leftover(&at("https://bridge.example/base/khoros/old")));
        for other in ["https://bridge.example/khoros/old", "https://other.example/base/khoros/old"] {
            assert!(!desired().is_leftover(&at(other)), "{other}");
        }
        let off = Held { status: Some(Status::Disabled), ..at("https://bridge.example/base/khoros/old") };
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
