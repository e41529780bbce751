//! Events: which subscriptions they match, and their pushes. Khoros documents no second try, so there is
//! none; a lost event remains in the feed.

use axum::http::header;
use regex::Regex;
use serde_json::{Value, json};

use super::{Model, Shared, Status, Subscription};

pub(super) const LABEL_EVENT: &str = "stream-item-label-applied";
const RULE_EVENT: &str = "rule-applied";

/// A fault of one push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushFault {
    /// It is never pushed, and remains in the feed.
    Lost,
    /// It is pushed twice.
    Twice,
    /// It is pushed after the next one.
    Late,
}

/// An event, with its labels or rules even where its text does not contain them.
pub(super) struct Emission {
    text: String,
    event: Value,
    name: String,
    /// The names that queries search. Khoros does not publish what they search in other events.
    subjects: Option<Vec<String>>,
}

/// One request to a bridge, to the address that the subscription had when the event happened.
#[derive(Clone)]
pub(super) struct Push {
    url: String,
    bearer: Option<String>,
    body: String,
}

impl Emission {
    /// A label event of this label, whatever labels it names.
    pub(super) fn of_label(label: &str, text: &str) -> Emission {
        let emission = Emission::of(text.to_owned());
        let name = match emission.name.as_str() {
            "" => LABEL_EVENT.to_owned(),
            _ => emission.name,
        };
        Emission { name, subjects: Some(vec![label.to_owned()]), ..emission }
    }

    pub(super) fn of(text: String) -> Emission {
        // A test may push a text that is not JSON.
        let event = serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
        let name = event["eventName"].as_str().unwrap_or_default().to_owned();
        let subjects = match name.as_str() {
            LABEL_EVENT => Some(texts(&event["data"]["labels"])),
            RULE_EVENT => Some(texts(&event["data"]["ruleMatched"]["ruleName"])),
            _ => None,
        };
        Emission { text, event, name, subjects }
    }

    /// A query is searched for: `CreateCase` finds `DoNotCreateCase` as well.
    fn meets(&self, query: &str) -> bool {
        let Some(subjects) = &self.subjects else { return true };
        Regex::new(query).is_ok_and(|query| subjects.iter().any(|subject| query.is_match(subject)))
    }
}

/// One text or several.
fn texts(value: &Value) -> Vec<String> {
    let several = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    several.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Subscription {
    pub(super) fn wants(&self, emission: &Emission) -> bool {
        self["eventName"] == *emission.name
            && self["query"].as_str().is_none_or(|query| emission.meets(query))
    }

    /// None where nobody is to be called.
    fn push(&self, emission: &Emission) -> Option<Push> {
        let url = self["notificationUri"].as_str()?.to_owned();
        let bearer = self["bearerToken"].as_str().map(str::to_owned);
        Some(Push { url, bearer, body: emission.text.clone() })
    }
}

impl Model {
    /// Adds the event to the feeds, and says what is to be pushed now, in this order.
    fn take_in(&mut self, emission: &Emission) -> Vec<Push> {
        let feeds_while_paused = self.feeds_while_paused;
        let wanting = self.subscriptions.iter_mut().filter(|known| known.wants(emission));
        let mut pushes = Vec::new();
        for known in wanting {
            if known.status == Status::Active || known.status == Status::Paused && feeds_while_paused {
                known.feed.push(emission.event.clone());
            }
            pushes.extend(known.push(emission).filter(|_| known.status == Status::Active));
        }
        pushes.into_iter().flat_map(|push| self.after_faults(push)).collect()
    }

    fn after_faults(&mut self, push: Push) -> Vec<Push> {
        let fault = self.push_faults.pop_front();
        let mut pushes = match fault {
            Some(PushFault::Lost) => return Vec::new(),
            Some(PushFault::Late) => {
                self.held_back.push(push);
                return Vec::new();
            }
            Some(PushFault::Twice) => vec![push.clone(), push],
            None => vec![push],
        };
        pushes.append(&mut self.held_back);
        pushes
    }
}

impl Shared {
    pub(super) async fn emit(&self, emission: &Emission) -> Vec<Result<u16, reqwest::Error>> {
        let pushes = self.change(|model| model.take_in(emission));
        self.push(pushes).await
    }

    pub(super) async fn push(&self, pushes: Vec<Push>) -> Vec<Result<u16, reqwest::Error>> {
        let mut answers = Vec::new();
        for Push { url, bearer, body } in pushes {
            let request = self.http.post(url).header(header::CONTENT_TYPE, "application/json").body(body);
            let request = match bearer {
                Some(bearer) => request.bearer_auth(bearer),
                None => request,
            };
            answers.push(request.send().await.map(|response| response.status().as_u16()));
        }
        answers
    }
}
