//! The settings of all destinations, and which route goes where: `DELIVER_TO`, `DELIVER_THEN`,
//! `ROUTE_<NAME>_TO` and `ROUTE_<NAME>_THEN`.

use super::{DestinationSettings, NAMES, zendesk};
use crate::env::doc::{self, Group, Section};
use crate::env::{Reader, Setting, variables};
use crate::route::Route;

variables! {
    /// The destinations of routes without their own.
    Variables:
    /// The destinations of all routes, separated by commas: `zendesk`, `webhook`, `flow`, `slack`, `twilio`.
    deliver_to = default(zendesk::NAME).example("zendesk,webhook");
    /// The destinations that follow once the first one of `DELIVER_TO` is done.
    ///
    /// After Zendesk, they also get the ticket's number and link.
    deliver_then = unset().example("flow");
}

variables! {
    /// The destinations of one route.
    RouteVariables:
    /// The destinations of this route.
    to = unset().note("as `DELIVER_TO`").example("webhook");
    /// The destinations that follow for this route; `none`: nothing follows.
    then = unset().note("as `DELIVER_THEN`").example("flow");
}

/// Which route goes where. Each destination has its own section.
pub const SECTION: Section = Section {
    title: "Destinations",
    intro: "See [Destinations](destinations.md).",
    groups: &[Group::new("", Variables::DOCS), Group::new(doc::ROUTE, RouteVariables::DOCS)],
    prefixes: &["DELIVER_"],
};

/// Reads the settings of all destinations, and sets those of each route.
pub fn read(reader: &mut Reader, routes: &mut [Route]) -> DestinationSettings {
    let common = read_routes(reader, routes);
    // Having no route is a problem already. Missing settings of destinations should be reported together with it.
    let is_used = |name: &str| match routes.is_empty() {
        true => common.contains(&name),
        false => routes.iter().any(|route| route.goes_to(name)),
    };
    let (settings, configured) = DestinationSettings::read(reader, routes, is_used);
    for name in configured.into_iter().filter(|name| !is_used(name) && !routes.is_empty()) {
        reader.warnings.push(format!(
            "{name} is configured, but no route goes there: name it in DELIVER_TO, DELIVER_THEN, ROUTE_<NAME>_TO or \
             ROUTE_<NAME>_THEN"
        ));
    }
    settings
}

/// Sets the destinations of each route. Returns those of routes that name none.
fn read_routes(reader: &mut Reader, routes: &mut [Route]) -> Vec<&'static str> {
    let common = Variables::read(reader, "");
    let common_to = destinations(reader, common.deliver_to()).unwrap_or_else(|| vec![zendesk::NAME]);
    let common_then = followers(reader, common.deliver_then()).unwrap_or_default();
    for route in routes {
        let own = match route.prefix.as_str() {
            "" => RouteVariables::default(),
            prefix => RouteVariables::read(reader, prefix),
        };
        route.to = destinations(reader, own.to()).unwrap_or_else(|| common_to.clone());
        route.then = followers(reader, own.then()).unwrap_or_else(|| common_then.clone());
        if let Some(twice) = route.then.iter().find(|name| route.to.contains(name)) {
            let name = &route.name;
            reader.problems.push(format!(
                "the route `{name}` goes to {twice} at once and afterwards: name it either in …_TO or in …_THEN"
            ));
        }
    }
    common_to
}

/// Reads a list of destinations, or `none`, which means an empty list.
fn followers(reader: &mut Reader, setting: Setting) -> Option<Vec<&'static str>> {
    match setting.value {
        Some(text) if text.eq_ignore_ascii_case("none") => Some(Vec::new()),
        _ => destinations(reader, setting),
    }
}

/// Reads a list of destinations; `None` if it is not set.
fn destinations(reader: &mut Reader, setting: Setting) -> Option<Vec<&'static str>> {
    let known = || NAMES.join(", ");
    reader.optional(setting, |text| {
        let mut names = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let name = NAMES.iter().find(|name| name.eq_ignore_ascii_case(part));
            let name = name.ok_or_else(|| {
                format!("contains a name that is no destination: the destinations are {}", known())
            })?;
            if !names.contains(name) {
                names.push(*name);
            }
        }
        if names.is_empty() { Err("is an empty list".to_owned()) } else { Ok(names) }
    })
}
