//! Octal modes.

use std::fmt;
use std::str::FromStr;

use super::{Quoted, Value, Wrong};

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
