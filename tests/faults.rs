//! The backing store fails: the Nth call on it, for every N until the operation no longer makes that many.
//!
//! Each operation is tried on a mount of its own with each of several errors. Whatever the call, nothing half-made
//! shows afterwards, the books agree with a recount, the kernel's counts with ours, the same operation succeeds when it
//! is repeated, and in the end nothing is left: no node, no name, no handle, no descriptor, no private file.

mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use ttlfs::fs::{Change, When};
use ttlfs::inodes::Kind;

use rig::vfs::{CALLER, File, Outcome};
use rig::{Options, Rig};

/// Descriptors are counted for the whole process: one rig at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const ERRORS: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::NOMEM];

/// What a trial holds open.
#[derive(Default)]
struct State {
    files: Vec<File>,
}

type Setup = fn(&Rig) -> State;
type Operation = fn(&Rig, &mut State) -> Outcome<()>;

struct Case {
    rules: &'static [&'static str],
    /// Directories with limits of their own.
    borders: &'static [&'static str],
    setup: Setup,
    operation: Operation,
    /// Whether the operation can be repeated after an error.
    repeats: bool,
    /// Whether it destroys data, which is not there any more even if it fails.
    destroys: bool,
}

const PLAIN: Case = Case {
    rules: &["quota=1M,inodes=100"],
    borders: &[],
    setup: |_| State::default(),
    operation: |_, _| Ok(()),
    repeats: true,
    destroys: false,
};

/// Two subtrees with limits and one without.
const QUOTAS: Case = Case {
    rules: &[
        "quota=4M",
        "rule=/a:quota=1M:inodes=50",
        "rule=/b:quota=1M:inodes=50",
    ],
    borders: &["/a", "/b"],
    ..PLAIN
};

/// `/t` expires within the hour, `/e` is overwritten.
const EXPIRING: Case = Case {
    rules: &[
        "quota=1M",
        "rule=/t:ttl=1h",
        "rule=/e:erase=overwrite:passes=2",
    ],
    borders: &[],
    ..PLAIN
};

const DESTROYING: Case = Case {
    destroys: true,
    ..EXPIRING
};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("proc is mounted")
        .count()
}

/// By path: type, size, links, the content's sum.
type Shape = BTreeMap<String, (Kind, u64, u32, u64)>;

/// What is visible, but for the numbers that differ from mount to mount.
fn shape(rig: &Rig) -> Shape {
    let strip = |(path, seen): (String, rig::books::Seen)| {
        let sum = seen.content.iter().map(|byte| u64::from(*byte)).sum();
        (path, (seen.kind, seen.size, seen.nlink, sum))
    };
    rig.visible().into_iter().map(strip).collect()
}

/// A rig with the case's tree, its names known to the kernel. `cold`: but no descriptors at hand.
fn prepare(case: &Case, cold: bool) -> (Rig, State) {
    let mut options = Options::new(case.rules);
    options.descriptors = if cold { 1 } else { 64 };
    let rig = Rig::new(&options);
    rig.vfs
        .caches
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let state = (case.setup)(&rig);
    if cold {
        for n in 0..16 {
            rig.vfs.mkdir(&format!("/cold{n}")).expect("no limit");
        }
        for n in 0..16 {
            let at = format!("/cold{n}");
            rig.vfs.list(&at, false).expect("it is there");
        }
    }
    (rig, state)
}

fn close(rig: &Rig, state: State) {
    for file in state.files {
        rig.vfs.close(file);
    }
}

fn check(rig: &Rig, case: &Case) {
    rig.check_books(case.borders);
    rig.check_limits();
    rig.check_counts();
}

fn sweep(case: &Case) {
    let _alone = ONE_AT_A_TIME.lock();
    for cold in [false, true] {
        let (rig, mut state) = prepare(case, cold);
        let before = shape(&rig);
        (case.operation)(&rig, &mut state).expect("without a fault it succeeds");
        let after = shape(&rig);
        check(&rig, case);
        close(&rig, state);
        rig.check_empties();
        drop(rig);

        for errno in ERRORS {
            let mut calls = 0;
            while one_fault(case, cold, calls, errno, &before, &after) {
                calls += 1;
                assert!(calls < 500, "an operation has an end");
            }
        }
    }
}

/// Tells whether the fault happened.
fn one_fault(
    case: &Case,
    cold: bool,
    calls: u32,
    errno: Errno,
    before: &Shape,
    after: &Shape,
) -> bool {
    let what = format!("call {calls} fails with {errno:?}, cold: {cold}");
    let descriptors_before = descriptors();
    let (rig, mut state) = prepare(case, cold);
    rig.fs.backing.gate.arm(calls, errno);
    let result = (case.operation)(&rig, &mut state);
    let happened = rig.fs.backing.gate.disarm();
    println!("{what}: {result:?}");
    if result.is_err() {
        assert!(happened, "{what}: an error out of nothing");
        assert_eq!(result, Err(errno), "{what}");
        let (mut now, mut before, mut after) = (shape(&rig), before.clone(), after.clone());
        if case.destroys {
            for shape in [&mut now, &mut before, &mut after] {
                shape.values_mut().for_each(|seen| seen.3 = 0);
            }
        }
        // What failed after all was done may stay done if doing it again is harmless.
        assert!(
            now == before || now == after,
            "{what}: something half-made shows: {now:?}"
        );
        check(&rig, case);
        if case.repeats {
            let again = (case.operation)(&rig, &mut state);
            assert_eq!(again, Ok(()), "{what}: the same again");
            let mut now = shape(&rig);
            if case.destroys {
                now.values_mut().for_each(|seen| seen.3 = 0);
            }
            assert_eq!(now, after, "{what}: after the same again");
            check(&rig, case);
        }
    } else {
        assert_eq!(&shape(&rig), after, "{what}: a fault that does not matter");
        check(&rig, case);
    }
    close(&rig, state);
    rig.kernel.evict_all();
    rig.erased();
    if rig.store.private_names().is_empty() {
        rig.check_empties();
        drop(rig);
    } else {
        // What could not be erased or freed waits for the next mount.
        assert!(happened, "{what}: private state has leftovers");
        check(&rig, case);
        let store = rig.crash();
        let rig = Rig::on(store, &Options::new(case.rules));
        rig.erased();
        assert!(
            rig.store.private_names().is_empty(),
            "{what}: leftovers are left"
        );
        check(&rig, case);
        rig.check_empties();
        drop(rig);
    }
    assert_eq!(
        descriptors(),
        descriptors_before,
        "{what}: descriptors are left"
    );
    happened
}

// ---- What trees are made of ----

const CREATE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;

fn put(rig: &Rig, path: &str, bytes: usize) {
    let file = rig.vfs.open(path, CREATE).expect("it can be made");
    assert_eq!(rig.vfs.write(&file, 0, &vec![7; bytes]), Ok(bytes));
    rig.vfs.close(file);
}

fn dirs(rig: &Rig, paths: &[&str]) {
    for path in paths {
        rig.vfs.mkdir(path).expect("it can be made");
    }
}

fn one_file(rig: &Rig) -> State {
    dirs(rig, &["/d"]);
    put(rig, "/d/f", 5000);
    State::default()
}

fn one_open(rig: &Rig) -> State {
    dirs(rig, &["/d"]);
    put(rig, "/d/f", 5000);
    let file = rig.vfs.open("/d/f", libc::O_RDWR).expect("it is there");
    State { files: vec![file] }
}

fn two_files(rig: &Rig) -> State {
    dirs(rig, &["/d", "/g"]);
    put(rig, "/d/f", 5000);
    put(rig, "/g/f", 9000);
    State::default()
}

fn two_files_one_open(rig: &Rig) -> State {
    two_files(rig);
    let file = rig.vfs.open("/g/f", libc::O_RDWR).expect("it is there");
    State { files: vec![file] }
}

fn quota_files(rig: &Rig) -> State {
    dirs(rig, &["/a", "/b"]);
    put(rig, "/a/f", 5000);
    put(rig, "/b/g", 9000);
    State::default()
}

fn erased_files(rig: &Rig) -> State {
    dirs(rig, &["/e", "/t"]);
    put(rig, "/e/f", 5000);
    put(rig, "/e/g", 9000);
    State::default()
}

/// A file and a directory with a file that have expired, and nothing that holds them.
fn expired(rig: &Rig) -> State {
    dirs(rig, &["/d", "/t", "/t/sub"]);
    put(rig, "/t/f", 5000);
    put(rig, "/t/sub/f", 100);
    put(rig, "/d/f", 700);
    rig.kernel.evict_all();
    for path in ["/", "/d", "/d/f", "/t"] {
        rig.vfs.lookup(path).expect("it is there");
    }
    rig.fs.clock.turn(Duration::from_secs(7200));
    State::default()
}

/// As `expired`, in one directory, which is a rule's own and stays.
fn expired_flat(rig: &Rig) -> State {
    dirs(rig, &["/d", "/t"]);
    put(rig, "/t/f", 5000);
    put(rig, "/t/g", 100);
    put(rig, "/d/f", 700);
    rig.kernel.evict_all();
    for path in ["/", "/d", "/d/f", "/t"] {
        rig.vfs.lookup(path).expect("it is there");
    }
    rig.fs.clock.turn(Duration::from_secs(7200));
    State::default()
}

/// Lets the reaper do its work, and what failed once more, later.
fn reap_all(rig: &Rig) {
    rig.reap();
    rig.fs.clock.turn(Duration::from_secs(600));
    rig.reap();
}

macro_rules! cases {
    ($($name:ident: $base:ident, $setup:expr, $operation:expr;)*) => {
        $(#[test]
        fn $name() {
            sweep(&Case { setup: $setup, operation: $operation, ..$base });
        })*
    };
}

fn nothing(_: &Rig) -> State {
    State::default()
}

fn closing(rig: &Rig, opened: Outcome<File>) -> Outcome<()> {
    opened.map(|file| rig.vfs.close(file))
}

const NO_FLAGS: RenameFlags = RenameFlags::empty();

cases! {
    lookup: PLAIN, one_file, |r, _| {
        r.vfs.caches.store(false, std::sync::atomic::Ordering::Relaxed);
        let found = r.vfs.lookup("/d/f").map(drop);
        r.vfs.caches.store(true, std::sync::atomic::Ordering::Relaxed);
        found
    };
    lookup_after_forget: PLAIN, |r| { let s = one_file(r); r.kernel.evict_all(); s }, |r, _| r.vfs.lookup("/d/f").map(drop);
    stat: PLAIN, one_file, |r, _| r.vfs.stat("/d/f").map(drop);
    stat_open: PLAIN, one_open, |r, s| r.vfs.fstat(&s.files[0]).map(drop);
    list: PLAIN, two_files, |r, _| r.vfs.list("/d", false).map(drop);
    list_plus: PLAIN, two_files, |r, _| {
        let all = r.vfs.list("/d", true)?;
        assert_eq!(all.len(), 1);
        Ok(())
    };
    create: PLAIN, |r| { dirs(r, &["/d"]); State::default() }, |r, _| closing(r, r.vfs.open("/d/f", CREATE));
    create_and_keep: PLAIN, nothing, |r, s| { s.files.push(r.vfs.open("/f", CREATE)?); Ok(()) };
    create_over_expired: EXPIRING, expired_flat, |r, s| { s.files.push(r.vfs.open("/t/f", CREATE)?); Ok(()) };
    make_over_expired: EXPIRING, expired_flat, |r, s| { r.vfs.symlink("x", "/t/f")?; s.files.clear(); Ok(()) };
    make_directory: PLAIN, nothing, |r, _| r.vfs.mkdir("/d").map(drop);
    make_directory_with_limit: QUOTAS, nothing, |r, _| r.vfs.mkdir("/other").map(drop);
    make_pipe: PLAIN, nothing, |r, _| r.vfs.mkfifo("/p").map(drop);
    make_symlink: PLAIN, nothing, |r, _| r.vfs.symlink("there", "/s").map(drop);
    read_symlink: PLAIN, |r| { r.vfs.symlink("there", "/s").unwrap(); State::default() }, |r, _| r.vfs.readlink("/s").map(drop);
    link: PLAIN, two_files, |r, _| r.vfs.link("/d/f", "/g/other");
    unlink: PLAIN, one_file, |r, _| r.vfs.unlink("/d/f");
    unlink_forgotten: PLAIN, |r| { let s = one_file(r); r.kernel.evict_all(); s }, |r, _| r.vfs.unlink("/d/f");
    unlink_open: PLAIN, one_open, |r, _| r.vfs.unlink("/d/f");
    unlink_one_of_two: PLAIN, |r| { let s = two_files(r); r.vfs.link("/d/f", "/g/l").unwrap(); s }, |r, _| r.vfs.unlink("/d/f");
    unlink_erased: EXPIRING, erased_files, |r, _| { let done = r.vfs.unlink("/e/f"); r.erased(); done };
    unlink_expired: EXPIRING, |r| { let s = expired(r); r.reap(); s }, |r, _| r.vfs.unlink("/d/f");
    rmdir: PLAIN, |r| { dirs(r, &["/d", "/d/e"]); State::default() }, |r, _| r.vfs.rmdir("/d/e");
    rmdir_of_expired: EXPIRING, expired_flat, |r, _| r.vfs.rmdir("/t");
    rename: PLAIN, two_files, |r, _| r.vfs.rename("/d/f", "/g/new", NO_FLAGS);
    rename_directory: PLAIN, two_files, |r, _| r.vfs.rename("/d", "/g/d", NO_FLAGS);
    rename_over: PLAIN, two_files, |r, _| r.vfs.rename("/d/f", "/g/f", NO_FLAGS);
    rename_over_open: PLAIN, two_files_one_open, |r, _| r.vfs.rename("/d/f", "/g/f", NO_FLAGS);
    rename_over_directory: PLAIN, |r| { dirs(r, &["/d", "/g"]); put(r, "/d/f", 10); State::default() }, |r, _| r.vfs.rename("/d", "/g", NO_FLAGS);
    rename_over_erased: EXPIRING, erased_files, |r, _| { let done = r.vfs.rename("/e/f", "/e/g", NO_FLAGS); r.erased(); done };
    rename_over_expired_directory: EXPIRING, |r| { let s = expired_flat(r); dirs(r, &["/n"]); s }, |r, _| r.vfs.rename("/n", "/t", NO_FLAGS);
    rename_over_expired: EXPIRING, expired_flat, |r, _| r.vfs.rename("/d/f", "/t/f", NO_FLAGS);
    rename_noreplace: PLAIN, two_files, |r, _| r.vfs.rename("/d/f", "/g/new", RenameFlags::NOREPLACE);
    rename_whiteout: PLAIN, two_files, |r, _| r.vfs.rename("/d/f", "/g/new", RenameFlags::WHITEOUT);
    exchange: PLAIN, two_files, |r, _| r.vfs.rename("/d/f", "/g/f", RenameFlags::EXCHANGE);
    rename_across: QUOTAS, quota_files, |r, _| r.vfs.rename("/a/f", "/b/f", NO_FLAGS);
    rename_over_across: QUOTAS, quota_files, |r, _| r.vfs.rename("/a/f", "/b/g", NO_FLAGS);
    rename_over_when_full: QUOTAS, |r| { dirs(r, &["/a", "/b"]); put(r, "/a/f", 5000); put(r, "/b/g", 1 << 20); State::default() }, |r, _| r.vfs.rename("/a/f", "/b/g", NO_FLAGS);
    rename_whiteout_across: QUOTAS, quota_files, |r, _| r.vfs.rename("/a/f", "/b/f", RenameFlags::WHITEOUT);
    exchange_across: QUOTAS, quota_files, |r, _| r.vfs.rename("/a/f", "/b/g", RenameFlags::EXCHANGE);
    open: PLAIN, one_file, |r, _| closing(r, r.vfs.open("/d/f", libc::O_RDONLY));
    open_and_keep: PLAIN, one_file, |r, s| { s.files.push(r.vfs.open("/d/f", libc::O_RDWR)?); Ok(()) };
    open_truncating: PLAIN, one_file, |r, _| closing(r, r.vfs.open("/d/f", libc::O_RDWR | libc::O_TRUNC));
    open_truncating_erased: DESTROYING, erased_files, |r, _| closing(r, r.vfs.open("/e/f", libc::O_RDWR | libc::O_TRUNC));
    open_directory: PLAIN, one_file, |r, s| { s.files.push(r.vfs.opendir("/d")?); Ok(()) };
    read: PLAIN, one_open, |r, s| r.vfs.read(&s.files[0], 0, 10_000).map(drop);
    write: PLAIN, one_open, |r, s| r.vfs.write(&s.files[0], 3000, &[1; 9000]).map(drop);
    write_at_limit: PLAIN, one_open, |r, s| { let n = r.vfs.write(&s.files[0], 0, &vec![1; 1 << 20])?; assert_eq!(n, 1 << 20); Ok(()) };
    copy: PLAIN, |r| { let mut s = one_open(r); s.files.push(r.vfs.open("/d/new", CREATE).unwrap()); s }, |r, s| {
        assert_eq!(r.vfs.copy(&s.files[0], 0, &s.files[1], 100, 5000)?, 5000);
        Ok(())
    };
    reserve: PLAIN, one_open, |r, s| r.vfs.fallocate(&s.files[0], 0, 0, 20_000);
    reserve_beyond: PLAIN, one_open, |r, s| r.vfs.fallocate(&s.files[0], libc::FALLOC_FL_KEEP_SIZE as u32, 0, 50_000);
    punch: PLAIN, one_open, |r, s| r.vfs.fallocate(&s.files[0], (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32, 0, 4096);
    truncate_reserved: PLAIN, |r| { let s = one_open(r); r.vfs.fallocate(&s.files[0], libc::FALLOC_FL_KEEP_SIZE as u32, 0, 50_000).unwrap(); s }, |r, s| r.vfs.fsetattr(&s.files[0], Change { size: Some(100), ..Change::default() });
    change_mode: PLAIN, one_file, |r, _| r.vfs.setattr("/d/f", Change { mode: Some(0o600), ..Change::default() });
    change_owner: PLAIN, one_file, |r, _| r.vfs.setattr("/d/f", Change { uid: Some(5), ..Change::default() });
    change_times: PLAIN, one_file, |r, _| r.vfs.setattr("/d/f", Change { mtime: Some(When::At(5, 5)), ..Change::default() });
    grow: PLAIN, one_file, |r, _| r.vfs.setattr("/d/f", Change { size: Some(50_000), ..Change::default() });
    shrink: PLAIN, one_file, |r, _| r.vfs.setattr("/d/f", Change { size: Some(50), ..Change::default() });
    space: PLAIN, one_file, |r, _| r.vfs.statfs("/d").map(drop);
    set_attribute: PLAIN, one_file, |r, _| { let n = r.vfs.lookup("/d/f")?; r.fs.setxattr(n.ino(), c"user.x", b"value", 0, CALLER).map_err(|e| e.errno()) };
    get_attribute: PLAIN, |r| { let s = one_file(r); let n = r.vfs.lookup("/d/f").unwrap(); r.fs.setxattr(n.ino(), c"user.x", b"value", 0, CALLER).unwrap(); s }, |r, _| { let n = r.vfs.lookup("/d/f")?; r.fs.getxattr(n.ino(), c"user.x").map(drop).map_err(|e| e.errno()) };
    list_attributes: PLAIN, one_file, |r, _| { let n = r.vfs.lookup("/d/f")?; r.fs.listxattr(n.ino(), CALLER).map(drop).map_err(|e| e.errno()) };
    sync: PLAIN, one_open, |r, s| r.fs.sync(s.files[0].handle, false).map_err(|e| e.errno());
}

#[test]
fn shrink_erased() {
    sweep(&Case {
        setup: erased_files,
        operation: |r, _| {
            r.vfs.setattr(
                "/e/f",
                Change {
                    size: Some(50),
                    ..Change::default()
                },
            )
        },
        ..DESTROYING
    });
}

/// Closing and forgetting cannot fail: what could not be done then is done later.
#[test]
fn close_and_forget() {
    sweep(&Case {
        setup: |r| {
            let s = one_open(r);
            r.vfs.unlink("/d/f").expect("it is there");
            s
        },
        operation: |r, s| {
            close(r, std::mem::take(s));
            r.kernel.evict_all();
            Ok(())
        },
        repeats: false,
        ..PLAIN
    });
}

/// The reaper cannot remove something: it is hidden all the same, and removed later.
#[test]
fn reap() {
    sweep(&Case {
        setup: expired,
        operation: |r, _| {
            reap_all(r);
            Ok(())
        },
        ..EXPIRING
    });
}
