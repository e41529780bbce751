//! What storing costs once the database has grown: the indexes are larger than any cache, so each commit changes
//! pages all over the file, and moving SQLite's log into it takes longer.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::process::Command;

use crate::bridge::{BEARER, Database, World};
use crate::load;
use crate::report::{Report, figure};

const SECTION: &str = "grown";
/// Another number of settled rows than half a million.
const ROWS: &str = "CASEBRIDGE_BENCH_ROWS";
const CONNECTIONS: usize = 64;
const SCRIPT: &str = include_str!("wrk.lua");

pub async fn measure(report: &mut Report) {
    let rows = std::env::var(ROWS).ok().and_then(|rows| rows.parse().ok()).unwrap_or(500_000);
    let world = World::without_zendesk(Database::sqlite()).await;
    world.start().await.stop().await;
    grow(&world.database.file(), rows).await;
    let bridge = world.start().await;
    let mut measured = load::run(world.port, CONNECTIONS, || ()).await;
    let percentile = |measured: &mut load::Measured<()>, percent| measured.latencies.percentile(percent);
    let figures = [
        figure("rate", measured.rate(), "/s"),
        figure("p50", percentile(&mut measured, 50.0), "ms"),
        figure("p99", percentile(&mut measured, 99.0), "ms"),
    ];
    report.add(SECTION, &format!("SQLite, {CONNECTIONS} connections, {rows} settled rows"), figures);
    match wrk(&world).await {
        Some([rate, p50, p99]) => {
            let figures = [figure("rate", rate, "/s"), figure("p50", p50, "ms"), figure("p99", p99, "ms")];
            report.add(SECTION, "the same by wrk, 1 thread, for 8 s", figures);
        }
        None => report.left_out(SECTION, "wrk is left out: it was not found"),
    }
    bridge.stop().await;
}

/// Adds settled deliveries as Khoros' label events make them, with random ids of events and growing ids of posts.
async fn grow(file: &Path, rows: u32) {
    let options = SqliteConnectOptions::new().filename(file);
    let options = options.pragma("synchronous", "off").pragma("cache_size", "-1000000");
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    sqlx::query(GROW).bind(rows).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    // The disk should not be busy with these rows when others are measured.
    std::fs::File::open(file).unwrap().sync_all().unwrap();
}

/// Rate, p50 and p99, or nothing if wrk is not installed.
async fn wrk(world: &World) -> Option<[f64; 3]> {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("wrk.lua");
    let example = serde_json::to_string(casebridge_sandbox::khoros::EXAMPLE).unwrap();
    std::fs::write(&script, SCRIPT.replace("{bearer}", BEARER).replace("{example}", &example)).unwrap();
    let url = format!("http://127.0.0.1:{}/khoros/label", world.port);
    let mut command = Command::new("wrk");
    let command = command.args(["-t1", "-c64", "-d8s", "--latency", "-s"]).arg(script).arg(url);
    let output = String::from_utf8(command.output().await.ok()?.stdout).unwrap();
    let result = output.lines().find_map(|line| line.strip_prefix("result "))?;
    let figures: Vec<f64> = result.split(' ').map(|figure| figure.parse().unwrap()).collect();
    figures.try_into().ok()
}

const GROW: &str = "
    with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < $1),
    events (n, event, post, at) as materialized (
        select n, lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-' || hex(randomblob(2)) || '-' ||
                        hex(randomblob(2)) || '-' || hex(randomblob(6))),
               800000000000000000 + n * 97, 1750000000000 + n * 1000
          from numbers)
    insert into delivery (identity, destination, case_key, route, event_id, event_name, payload, request, state,
                          attempts, due_at, received_at, settled_at, reference, memo, told)
    select 'khoros:1234:' || event || ':twitter:' || post, 'zendesk', 'khoros:1234:twitter:' || post, 'label', event,
           'stream-item-label-applied', printf('%-900s', '{'), printf('%-1100s', '{'), 'done', 1, at, at, at + 500,
           1000 + n, '{\"routes\":[\"label\"],\"text\":null,\"notes\":[]}',
           '{\"routes\":[\"label\"],\"text\":null,\"notes\":[]}'
      from events";
