//! From the version before to this one and back, again and again, while events arrive: in the end every acknowledged
//! event is done, and nothing is done twice.
//!
//! It begins with the database of the version before that `upgrade` describes. On the way back, the statements of that
//! version work on the new schema: they store events, take over those of this version, create tickets and are killed
//! in between. With `CASEBRIDGE_OLD_BINARY`, that binary runs instead, under the same load.
//! `CASEBRIDGE_UPGRADE_ROUNDS=200` makes it long, and `CASEBRIDGE_UPGRADE_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection};
use tokio::sync::oneshot;

use crate::harness::{BEARER, Bridge, Kind, PRIVATE, World, event_with, number, run_for};
use crate::upgrade::{
    OLD_BINARY, OLD_STATEMENTS, WAITING, check_nothing_is_doubled, fill, send_to_zendesk, take_over, texts,
};

const ROUNDS: u64 = 20;
const BURST: usize = 20;
const LONG: Duration = Duration::from_secs(3 * 3600);
/// A delivery in the fixture whose request became ticket 1000, and the post.
const FROZEN: (&str, &str) = ("khoros:1234:created:twitter:1", "khoros:1234:twitter:1");

#[tokio::test]
async fn nothing_is_lost_or_doubled_on_sqlite() {
    run_for(LONG, Kind::Sqlite, there_and_back).await;
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_on_postgres() {
    run_for(LONG, Kind::Postgres, there_and_back).await;
}

async fn there_and_back(mut world: World) {
    let rounds = number("CASEBRIDGE_UPGRADE_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("CASEBRIDGE_UPGRADE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let old = Old::prepare(&mut world).await;
    println!("{rounds} rounds with {}, seed {seed}", old.name());
    let (mut chance, mut sent) = (Rng::with_seed(seed), Sent::default());
    for _ in 0..rounds {
        let bridge = world.start().await;
        fire(&world, bridge, &mut sent, &mut chance).await;
        old.work(&world, &mut sent, &mut chance).await;
    }
    let bridge = world.start().await;
    loop {
        let seen = bridge.line_count();
        if world.waiting().await.is_empty() {
            break;
        }
        bridge.wait_for_lines(seen + 1).await;
    }
    assert!(bridge.stop().await.success());
    check(&world, &sent).await;
}

/// The version before.
enum Old {
    /// The binary runs as long as this file exists.
    Binary(PathBuf),
    /// The bytes of a request that it froze.
    Statements(String),
}

impl Old {
    async fn prepare(world: &mut World) -> Old {
        world.set("RETRY_SCHEDULE", ["1"; 50].join(","));
        world.set("TICKET_MAX_PER_HOUR", "0");
        world.set("ZENDESK_BUDGET_PERCENT", "100");
        world.set("ZENDESK_UPDATE_BUDGET_PERCENT", "100");
        world.set("RUST_LOG", "info");
        take_over(world).await;
        {
            let mut model = world.zendesk.model();
            (model.limit, model.update_limit) = (100_000, 100_000);
        }
        let Ok(binary) = env::var(OLD_BINARY) else {
            let requests = "select identity, request from delivery where request is not null";
            return Old::Statements(texts(world, requests).await[FROZEN.0].clone());
        };
        let switch = world.folder().join("back");
        let choose = "[ -e \"$0\" ] && exec \"$1\"; exec \"$2\"";
        world.wrap(&["sh", "-c", choose, switch.to_str().unwrap(), &binary]);
        Old::Binary(switch)
    }

    fn name(&self) -> &'static str {
        match self {
            Old::Binary(_) => "the binary of the version before",
            Old::Statements(_) => "the statements of the version before",
        }
    }

    async fn work(&self, world: &World, sent: &mut Sent, chance: &mut Rng) {
        match self {
            Old::Binary(switch) => {
                std::fs::write(switch, "").unwrap();
                let bridge = world.start().await;
                fire(world, bridge, sent, chance).await;
                std::fs::remove_file(switch).unwrap();
            }
            Old::Statements(frozen) => play(world, frozen, sent, chance).await,
        }
    }
}

/// Stores events, claims what is due, creates the tickets of some, and forgets the rest, as a killed process does.
async fn play(world: &World, frozen: &str, sent: &mut Sent, chance: &mut Rng) {
    let stored: Vec<Event> = (0..4).map(|_| sent.next_event(None)).collect();
    for event in &stored {
        let payload = event.body.replace('\'', "''");
        let sql = fill(world, &event.name_in(OLD_STATEMENTS[0]), &payload);
        world.database.execute(&sql).await;
        sent.acknowledge(event);
    }
    // Leases end soon, so that nobody waits for them.
    let claim = fill(world, &OLD_STATEMENTS[1].replace("60000", "1000"), "");
    for identity in claimed(world, claim).await {
        // Other cases may have a ticket already, for which this version would look first.
        let Some(event) = stored.iter().find(|event| event.identity() == identity) else { continue };
        let until = chance.usize(..4);
        if until == 0 {
            continue;
        }
        sent.frozen.insert(identity.clone());
        let case = format!("khoros:1234:twitter:{}", event.post);
        let request = frozen.replace(FROZEN.0, &identity).replace(FROZEN.1, &case);
        let freeze =
            event.name_in(OLD_STATEMENTS[2]).replace("'{}'", &format!("'{}'", request.replace('\'', "''")));
        world.database.execute(&fill(world, &freeze, "")).await;
        if until == 1 {
            continue;
        }
        let created = send_to_zendesk(world, Method::POST, "/api/v2/tickets", Some(&identity), request).await;
        if until == 2 {
            continue;
        }
        let settle =
            event.name_in(OLD_STATEMENTS[3]).replace("'1000'", &format!("'{}'", created["ticket"]["id"]));
        world.database.execute(&fill(world, &settle, "")).await;
    }
}

/// Claims as the version before does; returns the identities.
async fn claimed(world: &World, sql: String) -> Vec<String> {
    let sql = AssertSqlSafe(sql);
    match world.database.kind {
        Kind::Sqlite => {
            let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
            let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
            rows.iter().map(|row| row.get("identity")).collect()
        }
        Kind::Postgres => {
            let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
            let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
            rows.iter().map(|row| row.get("identity")).collect()
        }
    }
}

/// A label event. Its note is unique, so it can be found on a ticket.
#[derive(Clone)]
struct Event {
    name: String,
    post: String,
    note: String,
    body: String,
}

impl Event {
    fn identity(&self) -> String {
        format!("khoros:1234:{}:twitter:{}", self.name, self.post)
    }

    /// The statement of the version before, about this event.
    fn name_in(&self, statement: &str) -> String {
        statement.replace("by-the-old", &self.name).replace("twitter:90", &format!("twitter:{}", self.post))
    }
}

#[derive(Default)]
struct Sent {
    events: Vec<Event>,
    /// By identity.
    acknowledged: BTreeMap<String, Event>,
    /// Those whose ticket has the bytes of another event, and so not their note.
    frozen: BTreeSet<String>,
}

impl Sent {
    fn next_event(&mut self, post: Option<String>) -> Event {
        let name = format!("load-{}", self.events.len());
        let post = post.unwrap_or_else(|| format!("9{:06}", self.events.len()));
        let note = format!("{PRIVATE} note of {name}.");
        let body = event_with(&name, &post, |item| item["notes"] = json!([{"text": note}]));
        let event = Event { name, post, note, body };
        self.events.push(event.clone());
        event
    }

    fn acknowledge(&mut self, event: &Event) {
        self.acknowledged.insert(event.identity(), event.clone());
    }

    /// A new post, a known post that is labelled again, or an event that is sent again.
    fn next(&mut self, chance: &mut Rng) -> Event {
        let known = chance.choice(&self.events).cloned();
        match (chance.u32(..10), known) {
            (0..2, Some(known)) => known,
            (2..5, Some(known)) => self.next_event(Some(known.post)),
            _ => self.next_event(None),
        }
    }
}

/// Sends a burst, and kills or stops the process when it has logged a part of it.
async fn fire(world: &World, bridge: Bridge, sent: &mut Sent, chance: &mut Rng) {
    let signal = if chance.bool() { "-KILL" } else { "-TERM" };
    let burst: Vec<Event> = (0..BURST).map(|_| sent.next(chance)).collect();
    let enough = bridge.line_count() + chance.usize(1..BURST);
    let (refused, is_refused) = oneshot::channel();
    let waiting = async {
        tokio::select! {
            () = bridge.wait_for_lines(enough) => {}
            Ok(()) = is_refused => {}
        }
        bridge.signal(signal).await;
    };
    let sending = async {
        let answers = join_all(burst.iter().map(|event| async move {
            let request =
                world.http.post(world.url("/khoros/label")).bearer_auth(BEARER).body(event.body.clone());
            request.send().await.is_ok_and(|answer| answer.status() == 200)
        }));
        let answers = answers.await;
        if answers.contains(&false) {
            let _ = refused.send(());
        }
        answers
    };
    let (answers, ()) = tokio::join!(sending, waiting);
    for (event, is_acknowledged) in burst.iter().zip(answers) {
        if is_acknowledged {
            sent.acknowledge(event);
        }
    }
    let status = bridge.end().await;
    assert!(signal == "-KILL" || status.success(), "{status}");
}

async fn check(world: &World, sent: &Sent) {
    check_nothing_is_doubled(world);
    let list = world.list().await;
    let listed: BTreeMap<&str, &Value> = list.iter().map(|row| (row["id"].as_str().unwrap(), row)).collect();
    let comments = world.comments_by_case();
    for (identity, event) in &sent.acknowledged {
        let row =
            listed.get(identity.as_str()).unwrap_or_else(|| panic!("acknowledged and lost: {identity}"));
        assert_eq!(row["state"], "done", "{row}");
        let on_ticket = &comments[&format!("khoros:1234:twitter:{}", event.post)];
        let count = on_ticket.iter().filter(|comment| comment.contains(&event.note)).count();
        let expected = usize::from(!sent.frozen.contains(identity));
        assert_eq!(count, expected, "the note of {identity} on {on_ticket:?}");
    }
    for (event, ..) in WAITING {
        let row = list.iter().find(|row| row["event_id"] == event).unwrap();
        assert_eq!(row["state"], "done", "{row}");
    }
    println!(
        "{} events acknowledged, {} tickets, nothing lost, nothing doubled",
        sent.acknowledged.len(),
        comments.len()
    );
}
