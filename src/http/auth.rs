//! The bearer token: compared in constant time, and refusals logged without a flood.

use std::time::Instant;

use axum::http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tracing::warn;

use super::refused::Tally;

/// Who uses the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Khoros,
    /// Monitoring, which reads `/status` and `/metrics`.
    Operator,
}

/// Valid tokens of an endpoint, several during a rotation.
pub struct BearerTokens {
    audience: Audience,
    /// Hashed, so that all have one length and a comparison does not reveal it.
    hashes: Vec<[u8; 32]>,
    refused: Mutex<Tally>,
}

impl BearerTokens {
    pub fn new(audience: Audience, tokens: &[SecretString]) -> BearerTokens {
        let hashes = tokens.iter().map(|token| Sha256::digest(token.expose_secret()).into()).collect();
        BearerTokens { audience, hashes, refused: Mutex::default() }
    }

    /// Whether the request has one of the tokens. Logs refusals: the first at once, then one line a minute
    /// with their number.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let admitted = self.knows(headers.get(header::AUTHORIZATION));
        if !admitted && let Some(count) = self.refused.lock().count(Instant::now()) {
            match self.audience {
                Audience::Khoros => warn!(
                    event = "bearer_token_refused",
                    count,
                    "refused {count} request(s) without a valid token; if Khoros sent them, change \
                      NOTIFICATION_BEARER_TOKEN and restart"
                ),
                Audience::Operator => warn!(
                    event = "admin_token_refused",
                    count,
                    "refused {count} request(s) to /status or /metrics; correct the token there, or ADMIN_TOKEN"
                ),
            }
        }
        admitted
    }

    /// Whether the header `Authorization` contains one of the tokens. Logs nothing.
    pub fn knows(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some(token) = authorization.and_then(presented) else { return false };
        let presented: [u8; 32] = Sha256::digest(token).into();
        let equal = |known: &[u8; 32]| known.ct_eq(&presented);
        self.hashes.iter().fold(Choice::from(0), |found, known| found | equal(known)).into()
    }
}

fn presented(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(tokens: &[&str], authorization: &str) -> bool {
        let tokens: Vec<SecretString> = tokens.iter().map(|token| (*token).into()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        BearerTokens::new(Audience::Khoros, &tokens).admit(&headers)
    }

    #[test]
    fn only_a_known_token_opens() {
        let tokens = ["0123456789abcdef", "fedcba9876543210"];
        for good in ["Bearer 0123456789abcdef", "bearer fedcba9876543210", "BEARER  fedcba9876543210 "] {
            assert!(admits(&tokens, good), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer undefined",
        ] {
            assert!(!admits(&tokens, bad), "{bad}");
        }
        assert!(!admits(&[], "Bearer "));
        assert!(!BearerTokens::new(Audience::Khoros, &[]).admit(&HeaderMap::new()));
    }
}
