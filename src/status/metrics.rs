//! The snapshot as metrics. Several processes on one database show the same numbers: aggregate them with `max`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Status, StatusSource};
use crate::delivery::limit_name;
use crate::inbox::{Alert, LastEvent, Size, Summary};
use crate::metrics::{Labels, of, with};
use crate::source::khoros::feed::PullStatus;
use crate::source::khoros::subscription::SubscriptionStatus;

impl StatusSource {
    /// Returns the samples of a snapshot in the text format of Prometheus.
    pub async fn metrics(&self) -> String {
        let (status, size, written) =
            tokio::join!(self.snapshot(), self.inbox.size(), self.inbox.check_writable());
        let mut page = Page::default();
        let help = "Whether the database answered and accepted a write for this scrape";
        let is_up = status.stored.is_ok() && written.is_ok();
        page.gauge("storage_up", help, [(vec![], i64::from(is_up))]);
        status.write_metrics(&mut page);
        if let Ok(size) = size {
            write_size(&mut page, size);
        }
        page.text()
    }
}

/// Samples that are known at this moment.
struct Page(Registry);

impl Default for Page {
    fn default() -> Page {
        Page(Registry::with_prefix("casebridge"))
    }
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, i64)>) {
        let family: Family<Labels, Gauge> = Family::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn seconds(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, i64)>) {
        let family: Family<Labels, Gauge<f64, AtomicU64>> = Family::default();
        for (labels, millis) in samples {
            family.get_or_create(&labels).set(millis as f64 / 1000.0);
        }
        self.0.register(name, help, family);
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // A string takes everything.
        let _ = encode(&mut text, &self.0);
        text
    }
}

impl Status {
    fn write_metrics(&self, page: &mut Page) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        page.gauge("build_info", "The version of casebridge; always 1", [(version, 1)]);
        if let Ok((summary, last_events, alerts)) = &self.stored {
            self.write_deliveries(page, summary);
            write_last_events(page, last_events);
            self.write_alerts(page, alerts);
        }
        let ends =
            |(name, at): &(&str, Timestamp)| (vec![("credential", (*name).to_owned())], at.as_millisecond());
        let help = "When the credential in a setting expires, if that is known";
        page.seconds("credential_expiry_timestamp_seconds", help, self.known.expiries.iter().map(ends));
        let paused = self.destinations.iter().map(|(name, lane)| (of(name), i64::from(lane.is_paused())));
        page.gauge("destination_paused", "Whether the destination is paused", paused);
        let subscriptions = self.subscriptions.iter().flat_map(|(route, status)| {
            let labels = |state: &str| vec![("route", route.clone()), ("state", state.to_owned())];
            let sample = move |state: &str| (labels(state), i64::from(status.as_str() == state));
            SubscriptionStatus::NAMES.map(sample)
        });
        page.gauge("subscription", "The state of each route's subscription in Khoros: 1", subscriptions);
        let feed = PullStatus::NAMES
            .map(|state| (vec![("state", state.to_owned())], i64::from(self.pull.status.as_str() == state)));
        page.gauge("feed", "The state of the feeds: 1", feed);
        self.write_refused(page);
    }

    fn write_deliveries(&self, page: &mut Page, summary: &Summary) {
        let configured = self.destinations.iter().map(|(name, _)| (of(name), 0));
        let oldest = summary.destinations.iter();
        let oldest = oldest.map(|counts| (of(&counts.destination), counts.oldest_ms.unwrap_or(0)));
        let help = "How long the oldest waiting delivery has waited since it may be sent; 0 if none waits";
        page.seconds("oldest_waiting_seconds", help, configured.chain(oldest));
        let states = self
            .destinations
            .iter()
            .flat_map(|(name, _)| ["waiting", "done", "dead"].map(|state| (with(name, "state", state), 0)));
        let mut deliveries: Vec<(Labels, i64)> = states.collect();
        for counts in &summary.destinations {
            for (state, count) in [("waiting", counts.waiting), ("done", counts.done), ("dead", counts.dead)]
            {
                deliveries.push((with(&counts.destination, "state", state), count));
            }
        }
        page.gauge("deliveries", "Deliveries by destination and state", deliveries);
        let configured = self.destinations.iter().map(|(name, _)| (of(name), 0));
        let in_doubt = summary.destinations.iter();
        let in_doubt = in_doubt.map(|counts| (of(&counts.destination), counts.in_doubt));
        let help = "Waiting deliveries that may have been sent, and are looked up first";
        page.gauge("in_doubt", help, configured.chain(in_doubt));
        // A surplus of one route does not make up for a loss of another.
        let unaccounted = summary.counts.iter().map(|counts| counts.unaccounted().saturating_abs()).sum();
        let help = "Deliveries that were received and are neither waiting nor done nor dead; anything but 0 is a loss";
        page.gauge("unaccounted", help, [(vec![], unaccounted)]);
        let mut held: BTreeMap<Labels, i64> = BTreeMap::new();
        for (name, limits) in &self.known.limits {
            held.extend(limits.iter().map(|limit| (with(name, "reason", limit), 0)));
        }
        for one in &summary.held {
            let labels = with(&one.destination, "reason", &limit_name(&one.reason));
            *held.entry(labels).or_default() += one.waiting;
        }
        page.gauge("held", "Waiting deliveries that a limit holds back, by limit", held);
    }

    fn write_alerts(&self, page: &mut Page, alerts: &[Alert]) {
        let sample = |code: &str, value: i64| (vec![("alert", code.to_owned())], value);
        let all = self.known.alerts.iter().map(|code| sample(code, 0));
        let firing = alerts.iter().filter(|alert| alert.is_firing()).map(|alert| sample(&alert.code, 1));
        page.gauge("alert_firing", "Whether an alert with this code is firing", all.chain(firing));
    }

    fn write_refused(&self, page: &mut Page) {
        let family: Family<Labels, Counter> = Family::default();
        for (status, count) in &self.refused {
            family.get_or_create(&vec![("status", status.to_string())]).inc_by(*count);
        }
        let help = "Notifications with a valid token that were refused, by HTTP status";
        page.0.register("refused_notifications", help, family);
    }
}

fn write_last_events(page: &mut Page, last_events: &[LastEvent]) {
    let last = last_events.iter().map(|last| (vec![("route", last.route.clone())], last.at));
    let help = "When the last event of each route was received; missing until there is one";
    page.seconds("last_event_timestamp_seconds", help, last);
}

fn write_size(page: &mut Page, size: Size) {
    let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    page.gauge("storage_bytes", "The size of the database", [(vec![], bytes(size.database))]);
    if let Some(log) = size.log {
        let help = "The size of SQLite's write-ahead log";
        page.gauge("wal_bytes", help, [(vec![], bytes(log))]);
    }
}
