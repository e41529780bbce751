//! The settings of all destinations, and which route goes where: `DELIVER_TO`, `DELIVER_THEN`,
//! `ROUTE_<NAME>_TO` and `ROUTE_<NAME>_THEN`.

use super::flow::{self, FlowSettings};
use super::webhook::{self, WebhookSettings};
use super::zendesk::settings::{self as zendesk_settings, ZendeskSettings};
use super::{NAMES, zendesk};
use crate::env::typos::Names;
use crate::env::{Reader, Setting, variables};
use crate::route::Route;

variables! {
    /// Where routes go that do not say so themselves.
    Variables:
    deliver_to deliver_then
}

variables! {
    /// Where one route goes.
    RouteVariables:
    to then
}

/// The settings of the destinations; `None` for those that are not configured.
pub struct DestinationSettings {
    pub zendesk: Option<ZendeskSettings>,
    pub webhook: Option<WebhookSettings>,
    pub flow: Option<FlowSettings>,
}

/// Adds the names of all variables of destinations.
pub fn add_names(names: &mut Names) {
    names.variables.extend(Variables::names());
    names.route_ends.extend(RouteVariables::names());
    names.prefixes.push("DELIVER_");
    zendesk_settings::add_names(names);
    webhook::add_names(names);
    flow::add_names(names);
}

/// Reads the settings of all destinations, and sets those of each route.
pub fn read(reader: &mut Reader, routes: &mut [Route]) -> DestinationSettings {
    let common = read_routes(reader, routes);
    // Without a route there is a problem already; what is missing beside it should be known at once.
    let is_used = |name| match routes.is_empty() {
        true => common.contains(&name),
        false => routes.iter().any(|route| route.goes_to(name)),
    };
    let (zendesk_is_set, webhook_is_set, flow_is_set) = (
        zendesk_settings::is_configured(reader),
        webhook::is_configured(reader),
        flow::is_configured(reader),
    );
    for (name, is_set) in
        [(zendesk::NAME, zendesk_is_set), (webhook::NAME, webhook_is_set), (flow::NAME, flow_is_set)]
    {
        if is_set && !is_used(name) && !routes.is_empty() {
            reader.warnings.push(format!(
                "{name} is configured, but no route goes there: name it in DELIVER_TO, DELIVER_THEN or \
                 ROUTE_<NAME>_TO"
            ));
        }
    }
    let zendesk = (is_used(zendesk::NAME) || zendesk_is_set).then(|| zendesk_settings::read(reader, routes));
    let webhook = (is_used(webhook::NAME) || webhook_is_set).then(|| webhook::read(reader));
    let flow = (is_used(flow::NAME) || flow_is_set).then(|| flow::read(reader, routes));
    DestinationSettings { zendesk: zendesk.flatten(), webhook: webhook.flatten(), flow: flow.flatten() }
}

/// Sets the destinations of each route. Returns those of routes that name none themselves.
fn read_routes(reader: &mut Reader, routes: &mut [Route]) -> Vec<&'static str> {
    let common = Variables::read(reader, "");
    let common_to = destinations(reader, common.deliver_to()).unwrap_or_else(|| vec![zendesk::NAME]);
    let common_then = destinations(reader, common.deliver_then()).unwrap_or_default();
    for route in routes {
        let own = match route.prefix.as_str() {
            "" => RouteVariables::default(),
            prefix => RouteVariables::read(reader, prefix),
        };
        route.to = destinations(reader, own.to()).unwrap_or_else(|| common_to.clone());
        route.then = destinations(reader, own.then()).unwrap_or_else(|| common_then.clone());
        if let Some(twice) = route.then.iter().find(|name| route.to.contains(name)) {
            let name = &route.name;
            reader.problems.push(format!(
                "the route `{name}` goes to {twice} at once and afterwards: name it either in …_TO or in …_THEN"
            ));
        }
    }
    common_to
}

/// Reads a list of destinations; `None` if it is not set.
fn destinations(reader: &mut Reader, setting: Setting) -> Option<Vec<&'static str>> {
    let known = || NAMES.join(", ");
    reader.optional(setting, |text| {
        let mut names = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let name = NAMES.iter().find(|name| name.eq_ignore_ascii_case(part));
            let name =
                name.ok_or_else(|| format!("names no destination: the destinations are {}", known()))?;
            if !names.contains(name) {
                names.push(*name);
            }
        }
        if names.is_empty() { Err("is an empty list".to_owned()) } else { Ok(names) }
    })
}
