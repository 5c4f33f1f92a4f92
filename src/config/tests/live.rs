//! Live changes and remounts.

use super::*;

#[test]
fn a_live_change_is_whole_or_nothing() {
    let config =
        options(&["ttl=1h,quota=1G,rule=/a:ttl=2h:quota=1M,rule=/a:match=*.log:ttl=3h"]).unwrap();
    let changed = config
        .with_changes(None, &[("quota", "2G"), ("passes", "3")])
        .unwrap();
    assert_eq!(
        (
            text(changed.defaults(), Key::Quota),
            text(changed.defaults(), Key::Ttl)
        ),
        ("2G".into(), "1h".into())
    );
    let changed = config.with_changes(Some("/a/"), &[("size", "2M")]).unwrap();
    assert_eq!(
        (
            text(rule(&changed, "/a"), Key::Quota),
            text(rule(&changed, "/a"), Key::Ttl)
        ),
        ("2M".into(), "2h".into())
    );
    let changed = config
        .with_changes(Some("/a:match=*.log"), &[("ttl", "4h")])
        .unwrap();
    assert_eq!(text(rule(&changed, "/a:match=*.log"), Key::Ttl), "4h");
    assert_eq!(
        text(
            config
                .with_changes(Some("/"), &[("ttl", "5h")])
                .unwrap()
                .defaults(),
            Key::Ttl
        ),
        "5h"
    );
    for (rule, changes, expected) in [
        (
            None,
            &[("quota", "2G"), ("ttl", "x")][..],
            "set ttl: `x` is not a duration; allowed: ",
        ),
        (
            None,
            &[("qota", "1")],
            "set: unknown key `qota`; did you mean `quota`? allowed: ttl",
        ),
        (
            None,
            &[("grace", "1")],
            "set: `grace` is not supported by this version; allowed: ",
        ),
        (
            Some("/b"),
            &[("ttl", "1")],
            "--rule: no rule is named `/b`; allowed: /, /a, /a:match=*.log",
        ),
        (
            Some("/a:match=*.log"),
            &[("quota", "1")],
            "-o rule=/a: `quota` in rule",
        ),
    ] {
        let message = message(config.with_changes(rule, changes));
        assert!(message.starts_with(expected), "{message}");
    }
    let config = ungated(&["max_ttl=1d"]).unwrap();
    assert!(
        message(config.changed_through(None, &[("ttl", "2d")], Gate::Everything))
            .contains("ttl = 2d is longer")
    );
}

#[test]
fn a_remount_changes_only_the_keys_given() {
    let config = options(&["ttl=1h,quota=1G,noexec,io=direct,rule=/a:ttl=2h:quota=1M"]).unwrap();
    let given = "rw,nosuid,nodev,relatime,user_id=0,group_id=0,allow_other,default_permissions,max_read=131072,\
                 quota=20G,rule=/a:quota=2M,rule=/b:ttl=5";
    let after = config.remounted(&[given]).unwrap();
    assert_eq!(
        (
            text(after.defaults(), Key::Quota),
            text(after.defaults(), Key::Ttl)
        ),
        ("20G".into(), "1h".into())
    );
    assert_eq!(
        (
            text(rule(&after, "/a"), Key::Quota),
            text(rule(&after, "/a"), Key::Ttl)
        ),
        ("2M".into(), "2h".into())
    );
    assert_eq!(text(rule(&after, "/b"), Key::Ttl), "5s");
    assert_eq!(
        (after.mount(), after.kernel()),
        (config.mount(), config.kernel())
    );
    assert!(message(config.remounted(&["quota=x"])).starts_with("-o quota: `x` is not a size"));
    assert!(message(config.remounted(&["qota=1"])).starts_with("-o: unknown option `qota`"));
    assert_eq!(text(after.reload().unwrap().defaults(), Key::Quota), "1G");
}
