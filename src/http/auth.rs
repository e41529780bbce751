//! The bearer token: compared in constant time, and refusals logged without a flood.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tracing::warn;

const LINE_EVERY: Duration = Duration::from_secs(60);

/// Tokens that open a door, several during a rotation.
pub struct BearerTokens {
    /// Hashed, so that all have one length and a comparison tells nothing of it.
    hashes: Vec<[u8; 32]>,
    refused: Mutex<Refused>,
}

#[derive(Default)]
struct Refused {
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl BearerTokens {
    pub fn new(tokens: &[SecretString]) -> BearerTokens {
        let hashes = tokens.iter().map(|token| Sha256::digest(token.expose_secret()).into()).collect();
        BearerTokens { hashes, refused: Mutex::default() }
    }

    /// Whether the request carries one of the tokens. A refusal is logged: the first at once, then
    /// one line a minute with their number.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let admitted = presented(headers).is_some_and(|token| self.knows(token));
        if !admitted && let Some(count) = self.refused(Instant::now()) {
            warn!(count, "refused {count} request(s) without a valid bearer token");
        }
        admitted
    }

    fn knows(&self, token: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(token).into();
        let equal = |known: &[u8; 32]| known.ct_eq(&presented);
        self.hashes.iter().fold(Choice::from(0), |found, known| found | equal(known)).into()
    }

    /// Counts a refusal; the number to log if a line is due.
    fn refused(&self, now: Instant) -> Option<u64> {
        let mut refused = self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        refused.unlogged += 1;
        if refused.logged_at.is_some_and(|at| now.duration_since(at) < LINE_EVERY) {
            return None;
        }
        refused.logged_at = Some(now);
        Some(std::mem::take(&mut refused.unlogged))
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(tokens: &[&str], authorization: &str) -> bool {
        let tokens: Vec<SecretString> = tokens.iter().map(|token| (*token).into()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        BearerTokens::new(&tokens).admit(&headers)
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
        assert!(!BearerTokens::new(&[]).admit(&HeaderMap::new()));
    }

    #[test]
    fn refusals_are_logged_once_a_minute_with_their_number() {
        let tokens = BearerTokens::new(&[]);
        let start = Instant::now();
        let at = |seconds| tokens.refused(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(1), at(59), at(60), at(61)], [Some(1), None, None, Some(3), None]);
    }
}
