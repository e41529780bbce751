//! The author of the post as the requester of the ticket.

use casebridge_sandbox::zendesk::{Fault, SERVICE_USER};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::harness::{World, event, event_with, on_both, run_on_sqlite};

/// A label event about a post by this author.
fn by(author: &str, event: &str, post: &str) -> String {
    event_with(event, post, |item| {
        item["authorId"] = json!(author);
        item["author"] = json!(format!("Jane Doe {author}"));
        item["authorLink"] = json!(format!("https://twitter.com/{author}"));
    })
}

/// The requester of each ticket, in the order of their numbers.
fn requesters(world: &World) -> Vec<u64> {
    let model = world.zendesk.model();
    model.tickets.iter().map(|ticket| ticket["requester_id"].as_u64().unwrap()).collect()
}

on_both! {
    async fn two_posts_of_one_author_are_two_tickets_of_one_user(world: World) {
        let bridge = world.start().await;
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        world.notify(&by("77", "e2", "2")).await;
        bridge.wait_for("delivery_done ticket=1001").await;

        let users = world.zendesk.model().users.clone();
        assert_eq!(users.len(), 1);
        assert_eq!(users[0]["external_id"], "khoros:twitter:77");
        assert_eq!(users[0]["name"], "Jane Doe 77");
        assert!(users[0]["details"].as_str().unwrap().contains("https://twitter.com/77"));
        let user = users[0]["id"].as_u64().unwrap();
        assert_eq!(requesters(&world), [user, user]);
        for ticket in world.tickets(2).await {
            // The internal comment contains our notes and is written by the service user.
            assert_eq!(ticket["submitter_id"], SERVICE_USER);
            assert_eq!(ticket["comment"]["public"], false);
        }
        let model = world.zendesk.model();
        assert_eq!((model.user_reads, model.user_writes), (1, 1), "the second post asked again");
    }

    async fn posts_of_a_new_author_that_come_together_make_one_user(world: World) {
        let bridge = world.start().await;
        let posts: Vec<String> = (0..10).map(|n| by("77", &format!("e{n}"), &n.to_string())).collect();
        join_all(posts.iter().map(|notification| world.notify(notification))).await;
        bridge.wait_for_nth("delivery_done", 10).await;
        let model = world.zendesk.model();
        let user = model.users[0]["id"].clone();
        assert!(model.tickets.iter().all(|ticket| ticket["requester_id"] == user));
        assert_eq!((model.users.len(), model.user_writes), (1, 1));
    }

    async fn a_deleted_user_is_created_again(world: World) {
        let bridge = world.start().await;
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        let first = requesters(&world)[0];
        world.zendesk.model().delete_user(first);
        world.notify(&by("77", "e2", "2")).await;
        bridge.wait_for("delivery_done ticket=1001").await;
        world.notify(&by("77", "e3", "3")).await;
        bridge.wait_for("delivery_done ticket=1002").await;
        let requesters = requesters(&world);
        assert!(requesters[1] != first && requesters[1] != SERVICE_USER, "{requesters:?}");
        assert_eq!(requesters[2], requesters[1]);
        assert_eq!(world.zendesk.model().key_mismatches, 0);
    }

    // A burst of new authors: each ticket goes out at once and gets its author later.
    async fn tickets_that_did_not_wait_for_their_authors_get_them_later(world: World) {
        const POSTS: usize = 12;
        let mut world = world;
        world.set("ZENDESK_BUDGET_PERCENT", "100");
        world.set("ZENDESK_UPDATE_BUDGET_PERCENT", "100");
        let bridge = world.start().await;
        let posts: Vec<String> =
            (0..POSTS).map(|n| by(&n.to_string(), &format!("e{n}"), &n.to_string())).collect();
        join_all(posts.iter().map(|notification| world.notify(notification))).await;
        bridge.wait_for_nth("delivery_done", POSTS).await;
        assert!(requesters(&world).contains(&SERVICE_USER), "no author had to wait");
        world
            .zendesk
            .wait_until(|model| model.tickets.iter().all(|ticket| ticket["requester_id"] != SERVICE_USER))
            .await;
        let (tickets, users, too_many) = {
            let model = world.zendesk.model();
            (model.tickets.clone(), model.users.clone(), model.too_many_user_writes)
        };
        for ticket in &tickets {
            let user = users.iter().find(|user| user["id"] == ticket["requester_id"]).unwrap();
            let post = ticket["external_id"].as_str().unwrap().rsplit(':').next().unwrap();
            assert_eq!(user["external_id"], format!("khoros:twitter:{post}"));
            assert!(!has_no_author_tag(ticket), "{ticket}");
            assert!(has_tag(ticket, "khoros"), "{ticket}");
        }
        assert_eq!(too_many, 0, "the limit of new users was not kept");
        // Setting requesters is not a delivery.
        assert_eq!(world.list().await.len(), POSTS);
        assert!(bridge.stop().await.success());
        world.check_one_ticket_per_case().await;
    }
}

#[tokio::test]
async fn a_suspended_author_costs_no_ticket() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        let author = requesters(&world)[0];
        world.zendesk.model().suspend_user(author);
        world.notify(&by("77", "e2", "2")).await;
        bridge.wait_for("requester_fallback").await;
        bridge.wait_for("delivery_done ticket=1001").await;
        assert_eq!(requesters(&world), [author, SERVICE_USER]);
        assert!(world.tickets(2).await[1]["comment"]["body"].as_str().unwrap().contains("Jane Doe 77"));
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn without_permission_for_users_there_is_one_warning_and_no_ticket_waits() {
    run_on_sqlite(|world| async move {
        world.zendesk.model().forbid_users = true;
        let bridge = world.start().await;
        for post in 0..5 {
            world.notify(&by(&post.to_string(), &format!("e{post}"), &post.to_string())).await;
            bridge.wait_for_nth("delivery_done", post + 1).await;
        }
        assert_eq!(requesters(&world), [SERVICE_USER; 5]);
        assert_eq!(bridge.count("authors_paused"), 1);
        // After three different authors, the fault is not the authors'.
        assert_eq!(world.zendesk.model().user_reads, 3);
    })
    .await;
}

/// The user of an agent, or a name that a firewall blocks.
#[tokio::test]
async fn a_forbidden_author_does_not_affect_others() {
    for status in [403, 404] {
        run_on_sqlite(|world| async move {
            world.zendesk.model().refused_authors.insert("khoros:twitter:77".to_owned(), status);
            let bridge = world.start().await;
            // After the batch is refused, each is looked up separately.
            let posts: Vec<String> =
                ["77", "1", "2"].iter().map(|author| by(author, &format!("e{author}"), author)).collect();
            join_all(posts.iter().map(|notification| world.notify(notification))).await;
            bridge.wait_for_nth("delivery_done", 3).await;
            for (number, author) in ["77", "3", "77", "4"].iter().enumerate() {
                world.notify(&by(author, &format!("late-{number}"), &format!("late-{number}"))).await;
                bridge.wait_for_nth("delivery_done", number + 4).await;
            }
            let model = world.zendesk.model();
            for ticket in &model.tickets {
                let is_refused = ticket["comment"]["body"].as_str().unwrap().contains("Jane Doe 77");
                assert_eq!(ticket["requester_id"] == SERVICE_USER, is_refused, "{ticket}");
            }
            assert_eq!(bridge.count("authors_paused"), 0);
        })
        .await;
    }
}

fn has_no_author_tag(ticket: &Value) -> bool {
    has_tag(ticket, "casebridge_no_author")
}

fn has_tag(ticket: &Value, tag: &str) -> bool {
    ticket["tags"].as_array().unwrap().contains(&json!(tag))
}

/// Users cannot be looked up when the ticket is created; then an agent sets the requester.
#[tokio::test]
async fn a_requester_set_by_agents_stays() {
    run_on_sqlite(|world| async move {
        world.zendesk.model().user_outage = Some(429);
        let bridge = world.start().await;
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert!(has_no_author_tag(&world.tickets(1).await[0]));
        bridge.kill().await;
        {
            let mut model = world.zendesk.model();
            model.user_outage = None;
            model.tickets[0]["requester_id"] = json!(42);
        }
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        connection.execute("update pending_requester set due_at = 0").await.unwrap();
        let bridge = world.start().await;
        bridge.wait_for("requester_kept").await;
        assert_eq!(requesters(&world), [42]);
    })
    .await;
}

#[tokio::test]
async fn requester_later_0_keeps_the_service_user() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_REQUESTER_LATER", "0");
        world.zendesk.model().user_outage = Some(500);
        let bridge = world.start().await;
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert!(has_no_author_tag(&world.tickets(1).await[0]));
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        let owed: i64 = sqlx::query_scalar("select count(*) from pending_requester")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(owed, 0);
    })
    .await;
}

/// Killed after the ticket was created and before the pending requester was stored.
#[tokio::test]
async fn a_ticket_found_after_a_crash_still_gets_its_author() {
    run_on_sqlite(|world| async move {
        world.zendesk.model().user_outage = Some(500);
        let bridge = world.start().await;
        world.zendesk.queue([Fault::HangAfterCreate]);
        world.notify(&by("77", "e1", "1")).await;
        world.tickets(1).await;
        bridge.kill().await;
        world.zendesk.model().user_outage = None;
        let bridge = world.start().await;
        bridge.wait_for("delivery_done action=found").await;
        bridge.wait_for("requester_set ticket=1000").await;
        assert_ne!(requesters(&world), [SERVICE_USER]);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn the_service_user_is_the_requester_if_configured() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_REQUESTER", "service");
        let bridge = world.start().await;
        world.notify(&event("e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert_eq!(requesters(&world), [SERVICE_USER]);
        assert_eq!(world.zendesk.model().user_reads, 0);
    })
    .await;
}

#[tokio::test]
async fn an_author_without_an_id_is_named_in_the_comment_alone() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let unknown = event_with("e1", "1", |item| item["authorId"] = Value::Null);
        world.notify(&unknown).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert_eq!(requesters(&world), [SERVICE_USER]);
        assert!(world.zendesk.model().users.is_empty());
    })
    .await;
}

/// Zendesk creates one user per second. Tickets that would have to wait for many others go out at once.
#[tokio::test]
async fn three_hundred_new_authors_hold_up_no_ticket() {
    const POSTS: usize = 300;
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_REQUESTER_LATER", "0");
        world.set("LEASE_SECONDS", "60");
        world.set("ZENDESK_BUDGET_PERCENT", "100");
        world.zendesk.model().limit = 100_000;
        let bridge = world.start().await;
        let posts: Vec<String> =
            (0..POSTS).map(|n| by(&n.to_string(), &format!("e{n}"), &n.to_string())).collect();
        join_all(posts.iter().map(|notification| world.notify(notification))).await;
        bridge.wait_for_nth("delivery_done", POSTS).await;
        {
            let model = world.zendesk.model();
            assert_eq!(model.tickets.len(), POSTS);
            assert_eq!(model.too_many_user_writes, 0, "the limit was not kept");
            let by_author =
                model.tickets.iter().filter(|ticket| ticket["requester_id"] != SERVICE_USER).count();
            assert_eq!(by_author, model.users.len());
            // Up to 11 may wait at a time, and no user is created after the last ticket.
            assert!(by_author > 0 && by_author < POSTS / 2, "{by_author} of {POSTS} waited for a user");
        }
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// Zendesk's limit of new users delays users and no ticket.
#[tokio::test]
async fn the_limit_of_new_users_stops_no_ticket() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        world.notify(&by("1", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        // Another integration keeps creating users.
        world.zendesk.model().users_are_made_by_others = true;
        world.notify(&by("2", "e2", "2")).await;
        bridge.wait_for("authors_paused").await;
        bridge.wait_for("delivery_done ticket=1001").await;
        assert_eq!(requesters(&world)[1], SERVICE_USER);
        assert_eq!(bridge.count("destination_paused"), 0);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// A ticket without its author beats no ticket.
#[tokio::test]
async fn failing_requests_about_users_stop_no_ticket() {
    for status in [500, 503, 404, 302, 422, 200] {
        run_on_sqlite(|world| async move {
            world.zendesk.model().user_outage = Some(status);
            let bridge = world.start().await;
            for post in 0..5 {
                world.notify(&by(&post.to_string(), &format!("e{post}"), &post.to_string())).await;
                bridge.wait_for_nth("delivery_done", post + 1).await;
            }
            assert_eq!(requesters(&world), [SERVICE_USER; 5]);
            assert_eq!(bridge.count("authors_paused"), 1, "{}", bridge.log());
            assert_eq!(bridge.count("destination_paused"), 0, "{}", bridge.log());
        })
        .await;
    }
}

/// A comma in an id would separate two ids in a batch.
#[tokio::test]
async fn an_unusual_author_id_costs_no_ticket() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        for (number, id) in
            [",".repeat(120), "1,2".to_owned(), "日本".to_owned(), "x".repeat(1000)].iter().enumerate()
        {
            world.notify(&by(id, &format!("e{number}"), &number.to_string())).await;
            bridge.wait_for_nth("delivery_done", number + 1).await;
        }
        world.check_one_ticket_per_case().await;
        let model = world.zendesk.model();
        let users: std::collections::BTreeSet<&str> =
            model.users.iter().map(|user| user["external_id"].as_str().unwrap()).collect();
        assert_eq!(users.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_new_user_has_the_picture_of_the_author_unless_zendesk_refuses_it() {
    run_on_sqlite(|mut world| async move {
        // Two users take two seconds, which is more than a short lease leaves for one.
        world.set("LEASE_SECONDS", "60");
        let bridge = world.start().await;
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        world.zendesk.model().refuse_photos = true;
        world.notify(&by("78", "e2", "2")).await;
        bridge.wait_for("delivery_done ticket=1001").await;
        let model = world.zendesk.model();
        let photos: Vec<&Value> = model.users.iter().map(|user| &user["remote_photo_url"]).collect();
        assert_eq!(photos, [&json!("https://pbs.twimg.com/profile_images"), &Value::Null]);
        drop(model);
        assert!(!requesters(&world).contains(&SERVICE_USER));
    })
    .await;
}

/// The first revision names the service user; then that cannot be looked up, and the group is refused.
#[tokio::test]
async fn a_private_comment_is_never_left_unsigned_beside_an_author() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_GROUP_ID", "4242");
        let bridge = world.start().await;
        world.zendesk.queue([Fault::TooMany(2)]);
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("destination_paused").await;
        bridge.kill().await;
        world.zendesk.model().user_outage = Some(500);
        let bridge = world.start().await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert_eq!(requesters(&world), [SERVICE_USER]);
        assert_eq!(world.tickets(1).await[0]["submitter_id"], SERVICE_USER);
    })
    .await;
}

/// Three rejected authors with others in between say nothing about the credential.
#[tokio::test]
async fn forbidden_authors_among_others_stop_nobody_else() {
    run_on_sqlite(|world| async move {
        for author in ["70", "71", "72"] {
            world.zendesk.model().refused_authors.insert(format!("khoros:twitter:{author}"), 403);
        }
        let bridge = world.start().await;
        for (number, author) in ["1", "70", "2", "71", "3", "72", "4"].iter().enumerate() {
            world.notify(&by(author, &format!("e{number}"), &number.to_string())).await;
            bridge.wait_for_nth("delivery_done", number + 1).await;
        }
        let requesters = requesters(&world);
        for (number, requester) in requesters.iter().enumerate() {
            assert_eq!(*requester == SERVICE_USER, number % 2 == 1, "{requesters:?}");
        }
    })
    .await;
}

/// It applies to stored tickets, too.
#[tokio::test]
async fn requester_later_0_applies_to_waiting_tickets() {
    run_on_sqlite(|mut world| async move {
        world.zendesk.model().user_outage = Some(500);
        let bridge = world.start().await;
        world.notify(&by("77", "e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        bridge.kill().await;
        world.zendesk.model().user_outage = None;
        world.database.execute("update pending_requester set due_at = 0").await;
        world.set("TICKET_REQUESTER_LATER", "0");
        let bridge = world.start().await;
        let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
        let waiting = "select count(*) from pending_requester";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut connection).await.unwrap() > 0 {}
        assert_eq!(requesters(&world), [SERVICE_USER]);
        assert!(bridge.stop().await.success());
    })
    .await;
}
