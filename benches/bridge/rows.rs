//! What an operator waits for when the database holds two million deliveries.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use tokio::process::Command;

use crate::bridge::{ADMIN, BINARY, Database, World};
use crate::load::{Client, Latencies};
use crate::postgres::Postgres;
use crate::report::{Report, figure};

const SECTION: &str = "rows";
const ROWS: i64 = 2_000_000;
const TRIES: usize = 20;
/// Longer than the service uses a snapshot again.
const PAUSE: Duration = Duration::from_millis(1100);

/// A quarter waits, of which some were tried and some are held; the rest is done, a part of it today, or dead.
const FILL: &str = "
    insert into delivery (identity, destination, case_key, route, event_id, event_name, payload, state, attempts,
                          due_at, received_at, settled_at, reference, last_error)
    select 'khoros:1234:event-' || n || ':twitter:' || n, 'zendesk', 'khoros:1234:twitter:' || n, 'label',
           'event-' || n, 'stream-item-label-applied', '{\"data\":{\"items\":[{}]}}',
           case when n % 4 = 0 then 'waiting' when n % 100 = 1 then 'dead' else 'done' end,
           case when n % 8 = 4 then 0 else 1 end,
           {now} + case when n % 400 = 0 then 86400000 else 3600000 end, {now} - 100 * (2000000 - n),
           case when n % 4 = 0 then null else {now} - 50 * (2000000 - n) end,
           case when n % 4 = 0 or n % 100 = 1 then null else cast(n as text) end,
           case when n % 400 = 0 then 'held: storm limit of 300 tickets an hour for route label' end
      from {numbers}";

pub async fn measure(report: &mut Report, postgres: Option<&Postgres>) {
    answers(report, Database::sqlite(), "SQLite").await;
    match postgres {
        Some(postgres) => answers(report, Database::postgres(postgres).await, "PostgreSQL").await,
        None => report.left_out(SECTION, "PostgreSQL is left out: initdb and postgres were not found"),
    }
}

async fn answers(report: &mut Report, database: Database, kind: &str) {
    let mut world = World::without_zendesk(database).await;
    world.set("ADMIN_TOKEN", ADMIN.to_owned());
    // Creates the tables.
    world.start().await.stop().await;
    fill(world.database.url()).await;
    let bridge = world.start().await;
    for path in ["/metrics", "/status"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {ADMIN}\r\n\r\n");
        let mut client = Client::connect(world.port).await.unwrap();
        let mut times = Latencies::default();
        for _ in 0..TRIES {
            tokio::time::sleep(PAUSE).await;
            let started = Instant::now();
            assert_eq!(client.exchange(request.as_bytes()).await.unwrap(), 200);
            times.push(started.elapsed());
        }
        add(report, &format!("{kind}, 2,000,000 deliveries, GET {path}"), &mut times);
    }
    for selector in ["1234567", "khoros:1234:event-1234567:twitter", "khoros:1234:twitter:1234567"] {
        let mut times = Latencies::default();
        for _ in 0..TRIES {
            let mut command = Command::new(BINARY);
            command.args(["show", selector]).env_clear().env("DATABASE_URL", world.database.url());
            let started = Instant::now();
            let status = command.stdout(Stdio::null()).status().await.unwrap();
            times.push(started.elapsed());
            assert!(status.success());
        }
        add(report, &format!("{kind}, show {selector}"), &mut times);
    }
    bridge.stop().await;
}

fn add(report: &mut Report, name: &str, times: &mut Latencies) {
    let (median, worst) = (times.percentile(50.0), times.percentile(100.0));
    report.add(SECTION, name, [figure("median", median, "ms"), figure("worst", worst, "ms")]);
}

async fn fill(url: &str) {
    if url.starts_with("sqlite") {
        let mut connection = SqliteConnection::connect(url).await.unwrap();
        let numbers = format!(
            "(with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {ROWS})
              select n from numbers)"
        );
        let sql = FILL.replace("{now}", "cast(unixepoch() * 1000 as integer)").replace("{numbers}", &numbers);
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        connection.execute("analyze").await.unwrap();
    } else {
        let mut connection = PgConnection::connect(url).await.unwrap();
        let now = "(extract(epoch from now()) * 1000)::bigint";
        let sql =
            FILL.replace("{now}", now).replace("{numbers}", &format!("generate_series(1, {ROWS}) as n"));
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        connection.execute("vacuum analyze delivery").await.unwrap();
    }
}
