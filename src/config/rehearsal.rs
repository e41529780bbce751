//! The settings of `casebridge rehearse`.

use std::time::Duration;

use super::{LEASE, Variables, names};
use crate::destination::zendesk::settings::ticket::Requester;
use crate::destination::zendesk::{self, Settings};
use crate::env::{Problems, Reader, parse};

/// The settings of `casebridge rehearse`: the access to Zendesk is all that it needs.
pub struct RehearsalSettings {
    pub zendesk: Settings,
    /// `LEASE_SECONDS`
    pub lease: Duration,
    /// Zendesk is on this machine, as in a test: no proxy leads there.
    pub is_local: bool,
}

impl RehearsalSettings {
    /// # Errors
    /// [`Problems`], all of them at once.
    pub fn from_env() -> Result<RehearsalSettings, Problems> {
        let mut reader = Reader::new(crate::env::variables_of_process());
        let variables = Variables::read(&mut reader, "");
        let lease = reader.or(variables.lease_seconds(), LEASE, parse::seconds(6..=3600));
        let zendesk = zendesk::read(&mut reader, &[]);
        // Without routes, `TICKET_REQUESTER` alone says whether users are needed.
        let zendesk = zendesk.map(|zendesk| {
            let needs_users = zendesk.ticket.requester == Requester::Author;
            Settings { needs_users, ..zendesk }
        });
        reader.find_typos(&names());
        let (_, problems) = reader.finish();
        match zendesk.filter(|_| problems.is_empty()) {
            Some(zendesk) => {
                Ok(RehearsalSettings { is_local: parse::is_loopback(&zendesk.url), zendesk, lease })
            }
            None => Err(problems),
        }
    }
}
