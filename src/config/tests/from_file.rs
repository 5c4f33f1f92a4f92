//! The configuration file, and contradictions wherever they stand.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::Policy;

#[test]
fn a_file_says_everything() {
    let config = file_of(
        r#"
        [mount]
        backing = "/srv/tmp"
        mountpoint = "/mnt/tmp"
        noexec = true
        suid = true
        options = ["ro", "noatime"]
        adopt = "now"
        acl = true
        context = "a,b"

        [defaults]
        ttl = 86_400
        size = "50%"

        [[rule]]
        path = "/a"
        match = ["*.log", "*.err"]
        ttl = "1h"

        [[rule]]
        path = "/a"
        max_file = 1024
        erase = "overwrite"

        [log]
        level = "debug"
        format = "json"
        file = "/var/log/ttlfs.log"
        "#,
    )
    .unwrap();
    assert_eq!(config.backing(None).unwrap(), Path::new("/srv/tmp"));
    assert_eq!(
        config.backing(Some(Path::new("x"))).unwrap(),
        Path::new("x")
    );
    assert_eq!(config.mountpoint(None).unwrap(), Path::new("/mnt/tmp"));
    let expected = libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY | libc::MS_NOATIME;
    assert_eq!(config.kernel().ms_flags(), expected);
    assert_eq!(
        (config.mount().adopt, config.mount().acl),
        (Adopt::Now, true)
    );
    assert_eq!(
        (
            text(config.defaults(), Key::Ttl),
            text(config.defaults(), Key::Quota)
        ),
        ("1d".into(), "50%".into())
    );
    assert_eq!(
        text(rule(&config, "/a:match=*.err:match=*.log"), Key::Ttl),
        "1h"
    );
    assert_eq!(text(rule(&config, "/a"), Key::MaxFile), "1K");
    let log = config.log();
    assert_eq!(
        (log.level, log.format),
        (Some(LogLevel::Debug), LogFormat::Json)
    );
    assert!(
        message(options(&[]).and_then(|c| c.backing(None).map(|_| c.clone())))
            .starts_with("BACKING: missing; ")
    );
}

#[test]
fn options_win_over_the_file() {
    let text_of_file = "[mount]\nro = true\nadopt = \"now\"\n[defaults]\nttl = \"1h\"\nquota = \"1G\"\n\
        [[rule]]\npath = \"/a\"\nttl = \"2h\"\nquota = \"2G\"\n[[rule]]\npath = \"/\"\nttl = \"3h\"\npasses = 3\n\
        [[rule]]\npath = \"/a\"\nmatch = [\"*.log\"]\nttl = \"4h\"\n";
    let config = parse(
        text_of_file,
        &["ttl=9h,rule=/a:ttl=8h,rw,adopt=birth"],
        Gate::Supported,
    )
    .unwrap();
    assert!(!config.kernel().is_read_only());
    assert_eq!(config.mount().adopt, Adopt::Birth);
    assert_eq!(
        (
            text(config.defaults(), Key::Ttl),
            text(config.defaults(), Key::Quota)
        ),
        ("9h".into(), "1G".into())
    );
    // The rule is replaced, not merged; the one for some names is another rule.
    assert_eq!(
        (
            text(rule(&config, "/a"), Key::Ttl),
            text(rule(&config, "/a"), Key::Quota)
        ),
        ("8h".into(), String::new())
    );
    assert_eq!(text(rule(&config, "/a:match=*.log"), Key::Ttl), "4h");
    assert_eq!(
        (
            text(rule(&config, "/"), Key::Ttl),
            text(rule(&config, "/"), Key::Passes)
        ),
        (String::new(), "3".into())
    );
    let policy = Policy::compile(&config, 1 << 30).unwrap();
    assert_eq!(
        policy.dir_settings(policy.root()).ttl,
        Some(Duration::from_secs(9 * 3600))
    );
}

#[test]
fn a_wrong_file_says_where() {
    for (text, expected) in [
        (
            "[defaults]\nttl = \"10x\"",
            "t.toml:2:7: `ttl`: `10x` is not a duration; allowed: a duration above 0",
        ),
        (
            "[defaults]\nttl = 1.5",
            "t.toml:2:7: `ttl`: `1.5` is not a duration; allowed: ",
        ),
        (
            "[defaults]\nttl = -5",
            "t.toml:2:7: `ttl`: `-5` is not a duration; allowed: ",
        ),
        (
            "[defaults]\nttl = [1]",
            "t.toml:2:7: `ttl`: `[1]` is an array; allowed: ",
        ),
        (
            "[defaults]\nttl = {a=1}",
            "t.toml:2:7: `ttl`: `{a=1}` is a table; allowed: ",
        ),
        (
            "[defaults]\n  tll = 1",
            "t.toml:2:3: unknown key `tll`; did you mean `ttl`? allowed: ttl, ttl_from, ",
        ),
        (
            "[defaults]\nquota = 1\nsize = 2",
            "t.toml:3:1: `size` gives the key `quota` twice; allowed: ",
        ),
        (
            "[defaults]\nttl = 1\nttl = 2",
            "t.toml:3:1: `ttl`: duplicate key",
        ),
        (
            "[defaults]\nmatch = [\"x\"]",
            "t.toml:2:1: unknown key `match`",
        ),
        (
            "[defaults]\ngrace = 1",
            "t.toml:2:1: `grace` is not supported by this version; allowed: ",
        ),
        (
            "[default]\n",
            "t.toml:1:2: unknown section `default`; did you mean `defaults`? allowed: mount, defaults, ",
        ),
        (
            "ttl = 1\n",
            "t.toml:1:1: unknown section `ttl`; allowed: mount",
        ),
        (
            "defaults = 1\n",
            "t.toml:1:12: `defaults` is not a section; allowed: [defaults]",
        ),
        (
            "[audit]\n",
            "t.toml:1:2: `audit` is not supported by this version; allowed: mount, defaults, rule, log",
        ),
        (
            "[metrics]\nlisten = 1",
            "t.toml:1:2: `metrics` is not supported by this version; ",
        ),
        (
            "[rule]\npath = \"/a\"",
            "t.toml:1:2: `rule` is not an array of tables; allowed: [[rule]]",
        ),
        (
            "rule = [1]",
            "t.toml:1:9: `rule` is not an array of tables; allowed: [[rule]]",
        ),
        (
            "[[rule]]\nttl = 1",
            "t.toml:1:1: the rule has no `path`; allowed: path = a path",
        ),
        (
            "[[rule]]\npath = \"a\"",
            "t.toml:2:8: `path`: the path `a` doesn't begin with /; allowed: a path",
        ),
        (
            "[[rule]]\npath = 1",
            "t.toml:2:8: `path`: `1` is not a string; allowed: a path",
        ),
        (
            "[[rule]]\npath = \"/a\"\nmatch = []",
            "t.toml:3:9: `match`: `[]` matches no name; allowed: globs",
        ),
        (
            "[[rule]]\npath = \"/a\"\nmatch = [\"[\"]",
            "t.toml:3:9: `match`: `[` is not a glob: ",
        ),
        (
            "[[rule]]\npath = \"/a\"\nmatch = [1]",
            "t.toml:3:10: `match`: `1` is not a string; allowed: globs",
        ),
        (
            "[[rule]]\npath=\"/a\"\n\n[[rule]]\npath=\"/a/\"\n",
            "t.toml:4:1: rule `/a` (t.toml:4:1) is given twice: here and at t.toml:1:1; ",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "t.toml:2:9: `level`: `loud` is none of the choices; allowed: `error`",
        ),
        (
            "[log]\nfile = \"x\"",
            "t.toml:2:8: `file`: `x` is not absolute; allowed: an absolute path",
        ),
        (
            "[log]\nleve = \"x\"",
            "t.toml:2:1: unknown key `leve`; did you mean `level`? allowed: level, format, file",
        ),
        (
            "[mount]\nbacking = \"x\"",
            "t.toml:2:11: `backing`: `x` is not absolute; allowed: an absolute path",
        ),
        (
            "[mount]\nro = 1",
            "t.toml:2:6: `ro`: `1` is none of the choices; allowed: `true` or `false`",
        ),
        ("[mount]\nttl = 1", "t.toml:2:1: unknown key `ttl`; "),
        (
            "[mount]\nreserve = \"5%\"",
            "t.toml:2:1: `reserve` is not supported by this version; ",
        ),
        (
            "[mount]\noptions = \"ro,ttl=1h\"",
            "t.toml:2:11: `options`: `ttl` is no option of the mount; allowed: acl",
        ),
        (
            "[mount]\noptions = \"rro\"",
            "t.toml:2:11: unknown option `rro`; did you mean `ro`? ",
        ),
        ("[mount\n", "t.toml:1:"),
        ("a = \"\n", "t.toml:1:"),
        ("x\u{e9}\u{e9} =", "t.toml:1:"),
    ] {
        let message = message(file_of(text));
        assert!(
            message.starts_with(expected),
            "{text}\n{message}\n{expected}"
        );
    }
    // Columns are characters, not bytes.
    assert!(message(file_of("[log]\n\"l\u{e9}vel\" = 1, \n")).starts_with("t.toml:2:"));
    assert!(
        message(file_of("[defaults] # \u{e9}\u{e9}\nttl = \"1h\" x")).starts_with("t.toml:2:12: ")
    );
}

#[test]
fn contradictions_name_both_sides() {
    let both = |text: &str, one: &str, other: &str| {
        let message = message(parse(text, &[], Gate::Everything));
        assert!(
            message.contains(one) && message.contains(other),
            "{message}"
        );
    };
    both(
        "[defaults]\nttl = \"2d\"\nmax_ttl = \"1d\"",
        "ttl = 2d",
        "max_ttl = 1d",
    );
    both(
        "[defaults]\nmax_ttl = \"1d\"\n[[rule]]\npath = \"/a/*\"\nttl = \"2d\"",
        "t.toml:3:1: ",
        "rule `/` (t.toml:1:2)",
    );
    both(
        "[[rule]]\npath = \"/a/**\"\nmax_ttl = \"1d\"\n[[rule]]\npath = \"/a/b\"\nttl = \"2d\"",
        "rule `/a/b`",
        "rule `/a/**`",
    );
    both(
        "[[rule]]\npath = \"/t\"\nunit = \"tree\"\n[[rule]]\npath = \"/t/*/x\"\nttl = 1",
        "rule `/t/*/x` (t.toml:4:1)",
        "rule `/t` (t.toml:1:1)",
    );
    both(
        "[[rule]]\npath = \"/t\"\nunit = \"tree\"\n[[rule]]\npath = \"/t\"\nmatch=\"x\"\nttl = 1",
        "rule `/t:match=x`",
        "rule `/t` (",
    );
    both(
        "[defaults]\nevict_to = \"80%\"\nevict_at = \"70%\"",
        "evict_to = 80%",
        "evict_at = 70%",
    );
    both(
        "[[rule]]\npath = \"/a\"\nevict_at = \"50%\"",
        "evict_to = 90%",
        "evict_at = 50%",
    );
    both(
        "[[rule]]\npath = \"/a\"\nmatch=\"x\"\nfiles=\"deny\"",
        "`files`",
        "`match`",
    );
    for fine in [
        "[defaults]\nttl = \"2d\"\n[[rule]]\npath = \"/a\"\nmatch = [\"*.x\"]\nmax_ttl = 5",
        "[defaults]\nmax_ttl = \"1d\"\nttl = \"never\"",
        "[defaults]\nmax_ttl = \"1d\"\n[[rule]]\npath = \"/a\"\nmax_ttl = \"3d\"\nttl = \"2d\"",
        "[[rule]]\npath = \"/a/*\"\nmax_ttl = 1\n[[rule]]\npath = \"/a\"\nttl = 2",
        "[[rule]]\npath = \"/t\"\nunit = \"tree\"\nttl = 1\n[[rule]]\npath = \"/tt/x\"\nttl = 1",
        "[[rule]]\npath = \"/a\"\nmatch = [\"*.x\"]\nmax_ttl = 1\n[[rule]]\npath = \"/a/b\"\nttl = 2",
    ] {
        parse(fine, &[], Gate::Everything).unwrap_or_else(|error| panic!("{fine}\n{error}"));
    }
}

#[test]
fn it_travels_as_json() {
    let text = include_str!("../../../config/ttlfs.toml");
    let config = parse(
        text,
        &["ro,context=x,rule=/a:match=*.log:ttl=1h"],
        Gate::Supported,
    )
    .unwrap();
    let sent = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&sent).unwrap(), config);
    assert_eq!(
        serde_json::from_reader::<_, Config>(sent.as_bytes()).unwrap(),
        config
    );
    assert_eq!(
        serde_json::from_value::<Config>(serde_json::to_value(&config).unwrap()).unwrap(),
        config
    );
}

#[test]
fn the_example_does_what_it_says() {
    let config = file_of(include_str!("../../../config/ttlfs.toml")).unwrap();
    let policy = Policy::compile(&config, 1 << 40).unwrap();
    let dir = |path: &str| {
        policy.walk(
            &path
                .split('/')
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>(),
        )
    };
    let hours = |path: &str, name: &str| {
        policy
            .settings_for(dir(path), name.as_bytes(), false)
            .ttl
            .map(|ttl| ttl.as_secs() / 3600)
    };
    let gigabytes = |path: &str| {
        policy
            .limits_at(dir(path))
            .and_then(|limits| limits.quota_bytes)
            .map(|bytes| bytes >> 30)
    };
    assert_eq!(
        (hours("processing/job", "x"), gigabytes("processing")),
        (Some(24), Some(10))
    );
    assert_eq!(
        (hours("downloads", "x"), gigabytes("downloads")),
        (Some(7 * 24), Some(50))
    );
    assert_eq!(
        (
            hours("cache", "x"),
            hours("sessions", "x"),
            hours("debug", "x")
        ),
        (Some(12), Some(8), None)
    );
    assert_eq!(
        (
            hours("", "x.log"),
            hours("downloads/a/b", "x.log"),
            hours("debug", "core.log")
        ),
        (Some(1), Some(1), None)
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = std::env::temp_dir().join(format!("ttlfs-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let load = |path: &Path| {
        Config::load(Sources {
            file: Some(path.to_owned()),
            ..sources(&[])
        })
    };
    let missing = message(load(&dir.join("missing.toml")));
    assert!(
        missing.contains("missing.toml: can't be read: No such file"),
        "{missing}"
    );
    std::fs::write(dir.join("latin1.toml"), b"[log]\n# caf\xe9\n").unwrap();
    let latin1 = message(load(&dir.join("latin1.toml")));
    assert!(
        latin1.contains("latin1.toml:2:6: bytes that are not UTF-8; "),
        "{latin1}"
    );
    std::fs::write(dir.join("large.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(message(load(&dir.join("large.toml"))).contains("large.toml: is larger than"));
    std::fs::write(dir.join("good.toml"), "[defaults]\nttl = 5").unwrap();
    let named = format!("config={},quota=1G", dir.join("good.toml").display());
    let config = options(&[&named]).unwrap();
    assert_eq!(text(config.defaults(), Key::Ttl), "5s");
    assert_eq!(config.file(), Some(dir.join("good.toml")));
    assert!(message(load(&dir)).contains("can't be read: "));
    std::fs::remove_dir_all(&dir).unwrap();
}

proptest! {
    #[test]
    fn no_options_and_no_file_panic(
        given in "((ttl|quota|rule|match|ro|context|x-y|size|names)(=[/a-z*:\"0-9,=]{0,12})?,?){0,4}|\\PC{0,40}",
        text in "(\\[\\[?(rule|defaults|mount|log)\\]\\]?\n|(path|ttl|match|ro|options) = (\"[/a*1]{0,4}\"|\\[\"x\"\\]|1|true)\n){0,6}|\\PC{0,60}",
    ) {
        for result in [ungated(&[&given]), options(&[&given]), parse(&text, &[], Gate::Everything)] {
            if let Err(error) = result {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
