//! Running one test in each I/O mode and on each backing store, each as a test of its own.

use super::{Mount, StoreKind, is_native, skip};

/// How file contents travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// What ttlfs chooses by itself.
    Default,
    Passthrough,
    Direct,
    Cached,
}

impl Io {
    pub fn option(self) -> &'static str {
        match self {
            Io::Default => "",
            Io::Passthrough => "io=passthrough",
            Io::Direct => "io=direct",
            Io::Cached => "io=cached",
        }
    }
}

/// Where a test runs.
#[derive(Clone, Copy, Debug)]
struct Case {
    io: Io,
    store: StoreKind,
}

/// Runs a test in an I/O mode on the default store.
pub fn run(io: Io, options: &str, test: fn(&mut Mount)) {
    run_case(
        Case {
            io,
            store: StoreKind::default_kind(),
        },
        options,
        test,
    );
}

/// Runs a test on a store in the default I/O mode.
pub fn run_on(store: StoreKind, options: &str, test: fn(&mut Mount)) {
    run_case(
        Case {
            io: Io::Default,
            store,
        },
        options,
        test,
    );
}

fn run_case(case: Case, options: &str, test: fn(&mut Mount)) {
    if !case.store.is_available() {
        return skip(&format!("no tools for {} here", case.store.name()));
    }
    if is_native() {
        // Options with a value are ttlfs's own; without one they are about POSIX, as `acl` is.
        if options.contains('=') {
            return skip("a feature of ttlfs");
        }
        if matches!(case.io, Io::Direct | Io::Cached) {
            return skip("there is only one way of I/O natively");
        }
    }
    let mut mount = Mount::new(case.store.shared(), case.io, options);
    test(&mut mount);
    mount.assert_alive();
}

/// Each test once in each I/O mode, on the default store: `in_each_io_mode!("OPTIONS": test, test)`.
macro_rules! in_each_io_mode {
    ($options:literal: $($test:ident),+ $(,)?) => { $(
        mod $test {
            use crate::common::{Io, run};
            #[test]
            fn passthrough() {
                run(Io::Passthrough, $options, super::$test);
            }
            #[test]
            fn direct() {
                run(Io::Direct, $options, super::$test);
            }
            #[test]
            fn cached() {
                run(Io::Cached, $options, super::$test);
            }
        } )+
    };
}

/// Each test once, in the default I/O mode on the default store.
macro_rules! in_default_mode {
    ($options:literal: $($test:ident),+ $(,)?) => { $(
        mod $test {
            use crate::common::{Io, run};
            #[test]
            fn default() {
                run(Io::Default, $options, super::$test);
            }
        } )+
    };
}

/// Each test once on each kind of backing store, in the default I/O mode.
macro_rules! on_each_store {
    ($options:literal: $($test:ident),+ $(,)?) => { $(
        mod $test {
            use crate::common::{StoreKind, run_on};
            #[test]
            fn tmpfs() {
                run_on(StoreKind::Tmpfs, $options, super::$test);
            }
            #[test]
            fn ext4() {
                run_on(StoreKind::Ext4, $options, super::$test);
            }
            #[test]
            fn xfs() {
                run_on(StoreKind::Xfs, $options, super::$test);
            }
            #[test]
            fn btrfs() {
                run_on(StoreKind::Btrfs, $options, super::$test);
            }
        } )+
    };
}
