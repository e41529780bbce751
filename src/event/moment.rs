//! Dates as Khoros writes them: milliseconds since 1970, ISO 8601, and `Wed Apr 12 09:01:11 CDT 2017`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use serde_json::Value;

use crate::notification::text;

/// `2018-03-14 00:31 UTC`; what is no such date stays as it is, and zero is none.
pub(super) fn of(value: &Value) -> Option<String> {
    let published = text(value).filter(|published| published.parse() != Ok(0.0))?;
    Some(read(value).map_or(published, |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string()))
}

/// None: it is no such date.
pub(crate) fn read(value: &Value) -> Option<Timestamp> {
    let published = text(value)?;
    match published.parse::<f64>() {
        Ok(0.0) => None,
        Ok(number) if number.is_finite() => of_epoch(number),
        _ => published.parse().ok().or_else(|| of_java(&published)),
    }
}

/// Milliseconds, as published; what would be a day of 1973 or before is taken for seconds.
#[allow(clippy::cast_possible_truncation)]
fn of_epoch(number: f64) -> Option<Timestamp> {
    let millis = if number.abs() < 1e11 { number * 1000.0 } else { number };
    Timestamp::from_millisecond(millis as i64).ok()
}

/// What Java prints of a date. Its names of zones are ambiguous: they are read as those of Khoros' home.
fn of_java(published: &str) -> Option<Timestamp> {
    let words: Vec<&str> = published.split_whitespace().collect();
    let [_, month, day, time, zone, year] = words[..] else { return None };
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
        for (value, told) in [
            (json!(1_520_987_518_000_i64), Some("2018-03-14 00:31 UTC")),
            (json!("1520987518000"), Some("2018-03-14 00:31 UTC")),
            (json!(1_520_987_518), Some("2018-03-14 00:31 UTC")),
            (json!(1.520987518e12), Some("2018-03-14 00:31 UTC")),
            (json!("2018-01-01T12:45:02.023Z"), Some("2018-01-01 12:45 UTC")),
            (json!("Wed Apr 12 09:01:11 CDT 2017"), Some("2017-04-12 14:01 UTC")),
            (json!("Thu Dec 31 23:30:00 PST 2020"), Some("2021-01-01 07:30 UTC")),
            (json!("Wed Apr 12 09:01:11 XYZ 2017"), Some("Wed Apr 12 09:01:11 XYZ 2017")),
            (json!("tomorrow"), Some("tomorrow")),
            (json!(1e300), Some("1e+300")),
            (json!("NaN"), Some("NaN")),
            (json!(0), None),
            (json!(""), None),
            (json!(null), None),
            (json!([1]), None),
        ] {
            assert_eq!(of(&value).as_deref(), told, "{value}");
        }
    }
}
