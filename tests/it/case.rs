//! Later events of a case: what they change on its ticket.

use std::time::Duration;

use casebridge_sandbox::zendesk::{Chaos, Fault, Model, SERVICE_USER};
use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::harness::{
    Bridge, Kind, PRIVATE, World, event, event_with, number, on_both, run_for, run_on_sqlite,
};

/// A label event about a post with these notes.
pub fn noted(event: &str, post: &str, notes: &[&str]) -> String {
    event_with(event, post, |item| {
        let note = |text: &&str| json!({"text": format!("{PRIVATE} {text}"), "createdByDisplayName": "Ann"});
        item["notes"] = notes.iter().map(note).collect();
    })
}

/// Returns the comments on a ticket after the first. All of them are internal and ours.
pub fn comments_on(world: &World, ticket: u64) -> Vec<String> {
    let comments = world.zendesk.model().comments(ticket);
    let later = comments[1..].iter().map(|comment| {
        assert_eq!((&comment["public"], &comment["author_id"]), (&json!(false), &json!(SERVICE_USER)));
        comment["body"].as_str().unwrap().to_owned()
    });
    later.collect()
}

pub fn status(world: &World, ticket: u64) -> String {
    let model = world.zendesk.model();
    let ticket = model.tickets.iter().find(|held| held["id"] == ticket).unwrap();
    ticket["status"].as_str().unwrap().to_owned()
}

/// Sends a notification and waits until it is done, with this action and ticket.
pub async fn deliver(world: &World, bridge: &Bridge, notification: String, action: &str, ticket: u64) {
    let event: Value = serde_json::from_str(&notification).unwrap();
    world.notify(&notification).await;
    let event = event["eventUuid"].as_str().unwrap();
    let delivery = format!("delivery_done delivery=khoros:1234:{event}:*");
    let line: Value = serde_json::from_str(&bridge.wait_for(&delivery).await).unwrap();
    assert_eq!(line["ticket"], ticket.to_string(), "{line}");
    assert_eq!(line["action"], action, "{line}");
}

/// A published event that is not about posts, with another id.
fn report(json: &str, event: &str) -> String {
    let mut report: Value = serde_json::from_str(json).unwrap();
    report["eventUuid"] = json!(event);
    report.to_string()
}

on_both! {
    async fn reports_of_one_case_share_a_ticket(world: World) {
        let lost = include_str!("../fixtures/credential-deauth-instagram.json");
        let found = include_str!("../fixtures/credential-reauth-instagram.json");
        let failed = include_str!("../fixtures/error-custom-crm.json");
        let failed_later = failed.replace("Sep 13 09:15:30", "Sep 13 10:00:00");
        let other_failed = failed.replace("\"responseCode\": 500", "\"responseCode\": 401");
        let sent = include_str!("../fixtures/message-sent-to-network-facebook.json");
        let published = include_str!("../fixtures/message-published.json");
        let bridge = world.start().await;
        for (json, event, action, ticket) in [
            (lost, "r1", "created", 1000),
            (found, "r2", "solved", 1000),
            (lost, "r3", "reopened", 1000),
            (failed, "r4", "created", 1001),
            (failed, "r5", "unchanged", 1001),
            (&failed_later, "r9", "commented", 1001),
            (&other_failed, "r6", "created", 1002),
            (sent, "r7", "created", 1003),
            (published, "r8", "commented", 1003),
        ] {
            world.notify(&report(json, event)).await;
            let delivery = format!("delivery_done delivery=khoros:1234:{event}*");
            let line: Value = serde_json::from_str(&bridge.wait_for(&delivery).await).unwrap();
            assert_eq!(line["ticket"], ticket.to_string(), "{line}");
            assert_eq!(line["action"], action, "{line}");
        }
        let said_of_account = comments_on(&world, 1000);
        assert!(said_of_account[0].starts_with("2018-03-14 00:31 UTC · The account was re-authorized in Khoros"));
        assert!(said_of_account[1].starts_with("Re-authorize the account in Khoros"));
        assert!(comments_on(&world, 1003)[0].contains("Published: https://www.facebook.com/"));
        assert_eq!(world.notify(&report(lost, "r3")).await["new"], 0);
        world.check_one_ticket_per_case().await;
    }

    async fn a_bare_relabel_is_silent_and_a_new_note_is_a_comment(world: World) {
        let bridge = world.start().await;
        deliver(&world, &bridge, noted("e1", "1", &["first"]), "created", 1000).await;
        deliver(&world, &bridge, noted("e2", "1", &["first"]), "unchanged", 1000).await;
        deliver(&world, &bridge, noted("e3", "1", &["first"]), "unchanged", 1000).await;
        assert_eq!(comments_on(&world, 1000), [""; 0]);

        deliver(&world, &bridge, noted("e4", "1", &["first", "second"]), "commented", 1000).await;
        deliver(&world, &bridge, noted("e5", "1", &["first", "second"]), "unchanged", 1000).await;
        let edited = event_with("e6", "1", |item| item["text"] = json!(format!("{PRIVATE} edited")));
        deliver(&world, &bridge, edited, "commented", 1000).await;
        let said = comments_on(&world, 1000);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("\" again at ") && said[0].contains(&format!("{PRIVATE} second")));
        assert!(!said[0].contains(&format!("{PRIVATE} first")), "{}", said[0]);
        assert!(said[1].contains(&format!("{PRIVATE} edited")), "{}", said[1]);
        world.check_one_ticket_per_case().await;
    }

    async fn every_relabel_is_a_comment_if_configured(world: World) {
        let mut world = world;
        world.set("TICKET_REPEAT", "comment");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        deliver(&world, &bridge, event("e2", "1"), "commented", 1000).await;
        deliver(&world, &bridge, event("e3", "1"), "commented", 1000).await;
        assert_eq!(comments_on(&world, 1000).len(), 2);
        world.check_one_ticket_per_case().await;
    }

    async fn redeliveries_to_several_processes_change_nothing(world: World) {
        let mut world = world;
        world.set("TICKET_REPEAT", "comment");
        let events = [event("e1", "1"), noted("e2", "1", &["a"]), noted("e3", "1", &["a", "b"])];
        let bridge = world.start().await;
        for notification in &events {
            world.notify(notification).await;
        }
        bridge.wait_for_nth("delivery_done ticket=1000", 3).await;
        bridge.kill().await;
        for _ in 0..10 {
            let bridge = world.start().await;
            for notification in &events {
                assert_eq!(world.notify(notification).await["new"], 0);
            }
            bridge.stop().await;
        }
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e4", "1"), "commented", 1000).await;
        assert_eq!(comments_on(&world, 1000).len(), 3);
        world.check_one_ticket_per_case().await;
    }

    async fn a_solved_ticket_is_reopened_and_an_open_one_left_alone(world: World) {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        for (state, action, after) in
            [("pending", "unchanged", "pending"), ("solved", "reopened", "open"), ("hold", "unchanged", "hold")]
        {
            world.zendesk.model().set_status(1000, state);
            deliver(&world, &bridge, event(&format!("when-{state}"), "1"), action, 1000).await;
            assert_eq!(status(&world, 1000), after);
        }
        assert_eq!(comments_on(&world, 1000).len(), 1);
    }

    async fn a_closed_ticket_is_followed_up_by_one_that_takes_its_place(world: World) {
        let bridge = world.start().await;
        deliver(&world, &bridge, noted("e1", "1", &["first"]), "created", 1000).await;
        world.zendesk.model().set_status(1000, "closed");
        deliver(&world, &bridge, noted("e2", "1", &["first", "second"]), "followed_up", 1001).await;
        deliver(&world, &bridge, noted("e3", "1", &["first", "second"]), "unchanged", 1001).await;
        deliver(&world, &bridge, noted("e4", "1", &["third"]), "commented", 1001).await;
        let tickets = world.tickets(2).await;
        assert_eq!(tickets[1]["via_followup_source_id"], 1000);
        assert_eq!(tickets[1]["external_id"], tickets[0]["external_id"]);
        assert!(tickets[1]["comment"]["body"].as_str().unwrap().contains("second"));
        assert_eq!((comments_on(&world, 1000).len(), comments_on(&world, 1001).len()), (0, 1));

        world.zendesk.model().set_status(1001, "closed");
        deliver(&world, &bridge, event("e5", "1"), "followed_up", 1002).await;
        assert_eq!(world.tickets(3).await[2]["via_followup_source_id"], 1001);
    }

    // A pushed event is not from long ago, so that even in doubt its note is not lost.
    async fn a_note_in_doubt_on_a_ticket_that_is_closed_meanwhile_is_followed_up(world: World) {
        let bridge = world.start().await;
        deliver(&world, &bridge, noted("e1", "1", &["first"]), "created", 1000).await;
        world.zendesk.queue_updates([Fault::ResetBefore]);
        world.notify(&noted("e2", "1", &["first", "second"])).await;
        world.zendesk.wait_until(|model| model.update_faults.is_empty()).await;
        world.zendesk.model().set_status(1000, "closed");
        bridge.wait_for("delivery_done delivery=khoros:1234:e2:* ticket=1001 action=followed_up").await;
        assert!(world.tickets(2).await[1]["comment"]["body"].as_str().unwrap().contains("second"));
    }

    async fn a_deleted_ticket_is_replaced_by_the_next_event(world: World) {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().delete_ticket(1000);
        deliver(&world, &bridge, event("e2", "1"), "created", 1001).await;
        deliver(&world, &bridge, event("e3", "1"), "unchanged", 1001).await;
        assert_eq!(world.zendesk.model().tickets.len(), 1);
    }

    // Killed between the creation of the follow-up and our record of it.
    async fn a_follow_up_is_created_once(world: World) {
        for (post, fault) in [("1", Fault::HangAfterCreate), ("2", Fault::Hang)] {
            let bridge = world.start().await;
            world.notify(&event(&format!("{post}-1"), post)).await;
            bridge.wait_for("delivery_done").await;
            let closed = world.zendesk.model().tickets.last().unwrap()["id"].as_u64().unwrap();
            let creates = {
                let mut model = world.zendesk.model();
                model.set_status(closed, "closed");
                model.creates
            };
            world.zendesk.queue([fault]);
            world.notify(&event(&format!("{post}-2"), post)).await;
            world.zendesk.wait_until(|model| model.creates > creates).await;
            bridge.kill().await;

            let bridge = world.start().await;
            let line = bridge.wait_for("delivery_done").await;
            assert!(line.contains(&format!("\"ticket\":\"{}\"", closed + 1)), "{line}");
            bridge.stop().await;
            let model = world.zendesk.model();
            let follow_ups = model.tickets.iter().filter(|ticket| ticket["via_followup_source_id"] == closed);
            assert_eq!(follow_ups.count(), 1);
        }
        assert_eq!(world.zendesk.model().key_mismatches, 0);
    }

    async fn a_comment_whose_answer_is_lost_is_added_once(world: World) {
        let mut world = world;
        world.set("RETRY_SCHEDULE", "0,0,0,0,0,0");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e0", "1"), "created", 1000).await;
        let faults = [
            Fault::ResetAfter,
            Fault::StatusAfterCreate(500),
            Fault::StatusAfterCreate(409),
            Fault::StatusAfterCreate(504),
            Fault::HangAfterCreate,
            Fault::Late(Duration::from_secs(2)),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            world.zendesk.queue_updates([fault]);
            let note = format!("note {number}");
            deliver(&world, &bridge, noted(&format!("e{}", number + 1), "1", &[&note]), "found", 1000).await;
            let said = comments_on(&world, 1000);
            assert_eq!(said.iter().filter(|text| text.contains(&note)).count(), 1, "{said:?}");
        }
        world.check_one_ticket_per_case().await;
    }
}

#[tokio::test]
async fn ignored_events_cost_no_request() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_REPEAT", "ignore");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().set_status(1000, "closed");
        deliver(&world, &bridge, noted("e2", "1", &["a note"]), "unchanged", 1000).await;
        let model = world.zendesk.model();
        assert_eq!((model.creates, model.updates, model.look_ups), (1, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn an_event_by_another_route_adds_a_comment_and_its_tags() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        // As if another route had made the ticket, and an agent had tidied its tags.
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        let sql = r#"update delivery set memo = replace(memo, '"label"', '"vip"')"#;
        connection.execute(sql).await.unwrap();
        world.zendesk.model().tickets[0]["tags"] = json!(["agents_own"]);
        deliver(&world, &bridge, event("e2", "1"), "commented", 1000).await;
        assert!(comments_on(&world, 1000)[0].contains("\"CreateCase\""));
        let tags = world.tickets(1).await[0]["tags"].clone();
        for tag in ["agents_own", "khoros", "khoros_label_createcase"] {
            assert!(tags.as_array().unwrap().contains(&json!(tag)), "{tags}");
        }
        deliver(&world, &bridge, event("e3", "1"), "unchanged", 1000).await;
    })
    .await;
}

/// The closing comment of a merge, in the language of the account.
const MERGED: &str = "Cette demande a \u{e9}t\u{e9} ferm\u{e9}e et fusionn\u{e9}e avec la demande n\u{ba} ";

#[tokio::test]
async fn later_events_of_a_merged_ticket_go_where_agents_merged_it() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, noted("e1", "1", &["first"]), "created", 1000).await;
        deliver(&world, &bridge, event("other", "2"), "created", 1001).await;
        world.zendesk.model().merge_ticket(1000, 1001, &format!("{MERGED}1001 \"2026\""));
        deliver(&world, &bridge, noted("e2", "1", &["first"]), "unchanged", 1001).await;
        deliver(&world, &bridge, noted("e3", "1", &["first", "second"]), "commented", 1001).await;
        deliver(&world, &bridge, noted("e4", "1", &["first", "second"]), "unchanged", 1001).await;
        let comments = world.zendesk.model().comments(1001);
        let second = |comment: &&Value| comment["body"].as_str().unwrap().contains("second");
        assert_eq!(comments.iter().filter(second).count(), 1, "{comments:?}");
        assert!(!comments.iter().any(|comment| comment["body"].as_str().unwrap().contains("first")));
        // On it goes, and is followed up as any other.
        deliver(&world, &bridge, event("third", "3"), "created", 1002).await;
        world.zendesk.model().merge_ticket(1001, 1002, &format!("{MERGED}1002"));
        deliver(&world, &bridge, noted("e5", "1", &["third"]), "commented", 1002).await;
        world.zendesk.model().set_status(1002, "closed");
        deliver(&world, &bridge, noted("e6", "1", &["fourth"]), "followed_up", 1003).await;
        assert_eq!(world.tickets(4).await[3]["via_followup_source_id"], 1002);
    })
    .await;
}

#[tokio::test]
async fn a_comment_in_doubt_on_the_target_of_a_merge_is_added_once() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0,0,0");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        deliver(&world, &bridge, event("other", "2"), "created", 1001).await;
        world.zendesk.model().merge_ticket(1000, 1001, &format!("{MERGED}1001"));
        world.zendesk.queue_updates([Fault::ResetAfter]);
        deliver(&world, &bridge, noted("e2", "1", &["second"]), "found", 1001).await;
        let comments = world.zendesk.model().comments(1001);
        let second = |comment: &&Value| comment["body"].as_str().unwrap().contains("second");
        assert_eq!(comments.iter().filter(second).count(), 1, "{comments:?}");
    })
    .await;
}

/// The target is unknown: there is one follow-up, and no other one if agents merge that, too.
#[tokio::test]
async fn a_merge_without_a_known_target_is_followed_up_once() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        deliver(&world, &bridge, event("other", "2"), "created", 1001).await;
        // The number in the comment is that of a ticket into which nothing was merged.
        let merge = |model: &mut Model, ticket: u64| {
            model.merge_ticket(ticket, 9999, "merged into #1001");
        };
        merge(&mut world.zendesk.model(), 1000);
        deliver(&world, &bridge, event("e2", "1"), "followed_up", 1002).await;
        bridge.wait_for("ticket_merged ticket=1000").await;
        merge(&mut world.zendesk.model(), 1002);
        for number in 3..8 {
            world.notify(&event(&format!("e{number}"), "1")).await;
            bridge.wait_for(&format!("delivery_dead delivery=khoros:1234:e{number}:*")).await;
        }
        // None of this is a reason to stop the others.
        assert_eq!(bridge.count("destination_paused"), 0);
        deliver(&world, &bridge, event("e9", "9"), "created", 1003).await;
        // Once agents have sorted it out, a replay brings it there.
        world.zendesk.model().merge_ticket(1002, 1001, "merged into #1001");
        replay(&world, "e3").await;
        bridge.wait_for("delivery_done delivery=khoros:1234:e3:* ticket=1001").await;
    })
    .await;
}

/// A ticket that we may not see exists anyway: no event creates another.
#[tokio::test]
async fn a_ticket_that_we_may_not_see_is_not_replaced() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().hidden.insert(1000);
        world.notify(&noted("e2", "1", &["a note"])).await;
        bridge.wait_for("ticket_hidden alert=zendesk_ticket_hidden ticket=1000").await;
        for post in 2..5 {
            deliver(&world, &bridge, event(&format!("of-{post}"), &post.to_string()), "created", 999 + post)
                .await;
        }
        bridge.wait_for("delivery_dead delivery=khoros:1234:e2:*").await;
        world.notify(&event("e3", "1")).await;
        bridge.wait_for("delivery_retry delivery=khoros:1234:e3:*").await;
        let of_case = |ticket: &&Value| ticket["external_id"] == "khoros:1234:twitter:1";
        assert_eq!(world.zendesk.model().tickets.iter().filter(of_case).count(), 1);
        world.zendesk.model().hidden.clear();
        replay(&world, "e2").await;
        bridge.wait_for("delivery_done delivery=khoros:1234:e2:* ticket=1000 action=commented").await;
    })
    .await;
}

/// Zendesk lists deleted tickets for 30 days. Later, or after a permanent deletion, only people know.
#[tokio::test]
async fn the_operator_may_say_that_a_ticket_is_gone_for_good() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().delete_ticket(1000);
        world.zendesk.model().purged.insert(1000);
        world.notify(&noted("e2", "1", &["a note"])).await;
        for post in 2..5 {
            world.notify(&event(&format!("of-{post}"), &post.to_string())).await;
            bridge.wait_for(&format!("delivery_done delivery=khoros:1234:of-{post}:*")).await;
        }
        bridge.wait_for("delivery_dead delivery=khoros:1234:e2:*").await;
        let id = "khoros:1234:e2:twitter:1";
        assert!(world.command(&["replay", "--new-ticket", id]).await.status.success());
        bridge.wait_for("delivery_done delivery=khoros:1234:e2:* action=created").await;
        world.notify(&noted("e3", "1", &["a note"])).await;
        bridge.wait_for("delivery_done delivery=khoros:1234:e3:* action=unchanged").await;
        assert_eq!(world.command(&["replay", "--all-dead", "--new-ticket"]).await.status.code(), Some(2));
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_shows_another_ticket_is_no_success() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0,0");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.queue([Fault::Mixed]);
        deliver(&world, &bridge, event("e2", "2"), "found", 1001).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn networks_are_the_same_in_upper_and_lower_case() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        let upper = event_with("e2", "1", |item| item["entityId"] = json!("Twitter:1"));
        deliver(&world, &bridge, upper, "unchanged", 1000).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// Stored identities contain a route's name and a revision after the id.
#[tokio::test]
async fn ids_that_hold_our_separators_do_not_collide() {
    run_on_sqlite(|mut world| async move {
        world.set("ROUTE_VIP_LABEL", "VIP");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e", "9@vip"), "created", 1000).await;
        let request = world.http.post(world.url("/khoros/vip")).bearer_auth(crate::harness::BEARER);
        let answer = request.body(event("e", "9")).send().await.unwrap();
        assert_eq!(answer.json::<Value>().await.unwrap()["new"], 1);
        bridge.wait_for("delivery_done ticket=1001").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// The process was killed after the create.
#[tokio::test]
async fn a_follow_up_that_was_never_stored_is_found() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().set_status(1000, "closed");
        deliver(&world, &bridge, event("e2", "1"), "followed_up", 1001).await;
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        let forget = "update delivery set state = 'dead', reference = null, told = null, in_doubt = true
                       where event_id = 'e2'";
        connection.execute(forget).await.unwrap();
        deliver(&world, &bridge, event("e3", "1"), "unchanged", 1001).await;
        deliver(&world, &bridge, event("e4", "1"), "unchanged", 1001).await;
    })
    .await;
}

/// Frozen but refused (429); meanwhile another delivery of the case creates its ticket.
#[tokio::test]
async fn frozen_bytes_are_not_sent_once_the_case_has_its_ticket() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        world.zendesk.queue([Fault::Invalid]);
        world.notify(&event("e1", "1")).await;
        bridge.wait_for("delivery_dead").await;
        world.zendesk.queue([Fault::TooMany(4)]);
        world.notify(&event("e2", "1")).await;
        bridge.wait_for("destination_paused").await;
        replay(&world, "e1").await;
        bridge.wait_for_nth("delivery_done ticket=1000", 2).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

async fn replay(world: &World, event: &str) {
    let replayed = world.command(&["replay", &format!("khoros:1234:{event}:twitter:1")]).await;
    assert!(replayed.status.success(), "{replayed:?}");
}

/// A delivery that replaced a deleted ticket and was killed before it could store that.
#[tokio::test]
async fn a_deleted_ticket_is_replaced_once() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "3");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().delete_ticket(1000);
        world.zendesk.queue([Fault::Status(500)]);
        world.notify(&event("e2", "1")).await;
        bridge.wait_for("delivery_retry").await;
        deliver(&world, &bridge, event("other", "2"), "created", 1001).await;
        world.zendesk.queue([Fault::ResetAfter]);
        bridge.wait_for("delivery_dead").await;
        deliver(&world, &bridge, event("e3", "1"), "unchanged", 1002).await;
    })
    .await;
}

#[tokio::test]
async fn a_changed_setting_for_repeats_creates_no_second_follow_up() {
    run_on_sqlite(|mut world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().set_status(1000, "closed");
        world.zendesk.queue([Fault::HangAfterCreate]);
        world.notify(&event("e2", "1")).await;
        world.zendesk.wait_until(|model| model.tickets.len() == 2).await;
        bridge.kill().await;
        world.set("TICKET_REPEAT", "ignore");
        let bridge = world.start().await;
        bridge.wait_for("delivery_done ticket=1001").await;
        bridge.stop().await;
        world.unset("TICKET_REPEAT");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e3", "1"), "unchanged", 1001).await;
    })
    .await;
}

#[tokio::test]
async fn a_ticket_created_in_doubt_remembers_its_content() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_REPEAT", "ignore");
        let bridge = world.start().await;
        world.zendesk.queue([Fault::HangAfterCreate]);
        world.notify(&noted("e1", "1", &["first"])).await;
        world.zendesk.wait_until(|model| model.tickets.len() == 1).await;
        bridge.kill().await;
        let bridge = world.start().await;
        bridge.wait_for("delivery_done ticket=1000").await;
        bridge.stop().await;
        world.unset("TICKET_REPEAT");
        let bridge = world.start().await;
        deliver(&world, &bridge, noted("e2", "1", &["first"]), "unchanged", 1000).await;
    })
    .await;
}

/// Content that only the closed ticket has is new to its follow-up.
#[tokio::test]
async fn a_found_follow_up_remembers_only_its_own_content() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0,0,0");
        let bridge = world.start().await;
        deliver(&world, &bridge, noted("e1", "1", &["first"]), "created", 1000).await;
        world.zendesk.model().set_status(1000, "closed");
        world.zendesk.queue([Fault::StatusAfterCreate(500)]);
        deliver(&world, &bridge, noted("e2", "1", &["second"]), "found", 1001).await;
        deliver(&world, &bridge, noted("e3", "1", &["first", "second"]), "commented", 1001).await;
        let said = comments_on(&world, 1001).remove(0);
        assert!(said.contains("first") && !said.contains("second"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn a_note_without_room_comes_with_the_next_event() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let mut notes = ["note"; 20].to_vec();
        notes.push("call the lawyer");
        deliver(&world, &bridge, noted("e1", "1", &notes), "created", 1000).await;
        deliver(&world, &bridge, noted("e2", "1", &notes), "commented", 1000).await;
        let said = comments_on(&world, 1000).remove(0);
        assert!(said.contains("call the lawyer") && !said.contains("zebra-crossing note"), "{said}");
        deliver(&world, &bridge, noted("e3", "1", &notes), "unchanged", 1000).await;
    })
    .await;
}

/// An earlier version without the memory has handled all events, or the last of them.
#[tokio::test]
async fn the_case_memory_survives_an_upgrade_and_a_rollback() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        connection.execute("update delivery set told = null").await.unwrap();
        deliver(&world, &bridge, event("e2", "1"), "unchanged", 1000).await;
        deliver(&world, &bridge, reading("e3", "edited"), "commented", 1000).await;

        deliver(&world, &bridge, noted("e4", "1", &["first"]), "commented", 1000).await;
        deliver(&world, &bridge, noted("e5", "1", &["first"]), "unchanged", 1000).await;
        connection.execute("update delivery set told = null where event_id = 'e5'").await.unwrap();
        deliver(&world, &bridge, noted("e6", "1", &["first"]), "unchanged", 1000).await;
    })
    .await;
}

fn reading(event: &str, text: &str) -> String {
    event_with(event, "1", |item| item["text"] = json!(format!("{PRIVATE} {text}")))
}

async fn three_texts_of_which_the_second_died(world: &World, bridge: &Bridge) {
    deliver(world, bridge, reading("e1", "one"), "created", 1000).await;
    world.zendesk.queue_updates([Fault::Invalid]);
    world.notify(&reading("e2", "two")).await;
    bridge.wait_for("delivery_dead").await;
    deliver(world, bridge, reading("e3", "three"), "commented", 1000).await;
}

#[tokio::test]
async fn a_replayed_older_event_does_not_restore_its_text() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        three_texts_of_which_the_second_died(&world, &bridge).await;
        replay(&world, "e2").await;
        bridge.wait_for("delivery_done delivery=khoros:1234:e2:* ticket=1000 action=unchanged").await;
        deliver(&world, &bridge, reading("e4", "three"), "unchanged", 1000).await;
    })
    .await;
}

/// A ticket that we may not touch, or that keeps changing, fails only its own delivery.
#[tokio::test]
async fn one_ticket_that_refuses_comments_holds_up_no_other() {
    for status in [403, 409] {
        run_on_sqlite(|world| async move {
            let bridge = world.start().await;
            deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
            world.zendesk.queue_updates(vec![Fault::Status(status); 100]);
            world.notify(&noted("e2", "1", &["a note"])).await;
            bridge.wait_for("delivery_retry").await;
            assert_eq!(world.list().await[1]["tries"], 1);
            deliver(&world, &bridge, event("e3", "3"), "created", 1001).await;
            assert_eq!(bridge.count("destination_paused"), 0);
        })
        .await;
    }
}

/// With a new database, or a restored one.
#[tokio::test]
async fn a_forgotten_ticket_is_found_again() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        bridge.stop().await;
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        // Pulled deliveries, and those claimed by a killed process, are in doubt.
        let forget = "update delivery set state = 'waiting', reference = null, request = null, told = null,
                             in_doubt = true, settled_at = null";
        connection.execute(forget).await.unwrap();
        let bridge = world.start().await;
        bridge.wait_for("delivery_done action=found").await;
        assert_eq!(world.zendesk.model().creates, 1);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// Updates by agents count as well, and a used-up limit holds up updates only.
#[tokio::test]
async fn updates_have_their_own_budget_and_creates_continue() {
    run_on_sqlite(|world| async move {
        {
            let mut model = world.zendesk.model();
            (model.update_limit, model.updates_by_agents) = (20, 18);
        }
        let bridge = world.start().await;
        for post in 0..10 {
            let post = post.to_string();
            deliver(
                &world,
                &bridge,
                event(&format!("first-{post}"), &post),
                "created",
                1000 + post.parse::<u64>().unwrap(),
            )
            .await;
        }
        for post in 0..10 {
            world.notify(&noted(&format!("second-{post}"), &post.to_string(), &["a note"])).await;
        }
        bridge.wait_for("delivery_queued").await;
        for post in 10..20 {
            deliver(
                &world,
                &bridge,
                event(&format!("first-{post}"), &post.to_string()),
                "created",
                1000 + post,
            )
            .await;
        }
        let model = world.zendesk.model();
        assert!(model.updates < 10, "{} updates of a limit of 20 of which 18 were used", model.updates);
        assert!(model.too_many_updates <= 2, "{} were refused", model.too_many_updates);
    })
    .await;
}

/// Each comment is added, and its answer is lost or wrong. Two at a time in each of 20 worlds, since three failures
/// without a success in between would pause the destination.
#[tokio::test]
async fn two_hundred_doubtful_comments_are_added_once_each() {
    const WORLDS: u64 = 20;
    let seed = number("CASEBRIDGE_STORM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let worlds = (0..WORLDS).map(|n| {
        let chance = Rng::with_seed(seed.wrapping_add(n));
        run_for(Duration::from_secs(300), Kind::Sqlite, |world| ten_doubtful_comments(world, chance))
    });
    join_all(worlds).await;
}

async fn ten_doubtful_comments(mut world: World, mut chance: Rng) {
    const POSTS: u64 = 2;
    let faults = [Fault::ResetAfter, Fault::StatusAfterCreate(500), Fault::StatusAfterCreate(409)];
    world.set("RETRY_SCHEDULE", ["0"; 50].join(","));
    world.set("ZENDESK_UPDATE_BUDGET_PERCENT", "100");
    let bridge = world.start().await;
    for post in 0..POSTS {
        deliver(&world, &bridge, event(&format!("first-{post}"), &post.to_string()), "created", 1000 + post)
            .await;
    }
    for round in 1..=5 {
        let drawn = (0..POSTS).map(|_| chance.choice(&faults).unwrap().clone());
        world.zendesk.queue_updates(drawn);
        for post in 0..POSTS {
            let note = format!("note {round} of {post}.");
            world.notify(&noted(&format!("{round}-{post}"), &post.to_string(), &[&note])).await;
        }
        bridge.wait_for_nth("delivery_done action=found", round * POSTS as usize).await;
    }
    for post in 0..POSTS {
        let said = comments_on(&world, 1000 + post);
        assert_eq!(said.len(), 5, "{said:?}");
        for round in 1..=5 {
            let note = format!("note {round} of {post}.");
            assert_eq!(said.iter().filter(|text| text.contains(&note)).count(), 1, "{said:?}");
        }
    }
    assert!(world.zendesk.model().update_faults.is_empty());
    world.check_one_ticket_per_case().await;
}

/// Each comment meets another fault, and none is added twice or not at all.
#[tokio::test]
async fn comments_among_faults_of_every_kind_are_added_once_each() {
    const POSTS: usize = 200;
    run_for(Duration::from_secs(300), Kind::Sqlite, |mut world| async move {
        world.set("RETRY_SCHEDULE", ["1"; 50].join(","));
        world.set("ZENDESK_BUDGET_PERCENT", "100");
        world.set("ZENDESK_UPDATE_BUDGET_PERCENT", "100");
        {
            let mut model = world.zendesk.model();
            (model.limit, model.update_limit) = (100_000, 100_000);
        }
        let bridge = world.start().await;
        for post in 0..POSTS {
            world.notify(&event(&format!("first-{post}"), &post.to_string())).await;
        }
        bridge.wait_for_nth("delivery_done", POSTS).await;
        let seed = number("CASEBRIDGE_STORM_SEED").unwrap_or_else(|| fastrand::u64(..));
        println!("seed {seed}");
        let faults = vec![
            Fault::ResetAfter,
            Fault::StatusAfterCreate(500),
            Fault::StatusAfterCreate(409),
            Fault::Late(Duration::from_secs(2)),
            Fault::ResetBefore,
            Fault::Status(500),
            Fault::Html,
        ];
        let chaos = Chaos { chance: Rng::with_seed(seed), percent: 20, faults };
        world.zendesk.model().chaos = Some(chaos);
        for post in 0..POSTS {
            world.notify(&noted(&format!("second-{post}"), &post.to_string(), &["a note"])).await;
        }
        // Until most have met their fate; the last few might only lengthen each other's pauses.
        world.zendesk.wait_until(|model| model.updates as usize >= POSTS * 3 / 4).await;
        world.zendesk.model().chaos = None;
        bridge.wait_for_nth("delivery_done", 2 * POSTS).await;
        for ticket in 0..POSTS as u64 {
            assert_eq!(comments_on(&world, 1000 + ticket).len(), 1, "on ticket {}", 1000 + ticket);
        }
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// An agent changes the ticket while our comment is on its way: it is refused and sent again.
#[tokio::test]
async fn a_change_by_an_agent_is_kept() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.queue_updates([Fault::Late(Duration::from_secs(1))]);
        world.notify(&noted("e2", "1", &["a note"])).await;
        world.zendesk.wait_until(|model| model.updates == 1).await;
        world.zendesk.model().set_status(1000, "pending");
        bridge.wait_for("delivery_done ticket=1000 action=commented").await;
        assert_eq!(comments_on(&world, 1000).len(), 1);
        assert_eq!(status(&world, 1000), "pending");
        assert_eq!(world.zendesk.model().updates, 2);
    })
    .await;
}

/// The ticket changes twice within one attempt.
#[tokio::test]
async fn a_conflict_is_tried_again_at_once() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.queue_updates([Fault::Status(409), Fault::Status(409)]);
        deliver(&world, &bridge, noted("e2", "1", &["a note"]), "commented", 1000).await;
        assert_eq!(comments_on(&world, 1000).len(), 1);
        assert_eq!(world.zendesk.model().updates, 3);
        assert_eq!(world.list().await[1]["attempts"], 1);
    })
    .await;
}

#[tokio::test]
async fn an_older_event_that_replaces_the_ticket_provides_its_text() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        three_texts_of_which_the_second_died(&world, &bridge).await;
        world.zendesk.model().delete_ticket(1000);
        replay(&world, "e2").await;
        bridge.wait_for("delivery_done delivery=khoros:1234:e2:* ticket=1001 action=created").await;
        deliver(&world, &bridge, reading("e4", "three"), "commented", 1001).await;
    })
    .await;
}

#[tokio::test]
async fn a_found_comment_counts_as_added() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0,0,0");
        world.set("TICKET_PUBLIC", "true");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        connection.execute("update delivery set told = null").await.unwrap();
        world.zendesk.queue_updates([Fault::StatusAfterCreate(500)]);
        deliver(&world, &bridge, noted("e2", "1", &["first"]), "found", 1000).await;
        deliver(&world, &bridge, noted("e3", "1", &["first"]), "unchanged", 1000).await;
    })
    .await;
}

/// If a template leaves out notes, they come with the next event.
#[tokio::test]
async fn a_note_missing_in_the_first_comment_is_added_later() {
    const FAILS: &str = "{% if item.text != 'Text' %}{{ item.author|int }}{% endif %}";
    const ALL: &str = "{{ item.text }}{% for n in item.notes %}{{ n.text }}\n{% endfor %}";
    let long = "x".repeat(65_000);
    let (short, cut) = (["call the lawyer"].to_vec(), [&long, "call the lawyer"].to_vec());
    for (template, notes, action) in [
        ("{{ item.text }}{% if item.notes %} (see Khoros){% endif %}".to_owned(), &short, "commented"),
        (format!("{FAILS}{{{{ item.notes }}}}"), &cut, "unchanged"),
        (format!("{FAILS}hi"), &short, "unchanged"),
        (ALL.to_owned(), &short, "unchanged"),
        (ALL.to_owned(), &cut, "commented"),
    ] {
        run_on_sqlite(|mut world| async move {
            world.set("TICKET_COMMENT", template);
            let bridge = world.start().await;
            deliver(&world, &bridge, noted("e1", "1", notes), "created", 1000).await;
            deliver(&world, &bridge, noted("e2", "1", notes), action, 1000).await;
            let comments = world.zendesk.model().comments(1000);
            let with_note = comments.iter().filter(|comment| comment.to_string().contains("call the lawyer"));
            assert_eq!(with_note.count(), 1);
        })
        .await;
    }
}

/// The list leaves out archived tickets: a ticket that is known to be closed is still followed up.
#[tokio::test]
async fn a_follow_up_that_had_to_wait_keeps_its_source() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().set_status(1000, "closed");
        world.zendesk.queue([Fault::TooMany(2)]);
        world.notify(&event("e2", "1")).await;
        bridge.wait_for("destination_paused").await;
        // Archived: the list by external_id has it no more, `GET /tickets/1000` has.
        world.zendesk.model().tickets[0]["external_id"] = json!("hidden-from-the-list");
        bridge.wait_for("delivery_done delivery=khoros:1234:e2:* ticket=1001").await;
        assert_eq!(world.tickets(2).await[1]["via_followup_source_id"], 1000);
    })
    .await;
}

/// An event about an account, at the endpoint of the accounts.
async fn account(world: &World, json: &str, event: &str, when: u64) {
    let mut notification: Value = serde_json::from_str(json).unwrap();
    notification["eventUuid"] = json!(event);
    notification["data"]["when"] = json!(when);
    let request = world.http.post(world.url("/khoros/accounts")).bearer_auth(crate::harness::BEARER);
    assert_eq!(request.body(notification.to_string()).send().await.unwrap().status(), 200);
}

/// Events about a lost or repaired account are added even if repeated events are ignored. Late ones change no
/// status.
#[tokio::test]
async fn an_account_is_lost_and_found() {
    const FOUND: &str = include_str!("../fixtures/credential-auth-instagram.json");
    const LOST: &str = include_str!("../fixtures/credential-deauth-instagram.json");
    const BACK: &str = include_str!("../fixtures/credential-reauth-instagram.json");
    const DAY: u64 = 86_400_000;
    run_on_sqlite(|mut world| async move {
        world.set("ROUTE_ACCOUNTS_EVENT", "credential-deauth");
        world.set("TICKET_REPEAT", "ignore");
        world.set("TICKET_COMMENT", "{{ item.text }} by {{ author.name }}");
        let bridge = world.start().await;
        let day = |day: u64| 1_520_987_518_000 + day * DAY;
        for (json, event, when, action, state, priority) in [
            (FOUND, "a1", day(1), "created", "new", "normal"),
            (LOST, "a2", day(3), "commented", "new", "high"),
            (BACK, "a3", day(2), "commented", "new", "high"),
            (BACK, "a4", day(4), "solved", "solved", "high"),
            (LOST, "late", day(3), "commented", "solved", "high"),
            (LOST, "a5", day(5), "reopened", "open", "high"),
        ] {
            account(&world, json, event, when).await;
            bridge
                .wait_for(&format!("delivery_done delivery=khoros:1234:{event}* ticket=1000 action={action}"))
                .await;
            assert_eq!(status(&world, 1000), state, "{event}");
            assert_eq!(world.tickets(1).await[0]["priority"], priority, "{event}");
        }
        // A template for posts is none for accounts.
        assert!(world.tickets(1).await[0]["comment"]["body"].as_str().unwrap().contains("will.i.am"));
        world.zendesk.model().set_status(1000, "closed");
        account(&world, BACK, "a6", day(6)).await;
        bridge.wait_for("delivery_done delivery=khoros:1234:a6* ticket=1000 action=unchanged").await;
        assert_eq!(world.zendesk.model().tickets.len(), 1);
    })
    .await;
}

/// Agents merged the ticket of an account into a customer's: its status and priority are theirs.
#[tokio::test]
async fn a_ticket_of_another_case_gets_only_the_comment() {
    const LOST: &str = include_str!("../fixtures/credential-deauth-instagram.json");
    const BACK: &str = include_str!("../fixtures/credential-reauth-instagram.json");
    const DAY: u64 = 86_400_000;
    run_on_sqlite(|mut world| async move {
        world.set("ROUTE_ACCOUNTS_EVENT", "credential-deauth");
        let bridge = world.start().await;
        let day = |day: u64| 1_520_987_518_000 + day * DAY;
        deliver(&world, &bridge, event("other", "2"), "created", 1000).await;
        account(&world, LOST, "a1", day(1)).await;
        bridge.wait_for("delivery_done delivery=khoros:1234:a1* ticket=1001 action=created").await;
        world.zendesk.model().merge_ticket(1001, 1000, &format!("{MERGED}1000"));
        for (json, event, when) in [(BACK, "a2", day(2)), (LOST, "a3", day(3)), (BACK, "a4", day(4))] {
            account(&world, json, event, when).await;
            bridge
                .wait_for(&format!(
                    "delivery_done delivery=khoros:1234:{event}* ticket=1000 action=commented"
                ))
                .await;
        }
        assert_eq!(status(&world, 1000), "new");
        assert_eq!(world.tickets(2).await[0]["priority"], "normal");
    })
    .await;
}

/// First another ticket was merged into ours, then ours into a third one.
#[tokio::test]
async fn a_merge_is_followed_in_its_direction() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        deliver(&world, &bridge, event("o2", "2"), "created", 1001).await;
        deliver(&world, &bridge, event("o3", "3"), "created", 1002).await;
        {
            let mut model = world.zendesk.model();
            model.merge_ticket(1001, 1000, "merged into #1000");
            let source = json!({"from": {}, "to": {"ticket_id": 1000}, "rel": "merge"});
            let of_source = model.audits.iter_mut().rev().find(|audit| audit["ticket_id"] == 1001).unwrap();
            of_source["via"] = json!({"channel": "web", "source": source});
            model.merge_ticket(1000, 1002, "merged into #1002, as #1001 before");
        }
        deliver(&world, &bridge, noted("e2", "1", &["note"]), "commented", 1002).await;
    })
    .await;
}

/// The closed ticket before it can be seen, which is no reason for another follow-up.
#[tokio::test]
async fn a_follow_up_that_we_may_not_see_is_not_replaced() {
    run_on_sqlite(|mut world| async move {
        world.set("RETRY_SCHEDULE", "0");
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        world.zendesk.model().set_status(1000, "closed");
        deliver(&world, &bridge, event("e2", "1"), "followed_up", 1001).await;
        world.zendesk.model().hidden.insert(1001);
        for number in 0..4 {
            world.notify(&noted(&format!("h{number}"), "1", &[&format!("note number {number}")])).await;
            bridge.wait_for(&format!("delivery_dead delivery=khoros:1234:h{number}:*")).await;
        }
        assert_eq!(world.zendesk.model().tickets.len(), 2);
        // It says nothing about other tickets, and is logged once.
        assert_eq!(bridge.count("ticket_hidden"), 1);
        assert_eq!(bridge.count("destination_paused"), 0);
    })
    .await;
}

#[tokio::test]
async fn a_ticket_with_its_network_in_upper_case_is_found() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        deliver(&world, &bridge, event("e1", "1"), "created", 1000).await;
        bridge.kill().await;
        world.zendesk.model().tickets[0]["external_id"] = json!("khoros:1234:Twitter:1");
        world.database.execute("update delivery set case_key = 'khoros:1234:Twitter:1'").await;
        let bridge = world.start().await;
        let again = |event: &str| event_with(event, "1", |item| item["entityId"] = json!("Twitter:1"));
        deliver(&world, &bridge, again("e2"), "unchanged", 1000).await;
        deliver(&world, &bridge, again("e3"), "unchanged", 1000).await;
    })
    .await;
}
