//! Searches deliveries, the newest first, among millions of rows.
//!
//! Each search has a shape for which there is an index: dead deliveries, settled ones of a route, those of a case, or
//! everything by the time when it was received. Waiting deliveries are few: they are read by their partial index and
//! sorted.

use super::report::{Listed, columns};
use super::{Inbox, State, fetch};

/// Which deliveries to find; an empty filter finds all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    pub destination: Option<String>,
    pub route: Option<String>,
    pub case_key: Option<String>,
    /// Only deliveries that were received at or after this time: milliseconds since 1970, UTC.
    pub since: Option<i64>,
}

/// A part of the rows, to which one index leads.
struct Part {
    from: &'static str,
    condition: String,
    /// The time by which rows are ordered. As a sum, it keeps the planner from using the index of all deliveries by
    /// time.
    received_at: &'static str,
}

impl Part {
    /// Rows that an index has in their order.
    fn in_order(condition: String) -> Part {
        Part { from: "delivery", condition, received_at: "received_at" }
    }

    /// Rows that are few, and are sorted.
    fn sorted(from: &'static str, condition: String) -> Part {
        Part { from, condition, received_at: "(received_at + 0)" }
    }

    /// Selects up to $5 of its rows.
    fn select(&self, columns: &str, order: &str) -> String {
        let Part { from, condition, received_at } = self;
        let order = order.replace("{received_at}", received_at);
        format!(
            "select * from (
                select {columns} from {from}
                 where {condition} and ($1 is null or destination = $1) and ($2 is null or route = $2)
                   and ($3 is null or case_key = $3) and {received_at} >= $4 {order} limit $5) as part"
        )
    }
}

impl Filter {
    /// The parts in which a matching row can be. The state is not bound, so that the planner finds partial indices.
    ///
    /// `is_rare`: few deliveries have this destination.
    fn parts(&self, is_rare: bool) -> Vec<Part> {
        let state = self.state.map_or("true".to_owned(), |state| format!("state = '{}'", state.name()));
        let waiting = || Part::sorted("delivery", "state = 'waiting'".to_owned());
        let of_route = || Part::in_order(format!("settled_at is not null and route = $2 and {state}"));
        match (&self.case_key, self.state, &self.route) {
            (Some(_), ..) => vec![Part::sorted(OF_CASE, format!("case_key = $3 and {state}"))],
            (None, Some(State::Waiting), _) => vec![waiting()],
            (None, None | Some(State::Done), _) if is_rare => {
                vec![Part::sorted("delivery", format!("destination = $1 and {state}"))]
            }
            (None, Some(State::Done), Some(_)) => vec![of_route()],
            (None, None, Some(_)) => vec![of_route(), waiting()],
            (None, ..) => vec![Part::in_order(state)],
        }
    }

    fn sql(&self, is_rare: bool, columns: &str, order: &str) -> String {
        let parts: Vec<String> = self.parts(is_rare).iter().map(|part| part.select(columns, order)).collect();
        parts.join(" union all ")
    }
}

impl Inbox {
    /// Finds deliveries, the newest first: the page of `limit` that follows `after`.
    pub async fn search(
        &self,
        filter: &Filter,
        after: Option<&Listed>,
        limit: usize,
    ) -> sqlx::Result<Vec<Listed>> {
        let page = "and ({received_at}, identity, destination) < ($6, $7, $8)
                    order by {received_at} desc, identity desc, destination desc";
        let sql = format!(
            "{} order by received_at desc, identity desc, destination desc limit $5",
            filter.sql(self.has_rare_destination(filter).await?, &columns(), page)
        );
        let (received_at, identity, last_destination) = match after {
            Some(last) => (last.received_at, last.identity.as_str(), last.destination.as_str()),
            None => (i64::MAX, "", ""),
        };
        let Filter { destination, route, case_key, since, .. } = filter;
        let (since, limit) = (since.unwrap_or(i64::MIN), i64::try_from(limit).unwrap_or(i64::MAX));
        fetch!(
            self.reader,
            query_as(
                &sql,
                destination,
                route,
                case_key,
                since,
                limit,
                received_at,
                identity,
                last_destination
            )
            .fetch_all
        )
    }

    /// Counts deliveries, up to `most`: counting millions of rows would take seconds.
    pub async fn count(&self, filter: &Filter, most: usize) -> sqlx::Result<usize> {
        let parts = filter.sql(self.has_rare_destination(filter).await?, "1", "");
        let sql = format!("select count(*) from ({parts}) as found");
        let Filter { destination, route, case_key, since, .. } = filter;
        let (since, limit) = (since.unwrap_or(i64::MIN), i64::try_from(most).unwrap_or(i64::MAX));
        let found: i64 =
            fetch!(self.reader, query_scalar(&sql, destination, route, case_key, since, limit).fetch_one)?;
        Ok(usize::try_from(found).unwrap_or(0).min(most))
    }

    /// Whether few deliveries have the destination of a filter: among millions of others, they are found by their
    /// destination and not by their time.
    async fn has_rare_destination(&self, filter: &Filter) -> sqlx::Result<bool> {
        let Some(destination) = &filter.destination else { return Ok(false) };
        let sql = "select count(*) from (select 1 from delivery where destination = $1 limit $2) as found";
        let found: i64 = fetch!(self.reader, query_scalar(sql, destination, RARE).fetch_one)?;
        Ok(found < RARE)
    }
}

/// Destinations with fewer deliveries are rare.
const RARE: i64 = 10_000;

/// All deliveries, by destination: then the index of cases leads to one case.
const OF_CASE: &str = "(select distinct destination as name from delivery_count) as names
                       join delivery on destination = names.name";
