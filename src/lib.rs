//! casebridge turns a label in the Khoros Marketing inbox into a Zendesk ticket: once, soon, and
//! provably.
//!
//! A notification comes in at [`http`], is split into its items by [`notification`], and is answered
//! once they are committed to the [`inbox`]. A [`worker`] claims each delivery under a lease, renders
//! the ticket, stores its bytes, sends them to a [`destination`], and settles the delivery as
//! [`retry`] decides. A crash between any two of these steps leaves a doubtful delivery, which the worker
//! looks up at the destination before it sends anything.
//!
//! `docs/architecture.md` follows one notification in detail, and lists which module may import which.

pub mod alert;
pub mod app;
pub mod check;
pub mod config;
pub mod connect;
pub mod destination;
pub mod event;
pub mod fence;
pub mod html;
pub mod http;
pub mod inbox;
pub mod intake;
pub mod khoros;
pub mod memory;
pub mod notification;
pub mod public_url;
pub mod pull;
pub mod retry;
pub mod silence;
pub mod subscription;
pub mod template;
pub mod text;
pub mod uptime;
pub mod worker;
