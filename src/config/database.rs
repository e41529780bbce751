//! `DATABASE_URL`: an SQLite file or a PostgreSQL server.

use std::fmt;
use std::path::PathBuf;

use super::Variables;
use super::postgres::{self, Pooler, PostgresServer};
use crate::env::{Problems, Reader, parse};

pub(super) const DEFAULT_FILE: &str = "sqlite://casebridge.db";

/// `DATABASE_URL`
pub enum Database {
    Sqlite(PathBuf),
    Postgres(Box<PostgresServer>),
}

/// For the log: the file, or the server without the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                write!(f, "sqlite://{}", path.display())
            }
            Database::Postgres(server) => server.fmt(f),
        }
    }
}

impl Database {
    /// Reads the one setting of `casebridge list` and `casebridge replay`.
    pub fn from_env() -> Result<Database, Problems> {
        let mut reader = Reader::new(crate::env::variables_of_process());
        let mut variables = Variables::read(&mut reader, "");
        variables.allow_ephemeral_store.get_or_insert_with(|| "1".to_owned());
        let database = read(&mut reader, &variables);
        let (_, problems) = reader.finish();
        database.filter(|_| problems.is_empty()).ok_or(problems)
    }
}

pub(super) fn read(reader: &mut Reader, variables: &Variables) -> Option<Database> {
    let on_heroku = variables.dyno().value.is_some();
    let setting = variables.database_url().or_default(DEFAULT_FILE);
    let (mut database, ignored) = reader.optional(setting, |text| parse(text, on_heroku)).unzip();
    if let Some(ignored) = ignored.filter(|ignored| !ignored.is_empty()) {
        let names = ignored.join(", ");
        reader
            .warnings
            .push(format!("DATABASE_URL: casebridge ignores options that it does not use: {names}"));
    }
    let pooler = reader.optional(variables.database_pooler(), parse::switch);
    if let (Some(Database::Postgres(server)), Some(is_present)) = (&mut database, pooler) {
        server.pooler = if is_present { Pooler::Present } else { Pooler::Absent };
    }
    let may_be_ephemeral = reader.or(variables.allow_ephemeral_store(), false, parse::switch);
    if matches!(database, Some(Database::Sqlite(_))) && on_heroku && !may_be_ephemeral {
        reader.problems.push(
            "DATABASE_URL means SQLite, but Heroku erases a dyno's disk at least daily, so \
             tickets would be lost or duplicated: add Postgres (heroku addons:create \
             heroku-postgresql:essential-0), or set ALLOW_EPHEMERAL_STORE=1 to try things out"
                .to_owned(),
        );
    }
    database
}

/// Parses a URL; returns the names of the ignored options, too.
fn parse(text: &str, on_heroku: bool) -> Result<(Database, Vec<&'static str>), String> {
    // Some hosts print the whole command.
    let text = text.strip_prefix("psql ").map_or(text, parse::unquoted);
    if let Some(file) = text.strip_prefix("sqlite:") {
        return Ok((sqlite(file)?, Vec::new()));
    }
    if text.starts_with("jdbc:") {
        return Err(
            "is for Java: write postgres://USER:PASSWORD@HOST:PORT/DATABASE instead of jdbc:…".to_owned()
        );
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    let scheme = scheme.split_once('+').map_or(scheme, |(scheme, _driver)| scheme);
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err("is neither sqlite://FILE nor postgres://…".to_owned());
    }
    let (server, ignored) = postgres::parse(text, on_heroku)?;
    Ok((Database::Postgres(Box::new(server)), ignored))
}

fn sqlite(rest: &str) -> Result<Database, &'static str> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    match rest {
        "" => Err("names no file (sqlite:///data/casebridge.db)"),
        ":memory:" => Err("means memory, which loses everything at a restart: name a file"),
        path if path.contains('?') => Err("has options after `?`, and there are none for SQLite"),
        path => Ok(Database::Sqlite(path.into())),
    }
}
