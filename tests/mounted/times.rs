//! Times, to the nanosecond.

use crate::common::*;
use rustix::fs::{OFlags, Timestamps, futimens};
use rustix::io::Errno;
use std::os::unix::fs::FileExt as _;

in_default_mode!("":
    times_in_nanoseconds,
    extreme_times,
    omitted_and_current_times,
    who_may_set_times,
    creation_sets_all_times,
    directory_times_follow_their_entries,
    ctime_follows_every_change,
    reading_a_directory_or_link_is_harmless,
);
in_each_io_mode!("": writes_move_mtime_and_ctime, reading_moves_atime, times_set_while_open_stand);

fn times_in_nanoseconds(m: &mut Mount) {
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    symlink("f", m.path("l")).unwrap();
    for name in ["f", "d", "l"] {
        for (access, modification) in [
            ((1, 1), (2, 999_999_999)),
            ((1_700_000_000, 123_456_789), (0, 0)),
        ] {
            let (a, b) = (
                timespec(access.0, access.1),
                timespec(modification.0, modification.1),
            );
            set_times(m.path(name), a, b).unwrap();
            let found = lstat(m.path(name)).unwrap();
            assert_eq!(
                (found.st_atime, found.st_atime_nsec as i64),
                access,
                "{name}"
            );
            assert_eq!(
                (found.st_mtime, found.st_mtime_nsec as i64),
                modification,
                "{name}"
            );
            assert!(
                (now() - ctime(&found)).abs() < 10_000_000_000,
                "ctime is now"
            );
        }
    }
    // They are on the store too, and come back from it.
    set_times(m.path("f"), timespec(5, 7), timespec(6, 8)).unwrap();
    assert_eq!(mtime(&stat(m.back("f")).unwrap()), 6_000_000_008);
    m.remount();
    assert_eq!(mtime(&stat(m.path("f")).unwrap()), 6_000_000_008);
}

fn extreme_times(m: &mut Mount) {
    put(m.path("f"), "x");
    put(m.back("twin"), "x");
    // Before 1970, after 2038, after 2106; what the store can't keep it clamps, and so must the mount.
    for seconds in [
        -1,
        -1_000_000,
        i64::from(i32::MIN),
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
    ] {
        let time = timespec(seconds, 5);
        set_times(m.path("f"), time, time).unwrap();
        set_times(m.back("twin"), time, time).unwrap();
        let (found, twin) = (stat(m.path("f")).unwrap(), stat(m.back("twin")).unwrap());
        assert_eq!(
            (mtime(&found), atime(&found)),
            (mtime(&twin), atime(&twin)),
            "{seconds}"
        );
        drop_caches();
        assert_eq!(
            mtime(&stat(m.path("f")).unwrap()),
            mtime(&twin),
            "{seconds}, from the store"
        );
    }
    fails(
        Errno::INVAL,
        set_times(m.path("f"), timespec(1, 1_000_000_000), timespec(1, 0)),
    );
}

fn omitted_and_current_times(m: &mut Mount) {
    put(m.path("f"), "x");
    set_times(m.path("f"), timespec(10, 1), timespec(20, 2)).unwrap();
    set_times(m.path("f"), OMIT, timespec(30, 3)).unwrap();
    let found = stat(m.path("f")).unwrap();
    assert_eq!(
        (atime(&found), mtime(&found)),
        (10_000_000_001, 30_000_000_003)
    );
    set_times(m.path("f"), timespec(40, 4), OMIT).unwrap();
    let found = stat(m.path("f")).unwrap();
    assert_eq!(
        (atime(&found), mtime(&found)),
        (40_000_000_004, 30_000_000_003)
    );
    wait::tick();
    set_times(m.path("f"), OMIT, OMIT).unwrap();
    let unchanged = stat(m.path("f")).unwrap();
    assert_eq!(
        (atime(&unchanged), mtime(&unchanged), ctime(&unchanged)),
        (atime(&found), mtime(&found), ctime(&found))
    );
    set_times(m.path("f"), NOW, OMIT).unwrap();
    let found = stat(m.path("f")).unwrap();
    assert!((now() - atime(&found)).abs() < 5_000_000_000);
    assert_eq!(mtime(&found), 30_000_000_003);
    set_times(m.path("f"), OMIT, NOW).unwrap();
    assert!((now() - mtime(&stat(m.path("f")).unwrap())).abs() < 5_000_000_000);
    set_times(m.path("f"), NOW, NOW).unwrap();
    let file = open_read(m.path("f")).unwrap();
    futimens(
        &file,
        &Timestamps {
            last_access: timespec(1, 1),
            last_modification: timespec(2, 2),
        },
    )
    .unwrap();
    assert_eq!(mtime(&fstat(&file)), 2_000_000_002);
}

fn who_may_set_times(m: &mut Mount) {
    ALICE.run(|| put(m.path("f"), "x"));
    chmod(m.path("f"), 0o666).unwrap();
    BOB.run(|| {
        // Who may write may set the current time, and only that.
        set_times(m.path("f"), NOW, NOW).unwrap();
        fails(
            Errno::PERM,
            set_times(m.path("f"), timespec(1, 0), timespec(1, 0)),
        );
        fails(Errno::PERM, set_times(m.path("f"), NOW, OMIT));
        fails(Errno::PERM, set_times(m.path("f"), OMIT, NOW));
        set_times(m.path("f"), OMIT, OMIT).unwrap();
    });
    chmod(m.path("f"), 0o644).unwrap();
    BOB.run(|| fails(Errno::ACCESS, set_times(m.path("f"), NOW, NOW)));
    chmod(m.path("f"), 0).unwrap();
    ALICE.run(|| {
        set_times(m.path("f"), timespec(1, 0), timespec(1, 0)).unwrap();
        set_times(m.path("f"), NOW, NOW).unwrap();
    });
}

fn creation_sets_all_times(m: &mut Mount) {
    let before = now() - 10_000_000;
    put(m.path("f"), "");
    mkdir(m.path("d")).unwrap();
    symlink("f", m.path("l")).unwrap();
    let after = now();
    for name in ["f", "d", "l"] {
        let found = lstat(m.path(name)).unwrap();
        for time in [atime(&found), mtime(&found), ctime(&found)] {
            assert!((before..=after).contains(&time), "{name}");
        }
    }
}

fn directory_times_follow_their_entries(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("other"), "x");
    put(m.path("third"), "x");
    let moved = |what: &str, change: &dyn Fn()| {
        let before = stat(m.path("d")).unwrap();
        wait::tick();
        change();
        let after = stat(m.path("d")).unwrap();
        assert!(
            mtime(&after) > mtime(&before) && ctime(&after) > ctime(&before),
            "{what}"
        );
    };
    moved("create", &|| put(m.path("d/f"), "x"));
    moved("mkdir", &|| mkdir(m.path("d/sub")).unwrap());
    moved("link", &|| link(m.path("other"), m.path("d/l")).unwrap());
    moved("rename within", &|| {
        rename(m.path("d/l"), m.path("d/l2")).unwrap()
    });
    moved("rename out", &|| {
        rename(m.path("d/l2"), m.path("l2")).unwrap()
    });
    moved("rename in", &|| {
        rename(m.path("l2"), m.path("d/l2")).unwrap()
    });
    moved("rename over", &|| {
        rename(m.path("third"), m.path("d/l2")).unwrap()
    });
    moved("unlink", &|| unlink(m.path("d/f")).unwrap());
    moved("rmdir", &|| rmdir(m.path("d/sub")).unwrap());
    moved("symlink", &|| symlink("x", m.path("d/s")).unwrap());
    let before = stat(m.path("d")).unwrap();
    wait::tick();
    pwrite(&open_rw(m.path("d/l2")).unwrap(), b"y", 0).unwrap();
    fails(Errno::EXIST, mkdir(m.path("d/s")));
    fails(Errno::NOENT, unlink(m.path("d/missing")));
    let after = stat(m.path("d")).unwrap();
    assert_eq!(
        (mtime(&after), ctime(&after)),
        (mtime(&before), ctime(&before)),
        "nothing else moves them"
    );
}

fn ctime_follows_every_change(m: &mut Mount) {
    put(m.path("f"), "x");
    let moved = |what: &str, change: &dyn Fn()| {
        let before = stat(m.path("f")).unwrap();
        wait::tick();
        change();
        let after = stat(m.path("f")).unwrap();
        assert!(ctime(&after) > ctime(&before), "{what} moves ctime");
        assert_eq!(mtime(&after), mtime(&before), "{what} leaves mtime");
    };
    moved("link", &|| link(m.path("f"), m.path("g")).unwrap());
    moved("unlink of another name", &|| unlink(m.path("g")).unwrap());
    moved("chmod", &|| chmod(m.path("f"), 0o600).unwrap());
    moved("chown", &|| chown(m.path("f"), 1, 1).unwrap());
    moved("setxattr", &|| {
        set_xattr(m.path("f"), "user.x", b"y").unwrap()
    });
    moved("removexattr", &|| {
        remove_xattr(m.path("f"), "user.x").unwrap()
    });
    link(m.path("f"), m.path("g")).unwrap();
    put(m.path("h"), "x");
    moved("another name replaced", &|| {
        rename(m.path("h"), m.path("g")).unwrap()
    });
    let before = stat(m.path("f")).unwrap();
    wait::tick();
    rename(m.path("f"), m.path("i")).unwrap();
    rename(m.path("i"), m.path("f")).unwrap();
    // POSIX leaves it open whether rename moves ctime; if it does, forwards.
    assert!(ctime(&stat(m.path("f")).unwrap()) >= ctime(&before));
    // A file that is open and has no name left.
    let file = open_rw(m.path("f")).unwrap();
    let before = ctime(&fstat(&file));
    wait::tick();
    unlink(m.path("f")).unwrap();
    assert!(ctime(&fstat(&file)) > before);
}

fn reading_a_directory_or_link_is_harmless(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "x");
    symlink("f", m.path("d/l")).unwrap();
    let before = (lstat(m.path("d")).unwrap(), lstat(m.path("d/l")).unwrap());
    wait::tick();
    assert_eq!(names(m.path("d")).len(), 2);
    std::fs::read_link(m.path("d/l")).unwrap();
    let after = (lstat(m.path("d")).unwrap(), lstat(m.path("d/l")).unwrap());
    assert_eq!(
        (mtime(&before.0), ctime(&before.0)),
        (mtime(&after.0), ctime(&after.0))
    );
    assert_eq!(
        (mtime(&before.1), ctime(&before.1)),
        (mtime(&after.1), ctime(&after.1))
    );
}

fn writes_move_mtime_and_ctime(m: &mut Mount) {
    let file = create(m.path("f"));
    let reader = open_read(m.path("f")).unwrap();
    for round in 0..5u64 {
        let before = stat(m.path("f")).unwrap();
        wait::tick();
        match round {
            0 => assert_eq!(pwrite(&file, b"x", 0), Ok(1)),
            1 => assert_eq!(pwrite(&file, b"x", 0), Ok(1)),
            2 => rustix::fs::ftruncate(&file, 100).unwrap(),
            3 => truncate(m.path("f"), 50).unwrap(),
            _ => file.write_all_at(&[1; 10_000], 20_000).unwrap(),
        }
        for after in [stat(m.path("f")).unwrap(), fstat(&reader), fstat(&file)] {
            assert!(mtime(&after) > mtime(&before), "mtime, round {round}");
            assert!(ctime(&after) > ctime(&before), "ctime, round {round}");
        }
    }
    let before = stat(m.path("f")).unwrap();
    wait::tick();
    assert_eq!(pwrite(&file, b"", 0), Ok(0));
    pread(&reader, 100, 0).unwrap();
    drop((file, reader));
    let after = stat(m.path("f")).unwrap();
    assert_eq!(
        (mtime(&after), ctime(&after)),
        (mtime(&before), ctime(&before)),
        "reading and closing change nothing"
    );
}

fn reading_moves_atime(m: &mut Mount) {
    put(m.path("f"), "content");
    // Relatime: the access time moves when it is older than the modification.
    set_times(m.path("f"), timespec(1_000, 0), timespec(2_000, 0)).unwrap();
    // In cached mode a read that the page cache answers is nobody's business: start with cold pages.
    drop_caches();
    let file = open_read(m.path("f")).unwrap();
    assert_eq!(
        atime(&stat(m.path("f")).unwrap()),
        1_000_000_000_000,
        "opening isn't reading"
    );
    assert_eq!(pread(&file, 7, 0).unwrap(), b"content");
    let after = atime(&stat(m.path("f")).unwrap());
    assert!(
        (now() - after).abs() < 10_000_000_000,
        "the access time is now"
    );
    assert_eq!(mtime(&stat(m.path("f")).unwrap()), 2_000_000_000_000);
    // O_NOATIME leaves it.
    set_times(m.path("f"), timespec(1_000, 0), timespec(2_000, 0)).unwrap();
    drop((file, drop_caches()));
    let file = open(m.path("f"), OFlags::RDONLY | OFlags::NOATIME, 0).unwrap();
    assert_eq!(pread(&file, 7, 0).unwrap(), b"content");
    assert_eq!(atime(&stat(m.path("f")).unwrap()), 1_000_000_000_000);
}

fn times_set_while_open_stand(m: &mut Mount) {
    // `tar` and `cp -p`: written, then given a time, then closed.
    let file = create(m.path("f"));
    file.write_all_at(&[1; 100_000], 0).unwrap();
    let times = Timestamps {
        last_access: timespec(1, 2),
        last_modification: timespec(3, 4),
    };
    futimens(&file, &times).unwrap();
    drop(file);
    assert_eq!(mtime(&stat(m.path("f")).unwrap()), 3_000_000_004);
    drop_caches();
    assert_eq!(mtime(&stat(m.path("f")).unwrap()), 3_000_000_004);
    let file = open(m.path("f"), OFlags::WRONLY, 0).unwrap();
    file.write_all_at(&[2; 100], 0).unwrap();
    set_times(m.path("f"), timespec(5, 6), timespec(7, 8)).unwrap();
    drop(file);
    assert_eq!(mtime(&stat(m.path("f")).unwrap()), 7_000_000_008);
}
