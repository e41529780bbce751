//! Khoros Marketing: its API, its events, and the two ways on which they come: pushes and feeds.

mod alerts;
pub mod check;
pub mod client;
pub mod endpoint;
pub mod event;
pub mod feed;
pub mod notification;
pub mod public_url;
pub mod settings;
pub mod silence;
pub mod subscription;

pub use alerts::ALERT_CODES;
