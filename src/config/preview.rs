//! The settings of `casebridge render`.

use std::collections::BTreeMap;

use super::names;
use crate::destination::zendesk::settings::read_tickets;
use crate::destination::zendesk::settings::ticket::Ticket;
use crate::env::{Problems, Reader};
use crate::route::Route;
use crate::source::khoros::settings::{self as khoros, Variables, route};

/// The settings of `casebridge render`. It needs none: missing ones are assumed.
pub struct Preview {
    /// Never empty.
    pub routes: Vec<Route>,
    /// The settings of tickets by route.
    pub tickets: BTreeMap<String, Ticket>,
    /// Those of routes without any: `TICKET_…`.
    pub ticket: Ticket,
    /// `SPREDFAST_COMPANY_ID`
    pub company_id: u64,
    /// The values that were assumed for missing settings.
    pub assumptions: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Preview {
    /// # Errors
    /// [`Problems`], all of them at once.
    pub fn from_env() -> Result<Preview, Problems> {
        let mut reader = Reader::new(crate::env::variables_of_process());
        let mut variables = Variables::read(&mut reader, "");
        let mut assumptions = Vec::new();
        let mut assume = |name: &str, value: &mut Option<String>, default: &str| {
            if value.is_none() {
                assumptions.push(format!("{name} is not set: {default} is assumed"));
                *value = Some(default.to_owned());
            }
        };
        assume("SPREDFAST_COMPANY_ID", &mut variables.spredfast_company_id, "1234");
        if route::names(&mut Reader::new(crate::env::variables_of_process()), &names()).is_empty() {
            assume("SPREDFAST_LABEL_NAME", &mut variables.spredfast_label_name, "CreateCase");
        }
        let company_id = reader.required(variables.spredfast_company_id(), khoros::company_id);
        let routes = route::read(&mut reader, &variables, &names());
        let (tickets, ticket, _) = read_tickets(&mut reader, &routes);
        reader.find_typos(&names());
        let (warnings, problems) = reader.finish();
        match company_id {
            Some(company_id) if problems.is_empty() => {
                Ok(Preview { routes, tickets, ticket, company_id, assumptions, warnings })
            }
            _ => Err(problems),
        }
    }
}
