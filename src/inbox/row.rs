//! Reading rows into structs. sqlx has a derive for this, but its macros build both drivers, and SQLite, a second
//! time for the compiler, which is an eighth of the work of a first build.

/// Implements [`sqlx::FromRow`] on both databases: each named field comes from the column of its name. A field may be
/// stored as another type, from which it is converted: `from_row!(Claim { identity, origin as String })`.
macro_rules! from_row {
    ($struct:ident { $($field:ident $(as $stored:ty)?),+ $(,)? }) => {
        $crate::inbox::row::from_row!(@on sqlx::sqlite::SqliteRow, $struct { $($field $(as $stored)?),+ });
        $crate::inbox::row::from_row!(@on sqlx::postgres::PgRow, $struct { $($field $(as $stored)?),+ });
    };
    (@on $row:ty, $struct:ident { $($field:ident $(as $stored:ty)?),+ }) => {
        impl sqlx::FromRow<'_, $row> for $struct {
            fn from_row(row: &$row) -> sqlx::Result<$struct> {
                Ok($struct { $($field: $crate::inbox::row::from_row!(@get row, $field $(as $stored)?)),+ })
            }
        }
    };
    (@get $row:ident, $field:ident) => { sqlx::Row::try_get($row, stringify!($field))? };
    (@get $row:ident, $field:ident as $stored:ty) => {
        <$stored>::into(sqlx::Row::try_get($row, stringify!($field))?)
    };
}

pub(super) use from_row;
