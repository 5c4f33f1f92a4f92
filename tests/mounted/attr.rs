//! Attributes: times to the nanosecond, link counts, inode numbers that stay.

use crate::common::*;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::HashMap;
use std::path::Path;

in_default_mode!("":
    link_counts,
    inode_numbers_stay,
    inode_numbers_are_unique_and_listed,
    inode_number_of_a_name_changes_with_the_file,
    birth_time_is_shown,
    attributes_of_everything_equal_the_store,
    file_attribute_flags,
    size_of_directories_and_links,
);

fn link_counts(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    let empty = stat(m.path("d")).unwrap().st_nlink;
    let root = stat(m.root()).unwrap().st_nlink;
    let twin = stat(m.back("d")).unwrap().st_nlink;
    assert_eq!(empty, twin);
    for count in 1..=5 {
        mkdir(m.path(format!("d/{count}"))).unwrap();
        let found = stat(m.path("d")).unwrap().st_nlink;
        assert_eq!(found, stat(m.back("d")).unwrap().st_nlink);
    }
    put(m.path("d/f"), "x");
    for count in 1..=5 {
        rmdir(m.path(format!("d/{count}"))).unwrap();
    }
    assert_eq!(stat(m.path("d")).unwrap().st_nlink, empty);
    assert_eq!(stat(m.root()).unwrap().st_nlink, root);
    for count in 2..=100 {
        link(m.path("d/f"), m.path(format!("d/l{count}"))).unwrap();
        assert_eq!(stat(m.path("d/f")).unwrap().st_nlink, count);
    }
    for count in (2..=100).rev() {
        assert_eq!(stat(m.path(format!("d/l{count}"))).unwrap().st_nlink, count);
        unlink(m.path(format!("d/l{count}"))).unwrap();
    }
}

fn tree_of_everything(m: &Mount) -> Vec<&'static str> {
    mkdir(m.path("d")).unwrap();
    mkdir(m.path("d/sub")).unwrap();
    put(m.path("f"), "x");
    put(m.path("d/g"), pattern(100_000, 1));
    link(m.path("f"), m.path("d/l")).unwrap();
    symlink("f", m.path("s")).unwrap();
    mknod(m.path("p"), rustix::fs::FileType::Fifo, 0o620, 0).unwrap();
    mknod(
        m.path("d/c"),
        rustix::fs::FileType::CharacterDevice,
        0o604,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    chown(m.path("d/g"), 5, 6).unwrap();
    chmod(m.path("d/sub"), 0o1750).unwrap();
    vec!["", "d", "d/sub", "f", "d/g", "d/l", "s", "p", "d/c"]
}

fn inode_numbers_stay(m: &mut Mount) {
    let all = tree_of_everything(m);
    let numbers = |m: &Mount| -> Vec<u64> {
        all.iter()
            .map(|name| lstat(m.path(name)).unwrap().st_ino)
            .collect()
    };
    let before = numbers(m);
    drop_caches();
    assert_eq!(numbers(m), before, "after the caches were dropped");
    let kept = open_read(m.path("d/g")).unwrap();
    rename(m.path("d"), m.path("e")).unwrap();
    rename(m.path("e"), m.path("d")).unwrap();
    pwrite(&open_rw(m.path("f")).unwrap(), b"changed", 0).unwrap();
    assert_eq!(numbers(m), before, "after changes");
    assert_eq!(fstat(&kept).st_ino, before[4]);
    drop(kept);
    m.remount();
    assert_eq!(numbers(m), before, "after a remount");
}

fn inode_numbers_are_unique_and_listed(m: &mut Mount) {
    let mut seen = HashMap::new();
    for number in 0..500 {
        let path = m.path(format!("f{number}"));
        put(&path, "x");
        let other = seen.insert(lstat(&path).unwrap().st_ino, path.clone());
        assert!(other.is_none(), "{other:?} and {path:?} share a number");
    }
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "x");
    for directory in ["", "d"] {
        let mut listing =
            rustix::fs::Dir::new(open(m.path(directory), OFlags::DIRECTORY, 0).unwrap()).unwrap();
        while let Some(entry) = listing.read() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_str().unwrap();
            if name == ".." && directory.is_empty() {
                // What lies above a mountpoint the directory itself can't know.
                continue;
            }
            let expected = lstat(m.path(directory).join(name)).unwrap().st_ino;
            assert_eq!(entry.ino(), expected, "{directory}/{name}");
        }
    }
}

fn inode_number_of_a_name_changes_with_the_file(m: &mut Mount) {
    for _ in 0..50 {
        put(m.path("f"), "old");
        let kept = open_read(m.path("f")).unwrap();
        unlink(m.path("f")).unwrap();
        put(m.path("f"), "new");
        assert_ne!(
            fstat(&kept).st_ino,
            lstat(m.path("f")).unwrap().st_ino,
            "two live files, two numbers"
        );
        unlink(m.path("f")).unwrap();
    }
}

fn birth_time_is_shown(m: &mut Mount) {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    for name in ["f", "d"] {
        let shown = xattr_text(m.path(name), "user.ttlfs.created");
        let born = statx(m.back(name)).stx_btime;
        assert_eq!(
            timestamp::parse(&shown).as_secs() as i64,
            born.tv_sec,
            "{shown}"
        );
        // Nothing that a program does moves it.
        set_times(m.path(name), timespec(1, 0), timespec(1, 0)).unwrap();
        chmod(m.path(name), 0o700).unwrap();
        assert_eq!(xattr_text(m.path(name), "user.ttlfs.created"), shown);
    }
    let shown = xattr_text(m.path("f"), "user.ttlfs.created");
    m.remount();
    assert_eq!(xattr_text(m.path("f"), "user.ttlfs.created"), shown);
}

fn attributes_of_everything_equal_the_store(m: &mut Mount) {
    let all = tree_of_everything(m);
    let compare = |name: &str| {
        let (through, behind) = (lstat(m.path(name)).unwrap(), lstat(m.back(name)).unwrap());
        assert_eq!(
            (through.st_mode, through.st_uid, through.st_gid),
            (behind.st_mode, behind.st_uid, behind.st_gid)
        );
        assert_eq!(
            (through.st_rdev, through.st_blocks),
            (behind.st_rdev, behind.st_blocks),
            "{name}"
        );
        if !name.is_empty() {
            assert_eq!(
                (through.st_nlink, through.st_size),
                (behind.st_nlink, behind.st_size),
                "{name}"
            );
            assert_eq!(
                (mtime(&through), ctime(&through)),
                (mtime(&behind), ctime(&behind)),
                "{name}"
            );
        }
    };
    all.iter().for_each(|name| compare(name));
    drop_caches();
    all.iter().for_each(|name| compare(name));
}

fn file_attribute_flags(m: &mut Mount) {
    if !process::installed("chattr") {
        return skip("no chattr here");
    }
    put(m.path("f"), "x");
    let path = m.path("f").display().to_string();
    // Not every backing filesystem keeps such flags.
    put(m.back("probe"), "x");
    let flag = |arguments: &[&str]| {
        let done = process::run_to_end(
            std::process::Command::new("chattr").args(arguments),
            std::time::Duration::from_secs(10),
        );
        done.status.success()
    };
    let probe = m.back("probe").display().to_string();
    if !flag(&["+i", &probe]) {
        return skip("the backing store keeps no flags");
    }
    assert!(flag(&["-i", &probe]));
    assert!(flag(&["+i", &path]), "chattr +i through the mount");
    fails(Errno::PERM, unlink(&path));
    fails(Errno::PERM, open_rw(&path));
    fails(Errno::PERM, chmod(&path, 0o600));
    fails(Errno::PERM, rename(&path, m.path("g")));
    assert!(process::tool("lsattr", &[&path]).contains('i'));
    assert!(flag(&["-i", &path]));
    assert!(flag(&["+a", &path]), "chattr +a through the mount");
    fails(Errno::PERM, open_rw(&path));
    let file = open(&path, OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    assert_eq!(rustix::io::write(&file, b"y").unwrap(), 1);
    drop(file);
    assert!(flag(&["-a", &path]));
    assert_eq!(get(&path), b"xy");
    unlink(&path).unwrap();
}

fn size_of_directories_and_links(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    symlink("four", m.path("l")).unwrap();
    assert_eq!(lstat(m.path("l")).unwrap().st_size, 4);
    let size = |path: &Path| lstat(path).unwrap().st_size;
    for number in 0..50 {
        put(m.path(format!("d/file-number-{number}")), "x");
        assert_eq!(size(&m.path("d")), size(&m.back("d")));
    }
    let found = lstat(m.path("d")).unwrap();
    assert!(found.st_blksize >= 512);
}
