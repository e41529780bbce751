//! Deliveries as the operator sees them: lists, counts and ages, and new tries.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::QueryBuilder;

use super::{Counts, Held, Inbox, State, execute, fetch, from_row, millis, on_store};

/// How many identities one statement looks up.
const KNOWN_AT_ONCE: usize = 64;

/// A delivery as the operator sees it. Times are milliseconds since 1970, UTC.
#[derive(Clone, Debug)]
pub struct Listed {
    pub identity: String,
    pub destination: String,
    /// Empty unless the destination delivers to each target of an item separately.
    pub target: String,
    pub case_key: String,
    pub route: String,
    pub event_id: String,
    pub event_name: String,
    pub state: String,
    pub leased: bool,
    /// The destination may have it already.
    pub may_be_sent: bool,
    pub attempts: i64,
    pub tries: i64,
    pub due_at: i64,
    pub received_at: i64,
    pub settled_at: Option<i64>,
    pub reference: Option<String>,
    pub last_error: Option<String>,
    /// The status that it got after it was done.
    pub note: Option<String>,
    /// Its texts were erased.
    pub erased: bool,
}

from_row!(Listed {
    identity,
    destination,
    target,
    case_key,
    route,
    event_id,
    event_name,
    state,
    leased,
    may_be_sent,
    attempts,
    tries,
    due_at,
    received_at,
    settled_at,
    reference,
    last_error,
    note,
    erased,
});

/// Counts and ages over the whole inbox.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// In the order of their names.
    pub destinations: Vec<DestinationCounts>,
    /// Waiting deliveries that a limit holds back.
    pub held: Vec<Held>,
    pub done_24h: i64,
    /// Milliseconds since the last delivery was received.
    pub last_event_ms: Option<i64>,
    /// The counts by route and destination.
    pub counts: Vec<Counts>,
}

/// The deliveries of one destination, by all routes.
#[derive(Clone, Debug)]
pub struct DestinationCounts {
    pub destination: String,
    pub waiting: i64,
    pub in_doubt: i64,
    pub done: i64,
    pub dead: i64,
    /// How long the oldest waiting delivery has waited since it may be sent, in milliseconds.
    pub oldest_ms: Option<i64>,
}

impl Summary {
    pub fn waiting(&self) -> i64 {
        self.destinations.iter().map(|counts| counts.waiting).sum()
    }

    pub fn in_doubt(&self) -> i64 {
        self.destinations.iter().map(|counts| counts.in_doubt).sum()
    }

    pub fn dead(&self) -> i64 {
        self.destinations.iter().map(|counts| counts.dead).sum()
    }

    pub fn oldest_ms(&self) -> Option<i64> {
        self.destinations.iter().filter_map(|counts| counts.oldest_ms).max()
    }
}

/// The last event of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEvent {
    pub route: String,
    /// When it was received: milliseconds since 1970, UTC.
    pub at: i64,
    /// Milliseconds since then, by the database's clock.
    pub age_ms: i64,
}

from_row!(LastEvent { route, at, age_ms });

impl Inbox {
    /// Lists the deliveries of a state and a destination, or all, oldest first: the page of `limit` that follows
    /// `after`.
    pub async fn list(
        &self,
        state: Option<State>,
        destination: Option<&str>,
        after: Option<&Listed>,
        limit: usize,
    ) -> sqlx::Result<Vec<Listed>> {
        // Not bound, so that the planner finds a partial index.
        let of_state = state.map(|state| format!("state = '{}' and ", state.name())).unwrap_or_default();
        let sql = format!(
            "{} where {of_state} destination = coalesce($5, destination)
                        and (received_at, identity, destination) > ($1, $2, $3)
                      order by received_at, identity, destination limit $4",
            listed()
        );
        let (received_at, identity, last_destination) = match after {
            Some(last) => (last.received_at, last.identity.as_str(), last.destination.as_str()),
            None => (-1, "", ""),
        };
        fetch!(
            self.reader,
            query_as(&sql, received_at, identity, last_destination, limit as i64, destination).fetch_all
        )
    }

    /// Finds the deliveries under this identity, one for each destination.
    pub async fn find(&self, identity: &str) -> sqlx::Result<Vec<Listed>> {
        let sql = format!("{} where identity = $1 order by destination", listed());
        fetch!(self.reader, query_as(&sql, identity).fetch_all)
    }

    /// Returns those of these identities that are stored, whatever became of them.
    pub async fn known(&self, identities: &[&str]) -> sqlx::Result<HashSet<String>> {
        let mut known = HashSet::new();
        for some in identities.chunks(KNOWN_AT_ONCE) {
            // The last one fills the list: each length would be another statement that a connection keeps prepared.
            let list = some.iter().chain(some.last().into_iter().cycle()).take(KNOWN_AT_ONCE);
            let found: Vec<String> = on_store!(self.store, reader, |executor, keeps| async {
                let mut statement = QueryBuilder::new(KNOWN);
                for end in [KNOWN_BY_TARGETS, ")"] {
                    let mut values = statement.separated(", ");
                    for identity in list.clone() {
                        values.push_bind(*identity);
                    }
                    statement.push(end);
                }
                statement.build_query_scalar().persistent(keeps).fetch_all(executor).await
            })?;
            known.extend(found);
        }
        Ok(known)
    }

    /// Gives a dead delivery a new schedule. The worker looks it up before it sends anything: a delivery that
    /// was refused for good is then sent as a new revision; one that may have got through is sent with its
    /// old bytes and key, and not before the destination must be done with it. `anew`: what its case has at the
    /// destination is gone for good. False: it is not dead, or its texts were erased.
    pub async fn replay(&self, delivery: &Listed, anew: bool) -> sqlx::Result<bool> {
        let replayed = execute!(
            self,
            "update delivery
                set state = 'waiting', tries = 0, settled_at = null, in_doubt = true, anew = $3, waits_since = {now},
                    request = case when in_doubt then request end,
                    revision = case when in_doubt then revision else revision + 1 end,
                    due_at = case when in_doubt and due_at > {now} then due_at else {now} end
              where identity = $1 and destination = $2 and state = 'dead' and payload <> ''",
            &delivery.identity,
            &delivery.destination,
            anew
        )?;
        Ok(replayed == 1)
    }

    /// Makes a waiting delivery due now. If the destination may still be working on it, makes it due within a
    /// minute, when none of our requests is worked on any longer. False: it is not waiting, or it is claimed.
    pub async fn hasten(&self, delivery: &Listed) -> sqlx::Result<bool> {
        let hastened = execute!(
            self,
            "update delivery
                set due_at = case when not in_doubt or due_at <= (select {now}) then (select {now})
                                  when due_at > (select {now}) + 60000 then (select {now}) + 60000
                                  else due_at end
              where identity = $1 and destination = $2 and state = 'waiting' and not leased",
            &delivery.identity,
            &delivery.destination
        )?;
        Ok(hastened == 1)
    }

    /// Gives up a waiting delivery; a replay brings it back. False: it is not waiting, it is claimed, or the
    /// destination may have it.
    pub async fn discard(&self, delivery: &Listed, reason: &str) -> sqlx::Result<bool> {
        let sql = format!(
            "update delivery set state = 'dead', last_error = $3, settled_at = {{now}}, due_at = {{now}}
              where identity = $1 and destination = $2 and state = 'waiting' and not leased and not ({MAY_BE_SENT})"
        );
        let discarded = execute!(self, &sql, &delivery.identity, &delivery.destination, reason)?;
        Ok(discarded == 1)
    }

    /// Counts the events of a route in the span `within` that ended with its last event; counts at most 2,000
    /// settled deliveries.
    pub async fn events_before(&self, last: &LastEvent, within: Duration) -> sqlx::Result<i64> {
        let since = last.at - millis(within);
        fetch!(self.reader, query_scalar(EVENTS_BEFORE, &last.route, since).fetch_one)
    }
}

const KNOWN: &str = "select identity from delivery where identity in (";
/// The identity of a delivery to a target has 13 bytes more.
const KNOWN_BY_TARGETS: &str = ")
    union select substr(identity, 1, length(identity) - 13) from delivery
     where target <> '' and substr(identity, 1, length(identity) - 13) in (";

/// Feed items and replays start in doubt, so only their tries, except held ones, may have sent something.
const MAY_BE_SENT: &str = "in_doubt and (request is not null
    or attempts > 0 and coalesce(last_error, '') not like 'held: %')";

pub(super) fn listed() -> String {
    format!("select {} from delivery", columns())
}

/// The columns of [`Listed`].
pub(super) fn columns() -> String {
    format!(
        "identity, destination, target, case_key, route, event_id, event_name, state, leased, attempts, tries,
         due_at, received_at, settled_at, reference, last_error, note, payload = '' as erased, {MAY_BE_SENT} as may_be_sent"
    )
}

const EVENTS_BEFORE: &str = "
    select count(distinct event_id) from (
        select event_id from (
            select event_id from delivery
             where route = $1 and settled_at is not null and received_at >= $2
             order by received_at desc limit 2000) as settled
        union all
        -- The sum keeps SQLite from choosing the index of everything received since.
        select event_id from delivery
         where state = 'waiting' and route = $1 and received_at + 0 >= $2) as events";
