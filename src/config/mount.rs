//! Options of the mount as a whole that are ttlfs's own, and those of the log.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rule::{Gate, Switch};
use crate::units::{Percent, Quoted, Size, Value, Wrong};

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$default:meta])? $variant:ident = $text:literal),+ } $allowed:literal)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub enum $name { $($(#[$default])? #[serde(rename = $text)] $variant),+ }

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
    )+};
}

words! {
    /// What to do about content that was there before ttlfs.
    Adopt { #[default] Refuse = "refuse", Now = "now", Birth = "birth" } "`now` (lifetimes start now), `birth` or `refuse`"
    /// How file contents travel.
    IoMode { #[default] Auto = "auto", Passthrough = "passthrough", Direct = "direct", Cached = "cached" }
        "`auto`, `passthrough`, `direct` or `cached`"
    /// What becomes of the content when the mount starts or stops.
    AtStart { #[default] Keep = "keep", Purge = "purge" } "`keep` or `purge`"
    LogLevel { Error = "error", Warn = "warn", #[default] Info = "info", Debug = "debug", Trace = "trace" }
        "`error`, `warn`, `info`, `debug` or `trace`"
    LogFormat { #[default] Text = "text", Json = "json" } "`text` or `json`"
}

macro_rules! mount_keys {
    ($($key:ident $field:ident: $type:ty => $meant:ty, $help:literal;)+) => {
        /// An option of the mount as a whole, in `-o` or under `[mount]`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum MountKey { $($key),+ }

        impl MountKey {
            pub(super) const ALL: &'static [MountKey] = &[$(MountKey::$key),+];

            pub fn name(self) -> &'static str {
                match self { $(MountKey::$key => stringify!($field)),+ }
            }
            pub fn allowed(self) -> &'static str {
                match self { $(MountKey::$key => <$type as Value>::ALLOWED),+ }
            }
            pub fn bare(self) -> Option<&'static str> {
                match self { $(MountKey::$key => <$type as Value>::BARE),+ }
            }
        }

        /// What was asked for the mount as a whole.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub struct MountOptions {
            /// From the file; the command line's win.
            pub backing: Option<PathBuf>,
            pub mountpoint: Option<PathBuf>,
            $(#[doc = $help] pub $field: $meant,)+
        }

        impl MountOptions {
            pub(super) fn set(&mut self, key: MountKey, text: &str) -> Result<(), Wrong> {
                match key { $(MountKey::$key => self.$field = text.parse::<$type>()?.meant().into(),)+ }
                Ok(())
            }
        }
    };
}

mount_keys! {
    Acl acl: Switch => bool, "POSIX access control lists.";
    Adopt adopt: Adopt => Adopt, "What to do about content that is there already.";
    EraseBestEffort erase_best_effort: Switch => bool, "Erase even where overwriting may not reach the blocks.";
    Io io: IoMode => IoMode, "How file contents travel.";
    OnStart on_start: AtStart => AtStart, "What becomes of the content at mount.";
    OnStop on_stop: AtStart => AtStart, "What becomes of the content at unmount.";
    Reserve reserve: Percent => Option<Percent>, "The share of the backing store never to be used.";
    IoLimit io_limit: Size => Option<u64>, "The most bytes per second that the reaper reads and writes.";
    EraseBacklog erase_backlog: Size => Option<u64>, "The bytes waiting for erasure beyond which growth waits.";
}

/// Keys with a settled grammar and no effect yet: refused, as those of rules are.
pub(super) const NOT_YET_SUPPORTED: &[MountKey] = &[
    MountKey::OnStart,
    MountKey::OnStop,
    MountKey::Reserve,
    MountKey::IoLimit,
    MountKey::EraseBacklog,
];

/// Sections of the file likewise.
pub(super) const SECTIONS_NOT_YET_SUPPORTED: &[&str] = &["audit", "metrics", "alerts"];

impl MountKey {
    pub(super) fn named(name: &str) -> Option<MountKey> {
        MountKey::ALL.iter().copied().find(|key| key.name() == name)
    }

    pub(super) fn is_admitted(self, gate: Gate) -> bool {
        match gate {
            Gate::Supported => !NOT_YET_SUPPORTED.contains(&self),
            #[cfg(test)]
            Gate::Everything => true,
        }
    }

    pub(super) fn names(gate: Gate) -> impl Iterator<Item = &'static str> {
        MountKey::ALL
            .iter()
            .filter(move |key| key.is_admitted(gate))
            .map(|key| key.name())
    }
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogOptions {
    /// `None`: not said, so that the environment may say it.
    pub level: Option<LogLevel>,
    pub format: LogFormat,
    /// `None`: standard error in front, the system's log in the background.
    pub file: Option<PathBuf>,
}
