//! The counts and measurements of this process since its start, for `GET /metrics`. Samples from the database come from
//! the snapshot of `status`.
//!
//! Labels are names of routes, destinations and outcomes: never an id, a text or an error.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::delivery::{Attempt, OUTCOMES};

/// The labels of a sample.
pub type Labels = Vec<(&'static str, String)>;

/// From the request to the answer 200, in seconds.
const ACCEPT: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// From the notification to the ticket, in seconds.
const DONE: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0];

/// The counters and histograms of one process.
pub struct Metrics {
    registry: Registry,
    received: Family<Labels, Counter>,
    new: Family<Labels, Counter>,
    duplicates: Family<Labels, Counter>,
    attempts: Family<Labels, Counter>,
    lookups: Family<Labels, Counter>,
    pauses: Family<Labels, Counter>,
    budget_used: Family<Labels, Counter>,
    budget_limit: Family<Labels, Gauge<f64, AtomicU64>>,
    accept: Histogram,
    done: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Metrics {
    /// Every sample of these routes and destinations starts at 0. `commit_sizes`: items of each commit.
    pub fn new(routes: &[String], destinations: &[&'static str], commit_sizes: Histogram) -> Metrics {
        let metrics = Metrics {
            registry: Registry::with_prefix("casebridge"),
            received: Family::default(),
            new: Family::default(),
            duplicates: Family::default(),
            attempts: Family::default(),
            lookups: Family::default(),
            pauses: Family::default(),
            budget_used: Family::default(),
            budget_limit: Family::default(),
            accept: Histogram::new(ACCEPT),
            done: Family::new_with_constructor(|| Histogram::new(DONE)),
        };
        for route in routes {
            metrics.received(route, 0, 0);
        }
        for destination in destinations {
            drop(metrics.pauses.get_or_create(&of(destination)));
            drop(metrics.done.get_or_create(&of(destination)));
            for outcome in OUTCOMES {
                drop(metrics.attempts.get_or_create(&with(destination, "outcome", outcome)));
            }
            for found in [true, false] {
                drop(metrics.lookups.get_or_create(&with(destination, "found", found_name(found))));
            }
        }
        metrics.register(commit_sizes)
    }

    fn register(mut self, commit_sizes: Histogram) -> Metrics {
        let registry = &mut self.registry;
        let items = "Items that were received and stored, or known already";
        registry.register("received", items, self.received.clone());
        registry.register("new", "Received items that were new", self.new.clone());
        let known = "Received items that were known: redeliveries";
        registry.register("duplicate", known, self.duplicates.clone());
        let attempts = "Attempts at deliveries, by how they ended";
        registry.register("attempts", attempts, self.attempts.clone());
        let lookups = "Lookups before a send, by whether an earlier request had got through";
        registry.register("lookups", lookups, self.lookups.clone());
        registry.register("pauses", "Pauses of a destination", self.pauses.clone());
        let used = "Requests to a destination that count against one of its limits";
        registry.register("budget_used", used, self.budget_used.clone());
        let limit = "Requests that casebridge may send in a minute: its share of the destination's limit";
        registry.register("budget_limit", limit, self.budget_limit.clone());
        let accept = "Seconds from a notification to its answer 200";
        registry.register("accept_seconds", accept, self.accept.clone());
        let done = "Seconds from the receipt of an item until its delivery is done";
        registry.register("receive_to_done_seconds", done, self.done.clone());
        registry.register("commit_items", "Items that one commit stored", commit_sizes);
        self
    }

    /// The metrics to encode.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts the items of a notification that was stored.
    pub fn received(&self, route: &str, received: usize, new: usize) {
        let labels = vec![("route", route.to_owned())];
        self.received.get_or_create(&labels).inc_by(received as u64);
        self.new.get_or_create(&labels).inc_by(new as u64);
        self.duplicates.get_or_create(&labels).inc_by(received.saturating_sub(new) as u64);
    }

    /// Measures a notification that was answered 200.
    pub fn accepted(&self, took: Duration) {
        self.accept.observe(took.as_secs_f64());
    }

    pub fn attempted(&self, destination: &str, attempt: &Attempt) {
        self.attempts.get_or_create(&with(destination, "outcome", attempt.outcome)).inc();
        if let Some(found) = attempt.found {
            self.lookups.get_or_create(&with(destination, "found", found_name(found))).inc();
        }
    }

    /// Measures a delivery that is done, from its receipt.
    pub fn done(&self, destination: &str, took: Duration) {
        self.done.get_or_create(&of(destination)).observe(took.as_secs_f64());
    }

    pub fn paused(&self, destination: &str) {
        self.pauses.get_or_create(&of(destination)).inc();
    }

    /// Takes over the requests that a destination has counted since the start. Only one caller for each budget.
    pub fn budget(&self, destination: &str, budget: &str, per_minute: f64, used: u64) {
        let labels = with(destination, "budget", budget);
        self.budget_limit.get_or_create(&labels).set(per_minute);
        let counter = self.budget_used.get_or_create(&labels);
        counter.inc_by(used.saturating_sub(counter.get()));
    }
}

pub fn of(destination: &str) -> Labels {
    vec![("destination", destination.to_owned())]
}

pub fn with(destination: &str, name: &'static str, value: &str) -> Labels {
    vec![("destination", destination.to_owned()), (name, value.to_owned())]
}

fn found_name(found: bool) -> &'static str {
    if found { "yes" } else { "no" }
}
