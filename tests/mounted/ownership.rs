//! A new name belongs to its maker from the first instant that anybody can see it.

use crate::common::*;
use rustix::fs::{AtFlags, FileType, OFlags, statat};
use rustix::io::Errno;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

in_default_mode!("": watcher_never_sees_a_foreign_owner, every_kind_of_creation, listing_never_shows_foreign_owners);

/// Makes names as a user while two watchers look, one through the mount and one at the backing directory.
fn watch(m: &Mount, rounds: u64, make: impl Fn(&Path) + Sync, unmake: impl Fn(&Path) + Sync) {
    open_directory(m.path("d"));
    let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let expected = (ALICE.uid, ALICE.gid);
    std::thread::scope(|scope| {
        for directory in [m.path("d"), m.back("d")] {
            let (stop, seen) = (&stop, &seen);
            scope.spawn(move || {
                let directory = open(directory, OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    match statat(&directory, "new", AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => {
                            seen.fetch_add(1, Ordering::Relaxed);
                            if (stat.st_uid, stat.st_gid) != expected {
                                stop.store(true, Ordering::Relaxed);
                                panic!("seen with owner {}:{}", stat.st_uid, stat.st_gid);
                            }
                        }
                        Err(errno) => assert_eq!(errno, Errno::NOENT),
                    }
                }
            });
        }
        ALICE.run(|| {
            let path = m.path("d/new");
            let mut round = 0;
            // Go on until the watchers saw enough, within reason.
            while round < rounds || (seen.load(Ordering::Relaxed) < 100 && round < 100 * rounds) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                make(&path);
                unmake(&path);
                round += 1;
            }
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        seen.load(Ordering::Relaxed) > 0,
        "the watchers never saw anything"
    );
}

fn watcher_never_sees_a_foreign_owner(m: &mut Mount) {
    watch(
        m,
        1500,
        |path| drop(try_create(path).unwrap()),
        |path| unlink(path).unwrap(),
    );
}

fn every_kind_of_creation(m: &mut Mount) {
    type Change = fn(&Path);
    let kinds: [(Change, Change); 4] = [
        (|path| mkdir(path).unwrap(), |path| rmdir(path).unwrap()),
        (
            |path| symlink("target", path).unwrap(),
            |path| unlink(path).unwrap(),
        ),
        (
            |path| mknod(path, FileType::Fifo, 0o600, 0).unwrap(),
            |path| unlink(path).unwrap(),
        ),
        (
            |path| mknod(path, FileType::RegularFile, 0o600, 0).unwrap(),
            |path| unlink(path).unwrap(),
        ),
    ];
    for (make, unmake) in kinds {
        watch(m, 300, make, unmake);
        rmdir(m.path("d")).unwrap();
    }
}

fn listing_never_shows_foreign_owners(m: &mut Mount) {
    open_directory(m.path("d"));
    let (stop, directory) = (AtomicBool::new(false), m.path("d"));
    std::thread::scope(|scope| {
        for user in [ALICE, BOB] {
            let (stop, directory) = (&stop, &directory);
            scope.spawn(move || {
                user.become_them();
                for round in 0..400 {
                    let path = directory.join(format!("{}.{}", user.uid, round % 7));
                    drop(open(&path, OFlags::CREATE | OFlags::RDWR, 0o600).unwrap());
                    unlink(&path).unwrap();
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
        while !stop.load(Ordering::Relaxed) {
            for entry in std::fs::read_dir(&directory).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let expected: u32 = name.split('.').next().unwrap().parse().unwrap();
                match lstat(directory.join(&name)) {
                    Ok(stat) => assert_eq!(
                        (stat.st_uid, stat.st_mode & 0o7777),
                        (expected, 0o600),
                        "{name}"
                    ),
                    Err(errno) => assert_eq!(errno, Errno::NOENT),
                }
            }
        }
    });
}
