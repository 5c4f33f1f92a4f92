//! Spans of time: whole seconds, `never`, `off`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Quoted, Value, Wrong, leading_number};

/// A span of time: whole seconds, and few enough that nanoseconds fit into an `i64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Interval {
    seconds: u64,
}

pub(super) const UNITS: [(char, u64); 5] = [
    ('w', 604_800),
    ('d', 86_400),
    ('h', 3_600),
    ('m', 60),
    ('s', 1),
];

impl Interval {
    pub const ZERO: Interval = Interval { seconds: 0 };
    pub const MAX_SECONDS: u64 = i64::MAX as u64 / 1_000_000_000;

    pub const fn from_seconds(seconds: u64) -> Option<Interval> {
        if seconds <= Self::MAX_SECONDS {
            Some(Interval { seconds })
        } else {
            None
        }
    }

    pub const fn hours(hours: u32) -> Interval {
        Interval {
            seconds: hours as u64 * 3_600,
        }
    }

    pub const fn seconds(self) -> u64 {
        self.seconds
    }

    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl FromStr for Interval {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Interval, Wrong> {
        let too_long = || {
            Wrong(format!(
                "{} is longer than {} (292 years)",
                Quoted(text),
                Interval {
                    seconds: Interval::MAX_SECONDS
                }
            ))
        };
        let (mut rest, mut seconds, mut used) = (text, 0_u64, [false; UNITS.len()]);
        if rest.is_empty() {
            return Err(Wrong::not(text, "a duration"));
        }
        while !rest.is_empty() {
            let (number, after) =
                leading_number(rest).ok_or_else(|| Wrong::not(text, "a duration"))?;
            let unit = match after.chars().next() {
                // A plain number is seconds, but only alone: in `1h30` nobody knows what the 30 are.
                None if rest.len() == text.len() => UNITS.len() - 1,
                None => {
                    return Err(Wrong(format!(
                        "the last number in {} has no unit",
                        Quoted(text)
                    )));
                }
                Some(c) => UNITS
                    .iter()
                    .position(|&(unit, _)| unit == c)
                    .ok_or_else(|| Wrong::not(text, "a duration"))?,
            };
            if std::mem::replace(&mut used[unit], true) {
                return Err(Wrong(format!(
                    "{} has the unit `{}` twice",
                    Quoted(text),
                    UNITS[unit].0
                )));
            }
            let part = number
                .and_then(|n| n.checked_mul(UNITS[unit].1))
                .ok_or_else(too_long)?;
            seconds = seconds.checked_add(part).ok_or_else(too_long)?;
            rest = after.get(1..).unwrap_or("");
        }
        Interval::from_seconds(seconds).ok_or_else(too_long)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (week, mut rest) = (UNITS[0].1, self.seconds);
        if rest == 0 {
            return f.write_str("0s");
        }
        // `1w1d` is harder to read than `8d`: weeks only when they come out even.
        if rest % week == 0 {
            return write!(f, "{}w", rest / week);
        }
        for (unit, seconds) in &UNITS[1..] {
            if rest >= *seconds {
                write!(f, "{}{unit}", rest / seconds)?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

impl Value for Interval {
    const ALLOWED: &'static str =
        "a duration such as 90s, 15m, 1h30m, 24h, 7d, 2w or plain seconds";
    type Meant = Duration;
    fn meant(&self) -> Duration {
        self.duration()
    }
}

/// A lifetime. Nothing lives for no time at all: 0 is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ttl {
    After(Interval),
    Never,
}

impl Ttl {
    pub fn interval(self) -> Option<Interval> {
        match self {
            Ttl::After(interval) => Some(interval),
            Ttl::Never => None,
        }
    }
}

impl FromStr for Ttl {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Ttl, Wrong> {
        if text == "never" {
            return Ok(Ttl::Never);
        }
        match text.parse()? {
            Interval::ZERO => Err(Wrong(format!(
                "{} would expire everything at once",
                Quoted(text)
            ))),
            interval => Ok(Ttl::After(interval)),
        }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ttl::After(interval) => interval.fmt(f),
            Ttl::Never => f.write_str("never"),
        }
    }
}

impl Value for Ttl {
    const ALLOWED: &'static str =
        "a duration above 0 such as 90s, 15m, 1h30m, 24h, 7d, 2w or plain seconds, or `never`";
    type Meant = Option<Duration>;
    fn meant(&self) -> Option<Duration> {
        self.interval().map(Interval::duration)
    }
}

/// How long before a deadline to warn, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WarnBefore(pub Option<Interval>);

impl FromStr for WarnBefore {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<WarnBefore, Wrong> {
        match text {
            "off" => Ok(WarnBefore(None)),
            _ => text
                .parse()
                .map(|interval| WarnBefore(Some(interval).filter(|i| *i != Interval::ZERO))),
        }
    }
}

impl fmt::Display for WarnBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(interval) => interval.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl Value for WarnBefore {
    const ALLOWED: &'static str = "a duration such as 15m, 1h30m, 7d or plain seconds, or `off`";
    type Meant = Option<Duration>;
    fn meant(&self) -> Option<Duration> {
        self.0.map(Interval::duration)
    }
}
