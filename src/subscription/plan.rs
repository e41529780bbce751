//! What is to be done about a subscription, given what Khoros holds. No I/O.

use std::cmp::Reverse;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use crate::config::Route;
use crate::khoros::{Held, Status, Subscription};

/// What we want Khoros to hold for a route.
pub struct Wanted {
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

/// The next thing to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan<'a> {
    /// Make or correct it, by a POST.
    Declare(Why),
    /// It says what we want; these, if any, are to have another status, the one that is kept first.
    SetStatus(Vec<(&'a Held, Status)>),
}

/// Why a subscription has to be declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    Missing,
    /// Khoros may hold another bearer token, which it need not show.
    Untold,
    /// It says something else here.
    Differs(Field),
    /// It sends its events to this host.
    Foreign(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Address,
    Event,
    Query,
    Status,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Address => "address",
            Field::Event => "event",
            Field::Query => "query",
            Field::Status => "status",
        })
    }
}

/// What has become of our telling so far.
#[derive(Clone, Debug, Default)]
pub struct SoFar {
    /// As far as we know Khoros was told just this.
    pub is_told: bool,
    /// It was told in this very moment. Then one of ours that says what we want is kept before a newer
    /// one, since no more can be had by telling it again.
    pub is_declared: bool,
    /// What it made of it, and it is no use to tell it again.
    pub accepted: Option<Shown>,
}

/// What Khoros may spell in its own way, or not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    query: Option<String>,
    notification_uri: Option<String>,
}

impl Shown {
    pub fn of(held: &Held) -> Shown {
        Shown { query: held.query.clone(), notification_uri: held.notification_uri.clone() }
    }
}

impl Wanted {
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

    /// Tells one declaration from another, and nothing of the token in it.
    pub fn fingerprint(&self) -> String {
        let declaration = serde_json::to_vec(&self.declaration()).unwrap_or_default();
        format!("{:x}", Sha256::digest(declaration))
    }

    /// Those of the subscriptions that bear our name.
    pub fn ours<'a>(&self, held: &'a [Held]) -> Vec<&'a Held> {
        named(held, &self.route.external_id, self.company_id)
    }

    pub fn plan<'a>(&self, ours: &mut [&'a Held], so_far: &SoFar) -> Plan<'a> {
        let differs = |held: &Held| self.differs(held, so_far);
        if so_far.is_declared
            && let Some(good) = ours.iter().position(|held| differs(held).is_none())
        {
            ours[..=good].rotate_right(1);
        }
        let Some((kept, extra)) = ours.split_first() else { return Plan::Declare(Why::Missing) };
        if let Some(why) = differs(kept) {
            return Plan::Declare(why);
        }
        if !so_far.is_told {
            return Plan::Declare(Why::Untold);
        }
        // What shows no status is left alone: it may have none.
        let is_off = |held: &Held| matches!(held.status, Some(Status::Paused | Status::Disabled));
        let on = Some((*kept, Status::Active)).filter(|(kept, _)| is_off(kept));
        let off = extra.iter().filter(|held| held.status != Some(Status::Disabled));
        Plan::SetStatus(on.into_iter().chain(off.map(|held| (*held, Status::Disabled))).collect())
    }

    /// Whether it says what we want, in our own words.
    pub fn is_in(&self, held: &Held) -> bool {
        self.differs(held, &SoFar::default()).is_none()
    }

    fn differs(&self, held: &Held, so_far: &SoFar) -> Option<Why> {
        let is_accepted = so_far.accepted.as_ref().is_some_and(|accepted| *accepted == Shown::of(held));
        if let Some(push) = &self.push {
            let theirs = held.notification_uri.as_deref().and_then(|uri| Url::parse(uri).ok());
            match theirs {
                Some(theirs) if host(&theirs) != host(&push.url) => return Some(Why::Foreign(host(&theirs))),
                Some(theirs) if theirs == push.url => {}
                _ if is_accepted => {}
                _ => return Some(Why::Differs(Field::Address)),
            }
        }
        if held.event_name.as_ref().is_some_and(|event| *event != self.route.event) {
            return Some(Why::Differs(Field::Event));
        }
        let wanted = self.route.query.as_deref().unwrap_or_default();
        let is_same = held.query.as_deref().unwrap_or_default() == wanted;
        (!is_same && !is_accepted).then_some(Why::Differs(Field::Query))
    }

    /// Whether a subscription of another name sends its events to one of our doors.
    pub fn is_leftover(&self, held: &Held) -> bool {
        let doors = self.push.as_ref().and_then(|push| push.url.join(".").ok());
        let is_on = held.status.is_none_or(|status| status == Status::Active);
        let uri = held.notification_uri.as_deref();
        is_on && doors.zip(uri).is_some_and(|(doors, uri)| uri.starts_with(doors.as_str()))
    }
}

/// The subscriptions of one name: the one to keep first, which is the newest, and what somebody has
/// disabled last. Where one shows the number of our company, those of others are not ours; where none
/// does, it may be that Khoros numbers ours otherwise.
pub fn named<'a>(held: &'a [Held], external_id: &str, company_id: u64) -> Vec<&'a Held> {
    let mut named: Vec<&Held> = held.iter().filter(|held| held.external_id == external_id).collect();
    if named.iter().any(|held| held.company_id == Some(company_id)) {
        named.retain(|held| held.company_id.is_none_or(|company| company == company_id));
    }
    // Stable, and from the end: of two of the same age the later one in the list is kept.
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

    fn wanted() -> Wanted {
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
        Wanted { company_id: 1, route, push }
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

    fn plan_of(held: &[Held], is_told: bool, is_declared: bool) -> Plan<'_> {
        let wanted = wanted();
        wanted.plan(&mut wanted.ours(held), &SoFar { is_told, is_declared, accepted: None })
    }

    #[test]
    fn what_says_what_we_want_is_left_alone() {
        assert_eq!(plan_of(&[held("a", "01")], true, false), Plan::SetStatus(Vec::new()));
        let no_status = Held { status: None, ..held("a", "01") };
        assert_eq!(plan_of(&[no_status], true, false), Plan::SetStatus(Vec::new()));
        assert_eq!(plan_of(&[held("a", "01")], false, false), Plan::Declare(Why::Untold));
        let others = Held { external_id: "theirs".to_owned(), ..held("a", "01") };
        assert_eq!(plan_of(&[others], true, false), Plan::Declare(Why::Missing));
    }

    #[test]
    fn what_says_something_else_is_declared_again() {
        let good = held("a", "01");
        let uri = |uri: &str| Held { notification_uri: Some(uri.to_owned()), ..good.clone() };
        for (held, why) in [
            (
                Held { event_name: Some("rule-applied".to_owned()), ..good.clone() },
                Why::Differs(Field::Event),
            ),
            (Held { query: None, ..good.clone() }, Why::Differs(Field::Query)),
            (Held { notification_uri: None, ..good.clone() }, Why::Differs(Field::Address)),
            (uri("nonsense"), Why::Differs(Field::Address)),
            (uri("https://bridge.example/createTicket"), Why::Differs(Field::Address)),
            (uri("https://other.example/khoros/label"), Why::Foreign("other.example".to_owned())),
            (
                uri("https://bridge.example:8443/base/khoros/label"),
                Why::Foreign("bridge.example:8443".to_owned()),
            ),
        ] {
            assert_eq!(plan_of(&[held], true, false), Plan::Declare(why));
        }
        // Without pushes it is all the same where they go.
        let polled = Wanted { push: None, ..wanted() };
        let held = [uri("https://other.example/khoros/label")];
        assert_eq!(
            polled.plan(&mut polled.ours(&held), &SoFar { is_told: true, ..SoFar::default() }),
            Plan::SetStatus(Vec::new())
        );
    }

    #[test]
    fn the_newest_of_several_is_kept() {
        let off = |held: Held| Held { status: Some(Status::Disabled), ..held };
        let paused = Held { status: Some(Status::Paused), ..held("c", "03") };
        let several = [held("b", "02"), paused.clone(), off(held("z", "01")), held("a", "01")];
        assert_eq!(
            plan_of(&several, true, false),
            Plan::SetStatus(vec![
                (&paused, Status::Active),
                (&several[0], Status::Disabled),
                (&several[3], Status::Disabled)
            ])
        );
        // What is disabled comes after all others, or the older one would be told what the newer one is not.
        let newest = off(held("d", "04"));
        assert_eq!(plan_of(&[newest, held("a", "01")], true, false), Plan::SetStatus(Vec::new()));
        let undated = Held { created: None, ..held("u", "01") };
        let several = [undated.clone(), held("a", "01")];
        assert_eq!(plan_of(&several, true, false), Plan::SetStatus(vec![(&undated, Status::Disabled)]));
    }

    #[test]
    fn that_of_another_company_is_not_ours_beside_one_that_is() {
        let of = |company_id, uuid| Held { company_id, ..held(uuid, "01") };
        let several = [of(Some(1), "a"), of(None, "b"), of(Some(99), "c")];
        assert_eq!(wanted().ours(&several), [&several[1], &several[0]]);
        // The number that is configured may be that of the directory.
        assert_eq!(wanted().ours(&several[2..]), [&several[2]]);
    }

    /// A server that corrects the older one of two would be told for ever.
    #[test]
    fn of_several_the_one_that_was_corrected_is_kept() {
        let stubborn = Held { query: None, ..held("b", "02") };
        let several = [held("a", "01"), stubborn.clone()];
        assert_eq!(plan_of(&several, true, false), Plan::Declare(Why::Differs(Field::Query)));
        assert_eq!(plan_of(&several, true, true), Plan::SetStatus(vec![(&stubborn, Status::Disabled)]));
    }

    #[test]
    fn what_khoros_spells_in_its_own_way_is_told_once() {
        let hidden = Held { query: None, event_name: None, notification_uri: None, ..held("a", "01") };
        let so_far = SoFar { is_told: true, is_declared: false, accepted: Some(Shown::of(&hidden)) };
        let plan =
            |held: &[Held]| wanted().plan(&mut wanted().ours(held), &so_far) == Plan::SetStatus(vec![]);
        assert!(plan(std::slice::from_ref(&hidden)) && plan(&[held("a", "01")]));
        assert!(!plan(&[Held { query: Some("Other".to_owned()), ..hidden.clone() }]));
        assert!(!plan(&[Held { event_name: Some("rule-applied".to_owned()), ..hidden }]));
    }

    #[test]
    fn a_name_of_another_time_at_our_door_is_told_of() {
        let at = |uri: &str| Held { notification_uri: Some(uri.to_owned()), ..held("a", "01") };
        assert!(wanted().is_leftover(&at("https://bridge.example/base/khoros/old")));
        for other in ["https://bridge.example/khoros/old", "https://other.example/base/khoros/old"] {
            assert!(!wanted().is_leftover(&at(other)), "{other}");
        }
        let off = Held { status: Some(Status::Disabled), ..at("https://bridge.example/base/khoros/old") };
        assert!(!wanted().is_leftover(&off));
    }

    #[test]
    fn another_token_is_another_declaration() {
        let (one, mut two) = (wanted(), wanted());
        assert_eq!(one.fingerprint(), two.fingerprint());
        let push = two.push.as_mut().unwrap();
        push.bearer_token = "fedcba9876543210".into();
        assert_ne!(one.fingerprint(), two.fingerprint());
    }
}
