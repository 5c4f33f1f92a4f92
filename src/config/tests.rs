//! Helpers, and the tests by where a configuration comes from.

use super::*;
use crate::rule::Key;

mod from_file;
mod from_options;
mod live;

fn options(options: &[&str]) -> Result<Config, ConfigError> {
    Config::from_options(options, Privilege::User)
}

fn sources(given: &[&str]) -> Sources {
    let options = given.iter().map(|&option| option.to_owned()).collect();
    Sources {
        file: None,
        options,
        privilege: Privilege::User,
    }
}

/// Options through the gate that later versions open.
fn ungated(given: &[&str]) -> Result<Config, ConfigError> {
    Config::load_through(sources(given), Gate::Everything)
}

/// A file's text and options, as if the file were `t.toml`.
fn parse(text: &str, given: &[&str], gate: Gate) -> Result<Config, ConfigError> {
    let mut config = Config::empty(sources(given));
    file::apply(&mut config, Path::new("t.toml"), text, gate)?;
    options::apply(&mut config, &options::split_all(given), gate)?;
    config.finish()
}

fn file_of(text: &str) -> Result<Config, ConfigError> {
    parse(text, &[], Gate::Supported)
}

fn message(result: Result<Config, ConfigError>) -> String {
    let message = result.expect_err("this is wrong").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn rule<'c>(config: &'c Config, name: &str) -> &'c Values {
    let found = config
        .rules()
        .find(|(id, rule)| *id != RuleId::DEFAULTS && rule.name() == name);
    &found.unwrap_or_else(|| panic!("no rule {name}")).1.values
}

fn text(values: &Values, key: Key) -> String {
    values.text(key).unwrap_or_default()
}
