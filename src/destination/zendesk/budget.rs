//! Our share of the account's requests per minute. Pure: time is an argument.
//!
//! Zendesk counts all integrations of an account together, so pacing ourselves is not enough: each
//! answer tells what is left for everybody, and we stop in time to leave the others their share.

use std::time::{Duration, Instant};

use crate::destination::Ready;

/// Until an answer tells the limit: the smallest plan's.
const ASSUMED_LIMIT: u32 = 200;
/// What may go out at once after a pause.
const BURST: f64 = 10.0;
/// How long an answer that does not tell its reset is believed.
const UNKNOWN_RESET: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Budget {
    /// Of 100 requests that the account allows, so many may be ours.
    percent: u32,
    /// Requests a minute, for the whole account.
    limit: u32,
    /// What may be sent now; grows with time up to [`BURST`].
    tokens: f64,
    counted_at: Instant,
    /// Sent and not yet answered: the last answer does not count them.
    in_flight: u32,
    left: Option<Left>,
}

#[derive(Debug)]
struct Left {
    remaining: u32,
    until: Instant,
}

/// What the headers of an answer tell; <https://developer.zendesk.com/api-reference/introduction/rate-limits>.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// `x-rate-limit`: requests a minute
    pub limit: Option<u32>,
    /// `x-rate-limit-remaining`
    pub remaining: Option<u32>,
    /// `ratelimit-reset`: seconds
    pub reset: Option<u64>,
}

impl Budget {
    pub fn new(percent: u32, now: Instant) -> Budget {
        Budget { percent, limit: ASSUMED_LIMIT, tokens: BURST, counted_at: now, in_flight: 0, left: None }
    }

    /// How many requests may go out now.
    pub fn ready(&mut self, now: Instant) -> Ready {
        self.count(now);
        if let Some(left) = self.left.as_ref().filter(|left| now < left.until) {
            let ours = left.remaining.saturating_sub(self.in_flight).saturating_sub(self.reserve());
            if ours == 0 {
                return Ready::At(left.until);
            }
            if self.tokens >= 1.0 {
                return Ready::Now((self.tokens as usize).min(ours as usize));
            }
        } else if self.tokens >= 1.0 {
            return Ready::Now(self.tokens as usize);
        }
        Ready::At(now + Duration::from_secs_f64((1.0 - self.tokens) / self.per_second()))
    }

    /// Counts one request as sent, or tells when to ask again.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        match self.ready(now) {
            Ready::Now(_) => {
                self.tokens -= 1.0;
                self.in_flight += 1;
                Ok(())
            }
            Ready::At(later) => Err(later),
        }
    }

    /// A request that was taken has ended, answered or not.
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// An answer told of the account's limit.
    pub fn learn(&mut self, rate: Rate, now: Instant) {
        if let Some(limit) = rate.limit.filter(|limit| *limit > 0) {
            self.count(now);
            self.limit = limit;
        }
        if let Some(remaining) = rate.remaining {
            let reset = rate.reset.map_or(UNKNOWN_RESET, |seconds| Duration::from_secs(seconds.min(60)));
            self.left = Some(Left { remaining, until: now + reset });
        }
    }

    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second()).min(BURST);
        self.counted_at = self.counted_at.max(now);
    }

    fn per_second(&self) -> f64 {
        f64::from(self.limit) * f64::from(self.percent) / 100.0 / 60.0
    }

    /// What is left to the others.
    fn reserve(&self) -> u32 {
        (u64::from(self.limit) * u64::from(100 - self.percent) / 100) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Sends whatever may be sent, looking every 10 ms.
    fn sent(budget: &mut Budget, start: Instant, millis: std::ops::Range<u64>) -> usize {
        let mut sent = 0;
        for at in millis.step_by(10) {
            while budget.take(after(start, at)).is_ok() {
                budget.ended();
                sent += 1;
            }
        }
        sent
    }

    #[test]
    fn a_minute_holds_our_share_and_one_burst() {
        let start = Instant::now();
        for (percent, limit, share) in [(60, 700, 420), (100, 200, 200), (10, 400, 40)] {
            let mut budget = Budget::new(percent, start);
            budget.learn(Rate { limit: Some(limit), ..Rate::default() }, start);
            let first = sent(&mut budget, start, 0..60_000);
            assert!((share..=share + 10).contains(&first), "{first} of {share}");
            let second = sent(&mut budget, start, 60_000..120_000);
            assert!((share - 1..=share + 1).contains(&second), "{second} of {share}");
        }
    }

    #[test]
    fn the_others_keep_their_share_until_the_reset() {
        let start = Instant::now();
        let mut budget = Budget::new(60, start);
        let rate = |remaining| Rate { limit: Some(100), remaining: Some(remaining), reset: Some(20) };
        budget.learn(rate(43), start);
        assert_eq!(budget.ready(start), Ready::Now(3));
        assert!(budget.take(start).is_ok() && budget.take(start).is_ok());
        assert_eq!(budget.ready(start), Ready::Now(1), "what is in flight counts");
        budget.learn(rate(40), start);
        assert_eq!(budget.ready(start), Ready::At(after(start, 20_000)));
        assert!(matches!(budget.ready(after(start, 20_000)), Ready::Now(_)));
    }

    #[test]
    fn an_empty_bucket_tells_when_to_come_back() {
        let start = Instant::now();
        let mut budget = Budget::new(60, start);
        while budget.take(start).is_ok() {}
        let Ready::At(at) = budget.ready(start) else { panic!("not empty") };
        assert!(at > start && matches!(budget.ready(after(at, 1)), Ready::Now(1)));
    }
}
