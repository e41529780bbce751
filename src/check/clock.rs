//! Our clock against those of the neighbours, as the `Date` of any answer of theirs tells.

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use url::Url;

use super::report::{Finding, Row};
use super::{CLOCK, within};
use crate::config::Partial;

/// More is more than an answer takes.
const NOTABLE: SignedDuration = SignedDuration::from_secs(30);
/// More lets tokens and leases end at the wrong time.
const HARMFUL: SignedDuration = SignedDuration::from_secs(300);

const REMEDY: &str = "let the host keep its clock by NTP (timedatectl set-ntp true); in a container the clock is \
                      the host's";

/// Asks both neighbours for anything, without a credential: whatever they answer is dated.
pub async fn row(config: &Partial, client: &reqwest::Client) -> Row {
    let zendesk = config.zendesk.as_ref().map(|zendesk| &zendesk.url);
    let khoros = config.khoros.as_ref().map(|khoros| &khoros.api_url);
    let (zendesk, khoros) = tokio::join!(ahead(client, zendesk), ahead(client, khoros));
    let told = [("Zendesk", zendesk), ("Khoros", khoros)];
    let told = told.into_iter().filter_map(|(who, ahead)| Some((who, ahead?)));
    let findings: Vec<Finding> = told.map(|(who, ahead)| judge(who, ahead)).collect();
    match findings.is_empty() {
        true => Row::not_checked(CLOCK, "neither neighbour told the time"),
        false => Row::of(CLOCK, &findings),
    }
}

/// How far our clock is ahead of that of a server.
async fn ahead(client: &reqwest::Client, server: Option<&Url>) -> Option<SignedDuration> {
    let mut front = server?.clone();
    front.set_path("/");
    let response = within(client.head(front).send()).await?.ok()?;
    let date = response.headers().get("date")?.to_str().ok()?;
    let theirs = DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(theirs.duration_until(Timestamp::now()))
}

fn judge(who: &str, ahead: SignedDuration) -> Finding {
    let way = if ahead.is_negative() { "behind" } else { "ahead of" };
    match ahead.abs() {
        off if off <= NOTABLE => Finding::ok(format!("as that of {who}")),
        off => {
            let text = format!("{} s {way} that of {who}", off.as_secs());
            if off > HARMFUL { Finding::failed(text, REMEDY) } else { Finding::warning(text, REMEDY) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn a_clock_may_be_off_by_so_much() {
        for (seconds, mark, text) in [
            (0, Mark::Ok, "as that of Zendesk"),
            (-30, Mark::Ok, "as that of Zendesk"),
            (31, Mark::Warning, "31 s ahead of that of Zendesk"),
            (-300, Mark::Warning, "300 s behind that of Zendesk"),
            (301, Mark::Failed, "301 s ahead of that of Zendesk"),
        ] {
            let finding = judge("Zendesk", SignedDuration::from_secs(seconds));
            assert_eq!((finding.mark, finding.text.as_str()), (mark, text));
        }
    }
}
