//! The limit of new tickets: a route creates at most `TICKET_MAX_PER_HOUR`, and the operator may discard the rest.

use std::process::Output;
use std::time::Duration;

use casebridge_sandbox::zendesk::Fault;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{BEARER, Bridge, Kind, World, event, event_with, free_port, on_all, on_both, run};
use crate::inbox::open;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Label events about the posts of these numbers.
async fn label(world: &World, posts: std::ops::RangeInclusive<usize>) {
    for post in posts {
        world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
    }
}

/// Waits until `tickets` deliveries are done, `held` are held back, and no other delivery waits.
async fn wait_until_held(world: &World, tickets: usize, held: usize) {
    loop {
        let list = world.list_of("zendesk").await;
        let done = list.iter().filter(|delivery| delivery["state"] == "done").count();
        let is_held =
            |delivery: &&Value| delivery["reason"].as_str().is_some_and(|it| it.starts_with("held: "));
        let waiting = list.iter().filter(|delivery| delivery["state"] == "waiting");
        if done == tickets && waiting.clone().count() == held && waiting.filter(is_held).count() == held {
            break;
        }
    }
    assert_eq!(world.zendesk.model().tickets.len(), tickets);
}

/// Makes all tickets so far an hour older.
async fn let_an_hour_pass(world: &World) {
    world.database.execute("update memo set at = at - 3600000 where scope like 'zendesk.created.%'").await;
}

async fn restart_with_limit(world: &mut World, bridge: Bridge, limit: &str) -> Bridge {
    bridge.stop().await;
    world.set("TICKET_MAX_PER_HOUR", limit);
    world.start().await
}

on_both! {
    async fn tickets_beyond_the_limit_wait_with_one_alert_and_are_made_later(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "3");
        let bridge = world.start().await;
        label(&world, 1..=5).await;
        wait_until_held(&world, 3, 2).await;
        let line = bridge.wait_for("ticket_storm level=ERROR alert=ticket_storm route=label waiting=*").await;
        assert!(line.contains("TICKET_MAX_PER_HOUR") && line.contains("casebridge discard --route label"), "{line}");
        let reason = "storm limit of 3 tickets an hour for route label";
        for delivery in world.waiting().await {
            assert_eq!((&delivery["reason"], &delivery["tries"]), (&json!(format!("held: {reason}")), &json!(0)));
        }
        let status = world.status().await;
        assert_eq!(status["destinations"]["zendesk"]["held"], json!({reason: 2}), "{status}");
        assert_eq!(status["destinations"]["zendesk"]["state"], "ok");
        {
            let model = world.zendesk.model();
            assert_eq!((model.creates, model.look_ups), (3, 0));
        }

        let_an_hour_pass(&world).await;
        bridge.wait_for_nth("delivery_done action=created", 5).await;
        bridge.wait_for("ticket_storm_over level=INFO route=label").await;
        assert_eq!((bridge.count("ticket_storm"), bridge.count("delivery_retry")), (1, 0));
        assert_eq!(world.status().await["destinations"]["zendesk"]["held"], Value::Null);
        world.check_one_ticket_per_case().await;
    }

    async fn comments_and_other_routes_go_on_at_the_limit(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "1");
        world.set("ROUTE_VIP_LABEL", "VIP");
        world.set("ROUTE_RUSH_LABEL", "Rush");
        world.set("ROUTE_RUSH_TICKET_MAX_PER_HOUR", "0");
        let bridge = world.start().await;
        label(&world, 1..=1).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        label(&world, 2..=3).await;
        wait_until_held(&world, 1, 2).await;

        let noted = event_with("event-4", "1", |item| item["notes"] = json!([{"text": "a note"}]));
        world.notify(&noted).await;
        bridge.wait_for("delivery_done ticket=1000 action=commented").await;
        world.notify_route("vip", event("event-5", "5")).await;
        bridge.wait_for("delivery_done case=*:twitter:5 action=created").await;
        for post in 6..=8 {
            world.notify_route("rush", event(&format!("event-{post}"), &post.to_string())).await;
            bridge.wait_for(&format!("delivery_done case=*:twitter:{post} action=created")).await;
        }
        assert_eq!(world.waiting().await.len(), 2);
        assert_eq!(bridge.count("ticket_storm route=vip") + bridge.count("ticket_storm route=rush"), 0);

        // A follow-up is a ticket.
        world.zendesk.model().set_status(1000, "closed");
        let noted = event_with("event-9", "1", |item| item["notes"] = json!([{"text": "another note"}]));
        world.notify(&noted).await;
        bridge.wait_for("delivery_queued delivery=*:event-9:twitter:1").await;
        assert_eq!(world.waiting().await.len(), 3);
    }

    async fn the_oldest_held_deliveries_go_first(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "1");
        let bridge = world.start().await;
        label(&world, 1..=1).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        label(&world, 2..=3).await;
        wait_until_held(&world, 1, 2).await;
        for post in 2..=4 {
            let_an_hour_pass(&world).await;
            // The place is free, and this one has just arrived.
            label(&world, post + 2..=post + 2).await;
            bridge.wait_for(&format!("delivery_done case=*:twitter:{post} ticket={}", 999 + post)).await;
            wait_until_held(&world, post, 2).await;
        }
    }

    async fn pushed_events_pass_the_history_of_a_feed(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "1");
        let bridge = world.start().await;
        label(&world, 1..=1).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        label(&world, 2..=3).await;
        wait_until_held(&world, 1, 2).await;
        world.database.execute("update delivery set in_doubt = true, origin = 'feed' where case_key like '%:2'").await;
        let_an_hour_pass(&world).await;
        bridge.wait_for("delivery_done case=*:twitter:3 ticket=1001").await;
        wait_until_held(&world, 2, 1).await;
    }

    async fn a_changed_limit_applies_after_a_restart(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "1");
        let bridge = world.start().await;
        label(&world, 1..=4).await;
        wait_until_held(&world, 1, 3).await;
        let bridge = restart_with_limit(&mut world, bridge, "3").await;
        bridge.wait_for("ticket_storm waiting=1").await;
        wait_until_held(&world, 3, 1).await;
        // The tickets so far count.
        let bridge = restart_with_limit(&mut world, bridge, "2").await;
        bridge.wait_for("ticket_storm waiting=1").await;
        let bridge = restart_with_limit(&mut world, bridge, "0").await;
        bridge.wait_for("delivery_done action=created").await;
        wait_until_held(&world, 4, 0).await;
        world.check_one_ticket_per_case().await;
    }

    async fn a_killed_process_keeps_the_places_that_it_took(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "2");
        world.zendesk.queue([Fault::Hang, Fault::Hang]);
        let bridge = world.start().await;
        label(&world, 1..=3).await;
        world.zendesk.wait_until(|model| model.creates == 2).await;
        bridge.wait_for("delivery_queued").await;
        bridge.kill().await;
        assert!(world.zendesk.model().tickets.is_empty());

        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done", 2).await;
        wait_until_held(&world, 2, 1).await;
        let_an_hour_pass(&world).await;
        bridge.wait_for_nth("delivery_done", 3).await;
        world.check_one_ticket_per_case().await;
    }

    async fn an_outage_saves_up_no_tickets(world: World) {
        let mut world = world;
        world.set("TICKET_MAX_PER_HOUR", "2");
        world.set("TICKET_REQUESTER", "service");
        let bridge = world.start().await;
        bridge.wait_for("destination_ready").await;
        world.zendesk.stop();
        // In one notification, so that they are tried together.
        let items: Vec<Value> = (1..=3).map(|post| json!({"entityId": format!("twitter:{post}"), "text": "t"})).collect();
        world.notify(&json!({"eventUuid": "event-1", "data": {"items": items}}).to_string()).await;
        bridge.wait_for("delivery_queued").await;
        bridge.wait_for_nth("delivery_paused", 2).await;
        bridge.stop().await;
        let_an_hour_pass(&world).await;
        world.zendesk.restart().await.unwrap();
        let bridge = world.start().await;
        bridge.wait_for("ticket_storm waiting=1").await;
        wait_until_held(&world, 2, 1).await;
        let_an_hour_pass(&world).await;
        bridge.wait_for_nth("delivery_done", 3).await;
        world.check_one_ticket_per_case().await;
    }

    async fn discarded_deliveries_are_dead_until_a_replay(world: World) {
        let mut world = world;
        let webhook = world.with_webhook().await;
        world.set("DELIVER_THEN", "webhook");
        world.set("TICKET_MAX_PER_HOUR", "2");
        world.set("RETRY_SCHEDULE", "86400");
        let bridge = world.start().await;
        label(&world, 1..=1).await;
        bridge.wait_for("delivery_done destination=webhook").await;
        // This one may have its ticket.
        world.zendesk.queue([Fault::HangAfterCreate]);
        label(&world, 4..=4).await;
        bridge.wait_for("delivery_retry case=*:twitter:4").await;
        for post in 2..=3 {
            label(&world, post..=post).await;
            bridge.wait_for(&format!("delivery_queued case=*:twitter:{post}")).await;
        }
        // As items of a feed are.
        world.database.execute("update delivery set in_doubt = true, origin = 'feed' where case_key like '%:3'").await;
        let before = world.list().await;

        for (arguments, code, expected) in [
            (&["--route", "label", "--dry-run"][..], 0, "would discard khoros:1234:event-2:twitter:2 to zendesk"),
            (&["--route", "label", "--dry-run"], 0, "event-4:twitter:4 to zendesk may have been sent"),
            (&["--route", "label", "--since", "2000-01-01", "--dry-run"], 0, "\nwould discard 2 deliveries\n"),
            (&["--route", "labl"], 1, "no delivery has the route labl; the routes with deliveries are label"),
            (&["--route", "label", "--until", "1d"], 0, "discarded 0 deliveries\n"),
            (&["--route", "label", "--since", "9000-01-01T00:00"], 1, "--since is not before --until"),
            (&["--route", "label", "--until", "2000-01-01"], 0, "discarded 0 deliveries\n"),
            (&["--route", "label", "--destination", "webhook"], 0, "discarded 0 deliveries\n"),
            (&["--route", "label", "--since", "yesterday"], 2, "is neither a time"),
            (&[], 2, "--route"),
        ] {
            let output = world.command(&[&["discard"][..], arguments].concat()).await;
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
            assert!(text(&output).contains(expected), "{arguments:?}: {}", text(&output));
        }
        assert_eq!(world.list().await, before);

        let output = world.command(&["discard", "--route", "label"]).await;
        assert!(text(&output).ends_with("\ndiscarded 2 deliveries\n"), "{}", text(&output));
        let list = world.list_of("zendesk").await;
        let states: Vec<&Value> = list.iter().map(|delivery| &delivery["state"]).collect();
        assert_eq!(states, ["done", "waiting", "dead", "dead"]);
        for dead in &list[2..=3] {
            assert!(dead["reason"].as_str().unwrap().starts_with("discarded by the operator at 20"), "{dead}");
        }
        assert_eq!(world.status().await["deliveries"]["dead"], 2);

        // A later event of the case waits for its own turn and not for the discarded one.
        world.notify(&event("event-5", "2")).await;
        bridge.wait_for("delivery_queued delivery=*:event-5:twitter:2").await;
        let output = world.command(&["replay", "--all-dead"]).await;
        assert!(text(&output).ends_with("\n2 replayed\n"), "{}", text(&output));
        bridge.stop().await;
        world.database.execute("update delivery set due_at = 0 where case_key like '%:4'").await;
        world.set("TICKET_MAX_PER_HOUR", "0");
        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done destination=zendesk", 4).await;
        bridge.wait_for_nth("delivery_done destination=webhook", 3).await;
        world.check_one_ticket_per_case().await;
        // One for each ticket; the repeated label changed nothing.
        assert_eq!(webhook.model().events().len(), 4);
    }
}

#[tokio::test]
async fn two_processes_share_the_limit() {
    run(Kind::Postgres, async |mut world: World| {
        world.set("TICKET_MAX_PER_HOUR", "5");
        world.set("TICKET_REQUESTER", "service");
        let ports = [free_port(), free_port()];
        let bridges = [world.start_beside(ports[0]).await, world.start_beside(ports[1]).await];
        let send = async |post: usize| {
            let url = format!("http://127.0.0.1:{}/khoros/label", ports[post % 2]);
            let body = event(&format!("event-{post}"), &post.to_string());
            assert_eq!(
                world.http.post(url).bearer_auth(BEARER).body(body).send().await.unwrap().status(),
                200
            );
        };
        join_all((0..20).map(send)).await;
        wait_until_held(&world, 5, 15).await;
        let_an_hour_pass(&world).await;
        wait_until_held(&world, 10, 10).await;
        let [first, second] = bridges;
        first.kill().await;
        let_an_hour_pass(&world).await;
        wait_until_held(&world, 15, 5).await;
        let_an_hour_pass(&world).await;
        wait_until_held(&world, 20, 0).await;
        second.stop().await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

on_all! {
    async fn concurrent_callers_never_exceed_the_limit(world: World) {
        const HOUR: Duration = Duration::from_secs(3600);
        let inbox = open(&world).await;
        let take = async |holder: usize, period| inbox.take_place("s", &holder.to_string(), 5, period).await.unwrap();
        let taken = join_all((0..40).map(|holder| take(holder, HOUR))).await;
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 5);
        // Each holder keeps its place, and nobody else gets one.
        assert_eq!(join_all((0..40).map(|holder| take(holder, HOUR))).await, taken);
        assert_eq!(inbox.free_places("s", "", 5, HOUR).await.unwrap(), 0);
        assert_eq!(inbox.free_places("s", "", 7, HOUR).await.unwrap(), 2);
        assert_eq!(inbox.free_places("s", "", 3, HOUR).await.unwrap(), 0);
        let holder = taken.iter().position(|taken| *taken).unwrap().to_string();
        assert_eq!(inbox.free_places("s", &holder, 5, HOUR).await.unwrap(), 1);
        assert_eq!(inbox.free_places("other", "", 5, HOUR).await.unwrap(), 5);
        // With a lower limit, a place that is over does not make room.
        world.database.execute("update memo set at = at - 3600000 where key = '0'").await;
        let lower = |holder: &'static str| inbox.take_place("s", holder, 4, HOUR);
        assert!(!lower("new").await.unwrap());
        assert!(take(100, HOUR).await && !take(101, HOUR).await);
    }
}
