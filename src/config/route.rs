//! What of Khoros becomes tickets, and which: the tutorial's label, and `ROUTE_<NAME>_…`.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;

use regex::Regex;

use super::parse::{self, Parsed};
use super::ticket::{PREFIX as TICKET, Ticket};
use super::{Check, Raw, typos};
use crate::event::Event;

/// One kind of event that we subscribe to, and the tickets that it makes.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// In the path of its endpoint, `/khoros/{name}`: lower-case letters and digits.
    pub name: String,
    /// `ROUTE_<NAME>_EVENT`
    pub event: String,
    /// What Khoros is given to tell which of these events: a regular expression.
    pub query: Option<String>,
    /// The label that it is about. The event itself need not tell.
    pub label: Option<String>,
    /// The name under which Khoros keeps its subscription.
    pub external_id: String,
    pub ticket: Ticket,
}

/// The event that the tutorial is about.
const LABEL_APPLIED: &str = "stream-item-label-applied";
/// The name of the route that the tutorial's variables make.
pub const LABEL: &str = "label";
pub(super) const PREFIX: &str = "ROUTE_";
/// What a route is about; beside these it has the settings of its tickets.
pub(super) const SETTINGS: [&str; 3] = ["EVENT", "LABEL", "QUERY"];
const NAME_LENGTH: usize = 40;
/// What means something in a regular expression.
const SPECIAL: [char; 14] = ['\\', '.', '[', ']', '{', '}', '(', ')', '*', '+', '?', '^', '$', '|'];

impl Route {
    /// Whether any route but the tutorial's is configured.
    pub(super) fn is_any_in(vars: &HashMap<OsString, OsString>) -> bool {
        !Check::default().route_names(vars).is_empty()
    }
}

impl Check {
    /// All routes, the tutorial's first.
    pub(super) fn routes(&mut self, vars: &HashMap<OsString, OsString>, raw: &mut Raw) -> Vec<Route> {
        let external_id = self.or(
            "SPREDFAST_EXTERNAL_ID",
            raw.spredfast_external_id.take(),
            "send-to-zendesk".to_owned(),
            parse::text,
        );
        let ticket = self.ticket_of(vars, TICKET, &Ticket::default());
        let label = self.optional("SPREDFAST_LABEL_NAME", raw.spredfast_label_name.take(), parse::label);
        self.warn_of_label("SPREDFAST_LABEL_NAME", label.as_deref(), true);
        let names = self.route_names(vars);
        if label.is_none() && names.is_empty() {
            self.problems
                .push("SPREDFAST_LABEL_NAME is not set, and neither is any ROUTE_<NAME>_LABEL".to_owned());
        }
        let mut routes = Vec::new();
        routes.extend(label.map(|label| Route {
            name: LABEL.to_owned(),
            event: LABEL_APPLIED.to_owned(),
            // As in the tutorial: Khoros takes it for a regular expression.
            query: Some(label.clone()),
            label: Some(label),
            external_id: external_id.clone(),
            ticket: ticket.clone(),
        }));
        for (lower, name) in names {
            if lower == LABEL && !routes.is_empty() {
                self.problems.push(format!(
                    "{PREFIX}{name}_…: there is a route `{LABEL}` already, that of SPREDFAST_LABEL_NAME: choose another name"
                ));
                continue;
            }
            let Some(route) = self.route(vars, &lower, &name, &external_id, &ticket) else { continue };
            let same = |other: &&Route| (&other.event, &other.query) == (&route.event, &route.query);
            if let Some(other) = routes.iter().find(same) {
                let other = other.name.as_str();
                self.problems.push(format!("{PREFIX}{name}_…: the route `{other}` is about the same events"));
            }
            routes.push(route);
        }
        routes
    }

    fn route(
        &mut self,
        vars: &HashMap<OsString, OsString>,
        lower: &str,
        name: &str,
        external_id: &str,
        base: &Ticket,
    ) -> Option<Route> {
        let prefix = format!("{PREFIX}{name}_");
        let raw = self.read_from(vars).read_route(&prefix);
        let says_event = raw.event.is_some();
        let event = self.optional(&format!("{prefix}EVENT"), raw.event, event_name);
        // With a wrong one there is no telling what else is wrong.
        let is_wrong = says_event && event.is_none();
        let event = event.unwrap_or_else(|| LABEL_APPLIED.to_owned());
        let label = self.optional(&format!("{prefix}LABEL"), raw.label, parse::label);
        self.warn_of_label(&format!("{prefix}LABEL"), label.as_deref(), false);
        let query = self.optional(&format!("{prefix}QUERY"), raw.query, parse::label);
        self.warn_of_label(&format!("{prefix}QUERY"), query.as_deref(), false);
        let is_label = event == LABEL_APPLIED;
        // What is said of posts does not fit what is none.
        let base = match Event::named(&event) {
            Event::Label | Event::Rule => base.clone(),
            _ => Ticket { subject: None, comment: None, ..base.clone() },
        };
        let ticket = self.ticket_of(vars, &format!("{prefix}{TICKET}"), &base);
        match (&label, &query) {
            (Some(_), Some(_)) => {
                self.problems.push(format!("{prefix}LABEL and {prefix}QUERY are both set: one of them"));
                return None;
            }
            (Some(_), None) if !is_label => {
                self.problems
                    .push(format!("{prefix}LABEL is set, but its event is about no label: {prefix}QUERY?"));
                return None;
            }
            (None, None) if is_label && !is_wrong => {
                self.problems
                    .push(format!("{prefix}LABEL is not set (or {prefix}QUERY, a regular expression)"));
                return None;
            }
            _ => {}
        }
        let external_id = format!("{external_id}-{lower}");
        let query = query.or_else(|| label.as_deref().map(exactly));
        Some(Route { name: lower.to_owned(), event, query, label, external_id, ticket })
    }

    /// What Khoros takes without complaint, and what then matches nothing: an expression by accident, or
    /// a comment after it, which files for `docker --env-file` do not have.
    fn warn_of_label(&mut self, name: &str, label: Option<&str>, is_expression: bool) {
        let Some(label) = label else { return };
        if label.contains('#') {
            self.warnings.push(format!(
                "{name} holds a #: if a comment begins there, remove it; Khoros is sent `{label}` as a whole"
            ));
        }
        if is_expression && !matches_itself(label) {
            self.warnings.push(format!(
                "{name} is sent to Khoros as the regular expression `{label}`, which does not match a label of this \
                 name: to match exactly this name, set ROUTE_<NAME>_LABEL instead, which casebridge escapes"
            ));
        }
    }

    /// What cannot be a route's would make no ticket, and say nothing.
    fn wrong_route(&mut self, rest: &str) {
        let name = format!("{PREFIX}{rest}");
        match typos::route_meant(rest) {
            Some(meant) => self.problems.push(format!(
                "{name} is no setting of a route (route names are up to {NAME_LENGTH} letters and digits): did you \
                 mean {meant}?"
            )),
            None => self.hints.push(format!("{name} is no setting of casebridge: see the table in the README")),
        }
    }

    /// The names between `ROUTE_` and the next underscore: in lower case, and as they are written.
    fn route_names(&mut self, vars: &HashMap<OsString, OsString>) -> BTreeMap<String, String> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let is_set = |value: &OsString| value.to_str().is_none_or(|value| !parse::unquoted(value).is_empty());
        let set = vars.iter().filter(|(_, value)| is_set(value));
        let mut ours: Vec<&str> = set.filter_map(|(name, _)| name.to_str()?.strip_prefix(PREFIX)).collect();
        ours.sort_unstable();
        for rest in ours {
            let (name, end) = rest.split_once('_').unwrap_or((rest, ""));
            let is_name = !name.is_empty() && name.len() <= NAME_LENGTH;
            let is_name = is_name && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !is_name || !is_setting(end) {
                self.wrong_route(rest);
                continue;
            }
            self.hints.extend(typos::of_route(name, end));
            let known = names.entry(name.to_lowercase()).or_insert_with(|| name.to_owned());
            if known != name {
                let problem = format!(
                    "{PREFIX}{known}_… and {PREFIX}{name}_… are one name: casebridge does not tell them apart"
                );
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
        names
    }
}

fn is_setting(end: &str) -> bool {
    SETTINGS.contains(&end) || end.starts_with(TICKET)
}

fn event_name(text: &str) -> Parsed<String> {
    match Event::is_published(text) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("is no event that Khoros publishes (stream-item-label-applied, rule-applied, …)"),
    }
}

/// Whether an expression finds the name that it looks like. Anchors are meant as such.
fn matches_itself(label: &str) -> bool {
    // Most labels are words: no need to load the machinery for expressions, and its memory.
    if !label.contains(SPECIAL) {
        return true;
    }
    let name = label.strip_prefix('^').unwrap_or(label);
    let name = name.strip_suffix('$').unwrap_or(name);
    Regex::new(label).is_ok_and(|expression| expression.is_match(name))
}

/// A regular expression that matches this text and no other.
fn exactly(text: &str) -> String {
    let mut pattern = String::from("^");
    for c in text.chars() {
        if SPECIAL.contains(&c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('$');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_matched_as_it_is_written() {
        for (label, pattern) in [
            ("CreateCase", "^CreateCase$"),
            ("VIP (gold)+", r"^VIP \(gold\)\+$"),
            ("a<b>-c.d", r"^a<b>-c\.d$"),
            ("日本_1", "^日本_1$"),
        ] {
            assert_eq!(exactly(label), pattern);
        }
    }
}
