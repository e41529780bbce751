//! The settings of `casebridge rehearse`.

use std::time::Duration;

use super::{LEASE, Variables, names};
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
        // It creates a user, whichever user the routes make the requester.
        let zendesk =
            zendesk::read(&mut reader, &[]).map(|zendesk| Settings { needs_users: true, ..zendesk });
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
