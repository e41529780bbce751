//! One route's subscription, from one look at Khoros to the next: what is done about it and what is
//! remembered of that.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::plan::{Field, Plan, Shown, SoFar, Wanted, Why, host};
use super::{Look, SubscriptionStatus, Subscriptions, TAKE_OVERS, Trouble};
use crate::config::Route;
use crate::inbox::Inbox;
use crate::khoros::{Khoros, Status};

/// What is corrected so often in a day does not stay so.
const CORRECTIONS: usize = 3;
const DAY: Duration = Duration::from_secs(86_400);

/// One route's subscription.
pub(super) struct Kept {
    pub(super) wanted: Wanted,
    told: Told,
    /// What Khoros called it when it took it, if it said so.
    pub(super) uuid: Option<String>,
    ended: Mark,
    /// When it was taken over from another host.
    take_overs: Vec<Instant>,
    /// When it was told again because it said something else.
    corrections: Vec<Instant>,
    /// What Khoros showed after it was told, where it is not quite what it was told.
    accepted: Option<Shown>,
    /// The others of its name that were disabled.
    disabled: BTreeSet<String>,
    /// A status was set at the last look. One that has to be set again does not stay.
    is_changed: bool,
    /// Khoros took it and does not show it.
    is_unseen: bool,
    pub(super) is_announced: bool,
    pub(super) failing_since: Option<Instant>,
}

/// Whether Khoros was told all of what we want, the token included.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    /// By an earlier run.
    Before,
    Now,
}

/// The operator's word that a subscription is to end, which is for those who hear it while they run.
#[derive(Clone, Copy)]
enum Mark {
    Unread,
    /// As it was when we started.
    Old(Option<i64>),
}

impl Kept {
    pub(super) fn new(wanted: Wanted) -> Kept {
        Kept {
            wanted,
            told: Told::No,
            uuid: None,
            ended: Mark::Unread,
            take_overs: Vec::new(),
            corrections: Vec::new(),
            accepted: None,
            disabled: BTreeSet::new(),
            is_changed: false,
            is_unseen: false,
            is_announced: false,
            failing_since: None,
        }
    }

    pub(super) fn name(&self) -> String {
        self.wanted.route.name.clone()
    }

    /// Whether nobody has ended it since we started. Says so when somebody has.
    pub(super) async fn is_wanted(
        &mut self,
        inbox: &Inbox,
        status: &watch::Sender<Subscriptions>,
    ) -> sqlx::Result<bool> {
        let Route { name, external_id, .. } = &self.wanted.route;
        let mark = inbox.ended_at(external_id).await?;
        match self.ended {
            Mark::Unread => {
                if inbox.declared(external_id).await? == Some(self.wanted.fingerprint()) {
                    self.told = Told::Before;
                }
                self.ended = Mark::Old(mark);
                Ok(true)
            }
            Mark::Old(old) if old == mark => Ok(true),
            Mark::Old(_) => {
                let ended = SubscriptionStatus::Ended;
                if status.borrow().0.get(name) != Some(&ended) {
                    warn!(
                        event = "subscription_ended",
                        route = name,
                        "the subscription `{external_id}` was ended by the operator: it is left alone until \
                         the next start"
                    );
                    status.send_modify(|all| all.set(name, ended));
                }
                Ok(false)
            }
        }
    }

    fn so_far(&self, is_declared: bool) -> SoFar {
        SoFar { is_told: self.told != Told::No, is_declared, accepted: self.accepted.clone() }
    }

    /// Makes or corrects the subscription. True if Khoros was told.
    pub(super) async fn declare_if_needed(
        &mut self,
        khoros: &Khoros,
        inbox: &Inbox,
        look: &Look,
    ) -> Result<bool, Trouble> {
        let why = match look {
            Look::Held(held) => {
                let mut ours = self.wanted.ours(held);
                self.is_unseen &= ours.is_empty();
                match self.wanted.plan(&mut ours, &self.so_far(false)) {
                    Plan::Declare(why) => why,
                    Plan::SetStatus(_) => {
                        // Khoros can show it as it is told, if only after a while.
                        if ours.first().is_some_and(|kept| self.wanted.is_in(kept)) {
                            self.accepted = None;
                        }
                        return Ok(false);
                    }
                }
            }
            _ if self.told != Told::Now => Why::Untold,
            Look::NotOffered => return Ok(false),
            Look::Refused(refusal) => return Err(Trouble::Refused(refusal.clone())),
        };
        if why == Why::Missing && self.is_unseen {
            return Ok(false);
        }
        self.may_correct(&why)?;
        self.uuid = khoros.subscribe(&self.wanted.declaration()).await.map_err(Trouble::Refused)?;
        match &why {
            Why::Foreign(_) => self.take_overs.push(Instant::now()),
            Why::Differs(_) => self.corrections.push(Instant::now()),
            Why::Missing | Why::Untold => {}
        }
        self.say_why(why);
        self.told = Told::Now;
        let Route { external_id, .. } = &self.wanted.route;
        if let Err(error) = inbox.remember_declared(external_id, &self.wanted.fingerprint()).await {
            debug!(
                event = "subscription_memory_failed",
                "what Khoros was told cannot be remembered: {error}"
            );
        }
        Ok(true)
    }

    /// Whether it is any use to tell it once more: somebody else may change it each time, or Khoros may
    /// not keep what it is told.
    fn may_correct(&mut self, why: &Why) -> Result<(), Trouble> {
        for times in [&mut self.take_overs, &mut self.corrections] {
            times.retain(|at| at.elapsed() < DAY);
        }
        match (why, &self.wanted.push) {
            (Why::Foreign(theirs), Some(push)) if self.take_overs.len() >= TAKE_OVERS => {
                let external_id = self.wanted.route.external_id.clone();
                Err(Trouble::Contested { external_id, theirs: theirs.clone(), ours: host(&push.url) })
            }
            (Why::Differs(field), _) if self.corrections.len() >= CORRECTIONS => {
                Err(Trouble::Stubborn(*field))
            }
            _ => Ok(()),
        }
    }

    fn say_why(&self, why: Why) {
        let Route { name, external_id, .. } = &self.wanted.route;
        match why {
            Why::Foreign(host) => warn!(
                event = "subscription_taken_over",
                route = name,
                host,
                "took over the subscription `{external_id}`, which sent its events to {host}"
            ),
            Why::Missing if self.is_announced => {
                warn!(
                    event = "subscription_recreated",
                    route = name,
                    "the subscription `{external_id}` was gone: made it again"
                );
            }
            Why::Differs(what) => {
                warn!(
                    event = "subscription_corrected",
                    route = name,
                    field = %what,
                    "the subscription `{external_id}` had another {what}: corrected it"
                );
            }
            Why::Missing | Why::Untold => {}
        }
    }

    /// Makes the one that is kept active and the others inactive.
    pub(super) async fn set_statuses(
        &mut self,
        khoros: &Khoros,
        look: &Look,
        declared: bool,
    ) -> Result<(), Trouble> {
        let held = match look {
            Look::Held(held) => held,
            Look::NotOffered => return Ok(()),
            Look::Refused(refusal) => return Err(Trouble::Refused(refusal.clone())),
        };
        let mut ours = self.wanted.ours(held);
        let Route { name, external_id, .. } = &self.wanted.route;
        let changes = match self.wanted.plan(&mut ours, &self.so_far(declared)) {
            Plan::SetStatus(changes) => changes,
            Plan::Declare(Why::Missing) => {
                if !std::mem::replace(&mut self.is_unseen, true) {
                    warn!(
                        event = "subscription_not_shown",
                        route = name,
                        "Khoros took the subscription `{external_id}` and does not show it: what becomes of \
                         it is not known"
                    );
                }
                return Ok(());
            }
            Plan::Declare(Why::Differs(field @ (Field::Query | Field::Address))) => {
                warn!(
                    event = "subscription_field_not_shown",
                    route = name,
                    "Khoros took the subscription `{external_id}` and shows another {field} in it, or none: it \
                     is not told again"
                );
                self.accepted = ours.first().map(|held| Shown::of(held));
                return Ok(());
            }
            Plan::Declare(Why::Differs(field)) => return Err(Trouble::Stubborn(field)),
            Plan::Declare(Why::Foreign(_) | Why::Untold) => return Err(Trouble::Stubborn(Field::Address)),
        };
        let mut is_changed = false;
        for (held, status) in changes {
            // What shows no status cannot show that it is disabled already.
            if held.status.is_none() && self.disabled.contains(&held.uuid) {
                continue;
            }
            khoros.set_status(&held.uuid, status).await.map_err(Trouble::Refused)?;
            let (uuid, was) = (&held.uuid, held.status.map_or("another status", Status::word));
            match status {
                Status::Active => warn!(
                    event = "subscription_reactivated",
                    route = name,
                    uuid,
                    was,
                    "the subscription `{external_id}` was {was}: it is ACTIVE again"
                ),
                _ => {
                    self.disabled.insert(uuid.clone());
                    warn!(
                        event = "subscription_duplicate_disabled",
                        route = name,
                        uuid,
                        "more than one subscription is called `{external_id}`: disabled an older one"
                    );
                }
            }
            is_changed = true;
        }
        match std::mem::replace(&mut self.is_changed, is_changed) && is_changed {
            true => Err(Trouble::Stubborn(Field::Status)),
            false => Ok(()),
        }
    }

    /// It is as we want it, as far as we can see.
    pub(super) fn announce(&mut self, status: &watch::Sender<Subscriptions>) {
        let route = &self.wanted.route;
        status.send_modify(|all| all.set(&route.name, SubscriptionStatus::Subscribed));
        let has_failed = self.failing_since.take().is_some();
        if std::mem::replace(&mut self.is_announced, true) {
            if has_failed {
                info!(
                    event = "subscription_recovered",
                    route = route.name,
                    "the subscription is as it should be again"
                );
            }
            return;
        }
        let (what, external_id) = (described(route), &route.external_id);
        match &self.wanted.push {
            Some(push) => {
                let url = push.url.as_str();
                info!(
                    event = "subscribed",
                    origin = "push",
                    route = route.name,
                    url,
                    external_id,
                    "subscribed: Khoros sends {what} to {url}"
                );
            }
            None => info!(
                event = "subscribed",
                origin = "feed",
                route = route.name,
                external_id,
                "subscribed: Khoros keeps {what} in a feed"
            ),
        }
    }
}

fn described(route: &Route) -> String {
    match (&route.label, &route.query) {
        (Some(label), _) => format!("label `{label}`"),
        (None, Some(query)) => format!("event `{}` that matches `{query}`", route.event),
        (None, None) => format!("event `{}`", route.event),
    }
}
