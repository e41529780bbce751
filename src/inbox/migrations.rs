//! The list of the migrations. They only add to the schema, so that an older version can start again.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Lists files of the folder `migrations`: their versions and their names.
macro_rules! migrations {
    ($($version:literal $file:literal),+ $(,)?) => {
        &[$(($version, $file, include_str!(concat!("../../migrations/", $file)))),+]
    };
}

const MIGRATIONS: &[(i64, &str, &str)] = migrations![
    1 "0001_delivery.sql",
    2 "0002_case.sql",
    3 "0003_subscription.sql",
    4 "0004_feed_health.sql",
    5 "0005_ticket.sql",
    6 "0006_deployment.sql",
    7 "0007_run.sql",
    8 "0008_readiness.sql",
    9 "0009_destinations.sql",
    10 "0010_held.sql",
];

/// An unknown newer migration is no error, so that an older version can start again.
pub(super) fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(version, file, sql)| {
        let description =
            file.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').trim_end_matches(".sql");
        let description = description.replace('_', " ").into();
        Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_listed_in_order() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let files =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.collect();
        files.sort_unstable();
        let listed: Vec<&str> = MIGRATIONS.iter().map(|(_, file, _)| *file).collect();
        assert_eq!(listed, files);
        for (version, file, _) in MIGRATIONS {
            assert!(file.starts_with(&format!("{version:04}_")), "{file}");
        }
    }
}
