//! `casebridge demo`, and the stand-ins for Khoros and Zendesk that the tests use as well: Khoros
//! has no sandbox, and Zendesk none to install. Nothing of the service knows this module.

pub mod demo;
pub mod khoros;
mod server;
pub mod zendesk;

pub use demo::demo;
