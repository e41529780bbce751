//! casebridge turns a label in the Khoros Marketing inbox into a Zendesk ticket: once, soon, and
//! provably.
//!
//! A notification comes in at [`http`], is split into its items by [`notification`], and is answered
//! once they are committed to the [`inbox`]. A [`worker`] claims each delivery under a lease, renders
//! the ticket, stores its bytes, sends them to a [`destination`], and settles what came of it as
//! [`retry`] decides. A crash between any two of these steps leaves a delivery that comes back in
//! doubt, and what is in doubt is looked up before it is sent.
//!
//! `docs/architecture.md` tells the way of one notification in detail, and who may know whom.

#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::dbg_macro, clippy::print_stdout)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod config;

pub mod app;

pub mod http;

pub mod notification;

pub mod event;

pub mod template;

pub mod text;

pub mod html;

pub mod memory;

pub mod uptime;

pub mod fence;

pub mod intake;

pub mod inbox;

pub mod worker;

pub mod retry;

pub mod destination;

pub mod connect;

pub mod khoros;

pub mod subscription;

pub mod public_url;

pub mod silence;

pub mod pull;

pub mod alert;

pub mod check;

pub mod sandbox;
