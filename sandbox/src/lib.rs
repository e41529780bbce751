//! Stand-ins for the services that casebridge talks to. They speak HTTP on loopback and hold state.
//! Khoros has no sandbox, and Zendesk none to install, so the tests, the benches and `casebridge demo`
//! use these.
//!
//! No stand-in uses code of the service: what a vendor refuses or changes is decided here a second time.

// The bans are about the service.
#![allow(clippy::disallowed_methods)]

pub mod alerts;
pub mod faults;
pub mod flow;
pub mod khoros;
mod server;
pub mod slack;
mod stand_in;
mod state;
pub mod twilio;
pub mod webhook;
pub mod zendesk;

/// Returns the builder of an HTTP client for loopback.
pub fn http_client() -> reqwest::ClientBuilder {
    // reqwest prepares TLS in every client and brings no cryptography. If there is one already, it may stay.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
