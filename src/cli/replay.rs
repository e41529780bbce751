//! `casebridge replay`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::bail;

use casebridge::config::Database;
use casebridge::destination::{Guarantee, guarantee};
use casebridge::inbox::{Inbox, Listed, State};
use casebridge::text::printable;

use super::progress::Progress;
use super::select::{Selection, select};
use super::{PAGE, reason};

/// The effect of a replay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Dead deliveries get a new schedule.
    Again,
    /// Dead deliveries get a new schedule, and a new ticket if Zendesk does not find the old one.
    NewTicket,
    /// Waiting deliveries are due now; dead ones get a new schedule.
    Now,
}

impl Replay {
    /// Returns the reason why a delivery cannot be replayed; `None` if it can.
    fn refusal(self, delivery: &Listed) -> Option<String> {
        match delivery.state.as_str() {
            _ if delivery.erased => Some("cannot be replayed: its texts were erased".to_owned()),
            "dead" => None,
            "waiting" if self == Replay::Now => None,
            "waiting" => Some("is waiting: --now delivers it now".to_owned()),
            state => Some(format!("is {state}, and only dead deliveries can be replayed")),
        }
    }

    async fn apply(self, inbox: &Inbox, delivery: &Listed) -> sqlx::Result<bool> {
        match delivery.state.as_str() {
            "waiting" => inbox.hasten(delivery).await,
            _ => inbox.replay(delivery, self == Replay::NewTicket).await,
        }
    }
}

/// Replays the named deliveries, or all dead ones if none is named; to all destinations, or to one. Unless a delivery
/// is named by its identity, or `destination` is given, those with at-most-once delivery are left out.
pub async fn replay(
    database: &Database,
    ids: &[String],
    destination: Option<&str>,
    how: Replay,
    dry_run: bool,
) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let chosen = match ids {
        [] => all_dead(&inbox, destination).await?,
        ids => named(&inbox, ids, destination, how).await?,
    };
    let Chosen { deliveries, left_out } = chosen;
    let progress = Progress::of(deliveries.len() as u64, "replaying");
    let (one, all) = if dry_run { ("would replay", "would be replayed") } else { ("replayed", "replayed") };
    let mut replayed = 0;
    for delivery in &deliveries {
        let Listed { identity, destination, .. } = delivery;
        let (identity, destination) = (printable(identity), printable(destination));
        if let Some(refusal) = how.refusal(delivery) {
            progress.done(Some(&format!("not replayed: {identity} to {destination} {refusal}")))?;
        // Another operator may have replayed it in the meantime.
        } else if dry_run || how.apply(&inbox, delivery).await? {
            replayed += 1;
            progress.done(Some(&format!("{one} {identity} to {destination} ({})", reason(delivery))))?;
        } else {
            progress.done(None)?;
        }
    }
    drop(progress);
    for (destination, count) in left_out {
        let reason = format!("they may arrive twice: `--destination {destination}` replays them");
        writeln!(std::io::stdout(), "{count} to {destination} left out: {reason}")?;
    }
    writeln!(std::io::stdout(), "{replayed} {all}")?;
    Ok(())
}

/// What to replay.
#[derive(Default)]
struct Chosen {
    deliveries: Vec<Listed>,
    /// The number of deliveries that were left out, by destination.
    left_out: BTreeMap<String, usize>,
}

impl Chosen {
    fn add(&mut self, delivery: Listed) {
        self.deliveries.push(delivery);
    }

    /// Leaves a delivery out if a second request to its destination would be a second message.
    fn add_if_safe(&mut self, delivery: Listed) {
        match guarantee(&delivery.destination) {
            // A waiting one is only delivered sooner.
            Some(Guarantee::AtMostOnce) if delivery.state == "dead" => {
                *self.left_out.entry(delivery.destination).or_default() += 1
            }
            _ => self.add(delivery),
        }
    }
}

async fn all_dead(inbox: &Inbox, destination: Option<&str>) -> sqlx::Result<Chosen> {
    let mut chosen = Chosen::default();
    let mut last: Option<Listed> = None;
    loop {
        let page = inbox.list(Some(State::Dead), destination, last.as_ref(), PAGE).await?;
        let Some(end) = page.last() else { return Ok(chosen) };
        last = Some(end.clone());
        for delivery in page {
            match destination {
                Some(_) => chosen.add(delivery),
                None => chosen.add_if_safe(delivery),
            }
        }
    }
}

/// Finds all named deliveries, or fails: a typing error should not leave half a replay behind.
async fn named(
    inbox: &Inbox,
    ids: &[String],
    destination: Option<&str>,
    how: Replay,
) -> anyhow::Result<Chosen> {
    let mut chosen = Chosen::default();
    for id in ids {
        let Selection { deliveries: mut found, is_identity } = select(inbox, id).await?;
        found.retain(|delivery| destination.is_none_or(|name| delivery.destination == name));
        if !is_identity && found.iter().any(|delivery| how.refusal(delivery).is_none()) {
            // A case may have other deliveries, which are done.
            found.retain(|delivery| how.refusal(delivery).is_none());
        }
        // One id may have deliveries to several destinations. It is enough if one of them can be replayed.
        let refusals: Option<Vec<String>> = found.iter().map(|delivery| how.refusal(delivery)).collect();
        match refusals.as_deref() {
            Some([]) => bail!("there is no delivery `{}`: `casebridge list` shows their ids", printable(id)),
            Some([refusal, ..]) => bail!("`{}` {refusal}", printable(id)),
            None if is_identity || destination.is_some() => found.into_iter().for_each(|one| chosen.add(one)),
            None => found.into_iter().for_each(|one| chosen.add_if_safe(one)),
        }
    }
    Ok(chosen)
}
