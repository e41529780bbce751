//! casebridge turns a label in the Khoros Marketing inbox into a Zendesk ticket: once, soon, and
//! provably.
//!
//! A notification comes in at [`http`], its [`source`] splits it into items, and it is answered once they are
//! committed to the [`inbox`]. The [`worker`] of each destination claims its deliveries under a lease, lets the
//! [`destination`] attempt them, and settles them as [`delivery`] decides. A crash between any two of these steps
//! leaves a doubtful delivery, which the destination looks up before it sends anything.
//!
//! `docs/architecture.md` follows one notification in detail, and lists which module may import which.

pub mod alert;
pub mod app;
pub mod check;
pub mod config;
pub mod connect;
pub mod delivery;
pub mod destination;
pub mod env;
pub mod exchange;
pub mod http;
pub mod inbox;
pub mod intake;
pub mod item;
pub mod json;
pub mod ledger;
pub mod metrics;
pub mod notify;
pub mod report;
pub mod route;
pub mod source;
pub mod status;
pub mod text;
pub mod uptime;
pub mod worker;
