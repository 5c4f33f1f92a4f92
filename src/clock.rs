//! The time that deadlines are measured in: the wall clock at the mount, advanced by the boot clock.
//!
//! Stepping the wall clock while mounted moves no deadline; time in suspend counts.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// Later than any moment that can be reached: "never".
    pub const NEVER: Time = Time(i64::MAX);

    /// From seconds and nanoseconds; what does not fit is the nearest that does.
    pub fn from_parts(seconds: i64, nanoseconds: u32) -> Self {
        Self(
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(nanoseconds)),
        )
    }

    /// `span` later; never wraps.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)),
        )
    }

    /// How long until `later`; zero if it has passed.
    pub fn until(self, later: Time) -> Duration {
        Duration::from_nanos(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Time::NEVER {
            return f.write_str("never");
        }
        let seconds = self.0.div_euclid(1_000_000_000);
        let nanoseconds = self.0.rem_euclid(1_000_000_000) as i32;
        match jiff::Timestamp::new(seconds, nanoseconds) {
            Ok(stamp) => write!(f, "{stamp}"),
            Err(_) => write!(f, "{seconds}.{nanoseconds:09}"),
        }
    }
}

/// Tells the time.
#[derive(Debug)]
pub struct Clock {
    /// Wall time minus boot time when the clock was set.
    wall_minus_boot_ns: i64,
    /// Turned by tests.
    turned_ns: AtomicI64,
}

fn read(id: ClockId) -> i64 {
    let now = clock_gettime(id);
    Time::from_parts(now.tv_sec, now.tv_nsec as u32).0
}

impl Clock {
    /// A clock set from the wall clock now.
    pub fn from_wall() -> Self {
        Self::with_offset(read(ClockId::Realtime) - read(ClockId::Boottime))
    }

    /// A clock as an earlier server of the same mount had it.
    pub fn with_offset(wall_minus_boot_ns: i64) -> Self {
        Self {
            wall_minus_boot_ns,
            turned_ns: AtomicI64::new(0),
        }
    }

    /// What `with_offset` needs to make this clock again.
    pub fn offset_ns(&self) -> i64 {
        self.wall_minus_boot_ns
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Time {
        Time(
            read(ClockId::Boottime)
                + self.wall_minus_boot_ns
                + self.turned_ns.load(Ordering::Relaxed),
        )
    }

    /// Turns the clock forward: for tests.
    pub fn turn(&self, by: Duration) {
        self.turned_ns
            .fetch_add(by.as_nanos() as i64, Ordering::SeqCst);
    }
}
