//! The audits of a ticket, which record every change to it.

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Call, Zendesk, outcome};
use crate::delivery::Outcome;

/// One change to a ticket; `metadata.custom` is the `metadata` of the request.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Audit {
    pub events: Option<Vec<Value>>,
    pub metadata: Value,
    /// How the change came about.
    pub via: Value,
}

impl Audit {
    pub fn is_create(&self) -> bool {
        self.events.iter().flatten().any(|event| event["type"] == "Create")
    }

    pub fn comment(&self) -> Option<&Value> {
        self.events.iter().flatten().find(|event| event["type"] == "Comment")
    }
}

/// The result of a search in the audits of a ticket.
pub enum Search<T> {
    Found(T),
    Absent,
    /// We may not see them. The outcome is for attempts that have to.
    Forbidden(Outcome),
}

impl Zendesk {
    /// Returns the first result of `find`, newest audit first, in at most `pages` of 100 audits. A ticket that is
    /// not found has no audits.
    ///
    /// # Errors
    /// The outcome of the attempt that needs the answer.
    pub(super) async fn search_audits<T>(
        &self,
        ticket: &str,
        pages: usize,
        mut find: impl FnMut(&Audit) -> Option<T>,
    ) -> Result<Search<T>, Outcome> {
        let path = format!("/api/v2/tickets/{ticket}/audits");
        let mut after: Option<String> = None;
        for _ in 0..pages {
            let mut query = vec![("sort", "-created_at"), ("page[size]", "100")];
            query.extend(after.as_deref().map(|after| ("page[after]", after)));
            let request = || self.request(Method::GET, &path).query(&query);
            let reply = self.repeatable(Call::Show, request).await?;
            let page = match reply.json::<AuditsReply>() {
                Some(page) if reply.is_success() => page,
                _ if reply.is_not_found() => return Ok(Search::Absent),
                _ if matches!(reply.status, 400 | 403 | 404) => {
                    return Ok(Search::Forbidden(outcome(Call::Show, &reply)));
                }
                _ => return Err(outcome(Call::Show, &reply)),
            };
            if let Some(found) = page.audits.iter().find_map(&mut find) {
                return Ok(Search::Found(found));
            }
            match page.meta["after_cursor"].as_str() {
                Some(cursor) if page.meta["has_more"] == true => after = Some(cursor.to_owned()),
                _ => break,
            }
        }
        Ok(Search::Absent)
    }
}

#[derive(Deserialize)]
struct AuditsReply {
    audits: Vec<Audit>,
    #[serde(default)]
    meta: Value,
}
