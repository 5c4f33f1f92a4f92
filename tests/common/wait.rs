//! Waiting for a condition: bounded polling, the only place where tests sleep.

use std::time::{Duration, Instant, SystemTime};

const PAUSE: Duration = Duration::from_millis(5);

/// Polls until `condition` holds; fails the test when it doesn't within `limit`.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Does `condition` come true within `limit`?
pub fn comes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// Polls for all of `span` and fails the test if `condition` ever holds.
#[track_caller]
pub fn never(span: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        assert!(!condition(), "must not happen: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Returns at the wall-clock time `moment`, or at once if it has passed.
pub fn until(moment: SystemTime) {
    while let Ok(left) = moment.duration_since(SystemTime::now()) {
        std::thread::sleep(left);
    }
}

/// Lets the clock that file times are taken from (it moves once a tick) move on.
pub fn tick() {
    std::thread::sleep(Duration::from_millis(12));
}

/// Runs a program that was just written. Between its fork and its exec, a child that another test starts holds copies
/// of all descriptors, so that for a moment the program can be "busy".
pub fn started<T>(mut start: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        match start() {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < end =>
            {
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}
