//! The settings of adoption: `ADOPT_BY_LINK` and `ADOPT_UNTIL`.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::env::doc::Group;
use crate::env::parse::{self, Parsed};
use crate::env::{Reader, variables};

pub const PREFIX: &str = "ADOPT_";

variables! {
    /// The variables of adoption.
    AdoptVariables:
    /// `1`: before casebridge creates a ticket for a post, it searches for the one that the 2017 example created (its
    /// `external_id` is the post's link), and adopts it.
    ///
    /// See [Tickets of the old app](migrating.md#tickets-of-the-old-app).
    by_link = default("0");
    /// Last day of adoption (UTC), or the time at which it ends, such as `2027-03-31T18:00:00Z`.
    until = needed("with `ADOPT_BY_LINK=1`").example("2027-03-31");
}

pub const GROUP: Group = Group::new(PREFIX, AdoptVariables::DOCS);

/// Reads when adoption ends; `None` if it is off.
pub fn read(reader: &mut Reader, now: Timestamp) -> Option<Timestamp> {
    let variables = AdoptVariables::read(reader, PREFIX);
    let is_on = reader.or(variables.by_link(), false, parse::switch);
    let until = reader.optional(variables.until(), end);
    match (is_on, until) {
        (true, None) if variables.until.is_none() => reader.problem(
            "ADOPT_BY_LINK is 1, but ADOPT_UNTIL is not set: set the last day of adoption, as in 2027-03-31 (each \
             search costs a request)"
                .to_owned(),
        ),
        (true, Some(until)) if until <= now => reader.warnings.push(
            "ADOPT_UNTIL has passed and adoption has ended: remove ADOPT_BY_LINK and ADOPT_UNTIL"
                .to_owned(),
        ),
        (false, Some(_)) if variables.by_link.is_none() => reader.warnings.push(
            "ADOPT_UNTIL has no effect: set ADOPT_BY_LINK=1 or remove ADOPT_UNTIL".to_owned(),
        ),
        _ => {}
    }
    until.filter(|until| is_on && *until > now)
}

/// Parses a time, or a day, which ends at midnight UTC.
fn end(text: &str) -> Parsed<Timestamp> {
    let end_of_day = || {
        let day: Date = text.parse().ok()?;
        // Otherwise it is a time without an offset.
        let day = Some(day).filter(|day| day.to_string() == text)?;
        Some(day.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp())
    };
    let end = text.parse().ok().or_else(end_of_day);
    end.ok_or("is neither a day, as in 2027-03-31, nor a time with its offset, as in 2027-03-31T18:00:00Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_and_a_time_is_taken_as_it_is() {
        for (text, expected) in [
            ("2027-03-31", Some("2027-04-01T00:00:00Z")),
            ("2027-03-31T18:00:00Z", Some("2027-03-31T18:00:00Z")),
            ("2027-03-31T18:00:00+02:00", Some("2027-03-31T16:00:00Z")),
            ("2027-03-31T18:00:00", None),
            ("2027-02-30", None),
            ("9999-12-31", None),
            ("31.03.2027", None),
            ("soon", None),
        ] {
            let expected = expected.map(|time| time.parse().unwrap());
            assert_eq!(end(text).ok(), expected, "{text}");
        }
    }
}
