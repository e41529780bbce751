//! casebridge from outside: environment in, HTTP in, requests to the stand-ins out. The stand-ins are those of
//! `casebridge demo`: they speak HTTP and hold state.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod harness;

mod adopt;
mod alerts;
mod author;
mod bounds;
mod case;
mod check;
mod crash;
mod deliver;
#[cfg(feature = "demo")]
mod demo;
mod destination_settings;
mod destinations;
mod docs;
mod edge;
mod failover;
mod flex;
mod flow;
mod inbox;
mod keep;
mod layers;
mod limit;
mod log;
mod markup;
mod metrics;
mod model;
mod oauth;
mod operate;
mod outage;
mod parser;
mod pictures;
mod pooler;
mod project;
mod public_url;
mod pull;
mod receive;
mod reconcile;
mod rehearse;
mod render;
mod settings;
mod show;
mod silence;
mod since;
mod slack;
mod slack_storm;
mod storage;
mod storm;
mod subscribe;
mod terminal;
mod there_and_back;
mod ticket;
mod tutorial;
mod twilio;
mod upgrade;
mod webhook;
