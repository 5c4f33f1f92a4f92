//! The configuration: what options and a file say, checked as a whole, once, and immutable from then on.
//!
//! Options win over the file. It travels as JSON from the process that checked it to the one that serves, so it
//! knows nothing of descriptors and nothing of the backing store; `policy` compiles the rules against that.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rule::{Gate, RuleId, RulePath, RuleSpec, Values};

mod change;
mod check;
mod error;
mod file;
mod kernel;
mod mount;
mod options;

pub use error::ConfigError;
pub use kernel::{Access, KernelOptions};
pub use mount::{Adopt, AtStart, IoMode, LogFormat, LogLevel, LogOptions, MountOptions};

/// Who mounts: some defaults are different for root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    Root,
    User,
}

/// Where a configuration comes from, to read it again on `reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// `-c FILE`. An option `config=FILE` says the same where only options can be given, as in fstab; `-c` wins.
    pub file: Option<PathBuf>,
    /// Each `-o` as it was given.
    pub options: Vec<String>,
    pub privilege: Privilege,
}

/// Everything that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    mount: MountOptions,
    kernel: KernelOptions,
    /// `[defaults]`, then the rules in order: `RuleId` counts through them.
    rules: Vec<RuleSpec>,
    log: LogOptions,
    sources: Sources,
}

impl Config {
    /// Reads the file, if there is one, and then the options.
    pub fn load(sources: Sources) -> Result<Config, ConfigError> {
        Config::load_through(sources, Gate::Supported)
    }

    /// From options alone: each is one `-o`, commas and all.
    pub fn from_options(options: &[&str], privilege: Privilege) -> Result<Config, ConfigError> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Config::load(Sources {
            file: None,
            options,
            privilege,
        })
    }

    /// The same sources as they read today, without live changes.
    pub fn reload(&self) -> Result<Config, ConfigError> {
        Config::load(self.sources.clone())
    }

    fn load_through(sources: Sources, gate: Gate) -> Result<Config, ConfigError> {
        let mut config = Config::empty(sources);
        let given = options::split_all(&config.sources.options);
        if let Some(path) = config
            .sources
            .file
            .clone()
            .or_else(|| options::config_file(&given))
        {
            let text = file::read(&path)?;
            file::apply(&mut config, &path, &text, gate)?;
        }
        options::apply(&mut config, &given, gate)?;
        config.finish()
    }

    fn empty(sources: Sources) -> Config {
        let (globs, values) = Default::default();
        let defaults = RuleSpec {
            path: RulePath::root(),
            globs,
            values,
            origin: "the defaults".to_owned(),
        };
        Config {
            mount: MountOptions::default(),
            kernel: KernelOptions::default(),
            rules: vec![defaults],
            log: LogOptions::default(),
            sources,
        }
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        if self.sources.privilege == Privilege::Root && self.kernel.access == Access::Unsaid {
            self.kernel.access = Access::Everyone;
        }
        check::contradictions(&self.rules)?;
        Ok(self)
    }

    pub fn mount(&self) -> &MountOptions {
        &self.mount
    }

    pub fn kernel(&self) -> &KernelOptions {
        &self.kernel
    }

    pub fn log(&self) -> &LogOptions {
        &self.log
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The file that was read, whichever way it was named.
    pub fn file(&self) -> Option<PathBuf> {
        self.sources
            .file
            .clone()
            .or_else(|| options::config_file(&options::split_all(&self.sources.options)))
    }

    /// What was typed for the whole mount.
    pub fn defaults(&self) -> &Values {
        &self.rules[RuleId::DEFAULTS.0 as usize].values
    }

    /// All rules; the first is `[defaults]`.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleSpec)> {
        (0..).map(RuleId).zip(&self.rules)
    }

    /// The directory to mount, of the command line or else of the file.
    pub fn backing<'c>(&'c self, argument: Option<&'c Path>) -> Result<&'c Path, ConfigError> {
        argument
            .or(self.mount.backing.as_deref())
            .ok_or_else(|| ConfigError::missing("BACKING", "backing"))
    }

    /// Where to mount it, of the command line or else of the file.
    pub fn mountpoint<'c>(&'c self, argument: Option<&'c Path>) -> Result<&'c Path, ConfigError> {
        argument
            .or(self.mount.mountpoint.as_deref())
            .ok_or_else(|| ConfigError::missing("MOUNTPOINT", "mountpoint"))
    }
}

#[cfg(test)]
mod tests;
