//! The log: a standard output that nobody reads, or not in time.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::process::Stdio;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::harness::{World, event, leak, run_on_sqlite};

/// Each causes about twelve lines: more than the pipe and the queue of 8,192 lines hold.
const PUSHES: usize = 1200;

/// Starts casebridge with its output and its errors in one pipe, as many hosts do.
async fn start_unread(world: &World) -> (Child, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    command
        .env_clear()
        .envs(&world.vars)
        .env("TICKET_MAX_PER_HOUR", "0")
        .env("RUST_LOG", "trace")
        .kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let child = command.spawn().unwrap();
    while world.http.get(world.url("/readyz")).send().await.is_err() {}
    (child, reader)
}

async fn stop(mut child: Child) -> Option<i32> {
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    child.wait().await.unwrap().code()
}

async fn push_and_deliver(world: &World, count: usize) {
    world.zendesk.model().limit = 100_000;
    for first in (0..count).step_by(20) {
        let events: Vec<String> = (first..first + 20)
            .map(|number| event(&format!("event-{number}"), &number.to_string()))
            .collect();
        let answers = join_all(events.iter().map(|event| world.notify(event))).await;
        assert!(answers.iter().all(|answer| answer["new"] == 1));
    }
    world.tickets(count).await;
}

#[tokio::test]
async fn with_a_stalled_log_reader_everything_is_delivered_and_stops_in_time() {
    run_on_sqlite(|world| async move {
        let (child, mut reader) = start_unread(&world).await;
        push_and_deliver(&world, PUSHES).await;
        assert_eq!(stop(child).await, Some(0));
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        let logged = |event: &str| log.contains(&format!("\"event\":\"{event}\""));
        assert!(logged("listening") && !logged("stopped"), "the pipe was full: {}", log.len());
        assert_eq!(leak(&log), None);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_log_that_flows_again_reports_the_number_of_dropped_lines() {
    run_on_sqlite(|mut world| async move {
        world.set("LOG_FORMAT", "json");
        let (child, reader) = start_unread(&world).await;
        push_and_deliver(&world, PUSHES).await;
        let (sender, mut lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            BufReader::new(reader).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut wait_for = async |event: &str| loop {
            let line = lines.recv().await.unwrap();
            assert_eq!(leak(&line), None);
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["event"] == event {
                break line;
            }
        };
        let line = wait_for("log_lines_dropped").await;
        assert!(line["dropped"].as_u64() > Some(0) && line["level"] == "WARN", "{line}");
        world.notify(&event("event-after", "after")).await;
        while wait_for("notification_received").await["event_id"] != "event-after" {}
        assert_eq!(stop(child).await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_stops_nothing() {
    run_on_sqlite(|world| async move {
        let (child, reader) = start_unread(&world).await;
        drop(reader);
        push_and_deliver(&world, 20).await;
        assert_eq!(stop(child).await, Some(0));
    })
    .await;
}
