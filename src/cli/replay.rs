//! `casebridge replay`.

use std::io::Write;

use anyhow::bail;

use casebridge::config::Database;
use casebridge::inbox::{Inbox, Listed, State};

use super::{PAGE, reason};

/// The effect of a replay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Dead deliveries get a new schedule.
    Again,
    /// The same, and a new ticket if Zendesk does not find the old one.
    NewTicket,
    /// Waiting deliveries are due now; dead ones get a new schedule.
    Now,
}

impl Replay {
    /// Why a delivery is not replayed; `None` if it is.
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

/// Replays the named deliveries, or all dead ones if none is named.
pub async fn replay(database: &Database, ids: &[String], how: Replay, dry_run: bool) -> anyhow::Result<()> {
    let inbox = Inbox::open_beside(database).await?;
    let chosen = match ids {
        [] => all_dead(&inbox).await?,
        ids => named(&inbox, ids, how).await?,
    };
    let mut out = std::io::stdout().lock();
    let (one, all) = if dry_run { ("would replay", "would be replayed") } else { ("replayed", "replayed") };
    let mut replayed = 0;
    for delivery in &chosen {
        if let Some(refusal) = how.refusal(delivery) {
            writeln!(out, "not replayed: {} {refusal}", delivery.identity)?;
        // Another operator may have been quicker.
        } else if dry_run || how.apply(&inbox, delivery).await? {
            replayed += 1;
            writeln!(out, "{one} {} ({})", delivery.identity, reason(delivery))?;
        }
    }
    writeln!(out, "{replayed} {all}")?;
    Ok(())
}

async fn all_dead(inbox: &Inbox) -> sqlx::Result<Vec<Listed>> {
    let mut dead: Vec<Listed> = Vec::new();
    loop {
        let page = inbox.list(Some(State::Dead), None, dead.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(dead);
        }
        dead.extend(page);
    }
}

/// Finds all named deliveries, or fails: a typing error should not leave half a replay behind.
async fn named(inbox: &Inbox, ids: &[String], how: Replay) -> anyhow::Result<Vec<Listed>> {
    let mut chosen = Vec::new();
    for id in ids {
        let found = inbox.find(id).await?;
        // An id may have a delivery for each of several destinations: one that can be replayed is enough.
        let refusals: Option<Vec<String>> = found.iter().map(|delivery| how.refusal(delivery)).collect();
        match refusals.as_deref() {
            Some([]) => bail!("there is no delivery `{id}`: `casebridge list` shows their ids"),
            Some([refusal, ..]) => bail!("`{id}` {refusal}"),
            None => chosen.extend(found),
        }
    }
    Ok(chosen)
}
