//! How much: bytes, shares, counts.

use std::fmt;
use std::str::FromStr;

use super::{Quoted, Value, Wrong, leading_number};

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

    /// `None` above 100%.
    pub fn from_hundredths(hundredths: u16) -> Option<Percent> {
        (hundredths <= 10_000).then_some(Percent { hundredths })
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
