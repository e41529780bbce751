//! The channels of a chat: each has one delivery at a time, its own pace and its own pauses, so that a broken channel
//! does not delay the others. Time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use crate::alert::{Alarm, Registry};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest wait until a delivery asks for its turn again: many of those ahead may need no request.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// After this time, a pause raises an alert.
const ALARMING: Duration = Duration::from_secs(300);

/// The state of all channels, in this process.
pub struct Channels {
    destination: &'static str,
    /// The code of the alert that a channel is paused.
    alert: &'static str,
    /// The least time between two requests to one channel.
    pace: Duration,
    known: Mutex<BTreeMap<String, Channel>>,
}

#[derive(Default)]
struct Channel {
    is_busy: bool,
    /// No request before this time.
    next: Option<Instant>,
    /// The turn of the last delivery in the queue.
    last_turn: Option<Instant>,
    pause: Option<Pause>,
    /// Raised while the pause needs somebody.
    alarm: Option<Alarm>,
}

struct Pause {
    since: Instant,
    until: Instant,
    step: Duration,
    reason: String,
}

/// Whether a delivery may go to its channel.
pub enum Turn<'a> {
    /// It may, and no other delivery may until this is dropped.
    Now(Exclusive<'a>),
    /// Other deliveries go first, for about this time.
    Later(Duration),
    /// The channel is paused, for this reason.
    Paused(String),
}

/// The exclusive use of a channel.
pub struct Exclusive<'a> {
    channels: &'a Channels,
    name: &'a str,
}

impl Channels {
    pub fn new(destination: &'static str, alert: &'static str, pace: Duration) -> Channels {
        Channels { destination, alert, pace, known: Mutex::default() }
    }

    /// Gives a delivery its turn. After a pause, one delivery goes first.
    pub fn take_turn<'a>(&'a self, name: &'a str, now: Instant) -> Turn<'a> {
        let mut known = self.known.lock();
        let channel = known.entry(name.to_owned()).or_default();
        if let Some(pause) = channel.pause.as_ref().filter(|pause| now < pause.until) {
            return Turn::Paused(pause.reason.clone());
        }
        if channel.is_busy {
            let turn = channel.last_turn.map_or(now, |last| last.max(now)) + self.pace;
            let turn = turn.min(now + LONGEST_WAIT);
            channel.last_turn = Some(turn);
            return Turn::Later(turn - now);
        }
        channel.is_busy = true;
        Turn::Now(Exclusive { channels: self, name })
    }

    /// Whether deliveries to a channel may be tried.
    pub fn is_open(&self, name: &str, now: Instant) -> bool {
        let known = self.known.lock();
        known.get(name).and_then(|channel| channel.pause.as_ref()).is_none_or(|pause| now >= pause.until)
    }

    /// Whether a channel is paused, or was when something was last sent to it.
    pub fn is_paused(&self, name: &str) -> bool {
        self.known.lock().get(name).is_some_and(|channel| channel.pause.is_some())
    }
}

impl Exclusive<'_> {
    /// Returns the wait before the next request, and counts this request.
    pub fn pace(&self, now: Instant) -> Duration {
        self.change(|channel| {
            let at = channel.next.map_or(now, |next| next.max(now));
            channel.next = Some(at + self.channels.pace);
            at - now
        })
    }

    /// Pauses the channel, for `asked` or for longer each time. `needs_action`: waiting does not help.
    pub fn pause(
        &self,
        reason: &str,
        asked: Option<Duration>,
        needs_action: bool,
        now: Instant,
        alerts: &Registry,
    ) {
        let Channels { destination, alert, .. } = *self.channels;
        let (wait, is_alarming) = self.change(|channel| {
            let last = channel.pause.take();
            let step = last.as_ref().map_or(FIRST_PAUSE, |last| (last.step * 2).min(LONGEST_PAUSE));
            let since = last.map_or(now, |last| last.since);
            let wait = asked.map_or(step, |asked| asked.max(Duration::from_secs(1)));
            let has_lasted = now.duration_since(since).max(wait) >= ALARMING;
            let alarm = channel.alarm.get_or_insert_with(|| Alarm::new(alerts, alert, self.name));
            let is_alarming = (needs_action || has_lasted) && alarm.raise(alert, reason, now);
            channel.pause = Some(Pause { since, until: now + wait, step, reason: reason.to_owned() });
            (wait, is_alarming)
        });
        let (channel, seconds) = (self.name, wait.as_secs());
        match is_alarming {
            true => error!(
                event = "channel_paused",
                alert,
                destination,
                channel,
                "{destination} {channel} is paused, next try in {seconds} s: {reason}"
            ),
            false => warn!(
                event = "channel_paused",
                destination, channel, "{destination} {channel} is paused, next try in {seconds} s: {reason}"
            ),
        }
    }

    /// Ends a pause, if there is one.
    pub fn resume(&self) {
        let was_paused = self.change(|channel| {
            channel.alarm.take().map(|mut alarm| alarm.clear());
            channel.pause.take().is_some()
        });
        if was_paused {
            let (destination, channel) = (self.channels.destination, self.name);
            info!(event = "channel_resumed", destination, channel, "{destination} {channel} works again");
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Channel) -> T) -> T {
        change(self.channels.known.lock().entry(self.name.to_owned()).or_default())
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.change(|channel| channel.is_busy = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn channels() -> Channels {
        Channels::new("test", "test_channel", SECOND)
    }

    fn wait(turn: &Turn) -> Option<Duration> {
        match turn {
            Turn::Now(_) => Some(Duration::ZERO),
            Turn::Later(wait) => Some(*wait),
            Turn::Paused(_) => None,
        }
    }

    #[test]
    fn a_channel_has_one_delivery_at_a_time_and_others_have_theirs() {
        let (channels, now) = (channels(), Instant::now());
        let first = channels.take_turn("a", now);
        assert_eq!(wait(&first), Some(Duration::ZERO));
        assert_eq!(wait(&channels.take_turn("b", now)), Some(Duration::ZERO));
        // Each gets its own turn.
        for seconds in 1..=3 {
            assert_eq!(wait(&channels.take_turn("a", now)), Some(SECOND * seconds));
        }
        let waits = (0..100).map(|_| wait(&channels.take_turn("a", now)));
        assert_eq!(waits.max(), Some(Some(LONGEST_WAIT)));
        drop(first);
        assert_eq!(wait(&channels.take_turn("a", now)), Some(Duration::ZERO));
    }

    #[test]
    fn requests_keep_their_pace() {
        let (channels, now) = (channels(), Instant::now());
        let Turn::Now(turn) = channels.take_turn("a", now) else { panic!("it is free") };
        assert_eq!(turn.pace(now), Duration::ZERO);
        assert_eq!(turn.pace(now), SECOND);
        assert_eq!(turn.pace(now + SECOND * 5), Duration::ZERO);
    }

    #[test]
    fn a_pause_grows_until_something_passes() {
        let (channels, mut now) = (channels(), Instant::now());
        for seconds in [5, 10, 20, 40, 60, 60] {
            let Turn::Now(turn) = channels.take_turn("a", now) else { panic!("it is open") };
            turn.pause("archived", None, true, now, &Registry::default());
            drop(turn);
            assert!(!channels.is_open("a", now + SECOND * (seconds - 1)));
            assert!(!channels.is_open("a", now) && channels.is_paused("a") && channels.is_open("b", now));
            assert!(matches!(channels.take_turn("a", now), Turn::Paused(reason) if reason == "archived"));
            now += SECOND * seconds;
            assert!(channels.is_open("a", now));
        }
        let Turn::Now(turn) = channels.take_turn("a", now) else { panic!("it is open") };
        turn.resume();
        assert!(!channels.is_paused("a"));
        turn.pause("archived", None, true, now, &Registry::default());
        assert!(channels.is_open("a", now + FIRST_PAUSE));
    }
}
