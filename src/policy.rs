//! Compiled rules: from a directory to what holds in it, at the price of a look-up.
//!
//! A directory's path is followed name by name through an automaton that is made as it is walked. Its states are the
//! combinations of rules that really occur, not the directories: a million directories below one rule share one
//! state. A policy is replaced whole when rules change, and states mean nothing to any policy but the one that made
//! them.

use std::time::Duration;

use crate::config::{Config, ConfigError};
use crate::rule::{
    Directory, Enforce, Files, Key, OnFull, QuotaErrno, RuleId, RulePath, RuleSpec, Settings, Unit,
};
use crate::units::{Count, Percent, Size, SizeOrPercent};

mod automaton;

use automaton::Automaton;

/// What the rules know of a directory: the state that its path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirState(pub u32);

/// A number for settings, good for the policy that gave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SettingsId(pub u32);

/// The limits that a directory itself bears; those of the directories around it apply as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The rule to name. Where several set limits for one directory, the tightest of each counts.
    pub rule: RuleId,
    pub quota_bytes: Option<u64>,
    pub inodes: Option<u64>,
    pub user_quota_bytes: Option<u64>,
    pub user_inodes: Option<u64>,
    /// `None`: what is customary for the kind of limit.
    pub quota_errno: Option<QuotaErrno>,
    pub enforce: Enforce,
    pub on_full: OnFull,
    pub evict_at: Percent,
    pub evict_to: Percent,
    pub evict_min_age: Duration,
    pub warn_at: Percent,
}

impl Limits {
    /// What a program gets at the subtree's limit.
    pub fn subtree_errno(&self) -> QuotaErrno {
        self.quota_errno.unwrap_or(QuotaErrno::Enospc)
    }

    /// What a program gets at its user's limit.
    pub fn user_errno(&self) -> QuotaErrno {
        self.quota_errno.unwrap_or(QuotaErrno::Edquot)
    }

    fn merge<'r>(
        rules: impl Iterator<Item = (RuleId, &'r RuleSpec)>,
        settings: &Settings,
        backing_bytes: u64,
    ) -> Option<Limits> {
        let mut limits = Limits {
            rule: RuleId::DEFAULTS,
            quota_bytes: None,
            inodes: None,
            user_quota_bytes: None,
            user_inodes: None,
            quota_errno: settings.quota_errno,
            enforce: settings.enforce,
            on_full: settings.on_full,
            evict_at: settings.evict_at,
            evict_to: settings.evict_to,
            evict_min_age: settings.evict_min_age,
            warn_at: settings.warn_at,
        };
        let tighten = |limit: &mut Option<u64>, with: Option<u64>| {
            *limit = (*limit).into_iter().chain(with).min();
            with.is_some()
        };
        let mut any = false;
        for (id, rule) in rules {
            let values = &rule.values;
            let limiting = tighten(
                &mut limits.quota_bytes,
                values.quota.and_then(|q| q.limit_bytes(backing_bytes)),
            ) | tighten(&mut limits.inodes, values.inodes.and_then(Count::limit))
                | tighten(
                    &mut limits.user_quota_bytes,
                    values.user_quota.and_then(Size::limit_bytes),
                )
                | tighten(
                    &mut limits.user_inodes,
                    values.user_inodes.and_then(Count::limit),
                );
            if limiting {
                limits.rule = id;
                any = true;
            }
        }
        any.then_some(limits)
    }
}

/// What rules say about a directory itself and don't hand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    pub limits: Option<Limits>,
    pub unit: Unit,
    pub files: Files,
    /// Is this a rule's own directory, which never expires?
    pub is_rules_own: bool,
}

/// All rules of a mount, compiled.
#[derive(Debug)]
pub struct Policy {
    automaton: Automaton,
    names: Vec<String>,
}

impl Policy {
    /// `backing_bytes`: the size of the backing store, for limits in percent.
    pub fn compile(config: &Config, backing_bytes: u64) -> Result<Policy, ConfigError> {
        let rules: Vec<RuleSpec> = config.rules().map(|(_, rule)| rule.clone()).collect();
        let is_share =
            |rule: &&RuleSpec| matches!(rule.values.quota, Some(SizeOrPercent::Percent(_)));
        if let Some(rule) = rules.iter().find(is_share).filter(|_| backing_bytes == 0) {
            let wrong =
                "`quota` is a percentage, and the backing store doesn't say how large it is";
            return Err(ConfigError::new(
                rule.origin.clone(),
                wrong,
                "allowed: a quota in bytes",
            ));
        }
        let names = rules.iter().map(RuleSpec::name).collect();
        Ok(Policy {
            automaton: Automaton::new(rules, backing_bytes),
            names,
        })
    }

    /// The state of the mount's root.
    pub fn root(&self) -> DirState {
        self.automaton.root()
    }

    /// The state of the subdirectory `name` of a directory.
    pub fn enter(&self, dir: DirState, name: &[u8]) -> DirState {
        self.automaton.enter(dir, name)
    }

    /// What holds for a directory itself, and for plain files in it whose names no `match` singles out.
    /// Use `settings_for` where the name is known: for directories too, a `match` can hold.
    pub fn dir_settings(&self, dir: DirState) -> &Settings {
        self.automaton.settings(dir)
    }

    /// What holds for the entry `name` of a directory.
    pub fn settings_for(&self, dir: DirState, name: &[u8], is_dir: bool) -> &Settings {
        let dir = if is_dir { self.enter(dir, name) } else { dir };
        self.automaton.settings_for(dir, name)
    }

    /// A number for what holds for the entry `name` of a directory, other than a directory: see `settings`.
    pub fn settings_id_for(&self, dir: DirState, name: &[u8]) -> SettingsId {
        self.automaton.settings_id_for(dir, name)
    }

    /// The settings of a number that this policy gave out.
    pub fn settings(&self, id: SettingsId) -> &Settings {
        self.automaton.settings_by_id(id)
    }

    /// Does any directory bear a limit?
    pub fn has_limits(&self) -> bool {
        self.limits_at(self.root()).is_some() || self.has_limits_below_root()
    }

    /// Does any directory but the root bear a limit?
    pub fn has_limits_below_root(&self) -> bool {
        self.rules().any(|(_, rule)| {
            let v = &rule.values;
            !rule.path.is_root()
                && (v.quota.is_some()
                    || v.inodes.is_some()
                    || v.user_quota.is_some()
                    || v.user_inodes.is_some())
        })
    }

    /// Which rule settles a key for the entry `name` of a directory, or for plain files in it in general.
    /// `RuleId::DEFAULTS` where none does.
    pub fn origin(&self, dir: DirState, name: Option<&[u8]>, key: Key) -> RuleId {
        self.automaton.origin(dir, name, key)
    }

    /// What rules say about a directory itself and don't hand on.
    pub fn here(&self, dir: DirState) -> &Here {
        self.automaton.here(dir)
    }

    /// The limits that a directory itself bears, if any.
    pub fn limits_at(&self, dir: DirState) -> Option<&Limits> {
        self.here(dir).limits.as_ref()
    }

    /// Could anything at or below this directory ever expire?
    pub fn ttl_may_apply(&self, dir: DirState) -> bool {
        self.automaton.ttl_may_apply(dir)
    }

    /// Could a file directly in this directory be under a limit in bytes: of its size, or of a directory around it?
    pub fn any_byte_limit(&self, dir: DirState) -> bool {
        self.automaton.any_byte_limit(dir)
    }

    /// Could a rule's directory lie below this one? If not, all directories below it are of one state.
    pub fn has_rules_below(&self, dir: DirState) -> bool {
        self.automaton.has_rules_below(dir)
    }

    /// A rule's path and, after it, its globs: `/logs:match=*.log`. `/` for `[defaults]`.
    pub fn rule_name(&self, rule: RuleId) -> &str {
        self.names.get(rule.0 as usize).map_or("", String::as_str)
    }

    /// Every rule; `[defaults]` is the first.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleSpec)> {
        (0..).map(RuleId).zip(self.automaton.rules())
    }

    /// Directories known by name that bear limits, outermost first: they can be set up before anything is looked up.
    pub fn literal_limits(&self) -> Vec<(Vec<&[u8]>, DirState)> {
        let mut found: Vec<(Vec<&[u8]>, DirState)> = Vec::new();
        for (_, rule) in self.rules() {
            let Some(names) = rule.path.literal() else {
                continue;
            };
            let dir = self.walk(&names);
            if self.limits_at(dir).is_some() && !found.iter().any(|(known, _)| *known == names) {
                found.push((names, dir));
            }
        }
        found.sort_by_key(|(names, _)| names.len());
        found
    }

    /// Directories that rules make at mount, outermost first.
    pub fn directories(&self) -> Vec<(&RulePath, &Directory)> {
        let mut found: Vec<_> = self
            .rules()
            .filter(|(_, rule)| rule.path.literal().is_some())
            .filter_map(|(_, rule)| Some((&rule.path, rule.values.dir.as_ref()?)))
            .collect();
        found.sort_by_key(|(path, _)| path.steps().len());
        found
    }

    /// The state of the directory at the end of a path from the root.
    pub fn walk<N: AsRef<[u8]>>(&self, names: &[N]) -> DirState {
        names
            .iter()
            .fold(self.root(), |dir, name| self.enter(dir, name.as_ref()))
    }
}

#[cfg(test)]
mod tests;
