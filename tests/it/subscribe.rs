//! Subscribing: what Khoros is asked for, and what happens if it refuses.

use std::collections::{BTreeMap, VecDeque};

use casebridge_sandbox::khoros::Answer;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{BEARER, LABEL, World, event, run_on_sqlite};

#[tokio::test]
async fn the_subscription_has_the_desired_fields() {
    run_on_sqlite(|mut world| async move {
        world.set("PUBLIC_URL", "https://bridge.example.com/base/");
        let _bridge = world.start_subscribed().await;
        assert_eq!(
            world.khoros.model().subscriptions,
            [json!({
                "companyId": 1234,
                "externalId": "send-to-zendesk",
                "eventName": "stream-item-label-applied",
                "notificationUri": "https://bridge.example.com/base/khoros/label",
                "query": LABEL,
                "bearerToken": BEARER,
            })]
        );
    })
    .await;
}

#[tokio::test]
async fn every_form_of_success_is_one() {
    let answers = [Answer::Text, Answer::Json, Answer::JsonUnderData, Answer::Nothing];
    join_all(answers.map(|answer| {
        run_on_sqlite(move |world| async move {
            world.khoros.model().answers = VecDeque::from([answer]);
            let _bridge = world.start_subscribed().await;
            assert_eq!(world.khoros.model().calls, 1);
        })
    }))
    .await;
}

#[tokio::test]
async fn a_refusal_is_logged_and_tried_again_while_we_serve() {
    let refusals = [
        (Answer::DeveloperInactive, "khoros_token"),
        (Answer::ServiceNotFound, "khoros_address"),
        (Answer::Html, "an HTML page"),
        (Answer::Failed, "validation_error"),
    ];
    join_all(refusals.map(|(answer, expected)| {
        run_on_sqlite(move |world| async move {
            world.khoros.model().answers = VecDeque::from([answer]);
            let bridge = world.start().await;
            let line = bridge.wait_for("subscription_failed state=not_subscribed").await;
            assert!(line.contains(expected), "{line}");
            world.notify(&event("event-1", "1")).await;
            bridge.wait_for("delivery_done").await;
            bridge.wait_for("subscribed origin=push").await;
        })
    }))
    .await;
}

#[tokio::test]
async fn a_wrong_token_stops_nothing_else() {
    run_on_sqlite(|mut world| async move {
        world.set("SPREDFAST_API_TOKEN", "not-the-token-of-the-stand-in");
        let bridge = world.start().await;
        bridge.wait_for("subscription_failed alert=khoros_token").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        // A refused token does not show that there is no feed.
        bridge.wait_for_nth("subscription_failed alert=khoros_token", 1).await;
        assert_eq!(bridge.count("feed_status status=unavailable"), 0, "{}", bridge.log());
    })
    .await;
}

#[tokio::test]
async fn without_pushes_no_address_is_needed() {
    run_on_sqlite(|mut world| async move {
        world.unset("PUBLIC_URL");
        world.set("SPREDFAST_MODE", "poll");
        let bridge = world.start().await;
        bridge.wait_for("subscribed origin=feed").await;
        let page = world.http.get(world.url("/")).send().await.unwrap().text().await.unwrap();
        assert!(!page.contains("Set the public address"), "{page}");
    })
    .await;
}

#[tokio::test]
async fn without_an_address_it_serves_and_logs_what_to_set() {
    run_on_sqlite(|mut world| async move {
        world.unset("PUBLIC_URL");
        let bridge = world.start().await;
        let line = bridge.wait_for("public_url_missing").await;
        assert!(line.contains("heroku config:set PUBLIC_URL="), "{line}");
        let page = world.http.get(world.url("/")).send().await.unwrap().text().await.unwrap();
        assert!(page.contains("heroku config:set PUBLIC_URL="), "{page}");
        assert!(page.contains("http"), "{page}");
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        assert_eq!(world.khoros.model().calls, 0);
    })
    .await;
}

/// One endpoint, one subscription and one kind of ticket for each route; the post that comes by two of them
/// is one case.
#[tokio::test]
async fn every_route_has_its_own_subscription_endpoint_and_ticket() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_TAGS", "all");
        world.set("ROUTE_VIP_LABEL", "VIP (gold)+");
        world.set("ROUTE_VIP_TICKET_PRIORITY", "urgent");
        world.set("ROUTE_VIP_TICKET_TAGS", "gold");
        world.set("ROUTE_RULES_EVENT", "rule-applied");
        let bridge = world.start().await;
        bridge.wait_for_nth("subscribed origin=push", 3).await;
        let subscriptions: BTreeMap<String, (String, Value, String)> = {
            let model = world.khoros.model();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let of = |remote: &casebridge_sandbox::khoros::Subscription| {
                let uri = text(&remote["notificationUri"]);
                let path = uri[uri.find("/khoros").unwrap()..].to_owned();
                (text(&remote["externalId"]), (text(&remote["eventName"]), remote["query"].clone(), path))
            };
            model.subscriptions.iter().map(of).collect()
        };
        let label = "stream-item-label-applied".to_owned();
        assert_eq!(
            subscriptions,
            BTreeMap::from([
                (
                    "send-to-zendesk".to_owned(),
                    (label.clone(), json!("CreateCase"), "/khoros/label".to_owned())
                ),
                (
                    "send-to-zendesk-vip".to_owned(),
                    (label, json!(r"^VIP \(gold\)\+$"), "/khoros/vip".to_owned())
                ),
                (
                    "send-to-zendesk-rules".to_owned(),
                    ("rule-applied".to_owned(), Value::Null, "/khoros/rules".to_owned())
                ),
            ])
        );

        world.notify(&event("e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000 action=created").await;
        post_to(&world, "/khoros/vip", &event("e2", "2")).await;
        bridge.wait_for("delivery_done ticket=1001 action=created").await;
        // The first post by the second route: its ticket gets a comment and the route's tags.
        post_to(&world, "/khoros/vip", &event("e3", "1")).await;
        bridge.wait_for("delivery_done ticket=1000 action=commented").await;
        let tickets = world.tickets(2).await;
        assert_eq!((&tickets[0]["priority"], &tickets[1]["priority"]), (&json!("normal"), &json!("urgent")));
        let has = |ticket: &Value, tag: &str| ticket["tags"].as_array().unwrap().contains(&json!(tag));
        assert!(
            has(&tickets[0], "all") && has(&tickets[0], "gold") && has(&tickets[0], "khoros_label_vip_gold")
        );
        assert!(has(&tickets[1], "gold") && !has(&tickets[1], "all"));
        let said = world.zendesk.model().comments(1000).remove(1);
        assert!(
            said["body"]
                .as_str()
                .unwrap()
                .starts_with("Labelled \"VIP (gold)+\" at 2017-04-12 14:01 UTC · route \"vip\"")
        );
        world.check_one_ticket_per_case().await;
        assert_eq!(
            world.http.post(world.url("/khoros/none")).bearer_auth(BEARER).send().await.unwrap().status(),
            404
        );
    })
    .await;
}

/// Khoros pushes one event to both subscriptions, and each route has its delivery.
#[tokio::test]
async fn one_event_at_two_endpoints_is_delivered_by_both() {
    run_on_sqlite(|mut world| async move {
        world.set("ROUTE_VIP_QUERY", "VIP|Gold");
        world.set("ROUTE_VIP_TICKET_TAGS", "gold");
        let bridge = world.start().await;
        for _ in 0..2 {
            world.notify(&event("e1", "1")).await;
            post_to(&world, "/khoros/vip", &event("e1", "1")).await;
        }
        bridge.wait_for("delivery_done ticket=1000 action=created").await;
        bridge.wait_for("delivery_done ticket=1000 action=commented").await;
        assert_eq!(world.list().await.len(), 2);
        let said = world.zendesk.model().comments(1000).remove(1)["body"].to_string();
        assert!(said.contains(r#"Labelled at 2017-04-12 14:01 UTC · route \"vip\""#), "{said}");
        let tags = world.tickets(1).await[0]["tags"].to_string();
        assert!(tags.contains("gold") && tags.contains("khoros_label_createcase"), "{tags}");
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// An event of a removed route still becomes a ticket, and does not get another route's label.
#[tokio::test]
async fn a_route_that_was_removed_leaves_no_post_behind() {
    run_on_sqlite(|mut world| async move {
        world.set("ROUTE_VIP_LABEL", "VIP");
        world.zendesk.stop();
        let bridge = world.start().await;
        post_to(&world, "/khoros/vip", &event("e1", "1")).await;
        bridge.kill().await;
        world.zendesk.restart().await.unwrap();
        world.unset("ROUTE_VIP_LABEL");
        let _bridge = world.start().await;
        let ticket = world.tickets(1).await.remove(0);
        assert!(!ticket["tags"].to_string().contains("createcase"), "{ticket}");
    })
    .await;
}

async fn post_to(world: &World, path: &str, notification: &str) {
    let request = world.http.post(world.url(path)).bearer_auth(BEARER).body(notification.to_owned());
    assert_eq!(request.send().await.unwrap().status(), 200);
}
