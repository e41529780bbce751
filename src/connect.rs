//! Why no connection was made. Each reason has its own remedy, so the log names it.

use std::error::Error;
use std::fmt;
use std::io;

/// The step at which it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoConnection {
    /// Nothing listens at this port.
    Refused,
    /// DNS knows no such host, or does not answer.
    UnknownHost,
    /// The certificate, or what answers speaks no TLS.
    Tls,
    /// No answer in time, no route to the host, or an unknown cause.
    Unreachable,
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

    pub fn words(self) -> &'static str {
        match self {
            NoConnection::Refused => "refused: nothing listens there",
            NoConnection::UnknownHost => "unknown host (DNS)",
            NoConnection::Tls => "TLS failed: a wrong certificate, or no TLS there",
            NoConnection::Unreachable => "the host cannot be reached (network, firewall)",
        }
    }
}

/// An I/O error within an I/O error is not among its sources.
fn innermost(error: &io::Error) -> &io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
    inner.map_or(error, innermost)
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
