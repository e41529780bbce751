//! Access to Zendesk: `ZENDESK_*`.

use secrecy::SecretString;
use url::Url;

use super::parse;
use super::reader::Reader;
use super::variables::{Setting, Variables};

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
}

#[derive(Clone)]
pub enum ZendeskCredentials {
    /// `ZENDESK_OAUTH_CLIENT_ID` and `ZENDESK_OAUTH_CLIENT_SECRET`.
    OAuth { client_id: String, client_secret: SecretString },
    /// `ZENDESK_USER_EMAIL` and `ZENDESK_API_TOKEN`, which Zendesk ends on 2027-04-30.
    ApiToken { email: String, token: SecretString },
}

impl Reader {
    pub(super) fn zendesk(&mut self, variables: &Variables) -> Option<ZendeskSettings> {
        let url = self.aliased(variables.zendesk_api_url(), variables.zendesk_app_url());
        let url = self.required(url, parse::origin);
        let credentials = self.zendesk_credentials(variables);
        let budget_percent = self.or(variables.zendesk_budget_percent(), 60, parse::percent);
        let update_budget_percent = self.or(variables.zendesk_update_budget_percent(), 30, parse::percent);
        Some(ZendeskSettings { url: url?, credentials: credentials?, budget_percent, update_budget_percent })
    }

    fn zendesk_credentials(&mut self, variables: &Variables) -> Option<ZendeskCredentials> {
        let oauth = self.pair(variables.zendesk_oauth_client_id(), variables.zendesk_oauth_client_secret());
        let api_token = self.pair(variables.zendesk_user_email(), variables.zendesk_api_token());
        match (oauth?, api_token?) {
            (None, None) => {
                self.problems.push(
                    "no Zendesk credential: set ZENDESK_OAUTH_CLIENT_ID and \
                     ZENDESK_OAUTH_CLIENT_SECRET (or, until 2027-04-30, ZENDESK_USER_EMAIL and \
                     ZENDESK_API_TOKEN)"
                        .to_owned(),
                );
                None
            }
            (Some((client_id, client_secret)), api_token) => {
                if api_token.is_some() {
                    self.warnings.push(
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
                self.warnings.push(
                    "ZENDESK_API_TOKEN: Zendesk ends API tokens on 2027-04-30 and no longer makes \
                     new ones: set up an OAuth client before (ZENDESK_OAUTH_CLIENT_ID and \
                     ZENDESK_OAUTH_CLIENT_SECRET)"
                        .to_owned(),
                );
                // The pair is sent as `{email}/token:{token}`; some paste the email with this suffix.
                let email = email.trim_end_matches("/token").to_owned();
                Some(ZendeskCredentials::ApiToken { email, token: token.into() })
            }
        }
    }

    /// Reads two variables that make sense only together. The outer `None`: one of them is missing.
    fn pair<'a>(&mut self, one: Setting<'a>, two: Setting<'a>) -> Option<Option<(&'a str, &'a str)>> {
        match (one.value, two.value) {
            (None, None) => Some(None),
            (Some(one), Some(two)) => Some(Some((one, two))),
            (one_value, _) => {
                let (set, missing) = if one_value.is_some() { (one, two) } else { (two, one) };
                let (set, missing) = (set.name, missing.name);
                self.problems.push(format!("{missing} is not set, but {set} is: both or neither"));
                None
            }
        }
    }
}
