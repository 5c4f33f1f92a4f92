//! The keys of a rule: one table for mount options, TOML and live changes, for help and for errors.
//!
//! What was typed (`Values`, every key optional) and what it means (`Settings`, every key settled) are two
//! types made from the same table. How rules combine over the tree is `policy`'s business.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cron::Schedule;
use crate::units::{
    Count, Interval, Passes, Percent, PermissionBits, Quoted, Size, SizeOrPercent, Ttl,
};
use crate::units::{Value, WarnBefore, Wrong};

mod path;
mod values;

pub use path::{Globs, PRIVATE_NAME, RulePath, Step};
pub use values::{
    DiesWith, Directory, Enforce, Erase, Files, InUse, Isolate, Names, OnFull, Priority,
    QuotaErrno, Switch, TimeZone, TtlFrom, Unit,
};

/// Keys whose grammar is settled and whose effect this version doesn't have yet. A key that would silently do
/// nothing is worse than none: it is refused.
pub const NOT_YET_SUPPORTED: &[Key] = &[
    Key::MaxTtl,
    Key::UserExtend,
    Key::Unit,
    Key::InUse,
    Key::DiesWith,
    Key::Grace,
    Key::Schedule,
    Key::ScheduleTz,
    Key::UserQuota,
    Key::UserInodes,
    Key::OnFull,
    Key::EvictMinAge,
    Key::EvictAt,
    Key::EvictTo,
    Key::Enforce,
    Key::WarnAt,
    Key::WarnBefore,
    Key::Priority,
    Key::Encrypt,
    Key::Dir,
    Key::FileMode,
    Key::DirMode,
    Key::Files,
    Key::Names,
    Key::Isolate,
];

/// Is `NOT_YET_SUPPORTED` looked at? Tests of what later versions will do don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Supported,
    #[cfg(test)]
    Everything,
}

impl Gate {
    pub fn admits(self, key: Key) -> bool {
        match self {
            Gate::Supported => !NOT_YET_SUPPORTED.contains(&key),
            #[cfg(test)]
            Gate::Everything => true,
        }
    }
}

/// A rule of a configuration, by its place there. 0 is `[defaults]`, the rule of the whole mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleId(pub u32);

impl RuleId {
    pub const DEFAULTS: RuleId = RuleId(0);
}

/// What a key of this type means once settled: with a default always something, without one perhaps nothing.
macro_rules! meant {
    (type $type:ty, $default:expr) => { <$type as Value>::Meant };
    (type $type:ty) => { Option<<$type as Value>::Meant> };
    (value $typed:expr, $type:ty, $default:expr) => {
        match $typed { Some(typed) => Value::meant(typed), None => <$type as Value>::meant(&$default) }
    };
    (value $typed:expr, $type:ty) => { $typed.map(Value::meant) };
    (text $default:expr) => { Some($default.to_string()) };
    (text) => { None };
}

macro_rules! keys {
    (
        inherited { $($(#[$idoc:meta])* $ikey:ident $ifield:ident: $itype:ty $(= $default:expr)?, $ihelp:literal;)+ }
        own { $($okey:ident $ofield:ident: $otype:ty, $ohelp:literal;)+ }
        aliases { $($alias:literal => $aliased:ident),* }
    ) => {
        /// A key of a rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Key { $($ikey,)+ $($okey,)+ }

        impl Key {
            pub const ALL: &'static [Key] = &[$(Key::$ikey,)+ $(Key::$okey,)+];
            /// Those that a subtree hands on to the subtrees in it. They come first in `ALL`.
            pub const INHERITED: &'static [Key] = &[$(Key::$ikey,)+];
            pub const ALIASES: &'static [(&'static str, Key)] = &[$(($alias, Key::$aliased)),*];

            pub const fn name(self) -> &'static str {
                match self { $(Key::$ikey => stringify!($ifield),)+ $(Key::$okey => stringify!($ofield),)+ }
            }

            pub const fn help(self) -> &'static str {
                match self { $(Key::$ikey => $ihelp,)+ $(Key::$okey => $ohelp,)+ }
            }

            /// The values that the key takes, to complete "allowed: ...".
            pub const fn allowed(self) -> &'static str {
                match self {
                    $(Key::$ikey => <$itype as Value>::ALLOWED,)+
                    $(Key::$okey => <$otype as Value>::ALLOWED,)+
                }
            }

            /// What the key says when an option gives no value.
            pub const fn bare(self) -> Option<&'static str> {
                match self {
                    $(Key::$ikey => <$itype as Value>::BARE,)+
                    $(Key::$okey => <$otype as Value>::BARE,)+
                }
            }

            /// The default as one would type it; `None` if the key then does nothing.
            pub fn default_text(self) -> Option<String> {
                match self {
                    $(Key::$ikey => meant!(text $($default)?),)+
                    $(Key::$okey => None,)+
                }
            }
        }

        /// What was typed for a rule: each key, if it was given.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Values {
            $(
                #[doc = $ihelp]
                #[serde(skip_serializing_if = "Option::is_none", default)]
                pub $ifield: Option<$itype>,
            )+
            $(
                #[doc = $ohelp]
                #[serde(skip_serializing_if = "Option::is_none", default)]
                pub $ofield: Option<$otype>,
            )+
        }

        impl Values {
            pub fn set(&mut self, key: Key, text: &str) -> Result<(), Wrong> {
                match key {
                    $(Key::$ikey => self.$ifield = Some(text.parse()?),)+
                    $(Key::$okey => self.$ofield = Some(text.parse()?),)+
                }
                Ok(())
            }

            pub fn clear(&mut self, key: Key) {
                match key { $(Key::$ikey => self.$ifield = None,)+ $(Key::$okey => self.$ofield = None,)+ }
            }

            pub fn has(&self, key: Key) -> bool {
                match key {
                    $(Key::$ikey => self.$ifield.is_some(),)+
                    $(Key::$okey => self.$ofield.is_some(),)+
                }
            }

            /// These values and, for the keys that aren't given here, those of `base`.
            pub fn over(&self, base: &Values) -> Values {
                Values {
                    $($ifield: self.$ifield.clone().or_else(|| base.$ifield.clone()),)+
                    $($ofield: self.$ofield.clone().or_else(|| base.$ofield.clone()),)+
                }
            }

            /// The value as one would type it.
            pub fn text(&self, key: Key) -> Option<String> {
                match key {
                    $(Key::$ikey => self.$ifield.as_ref().map(ToString::to_string),)+
                    $(Key::$okey => self.$ofield.as_ref().map(ToString::to_string),)+
                }
            }
        }

        /// What holds for a file or directory: every inherited key, settled.
        #[derive(Debug, Clone)]
        pub struct Settings {
            /// The rule that comes first here, the one to name to a user.
            pub rule: RuleId,
            $(#[doc = $ihelp] pub $ifield: meant!(type $itype $(, $default)?),)+
        }

        impl Settings {
            /// `typed` says for each inherited key which rule's values settle it.
            pub fn settle<'v>(rule: RuleId, typed: impl Fn(Key) -> &'v Values) -> Settings {
                Settings {
                    rule,
                    $($ifield: meant!(value typed(Key::$ikey).$ifield.as_ref(), $itype $(, $default)?),)+
                }
            }
        }
    };
}

keys! {
    inherited {
        Ttl ttl: Ttl = Ttl::Never, "How long a file lives.";
        TtlFrom ttl_from: TtlFrom = TtlFrom::Created, "What the lifetime counts from.";
        MaxTtl max_ttl: Ttl = Ttl::Never, "The longest life from creation, whatever else is said.";
        UserExtend user_extend: Interval = Interval::ZERO, "How far past the deadline owners may renew or hold.";
        InUse in_use: InUse = InUse::Keep, "What happens to an expired file that is in use.";
        DiesWith dies_with: DiesWith = DiesWith::None, "Whose end is the file's end too.";
        Grace grace: Interval = Interval::ZERO, "How long after expiry a file can still be restored.";
        Schedule schedule: Schedule, "The only times at which expired files are removed.";
        ScheduleTz schedule_tz: TimeZone, "The time zone of the schedule; without it local time.";
        MaxFile max_file: Size = Size::default(), "The largest size of one file.";
        OnFull on_full: OnFull = OnFull::Error, "What makes room at a limit.";
        EvictMinAge evict_min_age: Interval = Interval::hours(1), "The age below which nothing is evicted.";
        EvictAt evict_at: Percent = Percent::FULL, "The share of a limit at which eviction starts.";
        EvictTo evict_to: Percent = Percent::whole(90), "The share of a limit at which eviction ends.";
        QuotaErrno quota_errno: QuotaErrno, "What a program gets at a limit; without it ENOSPC for a subtree's, EDQUOT for a user's.";
        Enforce enforce: Enforce = Enforce::Exact, "How exactly limits hold.";
        WarnAt warn_at: Percent = Percent::whole(80), "The share of a limit at which to warn.";
        WarnBefore warn_before: WarnBefore = WarnBefore(None), "How long before a deadline to warn.";
        Priority priority: Priority = Priority(0), "The rank in eviction: lower goes first.";
        Erase erase: Erase = Erase::None, "What happens to data before its blocks are freed.";
        Passes passes: Passes = Passes::ONE, "How often erased data is overwritten.";
        Encrypt encrypt: Switch = Switch(false), "Encrypt contents under keys that exist only in memory.";
        FileMode file_mode: PermissionBits = PermissionBits::new(0o777), "The most permissions that a file may have.";
        DirMode dir_mode: PermissionBits = PermissionBits::new(0o777), "The most permissions that a directory may have.";
        Names names: Names, "What new names must look like.";
        Isolate isolate: Isolate = Isolate::None, "Who sees whose files.";
    }
    own {
        Quota quota: SizeOrPercent, "The most bytes below the path.";
        Inodes inodes: Count, "The most files and directories below the path.";
        UserQuota user_quota: Size, "The most bytes below the path for each user.";
        UserInodes user_inodes: Count, "The most files and directories below the path for each user.";
        Unit unit: Unit, "What lives and dies as one.";
        Files files: Files, "May plain files be made directly in the directory?";
        Dir dir: Directory, "Make the directory at mount, with this mode, user and group.";
    }
    aliases { "size" => Quota, "nr_inodes" => Inodes }
}

impl Key {
    /// By name or alias.
    pub fn named(name: &str) -> Option<Key> {
        let by_name = Key::ALL.iter().copied().find(|key| key.name() == name);
        by_name.or_else(|| {
            Key::ALIASES
                .iter()
                .find(|(alias, _)| *alias == name)
                .map(|&(_, key)| key)
        })
    }

    /// Is the key handed on to subtrees?
    pub fn is_inherited(self) -> bool {
        (self as usize) < Key::INHERITED.len()
    }

    /// Every spelling that this version takes, for the error that answers an unknown one.
    pub fn spellings(gate: Gate) -> impl Iterator<Item = &'static str> {
        let names = Key::ALL
            .iter()
            .map(|key| (key.name(), *key))
            .chain(Key::ALIASES.iter().copied());
        names
            .filter(move |&(_, key)| gate.admits(key))
            .map(|(name, _)| name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Values {
    /// The keys that were given, in the table's order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        Key::ALL.iter().copied().filter(|&key| self.has(key))
    }
}

impl Settings {
    /// Can a file with these settings ever expire by itself?
    pub fn may_expire(&self) -> bool {
        self.ttl.is_some() || self.max_ttl.is_some() || self.dies_with != DiesWith::None
    }

    /// The life that the rule gives: never longer than the ceiling.
    pub fn lifetime(&self) -> Option<Duration> {
        [self.ttl, self.max_ttl].into_iter().flatten().min()
    }
}

/// One rule as it was typed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSpec {
    pub path: RulePath,
    pub globs: Globs,
    pub values: Values,
    /// Where it was typed: `-o rule=/tmp`, `FILE:LINE:COLUMN`.
    pub origin: String,
}

impl RuleSpec {
    /// The rule's path and, after it, its globs: as an option `rule=` begins.
    pub fn name(&self) -> String {
        let globs = self.globs.iter().map(|glob| format!(":match={glob}"));
        std::iter::once(self.path.to_string())
            .chain(globs)
            .collect()
    }

    /// Do both speak of the same files, so that one must replace or contradict the other?
    pub fn same_place(&self, other: &RuleSpec) -> bool {
        self.path == other.path && self.globs == other.globs
    }

    /// For an error that names the rule: what it is and where it stands.
    pub(crate) fn described(&self) -> String {
        format!("rule {} ({})", Quoted(&self.name()), self.origin)
    }
}

#[cfg(test)]
mod tests;
