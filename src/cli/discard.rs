//! `casebridge discard`.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::bail;
use jiff::Timestamp;

use casebridge::config::Database;
use casebridge::inbox::{Filter, Inbox, Listed, State};
use casebridge::text::printable;

use super::PAGE;
use super::list::time;
use super::progress::Progress;

/// Which waiting deliveries to discard.
pub struct Selection {
    pub route: String,
    pub destination: Option<String>,
    /// Those that were received at or after this time.
    pub since: Option<Timestamp>,
    /// Those that were received before this time; if it is not set, before the command began.
    pub until: Option<Timestamp>,
}

/// The progress counts deliveries up to this number.
const COUNTED: usize = 100_000;

impl Selection {
    /// The part of the selection that the inbox can search for.
    fn filter(&self) -> Filter {
        Filter {
            state: Some(State::Waiting),
            destination: self.destination.clone(),
            route: Some(self.route.to_lowercase()),
            since: self.since.map(Timestamp::as_millisecond),
            ..Filter::default()
        }
    }

    fn contains(&self, delivery: &Listed, until: i64) -> bool {
        delivery.route.eq_ignore_ascii_case(&self.route)
            && self.since.is_none_or(|since| delivery.received_at >= since.as_millisecond())
            && delivery.received_at <= until
    }
}

/// Discards the selected deliveries: they are dead, and a replay brings them back.
pub async fn discard(database: &Database, selection: &Selection, dry_run: bool) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let now = inbox.time().await?;
    let until = selection.until.map_or(now, Timestamp::as_millisecond);
    if selection.since.is_some_and(|since| since.as_millisecond() >= until) {
        bail!("--since is not before --until, or before now");
    }
    check_route(&inbox, &selection.route).await?;
    let reason = format!("discarded by the operator at {}", time(now));
    let done = if dry_run { "would discard" } else { "discarded" };
    let progress = Progress::of(inbox.count(&selection.filter(), COUNTED).await? as u64, "discarding");
    let (mut discarded, mut last) = (0, None);
    loop {
        let destination = selection.destination.as_deref();
        let page = inbox.list(Some(State::Waiting), destination, last.as_ref(), PAGE).await?;
        for delivery in page.iter().filter(|delivery| selection.contains(delivery, until)) {
            let (identity, destination) = (printable(&delivery.identity), &delivery.destination);
            if let Some(refusal) = refusal(delivery) {
                progress.done(Some(&format!("not discarded: {identity} to {destination} {refusal}")))?;
            // The service may have delivered it in the meantime.
            } else if dry_run || inbox.discard(delivery, &reason).await? {
                discarded += 1;
                let received = time(delivery.received_at);
                progress.done(Some(&format!("{done} {identity} to {destination} (received {received})")))?;
            } else {
                progress.done(None)?;
            }
        }
        let Some(delivery) = page.into_iter().next_back() else { break };
        last = Some(delivery);
    }
    drop(progress);
    writeln!(std::io::stdout(), "{done} {discarded} deliveries")?;
    Ok(())
}

/// Refuses a route that has no delivery while others have: it is probably misspelt.
async fn check_route(inbox: &Inbox, route: &str) -> anyhow::Result<()> {
    let routes: BTreeSet<String> = inbox.counts().await?.into_iter().map(|counts| counts.route).collect();
    if routes.is_empty() || routes.iter().any(|known| known.eq_ignore_ascii_case(route)) {
        return Ok(());
    }
    let routes: Vec<String> = routes.iter().map(|route| printable(route).to_string()).collect();
    bail!("no delivery has the route {route}; the routes with deliveries are {}", routes.join(", "))
}

/// Why a waiting delivery cannot be discarded.
fn refusal(delivery: &Listed) -> Option<&'static str> {
    match delivery {
        Listed { leased: true, .. } => Some("is being delivered"),
        Listed { may_be_sent: true, .. } => Some("may have been sent"),
        _ => None,
    }
}
