//! The subcommands. Those of the operator work on the same database as the running service.

mod backfill;
mod backup;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod discard;
mod health;
mod help;
mod list;
pub mod log;
mod progress;
mod reconcile;
mod rehearse;
mod render;
mod replay;
mod select;
mod serve;
mod settings;
mod show;
mod status;
mod terminal;
mod unsubscribe;

use casebridge::inbox::Listed;
use casebridge::text::printable;

pub use backfill::{Options as BackfillOptions, backfill};
pub use backup::backup;
pub use check::check;
#[cfg(feature = "demo")]
pub use demo::{DemoOptions, demo};
pub use discard::{Selection, discard};
pub use health::health;
pub use help::{complete, completions, man};
pub use list::{ListOptions, list};
pub use reconcile::reconcile;
pub use rehearse::{Rehearsed, rehearse};
pub use render::{BuiltIn, Part, TicketForm, render};
pub use replay::{Replay, replay};
pub use serve::{serve, stop_on_signal};
pub use settings::{Format, settings};
pub use show::{Options as ShowOptions, show};
pub use status::status;
pub use unsubscribe::unsubscribe;

/// Rows read at once, since all rows need not fit into memory.
const PAGE: usize = 1000;

/// The last error of a delivery, on one line and without characters that control a terminal.
fn reason(delivery: &Listed) -> String {
    one_line(delivery.last_error.as_deref().unwrap_or("no reason known"))
}

/// The beginning of a text, on one line and without characters that control a terminal.
fn one_line(text: &str) -> String {
    printable(text).chars().take(300).collect()
}
