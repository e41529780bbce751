//! Finds deliveries by id, case, ticket or link, as an operator knows them.

use std::collections::BTreeSet;

use anyhow::bail;
use url::Url;

use casebridge::delivery::item_identity;
use casebridge::destination::zendesk;
use casebridge::inbox::{Inbox, Listed};
use casebridge::item::{link_fingerprint, link_part};
use casebridge::source;
use casebridge::text::printable;

/// The most identities that are listed for an ambiguous beginning.
const LISTED: usize = 5;
/// The most deliveries that are read to find them: each destination has one with the same identity.
const READ: i64 = 60;

/// The deliveries that a selector names. Never empty.
pub struct Selection {
    pub deliveries: Vec<Listed>,
    /// They all belong to one item.
    pub is_identity: bool,
}

/// Finds the deliveries under an identity, of a case, of a ticket's number or link, of a post's link, or under the only
/// identity that begins like this.
///
/// # Errors
/// There is none, or several identities begin like this.
pub async fn select(inbox: &Inbox, selector: &str) -> anyhow::Result<Selection> {
    let selector = selector.trim();
    let deliveries = inbox.find(selector).await?;
    if !deliveries.is_empty() {
        return Ok(Selection { deliveries, is_identity: true });
    }
    let mut deliveries = match ticket_number(selector) {
        Some(number) => inbox.of_reference(zendesk::NAME, &number).await?,
        None => inbox.of_case(selector).await?,
    };
    if deliveries.is_empty() && selector.contains("://") {
        deliveries = inbox.of_link(&link_fingerprint(selector)).await?;
        if deliveries.is_empty() {
            deliveries = untried_of_link(inbox, selector).await?;
        }
    }
    if !deliveries.is_empty() {
        return Ok(Selection { deliveries, is_identity: false });
    }
    let mut deliveries =
        if selector.is_empty() { Vec::new() } else { inbox.with_prefix(selector, READ).await? };
    // If an item has several targets, no delivery has its identity.
    if deliveries.iter().any(|one| item_of(one) == selector) {
        deliveries.retain(|one| item_of(one) == selector);
    }
    let identities: BTreeSet<&str> = deliveries.iter().map(item_of).collect();
    match identities.len() {
        0 => bail!("there is no delivery `{}`: `casebridge list` shows their ids", printable(selector)),
        1 => Ok(Selection { deliveries, is_identity: true }),
        _ => {
            let some: Vec<String> = identities.into_iter().take(LISTED).map(printable).collect();
            let selector = printable(selector);
            bail!("several deliveries begin with `{selector}`; name one of them: {} …", some.join(", "))
        }
    }
}

/// The identity of a delivery's item.
fn item_of(delivery: &Listed) -> &str {
    item_identity(&delivery.identity, &delivery.target)
}

/// Finds the deliveries about the post with this link among those that were never tried, which have no fingerprint.
async fn untried_of_link(inbox: &Inbox, link: &str) -> anyhow::Result<Vec<Listed>> {
    let part = link_part(link);
    let mut found = Vec::new();
    if part.is_empty() {
        return Ok(found);
    }
    for delivery in inbox.untried_ending(part).await? {
        let shown = inbox.shown(&delivery).await?;
        let item = shown.and_then(|shown| source::item(&shown.payload).ok());
        let link_of_item = item.and_then(|item| item.link).unwrap_or_default();
        if link_fingerprint(&link_of_item) == link_fingerprint(link) {
            found.push(delivery);
        }
    }
    Ok(found)
}

/// The number in `4711`, `#4711` or `https://acme.zendesk.com/agent/tickets/4711`.
fn ticket_number(selector: &str) -> Option<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = selector.strip_prefix('#').unwrap_or(selector);
    if is_number(number) {
        return Some(number.to_owned());
    }
    let url = Url::parse(selector).ok()?;
    let mut segments = url.path_segments()?;
    segments.find(|segment| *segment == "tickets")?;
    segments.next().filter(|segment| is_number(segment)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_have_numbers_and_links() {
        for (selector, number) in [
            ("4711", Some("4711")),
            ("#4711", Some("4711")),
            ("https://acme.zendesk.com/agent/tickets/4711", Some("4711")),
            ("https://acme.zendesk.com/agent/tickets/4711/events", Some("4711")),
            ("https://twitter.com/author/status/4711", None),
            ("https://acme.zendesk.com/agent/tickets/", None),
            ("khoros:1234:twitter:4711", None),
            ("", None),
        ] {
            assert_eq!(ticket_number(selector).as_deref(), number, "{selector}");
        }
    }
}
