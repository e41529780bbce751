//! Whether the public address leads to us: we call ourselves there before Khoros is told of it.
//!
//! `GET {public address}/healthz/{nonce}` is answered with an HMAC of the nonce under a key that is
//! derived from the bearer token. Every instance of this deployment knows it, and nobody else: a page
//! that answers everything, or repeats what it is asked, is not taken for us. Anybody may ask. The
//! answer tells nothing of a token that was made at random, and it is no answer to anything but a
//! nonce.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use url::Url;

use crate::alert::Reminder;

/// The door, to which a nonce is appended.
pub const PATH: &str = "/healthz/";
const NONCE_LENGTH: usize = 32;
/// Keeps the key apart from whatever else may be derived from a token one day.
const PURPOSE: &[u8] = b"casebridge public url probe";

const TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Room for the answer of as many tokens as anybody has.
const BODY_LIMIT: usize = 16 << 10;

type Key = Hmac<Sha256>;

/// What our instances know each other by: a key for each bearer token.
#[derive(Clone)]
pub struct Keys(Arc<[Key]>);

impl Keys {
    pub fn new(tokens: &[SecretString]) -> Keys {
        Keys(tokens.iter().filter_map(key_of).collect())
    }

    /// What the door answers, a line for each token; nothing to what is no nonce.
    ///
    /// While a token is replaced, instances that know only the old one run beside such as know the new
    /// one before it. If the new one asks, the old one's line is among those that it accepts. If the
    /// old one asks, a line by the new one's first token would mean nothing to it: so there is a line
    /// for each token, and one that is known will do.
    pub fn answer(&self, nonce: &str) -> Option<String> {
        let is_answered = is_nonce(nonce) && !self.0.is_empty();
        is_answered.then(|| self.proofs(nonce).map(|proof| proof + "\n").collect())
    }

    /// Compares every line with every proof, so that the time tells nothing of where they differ.
    fn accept(&self, nonce: &str, answer: &[u8]) -> bool {
        let lines: Vec<&[u8]> = answer.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).collect();
        let is_there = |proof: String| {
            lines.iter().fold(Choice::from(0), |found, line| found | line.ct_eq(proof.as_bytes()))
        };
        self.proofs(nonce).fold(Choice::from(0), |found, proof| found | is_there(proof)).into()
    }

    fn proofs(&self, nonce: &str) -> impl Iterator<Item = String> {
        self.0.iter().map(move |key| {
            let proof = key.clone().chain_update(nonce).finalize();
            format!("{:x}", proof.into_bytes())
        })
    }
}

/// Always there: no length of a key is wrong for an HMAC.
fn key_of(token: &SecretString) -> Option<Key> {
    let token = Key::new_from_slice(token.expose_secret().as_bytes()).ok()?;
    Key::new_from_slice(&token.chain_update(PURPOSE).finalize().into_bytes()).ok()
}

fn is_nonce(text: &str) -> bool {
    text.len() == NONCE_LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// It has to be new, so that no cache knows the answer, and need not be a secret.
fn new_nonce() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// What is below the public address, which may have a path of its own.
pub fn below(public_url: &Url, path: &str) -> Url {
    let mut url = public_url.clone();
    url.set_path(&format!("{}{path}", public_url.path().trim_end_matches('/')));
    url
}

/// The public address, and what to advise if it does not lead to us.
pub struct Address {
    pub url: Url,
    /// The variable that it came from.
    pub variable: &'static str,
    /// The line that sets it right.
    pub remedy: &'static str,
}

/// What was seen in our place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// Nothing listens there.
    Refused,
    /// There is no such host, or no TLS with it.
    NoConnection,
    Timeout,
    /// The connection broke.
    Broken,
    /// An answer of this status.
    Status(u16),
    /// An answer of status 200, from something else.
    NotOurs,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreached::Refused => f.write_str("the connection is refused"),
            Unreached::NoConnection => f.write_str("no connection (unknown host, no way to it, or TLS)"),
            Unreached::Timeout => write!(f, "no answer within {} s", TIMEOUT.as_secs()),
            Unreached::Broken => f.write_str("the connection broke"),
            Unreached::Status(status) => write!(f, "an answer of status {status}"),
            Unreached::NotOurs => f.write_str(
                "an answer that is not ours: something else is there, or another NOTIFICATION_BEARER_TOKEN",
            ),
        }
    }
}

impl From<reqwest::Error> for Unreached {
    fn from(error: reqwest::Error) -> Unreached {
        match &error {
            error if error.is_timeout() => Unreached::Timeout,
            error if is_refused(error) => Unreached::Refused,
            error if error.is_connect() => Unreached::NoConnection,
            _ => Unreached::Broken,
        }
    }
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        || error.source().is_some_and(is_refused)
}

/// Looks whether the public address leads to us.
pub struct Probe {
    http: reqwest::Client,
    address: Address,
    keys: Keys,
}

impl Probe {
    /// The client must not follow redirects: Khoros is not known to, either.
    pub fn new(http: reqwest::Client, address: Address, keys: Keys) -> Probe {
        Probe { http, address, keys }
    }

    /// Tries once, for 5 s at most.
    ///
    /// # Errors
    /// What was seen in our place.
    pub async fn attempt(&self) -> Result<(), Unreached> {
        let nonce = new_nonce();
        let url = below(&self.address.url, &format!("{PATH}{nonce}"));
        let mut response = self.http.get(url).timeout(TIMEOUT).send().await?;
        if response.status() != StatusCode::OK {
            return Err(Unreached::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while body.len() < BODY_LIMIT
            && let Some(chunk) = response.chunk().await?
        {
            body.extend_from_slice(&chunk);
        }
        if self.keys.accept(&nonce, &body) { Ok(()) } else { Err(Unreached::NotOurs) }
    }

    /// Returns when Khoros may be told of the address: we have reached ourselves there, or have tried
    /// for as long as `limit`. Hosts send us requests some seconds after we listen, so the first tries
    /// may well fail.
    pub async fn wait_until_reached(&self, limit: Duration) {
        if limit.is_zero() {
            return;
        }
        let give_up = Instant::now() + limit;
        let mut wait = FIRST_WAIT;
        let mut reminder = Reminder::default();
        loop {
            let Err(seen) = self.attempt().await else { return self.log_reached() };
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.log_given_up(seen, limit);
            }
            if reminder.is_due(&seen.to_string(), std::time::Instant::now()) {
                self.log_unreached(seen, limit);
            }
            sleep(wait.min(left)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn log_reached(&self) {
        let url = self.address.url.as_str();
        info!(url, "the public address leads here: {url}");
    }

    fn log_unreached(&self, seen: Unreached, limit: Duration) {
        let (Address { url, variable, remedy }, limit) = (&self.address, limit.as_secs());
        warn!(
            variable,
            "not subscribed yet: {url}, which {variable} gives as our address, does not lead here: {seen}. \
             It is tried for {limit} s. If the address is wrong, set it and restart: {remedy}"
        );
    }

    /// No error: there are networks that cannot call their own public address.
    fn log_given_up(&self, seen: Unreached, limit: Duration) {
        let (Address { url, variable, remedy }, limit) = (&self.address, limit.as_secs());
        warn!(
            variable,
            "for {limit} s we have not reached ourselves at {url}, which {variable} gives as our address: \
             {seen}. Khoros is told of it all the same. If no notification comes in, set it and restart: \
             {remedy}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";
    const OLD: &str = "the-old-token-of-us";
    const NEW: &str = "the-new-token-of-us";

    fn keys(tokens: &[&str]) -> Keys {
        Keys::new(&tokens.iter().map(|token| (*token).into()).collect::<Vec<_>>())
    }

    /// Whether an instance that knows these tokens takes the answer of one that knows those.
    fn accepts(asker: &[&str], door: &[&str]) -> bool {
        let answer = keys(door).answer(NONCE).unwrap();
        keys(asker).accept(NONCE, answer.as_bytes())
    }

    /// As `openssl dgst -sha256 -mac HMAC` makes it: first the key, and with that the answer.
    #[test]
    fn the_answer_is_an_hmac_of_the_nonce() {
        let expected = "97f9d52e12d7a19a64b021b491ead629e349ea826d5bc7055623cfd2abb826e3\n";
        assert_eq!(keys(&[OLD]).answer(NONCE).as_deref(), Some(expected));
    }

    #[test]
    fn only_a_nonce_is_answered() {
        for odd in [
            "",
            "0123456789abcdef0123456789abcde",
            "0123456789abcdef0123456789abcdef0",
            "0123456789ABCDEF0123456789ABCDEF",
            "0123456789abcdef0123456789abcdeg",
            "0123456789abcdef0123456789abcde\n",
            "ééééééééééééééé",
        ] {
            assert_eq!(keys(&[OLD]).answer(odd), None, "{odd:?}");
        }
        assert!((0..100).map(|_| new_nonce()).all(|nonce| is_nonce(&nonce)));
        assert_ne!(new_nonce(), new_nonce());
    }

    #[test]
    fn instances_know_each_other_while_a_token_is_replaced() {
        assert!(accepts(&[OLD], &[OLD]));
        assert!(accepts(&[NEW, OLD], &[OLD]), "the new one asks, the old one answers");
        assert!(accepts(&[OLD], &[NEW, OLD]), "the old one asks, the new one answers");
        assert!(accepts(&[NEW, OLD], &[NEW, OLD]));
        assert!(accepts(&[NEW], &[NEW, OLD]) && accepts(&[NEW, OLD], &[NEW]));
        assert!(!accepts(&[NEW], &[OLD]));
    }

    #[test]
    fn what_is_not_ours_is_not_accepted() {
        let ours = keys(&[OLD]);
        let answer = ours.answer(NONCE).unwrap();
        assert!(ours.accept(NONCE, answer.replace('\n', "\r\n").as_bytes()));
        assert!(ours.accept(NONCE, answer.trim_end().as_bytes()));
        let of_another = ours.answer(&NONCE.replace('0', "1")).unwrap();
        let longer = format!("{}0", answer.trim_end());
        for odd in ["", "\n", "ok", NONCE, &answer[1..], &answer[..63], &longer, &of_another] {
            assert!(!ours.accept(NONCE, odd.as_bytes()), "{odd:?}");
        }
    }

    /// Without a token nothing would tell us from others.
    #[test]
    fn without_a_token_there_is_no_door() {
        assert_eq!(keys(&[]).answer(NONCE), None);
        assert!(!keys(&[]).accept(NONCE, b""));
    }

    #[test]
    fn a_path_of_the_address_stays() {
        for (url, expected) in [
            ("https://bridge.example.com", "https://bridge.example.com/healthz/1"),
            ("https://bridge.example.com/base/", "https://bridge.example.com/base/healthz/1"),
        ] {
            assert_eq!(below(&url.parse().unwrap(), "/healthz/1").as_str(), expected);
        }
    }
}
