//! The requests of all deliveries, which share one budget and wait for it in the order in which they ask.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::budget::Budget;
use crate::destination::Ready;

/// For the author, the lookup and the ticket.
const REQUESTS_PER_DELIVERY: f64 = 3.0;

/// A budget, and the requests that wait for it.
pub struct Requests {
    budget: Mutex<Budget>,
    /// Held by the request that is next. The lock is fair: without turns, a request could wait until the deliveries of
    /// a whole backlog had passed it.
    turn: tokio::sync::Mutex<()>,
    /// The requests that wait, with the one that is next.
    waiting: AtomicU32,
}

impl Requests {
    pub fn new(budget: Budget) -> Requests {
        Requests {
            budget: Mutex::new(budget),
            turn: tokio::sync::Mutex::default(),
            waiting: AtomicU32::new(0),
        }
    }

    /// Takes a request from the budget, after those that asked before.
    ///
    /// # Errors
    /// How long to wait before asking again, if the wait would exceed `longest`.
    pub async fn take(&self, longest: Duration) -> Result<InFlight<'_>, Duration> {
        let place = Place::take(&self.waiting);
        let before = self.budget.lock().between() * place.ahead;
        if before > longest {
            return Err(before);
        }
        let _turn = self.turn.lock().await;
        loop {
            let taken = self.budget.lock().take(Instant::now());
            let Err(later) = taken else { return Ok(InFlight(&self.budget)) };
            let wait = later.saturating_duration_since(Instant::now());
            if wait > longest {
                return Err(wait);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Returns the number of deliveries that may begin now: their requests have to fit into what the budget allows
    /// within a second, and no request may be waiting. Further deliveries would only delay these.
    pub fn ready(&self, now: Instant) -> Ready {
        let mut budget = self.budget.lock();
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Ready::At(now + budget.between());
        }
        match budget.ready(now) {
            Ready::Now(requests) => {
                let soon = (requests as f64 + budget.per_second()) / REQUESTS_PER_DELIVERY;
                Ready::Now((soon as usize).clamp(1, requests.max(1)))
            }
            later @ Ready::At(_) => later,
        }
    }

    /// The budget itself, for its figures and for the limits in answers.
    pub fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock()
    }
}

/// The place of a waiting request, until it is dropped.
struct Place<'a> {
    waiting: &'a AtomicU32,
    /// The requests before it.
    ahead: u32,
}

impl Place<'_> {
    fn take(waiting: &AtomicU32) -> Place<'_> {
        Place { waiting, ahead: waiting.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request as in flight until it is dropped.
pub struct InFlight<'a>(pub &'a Mutex<Budget>);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().ended();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_request_is_not_passed_by_later_ones() {
        let requests = Requests::new(Budget::new(100, 6000, Instant::now()));
        while requests.take(Duration::ZERO).await.is_ok() {}
        let order = Mutex::new(Vec::new());
        let first = async {
            assert!(requests.take(Duration::from_secs(5)).await.is_ok());
            order.lock().push("first");
        };
        let later = async {
            while requests.take(Duration::ZERO).await.is_err() {
                tokio::task::yield_now().await;
            }
            order.lock().push("later");
        };
        tokio::join!(biased; first, later);
        assert_eq!(*order.lock(), ["first", "later"]);
    }

    #[tokio::test]
    async fn no_delivery_begins_while_requests_wait() {
        let requests = Requests::new(Budget::new(100, 600, Instant::now()));
        while requests.take(Duration::ZERO).await.is_ok() {}
        let later = Instant::now() + Duration::from_secs(1);
        let (asked, meanwhile) =
            tokio::join!(biased; requests.take(Duration::from_secs(5)), async { requests.ready(later) });
        assert!(asked.is_ok());
        assert!(matches!(meanwhile, Ready::At(_)), "{meanwhile:?}");
        assert!(matches!(requests.ready(later), Ready::Now(_)));
    }

    /// At one request per second, the fourth would wait for three others.
    #[tokio::test]
    async fn the_whole_wait_is_limited() {
        let requests = Requests::new(Budget::new(100, 60, Instant::now()));
        while requests.take(Duration::ZERO).await.is_ok() {}
        let mut waits: Vec<_> = (0..4).map(|_| Box::pin(requests.take(Duration::from_secs(2)))).collect();
        let answers: Vec<_> = waits.iter_mut().map(|wait| wait.as_mut().now_or_never()).collect();
        assert!(answers[..3].iter().all(Option::is_none));
        assert!(matches!(&answers[3], Some(Err(wait)) if *wait == Duration::from_secs(3)));
        drop(answers);
        drop(waits);
        assert!(matches!(requests.ready(Instant::now() + Duration::from_secs(1)), Ready::Now(_)));
    }

    #[test]
    fn a_small_budget_begins_few_deliveries_at_once() {
        let start = Instant::now();
        for (limit, deliveries) in [(60, 3), (360, 5), (6000, 10)] {
            let requests = Requests::new(Budget::new(100, limit, start));
            assert_eq!(requests.ready(start), Ready::Now(deliveries), "{limit} requests per minute");
        }
    }
}
