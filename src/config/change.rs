//! Changes to a mount that is there: `ttlfs set`, and a remount.

use super::options::{self, Use};
use super::{Config, ConfigError};
use crate::rule::{Gate, Key, RuleSpec};
use crate::units::Quoted;

impl Config {
    /// This configuration with keys of one rule changed; of the whole mount where no rule is named.
    /// Checked whole: where anything is wrong, nothing changes.
    pub fn with_changes(
        &self,
        rule: Option<&str>,
        changes: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        self.changed_through(rule, changes, Gate::Supported)
    }

    pub(super) fn changed_through(
        &self,
        rule: Option<&str>,
        changes: &[(&str, &str)],
        gate: Gate,
    ) -> Result<Config, ConfigError> {
        let mut config = self.clone();
        let at = rule.map(|name| self.find_rule(name)).transpose()?.flatten();
        for &(name, text) in changes {
            let Some(key) = Key::named(name) else {
                return Err(ConfigError::unknown(
                    "set",
                    "key",
                    name,
                    &super::error::rule_keys(&[], gate),
                ));
            };
            if !gate.admits(key) {
                return Err(ConfigError::unsupported(
                    "set",
                    name,
                    &super::error::rule_keys(&[], gate),
                ));
            }
            let mut only = crate::rule::Values::default();
            let set = only.set(key, text);
            set.map_err(|wrong| {
                ConfigError::value(format!("set {name}"), name, &wrong, key.allowed())
            })?;
            match at {
                Some(at) => config.rules[at].values = only.over(&config.rules[at].values),
                None => options::set_for_mount(&mut config, key, &only),
            }
        }
        config.finish()
    }

    /// This configuration after `mount -o remount,OPTIONS`: only what is given changes, and only keys of rules.
    pub fn remounted(&self, options: &[&str]) -> Result<Config, ConfigError> {
        let mut config = self.clone();
        options::apply_for(
            &mut config,
            &options::split_all(options),
            Gate::Supported,
            Use::Remount,
        )?;
        config.mount = self.mount.clone();
        config.kernel = self.kernel.clone();
        config.finish()
    }

    /// The index of the rule with this name, `None` for the whole mount's.
    fn find_rule(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        let rules = || self.rules.iter().enumerate().skip(1);
        let path = name.trim_end_matches('/');
        let found = rules().find(|(_, rule)| {
            rule.name() == name || (rule.globs.is_empty() && rule.path.as_str() == path)
        });
        match found {
            Some((at, _)) => Ok(Some(at)),
            None if name == "/" => Ok(None),
            None => {
                let names: Vec<String> = self.rules.iter().map(RuleSpec::name).collect();
                let wrong = format!("no rule is named {}", Quoted(name));
                Err(ConfigError::new(
                    "--rule",
                    wrong,
                    format!("allowed: {}", names.join(", ")),
                ))
            }
        }
    }
}
