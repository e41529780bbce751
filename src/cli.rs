//! The operator's subcommands, on the same database as the running service.

mod backfill;
#[cfg(feature = "demo")]
mod demo;
mod discard;
mod health;
mod list;
pub mod log;
mod reconcile;
mod rehearse;
mod render;
mod replay;
mod select;
mod settings;
mod show;
mod status;
mod unsubscribe;

use std::io::Write;
use std::path::Path;

use casebridge::config::Database;
use casebridge::inbox::{self, Listed};

pub use backfill::{Options as BackfillOptions, backfill};
#[cfg(feature = "demo")]
pub use demo::demo;
pub use discard::{Selection, discard};
pub use health::health;
pub use list::list;
pub use reconcile::reconcile;
pub use rehearse::{Rehearsed, rehearse};
pub use render::{Part, TicketForm, render};
pub use replay::{Replay, replay};
pub use settings::{Format, help, settings};
pub use show::{Options as ShowOptions, show};
pub use status::status;
pub use unsubscribe::unsubscribe;

/// Rows read at once, since all rows need not fit into memory.
const PAGE: usize = 1000;

/// Copies the SQLite file.
pub async fn backup(database: &Database, file: &Path) -> anyhow::Result<()> {
    inbox::backup(database, file).await?;
    writeln!(std::io::stdout(), "{} is a copy of the database", file.display())?;
    Ok(())
}

/// The last error of a delivery, on one line and without characters that control a terminal.
fn reason(delivery: &Listed) -> String {
    one_line(delivery.last_error.as_deref().unwrap_or("no reason known"))
}

/// The beginning of a text, on one line and without characters that control a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
