//! Finds the ticket into which agents merged another.
//!
//! Zendesk closes a merged ticket, tags it, and leaves a comment in the account's language that names the
//! other (<https://support.zendesk.com/hc/en-us/articles/4408882445594>). A comment can name any number, so
//! a number counts only if the audits of its ticket show that ours was merged into it.

use std::collections::HashSet;

use serde_json::Value;

use super::Zendesk;
use super::audits::{Audit, Search};
use crate::delivery::Outcome;

/// The tag of tickets that were merged into another.
pub const MERGED_TAG: &str = "closed_by_merge";
/// The number of tickets that are checked of those that the merged one names.
const CANDIDATES: usize = 10;
/// Pages of 100 audits: a merge is seldom far back.
const PAGES: usize = 10;

impl Zendesk {
    /// Returns the ticket into which this one was merged; `None` if it cannot be found.
    ///
    /// # Errors
    /// The outcome of the attempt that needs the answer.
    pub async fn merge_target(&self, ticket: &str) -> Result<Option<String>, Outcome> {
        let Ok(number) = ticket.parse::<u64>() else { return Ok(None) };
        for candidate in self.candidates(ticket).await?.into_iter().filter(|candidate| *candidate != number) {
            let shows_merge =
                |audit: &Audit| merge_ticket_ids(audit, "from").any(|merged| merged == number).then_some(());
            let target = candidate.to_string();
            if let Search::Found(()) = self.search_audits(&target, PAGES, shows_merge).await? {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// Returns the tickets that the last 100 audits of a merged ticket name, in the merge and in the last comment.
    async fn candidates(&self, ticket: &str) -> Result<Vec<u64>, Outcome> {
        let (mut named, mut last_comment) = (Vec::new(), None);
        let collect = |audit: &Audit| {
            named.extend(merge_ticket_ids(audit, "to"));
            if last_comment.is_none() {
                last_comment =
                    audit.comment().map(|comment| comment["body"].as_str().unwrap_or_default().to_owned());
            }
            None::<()>
        };
        if let Search::Forbidden(outcome) = self.search_audits(ticket, 1, collect).await? {
            return Err(outcome);
        }
        named.extend(numbers(last_comment.as_deref().unwrap_or_default()));
        let mut known = HashSet::new();
        named.retain(|number| known.insert(*number));
        named.truncate(CANDIDATES);
        Ok(named)
    }
}

/// Returns the tickets at this end of a merge, as in
/// `"via": {"source": {"rel": "merge", "from": {"ticket_id": 1}}}`; several are in `ticket_ids`.
fn merge_ticket_ids(audit: &Audit, end: &str) -> impl Iterator<Item = u64> {
    let vias = audit.events.iter().flatten().map(|event| &event["via"]);
    let merges = std::iter::once(&audit.via).chain(vias).filter(|via| via["source"]["rel"] == "merge");
    merges.map(move |via| &via["source"][end]).flat_map(|end| {
        let several = end["ticket_ids"].as_array().into_iter().flatten();
        several.chain([&end["ticket_id"]]).filter_map(Value::as_u64)
    })
}

/// Returns the numbers in a text, which may be those of tickets.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merges_are_recognized_by_their_via_source() {
        let merges = |audit: Value| {
            merge_ticket_ids(&serde_json::from_value(audit).unwrap(), "from").collect::<Vec<_>>()
        };
        let via = |rel: &str| json!({"channel": "system", "source": {"from": {"ticket_id": 7}, "to": {}, "rel": rel}});
        assert_eq!(merges(json!({"via": via("merge")})), [7]);
        assert_eq!(merges(json!({"events": [{"type": "Comment", "via": via("merge")}]})), [7]);
        assert_eq!(merges(json!({"via": via("follow_up")})), [0u64; 0]);
        let several = json!({"source": {"from": {"ticket_ids": [7, 8]}, "rel": "merge"}});
        assert_eq!(merges(json!({"via": several})), [7, 8]);
        assert_eq!(merges(json!({})), [0u64; 0]);
    }

    #[test]
    fn a_closing_comment_names_its_ticket_in_any_language() {
        for comment in [
            "This request was closed and merged into request #4711 \"Order\".",
            "Cette demande a été fermée et fusionnée dans la demande nº 4711",
            "このリクエストはリクエスト#4711に統合されました",
        ] {
            assert_eq!(numbers(comment), [4711], "{comment}");
        }
        assert_eq!(numbers("99999999999999999999999 and 1"), [1]);
    }
}
