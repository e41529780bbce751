//! Routes: which events become tickets. The tutorial's label, and `ROUTE_<NAME>_…`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use regex::Regex;

use super::parse::{self, Parsed};
use super::reader::Reader;
use super::ticket::{TICKET_PREFIX as TICKET, Ticket};
use super::typos;
use super::variables::{RouteVariables, Variables};
use crate::source::khoros::event::Event;

/// One kind of event that we subscribe to, and the tickets that it makes.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// The last part of its path `/khoros/{name}`: lower-case letters and digits.
    pub name: String,
    /// `ROUTE_<NAME>_EVENT`
    pub event: String,
    /// A regular expression by which Khoros selects among these events.
    pub query: Option<String>,
    /// The label that it is about, which the event itself may lack.
    pub label: Option<String>,
    /// The name of its subscription at Khoros.
    pub external_id: String,
    pub ticket: Ticket,
}

/// The event that the tutorial is about.
const LABEL_APPLIED: &str = "stream-item-label-applied";
/// The name of the route that the tutorial's variables make.
pub const LABEL: &str = "label";
pub(super) const ROUTE_PREFIX: &str = "ROUTE_";
const NAME_LENGTH: usize = 40;
/// The special characters of regular expressions.
pub(crate) const SPECIAL: [char; 14] =
    ['\\', '.', '[', ']', '{', '}', '(', ')', '*', '+', '?', '^', '$', '|'];

impl Reader {
    /// Reads all routes, the tutorial's first.
    pub(super) fn routes(&mut self, variables: &Variables) -> Vec<Route> {
        let external_id = variables.spredfast_external_id().or_default("send-to-zendesk");
        let external_id = self.optional(external_id, parse::text).unwrap_or_default();
        let ticket = self.ticket(TICKET, &Ticket::default());
        let label = self.optional(variables.spredfast_label_name(), parse::label);
        self.warn_of_label("SPREDFAST_LABEL_NAME", label.as_deref(), true);
        let names = self.route_names();
        if label.is_none() && names.is_empty() {
            self.problems
                .push("SPREDFAST_LABEL_NAME is not set, and neither is any ROUTE_<NAME>_LABEL".to_owned());
        }
        let mut routes = Vec::new();
        routes.extend(label.map(|label| Route {
            name: LABEL.to_owned(),
            event: LABEL_APPLIED.to_owned(),
            // As in the tutorial: Khoros reads it as a regular expression.
            query: Some(label.clone()),
            label: Some(label),
            external_id: external_id.clone(),
            ticket: ticket.clone(),
        }));
        for (lower, name) in names {
            if lower == LABEL && !routes.is_empty() {
                self.problems.push(format!(
                    "{ROUTE_PREFIX}{name}_…: there is a route `{LABEL}` already, that of SPREDFAST_LABEL_NAME: choose another name"
                ));
                continue;
            }
            let external_id = format!("{external_id}-{lower}");
            let Some(route) = self.route(lower, &name, external_id, &ticket) else { continue };
            let same = |other: &&Route| (&other.event, &other.query) == (&route.event, &route.query);
            if let Some(other) = routes.iter().find(same) {
                let other = other.name.as_str();
                self.problems
                    .push(format!("{ROUTE_PREFIX}{name}_…: the route `{other}` is about the same events"));
            }
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, lower: String, name: &str, external_id: String, base: &Ticket) -> Option<Route> {
        let prefix = format!("{ROUTE_PREFIX}{name}_");
        let variables = RouteVariables::read(self, &prefix);
        let event = self.optional(variables.event().or_default(LABEL_APPLIED), event_name);
        let label = self.optional(variables.label(), parse::label);
        self.warn_of_label(&variables.label().name, label.as_deref(), false);
        let query = self.optional(variables.query(), parse::label);
        self.warn_of_label(&variables.query().name, query.as_deref(), false);
        // Templates for posts do not fit other events.
        let base = match event.as_deref().map(Event::named) {
            Some(Event::Label | Event::Rule) => base.clone(),
            _ => Ticket { subject: None, comment: None, ..base.clone() },
        };
        let ticket = self.ticket(&format!("{prefix}{TICKET}"), &base);
        // Without a valid event, nothing can be said of the others.
        let event = event?;
        let is_label = event == LABEL_APPLIED;
        let problem = match (&label, &query) {
            (Some(_), Some(_)) => format!("{prefix}LABEL and {prefix}QUERY are both set: one of them"),
            (Some(_), None) if !is_label => {
                format!("{prefix}LABEL is set, but its event is about no label: {prefix}QUERY?")
            }
            (None, None) if is_label => {
                format!("{prefix}LABEL is not set (or {prefix}QUERY, a regular expression)")
            }
            _ => {
                let query = query.or_else(|| label.as_deref().map(exactly));
                return Some(Route { name: lower, event, query, label, external_id, ticket });
            }
        };
        self.problems.push(problem);
        None
    }

    /// Warns of labels that Khoros accepts and that match nothing: a regular expression by accident, or a
    /// label with a comment behind it, which `docker --env-file` makes a part of the value.
    fn warn_of_label(&mut self, name: &str, label: Option<&str>, is_expression: bool) {
        let Some(label) = label else { return };
        if label.contains('#') {
            self.warnings.push(format!(
                "{name} contains a #: if a comment begins there, remove it; Khoros gets all of `{label}`"
            ));
        }
        if is_expression && !matches_itself(label) {
            self.warnings.push(format!(
                "{name} is sent to Khoros as the regular expression `{label}`, which does not match a label of this \
                 name: to match exactly this name, set ROUTE_<NAME>_LABEL instead, which casebridge escapes"
            ));
        }
    }

    /// Returns the names between `ROUTE_` and the next underscore: in lower case, and as they are written.
    pub(super) fn route_names(&mut self) -> BTreeMap<String, String> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let is_set = |value: &OsString| value.to_str().is_none_or(|value| !parse::unquoted(value).is_empty());
        let set = self.vars.iter().filter(|(_, value)| is_set(value));
        let set = set.filter_map(|(name, _)| Some(name.to_str()?.strip_prefix(ROUTE_PREFIX)?.to_owned()));
        let mut set: Vec<String> = set.collect();
        set.sort_unstable();
        for rest in &set {
            let (name, end) = rest.split_once('_').unwrap_or((rest, ""));
            let is_name = !name.is_empty() && name.len() <= NAME_LENGTH;
            let is_name = is_name && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let is_setting = RouteVariables::names().any(|known| known == end) || end.starts_with(TICKET);
            if !is_name || !is_setting {
                self.note_wrong_name(rest);
                continue;
            }
            self.hints.extend(typos::of_route(name, end));
            let known = names.entry(name.to_lowercase()).or_insert_with(|| name.to_owned());
            if known != name {
                let problem = format!(
                    "{ROUTE_PREFIX}{known}_… and {ROUTE_PREFIX}{name}_… are one name: upper and lower case make no difference"
                );
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
        names
    }

    /// Reports a name that cannot be a route's: it would silently make no ticket.
    fn note_wrong_name(&mut self, rest: &str) {
        let name = format!("{ROUTE_PREFIX}{rest}");
        match typos::route_meant(rest) {
            Some(meant) => self.problems.push(format!(
                "{name} is not a route setting (route names are up to {NAME_LENGTH} letters and digits): did you \
                 mean {meant}?"
            )),
            None => self.hints.push(format!("{name} is not a casebridge setting: see the table in the README")),
        }
    }
}

fn event_name(text: &str) -> Parsed<String> {
    match Event::is_published(text) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("is not an event that Khoros publishes (stream-item-label-applied, rule-applied, …)"),
    }
}

/// Whether an expression matches its own text, apart from anchors.
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
