//! Locks of all three kinds, across processes, waiting and interrupted.

use crate::common::helper::{Helper, Task};
use crate::common::sys::{
    Lock, ofd_lock, ofd_lock_wait, posix_lock, posix_lock_holder, posix_lock_wait,
};
use crate::common::*;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::time::{Duration, Instant};

in_each_io_mode!("": posix_locks_between_processes, ofd_locks, flocks, waiting_locks_can_be_interrupted);
in_default_mode!("":
    posix_locks_of_ranges,
    posix_locks_end_with_any_close,
    flock_is_shared_by_duplicates,
    waiting_flock_is_woken,
    waiting_ofd_lock_is_woken,
    lock_of_a_killed_process_is_freed,
    deadlocks_are_found,
    locks_follow_the_file_not_the_name,
);

const WHILE_WAITING: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(10);

fn try_lock_elsewhere(m: &Mount, name: &str) -> String {
    let mut other = Helper::start(Task::TryLock, &m.path(name));
    let answer = other.says();
    other.finish();
    answer
}

fn posix_locks_between_processes(m: &mut Mount) {
    put(m.path("f"), [0; 100]);
    let file = open_rw(m.path("f")).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "free");
    posix_lock(&file, Lock::Write, 0, 10).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "taken");
    posix_lock(&file, Lock::Unlock, 0, 10).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "free");
    // The other way round, with the holder's number.
    let mut other = Helper::start(Task::Lock, &m.path("f"));
    assert_eq!(other.says(), "ready");
    fails_with_any(
        &[Errno::AGAIN, Errno::ACCESS],
        posix_lock(&file, Lock::Write, 5, 1),
    );
    let holder = posix_lock_holder(&file, Lock::Read, 0, 0).unwrap();
    assert_eq!(holder, Some((Lock::Write, 0, 10, other.pid())));
    posix_lock(&file, Lock::Write, 10, 5).unwrap();
    other.finish();
    posix_lock(&file, Lock::Write, 5, 1).unwrap();
}

fn posix_locks_of_ranges(m: &mut Mount) {
    put(m.path("f"), [0; 100]);
    let file = open_rw(m.path("f")).unwrap();
    // Within a process they never conflict, and are split and joined.
    posix_lock(&file, Lock::Write, 0, 100).unwrap();
    posix_lock(&file, Lock::Unlock, 0, 10).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "free");
    posix_lock(&file, Lock::Write, 9, 1).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "taken");
    posix_lock(&file, Lock::Read, 9, 1).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "taken");
    fails(
        Errno::BADF,
        posix_lock(open_read(m.path("f")).unwrap(), Lock::Write, 0, 1),
    );
}

fn posix_locks_end_with_any_close(m: &mut Mount) {
    put(m.path("f"), "x");
    let file = open_rw(m.path("f")).unwrap();
    posix_lock(&file, Lock::Write, 0, 10).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "taken");
    drop(open_read(m.path("f")).unwrap());
    assert_eq!(try_lock_elsewhere(m, "f"), "free", "POSIX wants it so");
}

fn ofd_locks(m: &mut Mount) {
    put(m.path("f"), "x");
    let (one, two) = (open_rw(m.path("f")).unwrap(), open_rw(m.path("f")).unwrap());
    ofd_lock(&one, Lock::Write, 0, 10).unwrap();
    fails_with_any(
        &[Errno::AGAIN, Errno::ACCESS],
        ofd_lock(&two, Lock::Write, 9, 1),
    );
    ofd_lock(&two, Lock::Write, 10, 1).unwrap();
    assert_eq!(try_lock_elsewhere(m, "f"), "taken");
    // They end with the last copy of the descriptor, not with another one.
    drop(open_read(m.path("f")).unwrap());
    assert_eq!(try_lock_elsewhere(m, "f"), "taken");
    let copy = one.try_clone().unwrap();
    drop(one);
    fails_with_any(
        &[Errno::AGAIN, Errno::ACCESS],
        ofd_lock(&two, Lock::Read, 0, 1),
    );
    drop(copy);
    eventually(SOON, "the lock ended with the last copy", || {
        ofd_lock(&two, Lock::Write, 0, 10).is_ok()
    });
}

fn flocks(m: &mut Mount) {
    put(m.path("f"), "x");
    let (one, two) = (
        open_read(m.path("f")).unwrap(),
        open_rw(m.path("f")).unwrap(),
    );
    flock(&one, FlockOperation::NonBlockingLockShared).unwrap();
    flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    fails(
        Errno::AGAIN,
        flock(&one, FlockOperation::NonBlockingLockExclusive),
    );
    flock(&two, FlockOperation::Unlock).unwrap();
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    fails(
        Errno::AGAIN,
        flock(&two, FlockOperation::NonBlockingLockShared),
    );
    // flock and POSIX locks know nothing of each other.
    posix_lock(&two, Lock::Write, 0, 0).unwrap();
    if process::installed("flock") {
        let path = m.path("f").display().to_string();
        let held = std::process::Command::new("flock")
            .args(["-n", &path, "true"])
            .status()
            .unwrap();
        assert_eq!(held.code(), Some(1));
    }
    drop(one);
    eventually(SOON, "closing unlocks", || {
        flock(&two, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    // Directories can be locked too.
    let (one, two) = (open_read(m.root()).unwrap(), open_read(m.root()).unwrap());
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    fails(
        Errno::AGAIN,
        flock(&two, FlockOperation::NonBlockingLockExclusive),
    );
}

fn flock_is_shared_by_duplicates(m: &mut Mount) {
    put(m.path("f"), "x");
    let one = open_rw(m.path("f")).unwrap();
    let copy = one.try_clone().unwrap();
    let other = open_rw(m.path("f")).unwrap();
    flock(&one, FlockOperation::LockExclusive).unwrap();
    flock(&copy, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(one);
    fails(
        Errno::AGAIN,
        flock(&other, FlockOperation::NonBlockingLockShared),
    );
    flock(&copy, FlockOperation::Unlock).unwrap();
    flock(&other, FlockOperation::NonBlockingLockShared).unwrap();
}

/// `wait` must not return before `free` was called, and must soon after.
fn woken(wait: impl FnOnce() + Send, free: impl FnOnce()) {
    std::thread::scope(|scope| {
        let waiter = scope.spawn(wait);
        never(WHILE_WAITING, "the waiter got the lock", || {
            waiter.is_finished()
        });
        free();
        eventually(SOON, "the waiter got the lock", || waiter.is_finished());
        waiter.join().unwrap();
    });
}

fn waiting_flock_is_woken(m: &mut Mount) {
    put(m.path("f"), "x");
    let (one, two) = (open_rw(m.path("f")).unwrap(), open_rw(m.path("f")).unwrap());
    flock(&one, FlockOperation::LockExclusive).unwrap();
    woken(
        || flock(&two, FlockOperation::LockExclusive).unwrap(),
        || flock(&one, FlockOperation::Unlock).unwrap(),
    );
}

fn waiting_ofd_lock_is_woken(m: &mut Mount) {
    put(m.path("f"), "x");
    let (one, two) = (open_rw(m.path("f")).unwrap(), open_rw(m.path("f")).unwrap());
    ofd_lock(&one, Lock::Write, 0, 10).unwrap();
    woken(
        || ofd_lock_wait(&two, Lock::Write, 0, 1).unwrap(),
        || ofd_lock(&one, Lock::Unlock, 0, 10).unwrap(),
    );
    drop(one);
    // While somebody waits, the mount serves everybody else.
    let three = open_rw(m.path("f")).unwrap();
    woken(
        || ofd_lock_wait(&three, Lock::Write, 0, 1).unwrap(),
        || {
            put(m.path("g"), "x");
            assert_eq!(get(m.path("f")), b"x");
            drop(two);
        },
    );
}

fn waiting_locks_can_be_interrupted(m: &mut Mount) {
    put(m.path("f"), "x");
    let file = open_rw(m.path("f")).unwrap();
    posix_lock(&file, Lock::Write, 0, 10).unwrap();
    let mut waiters: Vec<Helper> = (0..3)
        .map(|_| Helper::start(Task::LockWait, &m.path("f")))
        .collect();
    for waiter in &mut waiters {
        assert_eq!(waiter.says(), "waiting");
    }
    // A killed waiter is gone at once, not when it would get the lock.
    let last = waiters.pop().unwrap();
    for waiter in waiters {
        let start = Instant::now();
        waiter.kill();
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "no signal ended it for {:?}",
            start.elapsed()
        );
    }
    // The rest get their turn.
    posix_lock(&file, Lock::Unlock, 0, 10).unwrap();
    let mut last = last;
    assert_eq!(last.says(), "ready");
    fails_with_any(
        &[Errno::AGAIN, Errno::ACCESS],
        posix_lock(&file, Lock::Write, 0, 10),
    );
    last.finish();
    posix_lock_wait(&file, Lock::Write, 0, 10).unwrap();
}

fn lock_of_a_killed_process_is_freed(m: &mut Mount) {
    put(m.path("f"), "x");
    let file = open_rw(m.path("f")).unwrap();
    for _ in 0..3 {
        let mut other = Helper::start(Task::Lock, &m.path("f"));
        assert_eq!(other.says(), "ready");
        fails_with_any(
            &[Errno::AGAIN, Errno::ACCESS],
            posix_lock(&file, Lock::Write, 0, 10),
        );
        other.kill();
        eventually(SOON, "the lock is free", || {
            posix_lock(&file, Lock::Write, 0, 10).is_ok()
        });
        posix_lock(&file, Lock::Unlock, 0, 10).unwrap();
    }
}

fn deadlocks_are_found(m: &mut Mount) {
    put(m.path("a"), "x");
    put(m.path("b"), "x");
    let (a, b) = (open_rw(m.path("a")).unwrap(), open_rw(m.path("b")).unwrap());
    // The helper holds b and waits for a, which is held here: waiting for b would never end.
    posix_lock(&a, Lock::Write, 0, 10).unwrap();
    let mut other = Helper::start_on(Task::LockThenWait, &m.path("b"), &m.path("a"));
    assert_eq!(other.says(), "waiting");
    let blocked = || {
        std::fs::read_to_string("/proc/locks")
            .unwrap_or_default()
            .lines()
            .any(|line| {
                line.contains("->")
                    && line
                        .split_whitespace()
                        .any(|word| word == other_pid(&other))
            })
    };
    eventually(SOON, "the other one waits", blocked);
    fails(Errno::DEADLK, posix_lock_wait(&b, Lock::Write, 0, 10));
    posix_lock(&a, Lock::Unlock, 0, 10).unwrap();
    assert_eq!(other.says(), "ready");
    other.finish();
}

fn other_pid(helper: &Helper) -> String {
    helper.pid().to_string()
}

fn locks_follow_the_file_not_the_name(m: &mut Mount) {
    put(m.path("f"), "x");
    link(m.path("f"), m.path("g")).unwrap();
    let one = open_rw(m.path("f")).unwrap();
    ofd_lock(&one, Lock::Write, 0, 10).unwrap();
    flock(&one, FlockOperation::LockExclusive).unwrap();
    let two = open_rw(m.path("g")).unwrap();
    fails_with_any(
        &[Errno::AGAIN, Errno::ACCESS],
        ofd_lock(&two, Lock::Write, 0, 10),
    );
    rename(m.path("f"), m.path("h")).unwrap();
    put(m.path("f"), "x");
    drop_caches();
    assert_eq!(try_lock_elsewhere(m, "h"), "taken");
    assert_eq!(try_lock_elsewhere(m, "g"), "taken");
    assert_eq!(try_lock_elsewhere(m, "f"), "free");
    fails(
        Errno::AGAIN,
        flock(&two, FlockOperation::NonBlockingLockExclusive),
    );
}
