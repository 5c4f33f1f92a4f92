//! Quantities as users write them: durations, sizes, percentages, counts and modes.
//!
//! One parser for mount options, TOML and live changes. What is printed parses back to the same value.
//! A key's own limits (a `ttl` of 0, say) are types of their own, so that nobody can forget to check them.

use std::fmt;
use std::str::FromStr;

mod mode;
mod size;
mod time;

pub use mode::{Mode, PermissionBits};
pub use size::{Count, Percent, Size, SizeOrPercent};
pub use time::{Interval, Ttl, WarnBefore};

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
