//! `casebridge demo`: the real bridge between the two stand-ins, and the story on the terminal.

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::khoros::{self, Khoros};
use super::zendesk::{self, Zendesk};
use crate::app;
use crate::config::{self, Config};

const LABEL: &str = "CreateCase";

/// Runs the demo on a temporary SQLite file; with `once` it ends after the first ticket.
pub async fn demo(once: bool, stop: CancellationToken) -> anyhow::Result<()> {
    let khoros = Khoros::start().await?;
    let zendesk = Zendesk::start().await?;
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let bridge = format!("http://{}", listener.local_addr()?);
    let database = folder.path().join("casebridge.db");
    let database = database.to_string_lossy();
    let variables = variables(&khoros, &zendesk, &bridge, &database);
    let config = Config::from_vars(variables.chain(config::ticket_variables()))?;

    say("casebridge demo: everything stays on this machine")?;
    say(&format!("  Khoros stand-in   {}", khoros.url()))?;
    say(&format!("  Zendesk stand-in  {}", zendesk.url()))?;
    say(&format!("  bridge            {bridge}"))?;

    let Some(storage) = app::open_storage(&config.database, &stop).await? else {
        return Ok(());
    };
    let story = tell(&khoros, &zendesk, once, stop.clone());
    let service = app::run(config, storage, listener, stop.clone());
    tokio::pin!(story, service);
    tokio::select! {
        told = &mut story => {
            stop.cancel();
            service.await.and(told)
        }
        served = &mut service => served,
    }
}

async fn tell(khoros: &Khoros, zendesk: &Zendesk, once: bool, stop: CancellationToken) -> anyhow::Result<()> {
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    tokio::select! {
        () = &mut stopped => return Ok(()),
        () = khoros.wait_until(|model| !model.subscriptions.is_empty()) => {}
    }
    say(&format!("\n1. subscribed: Khoros will tell the bridge of label `{LABEL}`"))?;

    let answers = khoros.apply_label(LABEL, khoros::EXAMPLE).await;
    match answers.first() {
        Some(Ok(status)) => say(&format!(
            "2. label applied: Khoros sent the published example post, the bridge answered {status}"
        ))?,
        _ => bail!("the notification did not reach the bridge"),
    }

    let mut told = 0;
    loop {
        tokio::select! {
            () = &mut stopped => return Ok(()),
            () = zendesk.wait_until(|model| model.tickets.len() > told) => {}
        }
        let ticket = zendesk.model().tickets[told].clone();
        told += 1;
        if told == 1 {
            say(&format!("3. ticket {}", described(&ticket)))?;
            if once {
                return Ok(());
            }
            say(&format!(
                "\nApply a label by hand:\n  curl -d 'My parcel never came' {}/sandbox/labels/{LABEL}\n\
                 Stop with Ctrl-C.\n",
                khoros.url()
            ))?;
        } else {
            say(&format!("ticket {}", described(&ticket)))?;
        }
    }
}

fn described(ticket: &Value) -> String {
    let body = ticket["comment"]["body"].as_str().unwrap_or_default();
    let body: String = body.lines().map(|line| format!("     | {line}\n")).collect();
    format!("{}: {}\n{body}", ticket["id"], ticket["subject"].as_str().unwrap_or_default())
}

/// The same door as everybody's: variables.
fn variables(
    khoros: &Khoros,
    zendesk: &Zendesk,
    bridge: &str,
    database: &str,
) -> impl Iterator<Item = (OsString, OsString)> {
    let bearer = format!("demo-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    [
        ("SPREDFAST_API_URL", khoros.api_url()),
        ("SPREDFAST_API_TOKEN", khoros::TOKEN.to_owned()),
        ("SPREDFAST_COMPANY_ID", "1234".to_owned()),
        ("SPREDFAST_LABEL_NAME", LABEL.to_owned()),
        ("ZENDESK_API_URL", zendesk.url()),
        ("ZENDESK_OAUTH_CLIENT_ID", zendesk::CLIENT_ID.to_owned()),
        ("ZENDESK_OAUTH_CLIENT_SECRET", zendesk::CLIENT_SECRET.to_owned()),
        ("NOTIFICATION_BEARER_TOKEN", bearer),
        ("PUBLIC_URL", bridge.to_owned()),
        ("DATABASE_URL", format!("sqlite://{database}")),
    ]
    .into_iter()
    .map(|(name, value)| (name.into(), value.into()))
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
