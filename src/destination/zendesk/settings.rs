//! Access to Zendesk: `ZENDESK_*`, and the settings of its tickets.

pub mod adopt;
pub mod ticket;

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use secrecy::SecretString;
use url::Url;

use super::check::END_OF_API_TOKENS;
use crate::env::doc::{Group, Section};
use crate::env::{Reader, parse, variables};
use crate::item::Kind;
use crate::route::Route;
use ticket::{Reference, Requester, TICKET_PREFIX, Ticket};

/// Access to Zendesk.
#[derive(Clone)]
pub struct ZendeskSettings {
    /// `ZENDESK_API_URL`, reduced to its origin.
    pub url: Url,
    pub credentials: ZendeskCredentials,
    /// `ZENDESK_BUDGET_PERCENT`: the share of the account's requests per minute that casebridge may use; 1 to
    /// 100.
    pub budget_percent: u32,
    /// `ZENDESK_UPDATE_BUDGET_PERCENT`: the share of the account's ticket updates per minute, which include
    /// agents' clicks, that casebridge may use; 1 to 100.
    pub update_budget_percent: u32,
    /// `ADOPT_UNTIL`: until then, casebridge adopts tickets of the 2017 example; `None` without `ADOPT_BY_LINK`.
    pub adopt_until: Option<Timestamp>,
    /// Whether any route makes the author of a post the requester: then the credential has to find and create users.
    pub needs_users: bool,
    /// The settings of tickets by route.
    pub tickets: BTreeMap<String, Ticket>,
    /// Those of routes that are no longer configured: `TICKET_…`.
    pub ticket: Ticket,
    /// The ids of `TICKET_…` and `ROUTE_<NAME>_TICKET_…` that have to exist in Zendesk.
    pub references: Vec<Reference>,
}

impl ZendeskSettings {
    /// The settings of the tickets of a route.
    pub fn ticket(&self, route: &str) -> &Ticket {
        self.tickets.get(route).unwrap_or(&self.ticket)
    }

    /// When the credential expires, and its setting. OAuth clients do not expire.
    pub fn credential_ends(&self) -> Option<(&'static str, Timestamp)> {
        let midnight = END_OF_API_TOKENS.to_zoned(TimeZone::UTC).ok()?.timestamp();
        matches!(self.credentials, ZendeskCredentials::ApiToken { .. })
            .then_some(("ZENDESK_API_TOKEN", midnight))
    }
}

variables! {
    /// The variables of the access to Zendesk.
    Variables:
    /// The address of your Zendesk account, as in `https://acme.zendesk.com`. The address of any of its pages will do.
    zendesk_api_url = required().app();
    /// The 2017 example's name for `ZENDESK_API_URL`. It still works, with a warning.
    zendesk_app_url = old_name();
    /// The identifier of a Zendesk OAuth client of the kind *Confidential* (Admin Center > Apps and integrations >
    /// APIs > OAuth clients).
    zendesk_oauth_client_id = required().note("unless you use an API token").app_optional("");
    /// The secret of that OAuth client, which Zendesk shows once.
    zendesk_oauth_client_secret = required().note("unless you use an API token").app_optional("");
    /// The e-mail address for the Zendesk API token. Leave it empty if you have an OAuth client.
    zendesk_user_email = needed("if there is no OAuth client").app();
    /// A Zendesk API token that you already have. Zendesk issues no new ones and retires all of them on 2027-04-30.
    /// Leave it empty if you have an OAuth client.
    zendesk_api_token = needed("if there is no OAuth client").app();
    /// The share of the account's API requests per minute that casebridge may use, in percent, 1 to 100.
    ///
    /// casebridge reads the account's limit from Zendesk's answers; until then it assumes 200.
    zendesk_budget_percent = default("30");
    /// The share of the account's ticket updates per minute that casebridge may use, in percent, 1 to 100. Agents'
    /// clicks are updates, too.
    zendesk_update_budget_percent = default("30");
}

pub const SECTIONS: &[Section] = &[SECTION, ticket::SECTION];

const SECTION: Section = Section {
    title: "Zendesk",
    intro: "Not needed if no route goes to Zendesk.",
    groups: &[Group::new("", Variables::DOCS), adopt::GROUP],
    prefixes: &["ZENDESK_", adopt::PREFIX],
};

#[derive(Clone)]
pub enum ZendeskCredentials {
    /// `ZENDESK_OAUTH_CLIENT_ID` and `ZENDESK_OAUTH_CLIENT_SECRET`.
    OAuth { client_id: String, client_secret: SecretString },
    /// `ZENDESK_USER_EMAIL` and `ZENDESK_API_TOKEN`, which Zendesk retires on 2027-04-30.
    ApiToken { email: String, token: SecretString },
}

/// Whether any of its variables is set, except those of tickets.
pub fn is_configured(reader: &mut Reader) -> bool {
    reader.is_any_set(Variables::names())
}

/// Reads the settings of tickets by route, and those without a route.
pub fn read_tickets(
    reader: &mut Reader,
    routes: &[Route],
) -> (BTreeMap<String, Ticket>, Ticket, Vec<Reference>) {
    let mut references = Vec::new();
    let defaults = Ticket::default();
    let base = ticket::read(reader, TICKET_PREFIX, &defaults, &mut references);
    let mut tickets = BTreeMap::new();
    for route in routes.iter().filter(|route| !route.prefix.is_empty()) {
        // Templates for posts do not fit other events.
        let base = match route.kind {
            Kind::Label | Kind::Rule => base.clone(),
            Kind::Other => Ticket { subject: None, comment: None, update: None, ..base.clone() },
        };
        let prefix = format!("{}{TICKET_PREFIX}", route.prefix);
        tickets.insert(route.name.clone(), ticket::read(reader, &prefix, &base, &mut references));
    }
    (tickets, base, references)
}

/// Reads the settings of Zendesk; `None` with a problem.
pub fn read(reader: &mut Reader, routes: &[Route]) -> Option<ZendeskSettings> {
    let variables = Variables::read(reader, "");
    let (tickets, ticket, references) = read_tickets(reader, routes);
    let url = reader.aliased(variables.zendesk_api_url(), variables.zendesk_app_url());
    let url = reader.required(url, parse::origin);
    let credentials = credentials(reader, &variables);
    let budget_percent = reader.or(variables.zendesk_budget_percent(), 30, parse::percent);
    let update_budget_percent = reader.or(variables.zendesk_update_budget_percent(), 30, parse::percent);
    let adopt_until = adopt::read(reader, Timestamp::now());
    let is_author =
        |route: &Route| tickets.get(&route.name).unwrap_or(&ticket).requester == Requester::Author;
    let needs_users = routes.iter().any(|route| route.goes_to(super::NAME) && is_author(route));
    Some(ZendeskSettings {
        url: url?,
        credentials: credentials?,
        budget_percent,
        update_budget_percent,
        adopt_until,
        needs_users,
        tickets,
        ticket,
        references,
    })
}

fn credentials(reader: &mut Reader, variables: &Variables) -> Option<ZendeskCredentials> {
    let oauth = reader.pair(variables.zendesk_oauth_client_id(), variables.zendesk_oauth_client_secret());
    let api_token = reader.pair(variables.zendesk_user_email(), variables.zendesk_api_token());
    match (oauth?, api_token?) {
        (None, None) => {
            reader.problems.push(
                "no Zendesk credential: set ZENDESK_OAUTH_CLIENT_ID and \
                 ZENDESK_OAUTH_CLIENT_SECRET (or, until 2027-04-30, ZENDESK_USER_EMAIL and \
                 ZENDESK_API_TOKEN)"
                    .to_owned(),
            );
            None
        }
        (Some((client_id, client_secret)), api_token) => {
            if api_token.is_some() {
                reader.warnings.push(
                    "both Zendesk credentials are set: the OAuth client is used, and \
                     ZENDESK_USER_EMAIL and ZENDESK_API_TOKEN can be removed"
                        .to_owned(),
                );
            }
            Some(ZendeskCredentials::OAuth {
                client_id: client_id.to_owned(),
                client_secret: client_secret.into(),
            })
        }
        (None, Some((email, token))) => {
            reader.warnings.push(
                "ZENDESK_API_TOKEN: Zendesk retires API tokens on 2027-04-30 and no longer issues \
                 new ones: set up an OAuth client before that (ZENDESK_OAUTH_CLIENT_ID and \
                 ZENDESK_OAUTH_CLIENT_SECRET)"
                    .to_owned(),
            );
            // The pair is sent as `{email}/token:{token}`; some paste the email with this suffix.
            let email = email.trim_end_matches("/token").to_owned();
            Some(ZendeskCredentials::ApiToken { email, token: token.into() })
        }
    }
}
