//! Telling Khoros where we are.

use std::collections::VecDeque;

use casebridge::sandbox::khoros::Answer;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{BEARER, LABEL, event, run_on_sqlite};

#[tokio::test]
async fn the_subscription_says_what_we_want() {
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
async fn a_refusal_is_told_and_tried_again_while_we_serve() {
    let refusals = [
        (Answer::DeveloperInactive, "khoros_token"),
        (Answer::ServiceNotFound, "khoros_address"),
        (Answer::Html, "an HTML page"),
        (Answer::Failed, "validation_error"),
    ];
    join_all(refusals.map(|(answer, told)| {
        run_on_sqlite(move |world| async move {
            world.khoros.model().answers = VecDeque::from([answer]);
            let bridge = world.start().await;
            let line = bridge.wait_for_log("not subscribed").await;
            assert!(line.contains(told), "{line}");
            world.notify(&event("event-1", "1")).await;
            bridge.wait_for_log(" is ticket ").await;
            bridge.wait_for_log("subscribed: Khoros sends label").await;
        })
    }))
    .await;
}

#[tokio::test]
async fn a_wrong_token_stops_nothing_else() {
    run_on_sqlite(|mut world| async move {
        world.set("SPREDFAST_API_TOKEN", "not-the-token-of-the-stand-in");
        let bridge = world.start().await;
        bridge.wait_for_log("khoros_token").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for_log(" is ticket ").await;
    })
    .await;
}

#[tokio::test]
async fn without_an_address_it_serves_and_says_what_to_set() {
    run_on_sqlite(|mut world| async move {
        world.unset("PUBLIC_URL");
        let bridge = world.start().await;
        let line = bridge.wait_for_log("public_url").await;
        assert!(line.contains("heroku config:set PUBLIC_URL="), "{line}");
        let page = world.http.get(world.url("/")).send().await.unwrap().text().await.unwrap();
        assert!(page.contains("heroku config:set PUBLIC_URL="), "{page}");
        assert!(page.contains("http"), "{page}");
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for_log(" is ticket ").await;
        assert_eq!(world.khoros.model().calls, 0);
    })
    .await;
}
