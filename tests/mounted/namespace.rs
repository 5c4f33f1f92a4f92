//! Names: making, linking, renaming and removing them.

use crate::common::*;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, linkat, statat};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

in_default_mode!("":
    symlinks,
    special_files,
    exclusive_creation,
    negative_names_become_positive,
    dot_dot_leads_back,
    open_by_descriptor_reaches_the_same_file,
    create_in_removed_directory,
    unlinked_but_open,
    tmpfile_falls_back,
    creat_through_dangling_symlink,
    handles_reach_files,
);
in_each_io_mode!("": hard_links_share_fresh_attributes, replaced_file_lives_on_for_those_who_have_it);

fn ino(path: impl AsRef<Path>) -> u64 {
    lstat(path).unwrap().st_ino
}

fn hard_links_share_fresh_attributes(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("a"), "one");
    link(m.path("a"), m.path("d/b")).unwrap();
    let both = || (lstat(m.path("a")).unwrap(), lstat(m.path("d/b")).unwrap());
    let same = |what: &str| {
        let (a, b) = both();
        assert_eq!(a.st_ino, b.st_ino, "{what}");
        assert_eq!(
            (a.st_nlink, a.st_mode, a.st_uid),
            (b.st_nlink, b.st_mode, b.st_uid),
            "{what}"
        );
        assert_eq!(
            (a.st_size, mtime(&a), ctime(&a)),
            (b.st_size, mtime(&b), ctime(&b)),
            "{what}"
        );
    };
    for round in 0..10 {
        same("before");
        let file = open_rw(m.path("a")).unwrap();
        pwrite(&file, &vec![b'x'; 100 * (round + 1)], 0).unwrap();
        assert_eq!(
            lstat(m.path("d/b")).unwrap().st_size,
            100 * (round as i64 + 1),
            "size of the other name"
        );
        same("after a write");
        assert_eq!(get(m.path("d/b")).len(), 100 * (round + 1));
        chmod(m.path("d/b"), 0o600 + round as u32).unwrap();
        assert_eq!(
            mode(m.path("a")),
            0o600 + round as u32,
            "mode of the other name"
        );
        chown(m.path("a"), 5, round as u32).unwrap();
        assert_eq!(owner(m.path("d/b")), (5, round as u32));
        set_times(m.path("d/b"), timespec(5, 5), timespec(6, round as i64)).unwrap();
        assert_eq!(
            mtime(&lstat(m.path("a")).unwrap()),
            6_000_000_000 + round as i128
        );
        same("after times");
        link(m.path("d/b"), m.path("c")).unwrap();
        assert_eq!(
            (both().0.st_nlink, both().1.st_nlink),
            (3, 3),
            "links after link"
        );
        unlink(m.path("c")).unwrap();
        assert_eq!(
            (both().0.st_nlink, both().1.st_nlink),
            (2, 2),
            "links after unlink"
        );
        assert_eq!(fstat(&file).st_nlink, 2);
        rename(m.path("a"), m.path("a2")).unwrap();
        rename(m.path("a2"), m.path("a")).unwrap();
        truncate(m.path("d/b"), 0).unwrap();
        assert_eq!((fstat(&file).st_size, both().0.st_size), (0, 0));
    }
    put(m.path("other"), "x");
    rename(m.path("other"), m.path("a")).unwrap();
    assert_eq!(
        lstat(m.path("d/b")).unwrap().st_nlink,
        1,
        "links after one was replaced"
    );
    // Directories have one name; a link to a symlink is one to the symlink itself.
    fails(Errno::PERM, link(m.path("d"), m.path("d2")));
    fails(Errno::EXIST, link(m.path("a"), m.path("d/b")));
    symlink("nowhere", m.path("l")).unwrap();
    link(m.path("l"), m.path("l2")).unwrap();
    assert_eq!(lstat(m.path("l2")).unwrap().st_nlink, 2);
    assert_eq!(
        std::fs::read_link(m.path("l2")).unwrap(),
        Path::new("nowhere")
    );
}

fn symlinks(m: &mut Mount) {
    put(m.path("f"), "x");
    symlink("f", m.path("l")).unwrap();
    assert_eq!(std::fs::read_link(m.path("l")).unwrap(), Path::new("f"));
    assert_eq!(lstat(m.path("l")).unwrap().st_size, 1);
    assert_eq!(get(m.path("l")), b"x");
    fails(
        Errno::LOOP,
        open(m.path("l"), OFlags::RDONLY | OFlags::NOFOLLOW, 0),
    );
    fails(Errno::EXIST, symlink("g", m.path("l")));
    fails(Errno::INVAL, rustix::fs::readlink(m.path("f"), Vec::new()));
    fails(Errno::NOENT, symlink("", m.path("empty")));
    // Any target up to the longest path.
    for length in [59, 60, 61, 255, 1023, 1024, 1025, 4094, 4095] {
        let target = "t".repeat(length);
        let path = m.path(format!("l{length}"));
        match symlink(&target, &path) {
            Ok(()) => {
                assert_eq!(
                    std::fs::read_link(&path).unwrap(),
                    PathBuf::from(target),
                    "{length}"
                );
                assert_eq!(lstat(&path).unwrap().st_size, length as i64);
            }
            // XFS stops at 1,024.
            Err(errno) => assert!(
                errno == Errno::NAMETOOLONG && length >= 1023,
                "{length}: {errno:?}"
            ),
        }
    }
    fails(
        Errno::NAMETOOLONG,
        symlink("t".repeat(4096), m.path("toolong")),
    );
    // Loops, and the longest chain that is none.
    symlink("b", m.path("a")).unwrap();
    symlink("a", m.path("b")).unwrap();
    fails(Errno::LOOP, stat(m.path("a")));
    symlink("f", m.path("chain0")).unwrap();
    for step in 1..41 {
        symlink(format!("chain{}", step - 1), m.path(format!("chain{step}"))).unwrap();
    }
    assert_eq!(get(m.path("chain39")), b"x");
    fails(Errno::LOOP, stat(m.path("chain40")));
    // Absolute, relative and upward targets.
    mkdir(m.path("d")).unwrap();
    symlink("../f", m.path("d/up")).unwrap();
    symlink(m.path("f"), m.path("d/absolute")).unwrap();
    assert_eq!(
        (get(m.path("d/up")), get(m.path("d/absolute"))),
        (b"x".to_vec(), b"x".to_vec())
    );
    // One that is replaced under a warm cache shows its new target at once.
    for round in 0..20 {
        unlink(m.path("l")).unwrap();
        symlink(format!("target{round}"), m.path("l")).unwrap();
        assert_eq!(
            std::fs::read_link(m.path("l")).unwrap(),
            PathBuf::from(format!("target{round}"))
        );
    }
    let target = OsString::from_vec((1..=255).collect());
    symlink(&target, m.path("bytes")).unwrap();
    assert_eq!(
        std::fs::read_link(m.path("bytes")).unwrap().as_os_str(),
        target
    );
}

fn special_files(m: &mut Mount) {
    let device = rustix::fs::makedev(1, 3);
    mknod(m.path("c"), FileType::CharacterDevice, 0o640, device).unwrap();
    mknod(
        m.path("b"),
        FileType::BlockDevice,
        0o600,
        rustix::fs::makedev(7, 200),
    )
    .unwrap();
    mknod(m.path("p"), FileType::Fifo, 0o622, 0).unwrap();
    mknod(m.path("s"), FileType::Socket, 0o755, 0).unwrap();
    mknod(m.path("r"), FileType::RegularFile, 0o644, 0).unwrap();
    let kind = |name: &str| FileType::from_raw_mode(lstat(m.path(name)).unwrap().st_mode);
    assert_eq!(
        (kind("c"), kind("b")),
        (FileType::CharacterDevice, FileType::BlockDevice)
    );
    assert_eq!(
        (kind("p"), kind("s"), kind("r")),
        (FileType::Fifo, FileType::Socket, FileType::RegularFile)
    );
    assert_eq!(lstat(m.path("c")).unwrap().st_rdev, device);
    assert_eq!(
        lstat(m.path("b")).unwrap().st_rdev,
        rustix::fs::makedev(7, 200)
    );
    assert_eq!((mode(m.path("c")), mode(m.path("s"))), (0o640, 0o755));
    let large = rustix::fs::makedev(511, 70_000);
    mknod(m.path("large"), FileType::CharacterDevice, 0o600, large).unwrap();
    assert_eq!(lstat(m.path("large")).unwrap().st_rdev, large);
    // Types show in listings.
    for entry in std::fs::read_dir(m.root()).unwrap() {
        use std::os::unix::fs::FileTypeExt as _;
        let entry = entry.unwrap();
        let found = entry.file_type().unwrap();
        let expected = entry.file_name();
        let right = match expected.to_str().unwrap() {
            "c" | "large" => found.is_char_device(),
            "b" => found.is_block_device(),
            "p" => found.is_fifo(),
            "s" => found.is_socket(),
            _ => found.is_file(),
        };
        assert!(right, "{expected:?} is listed as {found:?}");
    }
    fails(Errno::NXIO, open_rw(m.path("s")));
    for name in ["c", "b", "p", "s", "r", "large"] {
        link(m.path(name), m.path("other")).unwrap();
        assert_eq!(lstat(m.path(name)).unwrap().st_nlink, 2, "{name}");
        rename(m.path(name), m.path("moved")).unwrap();
        unlink(m.path("moved")).unwrap();
        unlink(m.path("other")).unwrap();
    }
    assert!(names(m.root()).is_empty());
}

fn exclusive_creation(m: &mut Mount) {
    // Of many who try, one makes it.
    for round in 0..50 {
        let path = m.path(format!("f{round}"));
        let made: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| match try_create(&path) {
                        Ok(_) => 1,
                        Err(errno) => {
                            assert_eq!(errno, Errno::EXIST);
                            0
                        }
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(made, 1, "round {round}");
    }
    symlink("f0", m.path("l")).unwrap();
    symlink("nowhere", m.path("dangling")).unwrap();
    fails(Errno::EXIST, try_create(m.path("l")));
    fails(Errno::EXIST, try_create(m.path("dangling")));
    assert!(!exists(m.path("nowhere")));
    // mkdir is as exclusive.
    for round in 0..30 {
        let path = m.path(format!("d{round}"));
        let made: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| usize::from(mkdir(&path).is_ok())))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(made, 1, "round {round}");
    }
}

fn negative_names_become_positive(m: &mut Mount) {
    for round in 0..30 {
        let path = m.path(format!("n{round}"));
        for _ in 0..3 {
            fails(Errno::NOENT, stat(&path));
        }
        match round % 5 {
            0 => put(&path, "x"),
            1 => mkdir(&path).unwrap(),
            2 => symlink("x", &path).unwrap(),
            3 => link(m.path("n0"), &path).unwrap(),
            _ => {
                put(m.path("tmp"), "x");
                rename(m.path("tmp"), &path).unwrap();
            }
        }
        lstat(&path).unwrap();
    }
}

fn dot_dot_leads_back(m: &mut Mount) {
    mkdir(m.path("a")).unwrap();
    mkdir(m.path("a/b")).unwrap();
    assert_eq!(ino(m.path("a/b/..")), ino(m.path("a")));
    assert_eq!(ino(m.path("a/.")), ino(m.path("a")));
    assert_eq!(ino(m.path("a/b/../..")), ino(m.root()));
    // Above the root lies what the mountpoint lies in.
    let above = stat(m.root().join("..")).unwrap();
    assert_eq!(
        above.st_ino,
        stat(m.root().parent().unwrap()).unwrap().st_ino
    );
    // After the parent's name is cached and changes, too.
    rename(m.path("a"), m.path("c")).unwrap();
    assert_eq!(ino(m.path("c/b/..")), ino(m.path("c")));
}

fn open_by_descriptor_reaches_the_same_file(m: &mut Mount) {
    put(m.path("f"), "one");
    let file = open(m.path("f"), OFlags::PATH, 0).unwrap();
    rename(m.path("f"), m.path("g")).unwrap();
    put(m.path("f"), "two");
    let reopened = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(std::fs::read(&reopened).unwrap(), b"one");
    chmod(&reopened, 0o601).unwrap();
    assert_eq!(mode(m.path("g")), 0o601);
    linkat(
        CWD,
        reopened.as_str(),
        CWD,
        m.path("h"),
        AtFlags::SYMLINK_FOLLOW,
    )
    .unwrap();
    assert_eq!(ino(m.path("h")), ino(m.path("g")));
}

fn create_in_removed_directory(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    let inside = open(m.path("d"), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    rmdir(m.path("d")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let flags = OFlags::CREATE | OFlags::RDWR;
    fails(Errno::NOENT, rustix::fs::openat(&inside, "f", flags, mode));
    fails(Errno::NOENT, rustix::fs::mkdirat(&inside, "f", mode));
    fails(Errno::NOENT, statat(&inside, "f", AtFlags::empty()));
    assert_eq!(fstat(&inside).st_nlink, 0);
    // The name is free, and the old directory isn't the new one.
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "x");
    fails(Errno::NOENT, statat(&inside, "f", AtFlags::empty()));
}

fn unlinked_but_open(m: &mut Mount) {
    put(m.path("f"), "content");
    let file = open_rw(m.path("f")).unwrap();
    unlink(m.path("f")).unwrap();
    fails(Errno::NOENT, stat(m.path("f")));
    assert!(names(m.root()).is_empty());
    drop_caches();
    let found = fstat(&file);
    assert_eq!((found.st_nlink, found.st_size), (0, 7));
    assert_eq!(pread(&file, 20, 0).unwrap(), b"content");
    assert_eq!(pwrite(&file, b"more", 7), Ok(4));
    rustix::fs::ftruncate(&file, 9).unwrap();
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    rustix::fs::fsync(&file).unwrap();
    assert_eq!(
        (fstat(&file).st_size, fstat(&file).st_mode & 0o777),
        (9, 0o600)
    );
    let reopened = open_rw(format!(
        "/proc/self/fd/{}",
        rustix::fd::AsRawFd::as_raw_fd(&file)
    ))
    .unwrap();
    assert_eq!(pread(&reopened, 20, 0).unwrap(), b"contentmo");
    // A new file of the name is another one.
    put(m.path("f"), "new");
    assert_ne!(fstat(&file).st_ino, ino(m.path("f")));
    assert_eq!(pread(&file, 20, 0).unwrap(), b"contentmo");
    assert_eq!(get(m.path("f")), b"new");
}

fn replaced_file_lives_on_for_those_who_have_it(m: &mut Mount) {
    put(m.path("f"), "old");
    let old = open_rw(m.path("f")).unwrap();
    put(m.path("g"), "new");
    rename(m.path("g"), m.path("f")).unwrap();
    assert_eq!(
        (pread(&old, 9, 0).unwrap(), get(m.path("f"))),
        (b"old".to_vec(), b"new".to_vec())
    );
    pwrite(&old, b"OLD and longer", 0).unwrap();
    assert_eq!((fstat(&old).st_nlink, fstat(&old).st_size), (0, 14));
    assert_eq!(get(m.path("f")), b"new");
}

fn tmpfile_falls_back(m: &mut Mount) {
    match open(m.root(), OFlags::TMPFILE | OFlags::RDWR, 0o600) {
        Ok(file) => {
            assert_eq!(fstat(&file).st_nlink, 0);
            assert_eq!(pwrite(&file, b"x", 0), Ok(1));
        }
        // FUSE without FUSE_TMPFILE, as libraries that fall back expect it.
        Err(errno) => {
            assert!(!is_native());
            assert_eq!(errno, Errno::OPNOTSUPP);
        }
    }
    assert!(names(m.root()).is_empty());
}

fn creat_through_dangling_symlink(m: &mut Mount) {
    symlink("target", m.path("l")).unwrap();
    // Not in a sticky directory of others: there the kernel refuses.
    drop(open(m.path("l"), OFlags::CREATE | OFlags::RDWR, 0o644).unwrap());
    assert!(exists(m.path("target")));
    fails(Errno::NOENT, {
        symlink("missing/target", m.path("l2")).unwrap();
        open(m.path("l2"), OFlags::CREATE | OFlags::RDWR, 0o644)
    });
}

fn handles_reach_files(m: &mut Mount) {
    put(m.path("f"), "x");
    let mut handle = sys::name_to_handle(&m.path("f")).unwrap();
    rename(m.path("f"), m.path("g")).unwrap();
    let root = open(m.root(), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    let file = sys::open_by_handle(&root, &mut handle).unwrap();
    assert_eq!(pread(&file, 9, 0).unwrap(), b"x");
    drop(file);
    unlink(m.path("g")).unwrap();
    // The kernel lets go of the inode once the daemon has heard of the close.
    eventually(
        std::time::Duration::from_secs(5),
        "the handle is stale",
        || sys::open_by_handle(&root, &mut handle).errno() == Some(Errno::STALE),
    );
}
