//! Storage that fails: no 2xx for events that are not stored, and recovery without a restart.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio::process::Command;
use tokio::sync::watch;

use crate::harness::{
    Bridge, Cluster, Kind, Proxy, Wire, World, event, event_with, free_port, run, run_behind_pooler,
    run_on_sqlite,
};

#[tokio::test]
async fn a_database_that_is_cut_off_comes_back() {
    cut_off(Wire::Cut).await;
}

#[tokio::test]
async fn a_database_that_stops_answering_comes_back() {
    cut_off(Wire::Silent).await;
}

async fn cut_off(how: Wire) {
    run(Kind::Postgres, async move |mut world: World| {
        let (proxy, url) = proxied(&world.database.url).await;
        world.set("DATABASE_URL", url);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;

        proxy.set(how);
        assert_eq!(world.post(event("event-2", "2")).await.status(), 503);
        bridge.wait_for("storage_failed alert=storage").await;
        proxy.set(Wire::Whole);

        acknowledged(&world, &event("event-2", "2")).await;
        bridge.wait_for("delivery_done ticket=1001").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// Returns the database's address through a proxy.
pub async fn proxied(url: &str) -> (Proxy, String) {
    let host = url.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:")).unwrap();
    let proxy = Proxy::start(host.parse::<SocketAddr>().unwrap()).await;
    let url = url.replace(host, &proxy.address.to_string());
    (proxy, url)
}

/// Sends a notification until it is stored: a pool needs a moment to notice that its connections are dead.
async fn acknowledged(world: &World, notification: &str) {
    while world.post(notification.to_owned()).await.status() != 200 {}
}

#[tokio::test]
async fn a_full_disk_refuses_and_keeps_what_it_has() {
    run_on_sqlite(|mut world| async move {
        world.zendesk.stop();
        // Files may not grow beyond two megabytes; without the signal a write fails as on a full disk.
        let shell = ["sh", "-c", "trap '' XFSZ; ulimit -S -f 4000; exec \"$0\""];
        world.wrap(&shell);
        let bridge = world.start().await;
        let mut stored = 0;
        let refused = loop {
            let text = "x".repeat(50_000);
            let notification = json!({"eventUuid": format!("e{stored}"), "data": {"items": [
                {"entityId": format!("twitter:{stored}"), "text": text}]}});
            let status = world.post(notification.to_string()).await.status();
            if status != 200 {
                break status;
            }
            stored += 1;
        };
        assert_eq!(refused, 503);
        let known = json!({"eventUuid": "e0", "data": {"items": [{"entityId": "twitter:0"}]}});
        assert_eq!(world.notify(&known.to_string()).await["new"], 0, "which writes nothing");
        let ready = world.http.get(world.url("/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), 503, "a full disk can still be read");
        assert!(stored > 0);
        assert_eq!(listed(&world).await, stored, "exactly what was acknowledged");

        free_the_disk(&bridge).await;
        world.zendesk.restart().await.unwrap();
        acknowledged(&world, &event("event-after", "after")).await;
        bridge.wait_for_nth("delivery_done", stored + 1).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_file_that_was_deleted_is_not_written_to() {
    deleted("").await;
}

#[tokio::test]
async fn a_log_that_was_deleted_is_not_written_to() {
    deleted("-wal").await;
}

/// With another lock in its place, a second process would serve the same file.
#[tokio::test]
async fn a_lock_that_was_deleted_is_noticed() {
    deleted(".lock").await;
}

/// PostgreSQL looks for tables in a schema of the user's name before it looks in `public`.
#[tokio::test]
async fn a_schema_of_the_users_name_is_no_new_inbox_on_postgres() {
    run(Kind::Postgres, a_schema_of_the_users_name).await;
}

#[tokio::test]
async fn a_schema_of_the_users_name_is_no_new_inbox_behind_a_pooler() {
    run_behind_pooler(a_schema_of_the_users_name).await;
}

async fn a_schema_of_the_users_name(world: World) {
    let bridge = world.start().await;
    world.notify(&event("event-1", "1")).await;
    bridge.wait_for("delivery_done ticket=1000").await;
    bridge.stop().await;
    world.database.execute("create schema authorization current_user").await;

    let bridge = world.start().await;
    bridge.wait_for("schema_kept schema=public").await;
    let answer = world.post(event("event-1", "1")).await.text().await.unwrap();
    assert_eq!(answer, r#"{"received":1,"new":0}"#);
    world.notify(&event("event-2", "2")).await;
    bridge.wait_for("delivery_done ticket=1001").await;
    assert_eq!(world.list().await.len(), 2);
    world.check_one_ticket_per_case().await;
}

/// SQLite keeps its log beside the file, and not beside the link.
#[tokio::test]
async fn a_file_behind_a_link_is_guarded_like_the_file_itself() {
    run_on_sqlite(|mut world| async move {
        let file = world.database.url.trim_start_matches("sqlite://").to_owned();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("link.db");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        world.set("DATABASE_URL", format!("sqlite://{}", link.display()));
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        // One file by two names is served once.
        let mut second = world.vars.clone();
        second.insert("DATABASE_URL", format!("sqlite://{file}"));
        second.insert("PORT", "0".to_owned());
        let (status, log) = world.spawn_with(&second).end_with_log().await;
        assert_eq!(status.code(), Some(2), "{log}");
        std::fs::remove_file(format!("{file}-wal")).unwrap();
        assert_eq!(world.post(event("event-2", "2")).await.status(), 503);
        bridge.wait_for("storage_failed alert=storage").await;
    })
    .await;
}

async fn deleted(suffix: &str) {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        let file = world.database.url.trim_start_matches("sqlite://");
        std::fs::remove_file(format!("{file}{suffix}")).unwrap();
        assert_eq!(world.post(event("event-2", "2")).await.status(), 503);
        bridge.wait_for("storage_failed alert=storage").await;
    })
    .await;
}

/// Ten days ahead, and then corrected: nothing waits for ten days.
#[tokio::test]
async fn a_clock_that_ran_ahead_delays_nothing_on_sqlite() {
    a_clock_that_ran_ahead(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_clock_that_ran_ahead_delays_nothing_on_postgres() {
    a_clock_that_ran_ahead(Kind::Postgres).await;
}

async fn a_clock_that_ran_ahead(kind: Kind) {
    run(kind, async |world: World| {
        world.zendesk.stop();
        let bridge = world.start().await;
        for post in 1..=3 {
            world.notify(&event(&format!("e{post}"), &post.to_string())).await;
        }
        bridge.kill().await;
        let ahead = "update delivery set received_at = received_at + 864000000, due_at = due_at + 864000000";
        world.database.execute(ahead).await;
        world.zendesk.restart().await.unwrap();
        let bridge = world.start().await;
        bridge.wait_for("clock_corrected").await;
        bridge.wait_for_nth("delivery_done", 3).await;
        // A later event does not count as an older one.
        world.notify(&event_with("later", "1", |item| item["text"] = json!("an edited text"))).await;
        bridge.wait_for("delivery_done case=khoros:1234:twitter:1 action=commented").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// The deliveries that wait in the backup have been delivered since.
#[tokio::test]
async fn a_restored_backup_doubles_no_ticket() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        world.notify(&event("known", "0")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        world.zendesk.stop();
        for post in 1..=3 {
            world.notify(&event(&format!("e{post}"), &post.to_string())).await;
        }
        let noted = event_with("note", "0", |item| item["notes"] = json!([{"text": "call them"}]));
        world.notify(&noted).await;
        let copy = world.folder().join("backup.db");
        let backup = world.command(&["backup", copy.to_str().unwrap()]).await;
        assert!(backup.status.success(), "{backup:?}");
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(world.command(&["backup", copy.to_str().unwrap()]).await.status.code(), Some(1));

        world.zendesk.restart().await.unwrap();
        bridge.wait_for_nth("delivery_done", 5).await;
        bridge.stop().await;
        world.zendesk.forget_keys();
        let file = world.database.url.trim_start_matches("sqlite://").to_owned();
        std::fs::copy(&copy, &file).unwrap();
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{file}{end}"));
        }

        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done action=found", 4).await;
        assert_eq!(world.zendesk.model().comments(1000).len(), 2, "a comment was doubled");
        for delivery in world.list().await {
            assert_eq!(delivery["tries"], 0, "{delivery}");
        }
        // What comes from now on cannot be in a backup.
        let look_ups = world.zendesk.model().look_ups;
        world.notify(&event("new", "9")).await;
        bridge.wait_for("delivery_done ticket=1004").await;
        assert_eq!(world.zendesk.model().look_ups, look_ups);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// The backup is older than this run, which goes on.
#[tokio::test]
async fn a_database_that_is_restored_under_a_service_doubles_no_ticket() {
    run(Kind::Postgres, async |world: World| {
        let bridge = world.start().await;
        world.notify(&event("e1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        world.zendesk.forget_keys();
        let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
        connection.execute("delete from run").await.unwrap();
        let waiting =
            "update delivery set state = 'waiting', attempts = 0, settled_at = null, request = null,
                              reference = null, told = null, due_at = 0";
        connection.execute(waiting).await.unwrap();
        bridge.wait_for("delivery_done ticket=1000 action=found").await;
        assert_eq!(world.zendesk.model().creates, 1);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// A process stops between the freezing of a create and its first byte, for longer than a key is known.
/// Another process makes the ticket meanwhile.
#[tokio::test]
async fn a_machine_that_wakes_up_sends_nothing_that_others_have_sent() {
    const POSTS: usize = 30;
    run(Kind::Postgres, async |mut world: World| {
        // Its timers stand still while a machine is suspended: here, they are longer than it is stopped.
        world.set("LEASE_SECONDS", "3600");
        // So few requests a second that attempts wait for a place in the middle.
        world.zendesk.model().limit = 120;
        let bridge = world.start().await;
        let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
        for post in 0..POSTS {
            let id = post.to_string();
            world.notify(&event_with(&id, &id, |item| item["authorId"] = json!(id))).await;
        }
        loop {
            while unsent(&mut connection, &world).await == 0 {}
            bridge.signal("-STOP").await;
            // What has reached Zendesk by now is answered before this.
            for _ in 0..10 {
                let url = format!("{}/api/v2/tickets/count", world.zendesk.url());
                world.http.get(url).send().await.unwrap();
            }
            if unsent(&mut connection, &world).await > 0 && open_transactions(&mut connection).await == 0 {
                break;
            }
            bridge.signal("-CONT").await;
        }
        world.zendesk.model().limit = 100_000;
        // Two hours pass.
        connection.execute("update delivery set due_at = 0").await.unwrap();
        let other = world.start_beside(free_port()).await;
        while world.list().await.iter().any(|delivery| delivery["state"] != "done") {}
        world.zendesk.forget_keys();
        let tickets = world.zendesk.model().tickets.len();
        bridge.signal("-CONT").await;
        bridge.wait_for("lease_expired_unsent").await;
        world.notify(&event("last", "last")).await;
        world.tickets(tickets + 1).await;
        while world.list().await.iter().any(|delivery| delivery["state"] != "done") {}
        assert!(bridge.stop().await.success() && other.stop().await.success());
        world.check_one_ticket_per_case().await;
    })
    .await;
}

/// Counts creates that were frozen for the first time and have not reached Zendesk.
async fn unsent(connection: &mut PgConnection, world: &World) -> usize {
    let frozen = "select identity from delivery where leased and request is not null and attempts = 1";
    let frozen: Vec<String> = sqlx::query_scalar(frozen).fetch_all(&mut *connection).await.unwrap();
    let model = world.zendesk.model();
    let is_there = |identity: &&String| {
        !model.tickets.iter().any(|ticket| ticket["metadata"]["delivery"] == identity.as_str())
    };
    frozen.iter().filter(is_there).count()
}

/// Counts the sessions that are about to send another statement: their rows stay locked while they are
/// stopped.
async fn open_transactions(connection: &mut PgConnection) -> i64 {
    let open = "select count(*) from pg_stat_activity \
                where datname = current_database() and state like 'idle in transaction%'";
    sqlx::query_scalar(open).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn a_server_that_comes_up_late_is_waited_for() {
    run(Kind::Postgres, async |mut world: World| {
        let (proxy, url) = proxied(&world.database.url).await;
        proxy.set(Wire::Cut);
        world.set("DATABASE_URL", url);
        let waiting = world.spawn();
        waiting.wait_for("database_unreachable").await;
        assert_eq!(waiting.stop().await.code(), Some(0));

        let bridge = world.spawn();
        bridge.wait_for("database_unreachable").await;
        proxy.set(Wire::Whole);
        bridge.wait_for("listening").await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_restarts_under_load_loses_nothing() {
    run(Kind::Postgres, async |mut world: World| {
        let cluster = Cluster::another();
        world.zendesk.model().limit = 100_000;
        world.database.url = cluster.new_database().await;
        world.set("DATABASE_URL", world.database.url.clone());
        let _bridge = world.start().await;
        let acknowledged_count = watch::Sender::new(0);
        let sender = async |sender: usize| {
            for n in 0..30 {
                acknowledged(&world, &event(&format!("event-{sender}-{n}"), &format!("{sender}-{n}"))).await;
                acknowledged_count.send_modify(|count| *count += 1);
            }
        };
        let restarts = async {
            // As after a crash, and in good order.
            for (signal, after) in [("QUIT", 10), ("INT", 60), ("QUIT", 110)] {
                acknowledged_count.subscribe().wait_for(|count| *count >= after).await.unwrap();
                cluster.restart(signal);
            }
        };
        tokio::join!(join_all((0..8).map(sender)), restarts);
        world.tickets(240).await;
        while world.list().await.iter().any(|delivery| delivery["state"] != "done") {}
        assert_eq!(listed(&world).await, 240);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

async fn listed(world: &World) -> usize {
    let list: Vec<Value> = world.list().await;
    list.len()
}

async fn free_the_disk(bridge: &Bridge) {
    let lifted = Command::new("prlimit").args(["--pid", &bridge.id(), "--fsize=unlimited:"]).status().await;
    assert!(lifted.unwrap().success());
}

#[tokio::test]
async fn a_connection_string_with_options_of_other_clients_works() {
    run(Kind::Postgres, async |mut world: World| {
        let address = world.database.url.replace("postgres@", "postgres:the-password@");
        let options = "sslmode=prefer&connect_timeout=10&target_session_attrs=read-write&schema=public";
        world.set("DATABASE_URL", format!("{address}?{options}"));
        let bridge = world.start().await;
        bridge.wait_for("setting_warning").await;
        let place = world.database.url.clone();
        bridge.wait_for(&format!("database_opened database={place}")).await;
        assert!(!bridge.log().contains("the-password"));

        world.set("DATABASE_URL", address.replace("the-password", "the#password"));
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains("percent-encode") && !log.contains("password@"), "{log}");
    })
    .await;
}
