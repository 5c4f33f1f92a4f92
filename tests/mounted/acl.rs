//! Access control lists, with the mount option `acl`.

use crate::common::*;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::path::Path;

in_default_mode!("acl":
    entries_decide,
    mask_limits_entries,
    default_lists_are_inherited,
    default_lists_replace_the_umask,
    chmod_and_mask_are_one,
    lists_by_users_and_others,
    lists_survive_remount_and_copies,
    minimal_lists_are_mode_bits,
    denied_by_an_entry,
);
in_default_mode!("": without_the_option_default_lists_do_no_harm);

/// Runs setfacl; false if there is none, after saying so.
fn set(arguments: &str, path: &Path) -> bool {
    if !process::installed("setfacl") || !process::installed("getfacl") {
        skip("no setfacl here");
        return false;
    }
    let mut words: Vec<&str> = arguments.split(' ').collect();
    let path = path.display().to_string();
    words.push(&path);
    process::tool("setfacl", &words);
    true
}

fn list(path: &Path) -> String {
    process::tool("getfacl", &["-npcE", &path.display().to_string()])
}

fn entries_decide(m: &mut Mount) {
    put(m.path("f"), "content");
    chmod(m.path("f"), 0o600).unwrap();
    if !set("-m u:21001:r--", &m.path("f")) {
        return;
    }
    assert!(list(&m.path("f")).contains("user:21001:r--"));
    for _ in 0..5 {
        ALICE.run(|| {
            assert_eq!(get(m.path("f")), b"content");
            fails(Errno::ACCESS, open_rw(m.path("f")));
        });
        BOB.run(|| fails(Errno::ACCESS, open_read(m.path("f"))));
    }
    set("-m u:21001:rw-,g:22000:r--", &m.path("f"));
    ALICE.run(|| drop(open_rw(m.path("f")).unwrap()));
    BOB.in_groups(&[22_000])
        .run(|| assert_eq!(get(m.path("f")), b"content"));
    set("-x u:21001", &m.path("f"));
    ALICE.run(|| fails(Errno::ACCESS, open_read(m.path("f"))));
    set("-b", &m.path("f"));
    BOB.in_groups(&[22_000])
        .run(|| fails(Errno::ACCESS, open_read(m.path("f"))));
    // A directory's list decides about the way.
    mkdir_mode(m.path("d"), 0o700).unwrap();
    put(m.path("d/f"), "inside");
    set("-m u:21001:--x", &m.path("d"));
    ALICE.run(|| {
        assert_eq!(get(m.path("d/f")), b"inside");
        fails(Errno::ACCESS, std::fs::read_dir(m.path("d")));
    });
    BOB.run(|| fails(Errno::ACCESS, stat(m.path("d/f"))));
}

fn mask_limits_entries(m: &mut Mount) {
    put(m.path("f"), "content");
    if !set("-m u:21001:rw-,m::r--", &m.path("f")) {
        return;
    }
    ALICE.run(|| {
        drop(open_read(m.path("f")).unwrap());
        fails(Errno::ACCESS, open_rw(m.path("f")));
    });
    assert_eq!(
        mode(m.path("f")) & 0o070,
        0o040,
        "the group bits show the mask"
    );
}

fn default_lists_are_inherited(m: &mut Mount) {
    open_directory(m.path("d"));
    if !set("-d -m u::rwx,g::r-x,o::---,u:21001:rwx", &m.path("d")) {
        return;
    }
    BOB.run(|| {
        put(m.path("d/f"), "content");
        mkdir_mode(m.path("d/sub"), 0o777).unwrap();
        put(m.path("d/sub/f"), "content");
        mknod(m.path("d/p"), rustix::fs::FileType::Fifo, 0o666, 0).unwrap();
        symlink("f", m.path("d/l")).unwrap();
    });
    for name in ["d/f", "d/sub/f", "d/p"] {
        let found = list(&m.path(name));
        assert!(found.contains("user:21001:rwx"), "{name}: {found}");
        assert!(!found.contains("default:"), "{name}: {found}");
    }
    let found = list(&m.path("d/sub"));
    assert!(
        found.contains("user:21001:rwx") && found.contains("default:user:21001:rwx"),
        "{found}"
    );
    ALICE.run(|| drop(open_read(m.path("d/sub/f")).unwrap()));
    CAROL.run(|| fails(Errno::ACCESS, open_read(m.path("d/f"))));
}

fn default_lists_replace_the_umask(m: &mut Mount) {
    open_directory(m.path("d"));
    if !set("-d -m u::rwx,g::rwx,o::r-x", &m.path("d")) {
        return;
    }
    ALICE.with_umask(0o077).run(|| {
        drop(open(m.path("d/f"), OFlags::CREATE | OFlags::RDWR, 0o666).unwrap());
        drop(open(m.path("d/private"), OFlags::CREATE | OFlags::RDWR, 0o600).unwrap());
        mkdir_mode(m.path("d/sub"), 0o777).unwrap();
        drop(open(m.path("outside"), OFlags::CREATE | OFlags::RDWR, 0o666).unwrap());
    });
    assert_eq!(
        mode(m.path("d/f")),
        0o664,
        "the list, cut by what open(2) asked for"
    );
    assert_eq!(mode(m.path("d/private")), 0o600);
    assert_eq!(mode(m.path("d/sub")), 0o775);
    assert_eq!(mode(m.path("outside")), 0o600, "no list, the umask");
}

fn chmod_and_mask_are_one(m: &mut Mount) {
    put(m.path("f"), "content");
    if !set("-m u:21001:rwx", &m.path("f")) {
        return;
    }
    chmod(m.path("f"), 0o600).unwrap();
    ALICE.run(|| fails(Errno::ACCESS, open_read(m.path("f"))));
    assert!(list(&m.path("f")).contains("mask::---"));
    chmod(m.path("f"), 0o640).unwrap();
    ALICE.run(|| drop(open_read(m.path("f")).unwrap()));
    assert!(list(&m.path("f")).contains("mask::r--"));
    assert!(
        list(&m.path("f")).contains("user:21001:rwx"),
        "the entry itself stays"
    );
}

fn lists_by_users_and_others(m: &mut Mount) {
    if !process::installed("setfacl") {
        return skip("no setfacl here");
    }
    ALICE.run(|| put(m.path("f"), "content"));
    let path = m.path("f").display().to_string();
    let by = |user: &User| {
        user.run(|| {
            let mut setfacl = std::process::Command::new("setfacl");
            setfacl
                .args(["-m", "u:21002:rw", &path])
                .stderr(std::process::Stdio::null());
            setfacl.status().unwrap().success()
        })
    };
    assert!(!by(&BOB), "only owners change lists");
    assert!(by(&ALICE));
    BOB.run(|| drop(open_rw(m.path("f")).unwrap()));
    // Who isn't in the file's group loses the setgid bit by setting a list.
    chown(m.path("f"), ALICE.uid, 22_000).unwrap();
    chmod(m.path("f"), 0o2775).unwrap();
    assert!(by(&ALICE));
    assert_eq!(mode(m.path("f")) & 0o2000, 0);
}

fn lists_survive_remount_and_copies(m: &mut Mount) {
    put(m.path("f"), "content");
    if !set("-m u:21001:rw-,g:22000:r--", &m.path("f")) {
        return;
    }
    let before = list(&m.path("f"));
    m.remount();
    assert_eq!(list(&m.path("f")), before);
    let (from, to) = (
        m.path("f").display().to_string(),
        m.path("g").display().to_string(),
    );
    process::tool("cp", &["-p", &from, &to]);
    assert_eq!(list(&m.path("g")), before);
}

fn minimal_lists_are_mode_bits(m: &mut Mount) {
    put(m.path("f"), "content");
    if !set("--set u::rw-,g::r--,o::---", &m.path("f")) {
        return;
    }
    assert_eq!(mode(m.path("f")), 0o640);
    assert!(
        !xattrs(m.path("f"))
            .unwrap()
            .iter()
            .any(|key| key == "system.posix_acl_access")
    );
}

fn denied_by_an_entry(m: &mut Mount) {
    put(m.path("f"), "content");
    chmod(m.path("f"), 0o644).unwrap();
    if !set("-m u:21001:---", &m.path("f")) {
        return;
    }
    ALICE.run(|| fails(Errno::ACCESS, open_read(m.path("f"))));
    BOB.run(|| assert_eq!(get(m.path("f")), b"content"));
}

fn without_the_option_default_lists_do_no_harm(m: &mut Mount) {
    if is_native() || !process::installed("setfacl") {
        return skip("about the mount, with setfacl");
    }
    // A list set behind the mount: files made below must not get more than the caller asked for.
    mkdir(m.path("d")).unwrap();
    chmod(m.path("d"), 0o777).unwrap();
    if !set("-d -m u::rwx,g::rwx,o::rwx", &m.back("d")) {
        return;
    }
    ALICE
        .with_umask(0o077)
        .run(|| drop(open(m.path("d/f"), OFlags::CREATE | OFlags::RDWR, 0o600).unwrap()));
    assert_eq!(mode(m.path("d/f")) & 0o077, 0);
}
