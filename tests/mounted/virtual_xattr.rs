//! The extended attributes that ttlfs itself shows: `user.ttlfs.*`.

use crate::common::*;
use rustix::io::Errno;
use std::path::Path;

in_default_mode!("":
    virtual_keys_are_there,
    virtual_keys_are_not_listed,
    virtual_keys_cannot_be_forged,
    creator_is_the_creator,
    creator_survives_remount,
    creator_of_every_kind_of_file,
);
in_default_mode!("ttl=1h,quota=10M,inodes=100": virtual_keys_show_the_rule, virtual_usage);
in_default_mode!("ttl=1h,rule=/keep:ttl=never:quota=1M": virtual_keys_show_the_subtrees_rule);
in_default_mode!("ttl=1h": virtual_keys_of_others_follow_mode_bits);

const VIRTUAL: [&str; 7] = [
    "created",
    "expires",
    "age",
    "remaining",
    "ttl",
    "rule",
    "creator",
];

fn shown(path: impl AsRef<Path>, key: &str) -> String {
    xattr_text(path, &format!("user.ttlfs.{key}"))
}

fn virtual_keys_are_there(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    for name in ["f", "d"] {
        for key in VIRTUAL {
            let value = shown(m.path(name), key);
            assert!(
                !value.is_empty() && !value.contains(['\0', '\n']),
                "{key}: {value:?}"
            );
        }
        assert_eq!(shown(m.path(name), "expires"), "never");
        assert_eq!(shown(m.path(name), "ttl"), "never");
        let age: f64 = shown(m.path(name), "age").parse().expect("seconds");
        assert!((0.0..100.0).contains(&age));
        timestamp::parse(&shown(m.path(name), "created"));
    }
    shown(m.path("d"), "usage");
    fails(Errno::NODATA, xattr(m.path("f"), "user.ttlfs.usage"));
    fails(Errno::NODATA, xattr(m.path("f"), "user.ttlfs.hold"));
    fails(Errno::NODATA, xattr(m.path("f"), "user.ttlfs.nonsense"));
    // Asked for the size, then with too little room, as getfattr does.
    let length = rustix::fs::lgetxattr_query(m.path("f"), "user.ttlfs.created").unwrap();
    assert_eq!(length, shown(m.path("f"), "created").len());
    let mut short = [0u8; 3];
    fails(
        Errno::RANGE,
        rustix::fs::lgetxattr(m.path("f"), "user.ttlfs.created", &mut short[..]),
    );
}

fn virtual_keys_are_not_listed(m: &mut Mount) {
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    for name in ["f", "d", ""] {
        assert!(
            xattrs(m.path(name)).unwrap().is_empty(),
            "{:?}",
            xattrs(m.path(name))
        );
    }
    // Nor what ttlfs may keep for itself on the backing files.
    m.remount();
    for name in ["f", "d", ""] {
        assert!(
            xattrs(m.path(name)).unwrap().is_empty(),
            "{:?}",
            xattrs(m.path(name))
        );
    }
}

fn virtual_keys_cannot_be_forged(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    put(m.path("f"), "x");
    chown(m.path("f"), ALICE.uid, ALICE.gid).unwrap();
    let before: Vec<String> = ["created", "expires", "rule", "creator"]
        .iter()
        .map(|key| shown(m.path("f"), key))
        .collect();
    for user in [ROOT, ALICE, BOB] {
        user.run(|| {
            for key in [
                "created",
                "expires",
                "age",
                "remaining",
                "rule",
                "creator",
                "usage",
                "nonsense",
            ] {
                let key = format!("user.ttlfs.{key}");
                assert!(
                    set_xattr(m.path("f"), &key, b"1").is_err(),
                    "{key} was set by {}",
                    user.uid
                );
                assert!(
                    remove_xattr(m.path("f"), &key).is_err(),
                    "{key} was removed by {}",
                    user.uid
                );
            }
        });
    }
    let after: Vec<String> = ["created", "expires", "rule", "creator"]
        .iter()
        .map(|key| shown(m.path("f"), key))
        .collect();
    assert_eq!(before, after);
    // Whatever ttlfs keeps on backing files is out of reach: keys of all kinds that exist there.
    let kept = {
        let mut buffer = vec![0; 65_536];
        let length = rustix::fs::llistxattr(m.back("f"), &mut buffer[..]).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    for key in kept.split('\0').filter(|key| key.contains("ttlfs")) {
        fails_with_any(
            &[Errno::NODATA, Errno::PERM, Errno::OPNOTSUPP],
            xattr(m.path("f"), key),
        );
        assert!(set_xattr(m.path("f"), key, b"forged").is_err(), "{key}");
        assert!(remove_xattr(m.path("f"), key).is_err(), "{key}");
    }
}

fn creator(path: impl AsRef<Path>) -> serde_json::Value {
    serde_json::from_str(&shown(path, "creator")).expect("JSON")
}

/// The creator must be soon known and right. It isn't kept on the way of `create` itself.
#[track_caller]
fn assert_creator(path: impl AsRef<Path>, user: &User, comm: &str) {
    let found = creator(path);
    assert_eq!(found["uid"], user.uid, "{found}");
    assert_eq!(found["gid"], user.gid, "{found}");
    assert_eq!(found["comm"], comm, "{found}");
    assert!(found["pid"].as_i64().is_some_and(|pid| pid > 1), "{found}");
}

fn own_comm() -> String {
    std::fs::read_to_string("/proc/self/comm")
        .unwrap()
        .trim_end()
        .to_owned()
}

fn creator_is_the_creator(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    // By another program, whose process id is known.
    let target = m.path("made");
    let mut child = ALICE.run(|| {
        std::process::Command::new("sh")
            .args(["-c", "umask 022; : > \"$0\"; echo $$"])
            .arg(&target)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    });
    let pid = child.id();
    child.wait().unwrap();
    assert_creator(&target, &ALICE, "sh");
    assert_eq!(creator(&target)["pid"], pid, "the process's id");
    // By a thread: the process counts.
    put(m.path("own"), "x");
    assert_eq!(creator(m.path("own"))["pid"], std::process::id());
    // Changing hands doesn't change the creator; nor does writing, renaming, linking.
    chown(&target, BOB.uid, BOB.gid).unwrap();
    rename(&target, m.path("moved")).unwrap();
    pwrite(&open_rw(m.path("moved")).unwrap(), b"x", 0).unwrap();
    assert_creator(m.path("moved"), &ALICE, "sh");
}

fn creator_survives_remount(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    let target = m.path("made");
    assert!(
        ALICE
            .run(|| std::process::Command::new("touch").arg(&target).status())
            .unwrap()
            .success()
    );
    let before = (creator(&target), lstat(&target).unwrap());
    m.remount();
    assert_eq!(creator(&target), before.0);
    let after = lstat(&target).unwrap();
    assert_eq!(
        (mtime(&after), ctime(&after)),
        (mtime(&before.1), ctime(&before.1)),
        "no time that was seen has moved"
    );
}

fn creator_of_every_kind_of_file(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    ALICE.run(|| {
        put(m.path("f"), "x");
        mkdir(m.path("d")).unwrap();
        mknod(m.path("n"), rustix::fs::FileType::RegularFile, 0o644, 0).unwrap();
        drop(
            open(
                m.path("o"),
                rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
                0o644,
            )
            .unwrap(),
        );
    });
    for name in ["f", "d", "n", "o"] {
        let found = creator(m.path(name));
        assert_eq!(
            (&found["uid"], &found["gid"]),
            (&ALICE.uid.into(), &ALICE.gid.into()),
            "{name}: {found}"
        );
    }
    assert!(!own_comm().is_empty());
}

fn virtual_keys_show_the_rule(m: &mut Mount) {
    put(m.path("f"), "x");
    let created = timestamp::parse(&shown(m.path("f"), "created"));
    let expires = timestamp::parse(&shown(m.path("f"), "expires"));
    let lifetime = expires.as_secs_f64() - created.as_secs_f64();
    assert!((lifetime - 3600.0).abs() < 1.1, "{lifetime}");
    let remaining: f64 = shown(m.path("f"), "remaining").parse().expect("seconds");
    assert!((3500.0..=3600.0).contains(&remaining), "{remaining}");
    // Directories that hold something don't expire.
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "x");
    assert_eq!(
        shown(m.root(), "expires"),
        "never",
        "a rule's own directory"
    );
}

fn virtual_usage(m: &mut Mount) {
    put(m.path("f"), [1; 5000]);
    mkdir(m.path("d")).unwrap();
    let usage: serde_json::Value = serde_json::from_str(&shown(m.root(), "usage")).expect("JSON");
    let text = usage.to_string();
    // 8 KiB and two inodes of 10 MiB and 100.
    for number in ["8192", "10485760", "2", "100"] {
        assert!(text.contains(number), "{number} in {text}");
    }
}

fn virtual_keys_show_the_subtrees_rule(m: &mut Mount) {
    mkdir(m.path("keep")).unwrap();
    put(m.path("keep/f"), "x");
    put(m.path("f"), "x");
    assert_eq!(shown(m.path("keep/f"), "expires"), "never");
    assert_ne!(shown(m.path("f"), "expires"), "never");
    assert!(
        shown(m.path("keep/f"), "rule").contains("/keep"),
        "{}",
        shown(m.path("keep/f"), "rule")
    );
    assert!(!shown(m.path("f"), "rule").contains("/keep"));
}

fn virtual_keys_of_others_follow_mode_bits(m: &mut Mount) {
    ALICE.run(|| put(m.path("f"), "x"));
    chmod(m.path("f"), 0o644).unwrap();
    BOB.run(|| assert!(!shown(m.path("f"), "expires").is_empty()));
    chmod(m.path("f"), 0o600).unwrap();
    BOB.run(|| fails(Errno::ACCESS, xattr(m.path("f"), "user.ttlfs.expires")));
    // A writer who isn't the owner passes the kernel's check; ttlfs must refuse to renew for them.
    chmod(m.path("f"), 0o666).unwrap();
    BOB.run(|| assert!(set_xattr(m.path("f"), "user.ttlfs.ttl", b"2h").is_err()));
}
