//! What casebridge does on this machine: one table, printed and written as JSON.
//!
//! ```sh
//! cargo bench                  # everything, about eight minutes
//! cargo bench -- accept        # the sections whose names contain this text
//! cargo bench -- --json FILE   # elsewhere than target/bench.json
//! ```
//!
//! The released binary runs in a separate process, with its default log going to `/dev/null`. This process, which
//! has one thread, runs the stand-ins and the load over loopback. Each figure comes from a few seconds on a new
//! database. Nothing is asserted, because a figure depends on the machine and on what else runs there; each section
//! begins with the load from other programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod accept;
mod bridge;
mod budget;
mod crowd;
mod drain;
mod footprint;
mod grown;
mod latency;
mod load;
mod machine;
mod postgres;
mod reference;
mod report;
mod rows;
mod zendesk;

use std::path::{Path, PathBuf};

use postgres::Postgres;
use report::Report;

const SECTIONS: [&str; 9] =
    ["accept", "grown", "latency", "drain", "memory", "start", "crowd", "budget", "rows"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [reference::ARGUMENT, port] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return reference::serve(port.parse().unwrap());
    }
    // One thread: what the load takes should not be more than it needs.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&Wanted::new(&arguments)));
}

/// What the arguments ask for.
struct Wanted {
    filters: Vec<String>,
    json: PathBuf,
}

impl Wanted {
    fn new(arguments: &[String]) -> Wanted {
        // Cargo's folder for temporary files lies in the target folder, wherever that is.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut wanted = Wanted { filters: Vec::new(), json: target.join("bench.json") };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => wanted.json = arguments.next().expect("--json wants a file").into(),
                // `cargo bench` adds this.
                "--bench" => {}
                filter => wanted.filters.push(filter.to_owned()),
            }
        }
        wanted
    }

    fn takes(&self, section: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| section.contains(filter))
    }
}

async fn measure(wanted: &Wanted) {
    let sections: Vec<&str> = SECTIONS.into_iter().filter(|section| wanted.takes(section)).collect();
    assert!(!sections.is_empty(), "the sections are: {}", SECTIONS.join(", "));
    let mut report = Report::new(machine::describe());
    let fsyncs = machine::calibrate(&mut report);
    let postgres = match sections.iter().any(|section| ["accept", "drain", "rows"].contains(section)) {
        true => Postgres::start().await,
        false => None,
    };
    for section in sections {
        machine::other_work(&mut report, section).await;
        match section {
            "accept" => accept::measure(&mut report, fsyncs, postgres.as_ref()).await,
            "grown" => grown::measure(&mut report).await,
            "latency" => latency::measure(&mut report).await,
            "drain" => drain::measure(&mut report, postgres.as_ref()).await,
            "memory" => footprint::memory(&mut report).await,
            "start" => footprint::start(&mut report).await,
            "crowd" => crowd::measure(&mut report).await,
            "rows" => rows::measure(&mut report, postgres.as_ref()).await,
            _ => budget::measure(&mut report).await,
        }
    }
    report.write(&wanted.json);
}
