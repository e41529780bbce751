use super::*;

const LEASE: Duration = Duration::from_secs(60);

fn schedule() -> Vec<Duration> {
    [5, 30, 120].map(Duration::from_secs).to_vec()
}

fn after(outcome: &Outcome, tries: i64, jitter: f64) -> Transition {
    next(outcome, tries, &schedule(), LEASE, jitter)
}

fn retry(doubt: Doubt) -> Outcome {
    Outcome::Retry { reason: Reason::new("it failed"), doubt }
}

#[test]
fn a_delivery_is_given_up_after_its_schedule() {
    for (tries, seconds) in [(0, 5), (1, 30), (2, 120)] {
        for (jitter, factor) in [(0.0, 1.0), (1.0, 1.2)] {
            let Transition::Again { after, tries: next, .. } = after(&retry(Doubt::None), tries, jitter)
            else {
                panic!("dead after {tries} tries");
            };
            assert_eq!(after, Duration::from_secs(seconds).mul_f64(factor));
            assert_eq!(next, tries + 1);
        }
    }
    for (doubt, in_doubt, rest) in [
        (Doubt::None, false, Duration::ZERO),
        (Doubt::Answered, true, Duration::ZERO),
        (Doubt::Unanswered, true, LEASE),
    ] {
        let reason = "given up after 4 tries: it failed".to_owned();
        assert_eq!(after(&retry(doubt), 3, 0.5), Transition::GivenUp { reason, in_doubt, rest });
    }
}

#[test]
fn a_pause_uses_up_no_try() {
    let pause = |retry_after, doubt| Outcome::Pause { reason: Reason::new("down"), doubt, retry_after };
    for tries in [0, 3, 100] {
        let Transition::Again { after, tries: next, in_doubt, .. } =
            after(&pause(Some(Duration::from_secs(93)), Doubt::None), tries, 0.5)
        else {
            panic!("a pause made it dead");
        };
        assert_eq!((after, next, in_doubt), (Duration::from_secs(93), tries, false));
    }
}

#[test]
fn unanswered_requests_wait_for_the_lease() {
    for (doubt, least, expected) in [
        (Doubt::None, Duration::from_secs(5), false),
        (Doubt::Answered, Duration::from_secs(5), true),
        (Doubt::Unanswered, LEASE, true),
    ] {
        let Transition::Again { after, in_doubt, .. } = after(&retry(doubt), 0, 0.0) else {
            panic!("dead");
        };
        assert_eq!((after, in_doubt), (least, expected));
    }
}
