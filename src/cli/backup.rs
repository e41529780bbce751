//! `casebridge backup`.

use std::io::Write;
use std::path::Path;

use casebridge::config::Database;
use casebridge::inbox;

/// Copies the SQLite file.
pub async fn backup(database: &Database, file: &Path) -> anyhow::Result<()> {
    inbox::backup(database, file).await?;
    writeln!(std::io::stdout(), "{} is a copy of the database", file.display())?;
    Ok(())
}
