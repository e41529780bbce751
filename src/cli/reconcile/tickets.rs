//! Compares the tickets that our deliveries created with those in Zendesk.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};

use casebridge::delivery::Outcome;
use casebridge::destination::zendesk::settings::ZendeskSettings;
use casebridge::destination::zendesk::{self, Existence, FoundTicket, Zendesk};
use casebridge::inbox::{Claimed, Inbox};
use casebridge::report::STEP;

use super::Findings;
use crate::cli::PAGE;

/// Zendesk's search index lags behind by some minutes.
const INDEX_LAG: SignedDuration = SignedDuration::from_mins(15);

/// Why the comparison stopped.
enum Stopped {
    Zendesk(Outcome),
    Storage(sqlx::Error),
}

impl From<Outcome> for Stopped {
    fn from(outcome: Outcome) -> Stopped {
        Stopped::Zendesk(outcome)
    }
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Stopped {
        Stopped::Storage(error)
    }
}

/// Compares the tickets of deliveries that were received since then.
///
/// # Errors
/// The database failed.
pub async fn compare(
    settings: ZendeskSettings,
    http: reqwest::Client,
    company: u64,
    inbox: &Inbox,
    since: Timestamp,
    findings: &mut Findings,
) -> sqlx::Result<()> {
    // A call may take three tenths of an attempt.
    let zendesk = Zendesk::new(settings, http, STEP * 10 / 3);
    match compare_all(&zendesk, company, inbox, since, findings).await {
        Ok(count) => findings.compared.push(format!("{count} tickets in Zendesk")),
        Err(Stopped::Zendesk(outcome)) => findings.unchecked("zendesk", outcome.log()),
        Err(Stopped::Storage(error)) => return Err(error),
    }
    Ok(())
}

async fn compare_all(
    zendesk: &Zendesk,
    company: u64,
    inbox: &Inbox,
    since: Timestamp,
    findings: &mut Findings,
) -> Result<usize, Stopped> {
    let claims = claims(inbox, since).await?;
    let found = zendesk.find_tickets(company, since).await?;
    let numbers: HashSet<&str> = found.iter().map(|ticket| ticket.number.as_str()).collect();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    found.iter().filter(|ticket| ticket.is_open).for_each(|ticket| {
        *open.entry(ticket.case_key.as_str()).or_default() += 1;
    });
    // The search index may lag behind, so it only says where to look closer.
    let mut suspects: BTreeSet<&str> =
        open.iter().filter(|(_, count)| **count > 1).map(|(case, _)| *case).collect();
    let mut missed = Vec::new();
    for (case, ticket) in claims.iter().filter(|(_, ticket)| !numbers.contains(ticket.as_str())) {
        let created = check_existence(zendesk, inbox, case, ticket, findings).await?;
        if created.is_some_and(|created| created >= since && created < Timestamp::now() - INDEX_LAG) {
            missed.push(ticket);
        }
        suspects.insert(case);
    }
    if let Some(ticket) = missed.first() {
        let reason = format!(
            "it does not find {} tickets that exist, such as {ticket}, so it may miss other tickets as well",
            missed.len()
        );
        findings.unchecked("zendesk search", reason);
    }
    let mut duplicates = HashSet::new();
    for case in suspects {
        let open = zendesk.open_tickets(case).await?;
        if open.len() > 1 {
            let text = format!("{case} has {} open tickets: {}", open.len(), open.join(", "));
            findings.differs("ticket_duplicate", text, "merge them in Zendesk; casebridge uses the oldest");
            duplicates.insert(case);
        }
    }
    for ticket in found.iter().filter(|ticket| !duplicates.contains(ticket.case_key.as_str())) {
        check_origin(inbox, ticket, findings).await?;
    }
    for number in zendesk.find_tagged(since).await? {
        if inbox.of_reference(zendesk::NAME, &number).await?.is_empty() {
            let text = format!("ticket {number} has our tag, but no delivery in this database created it");
            let remedy = "find out whether somebody created it by hand or copied the tag from another ticket";
            findings.differs("ticket_unknown", text, remedy);
        }
    }
    Ok(claims.len())
}

/// The newest ticket of each case: a ticket that was replaced may be gone.
async fn claims(inbox: &Inbox, since: Timestamp) -> sqlx::Result<BTreeMap<String, String>> {
    let (mut claims, mut last): (_, Option<Claimed>) = (BTreeMap::new(), None);
    loop {
        let page = inbox.references(zendesk::NAME, since.as_millisecond(), last.as_ref(), PAGE).await?;
        for claimed in &page {
            claims.insert(claimed.case_key.clone(), claimed.reference.clone());
        }
        let Some(claimed) = page.into_iter().next_back() else { return Ok(claims) };
        last = Some(claimed);
    }
}

/// Returns when the ticket was created, if the search should find it.
async fn check_existence(
    zendesk: &Zendesk,
    inbox: &Inbox,
    case: &str,
    ticket: &str,
    findings: &mut Findings,
) -> Result<Option<Timestamp>, Stopped> {
    let (what, remedy) = match zendesk.existence(ticket, case).await? {
        Existence::Exists(created) => return Ok(created),
        Existence::Deleted => (
            "was deleted in Zendesk",
            "if that was a mistake, restore it there; otherwise do nothing: the next event creates a new ticket",
        ),
        Existence::NotFound => (
            "is not found in Zendesk",
            "give the service user access to all tickets; if it is gone for good, the next event raises \
             zendesk_ticket_hidden, which has a remedy",
        ),
    };
    // A delivery may have replaced it just now.
    let deliveries = inbox.deliveries_of_case(zendesk::NAME, case).await?;
    if deliveries.iter().all(|delivery| delivery.state != "waiting") {
        findings.differs("ticket_missing", format!("ticket {ticket} of {case} {what}"), remedy);
    }
    Ok(None)
}

/// A delivery of this database must have created the ticket, or be about to record it.
async fn check_origin(inbox: &Inbox, ticket: &FoundTicket, findings: &mut Findings) -> Result<(), Stopped> {
    let FoundTicket { number, case_key, .. } = ticket;
    let deliveries = inbox.deliveries_of_case(zendesk::NAME, case_key).await?;
    let is_known = deliveries
        .iter()
        .any(|delivery| delivery.state == "waiting" || delivery.reference.as_ref() == Some(number));
    if !is_known {
        let text = format!("no delivery in this database created ticket {number} of {case_key}");
        let remedy = "find out whether somebody made it by hand, another casebridge made it, or rows of this \
                      database were deleted or restored from a backup";
        findings.differs("ticket_unknown", text, remedy);
    }
    Ok(())
}
