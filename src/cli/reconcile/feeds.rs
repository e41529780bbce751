//! Compares the feeds with the database: each event must have become a delivery.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Client;

use casebridge::alert::Registry;
use casebridge::app;
use casebridge::config::Config;
use casebridge::inbox::Inbox;
use casebridge::source::khoros::client::{Khoros, Refusal};
use casebridge::source::khoros::feed::ReadFailure;
use casebridge::source::khoros::feed::backfill::{Backfill, Source, Span};
use casebridge::source::khoros::subscription::Desired;

use super::Findings;

/// Khoros pushes an event at about the time when it appears in the feed, so a missing event is looked up once more.
const SECOND_READING: Duration = Duration::from_secs(5);

/// Compares the feed of each route, where there is one.
///
/// # Errors
/// The database failed.
pub async fn compare(
    config: &Config,
    inbox: &Inbox,
    client: &Client,
    since: Timestamp,
    findings: &mut Findings,
) -> sqlx::Result<()> {
    let settings = &config.khoros;
    // Older events are skipped on purpose. Without this memo, no feed was ever read.
    let decided = inbox.recall("feed", "since").await?.and_then(|(value, _)| value.parse().ok());
    let decided = settings.feed_since.or(decided.and_then(|at| Timestamp::from_millisecond(at).ok()));
    let (true, Some(decided)) = (settings.mode.polls(), decided) else {
        findings.left_out.push("the feeds of Khoros, which were never read".to_owned());
        return Ok(());
    };
    let khoros = Khoros::new(settings, client.clone());
    let remote = match khoros.subscriptions().await {
        Ok(remote) => remote,
        Err(Refusal::NotOffered) => {
            findings.left_out.push("the feeds, which Khoros does not offer".to_owned());
            return Ok(());
        }
        Err(refusal) => {
            findings.unchecked("feeds", refusal);
            return Ok(());
        }
    };
    let public_url = config.general.public_url.as_ref().filter(|_| settings.mode.pushes());
    let intake =
        app::intake(inbox, None, config.destinations.targets(), &config.general.routes, &Registry::default());
    let span = Span { since: since.max(decided), until: None };
    for desired in Desired::of_routes(settings.company_id, &config.general.routes, public_url, None) {
        let (route, part) = (&desired.route, format!("feed of {}", desired.route.name));
        let Some((subscription, _)) = desired.choose(&remote) else {
            findings.unchecked(part, format!("Khoros has no subscription `{}`", route.external_id));
            continue;
        };
        let company = settings.company_id;
        let (uuid, report) = (&subscription.uuid, &|_| {});
        let source = Source { khoros: &khoros, intake: &intake, company, route, uuid, report };
        match read(&source, &span).await {
            Ok(found) => judge(&found, &part, &span, findings),
            Err(ReadFailure::Khoros(Refusal::NotOffered)) => {
                findings.left_out.push(format!("the {part}, which Khoros does not offer"));
            }
            Err(failure) => findings.unchecked(part, failure),
        }
    }
    Ok(())
}

async fn read(source: &Source<'_>, span: &Span) -> Result<Backfill, ReadFailure> {
    let mut found = Backfill::default();
    found.run(source, span, false).await?;
    if found.new > 0 {
        tokio::time::sleep(SECOND_READING).await;
        found = Backfill::default();
        found.run(source, span, false).await?;
    }
    Ok(found)
}

fn judge(found: &Backfill, part: &str, span: &Span, findings: &mut Findings) {
    if found.new > 0 {
        let more = if found.new > found.named.len() { " and others" } else { "" };
        let text =
            format!("{part}: {} event(s) became no delivery: {}{more}", found.new, found.named.join(", "));
        let remedy = format!("casebridge backfill --since {:.0} imports them", span.since);
        findings.differs("event_missing", text, remedy);
    }
    if found.too_long > 0 {
        findings.unchecked(part, format!("{} event(s) are too long to be read", found.too_long));
    }
    findings.compared.push(format!("{} events in the {part}", found.events));
}
