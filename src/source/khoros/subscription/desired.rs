//! The desired subscription of a route, and the repairs that lead to it. No I/O. `casebridge check`
//! reports the differences that these repairs would correct.

use std::cmp::Reverse;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use crate::json::hex;
use crate::route::Route;
use crate::source::khoros::client::{RemoteStatus, RemoteSubscription, SubscriptionRequest};
use crate::source::khoros::endpoint;

/// The desired subscription of a route.
pub struct Desired {
    pub company_id: u64,
    pub route: Route,
    /// Where Khoros should push the events. None: they are only read from the feed.
    pub url: Option<Url>,
    /// The secret in pushed notifications.
    pub bearer_token: Option<SecretString>,
}

/// One call to Khoros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Declares the subscription, because our settings have changed since the last declaration.
    Declare,
    /// Declares it, because Khoros lists none.
    Create,
    /// Declares it, because a field differs.
    Correct(Difference),
    Activate {
        uuid: String,
        was: String,
    },
    /// Disables another subscription with the same name.
    Disable {
        uuid: String,
    },
}

/// A field of a subscription that is not as desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub field: Field,
    pub theirs: String,
    pub ours: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The host of the address, with its port.
    Host,
    Address,
    Event,
    Query,
    Status,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Host => "host",
            Field::Address => "address",
            Field::Event => "event",
            Field::Query => "query",
            Field::Status => "status",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { field, theirs, ours } = self;
        match field {
            Field::Host | Field::Address => write!(f, "points to {theirs} instead of {ours}"),
            field => write!(f, "has the {field} `{theirs}` instead of `{ours}`"),
        }
    }
}

impl Desired {
    /// The desired subscriptions of all routes. Without a public address, Khoros is to push none of them.
    pub fn of_routes(
        company_id: u64,
        routes: &[Route],
        public_url: Option<&Url>,
        bearer_token: Option<&SecretString>,
    ) -> Vec<Desired> {
        let desired = |route: &Route| Desired {
            company_id,
            route: route.clone(),
            url: public_url.map(|url| endpoint::url(url, &route.name)),
            bearer_token: bearer_token.cloned(),
        };
        routes.iter().map(desired).collect()
    }

    pub fn declaration(&self) -> SubscriptionRequest<'_> {
        SubscriptionRequest {
            company_id: self.company_id,
            external_id: &self.route.external_id,
            event_name: &self.route.event,
            notification_uri: self.url.as_ref().map(Url::as_str),
            query: self.route.query.as_deref(),
            bearer_token: self.bearer_token.as_ref().map(ExposeSecret::expose_secret),
        }
    }

    /// Distinguishes declarations without revealing the token in them.
    pub fn fingerprint(&self) -> String {
        let declaration = serde_json::to_vec(&self.declaration()).unwrap_or_default();
        hex(Sha256::digest(declaration))
    }

    /// Chooses the subscription to keep; returns it with its duplicates that are not disabled.
    pub fn choose<'a>(
        &self,
        observed: &'a [RemoteSubscription],
    ) -> Option<(&'a RemoteSubscription, Vec<&'a RemoteSubscription>)> {
        let mut ours = named(observed, &self.route.external_id, self.company_id);
        // If a server corrects the older of two, the older one is the better one to keep.
        let chosen = ours.iter().position(|remote| self.differences(remote).is_empty()).unwrap_or_default();
        let chosen = (!ours.is_empty()).then(|| ours.remove(chosen))?;
        ours.retain(|remote| remote.status.is_some_and(|status| status != RemoteStatus::Disabled));
        Some((chosen, ours))
    }

    /// The repairs to make, none if all is as desired. `is_current`: the last declaration had our settings.
    pub fn repairs(&self, observed: &[RemoteSubscription], is_current: bool) -> Vec<Repair> {
        let Some((chosen, duplicates)) = self.choose(observed) else { return vec![Repair::Create] };
        let activate = match self.differences(chosen).into_iter().next() {
            Some(Difference { field: Field::Status, theirs: was, .. }) if is_current => {
                Some(Repair::Activate { uuid: chosen.uuid.clone(), was })
            }
            Some(difference) if difference.field != Field::Status => {
                return vec![Repair::Correct(difference)];
            }
            _ if !is_current => return vec![Repair::Declare],
            _ => None,
        };
        let disable = duplicates.into_iter().map(|remote| Repair::Disable { uuid: remote.uuid.clone() });
        activate.into_iter().chain(disable).collect()
    }

    /// Compares a subscription with the desired one. Khoros does not publish which fields it shows, so a
    /// field that is not shown is not compared.
    pub fn differences(&self, remote: &RemoteSubscription) -> Vec<Difference> {
        let compare = |field, theirs: Option<&str>, ours: &str| {
            let theirs = theirs.filter(|theirs| *theirs != ours)?;
            Some(Difference { field, theirs: theirs.to_owned(), ours: ours.to_owned() })
        };
        let addresses = self.url.as_ref().zip(remote.notification_uri.as_deref());
        let query = self.route.query.as_deref().unwrap_or_default();
        let differences = [
            addresses.and_then(|(ours, theirs)| compare_addresses(ours, theirs)),
            compare(Field::Event, remote.event_name.as_deref(), &self.route.event),
            compare(Field::Query, remote.query.as_deref(), query),
            compare(Field::Status, remote.status.map(RemoteStatus::as_str), RemoteStatus::Active.as_str()),
        ];
        differences.into_iter().flatten().collect()
    }

    /// Whether a subscription with another name sends its events to one of our endpoints.
    pub fn is_leftover(&self, remote: &RemoteSubscription) -> bool {
        let endpoints = self.url.as_ref().and_then(|url| url.join(".").ok());
        let is_on = remote.status.is_none_or(|status| status == RemoteStatus::Active);
        let uri = remote.notification_uri.as_deref();
        is_on && endpoints.zip(uri).is_some_and(|(endpoints, uri)| uri.starts_with(endpoints.as_str()))
    }
}

fn compare_addresses(ours: &Url, theirs: &str) -> Option<Difference> {
    let (field, theirs, ours) = match Url::parse(theirs) {
        Ok(theirs) if theirs == *ours => return None,
        Ok(theirs) if host(&theirs) != host(ours) => (Field::Host, host(&theirs), host(ours)),
        Ok(theirs) => (Field::Address, theirs.path().to_owned(), ours.path().to_owned()),
        Err(_) => (Field::Address, "an invalid address".to_owned(), host(ours)),
    };
    Some(Difference { field, theirs, ours })
}

/// The subscriptions with this name, the newest first and disabled ones last. If one of them shows our
/// company's number, those of other companies are excluded; if none does, Khoros may number our company
/// differently.
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
    // If two have the same date, the later one in the list comes first.
    named.reverse();
    named.sort_by_key(|remote| (remote.status == Some(RemoteStatus::Disabled), Reverse(remote.created)));
    named
}

/// The host, and the port if it is not the default.
fn host(url: &Url) -> String {
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
            ..Route::default()
        };
        let url = Url::parse("https://bridge.example/base/khoros/label").ok();
        Desired { company_id: 1, route, url, bearer_token: Some("0123456789abcdef".into()) }
    }

    fn remote(uuid: &str, day: &str) -> RemoteSubscription {
        RemoteSubscription {
            uuid: uuid.to_owned(),
            external_id: "ours".to_owned(),
            company_id: Some(1),
            event_name: Some("stream-item-label-applied".to_owned()),
            query: Some("CreateCase".to_owned()),
            notification_uri: Some("https://bridge.example/base/khoros/label".to_owned()),
            status: Some(RemoteStatus::Active),
            created: Some(format!("2026-01-{day}T00:00:00Z").parse().unwrap()),
        }
    }

    fn repairs(observed: &[RemoteSubscription]) -> Vec<Repair> {
        desired().repairs(observed, true)
    }

    fn disable(uuid: &str) -> Repair {
        Repair::Disable { uuid: uuid.to_owned() }
    }

    #[test]
    fn a_subscription_as_desired_is_left_alone() {
        assert_eq!(repairs(&[remote("a", "01")]), []);
        assert_eq!(desired().repairs(&[remote("a", "01")], false), [Repair::Declare]);
        let no_status = RemoteSubscription { status: None, ..remote("a", "01") };
        assert_eq!(repairs(&[no_status]), []);
        let hidden =
            RemoteSubscription { query: None, event_name: None, notification_uri: None, ..remote("a", "01") };
        assert_eq!(repairs(&[hidden]), []);
        let others = RemoteSubscription { external_id: "theirs".to_owned(), ..remote("a", "01") };
        assert_eq!(repairs(&[others]), [Repair::Create]);
    }

    #[test]
    fn a_subscription_with_another_value_is_declared_again() {
        let good = remote("a", "01");
        let uri = |uri: &str| RemoteSubscription { notification_uri: Some(uri.to_owned()), ..good.clone() };
        for (remote, field, text) in [
            (
                RemoteSubscription { event_name: Some("rule-applied".to_owned()), ..good.clone() },
                Field::Event,
                "has the event `rule-applied` instead of `stream-item-label-applied`",
            ),
            (
                RemoteSubscription { query: Some("Other".to_owned()), ..good.clone() },
                Field::Query,
                "has the query `Other` instead of `CreateCase`",
            ),
            (uri("nonsense"), Field::Address, "points to an invalid address instead of bridge.example"),
            (
                uri("https://bridge.example/createTicket"),
                Field::Address,
                "points to /createTicket instead of /base/khoros/label",
            ),
            (
                uri("https://other.example/khoros/label"),
                Field::Host,
                "points to other.example instead of bridge.example",
            ),
            (
                uri("https://bridge.example:8443/base/khoros/label"),
                Field::Host,
                "points to bridge.example:8443 instead of bridge.example",
            ),
        ] {
            let Repair::Correct(difference) = repairs(&[remote]).remove(0) else { panic!("{text}") };
            assert_eq!((difference.field, difference.to_string().as_str()), (field, text));
        }
        // Without pushes the address does not matter.
        let polled = Desired { url: None, ..desired() };
        assert_eq!(polled.repairs(&[uri("https://other.example/khoros/label")], true), []);
    }

    #[test]
    fn the_newest_of_several_is_kept() {
        let off = |remote: RemoteSubscription| RemoteSubscription {
            status: Some(RemoteStatus::Disabled),
            ..remote
        };
        let several = [remote("b", "02"), remote("c", "03"), off(remote("z", "04")), remote("a", "01")];
        assert_eq!(repairs(&several), [disable("b"), disable("a")]);
        let paused = RemoteSubscription { status: Some(RemoteStatus::Paused), ..remote("c", "03") };
        assert_eq!(
            repairs(&[off(remote("a", "01")), paused]),
            [Repair::Activate { uuid: "c".to_owned(), was: "PAUSED".to_owned() }]
        );
        let undated = RemoteSubscription { created: None, ..remote("u", "01") };
        assert_eq!(repairs(&[undated, remote("a", "01")]), [disable("u")]);
    }

    #[test]
    fn if_several_match_one_is_kept() {
        let other = RemoteSubscription { query: Some("Other".to_owned()), ..remote("b", "02") };
        assert_eq!(repairs(&[remote("a", "01"), other]), [disable("b")]);
        let paused = RemoteSubscription { status: Some(RemoteStatus::Paused), ..remote("b", "02") };
        assert_eq!(repairs(&[remote("a", "01"), paused]), [disable("b")]);
    }

    #[test]
    fn a_subscription_of_another_company_is_not_ours() {
        let of = |company_id, uuid| RemoteSubscription { company_id, ..remote(uuid, "01") };
        let several = [of(Some(1), "a"), of(None, "b"), of(Some(99), "c")];
        assert_eq!(named(&several, "ours", 1), [&several[1], &several[0]]);
        // The number that is configured may be that of the directory.
        assert_eq!(named(&several[2..], "ours", 1), [&several[2]]);
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
            status: Some(RemoteStatus::Disabled),
            ..at("https://bridge.example/base/khoros/old")
        };
        assert!(!desired().is_leftover(&off));
    }

    #[test]
    fn another_token_is_another_declaration() {
        let one = desired();
        assert_eq!(one.fingerprint(), desired().fingerprint());
        let two = Desired { bearer_token: Some("fedcba9876543210".into()), ..desired() };
        assert_ne!(one.fingerprint(), two.fingerprint());
    }
}
