//! What may be done, and choosing it at random.

use crate::common::{ALICE, BOB, Random};
use rustix::fs::{Access, FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};

/// Who carries an operation out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    Root,
    Alice,
    Bob,
}

/// Numbers stand for names and handles, so that both sides mean the same.
#[derive(Clone, Debug)]
pub enum Action {
    Open {
        path: usize,
        flags: OFlags,
        mode: u32,
        handle: usize,
    },
    Close {
        handle: usize,
    },
    Read {
        handle: usize,
        offset: u64,
        length: usize,
    },
    Write {
        handle: usize,
        offset: u64,
        length: usize,
        seed: u64,
    },
    TruncateHandle {
        handle: usize,
        length: u64,
    },
    Truncate {
        path: usize,
        length: u64,
    },
    Allocate {
        handle: usize,
        flags: FallocateFlags,
        offset: u64,
        length: u64,
    },
    Copy {
        from: usize,
        to: usize,
        source: u64,
        target: u64,
        length: usize,
    },
    Sync {
        handle: usize,
    },
    Mkdir {
        path: usize,
        mode: u32,
    },
    Rmdir {
        path: usize,
    },
    Unlink {
        path: usize,
    },
    Rename {
        from: usize,
        to: usize,
        flags: RenameFlags,
    },
    Link {
        from: usize,
        to: usize,
        follow: bool,
    },
    Symlink {
        target: usize,
        path: usize,
    },
    ReadLink {
        path: usize,
    },
    Mknod {
        path: usize,
        kind: FileType,
        mode: u32,
    },
    Chmod {
        path: usize,
        mode: u32,
    },
    ChmodHandle {
        handle: usize,
        mode: u32,
    },
    Chown {
        path: usize,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    SetTimes {
        path: usize,
        access: (i64, i64),
        modification: (i64, i64),
    },
    Stat {
        path: usize,
        follow: bool,
    },
    StatHandle {
        handle: usize,
    },
    May {
        path: usize,
        access: Access,
    },
    List {
        path: usize,
    },
    SetXattr {
        path: usize,
        key: usize,
        length: usize,
        flags: XattrFlags,
    },
    GetXattr {
        path: usize,
        key: usize,
    },
    RemoveXattr {
        path: usize,
        key: usize,
    },
    ListXattrs {
        path: usize,
    },
    ReadWhole {
        path: usize,
    },
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub who: Who,
    pub action: Action,
}

/// How many files a side has open.
pub const HANDLES: usize = 8;

pub const PATHS: [&str; 24] = [
    "a", "b", "c", "d1", "d2", "d3", "d1/a", "d1/b", "d1/d1", "d1/d2", "d2/a", "d2/b", "d2/d1",
    "d3/a", "d1/d1/a", "d1/d2/a", "d2/d1/b", "d1/d1/d1", ".", "a/", "d1/..", "d2/../a", "a/x",
    "d1/.",
];
pub const TARGETS: [&str; 6] = ["a", "../a", "d1", "d1/a", "nowhere", "d2/b"];
pub const KEYS: [&str; 5] = [
    "user.a",
    "user.b",
    "trusted.c",
    "user.long-name-of-an-attribute",
    "nonsense.d",
];

impl Operation {
    pub fn random(random: &mut Random) -> Operation {
        let who = match random.below(10) {
            0..=4 => Who::Root,
            5..=7 => Who::Alice,
            _ => Who::Bob,
        };
        Operation {
            who,
            action: Action::random(random),
        }
    }
}

impl Action {
    fn random(random: &mut Random) -> Action {
        // The first names are the usual ones; the last are there to be refused.
        let path = |random: &mut Random| {
            if random.chance(12) {
                random.below(24) as usize
            } else {
                random.below(18) as usize
            }
        };
        let handle = |random: &mut Random| random.below(HANDLES as u64) as usize;
        let offset = |random: &mut Random| match random.below(4) {
            0 => 0,
            1 => random.below(10_000),
            2 => random.below(40) * 4096,
            _ => random.below(300_000),
        };
        let length = |random: &mut Random| match random.below(3) {
            0 => random.below(100) as usize,
            1 => random.below(10_000) as usize,
            _ => random.below(140_000) as usize,
        };
        // No set-id bits: who writes through a descriptor that another opened is not seen in passthrough (docs/semantics.md).
        let mode = |random: &mut Random| {
            0o1777
                & match random.below(6) {
                    0 => 0o7777 & random.next() as u32,
                    1 => 0o600,
                    2 => 0o755,
                    3 => 0o666,
                    4 => 0o700,
                    _ => 0o777,
                }
        };
        match random.below(40) {
            0..=5 => {
                let base =
                    *random.pick(&[OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR]);
                let mut flags = base | OFlags::NONBLOCK;
                for (flag, one_in) in [
                    (OFlags::CREATE, 2),
                    (OFlags::EXCL, 4),
                    (OFlags::TRUNC, 5),
                    (OFlags::APPEND, 5),
                    (OFlags::NOFOLLOW, 8),
                    (OFlags::DIRECTORY, 12),
                ] {
                    if random.chance(one_in) {
                        flags |= flag;
                    }
                }
                // Linux gives this pair on a missing name different answers in different versions.
                if flags.contains(OFlags::CREATE | OFlags::DIRECTORY) {
                    flags -= OFlags::DIRECTORY;
                }
                // Without O_CREAT, O_EXCL means nothing that is defined.
                if !flags.contains(OFlags::CREATE) {
                    flags -= OFlags::EXCL;
                }
                Action::Open {
                    path: path(random),
                    flags,
                    mode: mode(random),
                    handle: handle(random),
                }
            }
            6 => Action::Close {
                handle: handle(random),
            },
            7..=8 => Action::Read {
                handle: handle(random),
                offset: offset(random),
                length: length(random),
            },
            9..=11 => Action::Write {
                handle: handle(random),
                offset: offset(random),
                length: length(random),
                seed: random.next(),
            },
            12 => Action::TruncateHandle {
                handle: handle(random),
                length: offset(random),
            },
            13 => Action::Truncate {
                path: path(random),
                length: offset(random),
            },
            14 => Action::Allocate {
                handle: handle(random),
                flags: *random.pick(&[
                    FallocateFlags::empty(),
                    FallocateFlags::KEEP_SIZE,
                    FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
                    FallocateFlags::ZERO_RANGE,
                    FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                    FallocateFlags::PUNCH_HOLE,
                ]),
                offset: offset(random),
                length: length(random) as u64,
            },
            15 => Action::Copy {
                from: handle(random),
                to: handle(random),
                source: offset(random),
                target: offset(random),
                length: length(random),
            },
            16 => Action::Sync {
                handle: handle(random),
            },
            17..=18 => Action::Mkdir {
                path: path(random),
                mode: mode(random),
            },
            19 => Action::Rmdir { path: path(random) },
            20..=21 => Action::Unlink { path: path(random) },
            22..=24 => Action::Rename {
                from: path(random),
                to: path(random),
                flags: *random.pick(&[
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    RenameFlags::NOREPLACE,
                    RenameFlags::EXCHANGE,
                    RenameFlags::WHITEOUT,
                ]),
            },
            25..=26 => Action::Link {
                from: path(random),
                to: path(random),
                follow: random.chance(2),
            },
            27 => Action::Symlink {
                target: random.below(6) as usize,
                path: path(random),
            },
            28 => Action::ReadLink { path: path(random) },
            29 => Action::Mknod {
                path: path(random),
                kind: *random.pick(&[FileType::RegularFile, FileType::Fifo, FileType::Socket]),
                mode: mode(random),
            },
            30 => Action::Chmod {
                path: path(random),
                mode: mode(random),
            },
            31 => Action::ChmodHandle {
                handle: handle(random),
                mode: mode(random),
            },
            32 => {
                // Never neither: POSIX doesn't say what that means for set-id files.
                let id = |random: &mut Random| Some(*random.pick(&[0, ALICE.uid, BOB.uid]));
                let (uid, gid) = match random.below(3) {
                    0 => (id(random), None),
                    1 => (None, id(random)),
                    _ => (id(random), id(random)),
                };
                Action::Chown {
                    path: path(random),
                    uid,
                    gid,
                }
            }
            33 => {
                let time = |random: &mut Random| match random.below(4) {
                    0 => (0, rustix::fs::UTIME_OMIT),
                    _ => (
                        random.below(2_000_000_000) as i64,
                        random.below(1_000_000_000) as i64,
                    ),
                };
                Action::SetTimes {
                    path: path(random),
                    access: time(random),
                    modification: time(random),
                }
            }
            34 => Action::Stat {
                path: path(random),
                follow: random.chance(2),
            },
            35 => Action::StatHandle {
                handle: handle(random),
            },
            36 => match random.below(2) {
                0 => Action::May {
                    path: path(random),
                    access: Access::from_bits_retain(random.below(8) as u32),
                },
                _ => Action::List { path: path(random) },
            },
            37 => Action::SetXattr {
                path: path(random),
                key: random.below(5) as usize,
                length: random.below(300) as usize,
                flags: *random.pick(&[
                    XattrFlags::empty(),
                    XattrFlags::CREATE,
                    XattrFlags::REPLACE,
                ]),
            },
            38 => match random.below(3) {
                0 => Action::GetXattr {
                    path: path(random),
                    key: random.below(5) as usize,
                },
                1 => Action::RemoveXattr {
                    path: path(random),
                    key: random.below(5) as usize,
                },
                _ => Action::ListXattrs { path: path(random) },
            },
            _ => Action::ReadWhole { path: path(random) },
        }
    }
}
