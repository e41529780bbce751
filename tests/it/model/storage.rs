//! The table as it is, past the inbox.

use casebridge::delivery::Origin;
use casebridge::inbox::NewItem;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, FromRow, PgConnection, Row as _, SqliteConnection};

use crate::harness::{Database, Kind};

/// All that is stored of a delivery and decides anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub identity: String,
    pub destination: String,
    pub case_key: String,
    pub payload: String,
    pub origin: String,
    pub cause: Option<String>,
    pub request: Option<String>,
    pub revision: i64,
    pub state: String,
    pub attempts: i64,
    pub tries: i64,
    pub leased: bool,
    pub in_doubt: bool,
    /// At once, and not in an hour.
    pub is_due: bool,
    pub due_at: i64,
    pub received_at: i64,
    pub settled_at: Option<i64>,
    pub reference: Option<String>,
    pub last_error: Option<String>,
}

macro_rules! from_row {
    ($row:ty, $($field:ident)+) => {
        impl FromRow<'_, $row> for Row {
            fn from_row(row: &$row) -> sqlx::Result<Row> {
                Ok(Row { $($field: row.try_get(stringify!($field))?),+ })
            }
        }
    };
    ($($field:ident)+) => {
        from_row!(SqliteRow, $($field)+);
        from_row!(PgRow, $($field)+);
    };
}
from_row!(
    identity destination case_key payload origin cause request revision state attempts tries leased in_doubt is_due due_at received_at settled_at reference last_error
);

impl Row {
    pub fn new(item: &NewItem, destination: &str) -> Row {
        Row {
            identity: item.identity.clone(),
            destination: destination.to_owned(),
            case_key: item.case_key.clone(),
            payload: item.payload.clone(),
            origin: item.origin.name().to_owned(),
            state: if item.dead.is_some() { "dead" } else { "waiting" }.to_owned(),
            in_doubt: item.origin == Origin::Feed,
            is_due: true,
            last_error: item.dead.clone(),
            ..Row::default()
        }
    }

    pub fn key(&self) -> (&str, &str) {
        (&self.identity, &self.destination)
    }

    /// The order within a case.
    pub fn age(&self) -> (i64, &String) {
        (self.received_at, &self.identity)
    }

    pub fn order(&self) -> (i64, &str, &str) {
        (self.received_at, &self.identity, &self.destination)
    }

    /// Another delivery of the same case.
    pub fn is_beside(&self, other: &Row) -> bool {
        (&self.destination, &self.case_key) == (&other.destination, &other.case_key)
            && self.identity != other.identity
    }
}

pub enum Storage {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Storage {
    /// A connection of its own to an inbox that holds nothing any more.
    pub async fn emptied(database: &Database) -> Storage {
        const EMPTY: [&str; 2] = ["delete from delivery", "delete from delivery_count"];
        match database.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&database.url).await.unwrap();
                for sql in EMPTY {
                    sqlx::query(sql).execute(&mut connection).await.unwrap();
                }
                Storage::Sqlite(connection)
            }
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&database.url).await.unwrap();
                for sql in EMPTY {
                    sqlx::query(sql).execute(&mut connection).await.unwrap();
                }
                Storage::Postgres(connection)
            }
        }
    }

    /// Oldest first.
    pub async fn rows(&mut self) -> Vec<Row> {
        const ROWS: &str = "
            select identity, destination, case_key, payload, origin, cause, request, revision, state, attempts, tries,
                   leased, in_doubt, due_at - received_at < 1800000 as is_due, due_at, received_at,
                   settled_at, reference, last_error
              from delivery order by received_at, identity, destination";
        let rows = match self {
            Storage::Sqlite(connection) => sqlx::query_as(ROWS).fetch_all(connection).await,
            Storage::Postgres(connection) => sqlx::query_as(ROWS).fetch_all(connection).await,
        };
        rows.unwrap()
    }
}
