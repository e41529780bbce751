//! The three forms of dates that Khoros publishes: milliseconds since 1970, ISO 8601, and
//! `Wed Apr 12 09:01:11 CDT 2017`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use serde_json::Value;

use crate::json::text;

/// Formats a date as `2018-03-14 00:31 UTC`. Other values stay as they are; zero counts as missing.
pub(super) fn of(value: &Value) -> Option<String> {
    let published = text(value).filter(|published| published != "0")?;
    Some(read(value).map_or(published, |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string()))
}

/// Reads a date; `None` if the value has none of the three forms.
pub(crate) fn read(value: &Value) -> Option<Timestamp> {
    if let Some(millis) = value.as_i64() {
        // A smaller number is a date of 1970, or has another unit.
        return Timestamp::from_millisecond(millis).ok().filter(|_| millis > 100_000_000_000);
    }
    let published = value.as_str()?.trim();
    published.parse().ok().or_else(|| of_java(published))
}

/// Reads a date as Java prints it. Its names of zones are ambiguous: they are read as those of the USA, where
/// Khoros is at home.
fn of_java(published: &str) -> Option<Timestamp> {
    let parts: Vec<&str> = published.split_whitespace().collect();
    let [_, month, day, time, zone, year] = parts[..] else { return None };
    let hours = match zone {
        "UTC" | "GMT" => 0,
        "EDT" => -4,
        "EST" | "CDT" => -5,
        "CST" | "MDT" => -6,
        "MST" | "PDT" => -7,
        "PST" => -8,
        _ => return None,
    };
    let local = DateTime::strptime("%b %d %H:%M:%S %Y", format!("{month} {day} {time} {year}")).ok()?;
    Offset::from_hours(hours).ok()?.to_timestamp(local).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_published_form_of_a_date() {
        for (value, expected) in [
            (json!(1_520_987_518_000_i64), Some("2018-03-14 00:31 UTC")),
            (json!("2018-01-01T12:45:02.023Z"), Some("2018-01-01 12:45 UTC")),
            (json!("Wed Apr 12 09:01:11 CDT 2017"), Some("2017-04-12 14:01 UTC")),
            (json!("Thu Dec 31 23:30:00 PST 2020"), Some("2021-01-01 07:30 UTC")),
            (json!("Wed Apr 12 09:01:11 XYZ 2017"), Some("Wed Apr 12 09:01:11 XYZ 2017")),
            (json!("tomorrow"), Some("tomorrow")),
            (json!(i64::MAX), Some("9223372036854775807")),
            (json!(1e300), Some("1e+300")),
            (json!(0), None),
            (json!(""), None),
            (json!(null), None),
            (json!([1]), None),
        ] {
            assert_eq!(of(&value).as_deref(), expected, "{value}");
        }
    }
}
