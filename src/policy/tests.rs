use proptest::prelude::*;
use regex::bytes::Regex;

use super::*;
use crate::config::Privilege;
use crate::rule::{Gate, Globs, Values};

/// A rule as these tests write it: `/path:match=*.log:key=value`.
fn spec(text: &str) -> RuleSpec {
    let mut parts = text.split(':');
    let (mut globs, mut values) = (Vec::new(), Values::default());
    let path = parts.next().unwrap().parse().unwrap();
    for part in parts {
        match part.split_once('=').unwrap() {
            ("match", glob) => globs.push(glob.to_owned()),
            (key, value) => values.set(Key::named(key).unwrap(), value).unwrap(),
        }
    }
    RuleSpec {
        path,
        globs: Globs::new(globs).unwrap(),
        values,
        origin: text.to_owned(),
    }
}

fn policy_of(rules: Vec<RuleSpec>) -> Policy {
    let names = rules.iter().map(RuleSpec::name).collect();
    Policy {
        automaton: Automaton::new(rules, 1 << 30),
        names,
    }
}

/// The first text is `[defaults]`.
fn policy(texts: &[&str]) -> Policy {
    policy_of(texts.iter().map(|text| spec(text)).collect())
}

fn names(path: &str) -> Vec<&[u8]> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .map(str::as_bytes)
        .collect()
}

fn at(policy: &Policy, path: &str) -> DirState {
    policy.walk(&names(path))
}

fn ttl(policy: &Policy, dir: &str, name: &str) -> Option<u64> {
    policy
        .settings_for(at(policy, dir), name.as_bytes(), false)
        .ttl
        .map(|ttl| ttl.as_secs())
}

#[test]
fn settings_are_inherited_key_by_key() {
    let policy = policy(&[
        "/:ttl=10:erase=overwrite",
        "/a:ttl=20",
        "/a/b:max_file=1K",
        "/a/b/c:ttl=never",
    ]);
    assert_eq!(
        [ttl(&policy, "", "f"), ttl(&policy, "x/y", "f")],
        [Some(10), Some(10)]
    );
    assert_eq!(
        [
            ttl(&policy, "a", "f"),
            ttl(&policy, "a/x/y", "f"),
            ttl(&policy, "a/b", "f")
        ],
        [Some(20); 3]
    );
    assert_eq!(ttl(&policy, "a/b/c/d", "f"), None);
    let deep = policy.dir_settings(at(&policy, "a/b/c/d"));
    assert_eq!(
        (deep.max_file, deep.erase),
        (Some(1024), crate::rule::Erase::Overwrite)
    );
    assert_eq!(policy.rule_name(deep.rule), "/a/b/c");
    assert_eq!(
        policy.rule_name(policy.dir_settings(policy.root()).rule),
        "/"
    );
    assert_eq!(
        policy.origin(at(&policy, "a/b/c"), None, Key::MaxFile),
        RuleId(2)
    );
    assert_eq!(
        policy.origin(at(&policy, "a/b/c"), None, Key::Passes),
        RuleId::DEFAULTS
    );
}

#[test]
fn match_beats_depth_beats_order() {
    let policy = policy(&[
        "/:ttl=1",
        "/:match=*.log:ttl=2",
        "/a:ttl=3",
        "/*:ttl=4",
        "/a/b:match=*.log:ttl=5",
        "/a:match=x*:ttl=6",
        "/a:match=*.log:max_file=1K",
    ]);
    assert_eq!(ttl(&policy, "", "f"), Some(1));
    assert_eq!(ttl(&policy, "", "f.log"), Some(2));
    // Of two rules as deep, the later; and a match from far above beats both.
    assert_eq!(ttl(&policy, "a", "f"), Some(4));
    assert_eq!(ttl(&policy, "a", "f.log"), Some(2));
    assert_eq!(ttl(&policy, "a/b", "f.log"), Some(5));
    // Two match: the deeper wins, for the keys that it has.
    assert_eq!(ttl(&policy, "a", "x.log"), Some(6));
    assert_eq!(
        policy
            .settings_for(at(&policy, "a"), b"x.log", false)
            .max_file,
        Some(1024)
    );
    assert_eq!(ttl(&policy, "a/b", "x.log"), Some(5));
    assert_eq!(
        policy.origin(at(&policy, "a"), Some(b"x.log"), Key::Ttl),
        RuleId(5)
    );
}

#[test]
fn a_directory_is_its_own_entry() {
    let policy = policy(&["/:ttl=1", "/a:ttl=2", "/:match=*.d:ttl=3"]);
    let root = policy.root();
    let as_dir = |name: &str| {
        policy
            .settings_for(root, name.as_bytes(), true)
            .ttl
            .unwrap()
            .as_secs()
    };
    assert_eq!((as_dir("a"), as_dir("x"), as_dir("x.d")), (2, 1, 3));
    // A file with the name of a rule's directory isn't in the rule; nor is what is in a directory that matches.
    assert_eq!(
        (ttl(&policy, "", "a"), ttl(&policy, "x.d", "f")),
        (Some(1), Some(1))
    );
}

#[test]
fn names_are_bytes() {
    let policy = policy(&[
        "/:ttl=1",
        "/caf\u{e9}:ttl=2",
        "/x*:ttl=3",
        "/:match=*.log:ttl=4",
    ]);
    assert_eq!(ttl(&policy, "caf\u{e9}", "f"), Some(2));
    let latin1 = policy.enter(policy.root(), b"caf\xe9");
    assert_eq!(
        policy.dir_settings(latin1).ttl,
        Some(Duration::from_secs(1))
    );
    let invalid = policy.enter(policy.root(), b"x\xff\xfe");
    assert_eq!(
        policy.dir_settings(invalid).ttl,
        Some(Duration::from_secs(3))
    );
    assert_eq!(
        policy.settings_for(invalid, b"\xff.log", false).ttl,
        Some(Duration::from_secs(4))
    );
}

#[test]
fn limits_stay_where_they_are_set() {
    let policy = policy(&[
        "/:quota=50%",
        "/users/*:quota=1M:user_inodes=5",
        "/users/alice:quota=2M:inodes=7:quota_errno=EDQUOT",
    ]);
    let quota = |path: &str| {
        policy
            .limits_at(at(&policy, path))
            .and_then(|limits| limits.quota_bytes)
    };
    assert_eq!(quota(""), Some(1 << 29));
    assert_eq!((quota("users"), quota("users/bob/x")), (None, None));
    assert_eq!(quota("users/bob"), Some(1 << 20));
    let alice = policy.limits_at(at(&policy, "users/alice")).unwrap();
    assert_eq!(
        (alice.quota_bytes, alice.inodes, alice.user_inodes),
        (Some(1 << 20), Some(7), Some(5))
    );
    assert_eq!(
        (alice.subtree_errno(), alice.user_errno()),
        (QuotaErrno::Edquot, QuotaErrno::Edquot)
    );
    let bob = policy.limits_at(at(&policy, "users/bob")).unwrap();
    assert_eq!(
        (bob.subtree_errno(), bob.user_errno()),
        (QuotaErrno::Enospc, QuotaErrno::Edquot)
    );
    assert_eq!(policy.rule_name(bob.rule), "/users/*");
    let literal: Vec<_> = policy
        .literal_limits()
        .into_iter()
        .map(|(names, _)| names)
        .collect();
    assert_eq!(literal, [vec![], vec![&b"users"[..], b"alice"]]);
}

#[test]
fn a_limit_of_0_is_no_limit() {
    let policy = policy(&["/:quota=0:inodes=0:max_file=0", "/a:quota=0:inodes=5"]);
    assert_eq!(policy.limits_at(policy.root()), None);
    assert_eq!(
        policy.limits_at(at(&policy, "a")).unwrap().quota_bytes,
        None
    );
    assert!(!policy.any_byte_limit(policy.root()) && !policy.any_byte_limit(at(&policy, "a")));
}

#[test]
fn byte_limits_are_seen_from_below_and_only_from_there() {
    let policy = policy(&[
        "/",
        "/q:quota=1M",
        "/u:user_quota=1M",
        "/m:max_file=1K",
        "/l:match=*.log:max_file=1K",
        "/i:inodes=1",
    ]);
    for path in ["q", "q/x/y", "u/x", "m", "m/x", "l", "l/x"] {
        assert!(policy.any_byte_limit(at(&policy, path)), "{path}");
    }
    for path in ["", "x", "i", "i/x"] {
        assert!(!policy.any_byte_limit(at(&policy, path)), "{path}");
    }
}

#[test]
fn where_nothing_can_expire_it_says_so() {
    let policy = policy(&[
        "/",
        "/a/b:ttl=1h",
        "/a/b/keep:ttl=never",
        "/l:match=*.log:ttl=1h",
        "/m:max_ttl=1h",
        "/d:dies_with=process",
    ]);
    for path in ["", "a", "a/b", "a/b/c", "l", "l/x", "m", "d/x"] {
        assert!(policy.ttl_may_apply(at(&policy, path)), "{path}");
    }
    for path in ["x", "a/x", "a/b/keep", "a/b/keep/x"] {
        assert!(!policy.ttl_may_apply(at(&policy, path)), "{path}");
    }
}

#[test]
fn what_a_directory_bears_alone_is_not_handed_on() {
    let policy = policy(&[
        "/",
        "/t:unit=tree:files=deny:dir=0750 root adm",
        "/t/*:ttl=1h",
        "/p/**:ttl=1h",
    ]);
    let here = |path: &str| policy.here(at(&policy, path));
    assert_eq!((here("t").unit, here("t").files), (Unit::Tree, Files::Deny));
    assert_eq!(
        (here("t/x").unit, here("t/x").files),
        (Unit::File, Files::Allow)
    );
    for (path, own) in [
        ("", true),
        ("t", true),
        ("t/x", true),
        ("t/x/y", false),
        ("p", false),
        ("p/x", false),
        ("x", false),
    ] {
        assert_eq!(here(path).is_rules_own, own, "{path}");
    }
    let made: Vec<_> = policy
        .directories()
        .into_iter()
        .map(|(path, dir)| (path.as_str(), dir.to_string()))
        .collect();
    assert_eq!(made, [("/t", "0750 root adm".to_owned())]);
}

#[test]
fn states_are_combinations_not_directories() {
    let policy = policy(&["/:ttl=1", "/a:ttl=2", "/a/*/c:ttl=3", "/**/tmp:ttl=4"]);
    for n in 0..10_000 {
        at(&policy, &format!("{n}/x/{n}/tmp/{n}"));
        at(&policy, &format!("a/{n}/c/{n}/tmp/{n}"));
    }
    assert!(
        policy.automaton.states() < 20,
        "{}",
        policy.automaton.states()
    );
    assert_eq!(at(&policy, "x/y"), at(&policy, "z"));
    assert!(policy.has_rules_below(at(&policy, "x")));
    let flat = policy_of(vec![spec("/:ttl=1"), spec("/a:ttl=2")]);
    assert!(!flat.has_rules_below(at(&flat, "x")) && flat.has_rules_below(flat.root()));
}

#[test]
fn many_threads_make_the_same_states() {
    let policy = policy(&[
        "/:ttl=1",
        "/**/a:ttl=2",
        "/**/b*:ttl=3",
        "/**:match=*.x:ttl=4",
        "/**/c:match=y*:ttl=5",
    ]);
    let paths: Vec<String> = (0..200_u32)
        .map(|n| {
            (0..6)
                .map(|i| ["a", "b", "bb", "c", "d"][((n * 7 + 3) >> i) as usize % 5])
                .collect::<Vec<_>>()
                .join("/")
        })
        .collect();
    let walk = || -> Vec<_> {
        paths
            .iter()
            .map(|path| {
                (
                    at(&policy, path),
                    ttl(&policy, path, "y.x"),
                    ttl(&policy, path, "f"),
                )
            })
            .collect()
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(walk)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(all.iter().all(|one| *one == all[0]));
}

#[test]
fn a_share_of_an_unknown_store_is_refused() {
    let config = Config::from_options(&["quota=10%"], Privilege::User).unwrap();
    let error = Policy::compile(&config, 0).unwrap_err().to_string();
    assert!(error.contains("`quota` is a percentage"), "{error}");
    let policy = Policy::compile(&config, 1000).unwrap();
    assert_eq!(
        policy.limits_at(policy.root()).unwrap().quota_bytes,
        Some(100)
    );
}

/// A rule's path as a regex over `/a/b`: another way to say what paths mean.
fn path_regex(path: &str) -> Regex {
    let mut regex = String::from("(?-u)^");
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    for (at, step) in steps.iter().enumerate() {
        match *step {
            "**" if at + 1 == steps.len() => regex.push_str("(/[^/]+)+"),
            "**" => regex.push_str("(/[^/]+)*"),
            "*" => regex.push_str("/[^/]+"),
            name => regex.push_str(&format!(
                "/{}",
                name.replace('.', r"\.").replace('*', "[^/]*")
            )),
        }
    }
    Regex::new(&format!("{regex}$")).unwrap()
}

/// The rules that hold, the first to ask first: straight from the contract's words.
fn naive_order<'r>(
    rules: &'r [RuleSpec],
    regexes: &[Regex],
    dir: &[&[u8]],
    name: Option<&[u8]>,
) -> Vec<(usize, &'r RuleSpec)> {
    let mut holding = Vec::new();
    for (at, (rule, regex)) in rules.iter().zip(regexes).enumerate() {
        let prefix = |depth: usize| {
            dir[..depth]
                .iter()
                .flat_map(|name| [b"/", *name].concat())
                .collect::<Vec<u8>>()
        };
        let deepest = (0..=dir.len())
            .rev()
            .find(|&depth| regex.is_match(&prefix(depth)));
        let Some(deepest) = deepest else { continue };
        if rule.globs.is_empty() || name.is_some_and(|name| rule.globs.matches(name)) {
            holding.push((!rule.globs.is_empty(), deepest, at, rule));
        }
    }
    holding.sort_by_key(|&(matching, deepest, at, _)| std::cmp::Reverse((matching, deepest, at)));
    holding
        .into_iter()
        .map(|(.., at, rule)| (at, rule))
        .collect()
}

const KEYS: &[(&str, &[&str])] = &[
    ("ttl", &["1", "2", "never"]),
    ("max_file", &["1", "2", "0"]),
    ("passes", &["1", "2"]),
    ("priority", &["1", "2"]),
    ("quota", &["0", "1", "2"]),
    ("inodes", &["3", "4"]),
];

prop_compose! {
    fn any_rule()(
        path in "(/(a|b|ab|\\*|\\*\\*|a\\*|\\*b)){0,4}",
        globs in proptest::collection::vec(prop_oneof![Just("a*"), Just("*b"), Just("f")], 0..=2),
        matching in proptest::bool::weighted(0.4),
        keys in proptest::sample::subsequence((0..KEYS.len()).collect::<Vec<_>>(), 0..=3),
        pick in 0..6_usize,
    ) -> RuleSpec {
        let mut text = if path.is_empty() { "/".to_owned() } else { path };
        let matching = matching && !globs.is_empty();
        globs.iter().filter(|_| matching).for_each(|glob| text.push_str(&format!(":match={glob}")));
        for key in keys {
            let (name, values) = KEYS[key];
            if !matching || Key::named(name).unwrap().is_inherited() {
                text.push_str(&format!(":{name}={}", values[pick % values.len()]));
            }
        }
        spec(&text)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn the_automaton_says_what_the_contract_says(
        defaults in proptest::sample::select(vec!["/", "/:ttl=9", "/:ttl=9:quota=5:max_file=7"]),
        rules in proptest::collection::vec(any_rule(), 0..8),
        dirs in proptest::collection::vec(proptest::collection::vec("a|b|ab|aab|c|\\PC", 0..6), 1..12),
    ) {
        let rules: Vec<RuleSpec> = std::iter::once(spec(defaults)).chain(rules).collect();
        let regexes: Vec<Regex> = rules.iter().map(|rule| path_regex(rule.path.as_str())).collect();
        let policy = policy_of(rules.clone());
        for dir in &dirs {
            let dir: Vec<&[u8]> = dir.iter().map(String::as_bytes).filter(|name| *name != b"/").collect();
            let state = policy.walk(&dir);
            for name in [&b"f"[..], b"a", b"ab", b"xb", b"none\xff"] {
                let order = naive_order(&rules, &regexes, &dir, Some(name));
                let settled = policy.settings_for(state, name, false);
                let first = |key: Key| order.iter().find(|(_, rule)| rule.values.has(key));
                let text = |key: Key| first(key).and_then(|(_, rule)| rule.values.text(key)).or(key.default_text()).unwrap();
                prop_assert_eq!(settled.ttl.map_or("never".to_owned(), |t| format!("{}s", t.as_secs())), text(Key::Ttl));
                prop_assert_eq!(settled.max_file.unwrap_or(0).to_string(), text(Key::MaxFile));
                prop_assert_eq!(settled.passes.to_string(), text(Key::Passes));
                prop_assert_eq!(settled.priority.to_string(), text(Key::Priority));
                prop_assert_eq!(settled.rule.0 as usize, order[0].0);
                for key in [Key::Ttl, Key::MaxFile, Key::Passes, Key::Priority] {
                    let origin = first(key).map_or(0, |(at, _)| *at);
                    prop_assert_eq!(policy.origin(state, Some(name), key).0 as usize, origin);
                }
                prop_assert!(settled.ttl.is_none() || policy.ttl_may_apply(state));
                prop_assert!(settled.max_file.is_none() || policy.any_byte_limit(state));
            }
            let here: Vec<&RuleSpec> = rules.iter().filter(|rule| rule.globs.is_empty() && rule.path.matches(&dir)).collect();
            let least = |limit: &dyn Fn(&Values) -> Option<u64>| here.iter().filter_map(|rule| limit(&rule.values)).min();
            let quota = least(&|values| values.quota.and_then(|quota| quota.limit_bytes(1)));
            let inodes = least(&|values| values.inodes.and_then(Count::limit));
            let limits = policy.limits_at(state);
            prop_assert_eq!(limits.and_then(|limits| limits.quota_bytes), quota);
            prop_assert_eq!(limits.and_then(|limits| limits.inodes), inodes);
            // Whatever expires or limits in a directory is foretold by every directory around it.
            for depth in 0..dir.len() {
                let around = policy.walk(&dir[..depth]);
                prop_assert!(policy.ttl_may_apply(around) || !policy.ttl_may_apply(state));
                prop_assert!(policy.has_rules_below(around) || policy.limits_at(state).is_none());
            }
        }
    }
}

#[test]
fn the_gate_is_not_the_policys_business() {
    assert!(!Gate::Supported.admits(Key::Priority));
    assert_eq!(
        policy(&["/:priority=4"]).dir_settings(DirState(0)).priority,
        4
    );
}
