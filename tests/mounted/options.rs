//! Options of the mount itself, and what is refused.

use crate::common::*;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::path::PathBuf;

in_default_mode!("": mounted_twice_is_refused, remount_keeps_everything, daemon_is_named_in_its_state_file);

fn empty_backing() -> PathBuf {
    StoreKind::default_kind().shared().backing()
}

/// Mounting must be refused with one line that has all these words in it, exit status 2, and nothing changed.
#[track_caller]
fn refused(backing: &std::path::Path, options: &str, words: &[&str]) {
    let before = names(backing);
    let done = Mount::attempt(backing, options);
    assert_eq!(
        done.status.code(),
        Some(2),
        "-o {options}: {}{}",
        done.output,
        done.errors
    );
    let lines: Vec<&str> = done
        .errors
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert_eq!(lines.len(), 1, "-o {options}: one line, not {lines:#?}");
    assert!(lines[0].starts_with("ttlfs: "), "{}", lines[0]);
    for word in words {
        assert!(
            lines[0].contains(word),
            "-o {options}: {word:?} in {:?}",
            lines[0]
        );
    }
    assert_eq!(names(backing), before, "-o {options}: nothing changed");
}

#[test]
fn bad_options_are_refused() {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    let backing = empty_backing();
    let cases: &[(&str, &[&str])] = &[
        ("nonsense=1", &["nonsense"]),
        ("ttl=0", &["ttl", "0"]),
        ("ttl=0s", &["ttl"]),
        ("ttl=", &["ttl"]),
        ("ttl=1x", &["ttl", "1x"]),
        ("ttl=-1", &["ttl"]),
        ("ttl=99999999999999999999w", &["ttl"]),
        (
            "ttl_from=birth",
            &["ttl_from", "birth", "created", "modified", "accessed"],
        ),
        ("quota=-5", &["quota"]),
        ("quota=10Q", &["quota", "10Q"]),
        ("quota=99999999999T", &["quota"]),
        ("inodes=many", &["inodes", "many"]),
        ("max_file=1.5.2G", &["max_file"]),
        (
            "quota_errno=EIO",
            &["quota_errno", "EIO", "ENOSPC", "EDQUOT"],
        ),
        ("erase=shred", &["erase", "shred", "none", "overwrite"]),
        ("passes=0", &["passes", "0", "35"]),
        ("passes=36", &["passes", "36", "35"]),
        ("io=fast", &["io", "fast"]),
        ("rule=relative:ttl=1h", &["relative"]),
        ("rule=/a:nonsense=1", &["nonsense"]),
        ("rule=/a:ttl=1h,rule=/a:ttl=2h", &["/a"]),
        ("rule=/a/../b:ttl=1h", &["/a/../b"]),
        ("isolate=user", &["isolate"]),
        ("adopt=later", &["adopt", "later", "now", "birth"]),
    ];
    for (options, words) in cases {
        refused(&backing, options, words);
    }
}

#[test]
fn content_needs_adoption() {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    let backing = empty_backing();
    std::fs::write(backing.join("f"), "mine").unwrap();
    refused(&backing, "", &["adopt"]);
    assert_eq!(get(backing.join("f")), b"mine");
    let m = Mount::over(backing, Io::Default, "adopt=birth");
    assert_eq!(get(m.path("f")), b"mine");
    // lost+found isn't content.
    let backing = empty_backing();
    std::fs::create_dir(backing.join("lost+found")).unwrap();
    let m = Mount::over(backing, Io::Default, "");
    put(m.path("f"), "x");
}

#[test]
fn adopted_lifetimes_start_now_or_at_birth() {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    let (old, new) = (empty_backing(), empty_backing());
    std::fs::write(old.join("f"), "x").unwrap();
    std::fs::write(new.join("f"), "x").unwrap();
    wait::until(birth(new.join("f")) + std::time::Duration::from_millis(2100));
    let by_birth = Mount::over(old, Io::Default, "ttl=2s,adopt=birth");
    fails(Errno::NOENT, stat(by_birth.path("f")));
    let by_now = Mount::over(new, Io::Default, "ttl=2s,adopt=now");
    stat(by_now.path("f")).expect("its lifetime has just begun");
    eventually(std::time::Duration::from_secs(5), "and ends", || {
        !exists(by_now.path("f"))
    });
}

#[test]
fn dangerous_places_are_refused() {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    for place in ["/", "/home", "/usr", "/etc", "/var"] {
        let done = Mount::attempt(std::path::Path::new(place), "adopt=now");
        assert!(!done.status.success(), "{place}");
        assert!(
            done.errors.starts_with("ttlfs: "),
            "{place}: {}",
            done.errors
        );
        assert!(!std::path::Path::new(place).join(".ttlfs").exists());
    }
    let missing = scratch::fresh("missing");
    assert_eq!(Mount::attempt(&missing, "").status.code(), Some(2));
    let file = scratch::fresh("file");
    std::fs::write(&file, "x").unwrap();
    assert!(!Mount::attempt(&file, "").status.success());
}

fn mounted_twice_is_refused(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    // The same directory, one in it, and the one that it lies in.
    for place in [
        m.backing().to_path_buf(),
        m.back("d"),
        m.backing().parent().unwrap().to_path_buf(),
    ] {
        let done = Mount::attempt(&place, "adopt=now");
        assert!(!done.status.success(), "{place:?}");
        assert!(done.errors.starts_with("ttlfs: "), "{}", done.errors);
    }
    assert_eq!(get(m.path("f")), b"x");
}

fn remount_keeps_everything(m: &mut Mount) {
    put(m.path("f"), "content");
    mkdir(m.path("d")).unwrap();
    chmod(m.path("d"), 0o3751).unwrap();
    for _ in 0..3 {
        m.remount();
        assert_eq!(
            (get(m.path("f")), mode(m.path("d"))),
            (b"content".to_vec(), 0o3751)
        );
        assert_eq!(names(m.root()), ["d", "f"]);
    }
}

fn daemon_is_named_in_its_state_file(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    let daemon = m.daemon().expect("a state file");
    for pid in [daemon.server, daemon.guard].into_iter().flatten() {
        assert!(process::is_alive(pid));
    }
    m.unmount();
    assert!(m.daemon().is_none(), "the state file goes with the mount");
    m.mount();
}

#[test]
fn read_only_mounts() {
    let store = StoreKind::default_kind().shared();
    if is_native() {
        return skip("an option of the mount");
    }
    let mut m = Mount::new(store, Io::Default, "");
    put(m.path("f"), "content");
    mkdir(m.path("d")).unwrap();
    m.remount_with("ro");
    assert_eq!(get(m.path("f")), b"content");
    fails(Errno::ROFS, open_rw(m.path("f")));
    fails(
        Errno::ROFS,
        open(m.path("f"), OFlags::WRONLY | OFlags::TRUNC, 0),
    );
    fails(Errno::ROFS, try_create(m.path("g")));
    fails(Errno::ROFS, mkdir(m.path("e")));
    fails(Errno::ROFS, unlink(m.path("f")));
    fails(Errno::ROFS, rmdir(m.path("d")));
    fails(Errno::ROFS, rename(m.path("f"), m.path("g")));
    fails(Errno::ROFS, link(m.path("f"), m.path("g")));
    fails(Errno::ROFS, symlink("f", m.path("g")));
    fails(Errno::ROFS, chmod(m.path("f"), 0o600));
    fails(Errno::ROFS, truncate(m.path("f"), 0));
    fails(Errno::ROFS, set_times(m.path("f"), NOW, NOW));
    fails(Errno::ROFS, set_xattr(m.path("f"), "user.a", b"x"));
    m.remount_with("");
    put(m.path("g"), "x");
}

#[test]
fn options_of_the_kernel_show_in_the_mount_table() {
    if is_native() {
        return skip("an option of the mount");
    }
    let store = StoreKind::default_kind().shared();
    let m = Mount::new(store, Io::Default, "noexec,noatime,suid");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == m.root().to_str())
        .expect("a line");
    let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
    for option in ["noexec", "noatime", "nodev"] {
        assert!(options.contains(&option), "{option} in {line}");
    }
    assert!(!options.contains(&"nosuid"), "{line}");
}

#[test]
fn plain_umount_ends_the_daemon() {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    let store = StoreKind::default_kind().shared();
    let mut m = Mount::new(store, Io::Default, "");
    put(m.path("f"), "x");
    let daemon = m.daemon().expect("a state file");
    process::tool("umount", &[&m.root().display().to_string()]);
    eventually(
        std::time::Duration::from_secs(10),
        "the daemon ends",
        || {
            ![daemon.server, daemon.guard]
                .into_iter()
                .flatten()
                .any(process::is_alive)
        },
    );
    m.was_unmounted();
    m.mount();
    assert_eq!(get(m.path("f")), b"x");
}

mod stores {
    //! The basics on every kind of backing store.
    use super::*;

    on_each_store!("": basics);
    on_each_store!("quota=1M,ttl=2s,erase=overwrite,erase_best_effort": limits);

    fn basics(m: &mut Mount) {
        let content = pattern(200_000, 1);
        put(m.path("f"), &content);
        assert!(get(m.path("f")) == content);
        ALICE.run(|| put(m.path("g"), "x"));
        assert_eq!(owner(m.path("g")), (ALICE.uid, ALICE.gid));
        mkdir(m.path("d")).unwrap();
        link(m.path("f"), m.path("d/l")).unwrap();
        rename(m.path("d"), m.path("e")).unwrap();
        assert_eq!(stat(m.path("f")).unwrap().st_nlink, 2);
        let number = stat(m.path("f")).unwrap().st_ino;
        let map =
            sys::Mapping::new(open_rw(m.path("f")).unwrap(), 4096, sys::Sharing::Shared).unwrap();
        map.put(0, b"mapped");
        assert_eq!(&get(m.path("e/l"))[..6], b"mapped");
        drop(map);
        m.remount();
        assert_eq!(stat(m.path("e/l")).unwrap().st_ino, number);
        assert!(get(m.path("f"))[6..] == content[6..]);
        set_xattr(m.path("f"), "trusted.a", b"b").unwrap();
        assert_eq!(xattrs(m.path("f")).unwrap(), ["trusted.a"]);
        for number in 0..3000 {
            create(m.path(format!("e/{number}")));
        }
        assert_eq!(names(m.path("e")).len(), 3001);
        std::fs::remove_dir_all(m.path("e")).unwrap();
        assert_eq!(names(m.root()), ["f", "g"]);
    }

    fn limits(m: &mut Mount) {
        let file = create(m.path("f"));
        assert_eq!(pwrite(&file, &vec![1; 2 << 20], 0), Ok(1 << 20));
        fails(Errno::NOSPC, pwrite(&file, b"x", 1 << 20));
        drop(file);
        wait::until(birth(m.back("f")) + std::time::Duration::from_millis(2010));
        fails(Errno::NOENT, stat(m.path("f")));
        eventually(
            std::time::Duration::from_secs(10),
            "erased and given back",
            || {
                let figures = rustix::fs::statvfs(m.root()).unwrap();
                figures.f_bavail * figures.f_frsize == 1 << 20
            },
        );
    }
}
