//! `casebridge backup`.

use std::io::{self, Write};
use std::path::Path;

use indicatif::BinaryBytes;

use casebridge::config::Database;
use casebridge::inbox;

use super::progress::Progress;

/// Copies the SQLite file.
pub async fn backup(database: &Database, file: &Path) -> anyhow::Result<()> {
    let progress = Progress::of_bytes("copying");
    let bytes = inbox::backup(database, file, |written, total| progress.set(written, total)).await?;
    drop(progress);
    writeln!(io::stdout(), "{} is a copy of the database ({})", file.display(), BinaryBytes(bytes))?;
    Ok(())
}
