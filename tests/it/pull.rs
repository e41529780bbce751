//! Reading the feeds: events that were not pushed become tickets, and pushed ones get no second ticket.

use std::net::SocketAddr;

use casebridge_sandbox::khoros::{Answer, Call, FeedOrder, FeedShape, PushFault, Style};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    ADMIN, Bridge, Kind, LABEL, PRIVATE, Proxy, Wire, World, event, on_both, run, run_on_sqlite,
};

/// Khoros shows its subscriptions and has feeds, which are read every second. Published examples are of 2017.
pub fn with_feeds(world: &mut World) {
    let mut model = world.khoros.model();
    model.style = Style::Json;
    model.feed_shape = FeedShape::Array;
    drop(model);
    world.set("SPREDFAST_POLL_SECONDS", "1");
    world.set("FEED_SINCE", "2017-01-01");
}

/// The same, and nothing is pushed.
fn with_feeds_alone(world: &mut World) {
    with_feeds(world);
    world.set("SPREDFAST_MODE", "poll");
    world.unset("PUBLIC_URL");
    world.unset("NOTIFICATION_BEARER_TOKEN");
}

pub async fn start_reading(world: &World) -> Bridge {
    let bridge = world.start().await;
    bridge.wait_for("feed_status status=available").await;
    bridge
}

/// Emits one event for each of these posts, and loses its push.
async fn emit_lost(world: &World, posts: std::ops::Range<usize>) {
    for post in posts {
        world.khoros.model().push_faults.push_back(PushFault::Lost);
        world.khoros.apply_label(LABEL, &event(&format!("event-{post}"), &post.to_string())).await;
        world.khoros.model().push_faults.clear();
    }
}

/// Appends these events, a second apart, to the new end of the first feed.
fn append(world: &World, numbers: std::ops::Range<usize>) {
    let event = |number: usize| {
        let mut event: Value =
            serde_json::from_str(&event(&format!("event-{number}"), &number.to_string())).unwrap();
        event["createdDate"] = json!(1_780_000_000_000_u64 + 1000 * number as u64);
        event
    };
    world.khoros.model().subscriptions[0].feed.extend(numbers.map(event));
}

/// Waits until all events that are in the feeds now have been read once more.
pub async fn read_twice_more(world: &World) {
    for _ in 0..2 {
        let reads = world.khoros.model().feed_reads;
        // A feed that has a second page is at its end with the fourth at the latest.
        world.khoros.wait_until(|model| model.feed_reads >= reads + 4).await;
    }
}

async fn status(world: &World) -> Value {
    let request = world.http.get(world.url("/status")).bearer_auth(ADMIN);
    request.send().await.unwrap().json::<Value>().await.unwrap()["pull"].clone()
}

async fn wait_for_status(world: &World, is_expected: impl Fn(&Value) -> bool) {
    while !is_expected(&status(world).await) {
        let reads = world.khoros.model().feed_reads;
        world.khoros.wait_until(|model| model.feed_reads > reads).await;
    }
}

on_both! {
    async fn pushed_events_are_not_stored_again(world: World) {
        let mut world = world;
        with_feeds(&mut world);
        world.khoros.model().push_faults = [PushFault::Twice].into();
        let bridge = start_reading(&world).await;
        for post in 0..3 {
            world.khoros.apply_label(LABEL, &event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done", 3).await;
        read_twice_more(&world).await;
        assert_eq!(world.list().await.len(), 3);
        assert!(bridge.stop().await.success());
        let bridge = start_reading(&world).await;
        read_twice_more(&world).await;
        assert_eq!(bridge.count("feed_read level=INFO"), 0, "{}", bridge.log());
        assert_eq!(world.list().await.len(), 3);
        assert_eq!(world.zendesk.model().tickets.len(), 3);
        world.check_one_ticket_per_case().await;
    }

    async fn read_events_are_not_stored_again_by_a_push(world: World) {
        let mut world = world;
        with_feeds(&mut world);
        let bridge = start_reading(&world).await;
        world.khoros.model().push_faults = [PushFault::Late].into();
        world.khoros.apply_label(LABEL, &event("event-1", "1")).await;
        let line = bridge.wait_for("feed_read new=1").await;
        assert!(line.contains("label") && !line.contains(PRIVATE), "{line}");
        bridge.wait_for("delivery_done ticket=1000").await;
        assert!(matches!(world.khoros.release().await[..], [Ok(200)]));
        bridge.kill().await;
        let _bridge = start_reading(&world).await;
        assert_eq!(world.notify(&event("event-1", "1")).await["new"], 0);
        assert_eq!(world.list().await.len(), 1);
        world.check_one_ticket_per_case().await;
    }

    async fn events_of_the_downtime_are_read_at_the_start(world: World) {
        let mut world = world;
        with_feeds(&mut world);
        // By the clock it would not be read in the time of this test.
        world.set("SPREDFAST_POLL_SECONDS", "86400");
        let bridge = start_reading(&world).await;
        world.khoros.apply_label(LABEL, &event("event-0", "0")).await;
        bridge.wait_for("delivery_done").await;
        bridge.kill().await;
        for post in 1..4 {
            let answers = world.khoros.apply_label(LABEL, &event(&format!("event-{post}"), &post.to_string())).await;
            assert!(matches!(answers[..], [Err(_)]), "{answers:?}");
        }
        let bridge = world.start().await;
        bridge.wait_for("feed_read new=3").await;
        bridge.wait_for_nth("delivery_done", 3).await;
        assert_eq!(world.list().await.len(), 4);
        world.check_one_ticket_per_case().await;
    }

    async fn the_feed_alone_does_the_whole_job(world: World) {
        let mut world = world;
        with_feeds_alone(&mut world);
        let bridge = start_reading(&world).await;
        {
            let model = world.khoros.model();
            let remote = &model.subscriptions[0];
            assert!(remote["notificationUri"].is_null() && remote["bearerToken"].is_null(), "{:?}", remote.sent);
        }
        for post in 0..3 {
            world.khoros.apply_label(LABEL, &event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done", 3).await;
        assert_eq!(world.post(event("event-4", "4")).await.status(), 401, "nobody has a token");
        assert_eq!(world.http.get(world.url("/readyz")).send().await.unwrap().status(), 200);
        let page = world.http.get(world.url("/")).send().await.unwrap().text().await.unwrap();
        assert!(!page.contains("PUBLIC_URL"), "{page}");
        assert_eq!(status(&world).await, "available");
        world.check_one_ticket_per_case().await;
    }

    async fn a_feed_is_read_where_it_grows(world: World) {
        check_it_is_read_where_it_grows(world, FeedOrder::OldestFirst).await;
    }

    async fn an_empty_database_doubles_no_ticket(world: World) {
        let mut world = world;
        with_feeds(&mut world);
        let bridge = start_reading(&world).await;
        for (event_id, post) in [("event-0", "0"), ("event-1", "1"), ("event-2", "0")] {
            world.khoros.apply_label(LABEL, &event(event_id, post)).await;
            bridge.wait_for(&format!("delivery_done case=*:twitter:{post}")).await;
        }
        bridge.wait_for_nth("delivery_done", 3).await;
        assert!(bridge.stop().await.success());

        let world = world.with_an_empty_database().await;
        let bridge = world.start().await;
        bridge.wait_for("feed_read new=3").await;
        bridge.wait_for_nth("delivery_done", 3).await;
        assert_eq!(world.zendesk.model().tickets.len(), 2);
        assert_eq!(world.zendesk.model().creates, 2, "nothing was even tried");
        world.check_one_ticket_per_case().await;
    }
}

/// New events are read, even if old ones leave the feed or the service restarts.
async fn check_it_is_read_where_it_grows(mut world: World, order: FeedOrder) {
    with_feeds_alone(&mut world);
    world.khoros.model().feed_order = order;
    // The story is about storing.
    world.zendesk.stop();
    let bridge = start_reading(&world).await;
    append(&world, 0..250);
    bridge.wait_for("feed_read new=250").await;

    append(&world, 250..270);
    let reads = world.khoros.model().feed_reads;
    bridge.wait_for("feed_read new=20").await;
    let reads = world.khoros.model().feed_reads - reads;
    assert!(reads <= 4, "{reads} pages");

    // Old events leave the feed, and the others move up.
    world.khoros.model().subscriptions[0].feed.drain(..220);
    append(&world, 270..275);
    bridge.wait_for("feed_read new=5").await;

    // While nobody reads, nearly all do.
    bridge.kill().await;
    world.khoros.model().subscriptions[0].feed.drain(..50);
    append(&world, 275..425);
    let bridge = start_reading(&world).await;
    bridge.wait_for("feed_read new=150").await;
    assert_eq!(world.list().await.len(), 425);
}

#[tokio::test]
async fn a_feed_with_the_newest_first_is_read_where_it_grows() {
    run_on_sqlite(|world| check_it_is_read_where_it_grows(world, FeedOrder::NewestFirst)).await;
}

#[tokio::test]
async fn an_interrupted_reading_is_continued() {
    run_on_sqlite(async |mut world: World| {
        with_feeds_alone(&mut world);
        world.zendesk.stop();
        start_reading(&world).await.kill().await;
        append(&world, 0..250);
        world.khoros.queue(Call::Feed, [Answer::Json, Answer::Json, Answer::Status(500)]);
        let reads = world.khoros.model().feed_reads;
        let bridge = world.start().await;
        bridge.wait_for("feed_read new=200").await;
        bridge.wait_for("feed_read new=50").await;
        let reads = world.khoros.model().feed_reads - reads;
        assert!(reads <= 5, "{reads} pages: three of 250 events, the end, and the one that failed");
    })
    .await;
}

/// An old event is on the closed ticket already, whatever this inbox knows of it; only a newer one needs a
/// follow-up.
#[tokio::test]
async fn the_past_of_a_feed_follows_up_no_closed_ticket() {
    run_on_sqlite(async |mut world: World| {
        with_feeds_alone(&mut world);
        let bridge = start_reading(&world).await;
        for id in ["event-0", "event-1"] {
            world.khoros.apply_label(LABEL, &event(id, "0")).await;
            bridge.wait_for(&format!("delivery_done delivery=khoros:1234:{id}:* ticket=1000")).await;
        }
        assert!(bridge.stop().await.success());
        world.zendesk.model().set_status(1000, "closed");
        let world = world.with_an_empty_database().await;
        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done ticket=1000", 2).await;
        world.check_one_ticket_per_case().await;

        let mut later: Value = serde_json::from_str(&event("event-2", "0")).unwrap();
        later["createdDate"] = json!("Wed Jul 01 09:01:11 CDT 2026");
        world.khoros.apply_label(LABEL, &later.to_string()).await;
        bridge.wait_for("delivery_done delivery=khoros:1234:event-2:* ticket=1001").await;
    })
    .await;
}

#[tokio::test]
async fn every_shape_and_order_of_a_feed_is_read_to_its_end() {
    let shapes = [FeedShape::Array, FeedShape::UnderData, FeedShape::Single];
    let orders = [FeedOrder::OldestFirst, FeedOrder::NewestFirst];
    let feeds = shapes.iter().flat_map(|shape| {
        orders.iter().flat_map(|order| [false, true].map(|repeats| (*shape, *order, repeats)))
    });
    join_all(feeds.map(|(shape, order, repeats)| {
        run_on_sqlite(async move |mut world: World| {
            with_feeds(&mut world);
            world.zendesk.stop();
            {
                let mut model = world.khoros.model();
                model.feed_shape = shape;
                model.feed_order = order;
                model.feed_repeats_last_page = repeats;
            }
            let bridge = world.start_subscribed().await;
            // One by one, and then many at once.
            emit_lost(&world, 0..1).await;
            bridge.wait_for("feed_read new=1").await;
            world.khoros.apply_label(LABEL, &event("pushed", "pushed")).await;
            bridge.kill().await;
            emit_lost(&world, 1..131).await;
            let bridge = world.start().await;
            bridge.wait_for("feed_read new=130").await;
            assert_eq!(world.list().await.len(), 132);
            read_twice_more(&world).await;
            assert_eq!(bridge.count("feed_read level=INFO"), 1);
        })
    }))
    .await;
}

#[tokio::test]
async fn a_feed_that_knows_no_pages_has_an_end() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        world.khoros.model().feed_repeats_last_page = true;
        world.khoros.model().feed_order = FeedOrder::NewestFirst;
        let bridge = start_reading(&world).await;
        emit_lost(&world, 0..3).await;
        bridge.wait_for_nth("delivery_done", 3).await;
        read_twice_more(&world).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn every_route_has_its_own_feed() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        world.set("ROUTE_VIP_QUERY", "VIP|CreateCase");
        world.set("ROUTE_VIP_TICKET_TAGS", "gold");
        let bridge = start_reading(&world).await;
        bridge.wait_for_nth("subscribed origin=push", 2).await;
        world.khoros.model().push_faults = [PushFault::Lost, PushFault::Lost].into();
        world.khoros.apply_label(LABEL, &event("e1", "1")).await;
        bridge.wait_for("feed_read new=1 route=label").await;
        bridge.wait_for("feed_read new=1 route=vip").await;
        bridge.wait_for_nth("delivery_done ticket=1000", 2).await;
        // As they would have been pushed.
        world.khoros.apply_label(LABEL, &event("e1", "1")).await;
        let list = world.list().await;
        assert_eq!(list.len(), 2, "{list:?}");
        let vip = list.iter().find(|delivery| delivery["route"] == "vip").unwrap();
        assert_eq!(vip["id"], "khoros:1234:e1:twitter:1@vip");
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// One route's feed is read although that of the other is gone, which `/status` shows.
#[tokio::test]
async fn one_feed_that_fails_does_not_stop_the_others() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        world.set("ROUTE_ALPHA_LABEL", "Alpha");
        let bridge = start_reading(&world).await;
        bridge.wait_for_nth("subscribed origin=push", 2).await;
        let gone = {
            let mut model = world.khoros.model();
            let uuid =
                model.subscriptions.iter().find(|remote| remote["query"] != LABEL).unwrap().uuid.clone();
            model.delete(&uuid)
        };
        assert!(gone.is_some());
        bridge.wait_for("feed_status status=unavailable").await;
        emit_lost(&world, 0..1).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        wait_for_status(&world, |status| status == "unavailable").await;
    })
    .await;
}

#[tokio::test]
async fn unprocessable_events_are_stored_as_if_they_were_pushed() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        let bridge = start_reading(&world).await;
        let strange =
            json!({"eventUuid": "strange", "eventName": "something-new", "data": {"change": PRIVATE}});
        {
            let mut model = world.khoros.model();
            let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
            let deep: Value = serde_json::from_str(&deep).unwrap();
            let half = json!({"eventUuid": "deep", "eventName": "something-new", "data": deep});
            model.subscriptions[0].feed.extend([strange.clone(), json!(null), half]);
        }
        bridge.wait_for("feed_read new=3").await;
        bridge.wait_for("item_unprocessable").await;
        assert_eq!(world.notify(&strange.to_string()).await["new"], 0);
        read_twice_more(&world).await;
        assert_eq!(bridge.count("item_unprocessable"), 1);
        emit_lost(&world, 0..1).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        let list = world.list().await;
        assert_eq!(list.iter().filter(|delivery| delivery["state"] == "dead").count(), 3, "{list:?}");
    })
    .await;
}

#[tokio::test]
async fn a_page_that_is_too_long_is_read_in_parts() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        world.zendesk.stop();
        let bridge = start_reading(&world).await;
        let event = |n: usize, length: usize| {
            json!({"eventUuid": format!("e{n}"), "eventName": "stream-item-label-applied",
                "data": {"items": [{"entityId": format!("twitter:{n}"), "text": "x".repeat(length)}]}})
        };
        // The second one alone is more than an answer may hold; the others are together.
        let lengths = [6 << 20, 17 << 20, 6 << 20, 6 << 20, 10];
        world.khoros.model().subscriptions[0].feed =
            lengths.iter().enumerate().map(|(n, length)| event(n, *length)).collect();
        bridge.wait_for("feed_event_skipped alert=khoros_pull offset=1").await;
        bridge.wait_for("feed_read new=4").await;
    })
    .await;
}

/// Whatever answers instead of a feed, the service goes on, logs it, and reads the feed once there is one.
#[tokio::test]
async fn answers_that_are_no_feed_are_logged_and_tried_again() {
    let answers = [
        (Answer::Html, "failing", "an HTML page"),
        (Answer::Status(500), "failing", "answered 500"),
        (Answer::Unauthenticated, "failing", "SPREDFAST_API_TOKEN"),
        (Answer::Reset, "failing", "cannot be reached"),
        (Answer::Throttled, "failing", "too many calls"),
        (Answer::Failed, "failing", "validation_error"),
        (Answer::ServiceNotFound, "unavailable", "Khoros offers no feed"),
        (Answer::Text, "unavailable", "Khoros offers no feed"),
        (Answer::Nothing, "unavailable", "Khoros offers no feed"),
        (Answer::Status(404), "unavailable", "Khoros offers no feed"),
        (Answer::Status(405), "unavailable", "Khoros offers no feed"),
    ];
    join_all(answers.map(|(answer, state, expected)| {
        run_on_sqlite(async move |mut world: World| {
            with_feeds(&mut world);
            let bridge = start_reading(&world).await;
            emit_lost(&world, 0..1).await;
            bridge.wait_for("delivery_done ticket=1000").await;
            world.khoros.model().outage = Some(answer);
            let line = bridge.wait_for(&format!("feed_status status={state}")).await;
            assert!(line.contains(expected), "{line}");
            wait_for_status(&world, |status| status == state).await;
            emit_lost(&world, 1..2).await;
            world.khoros.apply_label(LABEL, &event("pushed", "pushed")).await;
            bridge.wait_for_nth("delivery_done", 2).await;
            assert_eq!(bridge.count("feed_status"), 2, "{}", bridge.log());
            world.khoros.model().outage = None;
            bridge.wait_for_nth("feed_status status=available", 2).await;
            bridge.wait_for_nth("delivery_done", 3).await;
            assert_eq!(status(&world).await, "available");
            world.check_one_ticket_per_case().await;
        })
    }))
    .await;
}

/// Anything may follow the end of a feed.
#[tokio::test]
async fn no_content_past_the_end_is_the_end() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        let bridge = start_reading(&world).await;
        bridge.stop().await;
        emit_lost(&world, 0..2).await;
        world.khoros.queue(Call::Feed, [Answer::Json, Answer::Nothing]);
        let bridge = start_reading(&world).await;
        bridge.wait_for("feed_read new=2").await;
        assert_eq!(bridge.count("feed_status status=unavailable"), 0, "{}", bridge.log());
    })
    .await;
}

#[tokio::test]
async fn without_a_list_of_subscriptions_there_is_no_feed() {
    run_on_sqlite(async |world| {
        let bridge = world.start_subscribed().await;
        bridge.wait_for("feed_status status=unavailable").await;
        assert_eq!(status(&world).await, "unavailable");
        assert_eq!(world.khoros.model().feed_reads, 0);
        world.khoros.apply_label(LABEL, &event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
    })
    .await;
}

#[tokio::test]
async fn with_pushes_alone_no_feed_is_read() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        world.set("SPREDFAST_MODE", "push");
        let bridge = world.start_subscribed().await;
        emit_lost(&world, 0..1).await;
        world.khoros.apply_label(LABEL, &event("pushed", "pushed")).await;
        bridge.wait_for("delivery_done").await;
        assert_eq!(status(&world).await, "off");
        assert_eq!(world.khoros.model().feed_reads, 0);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// The push is refused, and the event is read soon after the storage is back, long before the schedule says so.
#[tokio::test]
async fn an_event_that_was_answered_503_is_read() {
    run(Kind::Postgres, async |mut world: World| {
        with_feeds(&mut world);
        world.set("SPREDFAST_POLL_SECONDS", "86400");
        let host = world.database.url.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:")).unwrap();
        let proxy = Proxy::start(host.parse::<SocketAddr>().unwrap()).await;
        let url = world.database.url.replace(host, &proxy.address.to_string());
        world.set("DATABASE_URL", url);
        let bridge = start_reading(&world).await;
        proxy.set(Wire::Cut);
        let answers = world.khoros.apply_label(LABEL, &event("event-1", "1")).await;
        assert!(matches!(answers[..], [Ok(503)]), "{answers:?}");
        bridge.wait_for("feed_status status=failing").await;
        wait_for_status(&world, |status| status == "failing").await;
        proxy.set(Wire::Whole);
        bridge.wait_for("feed_read new=1").await;
        bridge.wait_for("delivery_done ticket=1000").await;
        bridge.wait_for_nth("feed_status status=available", 2).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// The database refuses a row, so this event and the later ones are read again until it accepts the row.
#[tokio::test]
async fn a_reading_does_not_pass_an_event_that_is_not_stored() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        let bridge = start_reading(&world).await;
        world.database.refuse_event("event-1").await;
        emit_lost(&world, 0..3).await;
        bridge.wait_for("storage_failed origin=feed").await;
        bridge.kill().await;
        world.database.take_every_event().await;
        let bridge = start_reading(&world).await;
        bridge.wait_for("delivery_done case=*:twitter:1").await;
        read_twice_more(&world).await;
        assert_eq!(world.list().await.len(), 3);
    })
    .await;
}

/// Stored, each of these events is fifty times as long as in the feed.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_page_of_many_items_is_stored_in_parts() {
    run_on_sqlite(async |mut world: World| {
        with_feeds(&mut world);
        world.zendesk.stop();
        let bridge = start_reading(&world).await;
        let item = |event: usize, item: usize| json!({"entityId": format!("twitter:{event}-{item}")});
        let long = |event: usize| {
            let items: Vec<Value> = (0..50).map(|number| item(event, number)).collect();
            json!({"eventUuid": event, "around": "x".repeat(150_000), "data": {"items": items}})
        };
        world.khoros.model().subscriptions[0].feed = (0..100).map(long).collect();
        bridge.wait_for("feed_read new=5000").await;
        let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kilobytes < 400 << 10, "{kilobytes} kB");
    })
    .await;
}
