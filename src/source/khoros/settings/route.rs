//! Routes of Khoros' events: the tutorial's label, and `ROUTE_<NAME>_…`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use regex::Regex;

use super::{EXTERNAL_ID, Variables};
use crate::env::doc::{self, Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::typos::{self, Names, ROUTE_PREFIX};
use crate::env::{Reader, variables};
use crate::route::{LABEL, Route};
use crate::source::khoros::event::Event;

variables! {
    /// The variables of a route that are about its events.
    RouteVariables:
    /// The label, exactly as it is written: casebridge escapes and anchors it (`^VIP$`).
    ///
    /// If no events arrive, Khoros may compare it with `Label set - VIP`: set a query instead.
    label = needed("for labels unless the query is set").example("VIP");
    /// A regular expression instead of a label, for any event for which Khoros takes one.
    query = unset();
    /// The event, one of [Khoros' events](tickets.md#events).
    ///
    /// Those of the vault are `vault-account-` with `create`, `update`, `delete`, `credential-update`, `user-create`,
    /// `user-update`, `user-delete` or `session-create`, and `vault-user-` with `create`, `update` or `delete`.
    event = default(LABEL_APPLIED);
}

pub const SECTION: Section = Section {
    title: "Routes",
    intro: "Further labels and other events. See [Routes](tickets.md#routes). `<NAME>` is a name of \
            your choice, up to 40 letters and digits.",
    groups: &[Group::new(doc::ROUTE, RouteVariables::DOCS)],
    prefixes: &[],
};

/// The event that the tutorial is about.
const LABEL_APPLIED: &str = "stream-item-label-applied";
const NAME_LENGTH: usize = 40;
/// The special characters of regular expressions.
pub const SPECIAL: [char; 14] = ['\\', '.', '[', ']', '{', '}', '(', ')', '*', '+', '?', '^', '$', '|'];

/// Reads all routes, the tutorial's first.
pub fn read(reader: &mut Reader, variables: &Variables, known: &Names) -> Vec<Route> {
    let external_id = variables.spredfast_external_id().or_default(EXTERNAL_ID);
    let external_id = reader.optional(external_id, parse::text).unwrap_or_default();
    let label = reader.optional(variables.spredfast_label_name(), parse::label);
    warn_of_label(reader, "SPREDFAST_LABEL_NAME", label.as_deref(), true);
    let names = names(reader, known);
    if label.is_none() && names.is_empty() {
        reader
            .problems
            .push("SPREDFAST_LABEL_NAME is not set, and neither is any ROUTE_<NAME>_LABEL".to_owned());
    }
    let mut routes: Vec<Route> = Vec::new();
    routes.extend(label.map(|label| Route {
        name: LABEL.to_owned(),
        event: LABEL_APPLIED.to_owned(),
        // As in the tutorial: Khoros reads it as a regular expression.
        query: Some(label.clone()),
        label: Some(label),
        external_id: external_id.clone(),
        ..Route::default()
    }));
    for (lower, name) in names {
        let prefix = format!("{ROUTE_PREFIX}{name}_");
        if let Some(tutorial) = routes.first_mut().filter(|route| lower == LABEL && route.name == LABEL) {
            if RouteVariables::read(reader, &prefix).is_any_set() {
                reader.problems.push(format!(
                    "{prefix}…: there is a route `{LABEL}` already, that of SPREDFAST_LABEL_NAME: choose another name"
                ));
            }
            // Its other variables, such as ROUTE_LABEL_TO, are about the tutorial's route.
            tutorial.prefix = prefix;
            continue;
        }
        let external_id = format!("{external_id}-{lower}");
        let Some(route) = route(reader, lower, &name, external_id) else { continue };
        let same = |other: &&Route| (&other.event, &other.query) == (&route.event, &route.query);
        if let Some(other) = routes.iter().find(same) {
            let other = other.name.as_str();
            reader.problems.push(format!(
                "{ROUTE_PREFIX}{name}_…: the route `{other}` has the same events: remove one of them"
            ));
        }
        routes.push(route);
    }
    routes
}

fn route(reader: &mut Reader, lower: String, name: &str, external_id: String) -> Option<Route> {
    let prefix = format!("{ROUTE_PREFIX}{name}_");
    let variables = RouteVariables::read(reader, &prefix);
    let event = reader.optional(variables.event().or_default(LABEL_APPLIED), event_name);
    let label = reader.optional(variables.label(), parse::label);
    warn_of_label(reader, &variables.label().name, label.as_deref(), false);
    let query = reader.optional(variables.query(), parse::label);
    warn_of_label(reader, &variables.query().name, query.as_deref(), false);
    // Without a valid event, nothing can be said of the others.
    let event = event?;
    let is_label = event == LABEL_APPLIED;
    let problem = match (&label, &query) {
        (Some(_), Some(_)) => format!("{prefix}LABEL and {prefix}QUERY are both set: set only one of them"),
        (Some(_), None) if !is_label => {
            format!("{prefix}LABEL is set, but its event has no label: set {prefix}QUERY instead")
        }
        (None, None) if is_label => {
            format!("{prefix}LABEL is not set: set it, or {prefix}QUERY (a regular expression)")
        }
        _ => {
            let query = query.or_else(|| label.as_deref().map(exactly));
            let kind = Event::named(&event).kind();
            return Some(Route {
                name: lower,
                prefix,
                event,
                kind,
                query,
                label,
                external_id,
                ..Route::default()
            });
        }
    };
    reader.problems.push(problem);
    None
}

/// Warns of labels that Khoros accepts and that match nothing: a regular expression by accident, or a
/// label with a comment behind it, which `docker --env-file` makes a part of the value.
fn warn_of_label(reader: &mut Reader, name: &str, label: Option<&str>, is_expression: bool) {
    let Some(label) = label else { return };
    if label.contains('#') {
        reader.warnings.push(format!(
            "{name} contains a #: if a comment begins there, remove it; Khoros gets all of `{label}`"
        ));
    }
    if is_expression && !matches_itself(label) {
        reader.warnings.push(format!(
            "{name} is sent to Khoros as the regular expression `{label}`, which does not match a label of this \
             name: to match exactly this name, set ROUTE_<NAME>_LABEL instead, which casebridge escapes"
        ));
    }
}

/// Returns the names between `ROUTE_` and the next underscore: in lower case, and as they are written.
pub fn names(reader: &mut Reader, known: &Names) -> BTreeMap<String, String> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let is_set = |value: &OsString| value.to_str().is_none_or(|value| !parse::unquoted(value).is_empty());
    let set = reader.vars.iter().filter(|(_, value)| is_set(value));
    let set = set.filter_map(|(name, _)| Some(name.to_str()?.strip_prefix(ROUTE_PREFIX)?.to_owned()));
    let mut set: Vec<String> = set.collect();
    set.sort_unstable();
    for rest in &set {
        let (name, end) = rest.split_once('_').unwrap_or((rest, ""));
        let is_name = !name.is_empty() && name.len() <= NAME_LENGTH;
        let is_name = is_name && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_setting = known.route_ends.iter().any(|known| known == end) || known.is_group(end);
        if !is_name || !is_setting {
            note_wrong_name(reader, rest, known);
            continue;
        }
        reader.hints.extend(typos::of_route(name, end, known));
        let first = names.entry(name.to_lowercase()).or_insert_with(|| name.to_owned());
        if first != name {
            let problem = format!(
                "{ROUTE_PREFIX}{first}_… and {ROUTE_PREFIX}{name}_… are the same name, since upper and lower case make no difference"
            );
            if !reader.problems.contains(&problem) {
                reader.problems.push(problem);
            }
        }
    }
    names
}

/// Reports a name that cannot be a route's: it would silently make no ticket.
fn note_wrong_name(reader: &mut Reader, rest: &str, known: &Names) {
    let name = format!("{ROUTE_PREFIX}{rest}");
    match typos::route_meant(rest, known) {
        Some(meant) => reader.problems.push(format!(
            "{name} is not a route setting (route names are up to {NAME_LENGTH} letters and digits): did you \
             mean {meant}?"
        )),
        None => {
            reader
                .hints
                .push(format!("{name} is not a casebridge setting: `casebridge settings` lists them"));
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
