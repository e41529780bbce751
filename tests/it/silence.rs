//! The age of each route's last event, and the alert when a busy route falls silent.

use serde_json::{Value, json};

use crate::harness::{ADMIN, BEARER, Kind, LABEL, Wire, World, event, on_both, run};
use crate::storage::proxied;

/// 1.8 s, nearly the shortest silence that can be configured.
const SOON: &str = "0.0005";

on_both! {
    async fn the_age_of_each_routes_last_event_is_reported(world: World) {
        let mut world = world;
        world.set("ROUTE_VIP_LABEL", "VIP");
        world.set("ROUTE_RULES_EVENT", "rule-applied");
        let bridge = world.start().await;
        let never = json!({"last_event_s": null});
        assert_eq!(routes(&world).await, json!({"label": never, "vip": never, "rules": never}));

        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        world.zendesk.stop();
        let before = routes(&world).await;
        assert!(before["label"]["last_event_s"].is_u64(), "{before}");
        assert_eq!((&before["vip"], &before["rules"]), (&never, &never));

        // This one stays waiting.
        post_to(&world, "/khoros/vip", &event("event-2", "2")).await;
        let check = async || {
            let now = routes(&world).await;
            assert!(now["label"]["last_event_s"].is_u64() && now["vip"]["last_event_s"].is_u64(), "{now}");
            assert_eq!(now["rules"], never);
        };
        check().await;
        bridge.kill().await;
        let _bridge = world.start().await;
        check().await;
    }

    async fn a_silence_of_a_busy_route_is_logged_and_so_is_its_end(world: World) {
        let mut world = world;
        world.set("SILENCE_ALERT_HOURS", SOON);
        world.set("ROUTE_VIP_LABEL", "VIP");
        let bridge = world.start().await;
        post_to(&world, "/khoros/vip", &event("event-0", "0")).await;
        five_events(&world).await;
        let line = bridge.wait_for("route_silent alert=route_silent route=label").await;
        assert!(line.contains("ERROR") && line.contains(&format!("the label `{LABEL}` is still used")), "{line}");
        assert_eq!(bridge.count("route_active"), 0);

        world.notify(&event("event-6", "6")).await;
        let line = bridge.wait_for("route_active route=label").await;
        assert!(line.contains("INFO"), "{line}");

        // The next silence is logged, also by a process that did not see the earlier events.
        bridge.wait_for_nth("route_silent", 2).await;
        assert_eq!(bridge.count("route_silent"), bridge.count("route_silent route=label"), "one event makes no busy route");
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for("route_silent").await;
        assert_eq!(bridge.count("route_silent"), bridge.count("route_silent route=label"), "one event makes no busy route");
    }
}

#[tokio::test]
async fn an_unreachable_database_is_logged_once_and_tried_again() {
    run(Kind::Postgres, async |mut world: World| {
        let (proxy, url) = proxied(&world.database.url).await;
        world.set("DATABASE_URL", url);
        world.set("SILENCE_ALERT_HOURS", SOON);
        let bridge = world.start().await;
        proxy.set(Wire::Cut);
        bridge.wait_for("silence_check_failed level=DEBUG").await;
        assert_eq!(bridge.count("silence_check_failed level=WARN"), 1);
        proxy.set(Wire::Whole);
        while world.post(event("event-0", "0")).await.status() != 200 {}
        five_events(&world).await;
        bridge.wait_for("route_silent").await;
    })
    .await;
}

async fn five_events(world: &World) {
    for n in 1..=5 {
        world.notify(&event(&format!("event-{n}"), &n.to_string())).await;
    }
}

/// The routes in `/status`.
async fn routes(world: &World) -> Value {
    let answer = world.http.get(world.url("/status")).bearer_auth(ADMIN).send().await.unwrap();
    answer.json::<Value>().await.unwrap()["routes"].take()
}

async fn post_to(world: &World, path: &str, notification: &str) {
    let request = world.http.post(world.url(path)).bearer_auth(BEARER).body(notification.to_owned());
    assert_eq!(request.send().await.unwrap().status(), 200);
}
