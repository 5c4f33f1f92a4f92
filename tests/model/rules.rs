//! The rules of a run, and what they mean, said as plainly as possible: literal paths, looked through one by one.

use std::time::Duration;

use super::rig::random::Random;
use super::rig::vfs::parts;

/// From what a lifetime counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Created,
    Modified,
    Accessed,
}

/// One rule; `path` is empty for the whole mount.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub path: &'static str,
    pub quota: Option<u64>,
    pub inodes: Option<u64>,
    pub max_file: Option<u64>,
    pub ttl: Option<u64>,
    pub ttl_from: Option<Since>,
    pub passes: Option<u32>,
    pub edquot: Option<bool>,
}

/// What holds for a file in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub max_file: Option<u64>,
    pub ttl: Option<Duration>,
    pub ttl_from: Since,
    pub passes: u32,
}

/// All rules.
#[derive(Clone, Debug)]
pub struct Rules(pub Vec<Rule>);

impl Rule {
    fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        if let Some(quota) = self.quota {
            keys.push(format!("quota={quota}"));
        }
        if let Some(inodes) = self.inodes {
            keys.push(format!("inodes={inodes}"));
        }
        if let Some(max) = self.max_file {
            keys.push(format!("max_file={max}"));
        }
        if let Some(ttl) = self.ttl {
            keys.push(format!("ttl={ttl}s"));
        }
        if let Some(since) = self.ttl_from {
            let since = match since {
                Since::Created => "created",
                Since::Modified => "modified",
                Since::Accessed => "accessed",
            };
            keys.push(format!("ttl_from={since}"));
        }
        if let Some(passes) = self.passes {
            keys.push(format!("erase=overwrite:passes={passes}"));
        }
        if let Some(edquot) = self.edquot {
            let errno = if edquot { "EDQUOT" } else { "ENOSPC" };
            keys.push(format!("quota_errno={errno}"));
        }
        keys
    }

    pub fn has_limit(&self) -> bool {
        self.quota.is_some() || self.inodes.is_some()
    }
}

impl Rules {
    /// Rules drawn at random.
    pub fn random(random: &mut Random) -> Self {
        let paths = ["", "/a", "/a/b", "/b", "/t", "/t/a", "/e"];
        let mut rules: Vec<Rule> = paths
            .into_iter()
            .map(|path| Rule {
                path,
                ..Rule::default()
            })
            .collect();
        for rule in &mut rules {
            let is_root = rule.path.is_empty();
            if random.once_in(2) {
                let scale = if is_root { 60 } else { 25 };
                rule.quota = Some((4 + random.below(scale)) * 4096 + random.below(2) * 100);
            }
            if random.once_in(3) {
                rule.inodes = Some(if is_root { 12 } else { 4 } + random.below(10));
            }
            if random.once_in(4) {
                rule.max_file = Some(3000 + random.below(60_000));
            }
            if random.once_in(4) {
                rule.edquot = Some(random.once_in(2));
            }
            let expires = match rule.path {
                "/t" => random.below(4) > 0,
                "/t/a" => random.once_in(2),
                _ => random.once_in(10),
            };
            if expires {
                rule.ttl = Some(1000 * (1 + random.below(4)));
            }
            if random.once_in(3) {
                let since = [Since::Created, Since::Modified, Since::Accessed];
                rule.ttl_from = Some(*random.pick(&since));
            }
            if rule.path == "/e" && random.below(4) > 0 || random.once_in(12) {
                rule.passes = Some(1 + random.below(2) as u32);
            }
        }
        rules.retain(|rule| rule.path.is_empty() || !rule.keys().is_empty());
        Self(rules)
    }

    /// As mount options.
    pub fn options(&self) -> Vec<String> {
        let one = |rule: &Rule| {
            if rule.path.is_empty() {
                rule.keys().join(",").replace(':', ",")
            } else {
                format!("rule={}:{}", rule.path, rule.keys().join(":"))
            }
        };
        self.0.iter().map(one).collect()
    }

    /// The rules on the way to a path, the outermost first.
    fn along(&self, path: &[&str]) -> Vec<&Rule> {
        let mut found: Vec<&Rule> = self
            .0
            .iter()
            .filter(|rule| path.starts_with(&parts(rule.path)))
            .collect();
        found.sort_by_key(|rule| parts(rule.path).len());
        found
    }

    /// The rule of exactly this directory.
    pub fn at(&self, path: &[&str]) -> Option<&Rule> {
        self.0.iter().find(|rule| parts(rule.path) == path)
    }

    /// Whether this directory has limits of its own.
    pub fn is_border(&self, path: &[&str]) -> bool {
        self.at(path).is_some_and(Rule::has_limit)
    }

    /// What holds for files in a directory, and for the directory itself.
    pub fn settings(&self, dir: &[&str]) -> Settings {
        let mut settings = Settings {
            max_file: None,
            ttl: None,
            ttl_from: Since::Created,
            passes: 0,
        };
        for rule in self.along(dir) {
            settings.max_file = rule.max_file.or(settings.max_file);
            settings.ttl = rule.ttl.map(Duration::from_secs).or(settings.ttl);
            settings.ttl_from = rule.ttl_from.unwrap_or(settings.ttl_from);
            settings.passes = rule.passes.unwrap_or(settings.passes);
        }
        settings
    }

    /// Whether a limit at this directory is told as `EDQUOT`.
    pub fn says_edquot(&self, dir: &[&str]) -> bool {
        let said: Vec<bool> = self
            .along(dir)
            .iter()
            .filter_map(|rule| rule.edquot)
            .collect();
        said.last().copied().unwrap_or(false)
    }

    /// The directories with limits of their own.
    pub fn borders(&self) -> Vec<&'static str> {
        self.0
            .iter()
            .filter(|rule| !rule.path.is_empty() && rule.has_limit())
            .map(|rule| rule.path)
            .collect()
    }

    /// Whether a rule's directory may lie below this one.
    pub fn any_below(&self, dir: &[&str]) -> bool {
        self.0.iter().any(|rule| {
            let path = parts(rule.path);
            path.len() > dir.len() && path.starts_with(dir)
        })
    }
}
