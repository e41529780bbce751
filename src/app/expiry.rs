//! Reports credentials that expire soon: 30, 7 and 1 days before.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::error;

use crate::alert::{Alarm, CREDENTIAL_EXPIRES, Registry, Severity};
use crate::config::Expiry;

const CHECK_EVERY: Duration = Duration::from_secs(3600);

/// Reports until the process ends.
pub(super) async fn watch(expiries: Vec<Expiry>, alerts: Registry) {
    let alarm = |expiry: Expiry| (Alarm::new(&alerts, "app.expiry", expiry.setting), expiry, None);
    let mut watched: Vec<(Alarm, Expiry, Option<&str>)> = expiries.into_iter().map(alarm).collect();
    loop {
        for (alarm, Expiry { setting, ends }, logged) in &mut watched {
            let Some((severity, within)) = stage(*ends, Timestamp::now()) else {
                alarm.clear();
                continue;
            };
            let detail = format!("{setting} {within} ({ends:.0})");
            alarm.raise_as(severity, CREDENTIAL_EXPIRES, &*detail, Instant::now());
            // No hourly reminder: there is time.
            if logged.replace(within) != Some(within) {
                error!(
                    event = "credential_expires",
                    alert = CREDENTIAL_EXPIRES,
                    setting,
                    %ends,
                    "{detail}: replace it before then, or nothing gets through"
                );
            }
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// How close the end is; `None` if it is more than 30 days away.
fn stage(ends: Timestamp, now: Timestamp) -> Option<(Severity, &'static str)> {
    let days = |days: i64| ends.duration_since(now).as_secs() <= days * 86_400;
    if ends <= now {
        Some((Severity::Error, "has expired"))
    } else if days(1) {
        Some((Severity::Error, "expires within a day"))
    } else if days(7) {
        Some((Severity::Warning, "expires within 7 days"))
    } else if days(30) {
        Some((Severity::Info, "expires within 30 days"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_reported_30_7_and_1_days_before_its_end() {
        let ends: Timestamp = "2027-04-30T00:00:00Z".parse().unwrap();
        for (now, expected) in [
            ("2027-03-30T23:59:59Z", None),
            ("2027-03-31T00:00:00Z", Some(Severity::Info)),
            ("2027-04-22T23:59:59Z", Some(Severity::Info)),
            ("2027-04-23T00:00:00Z", Some(Severity::Warning)),
            ("2027-04-29T00:00:00Z", Some(Severity::Error)),
            ("2027-04-30T00:00:00Z", Some(Severity::Error)),
            ("2030-01-01T00:00:00Z", Some(Severity::Error)),
        ] {
            let stage = stage(ends, now.parse().unwrap());
            assert_eq!(stage.map(|(severity, _)| severity), expected, "{now}");
        }
    }
}
