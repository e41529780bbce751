//! A clock that runs while the machine is suspended, unlike `Instant` on Linux. Timers cannot use it, so it
//! is read wherever the age of an attempt matters.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// On macOS this clock includes suspensions.
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// A moment by this clock.
#[derive(Clone, Copy, Debug)]
pub struct Uptime(Duration);

impl Uptime {
    pub fn now() -> Uptime {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(CLOCK);
        Uptime(Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0)))
    }

    pub fn elapsed(self) -> Duration {
        Uptime::now().0.saturating_sub(self.0)
    }
}
