//! `casebridge discard`.

use std::io::Write;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

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
    /// Those that were received before this time.
    pub until: Option<Timestamp>,
}

impl Selection {
    fn contains(&self, delivery: &Listed) -> bool {
        let is_of = |limit: Option<Timestamp>| limit.map(Timestamp::as_millisecond);
        delivery.route.eq_ignore_ascii_case(&self.route)
            && is_of(self.since).is_none_or(|since| delivery.received_at >= since)
            && is_of(self.until).is_none_or(|until| delivery.received_at < until)
    }
}

/// Parses a time as `casebridge list` shows it, or a date, which is its first moment in UTC.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    let of_date = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    text.parse().ok().or_else(of_date).ok_or_else(|| {
        "is neither a time, as in 2026-11-26T14:00:00Z, nor a date, as in 2026-11-26".to_owned()
    })
}

/// Discards the selected deliveries: they are dead, and a replay brings them back.
pub async fn discard(database: &Database, selection: &Selection, dry_run: bool) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let reason = format!("discarded by the operator at {}", time(inbox.time().await?));
    let mut out = std::io::stdout().lock();
    let done = if dry_run { "would discard" } else { "discarded" };
    let (mut discarded, mut last) = (0, None);
    loop {
        let destination = selection.destination.as_deref();
        let page = inbox.list(Some(State::Waiting), destination, last.as_ref(), PAGE).await?;
        for delivery in page.iter().filter(|delivery| selection.contains(delivery)) {
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
