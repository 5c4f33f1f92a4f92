//! The values of keys that are neither sizes nor times: choices, switches, names, owners.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::units::{Mode, Quoted, Value, Wrong, serde_as_text};

/// Choices, each spelled as users write it.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? } $allowed:literal)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($variant),+ }

        impl FromStr for $name {
            type Err = Wrong;
            fn from_str(text: &str) -> Result<$name, Wrong> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(Wrong(format!("{} is none of the choices", Quoted(text)))),
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $text),+ })
            }
        }
        impl Value for $name {
            const ALLOWED: &'static str = $allowed;
            type Meant = $name;
            fn meant(&self) -> $name {
                *self
            }
        }
        serde_as_text!($name);
        #[cfg(test)]
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
        }
    )+};
}

choices! {
    /// What a lifetime counts from.
    TtlFrom { Created = "created", Modified = "modified", Accessed = "accessed" } "`created`, `modified` or `accessed`"
    /// What lives and dies as one.
    Unit { File = "file", Tree = "tree" } "`file` or `tree`"
    /// What happens to an expired object that is in use.
    InUse { Keep = "keep", Unlink = "unlink", Destroy = "destroy" } "`keep`, `unlink` or `destroy`"
    /// Whose end is also a file's end.
    DiesWith { None = "none", Process = "process", Session = "session", Cgroup = "cgroup" }
        "`none`, `process`, `session` or `cgroup`"
    /// What makes room at a limit.
    OnFull { Error = "error", Evict = "evict" } "`error` or `evict`"
    /// What a program gets at a limit.
    QuotaErrno { Enospc = "ENOSPC", Edquot = "EDQUOT" } "`ENOSPC` or `EDQUOT`"
    /// How exactly a limit holds.
    Enforce { Exact = "exact", Fast = "fast" } "`exact` or `fast`"
    /// What happens to data before its blocks are freed.
    Erase { None = "none", Overwrite = "overwrite" } "`none` or `overwrite`"
    /// May plain files be made directly in this directory?
    Files { Allow = "allow", Deny = "deny" } "`allow` or `deny`"
    /// Who sees whose files.
    Isolate { None = "none", User = "user" } "`none` or `user`"
}

/// A yes or no. An option may leave the value out: `-o encrypt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Switch, Wrong> {
        text.parse()
            .map(Switch)
            .map_err(|_| Wrong(format!("{} is none of the choices", Quoted(text))))
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Switch {
    const ALLOWED: &'static str = "`true` or `false`";
    const BARE: Option<&'static str> = Some("true");
    type Meant = bool;
    fn meant(&self) -> bool {
        self.0
    }
}

/// The rank in eviction: lower goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Priority(pub i32);

impl FromStr for Priority {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Priority, Wrong> {
        text.parse()
            .map(Priority)
            .map_err(|_| Wrong::not(text, "an integer in range"))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Priority {
    const ALLOWED: &'static str = "an integer from -2147483648 to 2147483647";
    type Meant = i32;
    fn meant(&self) -> i32 {
        self.0
    }
}

/// The regex that new names must match whole. Names are bytes: one that isn't UTF-8 matches only
/// where the regex says so, with `(?-u)`.
#[derive(Debug, Clone)]
pub struct Names {
    typed: String,
    whole: regex::bytes::Regex,
}

impl PartialEq for Names {
    fn eq(&self, other: &Names) -> bool {
        self.typed == other.typed
    }
}

impl Eq for Names {}

impl FromStr for Names {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Names, Wrong> {
        // Compiled alone first, so that `)(` can't escape from the group that anchors it.
        let compile = |pattern: &str| {
            regex::bytes::RegexBuilder::new(pattern)
                .size_limit(1 << 20)
                .dfa_size_limit(1 << 20)
                .build()
        };
        match compile(text).and_then(|_| compile(&format!(r"\A(?:{text})\z"))) {
            Ok(whole) => Ok(Names {
                typed: text.to_owned(),
                whole,
            }),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim()
                    .trim_start_matches("error: ");
                Err(Wrong(format!("{} is not a regex: {reason}", Quoted(text))))
            }
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

impl Value for Names {
    const ALLOWED: &'static str = "a regex that new names must match whole, such as [a-z0-9._-]+";
    type Meant = regex::bytes::Regex;
    fn meant(&self) -> regex::bytes::Regex {
        self.whole.clone()
    }
}

/// A zone from the system's time zone database, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TimeZone(Arc<str>);

impl FromStr for TimeZone {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<TimeZone, Wrong> {
        // The name becomes a path below the database: nothing in it may lead out of there.
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+'))
        };
        if text.len() <= 64 && text.split('/').all(part) {
            Ok(TimeZone(text.into()))
        } else {
            Err(Wrong::not(text, "a time zone's name"))
        }
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for TimeZone {
    const ALLOWED: &'static str = "a name from the time zone database such as Europe/Berlin or UTC";
    type Meant = Arc<str>;
    fn meant(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// `MODE USER GROUP`: what the rule's directory is made with. Users and groups by name or number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Directory {
    pub mode: Mode,
    pub user: String,
    pub group: String,
}

impl FromStr for Directory {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Directory, Wrong> {
        let name = |name: &str| {
            !name.starts_with('-') && !name.contains([':', '/']) && !name.contains(char::is_control)
        };
        match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [mode, user, group] if name(user) && name(group) => Ok(Directory {
                mode: mode.parse()?,
                user: user.to_owned(),
                group: group.to_owned(),
            }),
            _ => Err(Wrong(format!(
                "{} is not a mode, a user and a group",
                Quoted(text)
            ))),
        }
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.mode, self.user, self.group)
    }
}

impl Value for Directory {
    const ALLOWED: &'static str = "MODE USER GROUP, such as \"0750 root adm\"";
    type Meant = Directory;
    fn meant(&self) -> Directory {
        self.clone()
    }
}

serde_as_text!(Switch, Priority, Names, TimeZone, Directory);
