//! The storm: casebridge is killed again and again while notifications come in and all stand-ins fail. In the end,
//! every acknowledged notification has exactly one ticket and its message, and at most one broadcast; each ticket has
//! one text for each number.
//!
//! `CASEBRIDGE_STORM_KILLS=1000 cargo test --release --test it storm -- --nocapture` makes it long,
//! `CASEBRIDGE_STORM_KNOWN=92` makes most notifications redeliveries, so that a long one has about two new posts for
//! each kill (texts take long), and `CASEBRIDGE_STORM_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use casebridge_sandbox::flow::{self, Flow};
use casebridge_sandbox::twilio::Twilio;
use casebridge_sandbox::webhook::{self, Webhook};
use casebridge_sandbox::zendesk::{Chaos, Fault};
use fastrand::Rng;
use futures_util::future::{join_all, select_all};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::failover::{make_read_only, make_writable};
use crate::harness::{
    ADMIN, BEARER, Bridge, Kind, OTHER_PHONE, PHONE, PRIVATE, World, data, event_with, free_port, number,
    run_behind_pooler_for, run_for,
};
use crate::metrics::samples;

const KILLS: usize = 20;
/// The percentage of notifications that are redeliveries.
const KNOWN: u64 = 20;
const LONG: Duration = Duration::from_secs(3 * 3600);
const READ_ONLY: Duration = Duration::from_secs(10);
const WRITABLE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn one_process_on_sqlite() {
    run_for(LONG, Kind::Sqlite, |world| storm(world, 1)).await;
}

#[tokio::test]
async fn two_processes_on_postgres() {
    run_for(LONG, Kind::Postgres, |world| storm(world, 2)).await;
}

#[tokio::test]
async fn two_processes_behind_a_pooler() {
    run_behind_pooler_for(LONG, |world| storm(world, 2)).await;
}

#[tokio::test]
async fn two_processes_on_a_postgres_that_fails_over() {
    run_for(LONG, Kind::Postgres, |world| storm_with_failovers(world, 2)).await;
}

/// The database takes no writes for the first 10 s of each 30 s. That schedule is the disturbance: what is
/// asserted waits for none of it.
async fn storm_with_failovers(mut world: World, processes: usize) {
    let database = world.database.url.clone();
    let failovers = async {
        loop {
            make_read_only(&database).await;
            tokio::time::sleep(READ_ONLY).await;
            make_writable(&database).await;
            tokio::time::sleep(WRITABLE).await;
        }
    };
    let (bridges, sent, receivers) = tokio::select! {
        stormed = rage(&mut world, processes) => stormed,
        () = failovers => unreachable!("they go on until the storm is over"),
    };
    make_writable(&database).await;
    finish(&world, &bridges, &sent, &receivers).await;
}

async fn storm(mut world: World, processes: usize) {
    let (bridges, sent, receivers) = rage(&mut world, processes).await;
    finish(&world, &bridges, &sent, &receivers).await;
}

/// Sends notifications and kills one process after the other. Returns the processes that run in the end.
async fn rage(world: &mut World, processes: usize) -> (Vec<Bridge>, Sent, Receivers) {
    let kills = number("CASEBRIDGE_STORM_KILLS").unwrap_or(KILLS as u64) as usize;
    let seed = number("CASEBRIDGE_STORM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("storm of {kills} kills, seed {seed}");
    let mut chance = Rng::with_seed(seed);
    let receivers = prepare(world, &mut chance).await;

    let ports: Vec<u16> = (0..processes).map(|_| free_port()).collect();
    let mut bridges = Vec::new();
    for port in &ports {
        bridges.push(world.start_beside(*port).await);
    }
    let mut sent = Sent::default();
    let killing = async {
        for _ in 0..kills {
            let victim = chance.usize(..processes);
            fire(world, &ports, &mut sent, &mut chance, &bridges[victim]).await;
            bridges.remove(victim).end().await;
            bridges.insert(victim, world.start_beside(ports[victim]).await);
        }
    };
    tokio::select! {
        () = killing => {}
        () = scrape(world, &ports) => unreachable!("it goes on until the storm is over"),
    }
    for port in &ports {
        // A failover may still keep the database from answering.
        while unaccounted(world, *port).await.is_none() {}
    }
    (bridges, sent, receivers)
}

/// Scrapes every process after each ticket and comment: at no moment is a delivery missing from the counts.
async fn scrape(world: &World, ports: &[u16]) {
    let mut seen = 0;
    loop {
        for port in ports {
            unaccounted(world, *port).await;
        }
        let mut count = seen;
        world
            .zendesk
            .wait_until(|model| {
                count = model.audits.len();
                count > seen
            })
            .await;
        seen = count;
    }
}

/// Scrapes a process, and checks that no delivery is unaccounted for. `None`: it did not answer, or its database did
/// not.
async fn unaccounted(world: &World, port: u16) -> Option<()> {
    let request = world.http.get(format!("http://127.0.0.1:{port}/metrics")).bearer_auth(ADMIN);
    let text = request.send().await.ok()?.text().await.ok()?;
    let samples = samples(&text);
    let count = samples.get("casebridge_unaccounted")?;
    assert_eq!(*count, 0.0, "{text}");
    Some(())
}

async fn finish(world: &World, bridges: &[Bridge], sent: &Sent, receivers: &Receivers) {
    world.zendesk.model().chaos = None;
    // Most of what follows is sent now.
    calm(world, bridges, Some("zendesk")).await;
    receivers.webhook.model().faults.chaos = None;
    receivers.flow.model().faults.chaos = None;
    receivers.calm_twilio();
    calm(world, bridges, None).await;
    check(world, sent).await;
    receivers.check_messages(world).await;
    let uncertain = receivers.check_broadcasts(world, sent).await;
    let uncertain_texts = receivers.check_texts(world).await;
    let (posts, acknowledged) = (sent.posts.len(), sent.acknowledged.len());
    let tickets = world.zendesk.model().tickets.len();
    let (messages, sends) = receivers.messages_and_sends();
    let broadcasts = receivers.flow.model().broadcasts.len();
    let (texts, requests) = receivers.texts_and_requests();
    println!(
        "{acknowledged} notifications acknowledged of {posts} posts, {tickets} tickets, none lost, none doubled; \
         {messages} messages in {sends} requests; {broadcasts} broadcasts, {uncertain} deliveries may have been sent; {texts} texts in {requests} requests, \
         {uncertain_texts} of them may have been sent"
    );
}

/// What follows each change of a ticket.
struct Receivers {
    webhook: Webhook,
    flow: Flow,
    twilio: Twilio,
}

impl Receivers {
    async fn start(world: &mut World, chance: &mut Rng) -> Receivers {
        let (webhook, flow) = (world.with_webhook().await, world.with_flow().await);
        let twilio = world.with_twilio().await;
        world.set("DELIVER_THEN", "webhook,flow,twilio");
        world.set("TEXT_MAX_PER_HOUR", "0");
        world.set("TWILIO_TEXT", "Ticket {{ ticket.number }}.");
        // A broadcast that says which notification it is about.
        world.unset("FLOW_EVENT_NAME");
        world.set("FLOW_TEXT", "{% for note in notes %}{{ note.text }}{% endfor %}");
        let faults = vec![
            webhook::Fault::Status(500),
            webhook::Fault::StatusAfter(500),
            webhook::Fault::StatusAfter(502),
            webhook::Fault::ResetBefore,
            webhook::Fault::ResetAfter,
            webhook::Fault::Hang,
            webhook::Fault::HangAfter,
            webhook::Fault::TooMany(1),
        ];
        let chaos = webhook::Chaos { chance: chance.fork(), percent: 25, faults };
        webhook.model().faults.chaos = Some(chaos.clone());
        // Each doubt is a pause.
        flow.model().faults.chaos = Some(flow::Chaos { chance: chance.fork(), percent: 5, ..chaos.clone() });
        let mut model = twilio.model();
        model.faults.chaos = Some(flow::Chaos { chance: chance.fork(), percent: 10, ..chaos.clone() });
        // Hanging lookups would only take time.
        let faults = vec![webhook::Fault::Status(500), webhook::Fault::ResetBefore, webhook::Fault::Html];
        model.read_faults.chaos = Some(flow::Chaos { chance: chance.fork(), percent: 10, faults });
        drop(model);
        Receivers { webhook, flow, twilio }
    }

    fn calm_twilio(&self) {
        let mut model = self.twilio.model();
        (model.faults.chaos, model.read_faults.chaos) = (None, None);
    }

    fn texts_and_requests(&self) -> (usize, usize) {
        let model = self.twilio.model();
        (model.messages.len(), model.requests.len())
    }

    /// Each ticket has one text for each number, except for those that are listed as uncertain. Returns their number.
    async fn check_texts(&self, world: &World) -> usize {
        let rows = world.list_of("twilio").await;
        let zendesk = world.list_of("zendesk").await;
        assert_eq!(rows.len(), 2 * zendesk.len(), "each delivery of a ticket has a row for each number");
        let dead: Vec<&Value> = rows.iter().filter(|row| row["state"] != "done").collect();
        for row in &dead {
            assert_eq!(row["state"], "dead", "{row}");
            assert!(row["reason"].as_str().unwrap().contains("may have been sent"), "{row}");
        }
        let tickets = world.zendesk.model().tickets.clone();
        let model = self.twilio.model();
        let mut missing = 0;
        for number in [PHONE, OTHER_PHONE] {
            let mut texts: BTreeMap<String, usize> = BTreeMap::new();
            model.texts_to(number).into_iter().for_each(|text| *texts.entry(text).or_default() += 1);
            for ticket in &tickets {
                let count = texts.remove(&format!("Ticket {}.", ticket["id"])).unwrap_or_default();
                assert!(count <= 1, "{count} texts about ticket {}", ticket["id"]);
                missing += 1 - count;
            }
            assert!(texts.is_empty(), "nobody asked for {texts:?}");
        }
        assert!(missing <= dead.len(), "{missing} texts are lost, and {} are listed", dead.len());
        dead.len()
    }

    fn messages_and_sends(&self) -> (usize, usize) {
        let model = self.webhook.model();
        (model.distinct_ids(), model.sends())
    }

    /// Each event changed its ticket, so each has one message, and each ticket was created once.
    async fn check_messages(&self, world: &World) {
        let tickets: BTreeMap<String, Value> = by_identity(world.list_of("zendesk").await);
        let rows = by_identity(world.list_of("webhook").await);
        assert_eq!(rows.keys().collect::<Vec<_>>(), tickets.keys().collect::<Vec<_>>());
        let messages = data(&self.webhook);
        let of: BTreeMap<&str, &Value> =
            messages.iter().map(|data| (data["delivery"].as_str().unwrap(), data)).collect();
        assert_eq!(of.len(), messages.len(), "a delivery has two ids");
        assert_eq!(self.webhook.model().changed_bodies(), 0);
        let mut created = BTreeSet::new();
        for (identity, ticket) in &tickets {
            assert_eq!(rows[identity]["state"], "done", "{}", rows[identity]);
            let data = of.get(identity.as_str()).unwrap_or_else(|| panic!("no message of {identity}"));
            assert_eq!(data["ticket"]["number"], ticket["ticket"], "{data}");
            if data["ticket"]["action"] == "created" {
                assert!(created.insert(ticket["case"].to_string()), "created twice: {data}");
            } else {
                assert_eq!(data["ticket"]["action"], "commented", "{data}");
            }
        }
        assert_eq!((of.len(), created.len()), (tickets.len(), world.zendesk.model().tickets.len()));
    }

    /// No notification has two broadcasts, and those that are not certain are listed. Returns their number.
    async fn check_broadcasts(&self, world: &World, sent: &Sent) -> usize {
        let mut broadcasts: BTreeMap<String, usize> = BTreeMap::new();
        for broadcast in &self.flow.model().broadcasts {
            *broadcasts.entry(broadcast["payload"]["speech"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let rows = by_identity(world.list_of("flow").await);
        let zendesk = by_identity(world.list_of("zendesk").await);
        assert_eq!(rows.keys().collect::<Vec<_>>(), zendesk.keys().collect::<Vec<_>>());
        let mut uncertain = 0;
        for notification in sent.notifications.iter().filter(|sent| rows.contains_key(&sent.identity)) {
            let row = &rows[&notification.identity];
            let count = broadcasts.remove(&notification.note).unwrap_or_default();
            let is_certain = row["state"] == "done";
            if !is_certain {
                assert_eq!(row["state"], "dead", "{row}");
                assert!(row["reason"].as_str().unwrap().starts_with("may have been sent"), "{row}");
                uncertain += 1;
            }
            assert!(count == 1 || (count == 0 && !is_certain), "{count} broadcasts: {row}");
        }
        assert!(broadcasts.is_empty(), "nobody asked for {broadcasts:?}");
        uncertain
    }
}

fn by_identity(list: Vec<Value>) -> BTreeMap<String, Value> {
    list.into_iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row)).collect()
}

/// The notifications, and those that were answered with 200.
#[derive(Default)]
struct Sent {
    notifications: Vec<Notification>,
    acknowledged: BTreeSet<String>,
    posts: Vec<String>,
}

#[derive(Clone)]
struct Notification {
    /// The identity of its delivery.
    identity: String,
    post: String,
    /// The note of an agent, unique to this notification.
    note: String,
    body: String,
}

async fn prepare(world: &mut World, chance: &mut Rng) -> Receivers {
    let receivers = Receivers::start(world, chance).await;
    world.set("RETRY_SCHEDULE", ["1"; 50].join(","));
    world.set("TICKET_MAX_PER_HOUR", "0");
    world.set("ZENDESK_BUDGET_PERCENT", "100");
    world.set("ZENDESK_UPDATE_BUDGET_PERCENT", "100");
    world.set("RUST_LOG", "info");
    let faults = vec![
        Fault::Status(500),
        Fault::StatusAfterCreate(500),
        Fault::StatusAfterCreate(409),
        Fault::StatusAfterCreate(502),
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Hang,
        Fault::HangAfterCreate,
        Fault::Late(Duration::from_secs(2)),
        Fault::Html,
        Fault::TooMany(1),
    ];
    let mut model = world.zendesk.model();
    (model.limit, model.update_limit) = (100_000, 100_000);
    model.chaos = Some(Chaos { chance: chance.fork(), percent: 15, faults });
    drop(model);
    receivers
}

/// Sends a burst of new posts, labels applied again and redeliveries, and kills one process in between.
async fn fire(world: &World, ports: &[u16], sent: &mut Sent, chance: &mut Rng, victim: &Bridge) {
    let known = number("CASEBRIDGE_STORM_KNOWN").unwrap_or(KNOWN);
    let burst: Vec<Notification> = (0..30).map(|_| next(sent, chance, known)).collect();
    // Each accepted notification is logged, so this many lines are certain.
    let kill_at = victim.line_count() + chance.usize(..burst.len() / ports.len());
    let (refused, is_refused) = oneshot::channel();
    let kill = async {
        tokio::select! {
            () = victim.wait_for_lines(kill_at) => {}
            // Refused notifications may leave no line.
            Ok(()) = is_refused => {}
        }
        victim.signal("-KILL").await;
    };
    let sending = burst.iter().enumerate().map(|(place, notification)| {
        let url = format!("http://127.0.0.1:{}/khoros/label", ports[place % ports.len()]);
        async move {
            let request = world.http.post(url).bearer_auth(BEARER).body(notification.body.clone());
            let answer = request.send().await;
            answer.is_ok_and(|answer| answer.status() == 200).then(|| notification.identity.clone())
        }
    });
    let sending = async {
        let acknowledged = join_all(sending).await;
        if acknowledged.iter().any(Option::is_none) {
            let _ = refused.send(());
        }
        acknowledged
    };
    let (acknowledged, ()) = tokio::join!(sending, kill);
    sent.acknowledged.extend(acknowledged.into_iter().flatten());
}

/// `known`: the percentage of redeliveries.
fn next(sent: &mut Sent, chance: &mut Rng, known: u64) -> Notification {
    if let Some(known) = chance.choice(&sent.notifications).filter(|_| chance.u64(..100) < known) {
        return known.clone();
    }
    let post = match chance.choice(&sent.posts).filter(|_| chance.u32(..100) < 20) {
        Some(known) => known.clone(),
        None => {
            let post = format!("post-{}", sent.posts.len());
            sent.posts.push(post.clone());
            post
        }
    };
    let number = format!("event-{}", sent.notifications.len());
    let identity = format!("khoros:1234:{number}:twitter:{post}");
    let note = format!("{PRIVATE} note of {number}.");
    let body = event_with(&number, &post, |item| item["notes"] = json!([{"text": note}]));
    let notification = Notification { identity, post, note, body };
    sent.notifications.push(notification.clone());
    notification
}

/// Waits until everything is settled, or everything for one destination, which one of the processes logs.
async fn calm(world: &World, bridges: &[Bridge], destination: Option<&str>) {
    let is_awaited = |row: &Value| destination.is_none_or(|name| row["destination"] == name);
    loop {
        let seen: Vec<usize> = bridges.iter().map(Bridge::line_count).collect();
        if !world.waiting().await.iter().any(is_awaited) {
            return;
        }
        let more = bridges.iter().zip(seen).map(|(bridge, seen)| Box::pin(bridge.wait_for_lines(seen + 1)));
        select_all(more).await;
    }
}

async fn check(world: &World, sent: &Sent) {
    let list = world.list().await;
    let listed: BTreeMap<&str, &Value> =
        list.iter().map(|delivery| (delivery["id"].as_str().unwrap(), delivery)).collect();
    for identity in &sent.acknowledged {
        assert!(listed.contains_key(identity.as_str()), "acknowledged and lost: {identity}");
    }
    let on_tickets = world.comments_by_case();
    for notification in sent.notifications.iter().filter(|sent| listed.contains_key(sent.identity.as_str())) {
        let comments = &on_tickets[&format!("khoros:1234:twitter:{}", notification.post)];
        let count = comments.iter().filter(|comment| comment.contains(&notification.note)).count();
        assert_eq!(count, 1, "the note of {}", notification.identity);
    }
    let sent: BTreeSet<&str> = sent.notifications.iter().map(|sent| sent.identity.as_str()).collect();
    for identity in listed.keys() {
        // A delivery to a number has the identity of its item and more.
        let item = identity.split('~').next().unwrap();
        assert!(sent.contains(item), "nobody sent {identity}");
    }
    world.check_one_ticket_per_case().await;
}
