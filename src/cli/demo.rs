//! `casebridge demo`: the real bridge between the two stand-ins, and the story on the terminal.

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, bail};
use casebridge::app;
use casebridge::config::{self, Config};
use casebridge::destination::zendesk::settings::ticket::Ticket;
use casebridge_sandbox::khoros::{self, Khoros};
use casebridge_sandbox::zendesk::{self, Known, Model, Zendesk};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
    if let Some(settings) = &config.destinations.zendesk {
        set_up(&mut zendesk.model().known, &settings.ticket);
        settings.tickets.values().for_each(|ticket| set_up(&mut zendesk.model().known, ticket));
    }

    say("casebridge demo: everything stays on this machine")?;
    say(&format!("  Khoros stand-in   {}", khoros.url()))?;
    say(&format!("  Zendesk stand-in  {}", zendesk.url()))?;
    say(&format!("  bridge            {bridge}"))?;

    let Some(storage) = app::open_storage(&config.database, &stop).await? else {
        return Ok(());
    };
    let story = tell(&khoros, &zendesk, once, stop.clone());
    let service = app::start(config, storage, listener, stop.clone())?.run();
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
    say(&format!("\n1. subscribed: Khoros will send label `{LABEL}` to the bridge"))?;

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
            () = zendesk.wait_until(|model| model.audits.len() > told) => {}
        }
        let news = described(&zendesk.model(), told);
        told += 1;
        if told > 1 {
            say(&news)?;
            continue;
        }
        say(&format!("3. {news}"))?;
        if once {
            return Ok(());
        }
        let url = format!("{}/sandbox/labels/{LABEL}", khoros.url());
        say(&format!(
            "\nApply the label to a post of your own, and then again with a note:\n  \
             curl -d 'My parcel never came' '{url}?post=1'\n  \
             curl -d 'My parcel never came' '{url}?post=1&note=Please+call'\n\
             Stop with Ctrl-C.\n"
        ))?;
    }
}

/// What happened to a ticket, as its history tells.
fn described(model: &Model, number: usize) -> String {
    let audit = &model.audits[number];
    let (ticket, events) =
        (audit["ticket_id"].clone(), audit["events"].as_array().cloned().unwrap_or_default());
    let is = |event: &&Value, kind: &str| event["type"] == kind;
    let body = events.iter().find(|event| is(event, "Comment")).map(|comment| &comment["body"]);
    let body = body.and_then(Value::as_str).unwrap_or_default().lines();
    let body: String = body.map(|line| format!("     | {line}\n")).collect();
    if !events.iter().any(|event| is(&event, "Create")) {
        return format!("ticket {ticket}, a comment:\n{body}");
    }
    let created = model.tickets.iter().find(|held| held["id"] == ticket).cloned().unwrap_or_default();
    let is_requester = |user: &&Value| user["id"] == created["requester_id"];
    let requester = model
        .users
        .iter()
        .find(is_requester)
        .map_or("casebridge", |user| user["name"].as_str().unwrap_or_default());
    let subject = created["subject"].as_str().unwrap_or_default();
    format!("ticket {ticket}: {subject}\n     Requester: {requester}\n{body}")
}

/// Adds to the Zendesk account what the settings of a ticket name.
fn set_up(known: &mut Known, ticket: &Ticket) {
    known.groups.extend(ticket.group_id);
    known.assignees.extend(ticket.assignee_id);
    known.brands.extend(ticket.brand_id);
    known.forms.extend(ticket.form_id);
    known.fields.extend(ticket.custom_fields.iter().map(|field| field.id));
}

/// The demo's settings, as variables of the environment.
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
