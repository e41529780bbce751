//! This host's clock against those of Zendesk and Khoros, as the header `Date` of their answers shows them.

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use url::Url;

use crate::config::Partial;
use crate::report::Finding;
use crate::report::within;

/// An answer takes less than this.
const NOTABLE: SignedDuration = SignedDuration::from_secs(30);
/// Beyond this, tokens and leases end at the wrong time.
const HARMFUL: SignedDuration = SignedDuration::from_secs(300);

const REMEDY: &str = "synchronize the host's clock by NTP (timedatectl set-ntp true); a container uses \
                      the host's clock";

/// Sends a request without a credential to both servers: every answer has a date, errors included.
pub async fn findings(config: &Partial, client: &reqwest::Client) -> Vec<Finding> {
    let zendesk = config.destinations.zendesk.as_ref().map(|zendesk| &zendesk.url);
    let khoros = config.khoros.as_ref().map(|khoros| &khoros.api_url);
    let (zendesk, khoros) = tokio::join!(ahead(client, zendesk), ahead(client, khoros));
    let answers = [("Zendesk", zendesk), ("Khoros", khoros)];
    let findings: Vec<Finding> =
        answers.into_iter().filter_map(|(server, ahead)| Some(compare(server, ahead?))).collect();
    match findings.is_empty() {
        true => vec![Finding::not_checked("no server answered with the time")],
        false => findings,
    }
}

/// How far our clock is ahead of that of a server.
async fn ahead(client: &reqwest::Client, server: Option<&Url>) -> Option<SignedDuration> {
    let response = within(client.head(server?.join("/").ok()?).send()).await?.ok()?;
    let date = response.headers().get("date")?.to_str().ok()?;
    let theirs = DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(theirs.duration_until(Timestamp::now()))
}

fn compare(server: &str, ahead: SignedDuration) -> Finding {
    let direction = if ahead.is_negative() { "behind" } else { "ahead of" };
    match ahead.abs() {
        off if off <= NOTABLE => Finding::ok(format!("agrees with that of {server}")),
        off => {
            let text = format!("{} s {direction} that of {server}", off.as_secs());
            if off > HARMFUL { Finding::failed(text, REMEDY) } else { Finding::warning(text, REMEDY) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Mark;

    #[test]
    fn a_clock_may_be_off_by_30_seconds() {
        for (seconds, mark, text) in [
            (0, Mark::Ok, "agrees with that of Zendesk"),
            (-30, Mark::Ok, "agrees with that of Zendesk"),
            (31, Mark::Warning, "31 s ahead of that of Zendesk"),
            (-300, Mark::Warning, "300 s behind that of Zendesk"),
            (301, Mark::Failed, "301 s ahead of that of Zendesk"),
        ] {
            let finding = compare("Zendesk", SignedDuration::from_secs(seconds));
            assert_eq!((finding.mark, finding.text.as_str()), (mark, text));
        }
    }
}
