//! What the tests of a real mount stand on: backing stores, mounts, other users, and waiting.
//!
//! Everything a test process makes lies under one scratch directory, and a janitor process clears that
//! directory when the test process ends, in whatever way. Nothing here knows how ttlfs works inside: it is
//! driven through its command line only.
//!
//! Environment: `TTLFS_TEST_TARGET=native` runs the tests on the backing directory itself (tests of ttlfs's own
//! features are skipped), `TTLFS_TEST_STORE` chooses the default backing store, `TTLFS_TEST_DIR` where loop
//! images lie, `TTLFS_BIN` the program under test.

#![allow(dead_code)]

pub mod files;
pub mod helper;
#[macro_use]
pub mod matrix;
pub mod mount;
pub mod outcome;
pub mod process;
pub mod scratch;
pub mod store;
pub mod sys;
pub mod timestamp;
pub mod user;
pub mod wait;

pub use files::*;
pub use matrix::{Io, run, run_on};
pub use mount::Mount;
pub use outcome::{Outcome, fails, fails_with_any};
pub use store::{Store, StoreKind};
pub use user::{ALICE, BOB, CAROL, ROOT, User};
pub use wait::{eventually, never};

/// Are the tests run on the backing directory itself, to check the tests?
pub fn is_native() -> bool {
    std::env::var_os("TTLFS_TEST_TARGET").is_some_and(|target| target == "native")
}

/// Says why a test did nothing.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}
