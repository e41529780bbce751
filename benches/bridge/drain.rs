//! How fast a backlog goes out once Zendesk is back, if Zendesk sets no limit.

use std::time::Duration;

use crate::bridge::{Database, World, free_port};
use crate::load::{Client, notification_of};
use crate::machine;
use crate::postgres::Postgres;
use crate::report::{Report, figure};
use crate::zendesk::Zendesk;

const SECTION: &str = "drain";
const BACKLOG: usize = 10_000;
/// The last few may wait for a pause to end, which says nothing about the rate.
const COUNTED: usize = BACKLOG * 99 / 100;
const LIMIT: Duration = Duration::from_secs(60);

/// How the backlog came about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backlog {
    /// Zendesk was down.
    OfThisRun,
    /// The service was restarted: it looks each delivery up before it sends it.
    OfAnEarlierRun,
}

pub async fn measure(report: &mut Report, postgres: Option<&Postgres>) {
    for backlog in [Backlog::OfThisRun, Backlog::OfAnEarlierRun] {
        drain(report, Database::sqlite(), "SQLite", backlog).await;
        if let Some(postgres) = postgres {
            drain(report, Database::postgres(postgres).await, "PostgreSQL", backlog).await;
        }
    }
    let Some(postgres) = postgres else {
        return report.left_out(SECTION, "PostgreSQL is left out: initdb and postgres were not found");
    };
    match Database::behind_pooler(postgres).await {
        Some(database) => drain(report, database, "PgBouncer", Backlog::OfThisRun).await,
        None => report.left_out(SECTION, "PgBouncer is left out: pgbouncer was not found"),
    }
}

async fn drain(report: &mut Report, database: Database, kind: &str, backlog: Backlog) {
    let port = free_port();
    let world = World::new(database, port).await;
    let mut bridge = world.start().await;
    fill(world.port, BACKLOG).await;
    let mut zendesk = match backlog {
        Backlog::OfThisRun => Zendesk::start(port, Duration::ZERO).await,
        Backlog::OfAnEarlierRun => {
            bridge.stop().await;
            let zendesk = Zendesk::start(port, Duration::ZERO).await;
            bridge = world.start().await;
            zendesk
        }
    };
    let cpu_before = machine::cpu_seconds(bridge.pid());
    let first = zendesk.creates.recv().await.unwrap();
    let (mut last, mut count) = (first, 1);
    let sending = async {
        while count < COUNTED {
            last = zendesk.creates.recv().await.unwrap();
            count += 1;
        }
    };
    let _ = tokio::time::timeout(LIMIT, sending).await;
    let rate = (count - 1) as f64 / (last - first).as_secs_f64();
    let cpu = 1e6 * (machine::cpu_seconds(bridge.pid()) - cpu_before) / count as f64;
    let figures = [figure("rate", rate, "/s"), figure("CPU", cpu, "us")];
    let looked_up = if backlog == Backlog::OfThisRun { "" } else { " of an earlier run" };
    report.add(SECTION, &format!("{kind}, tickets of a backlog of {BACKLOG}{looked_up}"), figures);
    bridge.stop().await;
}

/// Posts so many deliveries, in notifications of one to a few hundred.
pub async fn fill(port: u16, deliveries: usize) {
    let mut client = Client::connect(port).await.unwrap();
    let (mut left, mut sizes) = (deliveries, (1..=256).cycle());
    while left > 0 {
        let posts = sizes.next().unwrap_or(1).min(left);
        assert_eq!(client.exchange(&notification_of(posts)).await.unwrap(), 200);
        left -= posts;
    }
}
