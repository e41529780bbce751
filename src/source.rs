//! The sources of items.

pub mod khoros;

use crate::item::{Item, Unprocessable};

/// Reads the item of a stored payload.
///
/// # Errors
/// The reason why it cannot be processed.
pub fn item(payload: &str) -> Result<Item, Unprocessable> {
    khoros::notification::item(payload)
}
