//! The history of a feed: the service skips it, and `casebridge backfill` imports it.

use casebridge_sandbox::khoros::{Answer, Call, PushFault, Style};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::{
    ADMIN, Bridge, Kind, LABEL, PRIVATE, World, event, free_port, leak, on_all, on_both, run, run_on_sqlite,
};
use crate::pull::{read_twice_more, start_reading, with_feeds};

/// Feeds are read each second, and nothing says from when on.
fn with_default(world: &mut World) {
    with_feeds(world);
    world.unset("FEED_SINCE");
}

fn days_ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

/// As Khoros prints the dates of events.
fn printed(time: Timestamp) -> Value {
    json!(time.strftime("%a %b %d %H:%M:%S UTC %Y").to_string())
}

/// A label event of this date about a post of the same name.
fn dated(id: &str, created: Value) -> Value {
    let mut event: Value = serde_json::from_str(&event(id, id)).unwrap();
    event["createdDate"] = created;
    event
}

fn old(id: &str, days: i64) -> Value {
    dated(id, printed(days_ago(days)))
}

/// Adds events to the feed that were never pushed.
fn append(world: &World, events: impl IntoIterator<Item = Value>) {
    world.khoros.model().subscriptions[0].feed.extend(events);
}

async fn status(world: &World) -> Value {
    let request = world.http.get(world.url("/status")).bearer_auth(ADMIN);
    request.send().await.unwrap().json().await.unwrap()
}

async fn wait_for_skipped(world: &World, count: usize) {
    while status(world).await["pull_skipped"] != count {
        let reads = world.khoros.model().feed_reads;
        world.khoros.wait_until(|model| model.feed_reads > reads).await;
    }
}

/// The field `since` of the line that every start logs.
async fn since(bridge: &Bridge) -> String {
    let line = bridge.wait_for("feed_since level=INFO").await;
    serde_json::from_str::<Value>(&line).unwrap()["since"].as_str().unwrap().to_owned()
}

/// Runs `casebridge backfill --json`, and returns its exit code and what it says of the first route.
async fn backfill(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = world.command_with_settings(&[&["backfill", "--json"], arguments].concat()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(leak(&text), None, "{text}");
    let document: Value =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}: {:?}", output.stderr));
    (output.status.code(), document["routes"][0].clone())
}

fn counts(found: &Value) -> [u64; 3] {
    ["events", "known", "new"].map(|name| found[name].as_u64().unwrap())
}

on_both! {
    async fn the_history_of_a_feed_makes_no_tickets(world: World) {
        let mut world = world;
        with_default(&mut world);
        let bridge = start_reading(&world).await;
        let in_time = |id, seconds| dated(id, printed(Timestamp::now() + SignedDuration::from_secs(seconds)));
        let mut undated = dated("undated", json!(null));
        undated.as_object_mut().unwrap().remove("createdDate");
        append(&world, [
            old("old-1", 90),
            dated("old-2", json!(days_ago(2).to_string())),
            dated("old-3", json!(days_ago(1).as_millisecond())),
            in_time("fresh", 0),
            in_time("of-a-clock-that-is-behind", -300),
            in_time("of-a-clock-that-is-ahead", 86_400),
            dated("unreadable", json!("the day before yesterday")),
            undated,
        ]);
        let line = bridge.wait_for("feed_history_skipped level=INFO route=label count=3").await;
        let command = format!("casebridge backfill --since {}", days_ago(90).strftime("%Y-%m-%d"));
        assert!(line.contains(&command) && !line.contains(PRIVATE), "{line}");
        bridge.wait_for("feed_read new=5").await;
        bridge.wait_for_nth("delivery_done", 5).await;
        wait_for_skipped(&world, 3).await;

        // They are counted once by each run, and become none later.
        read_twice_more(&world).await;
        assert_eq!(bridge.count("feed_history_skipped"), 1, "{}", bridge.log());
        let since = since(&bridge).await;
        assert_eq!(status(&world).await["pull_since"], *since);
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for("feed_history_skipped count=3").await;
        bridge.wait_for(&format!("feed_since since={since}")).await;
        wait_for_skipped(&world, 3).await;
        assert_eq!(world.list().await.len(), 5);
        world.check_one_ticket_per_case().await;
    }

    async fn pushed_events_are_delivered_and_not_counted_as_skipped(world: World) {
        let mut world = world;
        with_default(&mut world);
        let bridge = start_reading(&world).await;
        let pushed = [old("of-a-month-ago", 30), old("of-yesterday", 1)];
        for event in &pushed {
            assert_eq!(world.notify(&event.to_string()).await["new"], 1);
        }
        bridge.wait_for_nth("delivery_done", 2).await;
        append(&world, pushed);
        append(&world, [old("old", 1)]);
        bridge.wait_for("feed_history_skipped count=1").await;
        wait_for_skipped(&world, 1).await;
        read_twice_more(&world).await;
        assert_eq!(bridge.count("feed_history_skipped"), 1, "{}", bridge.log());
        world.check_one_ticket_per_case().await;
    }

    async fn an_event_of_a_long_downtime_is_fetched(world: World) {
        let mut world = world;
        with_default(&mut world);
        let bridge = start_reading(&world).await;
        bridge.wait_for("subscribed origin=push").await;
        assert!(bridge.stop().await.success());
        // The first start was three weeks ago.
        let earlier = "update memo set value = cast(cast(value as bigint) - 1814400000 as text) where scope = 'feed'";
        world.database.execute(earlier).await;
        world.khoros.model().push_faults = [PushFault::Lost, PushFault::Lost].into();
        world.khoros.apply_label(LABEL, &old("lost-a-week-ago", 7).to_string()).await;
        world.khoros.apply_label(LABEL, &old("before-the-first-start", 30).to_string()).await;
        let bridge = world.start().await;
        bridge.wait_for("feed_history_skipped count=1").await;
        bridge.wait_for("feed_read new=1").await;
        bridge.wait_for("delivery_done case=*:twitter:lost-a-week-ago").await;
        assert_eq!(world.list().await.len(), 1);
        world.check_one_ticket_per_case().await;
    }

    async fn the_default_is_the_oldest_delivery(world: World) {
        let mut world = world;
        with_default(&mut world);
        let bridge = start_reading(&world).await;
        bridge.wait_for("subscribed origin=push").await;
        for id in ["event-0", "event-1"] {
            world.khoros.apply_label(LABEL, &event(id, id)).await;
            bridge.wait_for(&format!("delivery_done case=*:twitter:{id}")).await;
        }
        assert!(bridge.stop().await.success());
        // As the version before has left it.
        world.database.execute("delete from memo where scope = 'feed'").await;
        world.database.execute("update delivery set received_at = received_at - 2592000000 where event_id = 'event-0'").await;
        append(&world, [old("before-it", 31), old("after-it", 29)]);
        let bridge = world.start().await;
        let received = world.list().await[0]["received_at"].as_str().unwrap().trim_end_matches('Z').to_owned();
        let since = since(&bridge).await;
        assert!(since.starts_with(&received), "{since} {received}");
        bridge.wait_for("feed_history_skipped count=1").await;
        bridge.wait_for("feed_read new=1").await;
        bridge.wait_for("delivery_done case=*:twitter:after-it").await;
        assert_eq!(world.list().await.len(), 3);
        world.check_one_ticket_per_case().await;
    }

    async fn feed_since_decides_where_the_history_ends(world: World) {
        let mut world = world;
        with_feeds(&mut world);
        world.set("FEED_SINCE", "2026-05-01T10:00+02:00");
        let bridge = start_reading(&world).await;
        assert_eq!(since(&bridge).await, "2026-05-01T08:00:00Z");
        let at = |id, time: &str| dated(id, printed(time.parse().unwrap()));
        append(&world, [at("before", "2026-05-01T07:59:59Z"), at("then", "2026-05-01T08:00:00Z")]);
        bridge.wait_for("feed_history_skipped count=1").await;
        bridge.wait_for("feed_read new=1").await;
        bridge.wait_for("delivery_done case=*:twitter:then").await;
        assert!(bridge.stop().await.success());
        // Nothing of it is stored.
        world.set("FEED_SINCE", "1970-01-01");
        let bridge = world.start().await;
        bridge.wait_for("delivery_done case=*:twitter:before").await;
        wait_for_skipped(&world, 0).await;
        assert_eq!(bridge.count("feed_history_skipped"), 0);
        world.check_one_ticket_per_case().await;
    }

    async fn a_first_start_with_a_clock_that_ran_ahead_loses_nothing(world: World) {
        let mut world = world;
        with_default(&mut world);
        assert!(start_reading(&world).await.stop().await.success());
        let ahead = "update memo set value = cast(cast(value as bigint) + 86400000 as text) where scope = 'feed'";
        world.database.execute(ahead).await;
        append(&world, [dated("fresh", printed(Timestamp::now()))]);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done case=*:twitter:fresh").await;
    }

    async fn a_backfill_into_a_new_database_duplicates_no_ticket(world: World) {
        let mut world = world;
        with_default(&mut world);
        let bridge = start_reading(&world).await;
        let pushed = [old("1", 20), old("2", 10)];
        for event in &pushed {
            world.notify(&event.to_string()).await;
        }
        bridge.wait_for_nth("delivery_done", 2).await;
        append(&world, pushed);
        append(&world, [old("3", 5)]);
        assert!(bridge.stop().await.success());

        let world = world.with_an_empty_database().await;
        let bridge = world.start().await;
        bridge.wait_for("feed_history_skipped count=3").await;
        let (code, found) = backfill(&world, &["--since", "2020-01-01"]).await;
        assert_eq!((code, counts(&found)), (Some(0), [3, 0, 3]), "{found}");
        bridge.wait_for_nth("delivery_done", 3).await;
        assert_eq!(world.zendesk.model().creates, 3, "only one was missing");
        world.check_one_ticket_per_case().await;
    }
}

on_all! {
    async fn a_backfill_imports_the_history_once(world: World) {
        let mut world = world;
        with_default(&mut world);
        let bridge = start_reading(&world).await;
        let pushed = old("pushed", 20);
        world.notify(&pushed.to_string()).await;
        append(&world, [pushed, old("a", 60), old("b", 30), old("c", 20), old("d", 10)]);
        bridge.wait_for("delivery_done case=*:twitter:pushed").await;
        bridge.wait_for("feed_history_skipped count=4").await;
        let changes = |world: &World| {
            let model = world.khoros.model();
            (model.calls, model.puts, model.deletes)
        };
        let before = changes(&world);

        let since = days_ago(40).to_string();
        let (code, found) = backfill(&world, &["--since", &since, "--dry-run"]).await;
        assert_eq!((code, counts(&found)), (Some(0), [4, 1, 3]), "{found}");
        assert_eq!(found["first"][0], "khoros:1234:b:twitter:b");
        assert_eq!(world.list().await.len(), 1, "a dry run changes nothing");

        let until = days_ago(15).to_string();
        let (code, found) = backfill(&world, &["--since", &since, "--until", &until, "--route", "label"]).await;
        assert_eq!((code, counts(&found)), (Some(0), [3, 1, 2]), "{found}");
        bridge.wait_for("delivery_done case=*:twitter:b").await;
        bridge.wait_for("delivery_done case=*:twitter:c").await;
        let (_, found) = backfill(&world, &["--since", &since, "--until", &until]).await;
        assert_eq!(counts(&found), [3, 3, 0], "{found}");
        assert_eq!(world.list().await.len(), 3);

        // Without a running service, the next start delivers it.
        assert!(bridge.stop().await.success());
        let (code, found) = backfill(&world, &["--since", &since]).await;
        assert_eq!((code, counts(&found)), (Some(0), [4, 3, 1]), "{found}");
        assert_eq!(world.waiting().await.len(), 1);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done case=*:twitter:d").await;
        bridge.wait_for("feed_history_skipped count=1").await;
        assert_eq!((world.list().await.len(), world.zendesk.model().creates), (4, 4));
        assert_eq!(changes(&world), before, "the subscription was changed");
        world.check_one_ticket_per_case().await;
    }
}

/// What a person reads: the counts, the first few ids, and no texts.
#[tokio::test]
async fn a_backfill_prints_what_it_does() {
    run_on_sqlite(async |mut world: World| {
        with_default(&mut world);
        let bridge = start_reading(&world).await;
        append(&world, (1..=5).map(|number| old(&format!("e{number}"), 10)));
        bridge.wait_for("feed_history_skipped count=5").await;
        let run = async |arguments: &[&str]| {
            let output = world
                .command_with_settings(&[&["backfill", "--since", "2020-01-01"], arguments].concat())
                .await;
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!((leak(&text), output.status.code()), (None, Some(0)), "{text}");
            text
        };
        let day = days_ago(10).strftime("%Y-%m-%d").to_string();
        let dry = run(&["--dry-run"]).await;
        for part in [
            "label: 5 events, 0 known, 5 new, from ",
            &day,
            "khoros:1234:e3:twitter:e3",
            "and 2 more",
            "would import 5 event(s)",
        ] {
            assert!(dry.contains(part), "{part}: {dry}");
        }
        assert!(!dry.contains("e4"), "{dry}");
        assert!(run(&[]).await.contains("imported 5 event(s)"));
        assert!(run(&[]).await.contains("5 known, 0 new"));
        bridge.wait_for_nth("delivery_done", 5).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_backfill_can_be_restarted() {
    run_on_sqlite(async |mut world: World| {
        with_default(&mut world);
        world.zendesk.stop();
        start_reading(&world).await.stop().await;
        append(&world, (0..150).map(|number| old(&number.to_string(), 10)));
        world.khoros.queue(Call::Feed, [Answer::Json, Answer::Status(500)]);
        let (code, found) = backfill(&world, &["--since", "2020-01-01"]).await;
        assert_eq!((code, counts(&found)), (Some(1), [100, 0, 100]), "{found}");
        assert!(found["error"].as_str().unwrap().contains("500"), "{found}");
        // The gateway has its own limit.
        world.khoros.queue(Call::Feed, [Answer::Json, Answer::Throttled]);
        let (code, found) = backfill(&world, &["--since", "2020-01-01"]).await;
        assert_eq!((code, counts(&found)), (Some(0), [150, 100, 50]), "{found}");
        assert_eq!(world.list().await.len(), 150);
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_too_long_does_not_stop_a_backfill() {
    run_on_sqlite(async |mut world: World| {
        with_default(&mut world);
        start_reading(&world).await.stop().await;
        let mut long = old("long", 10);
        long["data"]["items"][0]["text"] = json!("x".repeat(17 << 20));
        append(&world, [old("before", 10), long, old("after", 10)]);
        let (code, found) = backfill(&world, &["--since", "2020-01-01"]).await;
        assert_eq!((code, counts(&found), &found["too_long"]), (Some(1), [2, 0, 2], &json!(1)), "{found}");
        assert_eq!(world.waiting().await.len(), 2);
    })
    .await;
}

/// The database takes everything but that decision: no feed is read until it does.
#[tokio::test]
async fn no_feed_is_read_while_the_start_date_is_unknown() {
    run_on_sqlite(async |mut world: World| {
        with_default(&mut world);
        start_reading(&world).await.stop().await;
        world.database.execute("delete from memo where scope = 'feed'").await;
        let refuse = "create trigger refuse before insert on memo when new.scope = 'feed'
                      begin select raise(abort, 'refused'); end";
        world.database.execute(refuse).await;
        append(&world, [old("old", 1), dated("fresh", printed(Timestamp::now()))]);
        let reads = world.khoros.model().feed_reads;
        let bridge = world.start_subscribed().await;
        bridge.wait_for_nth("feed_since_unknown level=WARN", 2).await;
        assert_eq!(world.khoros.model().feed_reads, reads);
        world.database.take_every_event().await;
        bridge.wait_for("delivery_done case=*:twitter:fresh").await;
        bridge.wait_for("feed_history_skipped count=1").await;
    })
    .await;
}

#[tokio::test]
async fn a_backfill_that_cannot_be_done_says_why() {
    run_on_sqlite(async |mut world: World| {
        with_default(&mut world);
        let fail = async |world: &World, arguments: &[&str], code: i32, reason: &str| {
            let output = world.command_with_settings(&[&["backfill"], arguments].concat()).await;
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
            assert!(text.contains(reason), "{reason}: {text}");
        };
        fail(&world, &["--since", "2020-01-01"], 1, "cannot be opened").await;
        start_reading(&world).await.stop().await;
        fail(&world, &[], 2, "--since").await;
        fail(&world, &["--since", "May"], 2, "is neither a time, as in 2026-05-01, nor how long ago").await;
        fail(&world, &["--since", "2020-01-01", "--route", "vip"], 1, "the configured routes are label")
            .await;
        world.set("ROUTE_VIP_LABEL", "VIP");
        fail(&world, &["--since", "2020-01-01"], 1, "no subscription `send-to-zendesk-vip`").await;
        world.unset("ROUTE_VIP_LABEL");
        world.khoros.model().style = Style::Text;
        fail(&world, &["--since", "2020-01-01"], 1, "does not offer this").await;
        world.set("FEED_SINCE", "9000-01-01");
        fail(&world, &["--since", "2020-01-01"], 2, "FEED_SINCE is in the future").await;
        world.set("FEED_SINCE", "May");
        fail(&world, &["--since", "2020-01-01"], 2, "FEED_SINCE is not a date").await;
        let (status, log) = world.spawn().end_with_log().await;
        assert!(status.code() == Some(2) && log.contains("FEED_SINCE is not a date"), "{log}");
    })
    .await;
}

/// The first of them decides.
#[tokio::test]
async fn all_instances_agree_on_the_default() {
    run(Kind::Postgres, async |mut world: World| {
        with_default(&mut world);
        let first = world.spawn();
        let second = world.start_beside(free_port()).await;
        assert_eq!(since(&first).await, since(&second).await);
        first.wait_for("feed_status status=available").await;
        second.wait_for("feed_status status=available").await;
        append(&world, [old("old", 1), dated("fresh", printed(Timestamp::now()))]);
        first.wait_for("feed_history_skipped count=1").await;
        second.wait_for("feed_history_skipped count=1").await;
        world.tickets(1).await;
        assert_eq!(world.list().await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_check_shows_from_when_on_events_count() {
    run_on_sqlite(async |mut world: World| {
        with_default(&mut world);
        let text = async |world: &World| {
            let output = world.command_with_settings(&["check", "--json"]).await;
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let rows = report["rows"].as_array().unwrap().clone();
            let row = rows.into_iter().find(|row| row["name"] == "khoros pull").unwrap();
            row["text"].as_str().unwrap().to_owned()
        };
        let bridge = start_reading(&world).await;
        let since = since(&bridge).await;
        let (second, _) = since.split_once('.').unwrap_or((since.trim_end_matches('Z'), ""));
        assert!(text(&world).await.contains(&format!("events since {second}Z are delivered")), "{since}");
        world.database.execute("delete from memo where scope = 'feed'").await;
        assert!(text(&world).await.contains("the first start of `serve` sets the start date"));
        world.set("FEED_SINCE", "2026-05-01");
        assert!(text(&world).await.contains("events since 2026-05-01T00:00:00Z are delivered"));
    })
    .await;
}
