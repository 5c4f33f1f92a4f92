//! Rules that contradict themselves or one another.

use super::ConfigError;
use crate::rule::{Key, RuleSpec, Unit, Values};
use crate::units::Percent;

/// Checking is quadratic, and a policy's tables have small indices.
const MOST_RULES: usize = 1024;

pub(super) fn contradictions(rules: &[RuleSpec]) -> Result<(), ConfigError> {
    if rules.len() > MOST_RULES {
        let wrong = format!("{} rules", rules.len() - 1);
        return Err(ConfigError::new(
            "rules",
            wrong,
            format!("allowed: at most {}", MOST_RULES - 1),
        ));
    }
    for rule in rules {
        matching_rule_is_for_files(rule)?;
        inside_tree(rule, rules)?;
        let chain = Chain::of(rule, rules);
        chain.ttl_within_ceiling()?;
        chain.eviction_goes_down()?;
    }
    Ok(())
}

/// A rule with `match` is about names, and these keys are about a directory as a whole.
fn matching_rule_is_for_files(rule: &RuleSpec) -> Result<(), ConfigError> {
    let own = rule
        .values
        .keys()
        .find(|key| !key.is_inherited())
        .filter(|_| !rule.globs.is_empty());
    own.map_or(Ok(()), |key| {
        Err(ConfigError::new(
            rule.origin.clone(),
            format!(
                "`{key}` in {}, which has a `match`: it is about the directory as a whole",
                rule.described()
            ),
            format!("allowed: `{key}` in a rule without `match`"),
        ))
    })
}

/// Does `outer` hold for what is below the directory that `rule` stands for?
fn encloses(outer: &RuleSpec, rule: &RuleSpec, names: &[&[u8]]) -> Option<usize> {
    let deepest = outer.path.deepest(names)?;
    // A rule for some names says nothing about others. Only the same globs are sure to be the same names.
    (outer.globs.is_empty() || outer.globs == rule.globs).then_some(deepest)
}

fn inside_tree(rule: &RuleSpec, rules: &[RuleSpec]) -> Result<(), ConfigError> {
    if rule.values.ttl.is_none() {
        return Ok(());
    }
    let example = rule.path.example();
    let names: Vec<&[u8]> = example.iter().map(Vec::as_slice).collect();
    let below = |tree: &&RuleSpec| {
        let depth = encloses(tree, rule, &names);
        depth.is_some_and(|depth| depth < names.len() || !rule.globs.is_empty())
    };
    match rules
        .iter()
        .filter(|tree| tree.values.unit == Some(Unit::Tree))
        .find(below)
    {
        None => Ok(()),
        Some(tree) => Err(ConfigError::new(
            rule.origin.clone(),
            format!(
                "`ttl` in {} is below {}, which has unit = tree: a tree lives and dies whole",
                rule.described(),
                tree.described()
            ),
            "allowed: `ttl` in one of them",
        )),
    }
}

/// The rules that settle the keys where one rule holds, the first to ask first.
struct Chain<'r> {
    rules: Vec<&'r RuleSpec>,
}

impl<'r> Chain<'r> {
    fn of(rule: &'r RuleSpec, rules: &'r [RuleSpec]) -> Chain<'r> {
        let example = rule.path.example();
        let names: Vec<&[u8]> = example.iter().map(Vec::as_slice).collect();
        let mut chain: Vec<_> = rules
            .iter()
            .enumerate()
            .filter_map(|(at, outer)| {
                Some((
                    !outer.globs.is_empty(),
                    encloses(outer, rule, &names)?,
                    at,
                    outer,
                ))
            })
            .collect();
        chain.sort_by_key(|&(matching, depth, at, _)| (matching, depth, at));
        Chain {
            rules: chain.into_iter().rev().map(|(.., outer)| outer).collect(),
        }
    }

    fn settled<T: Copy>(&self, value: impl Fn(&Values) -> Option<T>) -> Option<(&'r RuleSpec, T)> {
        self.rules
            .iter()
            .find_map(|rule| Some((*rule, value(&rule.values)?)))
    }

    fn ttl_within_ceiling(&self) -> Result<(), ConfigError> {
        let ttl = self.settled(|values| values.ttl);
        let ceiling = self.settled(|values| values.max_ttl);
        let (Some((ttl_rule, ttl)), Some((ceiling_rule, ceiling))) = (ttl, ceiling) else {
            return Ok(());
        };
        // A lower ceiling in a subtree is a choice: it just holds. A life beyond a ceiling that is there is a mistake.
        let first = self
            .rules
            .iter()
            .find(|rule| std::ptr::eq(**rule, ttl_rule) || std::ptr::eq(**rule, ceiling_rule));
        if first.is_some_and(|first| !std::ptr::eq(*first, ttl_rule)) {
            return Ok(());
        }
        match (ttl.interval(), ceiling.interval()) {
            (Some(life), Some(most)) if life > most => Err(contradiction(
                (ttl_rule, Key::Ttl, &life),
                "is longer than",
                (ceiling_rule, Key::MaxTtl, &most),
            )),
            _ => Ok(()),
        }
    }

    fn eviction_goes_down(&self) -> Result<(), ConfigError> {
        let at = self.settled(|values| values.evict_at);
        let to = self.settled(|values| values.evict_to);
        // What only a default contradicts is contradicted all the same: evict_at = 50% needs an evict_to.
        let at_percent = at.map_or(Percent::FULL, |(_, at)| at);
        let to_percent = to.map_or(Percent::whole(90), |(_, to)| to);
        if to_percent <= at_percent {
            return Ok(());
        }
        let fallback = self.rules.last().expect("the defaults enclose every rule");
        let (at_rule, to_rule) = (
            at.map_or(*fallback, |(rule, _)| rule),
            to.map_or(*fallback, |(rule, _)| rule),
        );
        Err(contradiction(
            (to_rule, Key::EvictTo, &to_percent),
            "is more than",
            (at_rule, Key::EvictAt, &at_percent),
        ))
    }
}

type Side<'r> = (&'r RuleSpec, Key, &'r dyn std::fmt::Display);

fn contradiction(
    (one, one_key, one_value): Side<'_>,
    relation: &str,
    (other, other_key, other_value): Side<'_>,
) -> ConfigError {
    let place = |rule: &RuleSpec| {
        if one == other {
            String::new()
        } else {
            format!(" of {}", rule.described())
        }
    };
    ConfigError::new(
        one.origin.clone(),
        format!(
            "{one_key} = {one_value}{} {relation} {other_key} = {other_value}{}",
            place(one),
            place(other)
        ),
        format!("allowed: {one_key} up to {other_key}"),
    )
}
