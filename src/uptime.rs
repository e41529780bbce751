//! A clock that goes on while the machine is suspended, unlike the one of `Instant` on Linux. Timers cannot
//! use it, so it is read where an attempt's age matters.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// On macOS this one includes a suspension.
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
