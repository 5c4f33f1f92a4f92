//! Quantities as users write them: durations, sizes, percentages, counts and modes.
//!
//! One parser for mount options, TOML and live changes. What is printed parses back to the same value.
//! A key's own limits (a `ttl` of 0, say) are types of their own, so that nobody can forget to check them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is wrong with a text, without what would be right: that is `Value::ALLOWED`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(pub String);

impl Wrong {
    pub(crate) fn not(text: &str, what: &str) -> Wrong {
        Wrong(format!("{} is not {what}", Quoted(text)))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user's text in an error: one line, in backticks, of bounded length.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_CHARS: usize = 80;
        f.write_str("`")?;
        for c in self.0.chars().take(SHOWN_CHARS) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        f.write_str(if self.0.chars().count() > SHOWN_CHARS {
            "...`"
        } else {
            "`"
        })
    }
}

/// A type that a key can have: how it is written, and what it means once it is settled.
pub trait Value: FromStr<Err = Wrong> + fmt::Display + Clone {
    /// Completes "allowed: ...".
    const ALLOWED: &'static str;
    /// May an option give the key without a value (`-o encrypt`)? Then this is what it says.
    const BARE: Option<&'static str> = None;
    type Meant;
    fn meant(&self) -> Self::Meant;
}

/// Serialised as written, so that JSON, TOML and options have one grammar.
macro_rules! serde_as_text {
    ($($type:ty),* $(,)?) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use serde_as_text;
serde_as_text!(
    Interval,
    Ttl,
    WarnBefore,
    Size,
    Percent,
    SizeOrPercent,
    Count,
    Mode,
    PermissionBits,
    Passes
);

/// Splits `123abc` into its number and the rest. Only ASCII digits are digits.
fn leading_number(text: &str) -> Option<(Option<u64>, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| (text[..digits].parse().ok(), &text[digits..]))
}

/// A span of time: whole seconds, and few enough that nanoseconds fit into an `i64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Interval {
    seconds: u64,
}

const UNITS: [(char, u64); 5] = [
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

/// A number of bytes that a file offset can hold. As a limit, 0 means none, as for tmpfs and kernel quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size {
    bytes: u64,
}

impl Size {
    pub const MAX_BYTES: u64 = i64::MAX as u64;

    pub const fn from_bytes(bytes: u64) -> Option<Size> {
        if bytes <= Self::MAX_BYTES {
            Some(Size { bytes })
        } else {
            None
        }
    }

    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// As a limit.
    pub fn limit_bytes(self) -> Option<u64> {
        Some(self.bytes).filter(|&bytes| bytes != 0)
    }
}

/// The factor of a size's suffix, in either case: `k` and `KiB` are 1024, `kB` is 1000.
fn size_factor(suffix: &str) -> Option<u64> {
    let suffix = suffix.to_ascii_lowercase();
    let (letter, base) = match suffix.as_bytes() {
        [] => return Some(1),
        [letter] | [letter, b'i', b'b'] => (*letter, 1024_u64),
        [letter, b'b'] => (*letter, 1000),
        _ => return None,
    };
    let power = b"kmgt".iter().position(|&l| l == letter)?;
    Some(base.pow(power as u32 + 1))
}

impl FromStr for Size {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Size, Wrong> {
        let parts =
            leading_number(text).and_then(|(number, suffix)| Some((number, size_factor(suffix)?)));
        let (number, factor) = parts.ok_or_else(|| Wrong::not(text, "a size"))?;
        number
            .and_then(|n| n.checked_mul(factor))
            .and_then(Size::from_bytes)
            .ok_or_else(|| {
                Wrong(format!(
                    "{} is more than {} bytes",
                    Quoted(text),
                    Size::MAX_BYTES
                ))
            })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_binary(f, self.bytes, "KMGT")
    }
}

/// Exact: the largest unit that leaves no remainder.
fn write_binary(f: &mut fmt::Formatter<'_>, value: u64, units: &str) -> fmt::Result {
    let power = if value == 0 {
        0
    } else {
        (value.trailing_zeros() as usize / 10).min(units.len())
    };
    let letter = power.checked_sub(1).map_or("", |at| &units[at..=at]);
    write!(f, "{}{letter}", value >> (10 * power))
}

impl Value for Size {
    const ALLOWED: &'static str = "bytes, with K, M, G or T (KiB.. are the same; KB, MB, GB, TB are powers of 1000), or 0 for no limit";
    type Meant = Option<u64>;
    fn meant(&self) -> Option<u64> {
        self.limit_bytes()
    }
}

/// 0 to 100 percent, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent {
    hundredths: u16,
}

impl Percent {
    pub const FULL: Percent = Percent::whole(100);

    /// A constant of our own, never a user's number.
    pub const fn whole(percent: u16) -> Percent {
        assert!(percent <= 100);
        Percent {
            hundredths: percent * 100,
        }
    }

    pub fn hundredths(self) -> u16 {
        self.hundredths
    }

    /// Rounded down. Can't overflow.
    pub fn of(self, whole: u64) -> u64 {
        (u128::from(whole) * u128::from(self.hundredths) / 10_000) as u64
    }
}

impl FromStr for Percent {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Percent, Wrong> {
        let wrong = || Wrong::not(text, "a percentage");
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, fraction) = number
            .split_once('.')
            .map_or((number, None), |(w, f)| (w, Some(f)));
        let fraction = match fraction {
            None => 0,
            Some(f) if matches!(f.len(), 1 | 2) && f.bytes().all(|b| b.is_ascii_digit()) => {
                f.parse::<u64>().map_err(|_| wrong())? * if f.len() == 1 { 10 } else { 1 }
            }
            Some(_) => return Err(wrong()),
        };
        let (Some(whole), "") = leading_number(whole).ok_or_else(wrong)? else {
            return Err(wrong());
        };
        match whole.checked_mul(100).map(|w| w.saturating_add(fraction)) {
            Some(hundredths @ 0..=10_000) => Ok(Percent {
                hundredths: hundredths as u16,
            }),
            _ => Err(Wrong(format!("{} is more than 100%", Quoted(text)))),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.hundredths / 100, self.hundredths % 100);
        match fraction {
            0 => write!(f, "{whole}%"),
            _ if fraction % 10 == 0 => write!(f, "{whole}.{}%", fraction / 10),
            _ => write!(f, "{whole}.{fraction:02}%"),
        }
    }
}

impl Value for Percent {
    const ALLOWED: &'static str = "a percentage from 0% to 100%";
    type Meant = Percent;
    fn meant(&self) -> Percent {
        *self
    }
}

/// A limit in bytes, or as a share of the backing store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SizeOrPercent {
    Size(Size),
    Percent(Percent),
}

impl SizeOrPercent {
    /// The limit in bytes, `None` for no limit. A share of a store so small that it rounds to nothing still limits.
    pub fn limit_bytes(self, backing_bytes: u64) -> Option<u64> {
        match self {
            SizeOrPercent::Size(size) => size.limit_bytes(),
            SizeOrPercent::Percent(Percent { hundredths: 0 }) => None,
            SizeOrPercent::Percent(percent) => {
                Some(percent.of(backing_bytes).clamp(1, Size::MAX_BYTES))
            }
        }
    }
}

impl FromStr for SizeOrPercent {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<SizeOrPercent, Wrong> {
        if text.ends_with('%') {
            text.parse().map(SizeOrPercent::Percent)
        } else {
            text.parse().map(SizeOrPercent::Size)
        }
    }
}

impl fmt::Display for SizeOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeOrPercent::Size(size) => size.fmt(f),
            SizeOrPercent::Percent(percent) => percent.fmt(f),
        }
    }
}

impl Value for SizeOrPercent {
    const ALLOWED: &'static str = "bytes, with K, M, G or T (KiB.. are the same; KB, MB, GB, TB are powers of 1000), \
         a percentage of the backing store such as 25%, or 0 for no limit";
    type Meant = SizeOrPercent;
    fn meant(&self) -> SizeOrPercent {
        *self
    }
}

/// A number of files. K, M and G as tmpfs takes them for `nr_inodes`; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(u64);

impl Count {
    /// As a limit.
    pub fn limit(self) -> Option<u64> {
        Some(self.0).filter(|&count| count != 0)
    }
}

impl FromStr for Count {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Count, Wrong> {
        let (number, suffix) = leading_number(text).ok_or_else(|| Wrong::not(text, "a count"))?;
        let factor = match suffix {
            "" => 1,
            "k" | "K" => 1 << 10,
            "m" | "M" => 1 << 20,
            "g" | "G" => 1 << 30,
            _ => return Err(Wrong::not(text, "a count")),
        };
        let count = number
            .and_then(|n| n.checked_mul(factor))
            .filter(|&n| n <= Size::MAX_BYTES);
        count
            .map(Count)
            .ok_or_else(|| Wrong(format!("{} is more than {}", Quoted(text), Size::MAX_BYTES)))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Value for Count {
    const ALLOWED: &'static str =
        "a count, with K, M or G for powers of 1024 as in tmpfs, or 0 for no limit";
    type Meant = Option<u64>;
    fn meant(&self) -> Option<u64> {
        self.limit()
    }
}

fn parse_octal(text: &str, most: u32) -> Result<u32, Wrong> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        return Err(Wrong::not(text, "an octal mode"));
    }
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= most => Ok(mode),
        _ => Err(Wrong(format!("{} is more than 0{most:o}", Quoted(text)))),
    }
}

macro_rules! octal {
    ($(#[$doc:meta])* $name:ident, $most:literal, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(u32);

        impl $name {
            /// A constant of our own, never a user's number.
            pub const fn new(bits: u32) -> $name {
                assert!(bits <= $most);
                $name(bits)
            }
            pub const fn bits(self) -> u32 {
                self.0
            }
        }
        impl FromStr for $name {
            type Err = Wrong;
            fn from_str(text: &str) -> Result<$name, Wrong> {
                parse_octal(text, $most).map($name)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:04o}", self.0)
            }
        }
        impl Value for $name {
            const ALLOWED: &'static str = $allowed;
            type Meant = u32;
            fn meant(&self) -> u32 {
                self.0
            }
        }
    };
}
octal!(
    /// A whole mode, with setuid, setgid and sticky bits.
    Mode,
    0o7777,
    "an octal mode from 0 to 7777"
);
octal!(
    /// Permission bits alone. The bits above them are no permissions, so no mask of these says anything about them.
    PermissionBits,
    0o777,
    "octal permission bits from 0 to 0777"
);

/// How often data is overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Passes(u8);

impl Passes {
    pub const ONE: Passes = Passes(1);
}

impl FromStr for Passes {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Passes, Wrong> {
        match leading_number(text) {
            Some((Some(passes @ 1..=35), "")) => Ok(Passes(passes as u8)),
            Some((_, "")) => Err(Wrong(format!("{} is out of range", Quoted(text)))),
            _ => Err(Wrong::not(text, "a number of passes")),
        }
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Value for Passes {
    const ALLOWED: &'static str = "1 to 35";
    type Meant = u8;
    fn meant(&self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests;
