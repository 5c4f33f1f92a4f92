//! Mount options.

use super::*;

#[test]
fn keys_as_options_hold_for_the_whole_mount() {
    let config = options(&["ttl=24h,quota=10G", "nr_inodes=1k,erase=overwrite,passes=3"]).unwrap();
    let defaults = config.defaults();
    assert_eq!(text(defaults, Key::Ttl), "1d");
    assert_eq!(text(defaults, Key::Quota), "10G");
    assert_eq!(text(defaults, Key::Inodes), "1024");
    assert_eq!(
        (text(defaults, Key::Erase), text(defaults, Key::Passes)),
        ("overwrite".into(), "3".into())
    );
    assert_eq!(config.rules().count(), 1);
}

#[test]
fn the_last_of_an_option_wins() {
    let config = options(&["ttl=1h,ttl=2h", "quota=1G,ro", "size=2G,rw"]).unwrap();
    assert_eq!(text(config.defaults(), Key::Ttl), "2h");
    assert_eq!(text(config.defaults(), Key::Quota), "2G");
    assert!(!config.kernel().is_read_only());
}

#[test]
fn a_rule_as_an_option() {
    let config =
        options(&["rule=/processing:ttl=24h:quota=10G,rule=/logs:match=*.log:match=*.err:ttl=1h"])
            .unwrap();
    assert_eq!(text(rule(&config, "/processing"), Key::Quota), "10G");
    assert_eq!(
        text(rule(&config, "/logs:match=*.err:match=*.log"), Key::Ttl),
        "1h"
    );
}

#[test]
fn quotes_hide_commas_and_colons() {
    let config = ungated(&[
        r#"context="system_u:object_r:tmp_t:s0:c1,c2",schedule="0 3,4 * * *",ro,rule=/a:names="a:b":ttl=1h"#,
    ]);
    let config = config.unwrap();
    assert_eq!(
        config.kernel().contexts,
        [(
            "context".to_owned(),
            "system_u:object_r:tmp_t:s0:c1,c2".to_owned()
        )]
    );
    assert!(config.kernel().is_read_only());
    assert_eq!(text(config.defaults(), Key::Schedule), "0 3,4 * * *");
    assert_eq!(text(rule(&config, "/a"), Key::Names), "a:b");
}

#[test]
fn what_mount_and_fstab_add_is_ignored() {
    let noise = "defaults,auto,noauto,user,users,owner,group,nofail,_netdev,x-systemd.automount,X-mount.mkdir=0755,\
                 x-systemd.requires=/a,comment=hi,fsname=x,subtype=ttlfs,user_id=0,group_id=0,,remount";
    assert_eq!(
        options(&[noise]).unwrap().rules,
        options(&[]).unwrap().rules
    );
    assert_eq!(
        options(&[noise]).unwrap().kernel,
        options(&[""]).unwrap().kernel
    );
}

#[test]
fn kernel_options_mean_what_they_mean_to_mount() {
    let flags = |given: &str| options(&[given]).unwrap().kernel().ms_flags();
    let default = libc::MS_NOSUID | libc::MS_NODEV;
    assert_eq!(flags(""), default);
    assert_eq!(
        flags("ro,noexec"),
        default | libc::MS_RDONLY | libc::MS_NOEXEC
    );
    assert_eq!(flags("suid,dev"), 0);
    assert_eq!(flags("noatime,relatime"), default | libc::MS_RELATIME);
    assert_eq!(
        flags("strictatime,noatime,sync,dirsync,async"),
        default | libc::MS_NOATIME | libc::MS_DIRSYNC
    );
    let names: Vec<_> = options(&["ro,lazytime"])
        .unwrap()
        .kernel()
        .flag_names()
        .collect();
    assert_eq!(names, ["ro", "nosuid", "nodev", "lazytime"]);
    assert!(message(options(&["ro=1"])).starts_with("-o ro: `ro` takes no value"));
    assert!(message(options(&["context"])).starts_with("-o context: needs a value"));
}

#[test]
fn root_shares_its_mounts_and_others_do_not() {
    let access = |given: &[&str], privilege| {
        Config::from_options(given, privilege)
            .unwrap()
            .kernel()
            .access
    };
    assert_eq!(access(&[], Privilege::Root), Access::Everyone);
    assert_eq!(access(&[], Privilege::User), Access::Unsaid);
    assert_eq!(access(&["allow_root"], Privilege::Root), Access::Root);
    assert_eq!(access(&["allow_other"], Privilege::User), Access::Everyone);
}

#[test]
fn options_of_the_mount() {
    let config = options(&["acl,adopt=birth,erase_best_effort,io=direct"]).unwrap();
    let mount = config.mount();
    assert!(mount.acl && mount.erase_best_effort);
    assert_eq!((mount.adopt, mount.io), (Adopt::Birth, IoMode::Direct));
    assert!(
        message(options(&["adopt=later"]))
            .starts_with("-o adopt: `later` is none of the choices; allowed: `now`")
    );
    assert!(message(options(&["io"])).starts_with("-o io: needs a value; allowed: `auto`"));
    assert!(
        message(options(&["on_stop=purge"]))
            .starts_with("-o on_stop: `on_stop` is not supported by this version")
    );
    assert_eq!(
        ungated(&["on_stop=purge,reserve=5%"])
            .unwrap()
            .mount()
            .on_stop,
        AtStart::Purge
    );
}

#[test]
fn a_wrong_option_names_itself_and_what_is_right() {
    for (given, expected) in [
        (
            "ttl=10x",
            "-o ttl: `10x` is not a duration; allowed: a duration above 0 such as 90s",
        ),
        (
            "ttl=0",
            "-o ttl: `0` would expire everything at once; allowed: ",
        ),
        ("ttl", "-o ttl: needs a value; allowed: "),
        ("ttl=", "-o ttl: `` is not a duration; allowed: "),
        (
            "size=1X",
            "-o size: `1X` is not a size; allowed: bytes, with K",
        ),
        (
            "quota=101%",
            "-o quota: `101%` is more than 100%; allowed: ",
        ),
        (
            "quota=16777216T",
            "-o quota: `16777216T` is more than 9223372036854775807 bytes; allowed: ",
        ),
        (
            "tll=1h",
            "-o: unknown option `tll`; did you mean `ttl`? allowed: rule, config, ttl, ttl_from, max_file, ",
        ),
        (
            "qouta=1G",
            "-o: unknown option `qouta`; did you mean `quota`? allowed: ",
        ),
        ("xyzzy", "-o: unknown option `xyzzy`; allowed: "),
        ("=1", "-o: unknown option ``; allowed: "),
        ("TTL=1h", "-o: unknown option `TTL`; allowed: "),
        (
            "grace=1h",
            "-o grace: `grace` is not supported by this version; allowed: ",
        ),
        (
            "grace=nonsense",
            "-o grace: `grace` is not supported by this version; allowed: ",
        ),
        (
            "isolate=user",
            "-o isolate: `isolate` is not supported by this version; allowed: ",
        ),
        ("match=*.log", "-o: unknown option `match`; allowed: "),
        ("rule", "-o rule: needs a value; allowed: rule=/PATH"),
        (
            "rule=a:ttl=1",
            "-o rule: the path `a` doesn't begin with /; allowed: a path from the mount's root",
        ),
        (
            "rule=/a/../b:ttl=1",
            "-o rule: the path `/a/../b` has a `.` or `..` in it; allowed: ",
        ),
        (
            "rule=/a",
            "-o rule=/a: sets no key; allowed: rule=/PATH:KEY=VALUE",
        ),
        (
            "rule=/a:ttl=x",
            "-o rule=/a: `ttl`: `x` is not a duration; allowed: ",
        ),
        (
            "rule=/a:tll=1",
            "-o rule=/a: unknown key `tll`; did you mean `ttl`? allowed: match, ttl, ",
        ),
        (
            "rule=/a:grace=1",
            "-o rule=/a: `grace` is not supported by this version; allowed: match, ttl",
        ),
        (
            "rule=/a:match=*.x:quota=1",
            "-o rule=/a: `quota` in rule `/a:match=*.x` (-o rule=/a), which has a `match`",
        ),
        (
            "rule=/a:ttl=1,rule=/a/:ttl=2",
            "-o rule=/a/: rule `/a` (-o rule=/a/) is given twice: here and at -o rule=/a;",
        ),
        ("config=", "-o config: needs a value; allowed: the path"),
    ] {
        let message = message(options(&[given]));
        assert!(
            message.starts_with(expected),
            "{given}:\n{message}\n{expected}"
        );
    }
}

#[test]
fn rules_are_bounded_in_number() {
    let rules: Vec<String> = (0..1024).map(|n| format!("rule=/**/{n}/*:ttl=1")).collect();
    assert!(options(&[&rules[..1023].join(",")]).is_ok());
    assert!(
        message(options(&[&rules.join(",")]))
            .starts_with("rules: 1024 rules; allowed: at most 1023")
    );
}
