//! What the numbers were measured on: from `/proc`, and by trying the disk.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::load::Latencies;
use crate::report::{Report, figure};

/// Of processor time in `/proc`: Linux fixes it for all programs.
const TICKS_PER_SECOND: f64 = 100.0;

pub fn describe() -> Map<String, Value> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (folder, date) = (std::env::temp_dir(), jiff::Timestamp::now());
    let facts = [
        ("date", format!("{date:.0}")),
        ("casebridge", env!("CARGO_PKG_VERSION").to_owned()),
        ("processor", format!("{cores} cores of {}", field(&cpuinfo, "model name"))),
        ("memory", format!("{:.1} GiB", kibibytes(&field(&meminfo, "MemTotal")) / 1024.0 / 1024.0)),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("temporary folder", format!("{} on {}", folder.display(), filesystem(&folder))),
        ("log of casebridge", "default (text, info), to /dev/null".to_owned()),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

/// How often the disk takes 4 KiB and says that they are safe; returns the times per second.
pub fn calibrate(report: &mut Report) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("calibration")).unwrap();
    let (page, start, mut latencies) = ([7; 4096], Instant::now(), Latencies::default());
    while start.elapsed() < Duration::from_secs(1) {
        let before = Instant::now();
        // Within the same MiB, as in a write-ahead log that is written over and over.
        file.write_all_at(&page, latencies.len() as u64 % 256 * 4096).unwrap();
        file.sync_data().unwrap();
        latencies.push(before.elapsed());
    }
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    let (p50, p99) = (latencies.percentile(50.0), latencies.percentile(99.0));
    let figures = [figure("rate", rate, "/s"), figure("p50", p50, "ms"), figure("p99", p99, "ms")];
    report.add("fsync", "4 KiB written and fdatasync", figures);
    rate
}

/// Reports how busy the machine is before a section, so that figures from a busy moment can be recognized.
pub async fn other_work(report: &mut Report, section: &str) {
    let (before, start) = (busy_seconds(), Instant::now());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let busy = (busy_seconds() - before) / start.elapsed().as_secs_f64();
    report.add(section, "other work on this machine just before", [figure("busy", busy, "cores")]);
}

/// Processor time of the whole machine, what its host took away included.
pub fn busy_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let times: Vec<f64> = times.map_while(|time| time.parse().ok()).take(8).collect();
    // user nice system IDLE IOWAIT irq softirq steal
    let idle: f64 = times.iter().skip(3).take(2).sum();
    (times.iter().sum::<f64>() - idle) / TICKS_PER_SECOND
}

/// Processor time that a process has taken so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold spaces; what counts comes twelve fields after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// A size from `/proc/PID/status`, such as `VmRSS`, in MiB.
pub fn memory(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kibibytes(&field(&status, name)) / 1024.0
}

/// The value of `name: value` in a file of `/proc`.
fn field(text: &str, name: &str) -> String {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map_or(String::new(), |(_, value)| value.trim().to_owned())
}

fn kibibytes(text: &str) -> f64 {
    text.trim_end_matches("kB").trim().parse().unwrap_or(0.0)
}

/// The kind of the file system that holds a folder: the longest mount point above it.
fn filesystem(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts: HashMap<&str, &str> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .collect();
    let found = folder.ancestors().find_map(|above| mounts.get(above.to_str()?));
    found.unwrap_or(&"an unknown file system").to_string()
}
