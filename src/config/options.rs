//! Mount options: `-o ttl=24h,ro,rule=/scratch:quota=1G`.

use std::path::PathBuf;

use super::error::rule_keys;
use super::mount::MountKey;
use super::{Config, ConfigError, kernel};
use crate::rule::{Gate, Globs, Key, RulePath, RuleSpec, Values};

/// `name` or `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub name: String,
    pub value: Option<String>,
}

impl Given {
    fn new(text: &str) -> Given {
        match text.split_once('=') {
            Some((name, value)) => Given {
                name: name.to_owned(),
                value: Some(unquoted(value).to_owned()),
            },
            None => Given {
                name: text.to_owned(),
                value: None,
            },
        }
    }

    fn place(&self) -> String {
        format!("-o {}", self.name)
    }
}

/// Splits where `separator` isn't within double quotes: SELinux contexts have commas, as mount(8) knows.
fn split_quoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

/// Without the double quotes around it.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(text)
}

/// All of several `-o`, in order. Empty ones mean nothing, as for mount(8).
pub(super) fn split_all<S: AsRef<str>>(options: &[S]) -> Vec<Given> {
    let all = options
        .iter()
        .flat_map(|option| split_quoted(option.as_ref(), ','));
    all.map(str::trim)
        .filter(|text| !text.is_empty())
        .map(Given::new)
        .collect()
}

/// The file that an option `config=FILE` names; the last one wins.
pub(super) fn config_file(given: &[Given]) -> Option<PathBuf> {
    let last = given.iter().rev().find(|option| option.name == "config");
    last.and_then(|option| option.value.as_deref())
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Are the options those of a mount, or changes to one that is there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Mount,
    /// What isn't a key of a rule is the kernel's business, or can't change any more.
    Remount,
}

pub(super) fn apply(config: &mut Config, given: &[Given], gate: Gate) -> Result<(), ConfigError> {
    apply_for(config, given, gate, Use::Mount)
}

pub(super) fn apply_for(
    config: &mut Config,
    given: &[Given],
    gate: Gate,
    usage: Use,
) -> Result<(), ConfigError> {
    let mut rules = Vec::new();
    for option in given {
        if option.name == "rule" {
            let rule = parse_rule(option.value.as_deref(), gate)?;
            if let Some(first) = rules
                .iter()
                .find(|first: &&RuleSpec| first.same_place(&rule))
            {
                return Err(twice(first, &rule));
            }
            rules.push(rule);
        } else {
            apply_one(config, option, gate, usage)?;
        }
    }
    for rule in rules {
        put_rule(config, rule, usage);
    }
    Ok(())
}

pub(super) fn twice(first: &RuleSpec, second: &RuleSpec) -> ConfigError {
    ConfigError::new(
        second.origin.clone(),
        format!(
            "{} is given twice: here and at {}",
            second.described(),
            first.origin
        ),
        "allowed: one rule for each path and `match`",
    )
}

fn put_rule(config: &mut Config, rule: RuleSpec, usage: Use) {
    match config
        .rules
        .iter_mut()
        .skip(1)
        .find(|known| known.same_place(&rule))
    {
        Some(known) if usage == Use::Remount => {
            known.values = rule.values.over(&known.values);
        }
        Some(known) => *known = rule,
        None => config.rules.push(rule),
    }
}

fn apply_one(
    config: &mut Config,
    option: &Given,
    gate: Gate,
    usage: Use,
) -> Result<(), ConfigError> {
    let Given { name, value } = option;
    let value = value.as_deref();
    if let Some(key) = Key::named(name) {
        set_for_mount(
            config,
            key,
            &named_value(name, value, key, gate, &option.place(), &[])?,
        );
        return Ok(());
    }
    if kernel::is_ignored(name, value) {
        return Ok(());
    }
    if let Some(key) = MountKey::named(name) {
        if !key.is_admitted(gate) {
            let allowed: Vec<_> = MountKey::names(gate).collect();
            return Err(ConfigError::unsupported(option.place(), name, &allowed));
        }
        let text = value
            .or(key.bare())
            .ok_or_else(|| needs_value(&option.place(), key.allowed()))?;
        return match config.mount.set(key, text) {
            Err(wrong) => Err(ConfigError::value(
                option.place(),
                name,
                &wrong,
                key.allowed(),
            )),
            // The server was started with it; what is there is all that a remount can ask for.
            Ok(()) => Ok(()),
        };
    }
    match (name.as_str(), value) {
        ("config", Some("") | None) => Err(needs_value(
            &option.place(),
            "the path of a configuration file",
        )),
        ("config", Some(_)) => Ok(()),
        (_, Some("") | None) if kernel::is_context(name) => Err(needs_value(
            &option.place(),
            "an SELinux context, in double quotes if it has commas",
        )),
        (_, Some(context)) if kernel::is_context(name) => {
            config.kernel.set_context(name, context);
            Ok(())
        }
        (_, None) if config.kernel.switch(name, true) => Ok(()),
        (_, Some(value)) if config.kernel.clone().switch(name, true) => Err(ConfigError::new(
            option.place(),
            format!(
                "{} takes no value, and {} is one",
                crate::units::Quoted(name),
                crate::units::Quoted(value)
            ),
            format!("allowed: {name}"),
        )),
        _ if usage == Use::Remount && value.is_none() => Ok(()),
        _ => Err(ConfigError::unknown(
            "-o",
            "option",
            name,
            &known_names(gate),
        )),
    }
}

pub(super) fn known_names(gate: Gate) -> Vec<&'static str> {
    let mut names = rule_keys(&["rule", "config"], gate);
    names.extend(MountKey::names(gate));
    names.extend(kernel::names());
    names
}

fn needs_value(place: &str, allowed: &str) -> ConfigError {
    ConfigError::new(place, "needs a value", format!("allowed: {allowed}"))
}

/// The value that was given for a rule's key, parsed, as the only thing in `Values`.
fn named_value(
    name: &str,
    value: Option<&str>,
    key: Key,
    gate: Gate,
    place: &str,
    extra: &[&'static str],
) -> Result<Values, ConfigError> {
    if !gate.admits(key) {
        return Err(ConfigError::unsupported(
            place,
            name,
            &rule_keys(extra, gate),
        ));
    }
    let text = value
        .or(key.bare())
        .ok_or_else(|| needs_value(place, key.allowed()))?;
    let mut values = Values::default();
    values
        .set(key, text)
        .map_err(|wrong| ConfigError::value(place, name, &wrong, key.allowed()))?;
    Ok(values)
}

/// A key for the whole mount: it replaces `[defaults]`, and what the file says in a rule for `/`.
pub(super) fn set_for_mount(config: &mut Config, key: Key, only: &Values) {
    for rule in config
        .rules
        .iter_mut()
        .filter(|rule| rule.path.is_root() && rule.globs.is_empty())
    {
        rule.values.clear(key);
    }
    let defaults = &mut config.rules[0].values;
    *defaults = only.over(defaults);
}

/// `/processing:ttl=24h:quota=10G`.
fn parse_rule(text: Option<&str>, gate: Gate) -> Result<RuleSpec, ConfigError> {
    const FORM: &str = "rule=/PATH:KEY=VALUE:KEY=VALUE";
    let text = text.ok_or_else(|| needs_value("-o rule", FORM))?;
    let mut parts = split_quoted(text, ':');
    let path = unquoted(parts.next().unwrap_or_default());
    let place = format!("-o rule={path}");
    let path: RulePath = path
        .parse()
        .map_err(|wrong| ConfigError::value("-o rule", "rule", &wrong, RulePath::ALLOWED))?;
    let (mut globs, mut values, mut empty) = (Vec::new(), Values::default(), true);
    for part in parts {
        let Given { name, value } = Given::new(part);
        empty = false;
        if name == "match" {
            // A rule can have several, and an option has no other way to say so.
            globs.push(value.ok_or_else(|| needs_value(&place, Globs::ALLOWED))?);
            continue;
        }
        let key = Key::named(&name).ok_or_else(|| {
            ConfigError::unknown(place.clone(), "key", &name, &rule_keys(&["match"], gate))
        })?;
        let only = named_value(&name, value.as_deref(), key, gate, &place, &["match"])?;
        values = only.over(&values);
    }
    if empty {
        return Err(ConfigError::new(
            place,
            "sets no key",
            format!("allowed: {FORM}"),
        ));
    }
    let globs = Globs::new(globs)
        .map_err(|wrong| ConfigError::value(place.clone(), "match", &wrong, Globs::ALLOWED))?;
    Ok(RuleSpec {
        path,
        globs,
        values,
        origin: place,
    })
}
