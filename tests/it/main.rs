//! The bridge from outside: environment in, HTTP in, requests to both neighbours out. The neighbours
//! are the stand-ins of `casebridge demo`, which speak HTTP and hold state.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod harness;

mod adopt;
mod author;
mod bounds;
mod case;
mod check;
mod crash;
mod deliver;
mod destination_settings;
mod destinations;
mod docs;
mod edge;
mod failover;
mod flow;
mod inbox;
mod keep;
mod layers;
mod limit;
mod log;
mod markup;
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
mod rehearse;
mod render;
mod settings;
mod silence;
mod since;
mod storage;
mod storm;
mod subscribe;
mod there_and_back;
mod ticket;
mod tutorial;
mod upgrade;
mod webhook;
