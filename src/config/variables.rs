//! The names that we look for, and their values as they are set.

use std::collections::HashMap;
use std::ffi::OsString;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::parse;
use super::ticket::PREFIX;

/// One list of variables: the struct that envy fills and the names to look for.
macro_rules! variables {
    ($raw:ident $names:ident: $($name:ident)*) => {
        #[derive(Default, Deserialize)]
        pub struct $raw { $(pub $name: Option<String>,)* }
        const $names: &[&str] = &[$(stringify!($name)),*];
    };
}

variables! { Raw NAMES:
    heroku_app_name spredfast_api_token spredfast_company_id spredfast_label_name
    zendesk_api_url zendesk_app_url zendesk_user_email zendesk_api_token
    notification_bearer_token notifier_bearer_token port listen http_idle_seconds
    public_url public_url_probe_seconds database_url database_pooler
    spredfast_api_url spredfast_external_id spredfast_mode spredfast_check_minutes spredfast_poll_seconds
    silence_alert_hours
    zendesk_oauth_client_id zendesk_oauth_client_secret zendesk_budget_percent zendesk_update_budget_percent
    retry_schedule lease_seconds retention_days admin_token allow_ephemeral_store log_format rust_log
    dyno heroku_app_default_domain_name render_external_url railway_public_domain fly_app_name
}

variables! { RawTicket TICKET_NAMES:
    requester requester_later repeat public priority r#type status group_id assignee_id brand_id form_id tags
    subject comment comment_format custom_fields
}

variables! { RawRoute ROUTE_NAMES:
    event label query
}

/// Every name but those of routes.
pub fn known_names() -> Vec<String> {
    let tickets = ticket_names().map(|name| format!("{PREFIX}{name}"));
    NAMES.iter().map(|name| name.to_uppercase()).chain(tickets).collect()
}

/// The names of a ticket's settings, without their prefix.
pub fn ticket_names() -> impl Iterator<Item = String> {
    TICKET_NAMES.iter().map(|name| name.trim_start_matches("r#").to_uppercase())
}

/// What is set of the variables that are ours; an empty one counts as not set.
pub struct Variables<'a> {
    pub vars: &'a HashMap<OsString, OsString>,
    pub problems: &'a mut Vec<String>,
}

impl Variables<'_> {
    pub fn read(&mut self) -> Raw {
        self.read_these("", NAMES)
    }

    /// Those of one kind of ticket, without the prefix of their names.
    pub fn read_ticket(&mut self, prefix: &str) -> RawTicket {
        self.read_these(prefix, TICKET_NAMES)
    }

    /// Those that say what a route is about, without the prefix of their names.
    pub fn read_route(&mut self, prefix: &str) -> RawRoute {
        self.read_these(prefix, ROUTE_NAMES)
    }

    /// envy alone would panic on a variable that is not UTF-8, and take an empty one for a value.
    fn read_these<T: DeserializeOwned + Default>(&mut self, prefix: &str, names: &[&str]) -> T {
        let mut ours = Vec::new();
        for name in names {
            let name = name.trim_start_matches("r#").to_uppercase();
            let full = format!("{prefix}{name}");
            match self.vars.get(&OsString::from(&full)).map(|value| value.to_str()) {
                None => {}
                Some(None) => self.problems.push(format!("{full} is not valid UTF-8")),
                Some(Some(value)) => match parse::unquoted(value) {
                    "" => {}
                    value => ours.push((name, value.to_owned())),
                },
            }
        }
        // Every field is an optional string, so that there is nothing left to fail.
        envy::from_iter(ours).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_in_the_readme_and_in_the_example() {
        let readme = include_str!("../../README.md");
        let example = include_str!("../../.env.example");
        for name in known_names() {
            assert!(readme.contains(&format!("\n| `{name}` |")), "{name}");
            let lines = [format!("\n{name}="), format!("\n#{name}=")];
            assert!(lines.iter().any(|line| example.contains(line)), "{name}");
        }
    }
}
