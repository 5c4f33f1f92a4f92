//! What is wrong with a configuration: one line, with the place, the offence and what would be right.

use std::fmt;

use crate::rule::{Gate, Key};
use crate::units::{Quoted, Wrong};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `-o ttl`, `FILE:LINE:COLUMN` or another name for what was given.
    pub place: String,
    pub wrong: String,
    /// Empty where nothing sensible can be said.
    pub allowed: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The place can be a file name with anything in it, and an error is one line.
        for c in self.place.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        write!(f, ": {}", self.wrong)?;
        if self.allowed.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.allowed)
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    pub(crate) fn new(
        place: impl Into<String>,
        wrong: impl Into<String>,
        allowed: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            place: place.into(),
            wrong: wrong.into(),
            allowed: allowed.into(),
        }
    }

    /// A value that doesn't parse.
    pub(super) fn value(
        place: impl Into<String>,
        name: &str,
        wrong: &Wrong,
        allowed: &str,
    ) -> ConfigError {
        let place = place.into();
        // Options name themselves; in a file, the line alone doesn't say which key was meant.
        let wrong = if place.ends_with(name) {
            wrong.to_string()
        } else {
            format!("`{name}`: {wrong}")
        };
        ConfigError::new(place, wrong, format!("allowed: {allowed}"))
    }

    pub(super) fn unknown(
        place: impl Into<String>,
        what: &str,
        name: &str,
        allowed: &[&'static str],
    ) -> ConfigError {
        let nearest = allowed
            .iter()
            .map(|candidate| (strsim::damerau_levenshtein(candidate, name), candidate))
            .filter(|&(distance, candidate)| distance <= (candidate.len().max(3) / 3).min(3))
            .min_by_key(|&(distance, _)| distance);
        let hint = nearest
            .map(|(_, near)| format!("did you mean `{near}`? "))
            .unwrap_or_default();
        ConfigError::new(
            place,
            format!("unknown {what} {}", Quoted(name)),
            format!("{hint}allowed: {}", allowed.join(", ")),
        )
    }

    pub(super) fn unsupported(
        place: impl Into<String>,
        name: &str,
        allowed: &[&str],
    ) -> ConfigError {
        ConfigError::new(
            place,
            format!("{} is not supported by this version", Quoted(name)),
            format!("allowed: {}", allowed.join(", ")),
        )
    }

    pub(super) fn missing(argument: &str, key: &str) -> ConfigError {
        ConfigError::new(
            argument,
            "missing",
            format!(
                "allowed: a directory on the command line, or `{key}` under [mount] in the configuration file"
            ),
        )
    }
}

/// The keys of rules that can be given, each spelling; `extra` are those that the place takes besides.
pub(super) fn rule_keys(extra: &[&'static str], gate: Gate) -> Vec<&'static str> {
    extra.iter().copied().chain(Key::spellings(gate)).collect()
}
