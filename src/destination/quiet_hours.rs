//! Quiet hours: the hours of each day in which a destination notifies nobody. No I/O, no clock.

use std::fmt::{self, Display, Formatter};

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::env::parse::Parsed;

/// A span of each day, by the clocks of its time zone. It may include midnight.
#[derive(Clone, Debug)]
pub struct QuietHours {
    begin: Time,
    end: Time,
    zone: TimeZone,
}

impl QuietHours {
    /// Parses two times and the name of a time zone: `22:00-07:00 Europe/Berlin`.
    pub fn parse(text: &str) -> Parsed<QuietHours> {
        const REASON: &str = "is not a span of a day and its time zone, as in 22:00-07:00 Europe/Berlin";
        let parse = || {
            let (span, zone) = text.trim().rsplit_once(char::is_whitespace)?;
            let (begin, end) = span.split_once(['-', '–'])?;
            let time = |text: &str| Time::strptime("%H:%M", text.trim()).ok();
            Some(QuietHours { begin: time(begin)?, end: time(end)?, zone: TimeZone::get(zone).ok()? })
        };
        match parse() {
            Some(hours) if hours.begin == hours.end => Err("begins and ends at the same time"),
            hours => hours.ok_or(REASON),
        }
    }

    pub fn is_quiet(&self, time: Timestamp) -> bool {
        self.end_after(time).is_some()
    }

    /// Returns when the quiet span that includes `time` ends; `None` if `time` is not quiet.
    pub fn end_after(&self, time: Timestamp) -> Option<Timestamp> {
        let today = time.to_zoned(self.zone.clone()).date();
        // Around midnight, the span that includes `time` may have begun yesterday.
        let spans = [today.yesterday().ok(), Some(today)].into_iter().flatten();
        let mut spans = spans.filter_map(|day| self.span_from(day));
        spans.find(|(begin, end)| (*begin..*end).contains(&time)).map(|(_, end)| end)
    }

    /// The span that begins on this day. If the clocks skip its begin or end, that moves later by as much; if they show
    /// it twice, the first one counts.
    fn span_from(&self, day: Date) -> Option<(Timestamp, Timestamp)> {
        let days = i64::from(self.end < self.begin);
        let last_day = day.checked_add(days.days()).ok()?;
        let at = |day: Date, time| Some(day.to_datetime(time).to_zoned(self.zone.clone()).ok()?.timestamp());
        Some((at(day, self.begin)?, at(last_day, self.end)?))
    }
}

impl Display for QuietHours {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (begin, end) = (self.begin.strftime("%H:%M"), self.end.strftime("%H:%M"));
        write!(f, "{begin}-{end} {}", self.zone.iana_name().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hours: &str, cases: &[(&str, Option<&str>)]) {
        let hours = QuietHours::parse(hours).unwrap();
        for (time, end) in cases {
            let time: Timestamp = time.parse().unwrap();
            let end: Option<Timestamp> = end.map(|end| end.parse().unwrap());
            assert_eq!(hours.end_after(time), end, "{time} in {hours}");
            assert_eq!(hours.is_quiet(time), end.is_some(), "{time} in {hours}");
        }
    }

    #[test]
    fn a_span_may_include_midnight() {
        check(
            "22:00-07:00 Europe/Berlin",
            &[
                ("2026-11-26T20:59:59+01:00", None),
                ("2026-11-26T22:00:00+01:00", Some("2026-11-27T07:00:00+01:00")),
                ("2026-11-26T23:59:59+01:00", Some("2026-11-27T07:00:00+01:00")),
                ("2026-11-27T00:00:00+01:00", Some("2026-11-27T07:00:00+01:00")),
                ("2026-11-27T06:59:59+01:00", Some("2026-11-27T07:00:00+01:00")),
                ("2026-11-27T07:00:00+01:00", None),
            ],
        );
        check(
            "09:30-17:00 America/New_York",
            &[
                ("2026-11-26T14:29:59Z", None),
                ("2026-11-26T14:30:00Z", Some("2026-11-26T22:00:00Z")),
                ("2026-11-26T22:00:00Z", None),
            ],
        );
        check(
            "22:00-00:00 UTC",
            &[("2026-11-26T23:59:00Z", Some("2026-11-27T00:00:00Z")), ("2026-11-27T00:00:00Z", None)],
        );
    }

    #[test]
    fn a_span_keeps_to_clocks_that_change() {
        // The night of 29 March 2026 has no 02:00 to 03:00 in Berlin; that of 25 October has it twice.
        check(
            "22:00-07:00 Europe/Berlin",
            &[
                ("2026-03-28T21:30:00Z", Some("2026-03-29T05:00:00Z")),
                ("2026-03-29T05:00:00Z", None),
                ("2026-10-24T20:30:00Z", Some("2026-10-25T06:00:00Z")),
                ("2026-10-25T05:30:00Z", Some("2026-10-25T06:00:00Z")),
            ],
        );
        check("23:00-02:30 Europe/Berlin", &[("2026-03-29T00:59:00Z", Some("2026-03-29T01:30:00Z"))]);
        check(
            "23:00-02:30 Europe/Berlin",
            &[("2026-10-25T00:29:00Z", Some("2026-10-25T00:30:00Z")), ("2026-10-25T01:15:00Z", None)],
        );
        check("02:15-02:45 Europe/Berlin", &[("2026-03-29T01:20:00Z", Some("2026-03-29T01:45:00Z"))]);
    }

    #[test]
    fn hours_are_read_as_people_write_them() {
        for text in
            ["22:00-07:00 Europe/Berlin", " 22:00 – 7:00  europe/berlin ", "22:00-07:00\tEurope/Berlin"]
        {
            assert_eq!(QuietHours::parse(text).unwrap().to_string(), "22:00-07:00 Europe/Berlin", "{text}");
        }
        for wrong in [
            "",
            "22:00-07:00",
            "22-7 Europe/Berlin",
            "22:00 Europe/Berlin",
            "25:00-07:00 Europe/Berlin",
            "22:00-07:61 Europe/Berlin",
            "22:00-22:00 Europe/Berlin",
            "22:00-07:00 Europe/Nowhere",
            "22:00-07:00-08:00 Europe/Berlin",
        ] {
            assert!(QuietHours::parse(wrong).is_err(), "{wrong}");
        }
    }
}
