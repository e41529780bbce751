//! The storm of Slack: casebridge is killed again and again while Zendesk and Slack drop requests and answers. In the
//! end, each case has one message in its channel, and no delivery two.
//!
//! `CASEBRIDGE_SLACK_STORM_KILLS=300 cargo test --test it slack_storm -- --nocapture` makes it long, and
//! `CASEBRIDGE_STORM_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use casebridge_sandbox::slack::{Chaos, Fault, Message, Slack};
use casebridge_sandbox::zendesk;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::{BEARER, Bridge, Kind, PRIVATE, World, event_with, number, run_for};

const KILLS: u64 = 20;
const LONG: Duration = Duration::from_secs(3 * 3600);
const CHANNELS: [&str; 4] = ["C0000000001", "C0000000002", "C0000000003", "C0000000004"];
const ROUTES: [&str; 4] = ["label", "a", "b", "c"];

#[tokio::test]
async fn sqlite() {
    run_for(LONG, Kind::Sqlite, storm).await;
}

#[tokio::test]
async fn postgres() {
    run_for(LONG, Kind::Postgres, storm).await;
}

/// The notifications that were answered with 200, by the identities of their deliveries.
#[derive(Default)]
struct Sent {
    acknowledged: BTreeSet<String>,
    posts: Vec<usize>,
    events: usize,
}

async fn storm(mut world: World) {
    let kills = number("CASEBRIDGE_SLACK_STORM_KILLS").unwrap_or(KILLS);
    let seed = number("CASEBRIDGE_STORM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("storm of {kills} kills on Slack, seed {seed}");
    let mut chance = Rng::with_seed(seed);
    let slack = prepare(&mut world, &mut chance).await;
    let mut sent = Sent::default();
    let mut bridge = world.start().await;
    for _ in 0..kills {
        let (lines, notifications) = (bridge.line_count(), chance.usize(2..6));
        for _ in 0..notifications {
            notify(&world, &mut sent, &mut chance).await;
        }
        // Each is received and done at two destinations, so this many lines are certain.
        bridge.wait_for_lines(lines + chance.usize(1..=3 * notifications)).await;
        bridge.kill().await;
        bridge = world.start().await;
    }
    world.zendesk.model().chaos = None;
    {
        let mut model = slack.model();
        (model.faults.chaos, model.edit_faults.chaos, model.read_faults.chaos) = (None, None, None);
    }
    calm(&world, &bridge).await;
    check(&world, &slack, &sent).await;
    let (posts, replies) = counts(&slack);
    let requests = slack.model().count("chat.postMessage");
    println!(
        "{} notifications acknowledged; {posts} cases with one message each and {replies} replies in {requests} requests, \
         none lost, none doubled",
        sent.acknowledged.len()
    );
}

async fn prepare(world: &mut World, chance: &mut Rng) -> Slack {
    let slack = world.with_slack().await;
    for (name, value) in [
        ("DELIVER_THEN", "slack"),
        ("SLACK_CHANNEL_ID", CHANNELS[0]),
        ("ROUTE_A_LABEL", "A"),
        ("ROUTE_A_SLACK_CHANNEL_ID", CHANNELS[1]),
        ("ROUTE_B_LABEL", "B"),
        ("ROUTE_B_SLACK_CHANNEL_ID", CHANNELS[2]),
        ("ROUTE_C_LABEL", "C"),
        ("ROUTE_C_SLACK_CHANNEL_ID", CHANNELS[3]),
        ("SLACK_MAX_PER_MINUTE", "0"),
        ("TICKET_MAX_PER_HOUR", "0"),
        ("ZENDESK_BUDGET_PERCENT", "100"),
        ("ZENDESK_UPDATE_BUDGET_PERCENT", "100"),
        ("RUST_LOG", "info"),
    ] {
        world.set(name, value);
    }
    world.set("RETRY_SCHEDULE", ["1"; 50].join(","));
    let mut model = slack.model();
    CHANNELS.iter().for_each(|channel| model.add_channel(channel));
    let internal = r#"{"ok":false,"error":"internal_error"}"#;
    let faults = vec![
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Hang,
        Fault::HangAfter,
        Fault::Json(internal),
        Fault::JsonAfter(internal),
        Fault::StatusAfter(502),
        Fault::TooMany(1),
    ];
    let chaos = |chance: &mut Rng| Some(Chaos { chance: chance.fork(), percent: 15, faults: faults.clone() });
    (model.faults.chaos, model.edit_faults.chaos, model.read_faults.chaos) =
        (chaos(chance), chaos(chance), chaos(chance));
    drop(model);
    let mut model = world.zendesk.model();
    (model.limit, model.update_limit) = (100_000, 100_000);
    let faults = vec![
        zendesk::Fault::ResetBefore,
        zendesk::Fault::ResetAfter,
        zendesk::Fault::HangAfterCreate,
        zendesk::Fault::StatusAfterCreate(502),
    ];
    model.chaos = Some(zendesk::Chaos { chance: chance.fork(), percent: 10, faults });
    drop(model);
    slack
}

/// Sends a label on a new post, or on a known one with another note.
async fn notify(world: &World, sent: &mut Sent, chance: &mut Rng) {
    let post = match chance.u32(..100) < 50 && !sent.posts.is_empty() {
        true => chance.usize(..sent.posts.len()),
        false => {
            sent.posts.push(0);
            sent.posts.len() - 1
        }
    };
    sent.posts[post] += 1;
    let (event, route) = (format!("event-{}", sent.events), ROUTES[post % ROUTES.len()]);
    sent.events += 1;
    let notes: Vec<Value> = (0..sent.posts[post])
        .map(|note| json!({"text": format!("{PRIVATE} note {note} of {post}.")}))
        .collect();
    let body = event_with(&event, &format!("post-{post}"), |item| item["notes"] = json!(notes));
    let request = world.http.post(world.url(&format!("/khoros/{route}"))).bearer_auth(BEARER).body(body);
    if request.send().await.is_ok_and(|answer| answer.status() == 200) {
        let end = if route == "label" { String::new() } else { format!("@{route}") };
        sent.acknowledged.insert(format!("khoros:1234:{event}:twitter:post-{post}{end}"));
    }
}

/// Waits until everything is settled.
async fn calm(world: &World, bridge: &Bridge) {
    loop {
        let seen = bridge.line_count();
        if world.waiting().await.is_empty() {
            return;
        }
        bridge.wait_for_lines(seen + 1).await;
    }
}

async fn check(world: &World, slack: &Slack, sent: &Sent) {
    world.check_one_ticket_per_case().await;
    let rows: BTreeMap<String, Value> = world
        .list_of("slack")
        .await
        .into_iter()
        .map(|row| (row["id"].as_str().unwrap().to_owned(), row))
        .collect();
    for identity in &sent.acknowledged {
        let row = rows.get(identity).unwrap_or_else(|| panic!("acknowledged and lost: {identity}"));
        assert_eq!(row["state"], "done", "{row}");
    }
    let model = slack.model();
    let messages: Vec<(&str, &Message)> = CHANNELS
        .iter()
        .flat_map(|channel| model.channels[*channel].messages.iter().map(move |message| (*channel, message)))
        .collect();
    // The mark: the delivery's hash and the case's.
    let mark =
        |message: &Message, part: &str| message.metadata.as_ref().unwrap()["event_payload"][part].to_string();
    let mut deliveries = BTreeSet::new();
    let mut cases = BTreeSet::new();
    for (channel, message) in &messages {
        assert!(deliveries.insert(mark(message, "id")), "a delivery was posted twice: {}", message.shown());
        if message.thread_ts.is_none() {
            assert!(
                cases.insert((*channel, mark(message, "case"))),
                "a case has two messages: {}",
                message.shown()
            );
        }
    }
    assert_eq!(deliveries.len(), rows.len(), "a delivery was not posted");
    assert_eq!(cases.len(), world.zendesk.model().tickets.len());
}

fn counts(slack: &Slack) -> (usize, usize) {
    let model = slack.model();
    let all = CHANNELS.iter().flat_map(|channel| &model.channels[*channel].messages);
    let (roots, replies): (Vec<&Message>, Vec<&Message>) =
        all.partition(|message| message.thread_ts.is_none());
    (roots.len(), replies.len())
}
