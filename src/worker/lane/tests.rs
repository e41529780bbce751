use super::*;

fn lane() -> Lane {
    Lane::new("test", Alerts { down: "test_down", refuses: "test_refuses" }, &Registry::default())
}

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

fn pause() -> Outcome {
    Outcome::Pause { reason: Reason::new("down"), doubt: Doubt::None, retry_after: None }
}

fn retry() -> Outcome {
    Outcome::Retry { reason: Reason::new("500"), doubt: Doubt::Answered }
}

fn done() -> Outcome {
    let (reference, memo) = ("1".to_owned(), String::new());
    Outcome::Done { reference, action: Action::Created, memo, cause: None }
}

#[test]
fn a_pause_grows_until_a_delivery_passes() {
    let start = Instant::now();
    let mut lane = lane();
    let mut now = start;
    for seconds in [5, 10, 20, 40, 60, 60] {
        lane.observe("a", pause(), now, now);
        assert_eq!(lane.gate(now), Gate::Closed(at(now, seconds)));
        now = at(now, seconds);
        assert_eq!(lane.gate(now), Gate::Probe);
    }
    lane.observe("a", done(), now, now);
    assert_eq!(lane.gate(now), Gate::Open);
    lane.observe("a", pause(), now, now);
    assert_eq!(lane.gate(now), Gate::Closed(at(now, 5)));
}

#[test]
fn sixteen_failures_at_once_are_one() {
    let start = Instant::now();
    let mut lane = lane();
    for delivery in 0..16 {
        lane.observe(&delivery.to_string(), pause(), start, at(start, 1));
    }
    assert_eq!(lane.gate(at(start, 1)), Gate::Closed(at(start, 6)));
}

#[test]
fn a_check_within_a_pause_does_not_lengthen_it() {
    let start = Instant::now();
    let mut lane = lane();
    lane.pause(&Reason::new("down"), None, start, start);
    lane.pause(&Reason::new("down"), None, at(start, 4), at(start, 4));
    assert_eq!(lane.gate(at(start, 5)), Gate::Probe);
}

#[test]
fn an_answer_from_before_the_pause_does_not_end_it() {
    let start = Instant::now();
    let mut lane = lane();
    lane.pause(&Reason::new("429"), Some(Duration::from_secs(60)), at(start, 1), at(start, 1));
    lane.observe("a", done(), start, at(start, 2));
    lane.checked(at(start, 3));
    assert_eq!(lane.gate(at(start, 3)), Gate::Closed(at(start, 61)));
    lane.observe("b", done(), at(start, 61), at(start, 62));
    assert_eq!(lane.gate(at(start, 62)), Gate::Open);
}

#[test]
fn a_repeated_retry_after_of_zero_does_not_count() {
    let start = Instant::now();
    let mut lane = lane();
    let mut now = start;
    for seconds in [1, 10, 20, 40] {
        lane.pause(&Reason::new("429"), Some(Duration::ZERO), now, now);
        assert_eq!(lane.gate(now), Gate::Closed(at(now, seconds)));
        now = at(now, seconds);
    }
}

#[test]
fn retry_after_is_respected() {
    let start = Instant::now();
    let mut lane = lane();
    let retry_after = Some(Duration::from_secs(93));
    let outcome = Outcome::Pause { reason: Reason::new("429"), doubt: Doubt::None, retry_after };
    lane.observe("a", outcome, start, start);
    assert_eq!(lane.gate(start), Gate::Closed(at(start, 93)));
}

fn refused(kind: &str) -> Outcome {
    Outcome::Refused { reason: Reason::new(kind) }
}

fn blocked() -> Outcome {
    Outcome::Blocked { reason: Reason::new("403"), doubt: Doubt::None }
}

#[test]
fn one_delivery_that_is_blocked_while_others_pass_is_at_fault() {
    let start = Instant::now();
    let mut lane = lane();
    assert!(matches!(lane.observe("a", blocked(), start, start), Outcome::Pause { .. }));
    // It may still be the destination.
    assert!(matches!(lane.observe("a", blocked(), at(start, 5), at(start, 5)), Outcome::Pause { .. }));
    assert_eq!(lane.gate(at(start, 15)), Gate::Probe);
    lane.observe("b", done(), at(start, 15), at(start, 16));
    let late = at(start, 20);
    assert!(matches!(lane.observe("a", blocked(), late, late), Outcome::Retry { .. }));
    assert!(matches!(lane.observe("a", blocked(), late, late), Outcome::Wait { .. }));
    assert_eq!(lane.gate(late), Gate::Open);
    // Another blocked delivery may be the fault of the destination again.
    assert!(matches!(lane.observe("c", blocked(), late, late), Outcome::Pause { .. }));
}

#[test]
fn a_success_that_started_before_the_block_does_not_count() {
    let start = Instant::now();
    let mut lane = lane();
    lane.observe("a", blocked(), start, at(start, 1));
    lane.observe("b", done(), start, at(start, 2));
    let late = at(start, 9);
    assert!(matches!(lane.observe("a", blocked(), late, late), Outcome::Pause { .. }));
}

#[test]
fn only_a_new_item_shows_that_items_pass() {
    let start = Instant::now();
    let mut lane = lane();
    lane.observe("a", blocked(), start, start);
    let (reference, memo) = ("1".to_owned(), String::new());
    let unchanged = Outcome::Done { reference, action: Action::Unchanged, memo, cause: None };
    lane.observe("b", unchanged, at(start, 5), at(start, 6));
    assert!(matches!(lane.observe("a", blocked(), at(start, 7), at(start, 7)), Outcome::Pause { .. }));
}

#[test]
fn dead_deliveries_do_not_pause_the_destination() {
    let now = Instant::now();
    let mut lane = lane();
    for delivery in 0..10 {
        let dead = Outcome::Dead { reason: Reason::new("blank") };
        assert_eq!(lane.observe(&delivery.to_string(), dead.clone(), now, now), dead);
        let stuck = Outcome::Stuck { reason: Reason::new("hidden") };
        assert_eq!(lane.observe(&delivery.to_string(), stuck.clone(), now, now), stuck);
    }
    assert_eq!(lane.gate(now), Gate::Open);
}

#[test]
fn a_try_is_used_up_only_while_others_pass() {
    let now = Instant::now();
    let mut lane = lane();
    assert_eq!(lane.observe("a", retry(), now, now), retry());
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        let Outcome::Wait { wait, doubt, .. } = lane.observe("a", retry(), now, now) else {
            panic!("a try was used up while nothing passed");
        };
        assert!(wait >= last && wait <= LONGEST_WAIT && doubt == Doubt::Answered);
        last = wait;
    }
    lane.observe("b", done(), now, now);
    assert_eq!(lane.observe("a", retry(), now, now), retry());
    assert_eq!(lane.gate(now), Gate::Open);
}

#[test]
fn three_failing_deliveries_are_not_at_fault() {
    let start = Instant::now();
    let mut lane = lane();
    lane.observe("a", retry(), start, start);
    lane.observe("b", retry(), start, start);
    assert!(matches!(lane.observe("c", retry(), start, start), Outcome::Pause { .. }));
    assert!(matches!(lane.gate(start), Gate::Closed(_)));
    lane.observe("d", done(), at(start, 5), at(start, 5));
    assert_eq!(lane.observe("a", retry(), start, start), retry());
}

#[test]
fn after_three_equal_refusals_the_posts_are_not_at_fault() {
    let now = Instant::now();
    let mut lane = lane();
    for (delivery, kind) in [("a", "subject"), ("b", "requester"), ("c", "requester"), ("c", "requester")] {
        assert_eq!(lane.observe(delivery, refused(kind), now, now), refused(kind));
    }
    assert!(matches!(lane.observe("d", refused("requester"), now, now), Outcome::Pause { .. }));
    lane.checked(now);
    assert!(matches!(lane.gate(now), Gate::Closed(_)), "only a create can end it");
    lane.observe("e", done(), at(now, 5), at(now, 5));
    assert_eq!(lane.observe("f", refused("requester"), now, now), refused("requester"));
}
