//! The configuration file: TOML, with every error at its line and column.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::error::rule_keys;
use super::mount::{LogFormat, LogLevel, MountKey, SECTIONS_NOT_YET_SUPPORTED};
use super::options::twice;
use super::{Config, ConfigError, kernel, options};
use crate::rule::{Gate, Globs, Key, RulePath, RuleSpec, Values};
use crate::units::{Quoted, Wrong};

mod document;

use document::{Document, Item, Name, in_order};

/// A configuration is written by hand: what is larger is something else.
const MOST_BYTES: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let place = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        ConfigError::new(
            place.clone(),
            format!("can't be read: {error}"),
            "allowed: a readable TOML file",
        )
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(ConfigError::new(
            place,
            format!("is larger than {MOST_BYTES} bytes"),
            "allowed: a TOML file",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
        Document {
            path,
            text: &before,
        }
        .error(at..at, "bytes that are not UTF-8", "allowed: TOML in UTF-8")
    })
}

/// Reads `text` into `config`.
pub(super) fn apply(
    config: &mut Config,
    path: &Path,
    text: &str,
    gate: Gate,
) -> Result<(), ConfigError> {
    let document = Document { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let offence = match document.offence(&span) {
            "" => String::new(),
            offence => format!("{}: ", Quoted(offence)),
        };
        let message = error.message().replace('\n', ", ");
        document.error(span, format!("{offence}{message}"), "allowed: TOML")
    })?;
    for (name, value) in in_order(table.get_ref()) {
        match name.get_ref().as_ref() {
            "mount" => document.mount(config, document.table(name, value)?, gate)?,
            "defaults" => {
                let values = document.defaults(document.table(name, value)?, gate)?;
                config.rules[0].values = values;
                config.rules[0].origin = document.place(&name.span());
            }
            "rule" => document.rules(config, name, value, gate)?,
            "log" => document.log(config, document.table(name, value)?)?,
            section if SECTIONS_NOT_YET_SUPPORTED.contains(&section) => {
                return Err(ConfigError::unsupported(
                    document.place(&name.span()),
                    section,
                    SECTIONS,
                ));
            }
            unknown => {
                return Err(ConfigError::unknown(
                    document.place(&name.span()),
                    "section",
                    unknown,
                    SECTIONS,
                ));
            }
        }
    }
    Ok(())
}

const SECTIONS: &[&str] = &["mount", "defaults", "rule", "log"];

impl Document<'_> {
    /// A key of a rule, into `values`.
    fn rule_key(
        &self,
        values: &mut Values,
        (name, item): (&Name<'_>, &Item<'_>),
        extra: &[&'static str],
        gate: Gate,
    ) -> Result<(), ConfigError> {
        let typed = name.get_ref().as_ref();
        let place = self.place(&name.span());
        let Some(key) = Key::named(typed) else {
            return Err(ConfigError::unknown(
                place,
                "key",
                typed,
                &rule_keys(extra, gate),
            ));
        };
        if !gate.admits(key) {
            return Err(ConfigError::unsupported(
                place,
                typed,
                &rule_keys(extra, gate),
            ));
        }
        if values.has(key) {
            // TOML sees to it that no name is there twice, but some keys have two names.
            return Err(ConfigError::new(
                place,
                format!("{} gives the key `{key}` twice", Quoted(typed)),
                "allowed: one of its names",
            ));
        }
        let text = self.scalar(typed, item, key.allowed())?;
        values
            .set(key, &text)
            .map_err(|wrong| self.bad_value(typed, item, &wrong, key.allowed()))
    }

    fn defaults(&self, table: &DeTable<'_>, gate: Gate) -> Result<Values, ConfigError> {
        let mut values = Values::default();
        for entry in in_order(table) {
            self.rule_key(&mut values, entry, &[], gate)?;
        }
        Ok(values)
    }

    fn rules(
        &self,
        config: &mut Config,
        name: &Name<'_>,
        value: &Item<'_>,
        gate: Gate,
    ) -> Result<(), ConfigError> {
        let not_an_array = |span| {
            self.error(
                span,
                "`rule` is not an array of tables",
                "allowed: [[rule]], once for each rule",
            )
        };
        let items = value
            .get_ref()
            .as_array()
            .ok_or_else(|| not_an_array(name.span()))?;
        for item in items.iter() {
            let table = item
                .get_ref()
                .as_table()
                .ok_or_else(|| not_an_array(item.span()))?;
            let rule = self.rule(table, item.span(), gate)?;
            if let Some(first) = config
                .rules
                .iter()
                .skip(1)
                .find(|first| first.same_place(&rule))
            {
                return Err(twice(first, &rule));
            }
            config.rules.push(rule);
        }
        Ok(())
    }

    fn rule(
        &self,
        table: &DeTable<'_>,
        span: Range<usize>,
        gate: Gate,
    ) -> Result<RuleSpec, ConfigError> {
        let (mut path, mut globs, mut values) = (None, Globs::default(), Values::default());
        for (name, item) in in_order(table) {
            match name.get_ref().as_ref() {
                "path" => {
                    let text = self.string("path", item, RulePath::ALLOWED)?;
                    let parsed: Result<RulePath, Wrong> = text.parse();
                    path = Some(parsed.map_err(|wrong| {
                        self.bad_value("path", item, &wrong, RulePath::ALLOWED)
                    })?);
                }
                "match" => {
                    let typed = self.strings("match", item, Globs::ALLOWED)?;
                    if typed.is_empty() {
                        let wrong = Wrong("`[]` matches no name".to_owned());
                        return Err(self.bad_value("match", item, &wrong, Globs::ALLOWED));
                    }
                    globs = Globs::new(typed)
                        .map_err(|wrong| self.bad_value("match", item, &wrong, Globs::ALLOWED))?;
                }
                _ => self.rule_key(&mut values, (name, item), &["path", "match"], gate)?,
            }
        }
        let path = path.ok_or_else(|| {
            self.error(
                span.clone(),
                "the rule has no `path`",
                format!("allowed: path = {}", RulePath::ALLOWED),
            )
        })?;
        Ok(RuleSpec {
            path,
            globs,
            values,
            origin: self.place(&span),
        })
    }

    fn mount(
        &self,
        config: &mut Config,
        table: &DeTable<'_>,
        gate: Gate,
    ) -> Result<(), ConfigError> {
        for (name, item) in in_order(table) {
            let key = name.get_ref().as_ref();
            match key {
                "backing" => config.mount.backing = Some(self.absolute(key, item)?),
                "mountpoint" => config.mount.mountpoint = Some(self.absolute(key, item)?),
                "options" => self.mount_options(config, item, gate)?,
                _ if kernel::is_context(key) => {
                    config
                        .kernel
                        .set_context(key, &self.string(key, item, "an SELinux context")?);
                }
                _ if config.kernel.clone().switch(key, true) => {
                    let on: crate::rule::Switch = self.value(key, item)?;
                    config.kernel.switch(key, on.0);
                }
                _ => {
                    let place = self.place(&name.span());
                    let Some(mount_key) = MountKey::named(key) else {
                        return Err(ConfigError::unknown(
                            place,
                            "key",
                            key,
                            &self.mount_names(gate),
                        ));
                    };
                    if !mount_key.is_admitted(gate) {
                        return Err(ConfigError::unsupported(
                            place,
                            key,
                            &self.mount_names(gate),
                        ));
                    }
                    let text = self.scalar(key, item, mount_key.allowed())?;
                    let set = config.mount.set(mount_key, &text);
                    set.map_err(|wrong| self.bad_value(key, item, &wrong, mount_key.allowed()))?;
                }
            }
        }
        Ok(())
    }

    fn mount_names(&self, gate: Gate) -> Vec<&'static str> {
        ["backing", "mountpoint", "options"]
            .into_iter()
            .chain(MountKey::names(gate))
            .chain(kernel::names())
            .collect()
    }

    /// `options = "ro,noexec"` or `["ro", "noexec"]`: as with `-o`, but rules have their own sections.
    fn mount_options(
        &self,
        config: &mut Config,
        item: &Item<'_>,
        gate: Gate,
    ) -> Result<(), ConfigError> {
        let allowed: Vec<&str> = MountKey::names(gate).chain(kernel::names()).collect();
        let typed = self.strings("options", item, "mount options such as \"ro,noexec\"")?;
        let given = options::split_all(&typed);
        for option in &given {
            if Key::named(&option.name).is_some()
                || matches!(option.name.as_str(), "rule" | "config")
            {
                let wrong = Wrong(format!(
                    "{} is no option of the mount",
                    Quoted(&option.name)
                ));
                return Err(self.bad_value("options", item, &wrong, &allowed.join(", ")));
            }
        }
        options::apply(config, &given, gate).map_err(|error| ConfigError {
            place: self.place(&item.span()),
            ..error
        })
    }

    fn log(&self, config: &mut Config, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, item) in in_order(table) {
            match name.get_ref().as_ref() {
                "level" => config.log.level = Some(self.value::<LogLevel>("level", item)?),
                "format" => config.log.format = self.value::<LogFormat>("format", item)?,
                "file" => config.log.file = Some(self.absolute("file", item)?),
                unknown => {
                    let place = self.place(&name.span());
                    return Err(ConfigError::unknown(
                        place,
                        "key",
                        unknown,
                        &["level", "format", "file"],
                    ));
                }
            }
        }
        Ok(())
    }
}
