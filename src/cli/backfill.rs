//! `casebridge backfill`.

use std::io::Write;

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use casebridge::alert::Registry;
use casebridge::app;
use casebridge::config::Config;
use casebridge::connect;
use casebridge::inbox::Inbox;
use casebridge::route::Route;
use casebridge::source::khoros::client::{Khoros, RemoteSubscription};
use casebridge::source::khoros::feed::backfill::{Backfill, Source, Span};
use casebridge::source::khoros::subscription::Desired;

use super::progress::Progress;

/// What to do with the events that are found.
#[derive(Clone, Copy)]
pub struct Options {
    /// Import nothing.
    pub dry_run: bool,
    pub json: bool,
}

/// The result of one route.
type Done = (Route, Backfill, Result<(), String>);

/// Imports the events of a span from the feeds of all routes, or of one, while the service runs and delivers them.
pub async fn backfill(
    config: &Config,
    span: &Span,
    route: Option<&str>,
    options: Options,
) -> anyhow::Result<()> {
    let routes = chosen(&config.general.routes, route)?;
    let (inbox, committer) = Inbox::open_to_import(&config.database).await?;
    let stop = CancellationToken::new();
    let import = async {
        let done = run(config, &inbox, &routes, span, options.dry_run).await;
        stop.cancel();
        done
    };
    let (done, ()) = tokio::join!(import, committer.run(stop.clone()));
    inbox.close().await;
    report(&done?, span, options)
}

fn chosen(routes: &[Route], name: Option<&str>) -> anyhow::Result<Vec<Route>> {
    let name = name.map(str::to_lowercase);
    let is_chosen = |route: &&Route| name.as_ref().is_none_or(|name| route.name == *name);
    let chosen: Vec<Route> = routes.iter().filter(is_chosen).cloned().collect();
    if chosen.is_empty() {
        let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
        bail!("there is no such route; the configured routes are {}", names.join(", "));
    }
    Ok(chosen)
}

async fn run(
    config: &Config,
    inbox: &Inbox,
    routes: &[Route],
    span: &Span,
    dry_run: bool,
) -> anyhow::Result<Vec<Done>> {
    let settings = &config.khoros;
    let khoros = Khoros::new(settings, connect::http_client(config.general.is_local)?);
    let intake =
        app::intake(inbox, None, config.destinations.targets(), &config.general.routes, &Registry::default());
    let remote = khoros.subscriptions().await;
    let remote = remote.context("cannot read the subscriptions, which name the feeds")?;
    let public_url = config.general.public_url.as_ref().filter(|_| settings.mode.pushes());
    let progress = Progress::spinner("reading");
    let mut done = Vec::new();
    for desired in Desired::of_routes(settings.company_id, routes, public_url, None) {
        let mut found = Backfill::default();
        let result = match feed_of(&desired, &remote) {
            Ok(uuid) => {
                let (intake, route) = (&intake, &desired.route);
                let report =
                    |events| progress.describe(format!("the feed of {}: {events} events", route.name));
                let company = settings.company_id;
                let source = Source { khoros: &khoros, intake, company, route, uuid, report: &report };
                found.run(&source, span, !dry_run).await.map_err(|failure| failure.to_string())
            }
            Err(reason) => Err(reason),
        };
        done.push((desired.route, found, result));
    }
    Ok(done)
}

/// The id of the subscription whose feed the service reads.
fn feed_of<'a>(desired: &Desired, remote: &'a [RemoteSubscription]) -> Result<&'a str, String> {
    let name = &desired.route.external_id;
    let chosen = desired.choose(remote);
    chosen.map(|(remote, _)| remote.uuid.as_str()).ok_or_else(|| {
        format!("Khoros has no subscription `{name}`; start `casebridge serve`, which creates it")
    })
}

fn report(done: &[Done], span: &Span, options: Options) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", document(done, span, options.dry_run))?;
    } else {
        done.iter().try_for_each(|done| write_route(&mut out, done))?;
        let new: usize = done.iter().map(|(_, found, _)| found.new).sum();
        match options.dry_run {
            true => writeln!(out, "would import {new} event(s)")?,
            false => writeln!(out, "imported {new} event(s); the service delivers them")?,
        }
    }
    let failed = done.iter().filter(|(.., result)| result.is_err()).count();
    let too_long: usize = done.iter().map(|(_, found, _)| found.too_long).sum();
    match (failed, too_long) {
        (0, 0) => Ok(()),
        (0, _) => {
            bail!("{too_long} event(s) cannot be imported: they are longer than 16 MiB or nested too deeply")
        }
        (_, _) => bail!(
            "{failed} feed(s) could not be read to the end. Run the command again; it imports nothing twice"
        ),
    }
}

fn write_route(out: &mut impl Write, (route, found, result): &Done) -> std::io::Result<()> {
    let Backfill { events, known, new, .. } = found;
    write!(out, "{}: {events} events, {known} known, {new} new", route.name)?;
    if let (Some(oldest), Some(newest)) = (found.oldest, found.newest) {
        write!(out, ", from {oldest:.0} to {newest:.0}")?;
    }
    writeln!(out)?;
    found.named.iter().try_for_each(|id| writeln!(out, "  {id}"))?;
    if *new > found.named.len() {
        writeln!(out, "  and {} more", new - found.named.len())?;
    }
    match result {
        Ok(()) => Ok(()),
        Err(reason) => writeln!(out, "  not read to the end: {reason}"),
    }
}

fn document(done: &[Done], span: &Span, dry_run: bool) -> Value {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let routes = done.iter().map(|(route, found, result)| {
        json!({
            "route": route.name,
            "events": found.events,
            "known": found.known,
            "new": found.new,
            "too_long": found.too_long,
            "oldest": time(found.oldest),
            "newest": time(found.newest),
            "first": found.named,
            "error": result.as_ref().err(),
        })
    });
    json!({
        "dry_run": dry_run,
        "since": time(Some(span.since)),
        "until": time(span.until),
        "routes": routes.collect::<Vec<_>>(),
    })
}
