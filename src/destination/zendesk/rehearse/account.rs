//! The account that a rehearsal would write to.

use std::fmt::{self, Display, Formatter};

use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use crate::destination::html::line;
use crate::destination::zendesk::{Call, Zendesk, check};
use crate::report::{Finding, Mark, STEP, within};

/// Where the tickets go, and in whose name.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Account {
    pub url: String,
    /// The name of the default brand; `None` if the service user may not read it.
    pub name: Option<String>,
    /// Whether Zendesk says that this is a sandbox. A trial is none.
    pub sandbox: Option<bool>,
    pub service_user: ServiceUser,
}

/// The user of the credential.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServiceUser {
    pub id: u64,
    pub name: String,
}

impl Zendesk {
    /// Checks the credential and reads whose account this is.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub(super) async fn account(&self) -> Result<Account, String> {
        self.check_credential_and_scopes().await?;
        let me = self.body_of("/api/v2/users/me").await;
        let Some(id) = me["user"]["id"].as_u64() else {
            return Err("Zendesk does not show the user of the credential (GET users/me)".to_owned());
        };
        // Allowed for agents.
        let settings = &self.body_of("/api/v2/account/settings").await["settings"];
        let brand = match settings["brands"]["default_brand_id"].as_u64() {
            Some(brand) => self.body_of(&format!("/api/v2/brands/{brand}")).await,
            None => Value::Null,
        };
        Ok(Account {
            url: self.settings.url.to_string(),
            name: brand["brand"]["name"].as_str().map(line),
            sandbox: settings["active_features"]["sandbox"].as_bool(),
            service_user: ServiceUser { id, name: line(me["user"]["name"].as_str().unwrap_or_default()) },
        })
    }

    async fn check_credential_and_scopes(&self) -> Result<(), String> {
        let Some(access) = within(self.access()).await else {
            return Err(format!("Zendesk did not answer within {} s", STEP.as_secs()));
        };
        let grant = self.grant().await;
        let finding = check::credential(&self.settings, &access, grant.as_ref());
        match access.is_err() || finding.mark == Mark::Failed {
            true => Err(with_remedy(&finding)),
            false => Ok(()),
        }
    }

    /// The body of an answer; null without one.
    async fn body_of(&self, path: &str) -> Value {
        let reply = self.repeatable(Call::SetUp, || self.request(Method::GET, path)).await;
        let reply = reply.ok().filter(|reply| reply.is_success());
        reply.and_then(|reply| reply.json()).unwrap_or_default()
    }
}

/// What is wrong and what to do, in one line.
pub(super) fn with_remedy(finding: &Finding) -> String {
    format!("{}: {}", finding.text, finding.remedy)
}

impl Display for Account {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.url)?,
            None => write!(f, "{}", self.url)?,
        }
        match self.sandbox {
            Some(true) => write!(f, ", a sandbox")?,
            Some(false) => write!(f, ", not a sandbox")?,
            None => {}
        }
        let ServiceUser { id, name } = &self.service_user;
        write!(f, "; the service user is {name} ({id})")
    }
}
