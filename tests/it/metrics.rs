//! `GET /metrics`, the counts behind it, and the dashboard and rules in `deploy`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use casebridge_sandbox::zendesk::Fault;
use serde_json::{Value, json};

use crate::harness::{ADMIN, World, event, event_with, leak, on_both, run_on_sqlite};

/// The samples of an exposition by name and labels, as they are written. Fails at a line that is neither a comment nor
/// a sample, and at a sample that comes twice.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with("# HELP ") && !line.starts_with("# TYPE ")) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert_eq!(samples.insert(name.to_owned(), value), None, "twice: {line}");
    }
    samples
}

async fn text(world: &World) -> String {
    let response = world.http.get(world.url("/metrics")).bearer_auth(ADMIN).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text = response.text().await.unwrap();
    assert_eq!(leak(&text), None, "{text}");
    for word in ["event-", "twitter:", "http://"] {
        assert!(!text.contains(word), "an id or an address: {text}");
    }
    text
}

async fn scrape(world: &World) -> BTreeMap<String, f64> {
    samples(&text(world).await)
}

/// Scrapes until a sample has this value. Samples from the database are up to a second old.
pub async fn wait_for(world: &World, sample: &str, value: f64) -> BTreeMap<String, f64> {
    loop {
        let samples = scrape(world).await;
        if samples.get(sample) == Some(&value) {
            return samples;
        }
    }
}

on_both! {
    async fn the_numbers_show_what_happened(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "1");
        world.set("ROUTE_VIP_LABEL", "VIP");
        let bridge = world.start_subscribed().await;
        let first = scrape(&world).await;
        for (name, value) in [
            ("casebridge_storage_up", 1.0),
            ("casebridge_unaccounted", 0.0),
            ("casebridge_received_total{route=\"label\"}", 0.0),
            ("casebridge_received_total{route=\"vip\"}", 0.0),
            ("casebridge_attempts_total{destination=\"zendesk\",outcome=\"refused\"}", 0.0),
            ("casebridge_deliveries{destination=\"zendesk\",state=\"dead\"}", 0.0),
            ("casebridge_oldest_waiting_seconds{destination=\"zendesk\"}", 0.0),
            ("casebridge_held{destination=\"zendesk\",reason=\"storm_limit\"}", 0.0),
            ("casebridge_destination_paused{destination=\"zendesk\"}", 0.0),
            ("casebridge_refused_notifications_total{status=\"400\"}", 0.0),
        ] {
            assert_eq!(first.get(name), Some(&value), "{name} in {first:#?}");
        }
        assert!(!first.contains_key("casebridge_last_event_timestamp_seconds{route=\"label\"}"));

        world.notify(&event("event-1", "1")).await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        world.zendesk.queue([Fault::Invalid]);
        world.notify(&event("event-2", "2")).await;
        bridge.wait_for("delivery_dead").await;
        world.zendesk.queue([Fault::Status(500), Fault::TooMany(1)]);
        world.notify(&event("event-3", "3")).await;
        bridge.wait_for("delivery_done ticket=1001").await;
        let done = "casebridge_deliveries{destination=\"zendesk\",state=\"done\"}";
        let last = wait_for(&world, done, 2.0).await;
        for (name, value) in [
            ("casebridge_received_total{route=\"label\"}", 4.0),
            ("casebridge_new_total{route=\"label\"}", 3.0),
            ("casebridge_duplicate_total{route=\"label\"}", 1.0),
            ("casebridge_attempts_total{destination=\"zendesk\",outcome=\"done\"}", 2.0),
            ("casebridge_attempts_total{destination=\"zendesk\",outcome=\"refused\"}", 1.0),
            ("casebridge_attempts_total{destination=\"zendesk\",outcome=\"retry\"}", 1.0),
            ("casebridge_attempts_total{destination=\"zendesk\",outcome=\"pause\"}", 1.0),
            ("casebridge_lookups_total{destination=\"zendesk\",found=\"no\"}", 2.0),
            ("casebridge_pauses_total{destination=\"zendesk\"}", 1.0),
            ("casebridge_deliveries{destination=\"zendesk\",state=\"dead\"}", 1.0),
            ("casebridge_deliveries{destination=\"zendesk\",state=\"waiting\"}", 0.0),
            ("casebridge_unaccounted", 0.0),
            ("casebridge_receive_to_done_seconds_count{destination=\"zendesk\"}", 2.0),
            ("casebridge_accept_seconds_count", 4.0),
            ("casebridge_commit_items_sum", 4.0),
            ("casebridge_subscription{route=\"label\",state=\"subscribed\"}", 1.0),
            ("casebridge_subscription{route=\"label\",state=\"failing\"}", 0.0),
        ] {
            assert_eq!(last.get(name), Some(&value), "{name} in {last:#?}");
        }
        assert!(last["casebridge_budget_used_total{destination=\"zendesk\",budget=\"requests\"}"] >= 4.0);
        assert_eq!(last["casebridge_budget_limit{destination=\"zendesk\",budget=\"updates\"}"], 30.0);
        assert!(last["casebridge_storage_bytes"] > 0.0);
        assert!(last["casebridge_last_event_timestamp_seconds{route=\"label\"}"] > 1.7e9);
    }

    async fn a_deleted_delivery_is_unaccounted_for(world: World) {
        let mut world = world;
        let _webhook = world.with_webhook().await;
        world.set("DELIVER_THEN", "webhook");
        let bridge = world.start().await;
        for post in ["1", "2"] {
            world.notify(&event(&format!("event-{post}"), post)).await;
        }
        bridge.wait_for_nth("delivery_done destination=webhook", 2).await;
        let done = "casebridge_deliveries{destination=\"webhook\",state=\"done\"}";
        assert_eq!(wait_for(&world, done, 2.0).await["casebridge_unaccounted"], 0.0);

        world.database.execute("delete from delivery where event_id = 'event-1'").await;
        let samples = wait_for(&world, "casebridge_unaccounted", 2.0).await;
        assert_eq!(samples[done], 1.0);

        // Without its row, the event is a new one.
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for_nth("delivery_done destination=webhook", 3).await;
        assert_eq!(wait_for(&world, done, 2.0).await["casebridge_unaccounted"], 2.0);
    }

    async fn losses_do_not_cancel_out(world: World) {
        let _bridge = world.start().await;
        let count = "insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead)
                     values ('label', 'zendesk', 1, 2, 0, 0, 0, 0), ('vip', 'zendesk', 1, -2, 0, 0, 0, 0)";
        world.database.execute(count).await;
        wait_for(&world, "casebridge_unaccounted", 4.0).await;
    }

    async fn what_waits_behind_a_held_delivery_has_no_age(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "1");
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        world.notify(&event("event-2", "2")).await;
        let held = "casebridge_held{destination=\"zendesk\",reason=\"storm_limit\"}";
        let waiting = "casebridge_deliveries{destination=\"zendesk\",state=\"waiting\"}";
        let oldest = "casebridge_oldest_waiting_seconds{destination=\"zendesk\"}";
        wait_for(&world, held, 1.0).await;
        world.notify(&event("event-3", "2")).await;
        let samples = wait_for(&world, waiting, 2.0).await;
        assert_eq!((samples[held], samples[oldest]), (1.0, 0.0));
        // Another case has an age.
        world.zendesk.stop();
        world.notify(&event_with("event-4", "1", |item| item["notes"] = json!([{"text": "a note"}]))).await;
        while scrape(&world).await[oldest] == 0.0 {}
    }

    async fn what_a_limit_holds_back_has_no_age(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "1");
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        world.notify(&event("event-2", "2")).await;
        let held = "casebridge_held{destination=\"zendesk\",reason=\"storm_limit\"}";
        let oldest = "casebridge_oldest_waiting_seconds{destination=\"zendesk\"}";
        assert_eq!(wait_for(&world, held, 1.0).await[oldest], 0.0);

        // An hour later it may be sent, and Zendesk is away: now it ages.
        world.zendesk.stop();
        world.database.execute("update memo set at = at - 3600000 where scope like 'zendesk.created.%'").await;
        bridge.wait_for("destination_paused").await;
        loop {
            let samples = wait_for(&world, held, 0.0).await;
            if samples[oldest] > 0.0 {
                assert_eq!(samples["casebridge_destination_paused{destination=\"zendesk\"}"], 1.0);
                break;
            }
        }
    }

    async fn no_attempt_outlives_the_texts_of_its_delivery(world: World) {
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        bridge.stop().await;
        let inbox = crate::inbox::open(&world).await;
        let id = "khoros:1234:event-1:twitter:1";
        assert_eq!(inbox.attempts(id, "zendesk").await.unwrap().len(), 1);
        let retention = casebridge::config::Retention { done: std::time::Duration::ZERO, dead: std::time::Duration::ZERO };
        while inbox.erase(retention, i64::MAX, 10).await.unwrap() == 0 {}
        assert!(inbox.attempts(id, "zendesk").await.unwrap().is_empty());
    }

    async fn an_erasure_by_the_version_before_leaves_no_text(world: World) {
        let mut world = world;
        world.without_zendesk();
        world.set("DELIVER_TO", "twilio");
        let _twilio = world.with_twilio().await;
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for_nth("delivery_done destination=twilio", 2).await;
        bridge.stop().await;
        let erase = "update delivery set payload = '', request = null, last_error = null";
        world.database.execute(erase).await;
        let inbox = crate::inbox::open(&world).await;
        let rows = inbox.list(None, None, None, 10).await.unwrap();
        let mut targets: Vec<&str> = rows.iter().map(|row| row.target.as_str()).collect();
        targets.sort_unstable();
        assert_eq!(targets, ["…0147", "…0148"]);
        for row in &rows {
            assert!(inbox.attempts(&row.identity, "twilio").await.unwrap().is_empty());
        }
        let output = world.command(&["show", "https://twitter.com/link"]).await;
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no delivery"), "{output:?}");
    }

    async fn only_the_admin_token_opens_the_metrics(world: World) {
        let mut world = world;
        let bridge = world.start().await;
        for token in ["", "the-bearer-token-of-the-tests", "another-token-of-somebody"] {
            let response = world.http.get(world.url("/metrics")).bearer_auth(token).send().await.unwrap();
            assert_eq!(response.status(), 401);
        }
        bridge.wait_for("admin_token_refused level=WARN count=1").await;
        // All of these came within the first minute.
        assert_eq!(bridge.count("admin_token_refused"), 1);
        bridge.stop().await;

        world.unset("ADMIN_TOKEN");
        let bridge = world.start().await;
        let plain = async |world: &World| world.http.get(world.url("/metrics")).send().await.unwrap();
        assert_eq!(plain(&world).await.status(), 404);
        bridge.stop().await;

        world.set("METRICS_PUBLIC", "1");
        let _bridge = world.start().await;
        assert_eq!(plain(&world).await.status(), 200);
        assert_eq!(world.http.get(world.url("/status")).send().await.unwrap().status(), 404);
    }

    async fn every_metric_in_deploy_exists(world: World) {
        let mut world = world;
        let (_webhook, _flow) = (world.with_webhook().await, world.with_flow().await);
        world.set("DELIVER_THEN", "webhook,flow");
        let bridge = world.start_subscribed().await;
        world.notify(&event_with("event-1", "1", |item| item["notes"] = json!([]))).await;
        bridge.wait_for("delivery_done destination=flow").await;
        let samples = wait_for(&world, "casebridge_deliveries{destination=\"flow\",state=\"done\"}", 1.0).await;
        let exposed: BTreeSet<&str> = samples.keys().map(|name| name.split('{').next().unwrap()).collect();
        let page = fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
        let mut used = 0;
        for (path, text) in deployed() {
            for name in metrics_in(&text) {
                used += 1;
                // Only SQLite has its own log, and only some credentials say when they end.
                let is_absent = name == "casebridge_wal_bytes" && world.database.url.starts_with("postgres");
                let is_optional = name == "casebridge_credential_expiry_timestamp_seconds";
                let exists = exposed.contains(name.as_str()) || is_absent || is_optional;
                assert!(exists, "{} names {name}, which is not in {exposed:?}", path.display());
            }
        }
        assert!(used > 20, "{used}");
        for name in exposed {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let base = base.filter(|base| base.ends_with("_seconds") || base.ends_with("_items")).unwrap_or(name);
            assert!(page.contains(&format!("`{base}")), "docs/monitoring.md does not explain {base}");
        }
    }
}

#[tokio::test]
async fn the_dashboard_is_one_that_grafana_can_import() {
    let text = fs::read_to_string(root().join("deploy/grafana/casebridge.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{target}");
        }
    }
}

#[tokio::test]
async fn scrapes_without_a_database_say_so() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        world.database.execute("drop table delivery_count").await;
        let samples = wait_for(&world, "casebridge_storage_up", 0.0).await;
        assert!(!samples.contains_key("casebridge_unaccounted"), "{samples:?}");
        bridge.stop().await;
    })
    .await;
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The dashboard and the rules.
fn deployed() -> Vec<(PathBuf, String)> {
    let files = ["deploy/grafana/casebridge.json", "deploy/prometheus/casebridge.rules.yml"];
    let read = |file: &str| (PathBuf::from(file), fs::read_to_string(root().join(file)).unwrap());
    files.into_iter().map(read).collect()
}

fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("casebridge_")).map(str::to_owned).collect()
}
