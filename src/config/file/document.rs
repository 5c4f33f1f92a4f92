//! A TOML document with places in it: every value is read together with where it stands.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::ConfigError;
use crate::units::{Quoted, Value, Wrong};

pub(super) type Name<'i> = Spanned<std::borrow::Cow<'i, str>>;
pub(super) type Item<'i> = Spanned<DeValue<'i>>;

/// As written, so that the first error is the one nearest to the top.
pub(super) fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Name<'i>, &'t Item<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

pub(super) struct Document<'d> {
    pub(super) path: &'d Path,
    pub(super) text: &'d str,
}

impl<'d> Document<'d> {
    /// `FILE:LINE:COLUMN`, counted in characters from 1.
    pub(super) fn place(&self, span: &Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        format!("{}:{line}:{column}", self.path.display())
    }

    pub(super) fn error(
        &self,
        span: Range<usize>,
        wrong: impl Into<String>,
        allowed: impl Into<String>,
    ) -> ConfigError {
        ConfigError::new(self.place(&span), wrong, allowed)
    }

    /// The text that an error is about: what is spanned, or the line where nothing is.
    pub(super) fn offence(&self, span: &Range<usize>) -> &'d str {
        let spanned = self.text.get(span.clone()).unwrap_or_default().trim();
        if !spanned.is_empty() {
            return spanned.lines().next().unwrap_or_default();
        }
        let start = self
            .text
            .get(..span.start)
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |newline| newline + 1);
        self.text
            .get(start..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default()
            .trim()
    }

    pub(super) fn table<'t, 'i>(
        &self,
        name: &Name<'_>,
        value: &'t Item<'i>,
    ) -> Result<&'t DeTable<'i>, ConfigError> {
        value.get_ref().as_table().ok_or_else(|| {
            let section = name.get_ref();
            self.error(
                value.span(),
                format!("`{section}` is not a section"),
                format!("allowed: [{section}]"),
            )
        })
    }

    /// The value as the grammar of options would have it: strings as they are, numbers and booleans as written.
    pub(super) fn scalar<'t>(
        &'t self,
        name: &str,
        item: &'t Item<'_>,
        allowed: &str,
    ) -> Result<String, ConfigError> {
        match item.get_ref() {
            DeValue::String(text) => Ok(text.as_ref().to_owned()),
            DeValue::Integer(_) => Ok(self.offence(&item.span()).replace('_', "")),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
                Ok(self.offence(&item.span()).to_owned())
            }
            DeValue::Array(_) | DeValue::Table(_) => {
                let kind = item.get_ref().type_str();
                let wrong = Wrong(
                    format!("{} is an {kind}", Quoted(self.offence(&item.span())))
                        .replace("an table", "a table"),
                );
                Err(self.bad_value(name, item, &wrong, allowed))
            }
        }
    }

    pub(super) fn bad_value(
        &self,
        name: &str,
        item: &Item<'_>,
        wrong: &Wrong,
        allowed: &str,
    ) -> ConfigError {
        ConfigError::value(self.place(&item.span()), name, wrong, allowed)
    }

    pub(super) fn value<T: Value>(&self, name: &str, item: &Item<'_>) -> Result<T, ConfigError> {
        let text = self.scalar(name, item, T::ALLOWED)?;
        text.parse()
            .map_err(|wrong| self.bad_value(name, item, &wrong, T::ALLOWED))
    }

    pub(super) fn string(
        &self,
        name: &str,
        item: &Item<'_>,
        allowed: &str,
    ) -> Result<String, ConfigError> {
        match item.get_ref().as_str() {
            Some(text) => Ok(text.to_owned()),
            None => {
                let wrong = Wrong(format!(
                    "{} is not a string",
                    Quoted(self.offence(&item.span()))
                ));
                Err(self.bad_value(name, item, &wrong, allowed))
            }
        }
    }

    /// One string or several.
    pub(super) fn strings(
        &self,
        name: &str,
        item: &Item<'_>,
        allowed: &str,
    ) -> Result<Vec<String>, ConfigError> {
        match item.get_ref().as_array() {
            Some(items) => items
                .iter()
                .map(|item| self.string(name, item, allowed))
                .collect(),
            None => Ok(vec![self.string(name, item, allowed)?]),
        }
    }

    pub(super) fn absolute(&self, name: &str, item: &Item<'_>) -> Result<PathBuf, ConfigError> {
        const ALLOWED: &str = "an absolute path";
        let path = PathBuf::from(self.string(name, item, ALLOWED)?);
        if path.is_absolute() {
            return Ok(path);
        }
        let wrong = Wrong(format!(
            "{} is not absolute",
            Quoted(&path.to_string_lossy())
        ));
        Err(self.bad_value(name, item, &wrong, ALLOWED))
    }
}
