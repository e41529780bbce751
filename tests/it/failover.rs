//! A PostgreSQL whose sessions end, or stay on a server that became read-only: the next statement succeeds as
//! soon as the database accepts writes, and nothing waits for an old session.

use futures_util::future::join_all;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};

use crate::harness::{Kind, World, event, run};

/// Runs a script on a database.
pub async fn execute(url: &str, sql: &str) {
    let options: PgConnectOptions = url.parse().unwrap();
    // Whatever the database's default is by now.
    let options = options.options([("default_transaction_read_only", "off")]);
    let mut connection = options.connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// Simulates a standby that takes over: sessions end, and new ones are read-only as long as they live.
pub async fn make_read_only(url: &str) {
    execute(url, &format!("alter database {} set default_transaction_read_only = on", name_of(url))).await;
    execute(url, END_SESSIONS).await;
}

/// New sessions may write again.
pub async fn make_writable(url: &str) {
    execute(url, &format!("alter database {} reset default_transaction_read_only", name_of(url))).await;
}

pub fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

const END_SESSIONS: &str = "select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and application_name = 'casebridge'";

async fn is_ready(world: &World) -> bool {
    world.http.get(world.url("/readyz")).send().await.unwrap().status() == 200
}

#[tokio::test]
async fn read_only_sessions_are_left_as_soon_as_the_database_takes_writes() {
    run(Kind::Postgres, async |mut world: World| {
        // Nothing but the requests below may find the stale sessions.
        world.set("SPREDFAST_MODE", "push");
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert!(is_ready(&world).await);

        make_read_only(&world.database.url).await;
        assert_eq!(world.post(event("event-2", "2")).await.status(), 503);
        while is_ready(&world).await {}
        // Sessions that only read are not found out.
        let status = || world.http.get(world.url("/status")).bearer_auth(crate::harness::ADMIN).send();
        join_all((0..5).map(|_| status())).await;

        make_writable(&world.database.url).await;
        world.notify(&event("event-3", "3")).await;
        world.notify(&event("event-2", "2")).await;
        world.tickets(3).await;
        while !is_ready(&world).await {}
        bridge.wait_for_nth("delivery_done", 3).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_push_after_all_sessions_were_ended_is_stored() {
    run(Kind::Postgres, async |world: World| {
        let bridge = world.start().await;
        for round in 1..=5 {
            let (event, post) = (format!("event-{round}"), format!("{round}"));
            execute(&world.database.url, END_SESSIONS).await;
            world.notify(&crate::harness::event(&event, &post)).await;
        }
        bridge.wait_for_nth("delivery_done", 5).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_statement_that_fails_once_is_repeated() {
    run(Kind::Postgres, async |world: World| {
        let bridge = world.start().await;
        // A sequence counts the tries of a row whatever becomes of their transactions.
        let script = "
            do $$ begin
                for n in 1..6 loop
                    execute format('create sequence insert_%s; create sequence update_%s', n, n);
                end loop;
            end $$;
            create function refuse_once() returns trigger language plpgsql as $$
            declare codes text[] := array['40001', '40P01', '25006', '57P01', '57P05', '08006'];
                    n text := right(new.event_id, 1);
            begin
                if nextval(lower(tg_op) || '_' || n) = 1 then
                    raise exception 'not now' using errcode = codes[n::int];
                end if;
                return new;
            end $$;
            create trigger refuse_once before insert or update on delivery
                for each row execute function refuse_once()";
        execute(&world.database.url, script).await;
        for n in 1..=6 {
            world.notify(&event(&format!("event-{n}"), &format!("{n}"))).await;
        }
        bridge.wait_for_nth("delivery_done", 6).await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn statements_are_isolated_as_they_expect_whatever_the_databases_default() {
    run(Kind::Postgres, async |world: World| {
        let default =
            format!("alter database {} set default_transaction_isolation", name_of(&world.database.url));
        execute(&world.database.url, &format!("{default} = 'serializable'")).await;
        let bridge = world.start().await;
        let only =
            "alter table delivery add check (current_setting('transaction_isolation') = 'read committed')";
        execute(&world.database.url, only).await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_refused() {
    run(Kind::Postgres, async |mut world: World| {
        let name = format!("{}_ascii", name_of(&world.database.url));
        execute(
            &world.database.url,
            &format!("create database {name} encoding 'SQL_ASCII' template template0"),
        )
        .await;
        world.set("DATABASE_URL", format!("{}_ascii", world.database.url));
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains("SQL_ASCII"), "{log}");
        let checked = world.command_with_settings(&["check", "--json"]).await;
        let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
        let rows = report["rows"].as_array().unwrap();
        let storage = rows.iter().find(|row| row["name"] == "storage").unwrap();
        assert_eq!(storage["mark"], "failed", "{storage}");
        assert!(storage["text"].as_str().unwrap().contains("SQL_ASCII"), "{storage}");
    })
    .await;
}
