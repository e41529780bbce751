//! A database of the version before migration 0009, with deliveries in every state, is taken over: nothing is
//! lost and nothing is done twice. `tests/fixtures/upgrade/README.md` describes it.

use std::collections::BTreeMap;
use std::env;

use casebridge_sandbox::khoros::{FeedShape, Status, Style};
use casebridge_sandbox::zendesk::{API_TOKEN, SERVICE_USER, USER_EMAIL};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};

use crate::harness::{Bridge, Kind, World, event_with, free_port, leave_out, on_both, run};

const SQLITE: &str = include_str!("../fixtures/upgrade/sqlite.sql");
const POSTGRES: &str = include_str!("../fixtures/upgrade/postgres.sql");
const NEIGHBOURS: &str = include_str!("../fixtures/upgrade/neighbours.json");

/// When the fixture was written: no time in it is later, except when a delivery is due.
const WRITTEN_AT: i64 = 1_795_666_663_000;

/// The results of all deliveries, which `casebridge list` shows only after the migration.
const RESULTS: &str = "
    select identity, state || ' ' || coalesce(reference, '') || ' ' || coalesce(last_error, '') || ' '
                     || coalesce(cast(settled_at as text), '')
      from delivery";

/// The binary of the version before. Without it, its statements alone are tried.
pub const OLD_BINARY: &str = "CASEBRIDGE_OLD_BINARY";

/// Moves the times to the last minute, and makes everything due that waits.
const MOVE_TIMES: &str = "
    update delivery set received_at = received_at + {by}, settled_at = settled_at + {by};
    update delivery set due_at = coalesce(settled_at, received_at);
    update author set learnt_at = learnt_at + {by};
    update subscription set ended_at = ended_at + {by};
    update pending_requester set due_at = due_at + {by};
    update run set began_at = began_at + {by}, seen_at = seen_at + {by}";

/// Gives the story the database of the version before, and the neighbours as they were.
pub async fn take_over(world: &mut World) {
    world.set("PUBLIC_URL", "https://casebridge.acme.example");
    let by = jiff::Timestamp::now().as_millisecond() - 60_000 - WRITTEN_AT;
    let times = MOVE_TIMES.replace("{by}", &by.to_string());
    match world.database.kind {
        Kind::Sqlite => {
            let url = format!("{}?mode=rwc", world.database.url);
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            connection.execute(SQLITE).await.unwrap();
            connection.execute(AssertSqlSafe(times)).await.unwrap();
            connection.close().await.unwrap();
        }
        Kind::Postgres => {
            let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
            connection.execute(POSTGRES).await.unwrap();
            connection.execute(AssertSqlSafe(times)).await.unwrap();
        }
    }
    let neighbours: Value = serde_json::from_str(NEIGHBOURS).unwrap();
    restore_khoros(world, &neighbours["khoros"]);
    restore_zendesk(world, &neighbours["zendesk"]).await;
}

fn restore_khoros(world: &World, subscriptions: &Value) {
    let mut model = world.khoros.model();
    (model.style, model.feed_shape) = (Style::Json, FeedShape::Array);
    for subscription in subscriptions.as_array().unwrap() {
        let uuid = model.add(subscription["sent"].clone());
        let restored = model.subscription(&uuid).unwrap();
        restored.feed = subscription["feed"].as_array().unwrap().clone();
        if subscription["disabled"] == true {
            restored.status = Status::Disabled;
        }
    }
}

/// Creates each ticket by the frozen request of its delivery, in the order of their numbers.
async fn restore_zendesk(world: &World, zendesk: &Value) {
    world.zendesk.model().users = zendesk["users"].as_array().unwrap().clone();
    let requests = texts(world, "select identity, request from delivery where request is not null").await;
    for ticket in zendesk["tickets"].as_array().unwrap() {
        let (number, delivery) = (ticket["ticket"].as_u64().unwrap(), ticket["delivery"].as_str().unwrap());
        let (path, body) = ("/api/v2/tickets", requests[delivery].clone());
        let created = send_to_zendesk(world, Method::POST, path, Some(delivery), body).await;
        assert_eq!(created["ticket"]["id"], number);
        let mut model = world.zendesk.model();
        if ticket["status"] == "closed" {
            model.set_status(number, "closed");
        }
        if ticket["purged"] == true {
            model.delete_ticket(number);
            model.purged.insert(number);
        }
    }
    for comment in zendesk["comments"].as_array().unwrap() {
        let path = format!("/api/v2/tickets/{}", comment["ticket"]);
        send_to_zendesk(world, Method::PUT, &path, None, comment["body"].to_string()).await;
    }
}

pub async fn send_to_zendesk(
    world: &World,
    method: Method,
    path: &str,
    idempotency_key: Option<&str>,
    body: String,
) -> Value {
    let request = world.http.request(method, format!("{}{path}", world.zendesk.url()));
    let request = request.basic_auth(format!("{USER_EMAIL}/token"), Some(API_TOKEN));
    let request = match idempotency_key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    };
    let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
    response.json().await.unwrap()
}

/// Reads two columns of texts.
pub async fn texts(world: &World, sql: &'static str) -> BTreeMap<String, String> {
    let rows: Vec<(String, String)> = match world.database.kind {
        Kind::Sqlite => {
            let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
            sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap()
        }
        Kind::Postgres => {
            let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
            sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap()
        }
    };
    rows.into_iter().collect()
}

/// A label event as those in the fixture.
fn labelled(event: &str, post: &str, notes: &[&str]) -> String {
    event_with(event, post, |item| {
        item["authorId"] = json!("77");
        let note = |text: &&str| json!({"text": text, "createdByDisplayName": "Ann"});
        item["notes"] = notes.iter().map(note).collect();
    })
}

/// Waits until the delivery of this event is done by this action, and returns its ticket.
async fn wait_until_done(bridge: &Bridge, event: &str, action: &str) -> String {
    let done = bridge.wait_for(&format!("delivery_done delivery=khoros:1234:{event}:*")).await;
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["action"], action, "{done}");
    done["ticket"].as_str().unwrap().to_owned()
}

/// The waiting deliveries: the events, and what becomes of them. A ticket is named if it existed.
pub const WAITING: [(&str, &str, Option<&str>); 11] = [
    ("after-gone-5", "created", None),
    ("doubt-exists", "found", Some("1006")),
    ("behind-doubt", "commented", Some("1006")),
    ("doubt-absent", "created", None),
    ("doubt-comment", "found", Some("1000")),
    ("leased-absent", "created", None),
    ("leased-exists", "found", Some("1007")),
    ("leased-unsent", "created", None),
    ("put-off", "created", None),
    ("fresh", "created", None),
    ("from-feed", "created", None),
];

/// Waits until all waiting deliveries are done as expected.
async fn wait_until_all_done(bridge: &Bridge) {
    for (event, action, expected) in WAITING {
        let ticket = wait_until_done(bridge, event, action).await;
        assert!(expected.is_none_or(|expected| ticket == expected), "{event}: {ticket}");
    }
    assert_eq!(bridge.count("delivery_done"), WAITING.len(), "{}", bridge.log());
}

/// Each case has one ticket besides closed ones, and each delivery did its part once.
pub fn check_nothing_is_doubled(world: &World) {
    let model = world.zendesk.model();
    let open = model.tickets.iter().filter(|ticket| ticket["status"] != "closed");
    let mut cases: Vec<&str> = open.map(|ticket| ticket["external_id"].as_str().unwrap()).collect();
    cases.sort_unstable();
    let twice = cases.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None, "a case has two tickets");
    let marks = model.audits.iter().filter_map(|audit| audit["metadata"]["custom"]["delivery"].as_str());
    let mut marks: Vec<&str> = marks.collect();
    marks.sort_unstable();
    let twice = marks.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None, "a delivery did its part twice");
    assert_eq!((model.key_mismatches, model.keyless), (0, 0));
}

on_both! {
    async fn deliveries_in_every_state_are_taken_over(world: World) {
        let mut world = world;
        take_over(&mut world).await;
        let settled = async || {
            let mut rows = texts(&world, RESULTS).await;
            rows.retain(|id, _| WAITING.iter().all(|(event, ..)| !id.contains(&format!(":{event}:"))));
            rows
        };
        let before = settled().await;
        assert_eq!(before.values().filter(|row| row.starts_with("done")).count(), 11);
        assert_eq!(before.values().filter(|row| row.starts_with("dead")).count(), 3);
        let bridge = world.start().await;
        wait_until_all_done(&bridge).await;
        assert_eq!(settled().await, before, "settled deliveries were changed");
        check_nothing_is_doubled(&world);
        // The counts begin with what is stored.
        let done = "casebridge_deliveries{destination=\"zendesk\",state=\"done\"}";
        let samples = crate::metrics::wait_for(&world, done, (11 + WAITING.len()) as f64).await;
        let dead = "casebridge_deliveries{destination=\"zendesk\",state=\"dead\"}";
        assert_eq!((samples[dead], samples["casebridge_unaccounted"]), (3.0, 0.0));

        assert_eq!(world.zendesk.model().comments(1000).len(), 3);
        let behind = world.zendesk.model().comments(1006);
        assert_eq!(behind.len(), 2, "{behind:?}");
        assert!(behind[1]["body"].as_str().unwrap().contains("second"), "{behind:?}");
        assert!(!behind[1]["body"].as_str().unwrap().contains("first"), "{behind:?}");
        assert!(bridge.stop().await.success());

        let origins = texts(&world, "select event_id, origin from delivery where origin <> 'push'").await;
        assert_eq!(origins, BTreeMap::from([("from-feed".to_owned(), "feed".to_owned())]));
        let anew = texts(&world, "select event_id, state from delivery where anew").await;
        assert_eq!(anew, BTreeMap::from([("after-gone-5".to_owned(), "done".to_owned())]));
        let unremembered = "select event_id, state from delivery where state = 'done' and coalesce(memo, told) is null";
        assert_eq!(texts(&world, unremembered).await, BTreeMap::new());
    }

    async fn the_memory_of_cases_is_taken_over(world: World) {
        let mut world = world;
        take_over(&mut world).await;
        let bridge = world.start().await;
        wait_until_all_done(&bridge).await;
        for (event, post, notes, action, ticket) in [
            ("relabelled-1", "1", &["first", "second"][..], "unchanged", "1000"),
            ("relabelled-2", "2", &["first"], "unchanged", "1002"),
            ("noted-2", "2", &["first", "second"], "commented", "1002"),
            ("relabelled-16", "16", &[], "unchanged", "1003"),
            ("relabelled-7", "7", &["first", "second"], "unchanged", "1006"),
            ("relabelled-10", "10", &[], "unchanged", "1007"),
        ] {
            world.notify(&labelled(event, post, notes)).await;
            assert_eq!(wait_until_done(&bridge, event, action).await, ticket, "{event}");
        }
        // An event that the version before received is known.
        assert_eq!(world.notify(&labelled("created", "1", &[])).await["new"], 0);
        check_nothing_is_doubled(&world);
    }

    async fn dead_deliveries_can_be_replayed_after_the_upgrade(world: World) {
        let mut world = world;
        take_over(&mut world).await;
        let bridge = world.start().await;
        wait_until_all_done(&bridge).await;
        for (arguments, event, action) in [
            (&["replay", "khoros:1234:dead-refused:twitter:3"][..], "dead-refused", "created"),
            (&["replay", "khoros:1234:dead-in-doubt:twitter:4"], "dead-in-doubt", "created"),
            (&["replay", "--new-ticket", "khoros:1234:after-gone-6:twitter:6"], "after-gone-6", "created"),
        ] {
            let replayed = world.command(arguments).await;
            assert!(replayed.status.success(), "{replayed:?}");
            wait_until_done(&bridge, event, action).await;
        }
        check_nothing_is_doubled(&world);
        assert!(world.list().await.iter().all(|row| row["state"] == "done"));
    }

    async fn authors_and_pending_requesters_are_taken_over(world: World) {
        let mut world = world;
        take_over(&mut world).await;
        // Creates go first, and a requester that they hold up is put off for a minute.
        world.database.execute("update pending_requester set due_at = due_at + 3600000").await;
        let bridge = world.start().await;
        wait_until_all_done(&bridge).await;
        assert!(bridge.stop().await.success());
        // `put-off` has another one by now: its bytes were frozen without the author.
        let pending = "select key, value from memo where scope = 'zendesk.requester'";
        let mut before = texts(&world, pending).await.len();
        while before > 0 {
            // Each start has the budget for one update.
            world.database.execute("update memo set at = 0 where scope = 'zendesk.requester'").await;
            let bridge = world.start().await;
            while texts(&world, pending).await.len() == before {}
            assert!(bridge.stop().await.success());
            before = texts(&world, pending).await.len();
        }
        let model = world.zendesk.model();
        for ticket in &model.tickets {
            let has_tag = ticket["tags"].to_string().contains("casebridge_no_author");
            assert!(ticket["requester_id"] != SERVICE_USER && !has_tag, "{ticket}");
        }
        // Only the author of ticket 1008 was not known.
        assert_eq!((model.users.len(), model.user_reads, model.user_writes), (3, 1, 1));
    }

    async fn subscriptions_are_taken_over(world: World) {
        let mut world = world;
        take_over(&mut world).await;
        world.set("SPREDFAST_POLL_SECONDS", "1");
        let ended = texts(&world, "select external_id, cast(ended_at as text) from subscription where ended_at > 0").await;
        let bridge = world.start().await;
        bridge.wait_for("subscribed origin=push").await;
        bridge.wait_for_nth("feed_read new=0", 2).await;
        assert!(bridge.stop().await.success());
        {
            let model = world.khoros.model();
            assert_eq!((model.calls, model.puts, model.deletes), (0, 0, 0), "the subscriptions were changed");
            let states: Vec<Status> = model.subscriptions.iter().map(|known| known.status).collect();
            assert_eq!(states, [Status::Active, Status::Disabled]);
        }
        assert_eq!(texts(&world, "select key, value from memo where scope = 'khoros.ended'").await, ended);
        assert_eq!(world.list().await.len(), 25, "events of the feed were stored again");
    }

    async fn the_statements_of_the_version_before_work_on_the_new_schema(world: World) {
        let mut world = world;
        take_over(&mut world).await;
        let bridge = world.start().await;
        wait_until_all_done(&bridge).await;
        assert!(bridge.stop().await.success());
        let payload = labelled("by-the-old", "90", &[]).replace('\'', "''");
        for statement in OLD_STATEMENTS {
            world.database.execute(&fill(&world, statement, &payload)).await;
        }
        let list = world.list().await;
        let settled = list.iter().find(|row| row["event_id"] == "by-the-old").unwrap();
        assert_eq!((&settled["state"], &settled["ticket"]), (&json!("done"), &json!("1000")), "{settled}");

        // What the version before stored of the case is known to this one: the route `label` is new to it.
        let bridge = world.start().await;
        world.notify(&labelled("by-the-new", "90", &[])).await;
        assert_eq!(wait_until_done(&bridge, "by-the-new", "commented").await, "1000");
        assert!(bridge.stop().await.success());
    }

    async fn the_version_before_starts_on_the_migrated_database(world: World) {
        let Ok(old) = env::var(OLD_BINARY) else { return leave_out(OLD_BINARY) };
        let mut world = world;
        take_over(&mut world).await;
        let bridge = world.start().await;
        wait_until_all_done(&bridge).await;
        world.notify(&labelled("new-1", "80", &["first"])).await;
        wait_until_done(&bridge, "new-1", "created").await;
        assert!(bridge.stop().await.success());

        world.wrap(&["sh", "-c", "exec \"$0\"", &old]);
        let bridge = world.start().await;
        world.notify(&labelled("old-1", "80", &["first"])).await;
        wait_until_done(&bridge, "old-1", "unchanged").await;
        world.notify(&labelled("old-2", "80", &["first", "second"])).await;
        wait_until_done(&bridge, "old-2", "commented").await;
        world.notify(&labelled("old-3", "81", &["first"])).await;
        wait_until_done(&bridge, "old-3", "created").await;
        world.notify(&labelled("old-4", "1", &["first", "second"])).await;
        assert_eq!(wait_until_done(&bridge, "old-4", "unchanged").await, "1000");
        assert_eq!(bridge.count("delivery_done"), 4, "{}", bridge.log());
        assert!(bridge.stop().await.success());

        world.wrap(&[]);
        let bridge = world.start().await;
        for (event, post) in [("new-2", "80"), ("new-3", "81")] {
            let notes = if post == "80" { &["first", "second"][..] } else { &["first"] };
            world.notify(&labelled(event, post, notes)).await;
            wait_until_done(&bridge, event, "unchanged").await;
        }
        check_nothing_is_doubled(&world);
    }
}

/// As during a deployment without downtime: the version before still runs while this one migrates and starts.
#[tokio::test]
async fn both_versions_work_side_by_side() {
    let Ok(old) = env::var(OLD_BINARY) else { return leave_out(OLD_BINARY) };
    run(Kind::Postgres, async |mut world: World| {
        take_over(&mut world).await;
        // Until both run, the waiting deliveries are not due.
        let later = "update delivery set due_at = due_at + 3600000 where state = 'waiting'";
        world.database.execute(later).await;
        world.wrap(&["sh", "-c", "exec \"$0\"", &old]);
        let before = world.start().await;
        world.notify(&labelled("by-the-old", "80", &["first"])).await;
        wait_until_done(&before, "by-the-old", "created").await;
        world.wrap(&[]);
        let after = world.start_beside(free_port()).await;
        let now = "update delivery set due_at = received_at where state = 'waiting'";
        world.database.execute(now).await;
        let events: Vec<String> = (0..20).map(|n| format!("overlap-{n}")).collect();
        for (n, event) in events.iter().enumerate() {
            world.notify(&labelled(event, &format!("{}", 80 + n / 2), &["first"])).await;
        }
        let expected = 1 + WAITING.len() + events.len();
        while before.count("delivery_done") + after.count("delivery_done") < expected {
            let lines = (before.line_count(), after.line_count());
            tokio::select! {
                () = before.wait_for_lines(lines.0 + 1) => {}
                () = after.wait_for_lines(lines.1 + 1) => {}
            }
        }
        assert!(before.stop().await.success());
        assert!(after.stop().await.success());
        check_nothing_is_doubled(&world);
        assert!(world.waiting().await.is_empty());
    })
    .await;
}

/// Fills a statement of the version before as it did.
pub fn fill(world: &World, statement: &str, payload: &str) -> String {
    let (now, skip_locked) = match world.database.kind {
        Kind::Sqlite => ("cast(unixepoch('subsec') * 1000 as integer)", ""),
        Kind::Postgres => {
            ("(extract(epoch from clock_timestamp()) * 1000)::bigint", "for update of mine skip locked")
        }
    };
    statement.replace("{payload}", payload).replace("{now}", now).replace("{skip locked}", skip_locked)
}

/// The statements of the version before that write, in the order of one delivery and of what belongs to it.
pub const OLD_STATEMENTS: &[&str] = &[
    "insert into delivery (identity, destination, case_key, route, event_id,
        event_name, payload, state, in_doubt, due_at, received_at, settled_at, last_error)
     values ('khoros:1234:by-the-old:twitter:90', 'zendesk', 'khoros:1234:twitter:90', 'label', 'by-the-old',
        'stream-item-label-applied', '{payload}', 'waiting', false, {now}, {now}, case when false then {now} end, null)
     on conflict do nothing returning identity",
    "with picked as materialized (
        select identity, destination from delivery as mine
         where destination = 'zendesk' and state = 'waiting' and due_at <= (select {now})
           and attempts = 0 and not in_doubt
           and not exists (
               select 1 from delivery as other
                where other.destination = mine.destination and other.case_key = mine.case_key
                  and other.identity <> mine.identity and other.state <> 'done'
                  and (other.leased
                       or (other.in_doubt and other.due_at > (select {now}))
                       or (other.state <> 'dead' and not mine.leased
                           and (other.received_at, other.identity) < (mine.received_at, mine.identity))))
         order by due_at limit 10 {skip locked}
    )
    update delivery
       set attempts = attempts + 1, in_doubt = in_doubt or leased, leased = true, due_at = {now} + 60000
     where (identity, destination) in (select identity, destination from picked)
    returning identity, destination, case_key, route, payload, request, revision, attempts, tries,
              in_doubt, received_at, ticket_gone",
    "update delivery set request = '{}', revision = 0
      where identity = 'khoros:1234:by-the-old:twitter:90' and destination = 'zendesk' and attempts = 1 and leased",
    r#"update delivery
        set state = 'done', reference = coalesce('1000', reference), last_error = null, tries = 0,
            in_doubt = (in_doubt or false) and not true, due_at = {now} + 0,
            settled_at = case when 'done' = 'waiting' then null else {now} end, leased = false,
            told = coalesce('{"routes":["vip"],"text":null,"notes":[]}', told)
      where identity = 'khoros:1234:by-the-old:twitter:90' and destination = 'zendesk' and attempts = 1 and leased"#,
    "update delivery
        set state = 'waiting', tries = 0, settled_at = null, in_doubt = true, ticket_gone = true,
            request = case when in_doubt then request end,
            revision = case when in_doubt then revision else revision + 1 end,
            due_at = case when in_doubt and due_at > {now} then due_at else {now} end
      where identity = 'no such delivery' and destination = 'zendesk' and state = 'dead' and payload <> ''",
    "insert into author (destination, author, reference, learnt_at) values ('zendesk', 'khoros:twitter:80', 1, {now})
     on conflict (destination, author) do update
        set reference = excluded.reference, learnt_at = excluded.learnt_at",
    "delete from author where destination = 'zendesk' and author = 'khoros:twitter:80'",
    "insert into pending_requester (destination, ticket, author, identity, due_at)
     values ('zendesk', '1', 'khoros:twitter:80', 'none', {now}) on conflict (destination, ticket) do nothing",
    "update pending_requester set due_at = {now} + 60000
      where destination = 'zendesk' and ticket in (
          select ticket from pending_requester as mine
           where destination = 'zendesk' and due_at <= (select {now})
           order by due_at limit 1 {skip locked})
     returning destination, ticket, author,
               coalesce((select payload from delivery
                          where delivery.identity = pending_requester.identity
                            and delivery.destination = pending_requester.destination), '') as payload",
    "delete from pending_requester where destination = 'zendesk' and ticket = '1'",
    "insert into subscription (external_id, declared) values ('old', 'fingerprint')
     on conflict (external_id) do update set declared = excluded.declared",
    "insert into subscription (external_id, ended_at) values ('old', {now})
     on conflict (external_id) do update set ended_at = excluded.ended_at",
    "update subscription set ended_at = null where external_id = 'old'",
    "update delivery set payload = '', request = null, last_error = null
      where (identity, destination) in (
          select identity, destination from delivery
           where settled_at is not null and payload <> '' and settled_at < 0 order by settled_at limit 10)",
];
