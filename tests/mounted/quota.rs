//! Limits, exact to the byte.

use crate::common::*;
use rustix::fs::{FallocateFlags, OFlags, fallocate, ftruncate, statvfs};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

in_each_io_mode!("quota=1M":
    write_stores_what_fits_then_fails,
    last_byte_fits,
    append_and_vectors_are_cut_too,
    overwriting_costs_nothing,
    truncation_gives_back,
    unlink_gives_back_at_once,
    unlinked_open_file_stays_charged,
    mapped_unlinked_file_stays_charged,
    sparse_files_pay_their_size,
    refused_growth_changes_nothing,
    close_and_fsync_never_fail,
    direct_writes_are_limited,
    copies_are_limited,
    many_writers_never_exceed_it,
    many_writers_of_one_file,
);
in_default_mode!("quota=1M":
    fallocate_is_charged,
    small_files_cost_a_block,
    only_contents_cost_bytes,
    hard_links_cost_nothing,
    renames_within_cost_nothing,
    rename_over_gives_back,
    open_with_truncation_gives_back,
    books_survive_a_remount,
    fill_and_empty_again_and_again,
    programs_learn_of_it,
);
in_default_mode!("quota=10000": odd_limits);
in_default_mode!("quota=1M,quota_errno=EDQUOT": errno_is_configurable);

const MEBIBYTE: usize = 1 << 20;
/// Room for what the kernel tells the daemon late: that a file was let go of.
const SOON: Duration = Duration::from_secs(3);

fn free(path: impl AsRef<Path>) -> u64 {
    let figures = statvfs(path.as_ref()).unwrap();
    figures.f_bavail * figures.f_frsize
}

/// Writes until an error; gives what was stored and the error.
fn fill(file: &File, chunk: usize) -> (u64, Errno) {
    let bytes = vec![0x5a; chunk];
    let mut at = fstat(file).st_size as u64;
    loop {
        match pwrite(file, &bytes, at) {
            Ok(0) => panic!("a write of nothing"),
            Ok(count) => at += count as u64,
            Err(errno) => return (at, errno),
        }
    }
}

fn write_stores_what_fits_then_fails(m: &mut Mount) {
    let file = create(m.path("f"));
    let content = pattern(MEBIBYTE + 300_000, 1);
    // One call of more than fits: a short write, then the error, from write(2) itself.
    let mut at = 0;
    let errno = loop {
        match pwrite(&file, &content[at..], at as u64) {
            Ok(count) => at += count,
            Err(errno) => break errno,
        }
    };
    assert_eq!((at, errno), (MEBIBYTE, Errno::NOSPC));
    assert_eq!(fstat(&file).st_size, MEBIBYTE as i64);
    assert!(
        get(m.path("f")) == content[..MEBIBYTE],
        "what was stored is whole"
    );
    assert_eq!(free(m.root()), 0);
    // In odd pieces the sum is the same.
    unlink(m.path("f")).unwrap();
    drop(file);
    for (number, chunk) in [1_000, 4_096, 5_000, 131_072, 700_001]
        .into_iter()
        .enumerate()
    {
        let name = m.path(format!("f{number}"));
        eventually(SOON, "all is given back", || {
            free(m.root()) == MEBIBYTE as u64
        });
        assert_eq!(
            fill(&create(&name), chunk),
            (MEBIBYTE as u64, Errno::NOSPC),
            "in pieces of {chunk}"
        );
        unlink(&name).unwrap();
    }
}

fn last_byte_fits(m: &mut Mount) {
    let file = create(m.path("f"));
    file.write_all_at(&vec![1; MEBIBYTE - 1], 0).unwrap();
    assert_eq!(pwrite(&file, b"ab", MEBIBYTE as u64 - 1), Ok(1));
    fails(Errno::NOSPC, pwrite(&file, b"b", MEBIBYTE as u64));
    fails(Errno::NOSPC, pwrite(&file, b"b", 10 * MEBIBYTE as u64));
    assert_eq!(fstat(&file).st_size, MEBIBYTE as i64);
    assert_eq!(pread(&file, 5, MEBIBYTE as u64 - 1).unwrap(), b"a");
}

fn append_and_vectors_are_cut_too(m: &mut Mount) {
    put(m.path("f"), vec![1; MEBIBYTE - 100]);
    let file = open(m.path("f"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    let parts = [
        std::io::IoSlice::new(&[2; 60]),
        std::io::IoSlice::new(&[3; 60]),
    ];
    assert_eq!(rustix::io::writev(&file, &parts).unwrap(), 100);
    fails(Errno::NOSPC, rustix::io::write(&file, b"x"));
    let content = get(m.path("f"));
    assert_eq!(content.len(), MEBIBYTE);
    assert_eq!(content[MEBIBYTE - 41..MEBIBYTE - 39], [2, 3]);
}

fn overwriting_costs_nothing(m: &mut Mount) {
    let file = create(m.path("f"));
    file.write_all_at(&vec![1; MEBIBYTE], 0).unwrap();
    for round in 0..20u64 {
        file.write_all_at(&pattern(50_000, round), round * 50_000)
            .unwrap();
    }
    // Part inside, part outside.
    assert_eq!(pwrite(&file, &[9; 2000], MEBIBYTE as u64 - 1000), Ok(1000));
    assert_eq!(fstat(&file).st_size, MEBIBYTE as i64);
}

fn truncation_gives_back(m: &mut Mount) {
    let file = create(m.path("f"));
    assert_eq!(fill(&file, 100_000).0, MEBIBYTE as u64);
    ftruncate(&file, 500_000).unwrap();
    // 500,000 bytes are 123 blocks.
    assert_eq!(free(m.root()), MEBIBYTE as u64 - 123 * 4096);
    let other = create(m.path("g"));
    assert_eq!(fill(&other, 100_000).0, (MEBIBYTE - 123 * 4096) as u64);
    truncate(m.path("f"), 0).unwrap();
    assert_eq!(free(m.root()), 123 * 4096);
    fails(Errno::NOSPC, ftruncate(&file, 123 * 4096 + 1));
    assert_eq!(fstat(&file).st_size, 0);
    ftruncate(&file, 123 * 4096).unwrap();
    assert_eq!(free(m.root()), 0);
}

fn unlink_gives_back_at_once(m: &mut Mount) {
    // `rm old; cp new` at the limit: what is unlinked and unused is room for the very next write.
    for round in 0..50 {
        let file = create(m.path("f"));
        file.write_all_at(&vec![round; MEBIBYTE], 0).unwrap();
        drop(file);
        unlink(m.path("f")).unwrap();
    }
    for round in 0..50u8 {
        let (old, new) = (m.path(format!("{round}")), m.path(format!("{}", round + 1)));
        if round == 0 {
            put(&old, vec![round; MEBIBYTE]);
        }
        std::fs::remove_file(&old).unwrap();
        std::fs::write(&new, vec![round; MEBIBYTE]).unwrap();
    }
}

fn unlinked_open_file_stays_charged(m: &mut Mount) {
    let file = create(m.path("f"));
    file.write_all_at(&vec![1; MEBIBYTE], 0).unwrap();
    unlink(m.path("f")).unwrap();
    let other = create(m.path("g"));
    fails(Errno::NOSPC, pwrite(&other, b"x", 0));
    assert_eq!(free(m.root()), 0);
    assert_eq!(pread(&file, 1, 5).unwrap(), [1]);
    // What it gives up while it is open counts at once.
    ftruncate(&file, MEBIBYTE as u64 - 4096).unwrap();
    assert_eq!(pwrite(&other, &[1; 5000], 0), Ok(4096));
    drop(file);
    eventually(SOON, "given back at the last close", || {
        pwrite(&other, &[1; 100_000], 4096) == Ok(100_000)
    });
}

fn mapped_unlinked_file_stays_charged(m: &mut Mount) {
    let file = create(m.path("f"));
    file.write_all_at(&vec![1; MEBIBYTE], 0).unwrap();
    let map = sys::Mapping::new(&file, MEBIBYTE, sys::Sharing::Shared).unwrap();
    drop(file);
    unlink(m.path("f")).unwrap();
    let other = create(m.path("g"));
    fails(Errno::NOSPC, pwrite(&other, b"x", 0));
    assert_eq!(map.get(MEBIBYTE - 1), 1);
    map.set(0, 2);
    drop(map);
    eventually(SOON, "given back at munmap", || {
        pwrite(&other, b"x", 0).is_ok()
    });
}

fn sparse_files_pay_their_size(m: &mut Mount) {
    let file = create(m.path("f"));
    assert_eq!(pwrite(&file, b"x", MEBIBYTE as u64 - 1), Ok(1));
    assert_eq!(free(m.root()), 0);
    fails(Errno::NOSPC, pwrite(&create(m.path("g")), b"x", 0));
    // Filling the hole costs nothing more.
    file.write_all_at(&vec![1; MEBIBYTE], 0).unwrap();
    unlink(m.path("f")).unwrap();
    drop(file);
    eventually(SOON, "given back", || free(m.root()) == MEBIBYTE as u64);
    let file = create(m.path("h"));
    ftruncate(&file, MEBIBYTE as u64).unwrap();
    assert_eq!(free(m.root()), 0);
    fails(Errno::NOSPC, ftruncate(&file, MEBIBYTE as u64 + 1));
    // A write far out stores nothing when the way there doesn't fit.
    ftruncate(&file, 0).unwrap();
    fails(Errno::NOSPC, pwrite(&file, b"x", MEBIBYTE as u64));
    assert_eq!((fstat(&file).st_size, free(m.root())), (0, MEBIBYTE as u64));
    // Punching a hole frees blocks, but a sparse file pays for its apparent size.
    file.write_all_at(&vec![1; MEBIBYTE], 0).unwrap();
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        0,
        MEBIBYTE as u64 / 2,
    )
    .unwrap();
    assert_eq!(free(m.root()), 0);
}

fn refused_growth_changes_nothing(m: &mut Mount) {
    put(m.path("f"), "content");
    put(m.path("full"), vec![1; MEBIBYTE - 4096]);
    let before = stat(m.path("f")).unwrap();
    let file = open_rw(m.path("f")).unwrap();
    wait::tick();
    fails(Errno::NOSPC, pwrite(&file, b"x", 4096));
    fails(Errno::NOSPC, ftruncate(&file, 4097));
    fails(Errno::NOSPC, truncate(m.path("f"), 1 << 30));
    fails(
        Errno::NOSPC,
        fallocate(&file, FallocateFlags::empty(), 0, 100_000),
    );
    let after = stat(m.path("f")).unwrap();
    assert_eq!((after.st_size, mtime(&after)), (7, mtime(&before)));
    assert_eq!(get(m.path("f")), b"content");
    // Its own block has room.
    assert_eq!(pwrite(&file, &[1; 5000], 7), Ok(4089));
}

fn close_and_fsync_never_fail(m: &mut Mount) {
    let file = create(m.path("f"));
    assert_eq!(fill(&file, 65_536), (MEBIBYTE as u64, Errno::NOSPC));
    rustix::fs::fsync(&file).unwrap();
    rustix::fs::fdatasync(&file).unwrap();
    // close(2) itself, whose answer `drop` would swallow.
    sys::close(file.try_clone().unwrap()).unwrap();
    sys::close(file).unwrap();
    assert_eq!(get(m.path("f")).len(), MEBIBYTE);
}

fn direct_writes_are_limited(m: &mut Mount) {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT;
    let Ok(file) = open(m.path("f"), flags, 0o644) else {
        return skip("no O_DIRECT on this store");
    };
    let buffer = sys::Aligned::new(2 * MEBIBYTE);
    let mut at = 0;
    let errno = loop {
        match pwrite(&file, &buffer[..2 * MEBIBYTE - at], at as u64) {
            Ok(count) => at += count,
            Err(errno) => break errno,
        }
    };
    assert_eq!((at, errno), (MEBIBYTE, Errno::NOSPC));
}

fn copies_are_limited(m: &mut Mount) {
    put(m.path("from"), vec![1; MEBIBYTE / 2]);
    let from = open_read(m.path("from")).unwrap();
    let to = create(m.path("to"));
    let copy = |offset: u64| {
        let (mut source, mut target) = (0, offset);
        rustix::fs::copy_file_range(
            &from,
            Some(&mut source),
            &to,
            Some(&mut target),
            MEBIBYTE / 2,
        )
    };
    let mut at = 0;
    while at < MEBIBYTE as u64 / 2 {
        at += copy(at).unwrap() as u64;
    }
    fails(Errno::NOSPC, copy(MEBIBYTE as u64 / 2));
    assert_eq!(fstat(&to).st_size, MEBIBYTE as i64 / 2);
    // sendfile as well.
    let mut offset = 0;
    rustix::fs::seek(&to, rustix::fs::SeekFrom::End(0)).unwrap();
    fails(
        Errno::NOSPC,
        rustix::fs::sendfile(&to, &from, Some(&mut offset), 100_000),
    );
}

/// What all files below cost by their sizes, each file once.
fn charges(root: &Path) -> u64 {
    fn walk(directory: &Path, top: bool, found: &mut HashMap<u64, u64>) {
        let Ok(listing) = std::fs::read_dir(directory) else {
            return;
        };
        for entry in listing.flatten() {
            if top && entry.file_name() == ".ttlfs" {
                continue;
            }
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            if metadata.is_dir() {
                walk(&entry.path(), false, found);
            } else if metadata.is_file() {
                found.insert(metadata.ino(), metadata.len().div_ceil(4096) * 4096);
            }
        }
    }
    let mut found = HashMap::new();
    walk(root, true, &mut found);
    found.values().sum()
}

fn many_writers_never_exceed_it(m: &mut Mount) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut highest = 0;
            while !stop.load(Ordering::Relaxed) {
                highest = highest.max(charges(m.backing()));
                assert!(highest <= MEBIBYTE as u64, "{highest} bytes are stored");
            }
            highest
        });
        // Files only grow meanwhile, so that a slow look never counts too much.
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let path = m.path(format!("f{writer}"));
                scope.spawn(move || fill(&create(path), 1000 + 777 * writer as usize))
            })
            .collect();
        let outcomes: Vec<_> = writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect();
        stop.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        let sum: u64 = outcomes
            .iter()
            .map(|(stored, _)| stored.div_ceil(4096) * 4096)
            .sum();
        assert_eq!(sum, MEBIBYTE as u64, "all of it is used: {outcomes:?}");
        assert!(outcomes.iter().all(|(_, errno)| *errno == Errno::NOSPC));
    });
    assert_eq!((charges(m.backing()), free(m.root())), (MEBIBYTE as u64, 0));
}

fn many_writers_of_one_file(m: &mut Mount) {
    put(m.path("f"), "");
    let stored: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let file = open(m.path("f"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
                scope.spawn(move || {
                    let mut stored = 0;
                    loop {
                        match rustix::io::write(&file, &[1; 3000]) {
                            Ok(count) => stored += count as u64,
                            Err(errno) => {
                                assert_eq!(errno, Errno::NOSPC);
                                return stored;
                            }
                        }
                    }
                })
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum()
    });
    assert_eq!(stored, MEBIBYTE as u64);
    assert_eq!(stat(m.path("f")).unwrap().st_size, MEBIBYTE as i64);
    assert!(
        get(m.path("f")).iter().all(|byte| *byte == 1),
        "no holes between the appends"
    );
}

fn fallocate_is_charged(m: &mut Mount) {
    let file = create(m.path("f"));
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 400_000).unwrap();
    let reserved = MEBIBYTE as u64 - free(m.root());
    assert!(
        (400_000..=409_600).contains(&reserved),
        "{reserved} for 400,000 reserved bytes"
    );
    // Growing into the reservation costs nothing.
    file.write_all_at(&vec![1; 400_000], 0).unwrap();
    assert_eq!(MEBIBYTE as u64 - free(m.root()), reserved);
    fallocate(&file, FallocateFlags::empty(), 0, 800_000).unwrap();
    let now = MEBIBYTE as u64 - free(m.root());
    assert!((800_000..=806_912).contains(&now), "{now}");
    fails(
        Errno::NOSPC,
        fallocate(&file, FallocateFlags::empty(), 0, MEBIBYTE as u64 + 1),
    );
    fails(
        Errno::NOSPC,
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 2 * MEBIBYTE as u64),
    );
    fails(
        Errno::NOSPC,
        fallocate(&file, FallocateFlags::ZERO_RANGE, 0, 2 * MEBIBYTE as u64),
    );
    assert_eq!(fstat(&file).st_size, 800_000);
    assert_eq!(
        MEBIBYTE as u64 - free(m.root()),
        now,
        "a refusal costs nothing"
    );
    ftruncate(&file, 0).unwrap();
    assert_eq!(free(m.root()), MEBIBYTE as u64);
}

fn small_files_cost_a_block(m: &mut Mount) {
    for number in 0..256 {
        put(m.path(format!("f{number}")), "x");
    }
    let file = create(m.path("empty"));
    fails(Errno::NOSPC, pwrite(&file, b"x", 0));
    unlink(m.path("f0")).unwrap();
    eventually(SOON, "one block is free", || {
        pwrite(&file, b"x", 0) == Ok(1)
    });
    assert_eq!(free(m.root()), 0);
}

fn only_contents_cost_bytes(m: &mut Mount) {
    put(m.path("full"), vec![1; MEBIBYTE]);
    // Names of all kinds can still be made.
    create(m.path("empty"));
    mkdir(m.path("d")).unwrap();
    symlink("x".repeat(1000), m.path("l")).unwrap();
    mknod(m.path("p"), rustix::fs::FileType::Fifo, 0o600, 0).unwrap();
    set_xattr(m.path("empty"), "user.a", &[1; 1000]).unwrap();
    for number in 0..100 {
        create(m.path(format!("d/a-rather-long-name-{number}")));
    }
    assert_eq!(free(m.root()), 0);
}

fn hard_links_cost_nothing(m: &mut Mount) {
    put(m.path("f"), vec![1; MEBIBYTE / 2]);
    for number in 0..10 {
        link(m.path("f"), m.path(format!("l{number}"))).unwrap();
    }
    assert_eq!(free(m.root()), MEBIBYTE as u64 / 2);
    unlink(m.path("f")).unwrap();
    for number in 0..9 {
        unlink(m.path(format!("l{number}"))).unwrap();
        assert_eq!(free(m.root()), MEBIBYTE as u64 / 2);
    }
    unlink(m.path("l9")).unwrap();
    eventually(SOON, "given back with the last name", || {
        free(m.root()) == MEBIBYTE as u64
    });
}

fn renames_within_cost_nothing(m: &mut Mount) {
    put(m.path("f"), vec![1; MEBIBYTE]);
    mkdir(m.path("d")).unwrap();
    for _ in 0..5 {
        rename(m.path("f"), m.path("d/f")).unwrap();
        rename(m.path("d"), m.path("e")).unwrap();
        rename(m.path("e/f"), m.path("f")).unwrap();
        rename(m.path("e"), m.path("d")).unwrap();
        assert_eq!(free(m.root()), 0);
    }
}

fn rename_over_gives_back(m: &mut Mount) {
    put(m.path("old"), vec![1; MEBIBYTE / 2]);
    put(m.path("new"), vec![2; MEBIBYTE / 2]);
    rename(m.path("new"), m.path("old")).unwrap();
    eventually(SOON, "given back", || free(m.root()) == MEBIBYTE as u64 / 2);
    let kept = open_read(m.path("old")).unwrap();
    put(m.path("new"), vec![3; MEBIBYTE / 2]);
    rename(m.path("new"), m.path("old")).unwrap();
    assert_eq!(free(m.root()), 0, "what was replaced is still open");
    drop(kept);
    eventually(SOON, "given back after the close", || {
        free(m.root()) == MEBIBYTE as u64 / 2
    });
}

fn open_with_truncation_gives_back(m: &mut Mount) {
    put(m.path("f"), vec![1; MEBIBYTE]);
    for round in 0..10u8 {
        // As `>` does it: the same size again must fit.
        std::fs::write(m.path("f"), vec![round; MEBIBYTE]).unwrap();
    }
    drop(open(m.path("f"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap());
    assert_eq!(free(m.root()), MEBIBYTE as u64);
}

fn books_survive_a_remount(m: &mut Mount) {
    put(m.path("f"), vec![1; 300_000]);
    mkdir(m.path("d")).unwrap();
    put(m.path("d/g"), vec![1; 100_000]);
    link(m.path("f"), m.path("d/l")).unwrap();
    let file = create(m.path("sparse"));
    ftruncate(&file, 200_000).unwrap();
    drop(file);
    let before = free(m.root());
    assert_eq!(before, MEBIBYTE as u64 - (74 + 25 + 49) * 4096);
    m.remount();
    eventually(SOON, "the same after a remount", || {
        free(m.root()) == before
    });
    assert_eq!(fill(&create(m.path("h")), 10_000).0, before);
    // A smaller limit than what is used is legal: growth fails.
    m.remount_with("quota=500K");
    assert_eq!(free(m.root()), 0);
    fails(
        Errno::NOSPC,
        pwrite(&open_rw(m.path("f")).unwrap(), b"x", 400_000),
    );
    pwrite(&open_rw(m.path("f")).unwrap(), b"x", 0).unwrap();
    m.remount_with("");
    pwrite(&open_rw(m.path("f")).unwrap(), b"x", 4_000_000).unwrap();
}

fn fill_and_empty_again_and_again(m: &mut Mount) {
    for round in 0..15u64 {
        let mut random = Random::new(round);
        let mut number = 0;
        loop {
            let file = create(m.path(format!("f{number}")));
            number += 1;
            let length = random.below(100_000) as usize + 1;
            match pwrite(&file, &pattern(length, round), 0) {
                Ok(count) if count == length => {}
                Ok(_) => break,
                Err(errno) => {
                    assert_eq!(errno, Errno::NOSPC);
                    break;
                }
            }
        }
        for file in names(m.root()) {
            match random.below(3) {
                0 => truncate(m.path(&file), 0).unwrap(),
                1 => std::fs::write(m.path(&file), "").unwrap(),
                _ => {}
            }
            unlink(m.path(&file)).unwrap();
        }
        eventually(SOON, "nothing is lost", || {
            free(m.root()) == MEBIBYTE as u64
        });
    }
}

fn programs_learn_of_it(m: &mut Mount) {
    let target = m.path("f").display().to_string();
    let done = process::run_to_end(
        std::process::Command::new("dd").args([
            "if=/dev/zero",
            &format!("of={target}"),
            "bs=64K",
            "count=100",
        ]),
        Duration::from_secs(30),
    );
    assert!(
        !done.status.success() && done.errors.contains("No space left on device"),
        "{}",
        done.errors
    );
    assert_eq!(stat(&target).unwrap().st_size, MEBIBYTE as i64);
    let done = process::run_to_end(
        std::process::Command::new("cp").args([&target, &format!("{target}2")]),
        Duration::from_secs(30),
    );
    assert_eq!(done.status.code(), Some(1), "{}", done.errors);
}

fn odd_limits(m: &mut Mount) {
    // Two whole blocks fit into 10,000 bytes, and nothing beside.
    let file = create(m.path("f"));
    assert_eq!(pwrite(&file, &[1; 20_000], 0), Ok(8192));
    fails(Errno::NOSPC, pwrite(&file, &[1; 20_000], 8192));
    ftruncate(&file, 1).unwrap();
    put(m.path("g"), "x");
    fails(Errno::NOSPC, pwrite(&create(m.path("h")), b"x", 0));
}

fn errno_is_configurable(m: &mut Mount) {
    let file = create(m.path("f"));
    assert_eq!(fill(&file, 100_000), (MEBIBYTE as u64, Errno::DQUOT));
    fails(Errno::DQUOT, ftruncate(&file, MEBIBYTE as u64 + 1));
    fails(
        Errno::DQUOT,
        fallocate(&file, FallocateFlags::empty(), 0, MEBIBYTE as u64 + 1),
    );
    fails(Errno::DQUOT, pwrite(&create(m.path("g")), b"x", 0));
}
