//! What casebridge takes: memory, time to start, and bytes on the disk.

use std::time::Duration;

use crate::bridge::{BINARY, Database, World, free_port};
use crate::drain::fill;
use crate::load::Latencies;
use crate::machine;
use crate::report::{Report, figure};
use crate::zendesk::Zendesk;

const WAITING: usize = 100_000;
const STARTS: usize = 10;
const SETTLE: Duration = Duration::from_secs(2);

pub async fn memory(report: &mut Report) {
    let port = free_port();
    let zendesk = Zendesk::start(port, Duration::ZERO).await;
    let world = World::new(Database::sqlite(), port).await;
    let bridge = world.start().await;
    tokio::time::sleep(SETTLE).await;
    let resident = |pid| figure("resident", machine::memory(pid, "VmRSS"), "MiB");
    let peak = |pid| figure("peak", machine::memory(pid, "VmHWM"), "MiB");
    report.add("memory", "idle, 2 s after the start", [resident(bridge.pid()), peak(bridge.pid())]);
    bridge.stop().await;
    drop(zendesk);
    let bridge = world.start().await;
    fill(world.port, WAITING).await;
    tokio::time::sleep(SETTLE).await;
    let name = "100,000 waiting, 2 s after the last came in";
    report.add("memory", name, [resident(bridge.pid()), peak(bridge.pid())]);
    bridge.stop().await;
    let (bridge, took) = world.start_watched().await;
    let took = figure("took", took.as_secs_f64() * 1000.0, "ms");
    report.add("memory", "start to listening with 100,000 waiting", [took]);
    tokio::time::sleep(SETTLE).await;
    let name = "100,000 waiting, 2 s after a restart";
    report.add("memory", name, [resident(bridge.pid()), peak(bridge.pid())]);
    bridge.stop().await;
}

pub async fn start(report: &mut Report) {
    let world = World::without_zendesk(Database::sqlite()).await;
    let (bridge, first) = world.start_watched().await;
    bridge.stop().await;
    let mut times = Latencies::default();
    for _ in 0..STARTS {
        let (bridge, took) = world.start_watched().await;
        times.push(took);
        bridge.stop().await;
    }
    let figures = [
        figure("median", times.percentile(50.0), "ms"),
        figure("worst", times.percentile(100.0), "ms"),
        figure("new file", first.as_secs_f64() * 1000.0, "ms"),
    ];
    report.add("start", "process start to `listening on`, existing SQLite", figures);
    let size = std::fs::metadata(BINARY).unwrap().len() as f64 / 1024.0 / 1024.0;
    report.add("start", "size of the binary", [figure("size", size, "MiB")]);
}
