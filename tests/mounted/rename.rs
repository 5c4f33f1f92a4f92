//! `rename` with all its flags.

use crate::common::*;
use rustix::fs::{AtFlags, FileType, OFlags, RenameFlags, statat};
use rustix::io::Errno;
use std::path::Path;

in_default_mode!("":
    rename_moves_and_replaces,
    rename_within_and_across_directories_updates_parents,
    rename_refusals,
    rename_noreplace,
    rename_exchange,
    rename_whiteout,
    rename_flags_exclude_each_other,
    rename_of_hard_links_to_the_same_file_does_nothing,
);

fn rename_moves_and_replaces(m: &mut Mount) {
    put(m.path("a"), "one");
    let number = ino(m.path("a"));
    rename(m.path("a"), m.path("b")).unwrap();
    assert!(!exists(m.path("a")));
    assert_eq!(
        (get(m.path("b")), ino(m.path("b"))),
        (b"one".to_vec(), number)
    );
    put(m.path("c"), "two");
    rename(m.path("b"), m.path("c")).unwrap();
    assert_eq!(
        (get(m.path("c")), ino(m.path("c"))),
        (b"one".to_vec(), number)
    );
    assert_eq!(names(m.root()), ["c"]);
    rename(m.path("c"), m.path("c")).unwrap();
    assert_eq!(get(m.path("c")), b"one");
    // Symlinks are renamed and replaced themselves.
    symlink("c", m.path("l")).unwrap();
    rename(m.path("l"), m.path("l2")).unwrap();
    assert_eq!(std::fs::read_link(m.path("l2")).unwrap(), Path::new("c"));
    put(m.path("d"), "three");
    rename(m.path("d"), m.path("l2")).unwrap();
    assert_eq!(
        (get(m.path("l2")), get(m.path("c"))),
        (b"three".to_vec(), b"one".to_vec())
    );
    // A directory onto an empty one.
    mkdir(m.path("x")).unwrap();
    put(m.path("x/f"), "in x");
    mkdir(m.path("y")).unwrap();
    rename(m.path("x"), m.path("y")).unwrap();
    assert_eq!(get(m.path("y/f")), b"in x");
    assert_eq!(names(m.root()), ["c", "l2", "y"]);
}

fn rename_within_and_across_directories_updates_parents(m: &mut Mount) {
    mkdir(m.path("a")).unwrap();
    mkdir(m.path("b")).unwrap();
    mkdir(m.path("a/d")).unwrap();
    let links = |name: &str| stat(m.path(name)).unwrap().st_nlink;
    let (a, b) = (links("a"), links("b"));
    let before = (
        ctime(&stat(m.path("a")).unwrap()),
        mtime(&stat(m.path("b")).unwrap()),
    );
    wait::tick();
    rename(m.path("a/d"), m.path("b/d")).unwrap();
    // btrfs counts no subdirectories in the links of a directory.
    if a > 1 {
        assert_eq!((links("a"), links("b")), (a - 1, b + 1));
    }
    assert!(ctime(&stat(m.path("a")).unwrap()) > before.0);
    assert!(mtime(&stat(m.path("b")).unwrap()) > before.1);
    assert_eq!(ino(m.path("b/d/..")), ino(m.path("b")));
    // What is below moves along, for those who are there already too.
    put(m.path("b/d/f"), "x");
    let inside = open(m.path("b/d"), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    rename(m.path("b"), m.path("a/b")).unwrap();
    assert_eq!(get(m.path("a/b/d/f")), b"x");
    statat(&inside, "f", AtFlags::empty()).unwrap();
    assert_eq!(
        statat(&inside, "../..", AtFlags::empty()).unwrap().st_ino,
        ino(m.path("a"))
    );
}

fn rename_refusals(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    mkdir(m.path("d/sub")).unwrap();
    mkdir(m.path("full")).unwrap();
    put(m.path("full/f"), "x");
    put(m.path("f"), "x");
    fails(Errno::NOENT, rename(m.path("missing"), m.path("g")));
    fails(Errno::NOENT, rename(m.path("f"), m.path("missing/g")));
    fails(Errno::NOTDIR, rename(m.path("f"), m.path("f/g")));
    fails(Errno::NOTDIR, rename(m.path("d"), m.path("f")));
    fails(Errno::ISDIR, rename(m.path("f"), m.path("d")));
    fails(Errno::INVAL, rename(m.path("d"), m.path("d/sub/d")));
    fails(Errno::INVAL, rename(m.path("d"), m.path("d/sub")));
    fails_with_any(
        &[Errno::NOTEMPTY, Errno::EXIST],
        rename(m.path("d"), m.path("full")),
    );
    fails_with_any(
        &[Errno::NOTEMPTY, Errno::EXIST],
        rename(m.path("d/sub"), m.path("d")),
    );
    fails_with_any(
        &[Errno::BUSY, Errno::INVAL],
        rename(m.path("d/."), m.path("e")),
    );
    fails_with_any(
        &[Errno::BUSY, Errno::INVAL],
        rename(m.path("d/.."), m.path("e")),
    );
    assert_eq!(names(m.root()), ["d", "f", "full"]);
    assert_eq!(names(m.path("d")), ["sub"]);
}

fn rename_noreplace(m: &mut Mount) {
    put(m.path("a"), "one");
    put(m.path("b"), "two");
    fails(
        Errno::EXIST,
        rename_with(m.path("a"), m.path("b"), RenameFlags::NOREPLACE),
    );
    fails(
        Errno::EXIST,
        rename_with(m.path("a"), m.path("a"), RenameFlags::NOREPLACE),
    );
    assert_eq!(
        (get(m.path("a")), get(m.path("b"))),
        (b"one".to_vec(), b"two".to_vec())
    );
    rename_with(m.path("a"), m.path("c"), RenameFlags::NOREPLACE).unwrap();
    assert_eq!(names(m.root()), ["b", "c"]);
    symlink("nowhere", m.path("l")).unwrap();
    fails(
        Errno::EXIST,
        rename_with(m.path("c"), m.path("l"), RenameFlags::NOREPLACE),
    );
}

fn rename_exchange(m: &mut Mount) {
    put(m.path("a"), "one");
    mkdir(m.path("d")).unwrap();
    mkdir(m.path("e")).unwrap();
    put(m.path("e/b"), "two");
    mkdir(m.path("e/sub")).unwrap();
    put(m.path("e/sub/f"), "deep");
    let numbers = (ino(m.path("a")), ino(m.path("e/b")));
    rename_with(m.path("a"), m.path("e/b"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!((ino(m.path("e/b")), ino(m.path("a"))), numbers);
    assert_eq!(
        (get(m.path("a")), get(m.path("e/b"))),
        (b"two".to_vec(), b"one".to_vec())
    );
    // A file and a directory that isn't empty, across directories.
    rename_with(m.path("a"), m.path("e/sub"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(
        (get(m.path("a/f")), get(m.path("e/sub"))),
        (b"deep".to_vec(), b"two".to_vec())
    );
    assert_eq!(ino(m.path("a/..")), ino(m.root()));
    fails(
        Errno::NOENT,
        rename_with(m.path("a"), m.path("missing"), RenameFlags::EXCHANGE),
    );
    fails(
        Errno::INVAL,
        rename_with(m.path("e"), m.path("e/sub"), RenameFlags::EXCHANGE),
    );
    assert_eq!(names(m.root()), ["a", "d", "e"]);
}

fn rename_whiteout(m: &mut Mount) {
    put(m.path("a"), "one");
    put(m.path("b"), "two");
    match rename_with(m.path("a"), m.path("b"), RenameFlags::WHITEOUT) {
        // Not every backing filesystem knows whiteouts; then both names must stand.
        Err(Errno::INVAL) => {
            assert_eq!(
                (get(m.path("a")), get(m.path("b"))),
                (b"one".to_vec(), b"two".to_vec())
            );
            assert!(m.back("a").exists());
        }
        outcome => {
            outcome.unwrap();
            let left = lstat(m.path("a")).unwrap();
            assert_eq!(
                FileType::from_raw_mode(left.st_mode),
                FileType::CharacterDevice
            );
            assert_eq!(left.st_rdev, 0);
            assert_eq!(get(m.path("b")), b"one");
            unlink(m.path("a")).unwrap();
        }
    }
}

fn rename_flags_exclude_each_other(m: &mut Mount) {
    put(m.path("a"), "one");
    put(m.path("b"), "two");
    fails(
        Errno::INVAL,
        rename_with(
            m.path("a"),
            m.path("b"),
            RenameFlags::EXCHANGE | RenameFlags::NOREPLACE,
        ),
    );
    fails(
        Errno::INVAL,
        rename_with(
            m.path("a"),
            m.path("b"),
            RenameFlags::EXCHANGE | RenameFlags::WHITEOUT,
        ),
    );
    fails(
        Errno::INVAL,
        rename_with(
            m.path("a"),
            m.path("b"),
            RenameFlags::from_bits_retain(1 << 10),
        ),
    );
    assert_eq!(
        (get(m.path("a")), get(m.path("b"))),
        (b"one".to_vec(), b"two".to_vec())
    );
}

fn rename_of_hard_links_to_the_same_file_does_nothing(m: &mut Mount) {
    put(m.path("a"), "one");
    link(m.path("a"), m.path("b")).unwrap();
    rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(names(m.root()), ["a", "b"]);
    assert_eq!(stat(m.path("a")).unwrap().st_nlink, 2);
}

fn ino(path: impl AsRef<std::path::Path>) -> u64 {
    lstat(path).unwrap().st_ino
}
