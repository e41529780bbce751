//! PgBouncer in transaction mode between casebridge and PostgreSQL: it is detected, and everything works as
//! without it.

use std::path::Path;

use futures_util::future::join_all;
use serde_json::Value;
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use crate::failover::{execute, make_read_only, make_writable, name_of};
use crate::harness::{BEARER, Kind, PgBouncer, World, event, free_port, run, run_behind_pooler};

#[tokio::test]
async fn pushes_to_two_processes_and_their_second_start_pass() {
    run_behind_pooler(|world: World| async move {
        let ports = [free_port(), free_port()];
        let mut posts = 0..;
        for _start in 0..2 {
            // Both migrate the empty database at the first start.
            let bridges = join_all(ports.map(|port| world.start_beside(port))).await;
            for bridge in &bridges {
                bridge.wait_for("pooler_found").await;
            }
            let pushes = posts.by_ref().take(60).map(|n: usize| {
                let url = format!("http://127.0.0.1:{}/khoros/label", ports[n % 2]);
                let body = event(&format!("event-{n}"), &n.to_string());
                world.http.post(url).bearer_auth(BEARER).body(body).send()
            });
            for pushed in join_all(pushes).await {
                assert_eq!(pushed.unwrap().status(), 200);
            }
            for bridge in bridges {
                bridge.stop().await;
            }
        }
        let _bridge = world.start().await;
        world.tickets(120).await;
        while world.list().await.iter().any(|delivery| delivery["state"] != "done") {}
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn commands_work_behind_a_pooler() {
    run_behind_pooler(|world: World| async move {
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        let listed = world.command_with_settings(&["list", "--json"]).await;
        assert!(listed.status.success(), "{listed:?}");
        assert!(String::from_utf8(listed.stdout).unwrap().contains("\"1000\""));
        let checked = world.command_with_settings(&["check", "--json"]).await;
        let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
        let rows = report["rows"].as_array().unwrap();
        let storage = rows.iter().find(|row| row["name"] == "storage").unwrap();
        assert_eq!(storage["mark"], "ok", "{storage}");
        assert!(storage["text"].as_str().unwrap().contains("behind a pooler"), "{storage}");
    })
    .await;
}

#[tokio::test]
async fn a_direct_connection_is_not_taken_for_a_pooler() {
    run(Kind::Postgres, async |mut world: World| {
        let bridge = world.start().await;
        assert_eq!(bridge.count("pooler_found"), 0, "{}", bridge.log());
        bridge.stop().await;
        world.set("DATABASE_POOLER", "1");
        let bridge = world.start().await;
        bridge.wait_for("pooler_found").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
    })
    .await;
}

#[tokio::test]
async fn a_pooler_in_session_mode_works_either_way() {
    run_behind_pooler(|mut world: World| async move {
        let pooler = PgBouncer::in_session_mode();
        world.set("DATABASE_URL", pooler.url(&world.database.url));
        for said in ["", "0", "1"] {
            world.set("DATABASE_POOLER", said);
            let bridge = world.start().await;
            world.notify(&event(&format!("event-{said}"), &format!("post-{said}"))).await;
            bridge.wait_for("delivery_done").await;
            assert_eq!(bridge.count("pooler_found") == 1, said != "0", "{}", bridge.log());
            bridge.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn statements_are_isolated_as_they_expect() {
    run_behind_pooler(|world: World| async move {
        let url = &world.database.url;
        let default = format!("alter database {} set default_transaction_isolation", name_of(url));
        execute(url, &format!("{default} = 'serializable'")).await;
        let bridge = world.start().await;
        let only =
            "alter table delivery add check (current_setting('transaction_isolation') = 'read committed')";
        execute(url, only).await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
    })
    .await;
}

#[tokio::test]
async fn read_only_sessions_of_a_pooler_are_ended() {
    run_behind_pooler(|world: World| async move {
        let bridge = world.start().await;
        make_read_only(&world.database.url).await;
        let posts = (0..8).map(|post| world.post(event(&format!("event-{post}"), "1")));
        for posted in join_all(posts).await {
            assert_eq!(posted.status(), 503);
        }
        make_writable(&world.database.url).await;
        assert_eq!(world.post(event("event-1", "1")).await.status(), 200);
        bridge.wait_for("delivery_done ticket=1000").await;
    })
    .await;
}

/// An earlier version, and sqlx's own runner, find all migrations applied.
#[tokio::test]
async fn migrations_are_recorded_as_sqlx_does() {
    run_behind_pooler(|world: World| async move {
        world.start().await.stop().await;
        let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
        let count = "select count(*) from _sqlx_migrations";
        let before: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
        let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut all = Vec::new();
        for folder in [migrations.clone(), migrations.join("postgres")] {
            all.extend(Migrator::new(folder).await.unwrap().iter().cloned());
        }
        let migrator = Migrator::with_migrations(all);
        migrator.run(&mut connection).await.unwrap();
        let after: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
        assert_eq!((before, after as usize), (after, migrator.iter().count()));
        let ours = "select description, success, checksum from _sqlx_migrations order by version";
        let ours =
            sqlx::query_as::<_, (String, bool, Vec<u8>)>(ours).fetch_all(&mut connection).await.unwrap();
        let theirs = migrator
            .iter()
            .map(|migration| (migration.description.to_string(), true, migration.checksum.to_vec()));
        assert!(ours.into_iter().eq(theirs));
    })
    .await;
}
