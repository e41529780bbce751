//! The names of all variables, and their values in the environment.

use serde::Deserialize;

use super::reader::Reader;
use super::ticket::TICKET_PREFIX;

/// One variable.
pub struct Setting<'a> {
    pub name: String,
    pub value: Option<&'a str>,
}

impl<'a> Setting<'a> {
    pub fn or_default(self, default: &'a str) -> Setting<'a> {
        Setting { value: self.value.or(Some(default)), ..self }
    }
}

/// Makes one list of names into the struct that envy fills, and a method for each variable.
macro_rules! variables {
    ($(#[$doc:meta])* $group:ident: $($name:ident)*) => {
        $(#[$doc])*
        #[derive(Default, Deserialize)]
        pub struct $group {
            #[serde(skip)]
            prefix: String,
            $(pub $name: Option<String>,)*
        }

        impl $group {
            /// Reads the variables whose names begin with `prefix`.
            pub fn read(reader: &mut Reader, prefix: &str) -> $group {
                let values = reader.values(prefix, Self::names());
                // Every field is an optional string, so this cannot fail.
                let group = envy::from_iter(values).unwrap_or_default();
                $group { prefix: prefix.to_owned(), ..group }
            }

            /// All names, without the prefix.
            pub fn names() -> impl Iterator<Item = String> {
                [$(upper(stringify!($name))),*].into_iter()
            }

            $(pub fn $name(&self) -> Setting<'_> {
                let name = format!("{}{}", self.prefix, upper(stringify!($name)));
                Setting { name, value: self.$name.as_deref() }
            })*
        }
    };
}

variables! {
    /// All variables except those with a name of a route.
    Variables:
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

variables! {
    /// The variables of a ticket.
    TicketVariables:
    requester requester_later repeat public priority r#type status group_id assignee_id brand_id form_id tags
    subject comment comment_format custom_fields
}

variables! {
    /// The variables of a route, besides those of its tickets.
    RouteVariables:
    event label query
}

/// All names except those of routes.
pub fn variable_names() -> Vec<String> {
    let tickets = TicketVariables::names().map(|name| format!("{TICKET_PREFIX}{name}"));
    Variables::names().chain(tickets).collect()
}

fn upper(field: &str) -> String {
    field.trim_start_matches("r#").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_in_the_readme_and_in_the_example() {
        let readme = include_str!("../../README.md");
        let example = include_str!("../../.env.example");
        for name in variable_names() {
            assert!(readme.contains(&format!("\n| `{name}` |")), "{name}");
            let lines = [format!("\n{name}="), format!("\n#{name}=")];
            assert!(lines.iter().any(|line| example.contains(line)), "{name}");
        }
    }
}
