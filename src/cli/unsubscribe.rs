//! `casebridge unsubscribe`.

use std::io::Write;

use anyhow::bail;

use casebridge::config::Config;
use casebridge::connect;
use casebridge::inbox::Inbox;
use casebridge::source::khoros::client::{Khoros, Refusal, RemoteStatus, RemoteSubscription};
use casebridge::source::khoros::subscription;

/// Ends subscriptions at Khoros: the named ones, or those of our routes if none is named. Before it disables
/// one, it stores the end in the database, so that a running service does not activate the subscription
/// again.
pub async fn unsubscribe(config: &Config, external_ids: &[String]) -> anyhow::Result<()> {
    let mut names: Vec<&String> = external_ids.iter().collect();
    if names.is_empty() {
        names = config.general.routes.iter().map(|route| &route.external_id).collect();
    }
    let khoros = Khoros::new(&config.khoros, connect::http_client(config.general.is_local)?);
    let mut out = std::io::stdout().lock();
    let inbox = match Inbox::open_beside(&config.database).await {
        Ok(inbox) => Some(inbox),
        Err(error) => {
            let consequence = "so a running service may activate it again";
            writeln!(out, "cannot store that the subscription was ended, {consequence}: {error:#}")?;
            None
        }
    };
    // Before the list is read: a running service might create another subscription in between.
    let mut ended_before = Vec::new();
    for name in &names {
        if let Some(inbox) = &inbox {
            ended_before.push(subscription::ended_mark(inbox, name).await?);
            subscription::mark_ended(inbox, name).await?;
        }
    }
    let observed = khoros.subscriptions().await;
    if let (Err(_), Some(inbox)) = (&observed, &inbox) {
        for (name, before) in names.iter().zip(&ended_before) {
            subscription::restore_mark(inbox, name, before.as_deref()).await?;
        }
    }
    let remote = listed(observed, &names)?;
    let mut failed = 0;
    for (index, name) in names.into_iter().enumerate() {
        let mut active = subscription::named(&remote, name, config.khoros.company_id);
        active.retain(|remote| remote.status != Some(RemoteStatus::Disabled));
        if active.is_empty() {
            writeln!(out, "nothing to end: no subscription `{name}` is active at Khoros")?;
        }
        let failed_before = failed;
        for remote in active {
            match khoros.set_status(&remote.uuid, RemoteStatus::Disabled).await {
                Ok(()) => writeln!(out, "ended `{name}` ({})", remote.uuid)?,
                Err(refusal) => {
                    failed += 1;
                    writeln!(out, "`{name}` ({}) is not ended: {refusal}", remote.uuid)?;
                }
            }
        }
        if failed > failed_before
            && let Some(inbox) = &inbox
        {
            subscription::restore_mark(inbox, name, ended_before[index].as_deref()).await?;
        }
    }
    match failed {
        0 => Ok(()),
        _ => bail!("could not end {failed} subscription(s): try again"),
    }
}

/// The subscriptions that Khoros lists.
fn listed(
    observed: Result<Vec<RemoteSubscription>, Refusal>,
    names: &[&String],
) -> anyhow::Result<Vec<RemoteSubscription>> {
    match observed {
        Ok(remote) => Ok(remote),
        Err(Refusal::NotOffered) => bail!(
            "Khoros does not show its subscriptions at SPREDFAST_API_URL, so none can be ended from here: \
             ask Khoros support to end {}",
            names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ),
        Err(refusal) => bail!("{refusal}"),
    }
}
