//! Subscriptions that stay true, whatever is done to them behind our back and whatever Khoros answers.

use casebridge::sandbox::khoros::{Answer, Call, Model, Status, Style, Subscription};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{ADMIN, BEARER, Bridge, LABEL, Proxy, Wire, World, event, on_both, run_on_sqlite};

const OURS: &str = "send-to-zendesk";

/// About a second, so that a test sees several of them.
const CHECK_MINUTES: &str = "0.02";

/// Khoros shows its subscriptions, and the bridge has one there.
async fn subscribed(world: &mut World) -> Bridge {
    world.set("SPREDFAST_CHECK_MINUTES", CHECK_MINUTES);
    world.khoros.model().style = Style::Json;
    let bridge = world.start_subscribed().await;
    world.khoros.wait_until(|model| model.lists > 0).await;
    bridge
}

fn ours(model: &Model) -> Vec<&Subscription> {
    model.subscriptions.iter().filter(|held| held["externalId"] == OURS).collect()
}

/// One of ours is on and says what we want.
fn is_true(world: &World, model: &Model) -> bool {
    let on: Vec<_> = ours(model).into_iter().filter(|held| held.status == Status::Active).collect();
    on.len() == 1
        && on[0]["notificationUri"] == world.url("/khoros/label").as_str()
        && on[0]["eventName"] == "stream-item-label-applied"
        && on[0]["query"] == LABEL
        && on[0]["bearerToken"] == BEARER
}

/// What was told: by POST and by PUT.
fn counts(model: &Model) -> (u32, u32) {
    (model.calls, model.puts)
}

/// What `/status` tells of the tutorial's route.
async fn state(world: &World) -> Value {
    let status = world.http.get(world.url("/status")).bearer_auth(ADMIN).send().await;
    status.unwrap().json::<Value>().await.unwrap()["subscriptions"]["label"]["state"].take()
}

async fn wait_until_true(world: &World) {
    world.khoros.wait_until(|model| is_true(world, model)).await;
}

async fn wait_for_checks(world: &World, count: u32) {
    let seen = world.khoros.model().lists;
    // Each look takes two pages at most: a list of one page is followed by an empty one.
    world.khoros.wait_until(|model| model.lists > seen + 2 * count).await;
}

#[tokio::test]
async fn what_is_done_behind_our_back_is_repaired() {
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
    join_all(actions.map(|(action, told)| {
        run_on_sqlite(move |mut world| async move {
            let bridge = subscribed(&mut world).await;
            {
                let mut model = world.khoros.model();
                assert!(is_true(&world, &model));
                let uuid = model.subscriptions[0].uuid.clone();
                action(&mut model, &uuid);
                assert!(!is_true(&world, &model));
            }
            bridge.wait_for(told).await;
            wait_until_true(&world).await;
            // What is repaired is left alone.
            let told_before = counts(&world.khoros.model());
            wait_for_checks(&world, 2).await;
            assert_eq!(counts(&world.khoros.model()), told_before);
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
        wait_until_true(&world).await;
        let model = world.khoros.model();
        assert_eq!(model.subscriptions[0].status, Status::Disabled);
        assert_eq!(model.subscriptions[1].uuid, newest);
    })
    .await;
}

/// Two deployments that both hold on to one name would take it from each other for ever.
#[tokio::test]
async fn after_the_third_time_it_is_left_to_the_other() {
    run_on_sqlite(|mut world| async move {
        let bridge = subscribed(&mut world).await;
        for round in 1..=3 {
            {
                let mut model = world.khoros.model();
                let uuid = model.subscriptions[0].uuid.clone();
                model.repoint(&uuid, "https://staging.example.com/khoros/label");
            }
            bridge.wait_for_nth("subscription_taken_over", round).await;
            wait_until_true(&world).await;
        }
        let calls = {
            let mut model = world.khoros.model();
            let uuid = model.subscriptions[0].uuid.clone();
            model.repoint(&uuid, "https://staging.example.com/khoros/label");
            model.calls
        };
        let line = bridge.wait_for("subscription_failed alert=subscription_contested").await;
        let ours = world.url("").replace("http://", "");
        for word in ["set SPREDFAST_EXTERNAL_ID", "staging.example.com", ours.as_str(), OURS, "ERROR"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        wait_for_checks(&world, 2).await;
        assert_eq!(world.khoros.model().calls, calls);
    })
    .await;
}

/// One that is shown twice, and not in the same words, is no double: to disable it would end it.
#[tokio::test]
async fn what_is_shown_twice_is_one() {
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

/// Two companies may have a subscription of the same name each.
#[tokio::test]
async fn that_of_another_company_is_left_alone() {
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

/// A take-over that Khoros did not accept was none: it says nothing of another deployment.
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
            wait_until_true(&world).await;
        }
        assert_eq!(bridge.count("* alert=subscription_contested"), 0, "{}", bridge.log());
    })
    .await;
}

/// Where an update changes nothing, or somebody else changes it back each time, it is left so, too.
#[tokio::test]
async fn what_cannot_be_corrected_is_not_told_for_ever() {
    type Action = fn(&mut Subscription);
    let actions: [(Action, &'static [&'static str]); 2] = [
        (|held| held.sent["eventName"] = json!("rule-applied"), &["eventName"]),
        (|held| held.sent["notificationUri"] = json!("https://other.example.com/"), &["notificationUri"]),
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

/// To set a status may do nothing, whatever is answered: that is no success.
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

/// The number of the first page, and what comes after the last, are not published.
#[tokio::test]
async fn ours_is_found_among_many_however_pages_are_counted() {
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
            wait_until_true(&world).await;
            assert_eq!(world.khoros.model().subscriptions.len(), 251);
            assert_eq!(world.khoros.model().puts, 1);
        })
    }))
    .await;
}

/// A third party says that a POST always makes a new subscription. Then one start must not leave two
/// that are on, and the next start must not leave another one.
#[tokio::test]
async fn where_a_post_doubles_there_is_one_all_the_same() {
    run_on_sqlite(|mut world| async move {
        world.khoros.model().duplicates = true;
        let bridge = subscribed(&mut world).await;
        wait_until_true(&world).await;
        let uuid = world.khoros.model().subscriptions[0].uuid.clone();
        world.khoros.model().repoint(&uuid, "https://other.example.com/");
        wait_until_true(&world).await;
        assert_eq!(world.khoros.model().subscriptions.len(), 2);
        bridge.stop().await;
        let bridge = world.start_subscribed().await;
        wait_for_checks(&world, 2).await;
        assert_eq!(world.khoros.model().calls, 2);
        drop(bridge);
    })
    .await;
}

/// The token is in no answer that could be trusted, so a new one is told even if all else is as it was.
#[tokio::test]
async fn a_new_bearer_token_is_told_while_both_are_taken() {
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
        // Nothing has changed, so nothing is told.
        let calls = world.khoros.model().calls;
        let _bridge = world.start_subscribed().await;
        wait_for_checks(&world, 1).await;
        assert_eq!(world.khoros.model().calls, calls);
    })
    .await;
}

/// What answers nonsense to a look at the subscriptions neither stops the service nor counts as a
/// success; and one that shows nothing at all is not told again and again.
#[tokio::test]
async fn a_neighbour_that_answers_nonsense_is_lived_with() {
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
    join_all(nonsense.map(|(answer, told)| {
        run_on_sqlite(move |mut world| async move {
            world.khoros.queue(Call::List, std::iter::repeat_n(answer, 4));
            world.set("SPREDFAST_CHECK_MINUTES", CHECK_MINUTES);
            world.khoros.model().style = Style::Json;
            let bridge = world.start_subscribed().await;
            bridge.wait_for(told).await;
            world.notify(&event("event-1", "1")).await;
            world.tickets(1).await;
            // Once it shows them, they are looked after.
            world.khoros.wait_until(|model| model.lists > 3).await;
            let uuid = world.khoros.model().subscriptions[0].uuid.clone();
            world.khoros.model().set_status(&uuid, Status::Paused);
            wait_until_true(&world).await;
            assert_eq!(world.khoros.model().calls, 1);
        })
    }))
    .await;
}

/// What Khoros does not show cannot be compared, and is no reason to tell it again at every check.
#[tokio::test]
async fn what_is_not_shown_is_told_once() {
    let hidden: [(&[&str], &str); 3] = [
        (&["notificationUri", "query"], "subscribed"),
        (&["externalId"], "subscriptions_unlisted"),
        (&["eventName", "status"], "subscribed"),
    ];
    join_all(hidden.map(|(hidden, told)| {
        run_on_sqlite(move |mut world| async move {
            world.khoros.model().hidden = hidden;
            // Where a POST doubles it would never end.
            world.khoros.model().duplicates = true;
            let bridge = subscribed(&mut world).await;
            bridge.wait_for(told).await;
            wait_for_checks(&world, 3).await;
            assert_eq!(counts(&world.khoros.model()), (1, 0));
        })
    }))
    .await;
}

/// What was there yesterday has not ceased to exist because of one odd answer.
#[tokio::test]
async fn an_odd_answer_later_is_no_news() {
    let odd = [Answer::Text, Answer::Nothing, Answer::ServiceNotFound, Answer::Html];
    join_all(odd.map(|answer| {
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

/// Of the tutorial's address only the POST is known.
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
    // The operator ends it: who is running leaves it so, and the next start begins anew.
    async fn what_the_operator_ended_stays_so_until_the_next_start(world: World) {
        let mut world = world;
        world.set("ROUTE_VIP_LABEL", "VIP");
        let bridge = subscribed(&mut world).await;
        bridge.wait_for_nth("subscribed origin=push", 2).await;
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains("ended `send-to-zendesk` (") && told.contains("ended `send-to-zendesk-vip` ("));
        let are_off = |model: &Model| model.subscriptions.iter().all(|held| held.status == Status::Disabled);
        assert!(are_off(&world.khoros.model()));
        bridge.wait_for_nth("subscription_ended", 2).await;
        let lists = world.khoros.model().lists;
        assert_eq!(state(&world).await, "ended");
        assert!(are_off(&world.khoros.model()));
        // Another process that starts wants it again, and the one that was told keeps away from it.
        bridge.stop().await;
        assert_eq!(world.khoros.model().lists, lists);
        let bridge = world.start_subscribed().await;
        wait_until_true(&world).await;
        bridge.stop().await;
    }
}

/// What it sees of the operator's action, it must not take for somebody else's.
#[tokio::test]
async fn an_end_is_honoured_in_the_middle_of_a_look() {
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

/// It has been running since it listens, even if it has not told Khoros anything yet.
#[tokio::test]
async fn an_end_is_honoured_while_the_address_is_tried() {
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
async fn an_end_that_cannot_be_had_is_told() {
    run_on_sqlite(|mut world| async move {
        let bridge = world.start_subscribed().await;
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("ask Khoros support") && told.contains(OURS), "{told}");
        bridge.stop().await;

        // What was not ended is still looked after.
        let bridge = subscribed(&mut world).await;
        world.khoros.queue(Call::SetStatus, [Answer::Status(422)]);
        let output = world.command_with_settings(&["unsubscribe"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stdout).unwrap().contains("is not ended: Khoros answered 422"));
        let uuid = world.khoros.model().subscriptions[0].uuid.clone();
        world.khoros.model().set_status(&uuid, Status::Paused);
        wait_until_true(&world).await;
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

/// A route that was removed has left its subscription behind.
#[tokio::test]
async fn what_no_route_wants_is_told_once() {
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

/// Subscriptions of the routes beside the one that Khoros does not take are made all the same.
#[tokio::test]
async fn one_route_in_trouble_leaves_the_others_alone() {
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
