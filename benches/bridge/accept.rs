//! How many notifications a second are stored and answered, while Zendesk is out of reach.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::bridge::{Database, World};
use crate::load::{self, Measured};
use crate::machine;
use crate::postgres::Postgres;
use crate::reference;
use crate::report::{Figure, Report, figure};

const SECTION: &str = "accept";
const CONNECTIONS: [usize; 4] = [1, 32, 64, 256];
/// The crowd of the comparisons.
const USUAL: usize = 64;

/// What is looked at before and after.
struct Probe {
    commits: u32,
    server: f64,
    client: f64,
    machine: f64,
}

impl Probe {
    fn new(server: u32, commits: u32) -> Probe {
        Probe {
            commits,
            server: machine::cpu_seconds(server),
            client: machine::cpu_seconds(std::process::id()),
            machine: machine::busy_seconds(),
        }
    }
}

pub async fn measure(report: &mut Report, fsyncs: f64, postgres: Option<&Postgres>) {
    let mut usual = None;
    for connections in CONNECTIONS {
        let measured = accepts(report, Database::sqlite(), "SQLite", connections).await;
        if connections == USUAL {
            usual = Some(measured);
        }
    }
    let usual = usual.expect("measured above");
    let without = without_storage(report).await;
    let ratio = 100.0 * usual.rate() / without.rate();
    report.add(SECTION, "SQLite, 64 connections, of the rate without storage", [figure("", ratio, "%")]);
    let commits = usual.probes.1.commits.wrapping_sub(usual.probes.0.commits);
    let rows = usual.latencies.len() as f64 / f64::from(commits);
    report.add(SECTION, "SQLite, 64 connections, rows in each commit", [figure("", rows, "rows")]);
    let possible = usual.rate() / fsyncs;
    report.add(SECTION, "SQLite, 64 connections, accepts per possible fsync", [figure("", possible, "")]);
    let Some(postgres) = postgres else {
        return report.left_out(SECTION, "PostgreSQL is left out: initdb and postgres were not found");
    };
    for connections in CONNECTIONS {
        let database = Database::postgres(postgres).await;
        accepts(report, database, "PostgreSQL", connections).await;
    }
    for connections in [1, USUAL] {
        match Database::behind_pooler(postgres).await {
            Some(database) => drop(accepts(report, database, "PgBouncer", connections).await),
            None => return report.left_out(SECTION, "PgBouncer is left out: pgbouncer was not found"),
        }
    }
}

/// On a new database, so that no measurement is slowed by the rows of an earlier one.
async fn accepts(report: &mut Report, database: Database, kind: &str, connections: usize) -> Measured<Probe> {
    let world = World::without_zendesk(database).await;
    let bridge = world.start().await;
    let shared_memory = world.database.shared_memory();
    let pid = bridge.pid();
    let probe = || Probe::new(pid, commits(&shared_memory));
    let mut measured = load::run(world.port, connections, probe).await;
    let plural = if connections == 1 { "" } else { "s" };
    report.add(SECTION, &format!("{kind}, {connections} connection{plural}"), figures(&mut measured));
    measured
}

async fn without_storage(report: &mut Report) -> Measured<Probe> {
    let (server, port) = reference::start().await;
    let pid = server.pid();
    let probe = || Probe::new(pid, 0);
    let mut measured = load::run(port, USUAL, probe).await;
    report.add(SECTION, "no storage, 64 connections", figures(&mut measured));
    measured
}

/// The processor time of each request is hardly moved by what else the machine does, unlike the rate;
/// `elsewhere` is what neither the server nor the load took: other programs, and PostgreSQL's own work.
fn figures(measured: &mut Measured<Probe>) -> Vec<Figure> {
    let (first, last) = &measured.probes;
    let requests = measured.latencies.len() as f64;
    let (server, client) = (last.server - first.server, last.client - first.client);
    let elsewhere = (last.machine - first.machine - server - client).max(0.0) / measured.seconds;
    let mut figures = vec![
        figure("rate", measured.rate(), "/s"),
        figure("p50", measured.latencies.percentile(50.0), "ms"),
        figure("p99", measured.latencies.percentile(99.0), "ms"),
        figure("server", 1e6 * server / requests, "us"),
        figure("load", 1e6 * client / requests, "us"),
        figure("elsewhere", elsewhere, "cores"),
    ];
    if measured.refused > 0 {
        figures.push(figure("not 200", measured.refused as f64, ""));
    }
    figures
}

/// The transactions that were written since the file was opened: SQLite counts them at a documented
/// place of the index of its write-ahead log (<https://sqlite.org/walformat.html>, `iChange`).
fn commits(shared_memory: &Path) -> u32 {
    let mut counter = [0; 4];
    let read = File::open(shared_memory).and_then(|file| file.read_exact_at(&mut counter, 8));
    read.map_or(0, |()| u32::from_ne_bytes(counter))
}
