//! The sources of items.

pub mod khoros;
