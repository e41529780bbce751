//! `casebridge discard`.

use std::io::Write;

use anyhow::bail;
use jiff::Timestamp;

use casebridge::config::Database;
use casebridge::inbox::{Inbox, Listed, State};

use super::PAGE;
use super::list::time;

/// Which waiting deliveries to discard.
pub struct Selection {
    pub route: String,
    pub destination: Option<String>,
    /// Those that were received at or after this time.
    pub since: Option<Timestamp>,
    /// Those that were received before this time; if it is not set, before the command began.
    pub until: Option<Timestamp>,
}

impl Selection {
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
    let reason = format!("discarded by the operator at {}", time(now));
    let mut out = std::io::stdout().lock();
    let done = if dry_run { "would discard" } else { "discarded" };
    let (mut discarded, mut last) = (0, None);
    loop {
        let destination = selection.destination.as_deref();
        let page = inbox.list(Some(State::Waiting), destination, last.as_ref(), PAGE).await?;
        for delivery in page.iter().filter(|delivery| selection.contains(delivery, until)) {
            let Listed { identity, destination, .. } = delivery;
            if let Some(refusal) = refusal(delivery) {
                writeln!(out, "not discarded: {identity} to {destination} {refusal}")?;
            // The service may have delivered it in the meantime.
            } else if dry_run || inbox.discard(delivery, &reason).await? {
                discarded += 1;
                let received = time(delivery.received_at);
                writeln!(out, "{done} {identity} to {destination} (received {received})")?;
            }
        }
        let Some(delivery) = page.into_iter().next_back() else { break };
        last = Some(delivery);
    }
    writeln!(out, "{done} {discarded} deliveries")?;
    Ok(())
}

/// Why a waiting delivery is kept.
fn refusal(delivery: &Listed) -> Option<&'static str> {
    match delivery {
        Listed { leased: true, .. } => Some("is being delivered"),
        Listed { may_be_sent: true, .. } => Some("may have been sent"),
        _ => None,
    }
}
