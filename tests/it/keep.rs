//! Subscriptions stay as desired, whatever others do to them and whatever Khoros answers.

use casebridge_sandbox::khoros::{Answer, Call, Model, Status, Style, Subscription};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{ADMIN, BEARER, Bridge, LABEL, Proxy, Wire, World, event, on_both, run_on_sqlite};

const OURS: &str = "send-to-zendesk";

/// About a second, so that a test sees several of them.
const CHECK_MINUTES: &str = "0.02";

/// Khoros shows its subscriptions, and casebridge has one there.
async fn subscribed(world: &mut World) -> Bridge {
    world.set("SPREDFAST_CHECK_MINUTES", CHECK_MINUTES);
    world.khoros.model().style = Style::Json;
    let bridge = world.start_subscribed().await;
    world.khoros.wait_until(|model| model.lists > 0).await;
    bridge
}

fn ours(model: &Model) -> Vec<&Subscription> {
    model.subscriptions.iter().filter(|remote| remote["externalId"] == OURS).collect()
}

/// Exactly one of our subscriptions is active, with the desired values.
fn is_as_desired(world: &World, model: &Model) -> bool {
    let on: Vec<_> = ours(model).into_iter().filter(|remote| remote.status == Status::Active).collect();
    on.len() == 1
        && on[0]["notificationUri"] == world.url("/khoros/label").as_str()
        && on[0]["eventName"] == "stream-item-label-applied"
        && on[0]["query"] == LABEL
        && on[0]["bearerToken"] == BEARER
}

/// How many POSTs and PUTs there were.
fn counts(model: &Model) -> (u32, u32) {
    (model.calls, model.puts)
}

/// The state of the tutorial's route in `/status`.
async fn state(world: &World) -> Value {
    let status = world.http.get(world.url("/status")).bearer_auth(ADMIN).send().await;
    status.unwrap().json::<Value>().await.unwrap()["subscriptions"]["label"]["state"].take()
}

async fn wait_until_as_desired(world: &World) {
    world.khoros.wait_until(|model| is_as_desired(world, model)).await;
}

async fn wait_for_checks(world: &World, count: u32) {
    let lists = world.khoros.model().lists;
    // Each observation takes two pages at most: a list of one page is followed by an empty one.
    world.khoros.wait_until(|model| model.lists > lists + 2 * count).await;
}

#[tokio::test]
async fn changes_by_others_are_repaired() {
    type Action = fn(&mut Model, &str);
    let actions: [(Action, &str); 7] = [
        (|model, uuid| model.set_status(uuid, Status::Paused), "subscription_reactivated was=PAUSED"),
        (|model, uuid| model.set_status(uuid, Status::Disabled), "subscription_reactivated was=DISABLED"),
        (
            |model, uuid| model.repoint(uuid, "https://other.example.com/khoros/label"),
            "subscription_taken_over host=other.example.com",
        ),
        (
            |model, uuid| model.subscription(uuid).unwrap().sent["query"] = json!("Other"),
            "subscription_corrected field=query",
        ),
        (
            |model, uuid| model.subscription(uuid).unwrap().sent["query"] = json!(""),
            "subscription_corrected field=query",
        ),
        (|model, uuid| drop(model.delete(uuid)), "subscription_recreated"),
        (
            |model, uuid| {
                let double = model.subscription(uuid).unwrap().sent.clone();
                model.add(double);
            },
            "subscription_duplicate_disabled",
        ),
    ];
    join_all(actions.map(|(action, expected)| {
        run_on_sqlite(move |mut world| async move {
            let bridge = subscribed(&mut world).await;
            {
                let mut model = world.khoros.model();
                assert!(is_as_desired(&world, &model));
                let uuid = model.subscriptions[0].uuid.clone();
                action(&mut model, &uuid);
                assert!(!is_as_desired(&world, &model));
            }
            bridge.wait_for(expected).await;
            wait_until_as_desired(&world).await;
            // A repaired subscription is left alone.
            let counts_before = counts(&world.khoros.model());
            wait_for_checks(&world, 2).await;
            assert_eq!(counts(&world.khoros.model()), counts_before);
        })
    }))
    .await;
}

#[tokio::test]
async fn the_newest_of_two_is_kept() {
    run_on_sqlite(|mut world| async move {
        let _bridge = subscribed(&mut world).await;
        let newest = {
            let mut model = world.khoros.model();
            let double = model.subscriptions[0].sent.clone();
            model.add(double)
        };
        wait_until_as_desired(&world).await;
        let model = world.khoros.model();
        assert_eq!(model.subscriptions[0].status, Status::Disabled);
        assert_eq!(model.subscriptions[1].uuid, newest);
    })
    .await;
}

/// Two deployments with one name would otherwise take it from each other for ever.
#[tokio::test]
async fn after_three_corrections_the_other_deployment_keeps_it() {
    run_on_sqlite(|mut world| async move {
        let bridge = subscribed(&mut world).await;
        for round in 1..=3 {
            {
                let mut model = world.khoros.model();
                let uuid = model.subscriptions[0].uuid.clone();
                model.repoint(&uuid, "https://staging.example.com/khoros/label");
            }
            bridge.wait_for_nth("subscription_taken_over", round).await;
            wait_until_as_desired(&world).await;
        }
        let calls = {
            let mut model = world.khoros.model();
            let uuid = model.subscriptions[0].uuid.clone();
            model.repoint(&uuid, "https://staging.example.com/khoros/label");
            model.calls
        };
        let line = bridge.wait_for("subscription_failed alert=subscription_contested").await;
        let ours = world.url("").replace("http://", "");
        for part in ["SPREDFAST_EXTERNAL_ID", "staging.example.com", ours.as_str(), OURS, "ERROR"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        wait_for_checks(&world, 2).await;
        assert_eq!(world.khoros.model().calls, calls);
    })
    .await;
}

/// An entry that two pages show with different fields is no duplicate: to disable it would end the
/// subscription.
#[tokio::test]
async fn a_subscription_that_is_listed_twice_is_one() {
    let ways = [(0, true), (1, true), (1, false)];
    join_all(ways.map(|(first_page, repeats_last_page)| {
        run_on_sqlite(move |mut world| async move {
            {
                let mut model = world.khoros.model();
                (model.first_page, model.repeats_last_page) = (first_page, repeats_last_page);
                model.counts_shows = true;
            }
            let _bridge = subscribed(&mut world).await;
            wait_for_checks(&world, 3).await;
            assert_eq!(counts(&world.khoros.model()), (1, 0));
            assert!(world.khoros.model().lists < 50, "a list without an end");
        })
    }))
    .await;
}

/// Two companies may each have a subscription with the same name.
#[tokio::test]
async fn a_subscription_of_another_company_is_left_alone() {
    run_on_sqlite(|mut world| async move {
        let _bridge = subscribed(&mut world).await;
        let theirs = {
            let mut model = world.khoros.model();
            let mut double = model.subscriptions[0].sent.clone();
            double["notificationUri"] = json!("https://other.example.com/khoros/label");
            let uuid = model.add(double);
            model.subscription(&uuid).unwrap().company_id = 99;
            uuid
        };
        wait_for_checks(&world, 3).await;
        assert_eq!(counts(&world.khoros.model()), (1, 0));
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert!(output.status.success(), "{output:?}");
        let mut model = world.khoros.model();
        assert_eq!(model.subscription(&theirs).unwrap().status, Status::Active);
        assert_eq!(model.subscriptions[0].status, Status::Disabled);
    })
    .await;
}

/// A take-over that Khoros did not accept is no sign of another deployment.
#[tokio::test]
async fn a_take_over_that_fails_does_not_count() {
    run_on_sqlite(|mut world| async move {
        let bridge = subscribed(&mut world).await;
        world.khoros.queue(Call::Subscribe, [Answer::Status(500)]);
        for round in 1..=3 {
            {
                let mut model = world.khoros.model();
                let uuid = model.subscriptions[0].uuid.clone();
                model.repoint(&uuid, "https://staging.example.com/khoros/label");
            }
            bridge.wait_for_nth("subscription_taken_over", round).await;
            wait_until_as_desired(&world).await;
        }
        assert_eq!(bridge.count("* alert=subscription_contested"), 0, "{}", bridge.log());
    })
    .await;
}

/// An update may change nothing, or somebody else may revert it each time.
#[tokio::test]
async fn corrections_that_do_not_last_end_after_three() {
    type Action = fn(&mut Subscription);
    let actions: [(Action, &'static [&'static str]); 2] = [
        (|remote| remote.sent["eventName"] = json!("rule-applied"), &["eventName"]),
        (|remote| remote.sent["notificationUri"] = json!("https://other.example.com/"), &["notificationUri"]),
    ];
    join_all(actions.map(|(action, immutable)| {
        run_on_sqlite(move |mut world| async move {
            let bridge = subscribed(&mut world).await;
            let calls = {
                let mut model = world.khoros.model();
                model.immutable = immutable;
                action(&mut model.subscriptions[0]);
                model.calls
            };
            wait_for_checks(&world, 12).await;
            assert_eq!(world.khoros.model().calls, calls + 3);
            assert_eq!(state(&world).await, "failing");
            drop(bridge);
        })
    }))
    .await;
}

/// A PUT of a status may do nothing, whatever Khoros answers.
#[tokio::test]
async fn a_status_that_does_not_change_is_a_failure_until_it_does() {
    run_on_sqlite(|mut world| async move {
        let bridge = subscribed(&mut world).await;
        let uuid = world.khoros.model().subscriptions[0].uuid.clone();
        world.khoros.model().immutable = &["status"];
        world.khoros.model().set_status(&uuid, Status::Paused);
        bridge.wait_for("subscription_failed state=wrong").await;
        assert_eq!(state(&world).await, "failing");
        assert_eq!(counts(&world.khoros.model()), (1, 3));
        world.khoros.model().set_status(&uuid, Status::Active);
        bridge.wait_for("subscription_recovered").await;
        assert_eq!(state(&world).await, "subscribed");
    })
    .await;
}

/// Khoros publishes neither the number of the first page nor what follows the last one.
#[tokio::test]
async fn our_subscription_is_found_in_every_paging() {
    let ways = [
        (0, false, None),
        (0, true, None),
        (1, false, None),
        (1, true, None),
        (0, false, Some(404)),
        (0, false, Some(400)),
        (1, false, Some(404)),
    ];
    join_all(ways.map(|(first_page, repeats_last_page, no_such_page)| {
        run_on_sqlite(move |mut world| async move {
            {
                let mut model = world.khoros.model();
                (model.first_page, model.repeats_last_page) = (first_page, repeats_last_page);
                model.no_such_page = no_such_page;
                for number in 0..250 {
                    model.add(json!({"externalId": format!("other-{number}"), "eventName": "rule-applied"}));
                }
            }
            let _bridge = subscribed(&mut world).await;
            let uuid = world.khoros.model().subscriptions[250].uuid.clone();
            world.khoros.model().set_status(&uuid, Status::Paused);
            wait_until_as_desired(&world).await;
            assert_eq!(world.khoros.model().subscriptions.len(), 251);
            assert_eq!(world.khoros.model().puts, 1);
        })
    }))
    .await;
}

/// A third party says that a POST always creates a new subscription. Then one start must not leave two active
/// ones, and the next start must not create another one.
#[tokio::test]
async fn where_a_post_duplicates_one_stays_active() {
    run_on_sqlite(|mut world| async move {
        world.khoros.model().duplicates = true;
        let bridge = subscribed(&mut world).await;
        wait_until_as_desired(&world).await;
        let uuid = world.khoros.model().subscriptions[0].uuid.clone();
        world.khoros.model().repoint(&uuid, "https://other.example.com/");
        wait_until_as_desired(&world).await;
        assert_eq!(world.khoros.model().subscriptions.len(), 2);
        bridge.stop().await;
        let bridge = world.start_subscribed().await;
        wait_for_checks(&world, 2).await;
        assert_eq!(world.khoros.model().calls, 2);
        drop(bridge);
    })
    .await;
}

/// No answer can be trusted to show the token, so a new one is declared even if nothing else has changed.
#[tokio::test]
async fn a_new_bearer_token_is_declared_while_both_are_accepted() {
    run_on_sqlite(|mut world| async move {
        world.khoros.model().echoes_bearer = false;
        let bridge = subscribed(&mut world).await;
        bridge.stop().await;
        let new = "a-new-bearer-token-for-the-tests";
        world.set("NOTIFICATION_BEARER_TOKEN", format!("{new},{BEARER}"));
        let bridge = world.start_subscribed().await;
        assert_eq!(world.khoros.model().subscriptions[0]["bearerToken"], new);
        world.notify(&event("by-the-old-token", "1")).await;
        let answers = world.khoros.apply_label(LABEL, &event("by-the-new-token", "2")).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [200]);
        world.tickets(2).await;
        bridge.stop().await;
        // Nothing has changed, so nothing is declared.
        let calls = world.khoros.model().calls;
        let _bridge = world.start_subscribed().await;
        wait_for_checks(&world, 1).await;
        assert_eq!(world.khoros.model().calls, calls);
    })
    .await;
}

/// A nonsense answer to the list neither stops the service nor counts as a success. Where nothing is listed,
/// the subscription is declared once.
#[tokio::test]
async fn nonsense_answers_stop_nothing() {
    const UNCHECKED: &str = "subscription_failed state=unchecked";
    let nonsense = [
        (Answer::Html, UNCHECKED),
        (Answer::ServiceNotFound, "subscriptions_unlisted"),
        (Answer::Text, "subscriptions_unlisted"),
        (Answer::Nothing, "subscriptions_unlisted"),
        (Answer::Status(500), UNCHECKED),
        (Answer::Reset, UNCHECKED),
        (Answer::Throttled, UNCHECKED),
        (Answer::Failed, UNCHECKED),
    ];
    join_all(nonsense.map(|(answer, expected)| {
        run_on_sqlite(move |mut world| async move {
            world.khoros.queue(Call::List, std::iter::repeat_n(answer, 4));
            world.set("SPREDFAST_CHECK_MINUTES", CHECK_MINUTES);
            world.khoros.model().style = Style::Json;
            let bridge = world.start_subscribed().await;
            bridge.wait_for(expected).await;
            world.notify(&event("event-1", "1")).await;
            world.tickets(1).await;
            // Once Khoros lists them, they are checked.
            world.khoros.wait_until(|model| model.lists > 3).await;
            let uuid = world.khoros.model().subscriptions[0].uuid.clone();
            world.khoros.model().set_status(&uuid, Status::Paused);
            wait_until_as_desired(&world).await;
            assert_eq!(world.khoros.model().calls, 1);
        })
    }))
    .await;
}

/// A hidden field cannot be compared, and is no reason to declare the subscription at every check.
#[tokio::test]
async fn hidden_fields_are_declared_once() {
    let hidden: [(&[&str], &str); 3] = [
        (&["notificationUri", "query"], "subscribed"),
        (&["externalId"], "subscriptions_unlisted"),
        (&["eventName", "status"], "subscribed"),
    ];
    join_all(hidden.map(|(hidden, expected)| {
        run_on_sqlite(move |mut world| async move {
            world.khoros.model().hidden = hidden;
            // Where a POST duplicates, that would never end.
            world.khoros.model().duplicates = true;
            let bridge = subscribed(&mut world).await;
            bridge.wait_for(expected).await;
            wait_for_checks(&world, 3).await;
            assert_eq!(counts(&world.khoros.model()), (1, 0));
        })
    }))
    .await;
}

/// One strange answer does not mean that the subscriptions have ceased to exist.
#[tokio::test]
async fn a_strange_answer_after_a_list_is_a_failure() {
    let strange = [Answer::Text, Answer::Nothing, Answer::ServiceNotFound, Answer::Html];
    join_all(strange.map(|answer| {
        run_on_sqlite(move |mut world| async move {
            let bridge = subscribed(&mut world).await;
            wait_for_checks(&world, 1).await;
            world.khoros.queue(Call::List, [answer]);
            let line = bridge.wait_for("subscription_failed state=unchecked").await;
            assert!(line.contains("WARN"), "{line}");
            wait_for_checks(&world, 1).await;
            assert_eq!(world.khoros.model().calls, 1);
        })
    }))
    .await;
}

/// Only the POST is known of the tutorial's address.
#[tokio::test]
async fn the_old_address_is_enough() {
    run_on_sqlite(|mut world| async move {
        world.set("SPREDFAST_API_URL", world.khoros.v1_api_url());
        world.set("SPREDFAST_CHECK_MINUTES", CHECK_MINUTES);
        let bridge = world.start_subscribed().await;
        bridge.wait_for("subscriptions_unlisted").await;
        world.khoros.apply_label(LABEL, &event("event-1", "1")).await;
        world.tickets(1).await;
        assert_eq!(world.khoros.model().calls, 1);
        assert_eq!(bridge.count("subscriptions_unlisted"), 1);
    })
    .await;
}

on_both! {
    // A running service leaves the end alone, and the next start subscribes again.
    async fn an_ended_subscription_stays_disabled_until_the_next_start(world: World) {
        let mut world = world;
        world.set("ROUTE_VIP_LABEL", "VIP");
        let bridge = subscribed(&mut world).await;
        bridge.wait_for_nth("subscribed origin=push", 2).await;
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("ended `send-to-zendesk` (") && printed.contains("ended `send-to-zendesk-vip` ("));
        let are_off = |model: &Model| model.subscriptions.iter().all(|remote| remote.status == Status::Disabled);
        assert!(are_off(&world.khoros.model()));
        bridge.wait_for_nth("subscription_ended", 2).await;
        let lists = world.khoros.model().lists;
        assert_eq!(state(&world).await, "ended");
        assert!(are_off(&world.khoros.model()));
        // The running process leaves it alone, and the next one subscribes again.
        bridge.stop().await;
        assert_eq!(world.khoros.model().lists, lists);
        let bridge = world.start_subscribed().await;
        wait_until_as_desired(&world).await;
        bridge.stop().await;
    }
}

/// The service must not take the operator's change for somebody else's.
#[tokio::test]
async fn an_end_during_a_check_is_respected() {
    run_on_sqlite(|mut world| async move {
        let bridge = subscribed(&mut world).await;
        wait_for_checks(&world, 1).await;
        world.khoros.model().late_lists = 1;
        world.khoros.wait_until(|model| model.waiting_lists == 1).await;
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert!(output.status.success(), "{output:?}");
        world.khoros.release_lists();
        bridge.wait_for("subscription_ended").await;
        let model = world.khoros.model();
        assert_eq!(model.subscriptions[0].status, Status::Disabled);
        assert_eq!(model.puts, 1);
    })
    .await;
}

/// The service counts as running from the time when it listens, even before it subscribes.
#[tokio::test]
async fn an_end_while_the_address_is_tried_is_respected() {
    run_on_sqlite(|mut world| async move {
        world.khoros.model().style = Style::Json;
        let here = world.url("").trim_start_matches("http://").parse().unwrap();
        let proxy = Proxy::start(here).await;
        proxy.set(Wire::Cut);
        world.set("PUBLIC_URL", format!("http://{}", proxy.address));
        world.set("PUBLIC_URL_PROBE_SECONDS", "3600");
        let bridge = world.start().await;
        bridge.wait_for("public_url_unreachable").await;
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert!(output.status.success(), "{output:?}");
        proxy.set(Wire::Whole);
        bridge.wait_for("subscription_ended").await;
        assert_eq!(world.khoros.model().calls, 0);
        assert_eq!(state(&world).await, "ended");
    })
    .await;
}

#[tokio::test]
async fn an_end_that_fails_is_reported() {
    run_on_sqlite(|mut world| async move {
        let bridge = world.start_subscribed().await;
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert_eq!(output.status.code(), Some(1));
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(printed.contains("ask Khoros support") && printed.contains(OURS), "{printed}");
        bridge.stop().await;

        // A subscription that was not ended is still checked.
        let bridge = subscribed(&mut world).await;
        world.khoros.queue(Call::SetStatus, [Answer::Status(422)]);
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stdout).unwrap().contains("is not ended: Khoros answered 422"));
        let uuid = world.khoros.model().subscriptions[0].uuid.clone();
        world.khoros.model().set_status(&uuid, Status::Paused);
        wait_until_as_desired(&world).await;
        bridge.stop().await;

        let output = world.command_with_settings(&["unsubscribe", "--external-id", "nobody's"]).await;
        assert!(
            String::from_utf8(output.stdout).unwrap().contains("nothing to end: no subscription `nobody's`")
        );
        world.set("SPREDFAST_API_TOKEN", "not-the-token-of-the-stand-in");
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains("SPREDFAST_API_TOKEN"));
    })
    .await;
}

/// A removed route leaves its subscription behind.
#[tokio::test]
async fn an_unused_subscription_is_reported_once() {
    run_on_sqlite(|mut world| async move {
        world.set("ROUTE_OLD_LABEL", "Old");
        let bridge = subscribed(&mut world).await;
        bridge.wait_for_nth("subscribed origin=push", 2).await;
        bridge.stop().await;
        world.unset("ROUTE_OLD_LABEL");
        let bridge = subscribed(&mut world).await;
        bridge.wait_for("subscription_unused external_id=send-to-zendesk-old").await;
        wait_for_checks(&world, 2).await;
        assert_eq!(bridge.count("subscription_unused"), 1);
        let output =
            world.command_with_settings(&["unsubscribe", "--external-id", "send-to-zendesk-old"]).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(world.khoros.model().subscriptions[1].status, Status::Disabled);
        assert_eq!(world.khoros.model().subscriptions[0].status, Status::Active);
    })
    .await;
}

/// Khoros refuses one subscription, and the others are made anyway.
#[tokio::test]
async fn one_failing_route_does_not_affect_the_others() {
    run_on_sqlite(|mut world| async move {
        world.set("ROUTE_VIP_LABEL", "VIP");
        world.khoros.queue(Call::Subscribe, [Answer::Status(400)]);
        let bridge = subscribed(&mut world).await;
        let line = bridge.wait_for("subscription_failed state=not_subscribed").await;
        assert!(line.contains("answered 400"), "{line}");
        bridge.wait_for_nth("subscribed origin=push", 2).await;
    })
    .await;
}
