//! The inbox against the simplest thing that could be one, a list in memory: whatever is asked of
//! both, in any order, both answer the same and hold the same.
//!
//! `PROPTEST_CASES=5000 cargo test --test it model` tries more, `PROPTEST_RNG_SEED` tries others.

mod storage;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casebridge::config::{self, Retention};
use casebridge::delivery::{Attempt, Cause, Claim, Latest, Origin, Transition};
use casebridge::inbox::{ClaimFilter, Inbox, NewItem};
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::harness::{Database, Kind, World, for_any, run};
use storage::{Row, Storage};

const ZENDESK: &str = "zendesk";
/// The destination that follows another one.
const FOLLOWER: &str = "webhook";
/// Every lease and every wait is over at once or not before the test is: no clock is needed.
const HOUR: Duration = Duration::from_secs(3600);
/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// More than there ever are.
const ALL: usize = 1000;

/// The lives of a process that is started again and again on the same rows.
type Lives = Vec<Vec<Step>>;

#[derive(Clone, Debug)]
enum Step {
    /// Several callers at once.
    Receive(Vec<Vec<NewItem>>),
    Claim {
        destination: &'static str,
        pick: ClaimFilter,
        limit: usize,
        lease: Duration,
    },
    Freeze {
        claim: Earlier,
        request: &'static str,
    },
    /// `tries` is what comes to those of the claim.
    Settle {
        claim: Earlier,
        transition: Transition,
    },
    /// Another destination follows.
    Follow {
        claim: Earlier,
    },
    History {
        claim: Earlier,
    },
    /// How far down the list, the dead ones first.
    Replay {
        delivery: usize,
    },
    /// How far down the list, the waiting ones first.
    Discard {
        delivery: usize,
    },
    Blank(Retention),
}

/// How many claims ago, and so perhaps stale.
type Earlier = usize;

fn lives() -> impl Strategy<Value = Lives> {
    vec(vec(step(), 1..60), 1..3)
}

fn step() -> impl Strategy<Value = Step> {
    let near = || prop_oneof![3 => 0..3usize, 1 => 0..100usize];
    let claim = (
        select(&[ZENDESK, "slack", FOLLOWER][..]),
        select(&[ClaimFilter::Fresh, ClaimFilter::Any][..]),
        limit(),
        wait(),
    );
    prop_oneof![
        3 => vec(vec(item(), 0..4), 1..4).prop_map(Step::Receive),
        5 => claim.prop_map(|(destination, pick, limit, lease)| Step::Claim { destination, pick, limit, lease }),
        2 => (near(), select(&["a", "b"][..])).prop_map(|(claim, request)| Step::Freeze { claim, request }),
        6 => (near(), transition()).prop_map(|(claim, transition)| Step::Settle { claim, transition }),
        2 => near().prop_map(|claim| Step::Follow { claim }),
        2 => near().prop_map(|claim| Step::History { claim }),
        2 => near().prop_map(|delivery| Step::Replay { delivery }),
        2 => near().prop_map(|delivery| Step::Discard { delivery }),
        1 => (wait(), wait()).prop_map(|(done, dead)| Step::Blank(Retention { done, dead })),
    ]
}

fn wait() -> impl Strategy<Value = Duration> {
    select(&[Duration::ZERO, HOUR][..])
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(ALL), 1 => 1..3usize]
}

/// Of few posts and events, so that redeliveries and relabels are common.
fn item() -> impl Strategy<Value = NewItem> {
    const DESTINATIONS: &[&[&str]] = &[&[ZENDESK], &[ZENDESK], &["slack"], &[ZENDESK, "slack"]];
    let destinations = select(DESTINATIONS);
    let words = (0..5usize, 0..3usize, destinations);
    let dead = prop_oneof![5 => Just(None), 1 => Just(Some("odd".to_owned()))];
    let origin = prop_oneof![4 => Just(Origin::Push), 1 => Just(Origin::Feed)];
    (words, "[a-z]{3}", dead, origin).prop_map(|((event, post, destinations), payload, dead, origin)| {
        NewItem { payload, dead, origin, ..new_item(event, post, destinations) }
    })
}

fn new_item(event: usize, post: usize, destinations: &[&'static str]) -> NewItem {
    NewItem {
        identity: format!("khoros:1:e{event}:p{post}"),
        destinations: destinations.to_vec(),
        targets: Vec::new(),
        origin: Origin::Push,
        case_key: format!("khoros:1:p{post}"),
        route: "label".to_owned(),
        event_id: format!("e{event}"),
        event_name: "stream-item-label-applied".to_owned(),
        payload: "{}".to_owned(),
        dead: None,
    }
}

fn transition() -> impl Strategy<Value = Transition> {
    let reason = select(&["it failed", "held: it waits"][..]);
    let again = (wait(), 0..2i64, any::<bool>(), reason).prop_map(|(after, tries, in_doubt, reason)| {
        Transition::Again { after, tries, in_doubt, reason: reason.to_owned() }
    });
    let given_up = (wait(), any::<bool>()).prop_map(|(rest, in_doubt)| Transition::GivenUp {
        reason: "it failed too often".to_owned(),
        in_doubt,
        rest,
    });
    prop_oneof![
        2 => "[1-9]".prop_map(|reference| Transition::Done { memo: memo_of(&reference), reference, cause: None }),
        1 => Just(Transition::Dead { reason: "refused".to_owned() }),
        2 => given_up,
        3 => again,
    ]
}

/// The memo of a delivery that is done under this reference.
fn memo_of(reference: &str) -> String {
    format!("memo of {reference}")
}

/// What the inbox should hold, oldest first, and what it should answer.
#[derive(Default)]
struct Model {
    rows: Vec<Row>,
}

impl Model {
    fn receive(&mut self, items: &[NewItem]) -> usize {
        let mut new = 0;
        for item in items {
            if !self.rows.iter().any(|row| row.identity == item.identity) {
                self.rows.extend(item.destinations.iter().map(|destination| Row::new(item, destination)));
                new += 1;
            }
        }
        new
    }

    /// Whether there is a new row.
    fn follow(&mut self, claim: &Claim, cause: &Cause) -> bool {
        let Some(row) = self.held(claim).cloned() else { return false };
        let key = (claim.identity.as_str(), FOLLOWER);
        if self.rows.iter().any(|row| row.key() == key) {
            return false;
        }
        self.rows.push(Row {
            identity: row.identity,
            destination: FOLLOWER.to_owned(),
            case_key: row.case_key,
            payload: row.payload,
            origin: row.origin,
            cause: serde_json::to_string(cause).ok(),
            state: "waiting".to_owned(),
            is_due: true,
            ..Row::default()
        });
        true
    }

    /// What a claim may take. One of a case is in hand at most, and it comes first when its lease is
    /// over; then the oldest. All wait while one of them rests that may have been sent.
    fn claimable(&self, destination: &str, pick: ClaimFilter) -> Vec<Row> {
        let waits_for = |row: &Row, other: &Row| {
            let rests = other.in_doubt && !other.is_due && other.state != "done";
            let is_older = other.state == "waiting" && other.age() < row.age();
            row.is_beside(other) && (other.leased || rests || is_older && !row.leased)
        };
        let rows = self.rows.iter();
        rows.filter(|row| row.state == "waiting" && row.destination == destination && row.is_due)
            .filter(|row| pick == ClaimFilter::Any || row.attempts == 0 && !row.in_doubt)
            .filter(|row| !self.rows.iter().any(|other| waits_for(row, other)))
            .cloned()
            .collect()
    }

    fn claim(&mut self, claim: &Claim, lease: Duration) -> &Row {
        let row = self.row(&claim.identity, &claim.destination);
        row.attempts += 1;
        row.in_doubt |= row.leased;
        row.leased = true;
        row.is_due = lease.is_zero();
        row
    }

    fn freeze(&mut self, claim: &Claim, request: &str) -> bool {
        let Some(row) = self.held(claim) else { return false };
        row.request = Some(request.to_owned());
        true
    }

    fn settle(&mut self, claim: &Claim, transition: &Transition) -> bool {
        let Some(row) = self.held(claim) else { return false };
        row.leased = false;
        row.is_due = true;
        match transition.clone() {
            Transition::Done { reference, .. } => {
                row.state = "done".to_owned();
                row.in_doubt = false;
                row.reference = Some(reference);
                row.last_error = None;
            }
            Transition::Dead { reason } => {
                row.state = "dead".to_owned();
                row.in_doubt = false;
                row.last_error = Some(reason);
            }
            Transition::GivenUp { reason, in_doubt, rest } => {
                row.state = "dead".to_owned();
                row.is_due = rest.is_zero();
                row.tries += 1;
                row.in_doubt |= in_doubt;
                row.last_error = Some(reason);
            }
            Transition::Again { after, tries, in_doubt, reason } => {
                row.is_due = after.is_zero();
                row.tries = tries;
                row.in_doubt |= in_doubt;
                row.last_error = Some(reason);
            }
        }
        true
    }

    fn latest(&self, claim: &Claim) -> Latest {
        let of_case = || {
            let same =
                |row: &&Row| (&row.destination, &row.case_key) == (&claim.destination, &claim.case_key);
            self.rows.iter().filter(same)
        };
        let was_tried = |row: &Row| row.identity != claim.identity && (row.attempts > 0 || row.in_doubt);
        let latest = of_case()
            .filter(|row| row.reference.is_some())
            .max_by_key(|row| (row.settled_at, row.identity.clone()));
        match latest {
            Some(row) => {
                let reference = row.reference.clone().unwrap();
                let settled = of_case().filter(|row| row.reference.is_some());
                let as_of = settled.map(|row| row.received_at).max().unwrap();
                Latest::Done { memo: memo_of(&reference), reference, as_of }
            }
            None if of_case().any(was_tried) => Latest::Unknown,
            None => Latest::None,
        }
    }

    fn replay(&mut self, identity: &str, destination: &str) -> bool {
        let row = self.row(identity, destination);
        if row.state != "dead" || row.payload.is_empty() {
            return false;
        }
        row.state = "waiting".to_owned();
        row.tries = 0;
        if !row.in_doubt {
            row.in_doubt = true;
            row.request = None;
            row.revision += 1;
            row.is_due = true;
        }
        true
    }

    /// A delivery that may have been sent stays. Being held, it was not sent by that try.
    fn discard(&mut self, identity: &str, destination: &str) -> bool {
        let row = self.row(identity, destination);
        let is_held = row.last_error.as_ref().is_some_and(|reason| reason.starts_with("held: "));
        let may_be_sent = row.in_doubt && (row.request.is_some() || row.attempts > 0 && !is_held);
        if row.state != "waiting" || row.leased || may_be_sent {
            return false;
        }
        row.state = "dead".to_owned();
        row.is_due = true;
        row.last_error = Some("discarded".to_owned());
        true
    }

    /// Of how many the texts are gone now.
    fn erase(&mut self, retention: Retention) -> u64 {
        let is_over = |row: &&mut Row| match row.state.as_str() {
            "done" => retention.done.is_zero(),
            "dead" => retention.done.is_zero() && retention.dead.is_zero(),
            _ => false,
        };
        let mut erased = 0;
        for row in self.rows.iter_mut().filter(is_over).filter(|row| !row.payload.is_empty()) {
            (row.payload, row.request, row.last_error) = (String::new(), None, None);
            erased += 1;
        }
        erased
    }

    /// One process serves an SQLite file, so a new one knows that nobody is at work on what was
    /// never sent.
    fn restart(&mut self, kind: Kind) {
        let unsent = |row: &&mut Row| row.leased && row.request.is_none();
        if kind == Kind::Sqlite {
            self.rows.iter_mut().filter(unsent).for_each(|row| row.is_due = true);
        }
    }

    fn row(&mut self, identity: &str, destination: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.key() == (identity, destination)).unwrap()
    }

    /// The row of a claim, unless somebody claimed or settled it since.
    fn held(&mut self, claim: &Claim) -> Option<&mut Row> {
        let row = self.row(&claim.identity, &claim.destination);
        (row.leased && row.attempts == claim.attempts).then_some(row)
    }

    /// Times are the database's to choose, within what they have to say.
    fn adopt_times(&mut self, rows: &[Row]) {
        for row in rows {
            let ours = self.row(&row.identity, &row.destination);
            assert_eq!(row.settled_at.is_some(), ours.state != "waiting", "{row:?}");
            (ours.received_at, ours.due_at, ours.settled_at) = (row.received_at, row.due_at, row.settled_at);
        }
        self.rows.sort_by(|one, other| one.order().cmp(&other.order()));
    }
}

/// Both at once, step by step.
struct Trial {
    storage: Storage,
    model: Model,
    claims: Vec<Claim>,
    /// As they were after the last step.
    rows: Vec<Row>,
}

impl Trial {
    async fn live(&mut self, inbox: &Inbox, steps: &[Step]) {
        for step in steps {
            let changed = self.take(inbox, step).await;
            self.compare(changed).await;
        }
    }

    /// Does the same to both and compares the answers. False: nothing may have changed.
    async fn take(&mut self, inbox: &Inbox, step: &Step) -> bool {
        match step {
            Step::Receive(callers) => {
                let receive = callers.iter().map(|deliveries| inbox.receive(deliveries.clone()));
                let new: Vec<usize> = join_all(receive).await.into_iter().map(Result::unwrap).collect();
                let expected: Vec<usize> = callers.iter().map(|caller| self.model.receive(caller)).collect();
                assert_eq!(new, expected);
                expected.iter().sum::<usize>() > 0
            }
            Step::Claim { destination, pick, limit, lease } => {
                let claims = inbox.claim(destination, *pick, *limit, *lease).await.unwrap();
                self.check_choice(&claims, &self.model.claimable(destination, *pick), *limit);
                for claim in &claims {
                    check_copy(claim, self.model.claim(claim, *lease));
                }
                self.claims.extend(claims.iter().cloned());
                !claims.is_empty()
            }
            Step::Freeze { claim, request } => {
                let Some(claim) = self.earlier(*claim) else { return false };
                let changed = inbox.freeze(&claim, request, "memo").await.unwrap();
                assert_eq!(changed, self.model.freeze(&claim, request));
                changed
            }
            Step::Settle { claim, transition } => {
                let Some(claim) = self.earlier(*claim) else { return false };
                let transition = of_claim(transition, &claim);
                let changed = inbox.settle(&claim, &transition, &Attempt::default()).await.unwrap().is_some();
                assert_eq!(changed, self.model.settle(&claim, &transition));
                changed
            }
            Step::Follow { claim } => {
                let Some(claim) = self.earlier(*claim) else { return false };
                let cause = Cause { reference: "7".to_owned(), ..Cause::default() };
                inbox.follow(&claim, &cause, &[(FOLLOWER, String::new())]).await.unwrap();
                self.model.follow(&claim, &cause)
            }
            Step::History { claim } => {
                let Some(claim) = self.earlier(*claim) else { return false };
                assert_eq!(inbox.history(&claim).await.unwrap().latest, self.model.latest(&claim));
                false
            }
            Step::Replay { delivery } => {
                let mut list = inbox.list(None, None, None, ALL).await.unwrap();
                list.sort_by_key(|listed| listed.state != "dead");
                let Some(listed) = list.get(delivery % list.len().max(1)) else { return false };
                let changed = inbox.replay(listed, false).await.unwrap();
                assert_eq!(changed, self.model.replay(&listed.identity, &listed.destination));
                changed
            }
            Step::Discard { delivery } => {
                let mut list = inbox.list(None, None, None, ALL).await.unwrap();
                list.sort_by_key(|listed| listed.state != "waiting");
                let Some(listed) = list.get(delivery % list.len().max(1)) else { return false };
                let changed = inbox.discard(listed, "discarded").await.unwrap();
                assert_eq!(changed, self.model.discard(&listed.identity, &listed.destination));
                assert_eq!(changed, listed.state == "waiting" && !listed.leased && !listed.may_be_sent);
                changed
            }
            Step::Blank(retention) => {
                let expected = self.model.erase(*retention);
                let mut erased = 0;
                // Again while the clock still shows the millisecond in which the last was settled.
                while erased < expected {
                    erased += inbox.erase(*retention, i64::MAX, ALL).await.unwrap();
                }
                assert_eq!((erased, inbox.erase(*retention, i64::MAX, ALL).await.unwrap()), (expected, 0));
                expected > 0
            }
        }
    }

    fn earlier(&self, earlier: Earlier) -> Option<Claim> {
        self.claims.iter().rev().nth(earlier % self.claims.len().max(1)).cloned()
    }

    /// As many as the limit allows, and those that have been due for longest.
    fn check_choice(&self, claims: &[Claim], claimable: &[Row], limit: usize) {
        let taken: BTreeSet<&str> = claims.iter().map(|claim| claim.identity.as_str()).collect();
        assert_eq!(taken.len(), claims.len(), "one of them twice");
        let (chosen, left): (Vec<&Row>, Vec<&Row>) =
            claimable.iter().partition(|row| taken.contains(row.identity.as_str()));
        assert_eq!(chosen.len(), claims.len(), "claimed {taken:?} of {claimable:?}");
        assert_eq!(chosen.len(), claimable.len().min(limit), "left {left:?}");
        let (latest, next) =
            (chosen.iter().map(|row| row.due_at).max(), left.iter().map(|row| row.due_at).min());
        assert!(next.is_none() || latest <= next, "{latest:?} before {next:?}");
    }

    /// Checks what the step made of the rows. `changed` is what the inbox said of it.
    async fn compare(&mut self, changed: bool) {
        let rows = self.storage.rows().await;
        assert!(changed || rows == self.rows, "{:?} became {rows:?}", self.rows);
        check_laws(&self.rows, &rows);
        self.model.adopt_times(&rows);
        for (row, expected) in rows.iter().zip(&self.model.rows) {
            assert_eq!(row, expected);
        }
        assert_eq!(rows.len(), self.model.rows.len());
        self.rows = rows;
    }

    /// The end of a life, as the operator sees it.
    async fn check_list(&self, inbox: &Inbox) {
        let list = inbox.list(None, None, None, ALL).await.unwrap();
        let listed: Vec<_> = list
            .iter()
            .map(|row| {
                (&row.identity, &row.destination, &row.state, row.attempts, &row.reference, &row.last_error)
            })
            .collect();
        let rows = &self.model.rows;
        let expected: Vec<_> = rows
            .iter()
            .map(|row| {
                (&row.identity, &row.destination, &row.state, row.attempts, &row.reference, &row.last_error)
            })
            .collect();
        assert_eq!(listed, expected);

        let summary = inbox.summary().await.unwrap();
        let count = |state| rows.iter().filter(|row| row.state == state).count() as i64;
        let in_doubt = rows.iter().filter(|row| row.state == "waiting" && row.in_doubt).count() as i64;
        assert_eq!(
            (summary.waiting(), summary.dead(), summary.in_doubt()),
            (count("waiting"), count("dead"), in_doubt)
        );
        let counts = inbox.counts().await.unwrap();
        let done: i64 = counts.iter().map(|counts| counts.done).sum();
        let received: i64 = counts.iter().map(|counts| counts.received).sum();
        assert_eq!((received, done), (rows.len() as i64, count("done")));
        assert!(counts.iter().all(|counts| counts.unaccounted() == 0), "{counts:?}");
    }
}

fn of_claim(transition: &Transition, claim: &Claim) -> Transition {
    match transition.clone() {
        Transition::Again { after, tries, in_doubt, reason } => {
            Transition::Again { after, tries: claim.tries + tries, in_doubt, reason }
        }
        other => other,
    }
}

fn check_copy(claim: &Claim, row: &Row) {
    let texts = (&claim.case_key, &claim.payload, &claim.request);
    assert_eq!(texts, (&row.case_key, &row.payload, &row.request));
    let numbers = (claim.revision, claim.attempts, claim.tries, claim.in_doubt, claim.received_at);
    assert_eq!(numbers, (row.revision, row.attempts, row.tries, row.in_doubt, row.received_at));
}

/// What holds of any step, whatever the model thinks.
fn check_laws(before: &[Row], after: &[Row]) {
    for old in before {
        let new = after.iter().find(|row| row.key() == old.key()).expect("a row is gone");
        let told = format!("{old:?} became {new:?}");
        let settled = old.leased && !new.leased;
        let replayed = old.state == "dead" && new.state == "waiting";

        assert_eq!((&old.case_key, old.received_at), (&new.case_key, new.received_at));
        assert!(old.payload == new.payload || new.payload.is_empty() && new.state != "waiting", "{told}");
        assert!(old.state != "done" || new.state == "done" && new.reference == old.reference, "{told}");
        assert!((old.attempts..=old.attempts + 1).contains(&new.attempts), "{told}");
        let most = old.tries + i64::from(settled);
        assert!((old.tries..=most).contains(&new.tries) || replayed && new.tries == 0, "{told}");
        assert!(!old.in_doubt || new.in_doubt || settled && new.state != "waiting", "{told}");
        assert!(!replayed || new.in_doubt, "{told}");
        let revised = i64::from(replayed && !old.in_doubt);
        assert_eq!(new.revision, old.revision + revised, "{told}");
    }
    let mut hands = BTreeSet::new();
    for row in after.iter().filter(|row| row.leased) {
        assert!(hands.insert((&row.destination, &row.case_key)), "in two hands: {row:?}");
    }
}

/// Each case starts on an empty table, since a new database for each would take most of the time.
fn check_any_lives(kind: Kind, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(database) = runtime.block_on(Database::new(kind)) else { return };
    runtime.block_on(async { open(&database).await.close().await });
    for_any(cases, lives(), |lives| {
        let checked = runtime.block_on(async { timeout(LIMIT, check_lives(&database, &lives)).await });
        assert!(checked.is_ok(), "it hangs");
    });
}

async fn check_lives(database: &Database, lives: &Lives) {
    let mut trial = Trial {
        storage: Storage::emptied(database).await,
        model: Model::default(),
        claims: Vec::new(),
        rows: Vec::new(),
    };
    for steps in lives {
        let inbox = open(database).await;
        trial.model.restart(database.kind);
        trial.compare(true).await;
        trial.live(&inbox, steps).await;
        trial.check_list(&inbox).await;
        inbox.close().await;
    }
}

/// An inbox as `serve` opens it.
async fn open(database: &Database) -> Inbox {
    let settings = match database.kind {
        Kind::Sqlite => config::Database::Sqlite(database.url.trim_start_matches("sqlite://").into()),
        Kind::Postgres => {
            let server = config::PostgresServer::new(database.url.parse().unwrap());
            config::Database::Postgres(Box::new(server))
        }
    };
    let (inbox, committer) = loop {
        match Inbox::open(&settings).await {
            Ok(opened) => break opened,
            // A process that another test is just starting holds on to what this one had open.
            Err(error) if format!("{error:#}").contains("another casebridge") => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("{error:#}"),
        }
    };
    tokio::spawn(committer.run(CancellationToken::new()));
    inbox
}

#[test]
fn sqlite() {
    check_any_lives(Kind::Sqlite, 80);
}

#[test]
fn postgres() {
    check_any_lives(Kind::Postgres, 40);
}

const EVENTS: usize = 20;
const POSTS: usize = 6;

/// What the hands of two instances know of each other.
#[derive(Default)]
struct Hands {
    cases: Mutex<BTreeSet<String>>,
    done: Mutex<BTreeSet<String>>,
    receiving: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_never_hold_one_case() {
    run(Kind::Postgres, two_instances).await;
}

async fn two_instances(world: World) {
    let (one, other) = (open(&world.database).await, open(&world.database).await);
    let hands = Arc::new(Hands { receiving: AtomicUsize::new(2), ..Hands::default() });
    let receiving: Vec<_> =
        [&one, &other].map(|inbox| tokio::spawn(receive_all(inbox.clone(), hands.clone()))).into();
    let working: Vec<_> = [&one, &other, &one, &other, &one, &other]
        .into_iter()
        .enumerate()
        .map(|(hand, inbox)| tokio::spawn(work(inbox.clone(), hands.clone(), hand)))
        .collect();
    let new: usize = join_all(receiving).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(new, EVENTS * POSTS, "each was new to one of both alone");
    for worked in join_all(working).await {
        worked.unwrap();
    }
    assert_eq!(hands.done.lock().unwrap().len(), EVENTS * POSTS);
    assert!(one.list(None, None, None, ALL).await.unwrap().iter().all(|listed| listed.state == "done"));
}

/// Both instances are sent everything.
async fn receive_all(inbox: Inbox, hands: Arc<Hands>) -> usize {
    let mut new = 0;
    for event in 0..EVENTS {
        let deliveries = (0..POSTS).map(|post| new_item(event, post, &[ZENDESK])).collect();
        new += inbox.receive(deliveries).await.unwrap();
    }
    hands.receiving.fetch_sub(1, Ordering::SeqCst);
    new
}

/// Takes and settles until nothing is left. Each fifth claim is forgotten, as by a crash.
async fn work(inbox: Inbox, hands: Arc<Hands>, hand: usize) {
    for round in hand.. {
        if round % 5 == 0 {
            inbox.claim(ZENDESK, ClaimFilter::Any, 1, Duration::ZERO).await.unwrap();
        }
        let all_received = hands.receiving.load(Ordering::SeqCst) == 0;
        let claims = inbox.claim(ZENDESK, ClaimFilter::Any, 3, HOUR).await.unwrap();
        for claim in &claims {
            handle(&inbox, &hands, claim).await;
        }
        if claims.is_empty() && all_received && inbox.summary().await.unwrap().waiting() == 0 {
            return;
        }
    }
}

/// Fails once, is dead and replayed once, and then done.
async fn handle(inbox: &Inbox, hands: &Hands, claim: &Claim) {
    assert!(hands.cases.lock().unwrap().insert(claim.case_key.clone()), "in two hands: {claim:?}");
    assert!(inbox.freeze(claim, "bytes", "memo").await.unwrap());
    let transition = match (claim.tries, claim.revision) {
        (0, _) => Transition::Again {
            after: Duration::ZERO,
            tries: 1,
            in_doubt: true,
            reason: "it failed".to_owned(),
        },
        (_, 0) => Transition::Dead { reason: "refused".to_owned() },
        _ => Transition::Done { reference: "7".to_owned(), memo: String::new(), cause: None },
    };
    // From here on another hand may take it.
    assert!(hands.cases.lock().unwrap().remove(&claim.case_key));
    assert!(inbox.settle(claim, &transition, &Attempt::default()).await.unwrap().is_some());
    match transition {
        Transition::Dead { .. } => {
            let dead = inbox.find(&claim.identity).await.unwrap();
            assert!(inbox.replay(&dead[0], false).await.unwrap());
        }
        Transition::Done { .. } => assert!(hands.done.lock().unwrap().insert(claim.identity.clone())),
        Transition::Again { .. } | Transition::GivenUp { .. } => {}
    }
}
