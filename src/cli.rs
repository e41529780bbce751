//! The subcommands. Those of the operator work on the same database as the running service.

mod backfill;
mod backup;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod discard;
mod help;
mod list;
pub mod log;
mod progress;
mod rehearse;
mod render;
mod replay;
mod serve;
mod settings;
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
pub use help::{complete, completions, man};
pub use list::{ListOptions, list};
pub use rehearse::{Rehearsed, rehearse};
pub use render::{BuiltIn, Part, TicketForm, render};
pub use replay::{Replay, replay};
pub use serve::{serve, stop_on_signal};
pub use settings::{Format, settings};
pub use unsubscribe::unsubscribe;

/// Rows read at once, since all rows need not fit into memory.
const PAGE: usize = 1000;

/// The last error of a delivery, on one line and without characters that control a terminal.
fn reason(delivery: &Listed) -> String {
    let reason = delivery.last_error.as_deref().unwrap_or("no reason known");
    printable(reason).chars().take(300).collect()
}
