//! Limits of subtrees: nested, and across their borders.

use crate::common::*;
use rustix::fs::{OFlags, RenameFlags, statvfs};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

in_default_mode!("quota=4M,rule=/a:quota=2M,rule=/a/b:quota=1M,rule=/c:inodes=3":
    nested_limits_apply_together,
    inner_limit_leaves_the_outer_room,
    outer_limit_stops_the_inner,
    inodes_of_a_subtree,
    moving_files_across_borders,
    directories_and_links_stay_within_borders,
    exchange_across_borders,
);
in_default_mode!("quota=1M,ttl=2s": expired_files_make_room);
in_default_mode!("quota=8M": sum_of_charges_seen_from_the_store);
in_default_mode!("size=1M,nr_inodes=10": tmpfs_names_of_the_keys);
in_default_mode!("quota=2M": what_is_there_already_is_charged);

const MEBIBYTE: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(3);

fn free(path: impl AsRef<Path>) -> u64 {
    let figures = statvfs(path.as_ref()).unwrap();
    figures.f_bavail * figures.f_frsize
}

/// Writes until an error; gives what was stored.
fn fill(file: &File) -> u64 {
    let mut at = fstat(file).st_size as u64;
    loop {
        match pwrite(file, &[0x5a; 50_000], at) {
            Ok(count) => at += count as u64,
            Err(errno) => {
                assert_eq!(errno, Errno::NOSPC);
                return at;
            }
        }
    }
}

/// `/a` (2 MiB) with `/a/b` (1 MiB) in it, and `/c` (3 inodes), all in 4 MiB.
fn make_subtrees(m: &Mount) {
    for directory in ["a", "a/b", "c", "d"] {
        mkdir(m.path(directory)).unwrap();
    }
}

fn nested_limits_apply_together(m: &mut Mount) {
    make_subtrees(m);
    assert_eq!(fill(&create(m.path("a/b/f"))), MEBIBYTE as u64);
    assert_eq!(fill(&create(m.path("a/f"))), MEBIBYTE as u64);
    fails(Errno::NOSPC, pwrite(&create(m.path("a/g")), b"x", 0));
    assert_eq!(fill(&create(m.path("f"))), 2 * MEBIBYTE as u64);
    assert_eq!(free(m.root()), 0);
    // What is freed deep inside is free on every level.
    unlink(m.path("a/b/f")).unwrap();
    eventually(SOON, "given back", || free(m.root()) == MEBIBYTE as u64);
    assert_eq!(free(m.path("a")), MEBIBYTE as u64);
    assert_eq!(fill(&create(m.path("g"))), MEBIBYTE as u64);
    fails(Errno::NOSPC, pwrite(&create(m.path("a/b/h")), b"x", 0));
}

fn inner_limit_leaves_the_outer_room(m: &mut Mount) {
    make_subtrees(m);
    mkdir(m.path("a/b/deep")).unwrap();
    assert_eq!(fill(&create(m.path("a/b/deep/f"))), MEBIBYTE as u64);
    put(m.path("a/f"), vec![1; MEBIBYTE]);
    assert_eq!(
        (free(m.path("a/b")), free(m.path("a")), free(m.path("d"))),
        (0, 0, 2 * MEBIBYTE as u64)
    );
}

fn outer_limit_stops_the_inner(m: &mut Mount) {
    make_subtrees(m);
    put(m.path("a/f"), vec![1; 2 * MEBIBYTE - 8192]);
    let file = create(m.path("a/b/f"));
    assert_eq!(pwrite(&file, &[1; 20_000], 0), Ok(8192));
    fails(Errno::NOSPC, pwrite(&file, b"x", 8192));
}

fn inodes_of_a_subtree(m: &mut Mount) {
    make_subtrees(m);
    for name in ["c/1", "c/2"] {
        put(m.path(name), "x");
    }
    mkdir(m.path("c/3")).unwrap();
    fails(Errno::NOSPC, try_create(m.path("c/4")));
    fails(Errno::NOSPC, try_create(m.path("c/3/4")));
    put(m.path("4"), "x");
    fails(Errno::NOSPC, rename(m.path("4"), m.path("c/4")));
    assert_eq!(get(m.path("4")), b"x");
    // Replacing one costs no other.
    rename(m.path("4"), m.path("c/1")).unwrap();
    rename(m.path("c/1"), m.path("4")).unwrap();
    eventually(SOON, "given back", || try_create(m.path("c/5")).is_ok());
}

fn moving_files_across_borders(m: &mut Mount) {
    make_subtrees(m);
    put(m.path("f"), vec![1; MEBIBYTE / 2]);
    rename(m.path("f"), m.path("a/b/f")).unwrap();
    assert_eq!(
        (free(m.path("a/b")), free(m.path("a"))),
        (MEBIBYTE as u64 / 2, 3 * MEBIBYTE as u64 / 2)
    );
    assert_eq!(
        free(m.root()),
        7 * MEBIBYTE as u64 / 2,
        "nothing changes outside"
    );
    // Too much for the inner limit: refused whole, and everything is where it was.
    put(m.path("g"), vec![2; MEBIBYTE]);
    fails(Errno::NOSPC, rename(m.path("g"), m.path("a/b/g")));
    assert_eq!(get(m.path("g")).len(), MEBIBYTE);
    assert!(!exists(m.path("a/b/g")));
    assert_eq!(free(m.path("a/b")), MEBIBYTE as u64 / 2);
    rename(m.path("a/b/f"), m.path("f")).unwrap();
    assert_eq!(
        (free(m.path("a/b")), free(m.path("a"))),
        (MEBIBYTE as u64, 2 * MEBIBYTE as u64)
    );
    // Over an existing one: its charge makes no room in advance, but is given back.
    put(m.path("a/b/old"), vec![3; MEBIBYTE / 4]);
    rename(m.path("f"), m.path("a/b/old")).unwrap();
    eventually(SOON, "the replaced one is given back", || {
        free(m.path("a/b")) == MEBIBYTE as u64 / 2
    });
    // An open file takes its charge along, and grows under the new limit.
    let file = create(m.path("open"));
    pwrite(&file, b"x", 0).unwrap();
    match rename(m.path("open"), m.path("a/b/open")) {
        Ok(()) => assert_eq!(fill(&file), MEBIBYTE as u64 / 2),
        Err(errno) => assert_eq!(errno, Errno::XDEV, "a passthrough writer into a byte limit"),
    }
    // mv copes with all of that.
    let (from, to) = (
        m.path("g").display().to_string(),
        m.path("a/").display().to_string(),
    );
    process::tool("mv", &[&from, &to]);
    assert_eq!(get(m.path("a/g")).len(), MEBIBYTE);
}

fn directories_and_links_stay_within_borders(m: &mut Mount) {
    make_subtrees(m);
    put(m.path("d/f"), "x");
    put(m.path("a/b/f"), "x");
    fails(Errno::XDEV, rename(m.path("d"), m.path("a/d")));
    fails(Errno::XDEV, link(m.path("d/f"), m.path("a/l")));
    fails(Errno::XDEV, link(m.path("a/b/f"), m.path("a/l")));
    fails(Errno::XDEV, link(m.path("a/b/f"), m.path("l")));
    mkdir(m.path("a/b/sub")).unwrap();
    fails(Errno::XDEV, rename(m.path("a/b/sub"), m.path("a/sub")));
    rename(m.path("a/b/sub"), m.path("a/b/sub2")).unwrap();
    link(m.path("a/b/f"), m.path("a/b/sub2/l")).unwrap();
    // A file with names on one side only can go; with several it would be a link across.
    fails(Errno::XDEV, rename(m.path("a/b/f"), m.path("f")));
    unlink(m.path("a/b/sub2/l")).unwrap();
    rename(m.path("a/b/f"), m.path("f")).unwrap();
    let (from, to) = (
        m.path("d").display().to_string(),
        m.path("a/d").display().to_string(),
    );
    process::tool("mv", &[&from, &to]);
    assert_eq!(get(m.path("a/d/f")), b"x");
}

fn exchange_across_borders(m: &mut Mount) {
    make_subtrees(m);
    put(m.path("small"), vec![1; 4096]);
    put(m.path("a/b/large"), vec![2; MEBIBYTE]);
    match rename_with(m.path("small"), m.path("a/b/large"), RenameFlags::EXCHANGE) {
        Ok(()) => {
            assert_eq!(
                (get(m.path("small")).len(), get(m.path("a/b/large")).len()),
                (MEBIBYTE, 4096)
            );
            assert_eq!(free(m.path("a/b")), MEBIBYTE as u64 - 4096);
            // Back again it would still fit; something larger wouldn't.
            put(m.path("larger"), vec![1; MEBIBYTE + 1]);
            fails(
                Errno::NOSPC,
                rename_with(m.path("larger"), m.path("a/b/large"), RenameFlags::EXCHANGE),
            );
        }
        Err(errno) => assert_eq!(errno, Errno::XDEV),
    }
    fails(
        Errno::XDEV,
        rename_with(m.path("d"), m.path("a/b/large"), RenameFlags::EXCHANGE),
    );
}

fn expired_files_make_room(m: &mut Mount) {
    put(m.path("f"), vec![1; MEBIBYTE]);
    let late = birth(m.back("f")) + Duration::from_millis(2010);
    fails(Errno::NOSPC, pwrite(&create(m.path("g")), b"x", 0));
    wait::until(late);
    // At once, without waiting for the reaper.
    let file = open(m.path("h"), OFlags::CREATE | OFlags::RDWR, 0o644).unwrap();
    assert_eq!(pwrite(&file, &vec![2; MEBIBYTE], 0), Ok(MEBIBYTE));
}

fn sum_of_charges_seen_from_the_store(m: &mut Mount) {
    const LIMIT: u64 = 8 << 20;
    let end = std::time::Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let root = m.root();
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while std::time::Instant::now() < end {
                    let path = root.join(format!("f{}", random.below(40)));
                    let size = random.below(2 << 20);
                    let outcome = match random.below(8) {
                        0 | 1 => unlink(&path).errno(),
                        2 => truncate(&path, size).errno(),
                        3 => rename(&path, root.join(format!("f{}", random.below(40)))).errno(),
                        4 => link(&path, root.join(format!("f{}", random.below(40)))).errno(),
                        5 => open(&path, OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR, 0o644)
                            .errno(),
                        _ => match open(&path, OFlags::CREATE | OFlags::RDWR, 0o644) {
                            Ok(file) => {
                                pwrite(&file, &vec![1; 200_000], random.below(1 << 20)).errno()
                            }
                            Err(errno) => Some(errno),
                        },
                    };
                    assert!(
                        outcome.is_none_or(
                            |errno| [Errno::NOSPC, Errno::NOENT, Errno::EXIST].contains(&errno)
                        ),
                        "{outcome:?}"
                    );
                }
            });
        }
    });
    // At rest: the books, the files, and what df says agree.
    let mut by_number = std::collections::HashMap::new();
    for name in names(m.root()) {
        let found = lstat(m.back(&name)).unwrap();
        by_number.insert(found.st_ino, (found.st_size as u64).div_ceil(4096) * 4096);
    }
    let sum: u64 = by_number.values().sum();
    assert!(sum <= LIMIT, "{sum}");
    eventually(SOON, "books and files agree", || {
        free(m.root()) == LIMIT - sum
    });
    m.remount();
    eventually(SOON, "and after a remount", || {
        free(m.root()) == LIMIT - sum
    });
}

fn tmpfs_names_of_the_keys(m: &mut Mount) {
    let figures = statvfs(m.root()).unwrap();
    assert_eq!(
        (figures.f_blocks * figures.f_frsize, figures.f_files),
        (MEBIBYTE as u64, 10)
    );
    assert_eq!(fill(&create(m.path("f"))), MEBIBYTE as u64);
}

fn what_is_there_already_is_charged(_: &mut Mount) {
    let backing = StoreKind::default_kind().shared().backing();
    std::fs::write(backing.join("f"), vec![1; MEBIBYTE]).unwrap();
    std::fs::create_dir(backing.join("d")).unwrap();
    std::fs::write(backing.join("d/g"), vec![1; MEBIBYTE / 2]).unwrap();
    std::fs::hard_link(backing.join("f"), backing.join("d/l")).unwrap();
    let m = Mount::over(backing, Io::Default, "quota=2M,inodes=100,adopt=now");
    assert_eq!(free(m.root()), MEBIBYTE as u64 / 2);
    assert_eq!(fill(&create(m.path("h"))), MEBIBYTE as u64 / 2);
    let figures = statvfs(m.root()).unwrap();
    assert_eq!(figures.f_files - figures.f_ffree, 4);
    unlink(m.path("d/g")).unwrap();
    eventually(SOON, "given back", || free(m.root()) == MEBIBYTE as u64 / 2);
}
