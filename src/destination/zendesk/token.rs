//! The credential: an OAuth client that mints short-lived tokens, or the tutorial's API token.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;
use tracing::{info, warn};
use url::Url;

use super::alerts;
use super::reply::{Reply, send};
use super::settings::{ZendeskCredentials, ZendeskSettings};
use crate::delivery::{Doubt, Outcome, Reason};

/// The remedy for a 401, as logged.
const CREDENTIAL_ADVICE: &str = "compare ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET (or \
                                     ZENDESK_USER_EMAIL and ZENDESK_API_TOKEN) with Admin Center > Apps and \
                                     integrations > APIs, and restart";

/// Includes the scopes of later features: another scope in a later version would stop running deployments.
const SCOPE: &str = "tickets:write users:write read";
/// If no route makes authors requesters.
const SCOPE_WITHOUT_USERS: &str = "tickets:write read";
/// For an OAuth client that may not request the usual scopes.
const NARROW_SCOPE: &str = "tickets:write tickets:read";
/// The requested life of a token. Zendesk takes more than 300 s and less than 172,800 s.
const LIFE_SECONDS: u64 = 7200;
/// The shortest and the longest life that an answer may give a token, in seconds.
const LIFE_LIMITS: RangeInclusive<f64> = 60.0..=30.0 * 86_400.0;

pub enum Credential {
    OAuth(Box<OAuth>),
    ApiToken { user: String, token: SecretString },
}

/// An OAuth client of the kind "confidential", with the grant `client_credentials`.
pub struct OAuth {
    http: reqwest::Client,
    url: Url,
    client_id: String,
    client_secret: SecretString,
    timeout: Duration,
    /// Held while a token is minted, so that concurrent deliveries mint one.
    minting: AsyncMutex<Minting>,
    scope: Mutex<&'static str>,
}

#[derive(Default)]
struct Minting {
    minted: Option<Minted>,
    failed: Option<(Instant, Outcome)>,
}

struct Minted {
    token: SecretString,
    renew_at: Instant,
    grant: Grant,
}

/// The permissions of an OAuth token, and its life.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The client may not request all scopes that the settings need.
    pub is_narrow: bool,
    /// The scopes that were requested but not granted.
    pub lacks: Vec<String>,
    pub life: Duration,
}

impl Credential {
    pub fn new(settings: &ZendeskSettings, http: reqwest::Client, timeout: Duration) -> Credential {
        match settings.credentials.clone() {
            ZendeskCredentials::ApiToken { email, token } => {
                Credential::ApiToken { user: format!("{email}/token"), token }
            }
            ZendeskCredentials::OAuth { client_id, client_secret } => {
                let mut url = settings.url.clone();
                url.set_path("/oauth/tokens");
                let (minting, scope) = (AsyncMutex::default(), Mutex::new(scope(settings)));
                let oauth = OAuth { http, url, client_id, client_secret, timeout, minting, scope };
                Credential::OAuth(Box::new(oauth))
            }
        }
    }

    /// Returns the key for the next request.
    ///
    /// # Errors
    /// A pause: without a token nothing gets through.
    pub async fn key(&self) -> Result<Key, Outcome> {
        match self {
            Credential::ApiToken { user, token } => Ok(Key::Basic(user.clone(), token.clone())),
            Credential::OAuth(oauth) => Ok(Key::Bearer(oauth.token().await?)),
        }
    }

    /// Returns the grant of the last OAuth token; `None` before the first, and for an API token.
    pub async fn grant(&self) -> Option<Grant> {
        match self {
            Credential::ApiToken { .. } => None,
            Credential::OAuth(oauth) => {
                let minting = oauth.minting.lock().await;
                minting.minted.as_ref().map(|minted| minted.grant.clone())
            }
        }
    }

    /// Handles a 401 for this key. Returns whether another key may work.
    pub async fn refuses(&self, key: &Key) -> bool {
        match (self, key) {
            (Credential::OAuth(oauth), Key::Bearer(token)) => {
                oauth.forget(token).await;
                true
            }
            _ => false,
        }
    }
}

/// The credential of one request.
pub enum Key {
    Basic(String, SecretString),
    Bearer(SecretString),
}

impl Key {
    pub fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Key::Basic(user, token) => request.basic_auth(user, Some(token.expose_secret())),
            Key::Bearer(token) => request.bearer_auth(token.expose_secret()),
        }
    }
}

/// Returns the scopes that the settings need.
pub fn scope(settings: &ZendeskSettings) -> &'static str {
    if settings.needs_users { SCOPE } else { SCOPE_WITHOUT_USERS }
}

impl OAuth {
    async fn token(&self) -> Result<SecretString, Outcome> {
        let requested_at = Instant::now();
        let mut minting = self.minting.lock().await;
        if let Some(minted) = minting.minted.as_ref().filter(|minted| Instant::now() < minted.renew_at) {
            return Ok(minted.token.clone());
        }
        // The failure that this call waited for is its answer. Otherwise each delivery would wait for another.
        if let Some((_, failure)) = minting.failed.as_ref().filter(|(at, _)| *at > requested_at) {
            return Err(failure.clone());
        }
        match self.mint().await {
            Ok(minted) => {
                let token = minted.token.clone();
                *minting = Minting { minted: Some(minted), failed: None };
                Ok(token)
            }
            Err(failure) => {
                minting.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// Drops a refused token, unless another delivery has renewed it in the meantime.
    async fn forget(&self, refused: &SecretString) {
        let mut minting = self.minting.lock().await;
        let same = |minted: &Minted| minted.token.expose_secret() == refused.expose_secret();
        if minting.minted.as_ref().is_some_and(same) {
            minting.minted = None;
        }
    }

    async fn mint(&self) -> Result<Minted, Outcome> {
        let reply = self.request_token().await?;
        if reply.status == 400 && reply.has_error("invalid_scope") && !self.is_narrow() {
            warn!(
                event = "token_scope_narrow",
                scope = self.scope(),
                granted = NARROW_SCOPE,
                "the Zendesk OAuth client may not request all scopes, using fewer; add them for later versions"
            );
            *self.scope.lock() = NARROW_SCOPE;
            return self.accept(self.request_token().await?);
        }
        self.accept(reply)
    }

    async fn request_token(&self) -> Result<Reply, Outcome> {
        let request = self.http.post(self.url.clone()).timeout(self.timeout).json(&json!({
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": self.client_secret.expose_secret(),
            "scope": self.scope(),
            "expires_in": LIFE_SECONDS,
        }));
        send(request).await.map_err(|lost| Outcome::Pause {
            reason: Reason::new(format!("no OAuth token from Zendesk: {lost}")),
            doubt: Doubt::None,
            retry_after: None,
        })
    }

    fn accept(&self, reply: Reply) -> Result<Minted, Outcome> {
        let token = match reply.json::<Token>() {
            Some(token) if reply.is_success() && !token.access_token.is_empty() => token,
            _ => return Err(refused(&reply)),
        };
        let life = token.life();
        let lacks = self.lacking(&token);
        info!(event = "token_renewed", "new OAuth token from Zendesk, valid for {} s", life.as_secs());
        Ok(Minted {
            token: token.access_token.into(),
            renew_at: Instant::now() + life.mul_f64(0.8),
            grant: Grant { is_narrow: self.is_narrow(), lacks, life },
        })
    }

    /// Returns the requested scopes that the token lacks. Zendesk answers a request with an unknown scope with
    /// a token, and then forbids everything.
    fn lacking(&self, token: &Token) -> Vec<String> {
        let Some(granted) = token.scopes() else { return Vec::new() };
        let is_granted = |scope: &str| {
            let broad = scope.rsplit(':').next().unwrap_or(scope);
            granted.contains(&scope) || granted.contains(&broad)
        };
        let requested = self.scope().split_whitespace();
        let missing: Vec<String> = requested.filter(|scope| !is_granted(scope)).map(str::to_owned).collect();
        if !missing.is_empty() {
            let missing = missing.join(" ");
            warn!(
                event = "token_scope_missing",
                "Zendesk granted a token without the scope `{missing}`, so calls may be refused. Add it to the \
                 OAuth client"
            );
        }
        missing
    }

    fn scope(&self) -> &'static str {
        *self.scope.lock()
    }

    fn is_narrow(&self) -> bool {
        self.scope() == NARROW_SCOPE
    }
}

/// The answer to a request for a token.
#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    scope: Value,
    #[serde(default)]
    expires_in: Value,
}

impl Token {
    /// Returns the granted scopes, from a text or a list. `None`: the answer names none, so all that were requested
    /// are granted (RFC 6749, section 5.1).
    fn scopes(&self) -> Option<Vec<&str>> {
        match &self.scope {
            Value::String(scopes) => Some(scopes.split_whitespace().collect()),
            Value::Array(scopes) => {
                Some(scopes.iter().filter_map(Value::as_str).flat_map(str::split_whitespace).collect())
            }
            _ => None,
        }
    }

    /// Returns how long the token is valid, within [`LIFE_LIMITS`]: from a number or a text of one. Without either,
    /// that is the requested life.
    fn life(&self) -> Duration {
        let seconds = match &self.expires_in {
            Value::String(seconds) => seconds.trim().parse().ok(),
            Value::Number(seconds) => seconds.to_string().parse().ok(),
            _ => None,
        };
        let seconds = seconds.filter(|seconds: &f64| !seconds.is_nan()).unwrap_or(LIFE_SECONDS as f64);
        Duration::from_secs_f64(seconds.clamp(*LIFE_LIMITS.start(), *LIFE_LIMITS.end()))
    }
}

/// Adds the remedy to the reason of a refused credential.
pub fn advised(reason: Reason) -> Reason {
    let log = format!("{}: {CREDENTIAL_ADVICE}", reason.log);
    Reason { log, alert: Some(alerts::CREDENTIAL), ..reason }
}

/// The outcome without a token: nothing gets through, and that is no delivery's fault.
fn refused(reply: &Reply) -> Outcome {
    let reason = reply.reason("the request for an OAuth token");
    let reason = match reply.status {
        429 | 500..=599 => reason,
        300..=399 | 404 => Reason { alert: Some(alerts::ADDRESS), ..reason },
        401 | 403 => advised(reason),
        // The page of another server: Zendesk would refuse in JSON.
        _ if reply.is_html() => Reason { alert: Some(alerts::ADDRESS), ..reason },
        _ => advised(reason),
    };
    Outcome::Pause { reason, doubt: Doubt::None, retry_after: reply.retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oauth_answer_may_give_any_life_and_any_form_of_scopes() {
        let month = 30 * 86_400;
        for (answer, seconds, scopes) in [
            (
                r#"{"access_token": "t", "scope": "tickets:write read", "expires_in": "1800"}"#,
                1800.0,
                Some(vec!["tickets:write", "read"]),
            ),
            (
                r#"{"access_token": "t", "scope": ["tickets:write", "read users:write"], "expires_in": 1800.5}"#,
                1800.5,
                Some(vec!["tickets:write", "read", "users:write"]),
            ),
            (r#"{"access_token": "t", "expires_in": -1}"#, 60.0, None),
            (r#"{"access_token": "t", "expires_in": 1e18}"#, f64::from(month), None),
            (r#"{"access_token": "t", "expires_in": 18446744073709551615}"#, f64::from(month), None),
            (r#"{"access_token": "t", "expires_in": 1e999}"#, f64::from(month), None),
            (r#"{"access_token": "t", "expires_in": "NaN"}"#, 7200.0, None),
            (r#"{"access_token": "t", "expires_in": "soon", "scope": null}"#, 7200.0, None),
            (r#"{"access_token": "t", "expires_in": null, "scope": []}"#, 7200.0, Some(vec![])),
        ] {
            let token: Token = serde_json::from_str(answer).unwrap();
            assert_eq!(token.life(), Duration::from_secs_f64(seconds), "{answer}");
            assert_eq!(token.scopes(), scopes, "{answer}");
        }
    }
}
