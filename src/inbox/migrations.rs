//! The migrations. sqlx has a macro that reads their folder; see [`super::row`] for why it is not used.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

type Listed = (i64, &'static str, &'static str);

const OF_BOTH: &[Listed] = &include!("../../migrations/list.rs");
const OF_SQLITE: &[Listed] = &[(12, "count", include_str!("../../migrations/sqlite/0012_count.sql"))];
const OF_POSTGRES: &[Listed] = &[(12, "count", include_str!("../../migrations/postgres/0012_count.sql"))];

/// The database whose SQL a migration uses. Most migrations are the same for both; those with triggers are not.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    fn own(self) -> &'static [Listed] {
        match self {
            Kind::Sqlite => OF_SQLITE,
            Kind::Postgres => OF_POSTGRES,
        }
    }
}

/// Returns the migrations, which only add to the schema. An unknown newer one is no error, so that an older version
/// can start again.
pub(super) fn migrator(kind: Kind) -> Migrator {
    let mut listed = [OF_BOTH, kind.own()].concat();
    listed.sort_unstable();
    let migrations = listed.into_iter().map(|(version, description, sql)| {
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_listed() {
        for (folder, listed) in [("", OF_BOTH), ("sqlite", OF_SQLITE), ("postgres", OF_POSTGRES)] {
            assert_lists(listed, folder);
        }
    }

    fn assert_lists(listed: &[Listed], folder: &str) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
        let files = std::fs::read_dir(folder).unwrap();
        let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.filter(|file| file.ends_with(".sql")).collect();
        files.sort_unstable();
        let listed: Vec<String> = listed
            .iter()
            .map(|(version, description, _)| format!("{version:04}_{}.sql", description.replace(' ', "_")))
            .collect();
        assert_eq!(listed, files);
    }
}
