//! Many threads on the same few names: the daemon stays, the tree stays whole, and every error is an honest one.

use crate::common::*;
use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

in_each_io_mode!("": everything_at_once);
in_default_mode!("":
    create_and_unlink_of_one_name,
    rename_over_while_others_read,
    directories_moved_around,
    symlinks_swapped_under_a_walk,
    lookups_while_caches_are_dropped,
    opens_and_unlinks,
);
in_default_mode!("quota=3M,inodes=60,ttl=2s": everything_at_once_under_limits);

const THREADS: u64 = 64;
const SPAN: Duration = Duration::from_secs(4);

/// What racing calls may say. Anything else, EIO and ESTALE above all, is a fault.
const HONEST: [Errno; 12] = [
    Errno::NOENT,
    Errno::EXIST,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::NOTEMPTY,
    Errno::INVAL,
    Errno::LOOP,
    Errno::TXTBSY,
    Errno::NXIO,
    Errno::PERM,
    Errno::MLINK,
    Errno::NODATA,
];

#[track_caller]
fn honest(outcome: impl Outcome, also: &[Errno]) {
    if let Some(errno) = outcome.errno() {
        assert!(
            HONEST.contains(&errno) || also.contains(&errno),
            "{errno:?}"
        );
    }
}

fn churn(m: &Mount, also: &[Errno]) {
    for directory in ["a", "b"] {
        mkdir(m.path(directory)).unwrap();
    }
    let end = Instant::now() + SPAN;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let root = m.root();
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while Instant::now() < end {
                    step(root, &mut random, also);
                }
            });
        }
    });
    m.assert_alive();
}

fn step(root: &Path, random: &mut Random, also: &[Errno]) {
    let any = |random: &mut Random| -> PathBuf {
        let places = ["", "a", "b", "d1", "d2"];
        root.join(random.pick(&places))
            .join(format!("n{}", random.below(6)))
    };
    let (one, two) = (any(random), any(random));
    let directory = root.join(["d1", "d2"][random.below(2) as usize]);
    match random.below(20) {
        0..=2 => honest(try_create(&one), also),
        3 => match open(&one, OFlags::CREATE | OFlags::RDWR, 0o644) {
            Ok(file) => {
                honest(pwrite(&file, &[1; 5000], random.below(10_000)), also);
                honest(pread(&file, 100, 0), also);
                assert!(fstat(&file).st_nlink < 1000);
            }
            Err(errno) => honest(Err::<(), _>(errno), also),
        },
        4..=6 => honest(unlink(&one), also),
        7..=8 => honest(rename(&one, &two), also),
        9 => honest(rename_with(&one, &two, RenameFlags::EXCHANGE), also),
        10 => honest(rename_with(&one, &two, RenameFlags::NOREPLACE), also),
        11..=12 => honest(link(&one, &two), also),
        13 => honest(symlink("n0", &one), also),
        14 => honest(mkdir(&directory), also),
        15 => honest(rmdir(&directory), also),
        16 => honest(lstat(&one).map(drop), also),
        17 => honest(
            std::fs::read_dir(root.join("a")).map(|listing| listing.count()),
            also,
        ),
        18 => honest(truncate(&one, random.below(8000)), also),
        _ => {
            honest(chmod(&one, 0o600 | random.below(0o100) as u32), also);
            honest(set_xattr(&one, "user.x", b"y"), also);
        }
    }
}

/// Everything below a directory: path, kind, inode number, links, size.
fn tree(root: &Path) -> BTreeMap<PathBuf, (FileType, u64, u64, i64)> {
    fn walk(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, (FileType, u64, u64, i64)>) {
        for name in names(root.join(below)) {
            if below.as_os_str().is_empty() && name == ".ttlfs" {
                continue;
            }
            let path = below.join(name);
            let stat = lstat(root.join(&path)).unwrap();
            let kind = FileType::from_raw_mode(stat.st_mode);
            found.insert(
                path.clone(),
                (kind, stat.st_ino, stat.st_nlink, stat.st_size),
            );
            if kind == FileType::Directory {
                walk(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, Path::new(""), &mut found);
    found
}

fn assert_whole(m: &mut Mount) {
    let check = |m: &Mount| {
        let through = tree(m.root());
        let behind = tree(m.backing());
        let plain = |tree: &BTreeMap<PathBuf, (FileType, u64, u64, i64)>| -> Vec<(PathBuf, FileType, u64, i64)> {
            tree.iter().map(|(path, (kind, _, links, size))| (path.clone(), *kind, *links, *size)).collect()
        };
        assert_eq!(
            plain(&through),
            plain(&behind),
            "the mount shows what is there"
        );
        // As many links as names; one number, one file.
        let mut by_number: BTreeMap<u64, Vec<&PathBuf>> = BTreeMap::new();
        for (path, (kind, number, _, _)) in &through {
            if *kind != FileType::Directory {
                by_number.entry(*number).or_default().push(path);
            }
        }
        for (path, (kind, number, links, _)) in &through {
            if *kind != FileType::Directory {
                assert_eq!(
                    by_number[number].len() as u64,
                    *links,
                    "{path:?}: {:?}",
                    by_number[number]
                );
            }
        }
        through
    };
    let before = check(m);
    drop_caches();
    assert_eq!(check(m), before, "asked afresh");
    m.remount();
    assert_eq!(check(m), before, "after a remount");
    for (path, (kind, ..)) in before.iter().rev() {
        match kind {
            FileType::Directory => rmdir(m.path(path)).unwrap(),
            _ => unlink(m.path(path)).unwrap(),
        }
    }
    assert!(names(m.root()).is_empty());
}

fn everything_at_once(m: &mut Mount) {
    churn(m, &[]);
    assert_whole(m);
}

fn everything_at_once_under_limits(m: &mut Mount) {
    churn(m, &[Errno::NOSPC]);
    // All is expired or removed in the end, and then the quota is whole again.
    eventually(Duration::from_secs(15), "everything expires", || {
        names(m.root()).is_empty()
    });
    eventually(Duration::from_secs(5), "everything is given back", || {
        let found = rustix::fs::statvfs(m.root()).unwrap();
        found.f_bavail * found.f_frsize == 3 << 20
    });
    put(m.path("whole"), vec![1; 3 << 20]);
    unlink(m.path("whole")).unwrap();
}

fn create_and_unlink_of_one_name(m: &mut Mount) {
    let path = m.path("lock");
    let (made, removed) = (
        std::sync::atomic::AtomicU32::new(0),
        std::sync::atomic::AtomicU32::new(0),
    );
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                // A lock file: whoever made it removes it, so at most one has it.
                for _ in 0..100 {
                    match try_create(&path) {
                        Ok(file) => {
                            made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            assert_eq!(fstat(&file).st_nlink, 1);
                            unlink(&path).unwrap();
                            removed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                        Err(errno) => assert_eq!(errno, Errno::EXIST),
                    }
                }
            });
        }
    });
    assert_eq!(made.into_inner(), removed.into_inner());
    assert!(names(m.root()).is_empty());
}

fn rename_over_while_others_read(m: &mut Mount) {
    // Readers see one whole version or another, and never none.
    put(m.path("f"), [0; 3000]);
    let (root, stop) = (m.root(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    if reader % 2 == 0 {
                        let content = get(root.join("f"));
                        assert_eq!(content.len(), 3000);
                        assert!(
                            content.iter().all(|byte| *byte == content[0]),
                            "one version"
                        );
                    } else {
                        assert_eq!(stat(root.join("f")).unwrap().st_size, 3000);
                    }
                }
            });
        }
        for round in 0..500u32 {
            put(root.join("new"), [round as u8; 3000]);
            rename(root.join("new"), root.join("f")).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn directories_moved_around(m: &mut Mount) {
    for name in ["a", "b", "c"] {
        mkdir(m.path(name)).unwrap();
        mkdir(m.path(name).join("inner")).unwrap();
        put(m.path(name).join("inner/f"), name);
    }
    let (root, end) = (m.root(), Instant::now() + Duration::from_secs(2));
    std::thread::scope(|scope| {
        for thread in 0..12u64 {
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while Instant::now() < end {
                    let all = [
                        "a", "b", "c", "a/b", "b/c", "c/a", "a/inner", "b/inner", "c/inner",
                    ];
                    let (one, two) = (root.join(random.pick(&all)), root.join(random.pick(&all)));
                    match random.below(3) {
                        0 => honest(rename(&one, &two), &[]),
                        1 => honest(rename_with(&one, &two, RenameFlags::EXCHANGE), &[]),
                        _ => honest(
                            std::fs::read(one.join("inner/f")).map(drop),
                            &[Errno::ISDIR],
                        ),
                    }
                }
            });
        }
    });
    // No directory was lost in a loop: all files can still be reached from the root.
    let found = tree(root);
    let files: Vec<_> = found
        .keys()
        .filter(|path| path.file_name() == Some(name(b"f")))
        .collect();
    assert_eq!(files.len(), 3, "{found:?}");
    assert_whole(m);
}

fn symlinks_swapped_under_a_walk(m: &mut Mount) {
    // A name that is a directory one moment and a link to somewhere outside the next. Nobody may ever be led to
    // the place of that name inside the daemon's own view, or out of the backing directory.
    mkdir(m.path("real")).unwrap();
    put(m.path("real/f"), "inside");
    let outside = scratch::fresh("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), "outside").unwrap();
    symlink(&outside, m.path("link")).unwrap();
    rename(m.path("real"), m.path("swap")).unwrap();
    let (root, end) = (m.root(), Instant::now() + Duration::from_secs(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                rename_with(root.join("swap"), root.join("link"), RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..6 {
            scope.spawn(|| {
                while Instant::now() < end {
                    // Natively both are legal answers: the caller's own kernel follows the link.
                    let content = get(root.join("swap/f"));
                    assert!(content == b"inside" || content == b"outside");
                    let directory =
                        open(root.join("swap"), OFlags::DIRECTORY | OFlags::NOFOLLOW, 0);
                    match directory {
                        Ok(directory) => {
                            // Opened without following: it is the inner one, and stays it.
                            let mode = rustix::fs::Mode::empty();
                            let file: std::fs::File = rustix::fs::openat(
                                &directory,
                                "f",
                                OFlags::RDONLY | OFlags::CLOEXEC,
                                mode,
                            )
                            .unwrap()
                            .into();
                            assert_eq!(pread(&file, 20, 0).unwrap(), b"inside");
                            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                            let mode = rustix::fs::Mode::from_raw_mode(0o600);
                            drop(rustix::fs::openat(&directory, "made", flags, mode).unwrap());
                        }
                        Err(errno) => {
                            assert!(errno == Errno::LOOP || errno == Errno::NOTDIR, "{errno:?}")
                        }
                    }
                }
            });
        }
    });
    assert!(!outside.join("made").exists(), "made outside of the mount");
    std::fs::remove_dir_all(&outside).unwrap();
}

fn lookups_while_caches_are_dropped(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    for number in 0..200 {
        put(m.path(format!("d/f{number}")), number.to_string());
    }
    let (root, end) = (m.root(), Instant::now() + Duration::from_secs(3));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                drop_caches();
            }
        });
        for thread in 0..16u64 {
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while Instant::now() < end {
                    let number = random.below(200);
                    assert_eq!(
                        get(root.join(format!("d/f{number}"))),
                        number.to_string().as_bytes()
                    );
                    if random.chance(20) {
                        let name = root.join(format!("d/own{thread}"));
                        put(&name, "x");
                        rename(&name, root.join(format!("d/own{thread}b"))).unwrap();
                        unlink(root.join(format!("d/own{thread}b"))).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(names(m.path("d")).len(), 200);
}

fn opens_and_unlinks(m: &mut Mount) {
    // What is opened can be used, whoever unlinks it in that moment.
    let (root, end) = (m.root(), Instant::now() + Duration::from_secs(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                std::fs::write(root.join("f"), [7; 100]).unwrap();
                let _ = unlink(root.join("f"));
            }
        });
        for _ in 0..8 {
            scope.spawn(|| {
                while Instant::now() < end {
                    match open_rw(root.join("f")) {
                        Ok(file) => {
                            let length = fstat(&file).st_size;
                            assert!(length == 0 || length == 100);
                            assert!(pread(&file, 200, 0).unwrap().iter().all(|byte| *byte == 7));
                            chmod(root.join("f"), 0o600).unwrap_or(());
                            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o640))
                                .unwrap();
                        }
                        Err(errno) => assert_eq!(errno, Errno::NOENT),
                    }
                    let _ = unlink(root.join("f"));
                }
            });
        }
    });
    assert!(names(m.root()).iter().all(|name| name.as_bytes() == b"f"));
}
