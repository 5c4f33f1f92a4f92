//! Limits of counts and of single files: `inodes`, `max_file`.

use crate::common::*;
use rustix::fs::{FallocateFlags, OFlags, RenameFlags, fallocate, ftruncate, statvfs};
use rustix::io::Errno;
use std::path::Path;
use std::time::Duration;

in_default_mode!("inodes=10": inodes_are_limited, inodes_are_given_back, hard_links_need_no_inode);
in_each_io_mode!("max_file=100000": largest_file);

/// Room for what the kernel tells the daemon late: that a file was let go of.
const SOON: Duration = Duration::from_secs(3);

/// Makes names until the limit; gives how many there are.
fn fill_inodes(directory: &Path) -> usize {
    for number in 0.. {
        let path = directory.join(format!("n{number}"));
        let made = match number % 5 {
            0 => try_create(&path).map(drop),
            1 => mkdir(&path),
            2 => symlink("x", &path),
            3 => mknod(&path, rustix::fs::FileType::Fifo, 0o600, 0),
            _ => mknod(&path, rustix::fs::FileType::RegularFile, 0o600, 0),
        };
        if let Err(errno) = made {
            assert_eq!(errno, Errno::NOSPC);
            assert!(!exists(&path));
            return number;
        }
    }
    unreachable!()
}

fn inodes_are_limited(m: &mut Mount) {
    assert_eq!(fill_inodes(m.root()), 10);
    // All kinds are refused, and nothing half-made is left.
    fails(Errno::NOSPC, try_create(m.path("x")));
    fails(Errno::NOSPC, mkdir(m.path("x")));
    fails(Errno::NOSPC, symlink("x", m.path("x")));
    fails(
        Errno::NOSPC,
        mknod(m.path("x"), rustix::fs::FileType::Fifo, 0o600, 0),
    );
    fails(
        Errno::NOSPC,
        mknod(m.path("x"), rustix::fs::FileType::RegularFile, 0o600, 0),
    );
    fails(Errno::NOSPC, mkdir(m.path("n1/x")));
    assert_eq!(names(m.root()).len(), 10);
    assert_eq!(
        names(m.backing())
            .iter()
            .filter(|name| *name != ".ttlfs")
            .count(),
        10
    );
    // What exists can be used and opened with O_CREAT.
    drop(open(m.path("n0"), OFlags::CREATE | OFlags::RDWR, 0o644).unwrap());
    put_into(&m.path("n0"));
    rename(m.path("n0"), m.path("n1/n0")).unwrap();
    rename_with(m.path("n1/n0"), m.path("n2"), RenameFlags::EXCHANGE).unwrap();
}

fn put_into(path: &Path) {
    pwrite(&open_rw(path).unwrap(), &[1; 10_000], 0).unwrap();
}

fn inodes_are_given_back(m: &mut Mount) {
    for _ in 0..10 {
        assert_eq!(fill_inodes(m.root()), 10);
        for name in names(m.root()) {
            let _ = unlink(m.path(&name)).or_else(|_| rmdir(m.path(&name)));
        }
        eventually(SOON, "all are given back", || {
            let figures = statvfs(m.root()).unwrap();
            figures.f_ffree == 10
        });
    }
    // An unlinked file that is open still counts.
    let kept = create(m.path("kept"));
    unlink(m.path("kept")).unwrap();
    assert_eq!(fill_inodes(m.root()), 9);
    drop(kept);
    eventually(SOON, "given back at the close", || {
        try_create(m.path("another")).is_ok()
    });
}

fn hard_links_need_no_inode(m: &mut Mount) {
    assert_eq!(fill_inodes(m.root()), 10);
    link(m.path("n0"), m.path("l")).unwrap();
    unlink(m.path("n0")).unwrap();
    fails(Errno::NOSPC, try_create(m.path("x")));
    unlink(m.path("l")).unwrap();
    eventually(SOON, "given back with the last name", || {
        try_create(m.path("x")).is_ok()
    });
}

fn largest_file(m: &mut Mount) {
    let file = create(m.path("f"));
    assert_eq!(pwrite(&file, &vec![1; 150_000], 0), Ok(100_000));
    fails(Errno::FBIG, pwrite(&file, b"x", 100_000));
    fails(Errno::FBIG, pwrite(&file, b"x", 1 << 30));
    fails(Errno::FBIG, ftruncate(&file, 100_001));
    fails(Errno::FBIG, truncate(m.path("f"), 100_001));
    fails(
        Errno::FBIG,
        fallocate(&file, FallocateFlags::empty(), 0, 100_001),
    );
    assert_eq!(fstat(&file).st_size, 100_000);
    assert_eq!(pwrite(&file, b"xx", 99_999), Ok(1));
    let file = create(m.path("g"));
    ftruncate(&file, 100_000).unwrap();
    fails(Errno::FBIG, pwrite(&file, b"x", 100_000));
    // Any number of files of that size.
    for number in 0..30 {
        put(m.path(format!("f{number}")), vec![1; 100_000]);
    }
    let mut file = open(
        m.path("log"),
        OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY,
        0o644,
    )
    .unwrap();
    let outcome = (0..).find_map(|_| std::io::Write::write(&mut file, &[1; 7000]).err());
    assert_eq!(
        outcome.unwrap().raw_os_error(),
        Some(Errno::FBIG.raw_os_error())
    );
    assert_eq!(fstat(&file).st_size, 100_000);
}
