//! Adoption of tickets that the 2017 example created: their `external_id` is the link of the post.

use std::time::Duration;

use casebridge_sandbox::khoros::PushFault;
use casebridge_sandbox::zendesk::{Chaos, Fault};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::case::{comments_on, deliver, noted, status};
use crate::harness::{LABEL, World, event_with, number, on_both, run_on_sqlite};
use crate::pull::{start_reading, with_feeds};

const NOTICE: &str = "casebridge continues this ticket for the post";

/// The link of a post.
fn link(post: &str) -> String {
    format!("https://twitter.com/jane/status/{post}")
}

/// A label event about a post with its own link and these notes.
fn labelled(event: &str, post: &str, notes: &[&str]) -> String {
    let mut event: Value = serde_json::from_str(&noted(event, post, notes)).unwrap();
    event["data"]["items"][0]["link"] = json!(link(post));
    event.to_string()
}

/// Adds the ticket of a post as the 2017 example created it.
fn old_ticket(world: &World, post: &str) -> u64 {
    world.zendesk.model().add_old_ticket(&link(post), &format!("twitter:{post}"))
}

fn adopt(world: &mut World) {
    world.set("ADOPT_BY_LINK", "1");
    world.set("ADOPT_UNTIL", "2999-12-31");
}

fn ticket(world: &World, number: u64) -> Value {
    let model = world.zendesk.model();
    model.tickets.iter().find(|ticket| ticket["id"] == number).unwrap().clone()
}

fn case(post: &str) -> String {
    format!("khoros:1234:twitter:{post}")
}

/// Checks that a ticket has one notice, and that it now belongs to the post.
fn assert_adopted(world: &World, number: u64, post: &str) {
    let comments = comments_on(world, number);
    let notices = comments.iter().filter(|text| text.contains(NOTICE) && text.contains(&link(post)));
    assert_eq!(notices.count(), 1, "{comments:?}");
    assert_eq!(ticket(world, number)["external_id"], case(post));
}

on_both! {
    async fn an_open_ticket_is_continued_and_not_searched_again(world: World) {
        let mut world = world;
        adopt(&mut world);
        old_ticket(&world, "1");
        {
            let mut model = world.zendesk.model();
            model.tickets[0]["tags"] = json!(["agents_own"]);
            model.tickets[0]["priority"] = json!("low");
            model.set_status(1000, "pending");
        }
        let before = ticket(&world, 1000);
        let bridge = world.start().await;
        bridge.wait_for("adoption_enabled level=INFO until=3000-01-01T00:00:00Z").await;
        deliver(&world, &bridge, labelled("e1", "1", &["call them"]), "commented", 1000).await;
        bridge.wait_for("ticket_adopted ticket=1000 case=khoros:1234:twitter:1").await;
        assert_adopted(&world, 1000, "1");
        let said = comments_on(&world, 1000).remove(0);
        assert!(said.contains("\" again at ") && said.contains("call them"), "{said}");
        let after = ticket(&world, 1000);
        for field in ["subject", "requester_id", "priority", "status"] {
            assert_eq!(after[field], before[field], "{field}");
        }
        for tag in ["agents_own", "khoros", "khoros_label_createcase"] {
            assert!(after["tags"].as_array().unwrap().contains(&json!(tag)), "{after}");
        }

        deliver(&world, &bridge, labelled("e2", "1", &["call them"]), "unchanged", 1000).await;
        deliver(&world, &bridge, labelled("e3", "1", &["call them", "again"]), "commented", 1000).await;
        assert_eq!(comments_on(&world, 1000).len(), 2);
        deliver(&world, &bridge, labelled("e4", "2", &[]), "created", 1001).await;
        deliver(&world, &bridge, labelled("e5", "2", &[]), "unchanged", 1001).await;
        {
            let model = world.zendesk.model();
            assert_eq!((model.searches, model.creates), (2, 1));
        }
        world.check_one_ticket_per_case().await;
    }

    async fn a_solved_ticket_is_reopened(world: World) {
        let mut world = world;
        adopt(&mut world);
        old_ticket(&world, "1");
        world.zendesk.model().set_status(1000, "solved");
        let bridge = world.start().await;
        deliver(&world, &bridge, labelled("e1", "1", &[]), "reopened", 1000).await;
        assert_eq!(status(&world, 1000), "open");
        assert_adopted(&world, 1000, "1");
        world.check_one_ticket_per_case().await;
    }

    // Archived tickets are in no list. The second create is refused for a while, the third one's answer is lost.
    async fn a_closed_ticket_is_followed_up_under_the_case_key(world: World) {
        let mut world = world;
        adopt(&mut world);
        world.set("RETRY_SCHEDULE", "0,0,0");
        for post in ["1", "2", "3"] {
            let number = old_ticket(&world, post);
            world.zendesk.model().set_status(number, "closed");
            world.zendesk.model().archived.insert(number);
        }
        let bridge = world.start().await;
        let stories = [
            ("1", None, "followed_up"),
            ("2", Some(Fault::TooMany(1)), "followed_up"),
            ("3", Some(Fault::StatusAfterCreate(500)), "found"),
        ];
        for (number, (post, fault, action)) in (1003..).zip(stories) {
            world.zendesk.queue(fault);
            deliver(&world, &bridge, labelled(&format!("first-{post}"), post, &["a"]), action, number).await;
            let again = labelled(&format!("second-{post}"), post, &["a"]);
            deliver(&world, &bridge, again, "unchanged", number).await;
            let follow_up = ticket(&world, number);
            assert_eq!(follow_up["external_id"], case(post));
            assert_eq!(follow_up["via_followup_source_id"], number - 3);
            assert_eq!(ticket(&world, number - 3)["external_id"], link(post));
        }
        let model = world.zendesk.model();
        assert_eq!((model.tickets.len(), model.searches, model.key_mismatches), (6, 3, 0));
    }

    async fn an_adoption_whose_answer_is_lost_is_done_once(world: World) {
        let mut world = world;
        adopt(&mut world);
        world.set("RETRY_SCHEDULE", "0,0,0,0,0,0");
        world.set("ZENDESK_UPDATE_BUDGET_PERCENT", "100");
        let bridge = world.start().await;
        let faults = [
            (Fault::ResetAfter, "found"),
            (Fault::StatusAfterCreate(500), "found"),
            (Fault::StatusAfterCreate(409), "found"),
            (Fault::StatusAfterCreate(504), "found"),
            (Fault::HangAfterCreate, "found"),
            (Fault::Late(Duration::from_secs(2)), "found"),
            (Fault::Status(409), "commented"),
            (Fault::Status(500), "commented"),
            (Fault::ResetBefore, "commented"),
        ];
        for (number, (fault, action)) in (1000..).zip(faults) {
            let post = number.to_string();
            assert_eq!(old_ticket(&world, &post), number);
            world.zendesk.queue_updates([fault]);
            let event = labelled(&format!("e{number}"), &post, &["a note"]);
            deliver(&world, &bridge, event, action, number).await;
            assert_adopted(&world, number, &post);
            assert_eq!(comments_on(&world, number).len(), 1);
        }
        {
            let model = world.zendesk.model();
            assert_eq!((model.creates, model.searches), (0, 9));
        }
        world.check_one_ticket_per_case().await;
    }

    async fn a_kill_does_not_repeat_an_adoption(world: World) {
        let mut world = world;
        adopt(&mut world);
        for (post, fault) in [("1", Fault::HangAfterCreate), ("2", Fault::Hang)] {
            let number = old_ticket(&world, post);
            let bridge = world.start().await;
            world.zendesk.queue_updates([fault]);
            world.notify(&labelled(&format!("e{post}"), post, &[])).await;
            world.zendesk.wait_until(|model| model.update_faults.is_empty()).await;
            bridge.kill().await;
            let bridge = world.start().await;
            bridge.wait_for(&format!("delivery_done ticket={number}")).await;
            bridge.stop().await;
            assert_adopted(&world, number, post);
        }
        assert_eq!(world.zendesk.model().creates, 0);
        world.check_one_ticket_per_case().await;
    }

    // Without an answer to the search, there is no ticket.
    async fn a_search_that_fails_is_repeated(world: World) {
        let mut world = world;
        adopt(&mut world);
        world.set("RETRY_SCHEDULE", "0,0,0,0,0,0");
        let bridge = world.start().await;
        let faults =
            [Fault::Status(503), Fault::TooMany(1), Fault::Status(500), Fault::Html, Fault::ResetBefore];
        for (number, fault) in (1000..).zip(faults) {
            let post = number.to_string();
            assert_eq!(old_ticket(&world, &post), number);
            world.zendesk.model().search_faults = [fault].into();
            deliver(&world, &bridge, labelled(&format!("e{number}"), &post, &[]), "commented", number).await;
            assert!(world.zendesk.model().search_faults.is_empty());
            assert_adopted(&world, number, &post);
        }
        assert_eq!(world.zendesk.model().creates, 0);
        world.check_one_ticket_per_case().await;
    }

    // It says something of this link alone: neither the post nor those after it wait.
    async fn a_search_that_is_refused_costs_at_most_a_second_ticket(world: World) {
        let mut world = world;
        adopt(&mut world);
        old_ticket(&world, "1");
        old_ticket(&world, "2");
        let bridge = world.start().await;
        world.zendesk.model().search_faults = [Fault::Status(422)].into();
        deliver(&world, &bridge, labelled("e1", "1", &[]), "created", 1002).await;
        bridge.wait_for("adoption_search_refused level=WARN status=422").await;
        deliver(&world, &bridge, labelled("e2", "2", &[]), "commented", 1001).await;
        assert_eq!(bridge.count("destination_paused"), 0);
    }

    async fn the_newest_open_ticket_is_adopted(world: World) {
        let mut world = world;
        adopt(&mut world);
        for post in ["1", "1", "2", "2", "3", "3", "4", "4"] {
            old_ticket(&world, post);
        }
        {
            let mut model = world.zendesk.model();
            for number in [1003, 1004, 1005] {
                model.set_status(number, "closed");
            }
            model.delete_ticket(1007);
        }
        let bridge = world.start().await;
        for (post, action, number) in [
            ("1", "commented", 1001),
            ("2", "commented", 1002),
            ("3", "followed_up", 1008),
            ("4", "commented", 1006),
        ] {
            deliver(&world, &bridge, labelled(&format!("e{post}"), post, &[]), action, number).await;
        }
        assert_eq!(ticket(&world, 1008)["via_followup_source_id"], 1005);
        for (number, post) in [(1001, "1"), (1002, "2"), (1006, "4")] {
            assert_adopted(&world, number, post);
        }
        assert_eq!(world.zendesk.model().tickets.len(), 8);
    }

    async fn without_adoption_no_search_is_sent(world: World) {
        let mut world = world;
        let settings = [
            (None, None),
            (Some("1"), Some("2020-01-31")),
            (Some("0"), Some("2999-12-31")),
            (None, Some("2999-12-31")),
        ];
        for (number, (by_link, until)) in (1001..).step_by(2).zip(settings) {
            world.vars.retain(|name, _| !name.starts_with("ADOPT_"));
            by_link.into_iter().for_each(|value| world.set("ADOPT_BY_LINK", value));
            until.into_iter().for_each(|value| world.set("ADOPT_UNTIL", value));
            let bridge = world.start().await;
            let post = number.to_string();
            old_ticket(&world, &post);
            deliver(&world, &bridge, labelled(&format!("e{number}"), &post, &[]), "created", number).await;
            assert_eq!(bridge.count("adoption_enabled"), 0);
            let warns = until.is_some() && by_link != Some("0");
            assert_eq!(bridge.count("setting_warning"), usize::from(warns), "{}", bridge.log());
            bridge.stop().await;
        }
        assert_eq!(world.zendesk.model().searches, 0);
    }
}

#[tokio::test]
async fn a_wrong_time_stops_the_start() {
    run_on_sqlite(|mut world| async move {
        for (by_link, until, problem) in [
            ("1", None, "ADOPT_UNTIL is not set"),
            ("1", Some("31.03.2027"), "ADOPT_UNTIL is neither a day"),
            ("1", Some("2027-03-31T18:00"), "ADOPT_UNTIL is neither a day"),
            ("yes", Some("2027-03-31"), "ADOPT_BY_LINK is neither 1 nor 0"),
        ] {
            world.vars.retain(|name, _| !name.starts_with("ADOPT_"));
            world.set("ADOPT_BY_LINK", by_link);
            until.into_iter().for_each(|until| world.set("ADOPT_UNTIL", until));
            let (status, log) = world.spawn().end_with_log().await;
            assert_eq!(status.code(), Some(2), "{log}");
            assert_eq!(log.matches("start_failed").count(), 1, "{log}");
            assert!(log.contains(problem), "{log}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_link_with_quotation_marks_is_found() {
    run_on_sqlite(|mut world| async move {
        adopt(&mut world);
        let link = r#"https://example.com/a"b\c" type:user "d"#;
        world.zendesk.model().add_old_ticket(link, "twitter:1");
        let bridge = world.start().await;
        let event = event_with("e1", "1", |item| item["link"] = json!(link));
        deliver(&world, &bridge, event, "commented", 1000).await;
        assert_eq!(ticket(&world, 1000)["external_id"], case("1"));
    })
    .await;
}

/// Comments on one picture share its link, and the index finds longer links, too.
#[tokio::test]
async fn the_ticket_of_another_post_is_not_adopted() {
    run_on_sqlite(|mut world| async move {
        adopt(&mut world);
        {
            let mut model = world.zendesk.model();
            model.add_old_ticket(&link("1"), "twitter:2");
            model.add_old_ticket(&format!("{}/photo", link("1")), "twitter:1");
        }
        let bridge = world.start().await;
        deliver(&world, &bridge, labelled("e1", "1", &[]), "created", 1002).await;
        assert_eq!(world.zendesk.model().searches, 1);
        // An agent has changed the subject, so that only the link says what the ticket is about.
        world.zendesk.model().tickets[0]["subject"] = json!("Order 66");
        let at_link =
            |event: &str, post: &str| event_with(event, post, |item| item["link"] = json!(link("1")));
        let index = world.zendesk.model().tickets.clone();
        deliver(&world, &bridge, at_link("e3", "3"), "commented", 1000).await;
        // The index does not contain the change yet.
        world.zendesk.model().outdated_index = Some(index);
        deliver(&world, &bridge, at_link("e4", "4"), "created", 1003).await;
        assert_eq!(comments_on(&world, 1000).len(), 1);
        assert_eq!(ticket(&world, 1000)["external_id"], case("3"));
    })
    .await;
}

/// The target is the ticket of another post, and becomes that post's.
#[tokio::test]
async fn the_target_of_a_merged_ticket_is_adopted() {
    run_on_sqlite(|mut world| async move {
        adopt(&mut world);
        old_ticket(&world, "1");
        old_ticket(&world, "2");
        world.zendesk.model().merge_ticket(1000, 1001, "merged into #1001");
        let bridge = world.start().await;
        deliver(&world, &bridge, labelled("e1", "1", &["one"]), "commented", 1001).await;
        assert_eq!(ticket(&world, 1001)["external_id"], link("2"));
        deliver(&world, &bridge, labelled("e2", "2", &["two"]), "commented", 1001).await;
        assert_eq!(ticket(&world, 1001)["external_id"], case("2"));
        deliver(&world, &bridge, labelled("e3", "1", &["one"]), "unchanged", 1001).await;
        let model = world.zendesk.model();
        let notices =
            model.comments(1001).into_iter().filter(|text| text.to_string().contains(NOTICE)).count();
        assert_eq!((notices, model.searches, model.creates), (1, 2, 0));
    })
    .await;
}

#[tokio::test]
async fn if_repeated_events_are_ignored_only_the_external_id_changes() {
    run_on_sqlite(|mut world| async move {
        adopt(&mut world);
        world.set("TICKET_REPEAT", "ignore");
        old_ticket(&world, "1");
        old_ticket(&world, "2");
        world.zendesk.model().set_status(1000, "solved");
        world.zendesk.model().set_status(1001, "closed");
        let before = ticket(&world, 1000);
        let bridge = world.start().await;
        deliver(&world, &bridge, labelled("e1", "1", &["a note"]), "unchanged", 1000).await;
        deliver(&world, &bridge, labelled("e2", "2", &["a note"]), "unchanged", 1001).await;
        assert_eq!((comments_on(&world, 1000).len(), comments_on(&world, 1001).len()), (0, 0));
        let mut expected = before;
        expected["external_id"] = json!(case("1"));
        expected["updated_at"] = ticket(&world, 1000)["updated_at"].clone();
        assert_eq!(ticket(&world, 1000), expected);
        deliver(&world, &bridge, labelled("e3", "1", &[]), "unchanged", 1000).await;
        let model = world.zendesk.model();
        assert_eq!((model.updates, model.searches, model.creates), (1, 2, 0));
    })
    .await;
}

#[tokio::test]
async fn reports_and_posts_without_a_link_are_not_searched() {
    run_on_sqlite(|mut world| async move {
        adopt(&mut world);
        let bridge = world.start().await;
        let no_link = event_with("e1", "1", |item| item["link"] = json!(" "));
        deliver(&world, &bridge, no_link, "created", 1000).await;
        world.notify(include_str!("../fixtures/message-published.json")).await;
        bridge.wait_for("delivery_done ticket=1001 action=created").await;
        assert_eq!(world.zendesk.model().searches, 0);
    })
    .await;
}

/// The feed may contain the event for which the example created its ticket.
#[tokio::test]
async fn an_old_event_of_a_feed_reopens_no_ticket() {
    run_on_sqlite(|mut world| async move {
        adopt(&mut world);
        with_feeds(&mut world);
        old_ticket(&world, "1");
        old_ticket(&world, "2");
        world.zendesk.model().set_status(1000, "solved");
        world.zendesk.model().set_status(1001, "closed");
        let bridge = start_reading(&world).await;
        for (post, action, ticket) in [("1", "commented", 1000), ("2", "unchanged", 1001)] {
            world.khoros.model().push_faults.push_back(PushFault::Lost);
            world.khoros.apply_label(LABEL, &labelled(&format!("e{post}"), post, &[])).await;
            bridge.wait_for(&format!("delivery_done ticket={ticket} action={action}")).await;
        }
        assert_eq!(status(&world, 1000), "solved");
        assert_adopted(&world, 1000, "1");
        assert_eq!(world.zendesk.model().creates, 0);
    })
    .await;
}

/// Half of the posts have a ticket of the example. Nothing is lost, doubled or dead.
async fn adopt_among_faults(mut world: World) {
    const POSTS: usize = 60;
    adopt(&mut world);
    world.set("RETRY_SCHEDULE", ["1"; 50].join(","));
    world.set("ZENDESK_BUDGET_PERCENT", "100");
    world.set("ZENDESK_UPDATE_BUDGET_PERCENT", "100");
    {
        let mut model = world.zendesk.model();
        (model.limit, model.update_limit) = (100_000, 100_000);
    }
    for post in (0..POSTS).step_by(2) {
        old_ticket(&world, &post.to_string());
    }
    let bridge = world.start().await;
    let seed = number("CASEBRIDGE_STORM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let faults = vec![
        Fault::ResetAfter,
        Fault::StatusAfterCreate(500),
        Fault::StatusAfterCreate(409),
        Fault::Late(Duration::from_secs(2)),
        Fault::ResetBefore,
        Fault::Status(500),
        Fault::TooMany(1),
        Fault::Html,
    ];
    world.zendesk.model().chaos = Some(Chaos { chance: Rng::with_seed(seed), percent: 20, faults });
    for post in 0..POSTS {
        world.notify(&labelled(&format!("e{post}"), &post.to_string(), &["a note"])).await;
    }
    // Until most have met their fate; the last few might only lengthen each other's pauses.
    world.zendesk.wait_until(|model| model.updates as usize >= POSTS * 3 / 8).await;
    world.zendesk.model().chaos = None;
    bridge.wait_for_nth("delivery_done", POSTS).await;
    for (number, post) in (1000..).zip((0..POSTS).step_by(2)) {
        assert_adopted(&world, number, &post.to_string());
        assert_eq!(comments_on(&world, number).len(), 1);
    }
    assert_eq!(world.zendesk.model().tickets.len(), POSTS);
    world.check_one_ticket_per_case().await;
}

on_both! {
    async fn adoptions_among_faults_of_every_kind_are_done_once_each(world: World) {
        adopt_among_faults(world).await;
    }
}
