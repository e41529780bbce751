//! The contract of the storage, which runs on both databases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use casebridge::config::{Config, Database, Retention};
use casebridge::delivery::{Attempt, Claim, Latest, Origin, Transition};
use casebridge::inbox::{ClaimFilter, Inbox, NewItem, ReceiveError, State};
use futures_util::future::select_all;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, on_all, run_on_sqlite};

const LEASE: Duration = Duration::from_secs(60);
/// A lease that has expired when it begins.
const NO_LEASE: Duration = Duration::ZERO;
const ZENDESK: &str = "zendesk";

/// Opens the inbox as `serve` does, on the database of the world.
pub async fn open(world: &World) -> Inbox {
    let (inbox, committer) = Inbox::open(&database(world)).await.unwrap();
    tokio::spawn(committer.run(CancellationToken::new()));
    inbox
}

fn database(world: &World) -> Database {
    let vars = world.vars.iter().map(|(name, value)| (name.into(), value.into()));
    Config::from_vars(vars).unwrap().database
}

fn delivery(event: &str, post: &str) -> NewItem {
    NewItem {
        identity: format!("khoros:1:{event}:{post}"),
        destinations: vec![ZENDESK],
        targets: Vec::new(),
        case_key: format!("khoros:1:{post}"),
        route: "label".to_owned(),
        event_id: event.to_owned(),
        event_name: "stream-item-label-applied".to_owned(),
        payload: "{}".to_owned(),
        dead: None,
        origin: Origin::Push,
    }
}

fn event_of(claim: &Claim) -> &str {
    claim.identity.split(':').nth(2).unwrap()
}

async fn claim(inbox: &Inbox, lease: Duration) -> Vec<Claim> {
    inbox.claim(ZENDESK, ClaimFilter::Any, 16, lease).await.unwrap()
}

fn again(after: Duration, tries: i64, in_doubt: bool) -> Transition {
    Transition::Again { after, tries, in_doubt, reason: "nul \0 in it".to_owned() }
}

fn done(reference: &str) -> Transition {
    Transition::Done { reference: reference.to_owned(), memo: "{}".to_owned(), cause: None }
}

on_all! {
    async fn a_known_delivery_is_not_new(world: World) {
        let inbox = open(&world).await;
        let (one, two) = (delivery("e1", "p1"), delivery("e2", "p2"));
        assert_eq!(inbox.receive(vec![one.clone(), one.clone()]).await.unwrap(), 1);
        assert_eq!(inbox.receive(vec![one, two]).await.unwrap(), 1);
        assert_eq!(inbox.receive(Vec::new()).await.unwrap(), 0);
        assert_eq!(inbox.list(None, None, None, 10).await.unwrap().len(), 2);
    }

    async fn a_poison_row_fails_alone(world: World) {
        let inbox = open(&world).await;
        world.database.refuse_event("poison").await;
        let poisoned = ["e1", "e2", "poison", "e3"].map(|event| delivery(event, "p1")).to_vec();
        let (refused, stored, same) = tokio::join!(
            inbox.receive(poisoned),
            inbox.receive(vec![delivery("e4", "p2")]),
            inbox.receive(vec![delivery("poison", "p1")]),
        );
        assert!(refused.is_err() && same.is_err(), "acknowledged and not there");
        assert_eq!(stored.unwrap(), 1);
        let list = inbox.list(None, None, None, 10).await.unwrap();
        let mut stored: Vec<&str> = list.iter().map(|row| row.event_id.as_str()).collect();
        stored.sort();
        assert_eq!(stored, ["e1", "e2", "e3", "e4"]);
        inbox.ping().await.expect("a row that is refused is no failure of the storage");
    }

    async fn a_value_the_database_cannot_store_is_not_acknowledged(world: World) {
        let inbox = open(&world).await;
        let nul = NewItem { payload: "\0".to_owned(), ..delivery("e1", "p1") };
        // SQLite takes a NUL, PostgreSQL does not.
        let received = inbox.receive(vec![nul]).await;
        assert_eq!(inbox.list(None, None, None, 10).await.unwrap().len(), usize::from(received.is_ok()));
    }

    async fn a_full_queue_refuses_at_once(world: World) {
        // Nobody commits, so that all of them wait.
        let (inbox, _committer) = Inbox::open(&database(&world)).await.unwrap();
        let many = (0..2000).map(|n| Box::pin(inbox.receive(vec![delivery("e", &format!("p{n}"))])));
        assert!(matches!(select_all(many).await.0, Err(ReceiveError::Busy)));
        let payload = "x".repeat(1 << 20);
        let large = |n| NewItem { payload: payload.clone(), ..delivery("e", &format!("p{n}")) };
        let many = (0..100).map(|n| Box::pin(inbox.receive(vec![large(n)])));
        assert!(matches!(select_all(many).await.0, Err(ReceiveError::Busy)));
    }

    async fn a_request_larger_than_the_queue_is_stored_alone(world: World) {
        let inbox = open(&world).await;
        let payload = "x".repeat(40 << 20);
        let huge = NewItem { payload, ..delivery("e", "p") };
        assert_eq!(inbox.receive(vec![huge]).await.unwrap(), 1);
    }

    async fn each_number_of_rows_is_stored(world: World) {
        let inbox = open(&world).await;
        let rows = |count: usize| (0..count).map(move |n| delivery("e", &format!("p{count}-{n}")));
        for count in (1..70).chain([95, 96, 97, 255, 256, 257]) {
            let half: Vec<_> = rows(count).step_by(2).collect();
            let known = half.len();
            assert_eq!(inbox.receive(half).await.unwrap(), known);
            assert_eq!(inbox.receive(rows(count).collect()).await.unwrap(), count - known);
        }
        let list = inbox.list(None, None, None, 10_000).await.unwrap();
        assert_eq!(list.len(), (1..70).sum::<usize>() + 95 + 96 + 97 + 255 + 256 + 257);
        let claims = inbox.claim(ZENDESK, ClaimFilter::Any, 10_000, LEASE).await.unwrap();
        assert!(claims.iter().all(|claim| claim.payload == "{}"));
    }

    async fn dead_and_waiting_deliveries_are_stored_together(world: World) {
        let inbox = open(&world).await;
        let rows = (0..10).map(|n| {
            let dead = (n % 3 == 0).then(|| "unprocessable".to_owned());
            NewItem { dead, ..delivery("e", &format!("p{n}")) }
        });
        assert_eq!(inbox.receive(rows.collect()).await.unwrap(), 10);
        for listed in inbox.list(None, None, None, 20).await.unwrap() {
            let is_dead = listed.state == "dead";
            assert_eq!(is_dead, ["p0", "p3", "p6", "p9"].iter().any(|post| listed.case_key.ends_with(post)));
            assert_eq!((listed.settled_at.is_some(), listed.last_error.is_some()), (is_dead, is_dead));
        }
    }

    async fn many_rows_that_are_refused_do_not_hold_up_the_others(world: World) {
        let inbox = open(&world).await;
        world.database.refuse_event("poison").await;
        let poison = (0..10_000).map(|n| delivery("poison", &format!("p{n}"))).collect();
        let (refused, stored) = tokio::join!(inbox.receive(poison), inbox.receive(vec![delivery("e", "p")]));
        assert!(refused.is_err());
        assert_eq!(stored.unwrap(), 1);
    }

    async fn more_rows_than_one_statement_takes_are_all_stored(world: World) {
        let inbox = open(&world).await;
        let many: Vec<_> = (0..1000).map(|post| delivery("e", &format!("p{post}"))).collect();
        assert_eq!(inbox.receive(many[..700].to_vec()).await.unwrap(), 700);
        assert_eq!(inbox.receive(many).await.unwrap(), 300);
    }

    async fn a_claim_belongs_to_one_worker(world: World) {
        let inbox = open(&world).await;
        inbox.receive((0..5).map(|n| delivery("e", &format!("p{n}"))).collect()).await.unwrap();
        let first = inbox.claim(ZENDESK, ClaimFilter::Any, 2, LEASE).await.unwrap();
        let rest = claim(&inbox, LEASE).await;
        assert_eq!((first.len(), rest.len()), (2, 3));
        assert!(claim(&inbox, LEASE).await.is_empty());
        assert!(rest.iter().all(|claim| claim.attempts == 1 && !claim.in_doubt && claim.tries == 0));
    }

    async fn deliveries_of_a_case_come_one_at_a_time_and_in_order(world: World) {
        let inbox = open(&world).await;
        for event in ["e1", "e2", "e3"] {
            inbox.receive(vec![delivery(event, "p")]).await.unwrap();
        }
        for event in ["e1", "e2", "e3"] {
            let claims = claim(&inbox, LEASE).await;
            assert_eq!(claims.len(), 1);
            assert_eq!(claims[0].identity, format!("khoros:1:{event}:p"));
            assert!(claim(&inbox, LEASE).await.is_empty());
            assert!(inbox.settle(&claims[0], &done("7"), &Attempt::default()).await.unwrap().is_some());
        }
    }

    async fn a_younger_delivery_waits_for_the_older_ones_next_try(world: World) {
        let inbox = open(&world).await;
        for event in ["e1", "e2"] {
            inbox.receive(vec![delivery(event, "p")]).await.unwrap();
        }
        let older = claim(&inbox, LEASE).await.remove(0);
        assert!(inbox.settle(&older, &again(LEASE, 1, false), &Attempt::default()).await.unwrap().is_some());
        assert!(claim(&inbox, LEASE).await.is_empty());
    }

    async fn an_expired_lease_comes_back_in_doubt_and_fences_the_first_worker(world: World) {
        let inbox = open(&world).await;
        inbox.receive(vec![delivery("e", "p")]).await.unwrap();
        let first = claim(&inbox, NO_LEASE).await.remove(0);
        let second = claim(&inbox, LEASE).await.remove(0);
        assert_eq!((second.attempts, second.in_doubt, second.tries), (2, true, 0));

        assert!(!inbox.freeze(&first, "late", "memo").await.unwrap());
        assert!(inbox.settle(&first, &done("late"), &Attempt::default()).await.unwrap().is_none());
        assert!(inbox.freeze(&second, "bytes", "memo").await.unwrap());
        assert!(inbox.settle(&second, &done("7"), &Attempt::default()).await.unwrap().is_some());
        assert!(inbox.settle(&second, &done("8"), &Attempt::default()).await.unwrap().is_none(), "a settled delivery is nobody's");
        assert_eq!(inbox.list(None, None, None, 10).await.unwrap()[0].reference.as_deref(), Some("7"));
    }

    async fn frozen_bytes_and_doubt_stay_until_it_is_done(world: World) {
        let inbox = open(&world).await;
        inbox.receive(vec![delivery("e", "p")]).await.unwrap();
        let first = claim(&inbox, LEASE).await.remove(0);
        assert_eq!(first.request, None);
        assert!(inbox.freeze(&first, "bytes", "memo").await.unwrap());
        assert!(inbox.settle(&first, &again(Duration::ZERO, 1, true), &Attempt::default()).await.unwrap().is_some());
        let second = claim(&inbox, LEASE).await.remove(0);
        assert_eq!((second.request.as_deref(), second.in_doubt, second.tries), (Some("bytes"), true, 1));
        assert!(inbox.settle(&second, &again(Duration::ZERO, 1, false), &Attempt::default()).await.unwrap().is_some());
        let third = claim(&inbox, LEASE).await.remove(0);
        assert!(third.in_doubt, "an answer to another question does not end a doubt");
        assert_eq!(third.idempotency_key(), "khoros:1:e:p");
    }

    async fn fresh_deliveries_can_be_claimed_before_old_retries(world: World) {
        let inbox = open(&world).await;
        inbox.receive(vec![delivery("e1", "p1")]).await.unwrap();
        let old = claim(&inbox, LEASE).await.remove(0);
        inbox.settle(&old, &again(Duration::ZERO, 1, false), &Attempt::default()).await.unwrap();
        inbox.receive(vec![delivery("e2", "p2")]).await.unwrap();
        let fresh = inbox.claim(ZENDESK, ClaimFilter::Fresh, 16, LEASE).await.unwrap();
        assert_eq!(fresh.len(), 1);
        assert_eq!(event_of(&fresh[0]), "e2");
        assert_eq!(event_of(&claim(&inbox, LEASE).await[0]), "e1");
    }

    async fn fresh_deliveries_can_be_claimed_before_those_of_a_feed(world: World) {
        let inbox = open(&world).await;
        let old = NewItem { origin: Origin::Feed, ..delivery("e1", "p1") };
        inbox.receive(vec![old]).await.unwrap();
        inbox.receive(vec![delivery("e2", "p2")]).await.unwrap();
        let fresh = inbox.claim(ZENDESK, ClaimFilter::Fresh, 16, LEASE).await.unwrap();
        assert_eq!(fresh.iter().map(event_of).collect::<Vec<_>>(), ["e2"]);
        assert_eq!(event_of(&claim(&inbox, LEASE).await[0]), "e1");
    }

    async fn a_case_remembers_its_ticket(world: World) {
        let inbox = open(&world).await;
        inbox.receive(vec![delivery("e1", "p")]).await.unwrap();
        let first = claim(&inbox, LEASE).await.remove(0);
        assert_eq!(inbox.history(&first).await.unwrap().latest, Latest::None);
        inbox.settle(&first, &Transition::Dead { reason: "refused".to_owned() }, &Attempt::default()).await.unwrap();

        inbox.receive(vec![delivery("e2", "p")]).await.unwrap();
        let second = claim(&inbox, LEASE).await.remove(0);
        assert_eq!(inbox.history(&second).await.unwrap().latest, Latest::Unknown);
        inbox.settle(&second, &done("7"), &Attempt::default()).await.unwrap();

        inbox.receive(vec![delivery("e3", "p")]).await.unwrap();
        let third = claim(&inbox, LEASE).await.remove(0);
        let ticket = inbox.history(&third).await.unwrap().latest;
        assert!(
            matches!(&ticket, Latest::Done { reference, memo, .. } if reference == "7" && memo == "{}"),
            "{ticket:?}"
        );
    }

    async fn a_delivery_given_up_in_doubt_keeps_its_case_and_its_bytes(world: World) {
        let inbox = open(&world).await;
        inbox.receive(vec![delivery("e1", "p")]).await.unwrap();
        let first = claim(&inbox, LEASE).await.remove(0);
        inbox.freeze(&first, "bytes", "memo").await.unwrap();
        let given_up = |rest| Transition::GivenUp { reason: "no answer".to_owned(), in_doubt: true, rest };
        assert!(inbox.settle(&first, &given_up(LEASE), &Attempt::default()).await.unwrap().is_some());
        inbox.receive(vec![delivery("e2", "p")]).await.unwrap();
        assert!(claim(&inbox, LEASE).await.is_empty(), "the destination may be at work on it still");

        let dead = inbox.list(Some(State::Dead), None, None, 10).await.unwrap().remove(0);
        assert!(inbox.replay(&dead, false).await.unwrap());
        assert!(claim(&inbox, LEASE).await.is_empty(), "a replay waits as long");
    }

    async fn a_replay_in_doubt_keeps_bytes_and_key(world: World) {
        let inbox = open(&world).await;
        inbox.receive(vec![delivery("e1", "p")]).await.unwrap();
        let first = claim(&inbox, LEASE).await.remove(0);
        inbox.freeze(&first, "bytes", "memo").await.unwrap();
        let given_up =
            Transition::GivenUp { reason: "no answer".to_owned(), in_doubt: true, rest: Duration::ZERO };
        inbox.settle(&first, &given_up, &Attempt::default()).await.unwrap();
        inbox.receive(vec![delivery("e2", "p")]).await.unwrap();
        let sibling = claim(&inbox, LEASE).await.remove(0);
        assert_eq!(inbox.history(&sibling).await.unwrap().latest, Latest::Unknown);
        inbox.settle(&sibling, &Transition::Dead { reason: "refused".to_owned() }, &Attempt::default()).await.unwrap();

        let dead = inbox.list(Some(State::Dead), None, None, 10).await.unwrap();
        assert!(inbox.replay(&dead[0], false).await.unwrap());
        let again = claim(&inbox, LEASE).await.remove(0);
        assert_eq!((again.request.as_deref(), again.in_doubt), (Some("bytes"), true));
        assert_eq!(again.idempotency_key(), "khoros:1:e1:p");
    }

    async fn a_replay_is_a_new_revision_in_doubt(world: World) {
        let inbox = open(&world).await;
        inbox.receive(vec![delivery("e", "p")]).await.unwrap();
        let first = claim(&inbox, LEASE).await.remove(0);
        inbox.freeze(&first, "bytes", "memo").await.unwrap();
        inbox.settle(&first, &Transition::Dead { reason: "refused".to_owned() }, &Attempt::default()).await.unwrap();
        let dead = inbox.list(Some(State::Dead), None, None, 10).await.unwrap().remove(0);
        assert!(inbox.replay(&dead, false).await.unwrap());
        assert!(!inbox.replay(&dead, false).await.unwrap(), "it is not dead any more");

        let second = claim(&inbox, LEASE).await.remove(0);
        assert_eq!((second.request.as_deref(), second.in_doubt), (None, true));
        assert_eq!((second.attempts, second.tries), (2, 0));
        assert_eq!(second.idempotency_key(), "khoros:1:e:p#1");
    }

    async fn old_texts_are_erased_and_the_rows_stay(world: World) {
        let inbox = open(&world).await;
        let events = ["e1", "e2", "e3"].map(|event| delivery(event, event));
        inbox.receive(events.to_vec()).await.unwrap();
        let claims = claim(&inbox, LEASE).await;
        inbox.freeze(&claims[0], "bytes", "memo").await.unwrap();
        inbox.settle(&claims[0], &done("7"), &Attempt::default()).await.unwrap();
        inbox.settle(&claims[1], &Transition::Dead { reason: "Jane".to_owned() }, &Attempt::default()).await.unwrap();

        // A clock that has jumped ahead since the check an hour ago.
        let jumped = Retention { done: NO_LEASE, dead: NO_LEASE };
        assert_eq!(inbox.erase(jumped, 0, 10).await.unwrap(), 0);
        let later = Retention { done: LEASE, dead: LEASE };
        assert_eq!(inbox.erase(later, i64::MAX, 10).await.unwrap(), 0);
        // Settled before now, by a clock that need not have moved on since: one millisecond ahead.
        let done_only = Retention { done: NO_LEASE, dead: LEASE };
        while inbox.erase(done_only, i64::MAX, 10).await.unwrap() == 0 {}
        assert_eq!(inbox.erase(done_only, i64::MAX, 10).await.unwrap(), 0, "the dead are kept for longer");
        let all = Retention { done: NO_LEASE, dead: NO_LEASE };
        while inbox.erase(all, i64::MAX, 10).await.unwrap() == 0 {}
        assert_eq!(inbox.erase(all, i64::MAX, 10).await.unwrap(), 0, "what waits is never blanked");

        let list = inbox.list(None, None, None, 10).await.unwrap();
        assert_eq!(list.len(), 3);
        assert!(list.iter().all(|delivery| delivery.last_error.is_none()));
        let first = list.iter().find(|delivery| delivery.identity == claims[0].identity).unwrap();
        assert_eq!(first.reference.as_deref(), Some("7"));
        assert_eq!(inbox.receive(events.to_vec()).await.unwrap(), 0, "a late redelivery is known");
    }

    async fn an_unprocessable_delivery_is_listed_and_counted(world: World) {
        let inbox = open(&world).await;
        let unprocessable = NewItem { dead: Some("unprocessable \0".to_owned()), ..delivery("e1", "p1") };
        let pulled = NewItem { origin: Origin::Feed, ..delivery("e2", "p2") };
        inbox.receive(vec![unprocessable, pulled, delivery("e3", "p3")]).await.unwrap();
        let claims = claim(&inbox, LEASE).await;
        assert_eq!(claims.iter().filter(|claim| claim.origin == Origin::Feed).count(), 1);
        let summary = inbox.summary().await.unwrap();
        assert_eq!((summary.waiting(), summary.in_doubt(), summary.dead(), summary.done_24h), (2, 1, 1, 0));
        assert!(summary.oldest_ms().is_some() && summary.last_event_ms.is_some());
    }

    async fn the_last_event_of_a_route_is_known_in_every_state(world: World) {
        let inbox = open(&world).await;
        assert_eq!(inbox.last_events().await.unwrap(), []);
        let by = |route: &str, event: &str| NewItem { route: route.to_owned(), ..delivery(event, event) };
        // What is done is the older one of the first route, the younger one of the second, and all of the
        // third.
        for (route, event) in
            [("label", "done-1"), ("label", "e2"), ("vip", "e3"), ("vip", "done-4"), ("dm", "done-5")]
        {
            inbox.receive(vec![by(route, event)]).await.unwrap();
        }
        inbox.receive(vec![NewItem { dead: Some("unprocessable".to_owned()), ..by("unprocessable", "e6") }]).await.unwrap();
        for claim in claim(&inbox, LEASE).await.iter().filter(|claim| event_of(claim).starts_with("done")) {
            assert!(inbox.settle(claim, &done("7"), &Attempt::default()).await.unwrap().is_some());
        }
        let last_events = async || {
            let heard = inbox.last_events().await.unwrap().into_iter();
            heard.map(|last| (last.route, last.at)).collect::<BTreeMap<_, _>>()
        };
        let rows = inbox.list(None, None, None, 10).await.unwrap();
        let received = |event: &str| rows.iter().find(|row| row.event_id == event).unwrap().received_at;
        let expected = [("label", "e2"), ("vip", "done-4"), ("dm", "done-5"), ("unprocessable", "e6")];
        let expected = BTreeMap::from(expected.map(|(route, event)| (route.to_owned(), received(event))));
        assert_eq!(last_events().await, expected);

        let dead = inbox.list(Some(State::Dead), None, None, 10).await.unwrap().remove(0);
        assert!(inbox.replay(&dead, false).await.unwrap());
        assert_eq!(last_events().await, expected, "a replay is no event");
        // By one and the same clock.
        let before = inbox.last_events().await.unwrap();
        inbox.receive(vec![by("new", "e7")]).await.unwrap();
        let new = inbox.last_events().await.unwrap().into_iter().find(|last| last.route == "new").unwrap();
        assert!(before.iter().all(|last| last.age_ms >= 0 && last.at + last.age_ms <= new.at + new.age_ms));
    }

    async fn the_events_before_the_last_one_are_counted(world: World) {
        let inbox = open(&world).await;
        let items = (0..7).map(|post| delivery("e1", &format!("p{post}"))).collect();
        inbox.receive(items).await.unwrap();
        for event in ["e2", "e3", "e4"] {
            inbox.receive(vec![delivery(event, event)]).await.unwrap();
        }
        inbox.receive(vec![NewItem { route: "vip".to_owned(), ..delivery("e5", "e5") }]).await.unwrap();
        let rows = inbox.list(None, None, None, 20).await.unwrap();
        let check = async || {
            let heard = inbox.last_events().await.unwrap();
            let last = heard.iter().find(|last| last.route == "label").unwrap();
            assert_eq!(inbox.events_before(last, LEASE).await.unwrap(), 4);
            // From the third on; another may be of the same millisecond.
            let third = rows.iter().find(|row| row.event_id == "e3").unwrap().received_at;
            let since = rows.iter().filter(|row| row.route == "label" && row.received_at >= third);
            let since: BTreeSet<_> = since.map(|row| &row.event_id).collect();
            let within = Duration::from_millis((last.at - third).try_into().unwrap());
            assert_eq!(inbox.events_before(last, within).await.unwrap(), since.len() as i64);
        };
        check().await;
        for claim in claim(&inbox, LEASE).await.iter().step_by(2) {
            assert!(inbox.settle(claim, &done("7"), &Attempt::default()).await.unwrap().is_some());
        }
        check().await;
    }

    async fn a_long_list_comes_in_pages(world: World) {
        let inbox = open(&world).await;
        inbox.receive((0..600).map(|n| delivery("e", &format!("p{n}"))).collect()).await.unwrap();
        let mut seen = BTreeSet::new();
        let mut last = None;
        loop {
            let page = inbox.list(None, None, last.as_ref(), 250).await.unwrap();
            seen.extend(page.iter().map(|delivery| delivery.identity.clone()));
            match page.into_iter().next_back() {
                Some(delivery) => last = Some(delivery),
                None => break,
            }
        }
        assert_eq!(seen.len(), 600);
    }

    async fn many_workers_claim_each_delivery_once(world: World) {
        let inbox = open(&world).await;
        inbox.receive((0..200).map(|n| delivery("e", &format!("p{}", n % 50))).collect()).await.unwrap();
        inbox.receive((0..200).map(|n| delivery(&format!("f{n}"), &format!("p{}", n % 50))).collect()).await.unwrap();
        let workers = (0..8).map(|_| {
            let inbox = inbox.clone();
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                loop {
                    let claims = inbox.claim(ZENDESK, ClaimFilter::Any, 3, LEASE).await.unwrap();
                    for claim in &claims {
                        assert!(inbox.settle(claim, &done("1"), &Attempt::default()).await.unwrap().is_some());
                        claimed.push(claim.identity.clone());
                    }
                    if claims.is_empty() && inbox.summary().await.unwrap().waiting() == 0 {
                        return claimed;
                    }
                }
            })
        });
        let mut claimed = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            claimed.extend(worker.await.unwrap());
        }
        claimed.sort();
        let count = claimed.len();
        claimed.dedup();
        assert_eq!((claimed.len(), count), (250, 250));
    }
}

/// It happens long before the writer would have to.
#[tokio::test]
async fn the_log_is_moved_into_the_file_beside_the_writer() {
    run_on_sqlite(|world| async move {
        let inbox = open(&world).await;
        let payload = "x".repeat(1 << 20);
        for n in 0..20 {
            let large = NewItem { payload: payload.clone(), ..delivery("e", &format!("p{n}")) };
            inbox.receive(vec![large]).await.unwrap();
        }
        let file = world.database.url.trim_start_matches("sqlite://");
        while std::fs::metadata(file).unwrap().len() < 20 << 20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(inbox.list(None, None, None, 100).await.unwrap().len(), 20);
    })
    .await;
}
