use std::collections::HashSet;

use super::*;

/// A value other than the default for every key.
fn sample(key: Key) -> &'static str {
    match key {
        Key::Ttl => "1h",
        Key::TtlFrom => "modified",
        Key::MaxTtl => "2d",
        Key::UserExtend => "30m",
        Key::InUse => "unlink",
        Key::DiesWith => "session",
        Key::Grace => "10m",
        Key::Schedule => "30 3 * * *",
        Key::ScheduleTz => "Europe/Berlin",
        Key::MaxFile => "1G",
        Key::OnFull => "evict",
        Key::EvictMinAge => "5m",
        Key::EvictAt => "95%",
        Key::EvictTo => "70%",
        Key::QuotaErrno => "EDQUOT",
        Key::Enforce => "fast",
        Key::WarnAt => "90%",
        Key::WarnBefore => "1h",
        Key::Priority => "-3",
        Key::Erase => "overwrite",
        Key::Passes => "3",
        Key::Encrypt => "true",
        Key::FileMode => "0640",
        Key::DirMode => "0750",
        Key::Names => "[a-z]+",
        Key::Isolate => "user",
        Key::Quota => "10%",
        Key::Inodes => "1000",
        Key::UserQuota => "1M",
        Key::UserInodes => "10",
        Key::Unit => "tree",
        Key::Files => "deny",
        Key::Dir => "0750 root adm",
    }
}

#[test]
fn every_key_has_one_name_and_says_what_it_takes() {
    let names: HashSet<&str> = Key::spellings(Gate::Everything).collect();
    assert_eq!(names.len(), Key::ALL.len() + Key::ALIASES.len());
    for &key in Key::ALL {
        assert_eq!(Key::named(key.name()), Some(key));
        assert!(!key.help().is_empty() && !key.allowed().is_empty());
    }
    assert_eq!(Key::named("size"), Some(Key::Quota));
    assert_eq!(Key::named("nr_inodes"), Some(Key::Inodes));
    assert_eq!(Key::named("match"), None);
}

#[test]
fn every_value_is_set_shown_and_sent_as_it_was_typed() {
    let mut values = Values::default();
    for &key in Key::ALL {
        assert!(!values.has(key));
        values.set(key, sample(key)).unwrap();
        assert_eq!(values.text(key).as_deref(), Some(sample(key)));
    }
    assert_eq!(values.keys().collect::<Vec<_>>(), Key::ALL);
    let sent = serde_json::to_string(&values).unwrap();
    assert_eq!(serde_json::from_str::<Values>(&sent).unwrap(), values);
    for &key in Key::ALL {
        values.clear(key);
    }
    assert_eq!(values, Values::default());
}

#[test]
fn every_default_is_a_value_that_can_be_typed() {
    for &key in Key::INHERITED {
        if let Some(text) = key.default_text() {
            let mut values = Values::default();
            values.set(key, &text).unwrap();
            assert_eq!(values.text(key), Some(text));
        }
    }
    let values = Values::default();
    let settings = Settings::settle(RuleId::DEFAULTS, |_| &values);
    assert_eq!(settings.ttl, None);
    assert_eq!(settings.ttl_from, TtlFrom::Created);
    assert_eq!(settings.evict_min_age, Duration::from_secs(3600));
    assert_eq!(
        (settings.evict_at, settings.evict_to),
        (Percent::FULL, Percent::whole(90))
    );
    assert_eq!((settings.quota_errno, settings.max_file), (None, None));
    assert_eq!(
        (settings.file_mode, settings.dir_mode, settings.passes),
        (0o777, 0o777, 1)
    );
    assert!(settings.names.is_none() && !settings.encrypt && !settings.may_expire());
}

#[test]
fn what_holds_is_what_was_typed() {
    let mut values = Values::default();
    for &key in Key::ALL {
        values.set(key, sample(key)).unwrap();
    }
    let settings = Settings::settle(RuleId(7), |_| &values);
    assert_eq!(settings.rule, RuleId(7));
    assert_eq!(settings.ttl, Some(Duration::from_secs(3600)));
    assert_eq!(settings.lifetime(), Some(Duration::from_secs(3600)));
    assert_eq!(settings.max_file, Some(1 << 30));
    assert_eq!(settings.quota_errno, Some(QuotaErrno::Edquot));
    assert_eq!(
        (settings.priority, settings.passes, settings.file_mode),
        (-3, 3, 0o640)
    );
    assert!(settings.names.as_ref().unwrap().is_match(b"abc"));
    assert!(settings.may_expire());
}

#[test]
fn what_cannot_be_done_yet_is_not_admitted() {
    use Key::*;
    let supported = [
        Ttl, TtlFrom, MaxFile, QuotaErrno, Erase, Passes, Quota, Inodes,
    ];
    for &key in Key::ALL {
        assert_eq!(
            Gate::Supported.admits(key),
            supported.contains(&key),
            "{key}"
        );
    }
}

#[test]
fn bad_values_are_refused() {
    for (key, text) in [
        (Key::Ttl, "0"),
        (Key::TtlFrom, "Created"),
        (Key::QuotaErrno, "enospc"),
        (Key::Erase, "shred"),
        (Key::Passes, "36"),
        (Key::Priority, "2147483648"),
        (Key::Priority, "1.0"),
        (Key::Encrypt, "yes"),
        (Key::Names, "("),
        (Key::Names, ")|("),
        (Key::Names, "a{1000}{1000}{1000}"),
        (Key::Dir, "0750 root"),
        (Key::Dir, "0750 root adm x"),
        (Key::Dir, "rwx root adm"),
        (Key::Dir, "0750 ../x adm"),
        (Key::ScheduleTz, "../../etc/passwd"),
        (Key::ScheduleTz, "/etc/localtime"),
        (Key::ScheduleTz, ""),
        (Key::FileMode, "1777"),
        (Key::MaxFile, "10%"),
        (Key::UserQuota, "10%"),
    ] {
        let error = Values::default().set(key, text).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn names_must_match_whole() {
    let names = |pattern: &str| pattern.parse::<Names>().unwrap().meant();
    assert!(names("a|bc").is_match(b"bc") && !names("a|bc").is_match(b"abc"));
    assert!(!names("[a-z]+").is_match(b"abc\n"));
    assert!(!names(".*").is_match(b"\xff") && names("(?-u:.)*").is_match(b"\xff"));
}

#[test]
fn a_rule_is_named_by_path_and_globs() {
    let rule = |path: &str, globs: &[&str]| RuleSpec {
        path: path.parse().unwrap(),
        globs: Globs::new(globs.iter().map(|&glob| glob.to_owned())).unwrap(),
        values: Values::default(),
        origin: String::new(),
    };
    assert_eq!(rule("/logs/", &[]).name(), "/logs");
    assert_eq!(
        rule("/logs", &["*.log", "*.err"]).name(),
        "/logs:match=*.err:match=*.log"
    );
    assert!(rule("//logs", &["b", "a", "b"]).same_place(&rule("/logs/", &["a", "b"])));
    assert!(!rule("/logs", &["a"]).same_place(&rule("/logs", &[])));
}
