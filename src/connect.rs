//! The HTTP client, and why a request got no answer. Each reason has its own remedy, so the log names it.

use std::error::Error;
use std::io;
use std::time::Duration;

use anyhow::Context;

/// Builds the one HTTP client. It follows no redirect, since the credential would go with it. It uses the
/// proxies of the environment (`HTTPS_PROXY`), except for services on this machine (`local`).
///
/// # Errors
/// This machine has no CA certificates.
#[allow(clippy::disallowed_methods, reason = "this is the one client")]
pub fn http_client(local: bool) -> anyhow::Result<reqwest::Client> {
    // reqwest brings no cryptography. If this process has some already, it may stay.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder();
    let builder = if local { builder.no_proxy() } else { builder };
    builder
        .user_agent(concat!("casebridge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(15))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .build()
        .context("cannot build the HTTPS client: are CA certificates installed?")
}

/// The step at which a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoConnection {
    #[error("refused: nothing listens there")]
    Refused,
    /// DNS has no such host, or does not answer.
    #[error("unknown host (DNS)")]
    UnknownHost,
    /// The certificate is wrong, or the server does not use TLS.
    #[error("TLS failed: a wrong certificate, or no TLS there")]
    Tls,
    /// No answer in time, no route to the host, or an unknown cause.
    #[error("the host cannot be reached (network, firewall)")]
    Unreachable,
}

/// Why a request got no answer.
pub fn reason(error: &reqwest::Error) -> String {
    match error {
        error if error.is_timeout() => "no answer in time".to_owned(),
        error if error.is_connect() => NoConnection::of(error).to_string(),
        _ => "the connection broke".to_owned(),
    }
}

impl NoConnection {
    /// From the cause of an error that a request met before it was sent.
    pub fn of(error: &reqwest::Error) -> NoConnection {
        let first: &(dyn Error + 'static) = error;
        let causes = || std::iter::successors(Some(first), |&error| error.source());
        let ios = || causes().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(innermost);
        if ios().any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused) {
            return NoConnection::Refused;
        }
        // hyper-util has no type for it that could be named.
        if causes().any(|cause| cause.to_string().starts_with("dns error")) {
            return NoConnection::UnknownHost;
        }
        // rustls wraps its errors in these kinds; a server that speaks no TLS is among them.
        let is_tls = |kind| matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        match ios().any(|cause| is_tls(cause.kind())) {
            true => NoConnection::Tls,
            false => NoConnection::Unreachable,
        }
    }
}

/// Unwraps nested I/O errors, which are not among the sources of the outer one.
fn innermost(error: &io::Error) -> &io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
    inner.map_or(error, innermost)
}
