//! Our share of the account's limits per minute, for all requests and for ticket updates. Pure: time is an
//! argument.
//!
//! Zendesk counts all integrations of an account together, so a constant rate is not enough: each answer shows
//! what is left for everybody, and we stop in time to leave the others their share.

use std::time::{Duration, Instant};

use super::Zendesk;
use crate::destination::{BudgetUsage, Ready};

/// Requests per minute until an answer shows the limit: that of the smallest plan.
pub const ASSUMED_REQUESTS: u32 = 200;
/// Ticket updates per minute, including those of agents, until an answer shows the limit. It is 300 with the High
/// Volume add-on, and 20 in trials.
pub const ASSUMED_UPDATES: u32 = 100;
/// The number of requests that may go out at once after a pause.
const BURST: f64 = 10.0;
/// The part of our share that is not used in a minute in which the others use all of theirs.
const MARGIN: f64 = 0.04;
/// The longest wait in the queue. After it, a delivery queues again.
const LONGEST_QUEUE: Duration = Duration::from_secs(3600);
/// How long an answer without its reset is believed.
const UNKNOWN_RESET: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Budget {
    /// Our percentage of the requests that the account allows.
    percent: u32,
    /// Requests per minute, for the whole account.
    limit: u32,
    /// The requests that may be sent now. Grows with time up to [`BURST`].
    tokens: f64,
    counted_at: Instant,
    /// All that were sent since the start.
    taken: u64,
    /// Sent and not yet answered, so that the last answer does not count them.
    in_flight: u32,
    left: Option<Left>,
    /// When the last delivery in the queue comes back.
    queue: Option<Instant>,
}

#[derive(Debug)]
struct Left {
    remaining: u32,
    until: Instant,
}

/// The limits in the headers of an answer; <https://developer.zendesk.com/api-reference/introduction/rate-limits>.
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
    /// Allows `percent` of `limit` per minute, until an answer shows another limit.
    pub fn new(percent: u32, limit: u32, now: Instant) -> Budget {
        let (tokens, counted_at) = (BURST, now);
        Budget { percent, limit, tokens, counted_at, taken: 0, in_flight: 0, left: None, queue: None }
    }

    /// Returns how many requests may go out now.
    pub fn ready(&mut self, now: Instant) -> Ready {
        self.count(now);
        if let Some(left) = self.left.as_ref().filter(|left| now < left.until) {
            let left_over = left.remaining.saturating_sub(self.in_flight);
            let ours = left_over.saturating_sub(self.reserve(left.until - now));
            if ours == 0 {
                return Ready::At(left.until - self.others_time(left_over).min(left.until - now));
            }
            if self.tokens >= 1.0 {
                return Ready::Now((self.tokens as usize).min(ours as usize));
            }
        } else if self.tokens >= 1.0 {
            return Ready::Now(self.tokens as usize);
        }
        Ready::At(now + Duration::from_secs_f64((1.0 - self.tokens) / self.per_second()))
    }

    /// Whether more requests are left than urgent work is likely to need.
    pub fn has_plenty(&mut self, now: Instant) -> bool {
        matches!(self.ready(now), Ready::Now(requests) if requests as f64 >= BURST / 2.0)
    }

    /// Returns when to come back: each waiting delivery gets its own time, so that not all come at once.
    pub fn queue(&mut self, now: Instant) -> Instant {
        let ready = match self.ready(now) {
            Ready::Now(_) => now,
            Ready::At(at) => at,
        };
        let between = self.between();
        let time = self.queue.map_or(ready, |last| ready.max(last + between)).min(now + LONGEST_QUEUE);
        self.queue = Some(time);
        time
    }

    /// The time between two requests at our rate.
    pub fn between(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.per_second())
    }

    /// Counts one request as sent, or returns when to ask again.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        match self.ready(now) {
            Ready::Now(_) => {
                self.tokens -= 1.0;
                self.in_flight += 1;
                self.taken += 1;
                Ok(())
            }
            Ready::At(later) => Err(later),
        }
    }

    /// Counts one request as ended, answered or not.
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Takes over the limits of an answer.
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

    /// Returns our share of the limit, and what was used of it.
    fn usage(&self, name: &'static str) -> BudgetUsage {
        BudgetUsage { name, per_minute: self.per_second() * 60.0, used: self.taken }
    }

    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second()).min(BURST);
        self.counted_at = self.counted_at.max(now);
    }

    /// Our share of the limit, in requests per second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.limit) * f64::from(self.percent) / 100.0 / 60.0
    }

    /// Returns what the others may still use until the reset: their share of the remaining time. Reserving more
    /// would make up for what they have used already. The margin is for requests of our other instances, which
    /// the last answer does not count yet.
    fn reserve(&self, left: Duration) -> u32 {
        (self.others_per_second() * left.as_secs_f64() + self.margin()).ceil() as u32
    }

    /// Returns how long the others can continue with what is left, apart from one of our requests.
    fn others_time(&self, left_over: u32) -> Duration {
        let theirs = f64::from(left_over) - 1.0 - self.margin();
        match self.others_per_second() {
            per_second if theirs > 0.0 && per_second > 0.0 => Duration::from_secs_f64(theirs / per_second),
            _ => Duration::ZERO,
        }
    }

    fn others_per_second(&self) -> f64 {
        f64::from(self.limit) * f64::from(100 - self.percent) / 100.0 / 60.0
    }

    fn margin(&self) -> f64 {
        self.per_second() * 60.0 * MARGIN
    }
}

impl Zendesk {
    /// The budgets of all requests and of ticket updates.
    pub fn budgets(&self) -> Vec<BudgetUsage> {
        vec![self.requests.budget().usage("requests"), self.updates.lock().usage("updates")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Sends every request that may be sent, with a check every 10 ms.
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
            let mut budget = Budget::new(percent, ASSUMED_REQUESTS, start);
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
        let mut budget = Budget::new(60, ASSUMED_REQUESTS, start);
        let rate = |remaining| Rate { limit: Some(100), remaining: Some(remaining), reset: Some(30) };
        budget.learn(rate(26), start);
        assert_eq!(budget.ready(start), Ready::Now(3));
        assert!(budget.take(start).is_ok() && budget.take(start).is_ok());
        assert_eq!(budget.ready(start), Ready::Now(1), "what is in flight counts");
        budget.learn(rate(23), start);
        assert!(matches!(budget.ready(start), Ready::At(_)));
        assert_eq!(budget.ready(after(start, 15_000)), Ready::Now(8), "half of the others' time has passed");
        budget.learn(rate(0), start);
        assert!(matches!(budget.ready(after(start, 29_999)), Ready::At(_)));
        assert!(matches!(budget.ready(after(start, 30_000)), Ready::Now(_)));
    }

    /// When they come, and their limits.
    type Answers = std::collections::VecDeque<(u64, Rate)>;

    /// An account that counts by minutes, and answers after a tenth of a second.
    struct Account {
        limit: u32,
        used: u32,
        minute: u64,
        answers: Answers,
        refused: usize,
    }

    impl Account {
        fn request(&mut self, at: u64) {
            // Its minutes are not ours.
            let (minute, left) = ((at + 20_000) / 60_000, 60 - (at + 20_000) % 60_000 / 1000);
            if minute != self.minute {
                (self.minute, self.used) = (minute, 0);
            }
            self.refused += usize::from(self.used >= self.limit);
            self.used = (self.used + 1).min(self.limit);
            let remaining = Some(self.limit - self.used);
            self.answers
                .push_back((at + 100, Rate { limit: Some(self.limit), remaining, reset: Some(left) }));
        }
    }

    /// Returns the requests that each budget sends in ten minutes of backlog, and how many are refused, while
    /// other integrations use `others` requests per minute.
    fn ten_minutes(limit: u32, percents: &[u32], others: u64) -> (Vec<usize>, usize) {
        let start = Instant::now();
        let mut account = Account { limit, used: 0, minute: 0, answers: Default::default(), refused: 0 };
        let mut ours: Vec<(Budget, usize, Answers)> = percents
            .iter()
            .map(|percent| (Budget::new(*percent, ASSUMED_REQUESTS, start), 0, Default::default()))
            .collect();
        for at in (0..600_000).step_by(10) {
            if at * others / 60_000 != (at + 10) * others / 60_000 {
                account.request(at);
                account.answers.clear();
            }
            for (budget, sent, answers) in &mut ours {
                while let Some((_, rate)) = answers.pop_front_if(|(due, _)| *due <= at) {
                    budget.ended();
                    budget.learn(rate, after(start, at));
                }
                while budget.take(after(start, at)).is_ok() {
                    account.request(at);
                    answers.append(&mut account.answers);
                    *sent += 1;
                }
            }
        }
        (ours.into_iter().map(|(_, sent, _)| sent).collect(), account.refused)
    }

    #[test]
    fn a_backlog_uses_our_share_and_is_not_refused() {
        for (limit, percent) in [(200, 60), (400, 60), (700, 60), (700, 100), (2500, 80), (700, 10)] {
            let share = (limit * percent / 10) as usize;
            for others in [0, limit * (100 - percent) / 200, limit * (100 - percent) / 100] {
                let (sent, refused) = ten_minutes(limit, &[percent], u64::from(others));
                let result = format!("{percent} % of {limit} beside {others}: {sent:?}, {refused} refused");
                assert!((share * 95 / 100..=share + BURST as usize).contains(&sent[0]), "{result}");
                assert!(refused * 100 <= sent[0], "{result}");
            }
        }
    }

    #[test]
    fn two_instances_are_not_refused_either() {
        for others in [0, 280] {
            let (sent, refused) = ten_minutes(700, &[60, 60], others);
            let both: usize = sent.iter().sum();
            assert!(both >= 4200 * 95 / 100, "{sent:?}");
            assert!(refused * 100 <= both, "{refused} of {both} refused");
        }
    }

    #[test]
    fn waiting_deliveries_come_back_one_by_one() {
        let start = Instant::now();
        let mut budget = Budget::new(30, ASSUMED_UPDATES, start);
        while budget.take(start).is_ok() {}
        let turns: Vec<Instant> = (0..3).map(|_| budget.queue(start)).collect();
        assert!(turns[0] > start && turns.is_sorted());
        assert_eq!(
            (turns[1] - turns[0], turns[2] - turns[1]),
            (Duration::from_secs(2), Duration::from_secs(2))
        );
        for _ in 0..5000 {
            assert!(budget.queue(start) <= start + LONGEST_QUEUE);
        }
        assert!(budget.queue(after(start, 7_200_000)) == after(start, 7_200_000), "an old queue is over");
    }

    #[test]
    fn an_empty_bucket_says_when_to_retry() {
        let start = Instant::now();
        let mut budget = Budget::new(60, ASSUMED_REQUESTS, start);
        while budget.take(start).is_ok() {}
        let Ready::At(at) = budget.ready(start) else { panic!("not empty") };
        assert!(at > start && matches!(budget.ready(after(at, 1)), Ready::Now(1)));
    }
}
