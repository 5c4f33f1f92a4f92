//! The workloads: what each one starts, and which rows of the table come out of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fixtures;
use crate::process::{self, Outcome};
use crate::run::{Place, one};
use crate::store::doing;

/// What is measured.
pub struct Workload {
    /// Its name, which is its row's, and what it is.
    row: (&'static str, &'static str),
    /// What comes out of it besides.
    second_row: Option<(&'static str, &'static str)>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Workers that repeat operations on a few files for as long as the budget says.
    Repeated,
    /// Workers that use up files in a fresh directory.
    Consuming,
    Readdir,
    Untar,
    GitClone,
    CBuild,
    Sort,
    Sqlite {
        synchronous: &'static str,
    },
    PythonTemp,
}

const fn workload(kind: Kind, name: &'static str, about: &'static str) -> Workload {
    Workload {
        kind,
        row: (name, about),
        second_row: None,
    }
}

const fn repeated(name: &'static str, about: &'static str) -> Workload {
    workload(Kind::Repeated, name, about)
}

const fn consuming(name: &'static str, about: &'static str) -> Workload {
    workload(Kind::Consuming, name, about)
}

pub const WORKLOADS: &[Workload] = &[
    repeated(
        "seq-read-4k",
        "sequential reads of 4 KiB, file in the page cache",
    ),
    repeated(
        "seq-read-1m",
        "sequential reads of 1 MiB, file in the page cache",
    ),
    repeated(
        "rand-read-4k",
        "random reads of 4 KiB, file in the page cache",
    ),
    repeated(
        "rand-read-1m",
        "random reads of 1 MiB, file in the page cache",
    ),
    repeated(
        "seq-write-4k",
        "sequential overwrites of 4 KiB in the page cache",
    ),
    repeated(
        "seq-write-1m",
        "sequential overwrites of 1 MiB in the page cache",
    ),
    repeated(
        "rand-write-4k",
        "random overwrites of 4 KiB in the page cache",
    ),
    repeated(
        "rand-write-1m",
        "random overwrites of 1 MiB in the page cache",
    ),
    repeated("grow-1m", "new files written in calls of 1 MiB"),
    repeated("append-128", "appends of 128 bytes"),
    consuming("create", "create, write 4 KiB, close"),
    repeated("stat", "stat, attributes not cached (AT_STATX_FORCE_SYNC)"),
    repeated("open-read", "open, read 4 KiB, close"),
    consuming("rename", "rename within a directory"),
    consuming("unlink", "unlink files of 4 KiB"),
    consuming("mkdir", "mkdir"),
    consuming("rmdir", "rmdir"),
    workload(Kind::Readdir, "readdir", "list a directory of 100,000"),
    Workload {
        second_row: Some(("rm-r", "remove that tree with rm -r")),
        ..workload(Kind::Untar, "untar", "untar a tree of 20,000 files")
    },
    workload(
        Kind::GitClone,
        "git-clone",
        "git clone --no-local of 5,000 files",
    ),
    workload(
        Kind::CBuild,
        "c-build",
        "60 compilations with gcc, TMPDIR there",
    ),
    workload(
        Kind::Sort,
        "sort",
        "sort -T of 200 MB with a buffer of 20 MB",
    ),
    workload(
        Kind::Sqlite { synchronous: "OFF" },
        "sqlite",
        "2,000 SQLite transactions, synchronous=OFF",
    ),
    workload(
        Kind::Sqlite {
            synchronous: "FULL",
        },
        "sqlite-sync",
        "2,000 SQLite transactions, each synced",
    ),
    workload(
        Kind::PythonTemp,
        "python-temp",
        "5,000 temporary files of Python's tempfile",
    ),
];

/// How much of everything: all of it, or enough to see that it works.
#[derive(Clone, Copy)]
pub struct Scale {
    pub budget: Duration,
    pub files: usize,
    pub files_of_many: usize,
    pub readdir_entries: usize,
    pub transactions: usize,
    pub temp_files: usize,
    pub fixtures: fixtures::Sizes,
}

impl Scale {
    pub const FULL: Scale = Scale {
        budget: Duration::from_millis(300),
        files: 2000,
        files_of_many: 1000,
        readdir_entries: 100_000,
        transactions: 2000,
        temp_files: 5000,
        fixtures: fixtures::Sizes {
            archive_files: 20_000,
            repository_files: 5000,
            sources: 60,
            sort_bytes: 200_000_000,
        },
    };
    pub const QUICK: Scale = Scale {
        budget: Duration::from_millis(100),
        files: 400,
        files_of_many: 200,
        readdir_entries: 10_000,
        transactions: 200,
        temp_files: 500,
        fixtures: fixtures::Sizes {
            archive_files: 2000,
            repository_files: 500,
            sources: 6,
            sort_bytes: 50_000_000,
        },
    };
}

/// A workload with a number of programs at once: what is mounted, run and reported together.
#[derive(Clone, Copy)]
pub struct Case {
    pub workload: &'static Workload,
    pub programs: usize,
}

impl Case {
    /// All cases, with 1 and `many` programs at once where that makes sense.
    pub fn all(programs: &[usize]) -> Vec<Case> {
        let all = WORKLOADS.iter().flat_map(|workload| {
            programs
                .iter()
                .map(move |&programs| Case { workload, programs })
        });
        all.filter(|case| case.workload.is_worker() || case.programs == 1)
            .collect()
    }

    /// Its rows: the name of each, and what it is.
    pub fn rows(&self) -> Vec<(String, &'static str)> {
        let rows = self.workload.rows();
        rows.map(|(name, about)| match self.programs {
            1 => (name.to_owned(), about),
            programs => (format!("{name}-x{programs}"), about),
        })
        .collect()
    }

    /// The names of its rows, for messages.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.rows().into_iter().map(|(name, _)| name).collect();
        names.join(", ")
    }

    /// Whether `filter` names it: exactly, or, where it names nothing exactly, as a part.
    pub fn select(cases: Vec<Case>, filters: &[String]) -> Outcome<Vec<Case>> {
        if filters.is_empty() {
            return Ok(cases);
        }
        let mut chosen = vec![false; cases.len()];
        for filter in filters {
            let matching = |matches: &dyn Fn(&str) -> bool| -> Vec<usize> {
                let hit = |case: &Case| {
                    case.rows().iter().any(|(row, _)| matches(row))
                        || case.workload.rows().any(|(row, _)| matches(row))
                };
                (0..cases.len())
                    .filter(|&number| hit(&cases[number]))
                    .collect()
            };
            let mut hits = matching(&|row| row == filter);
            if hits.is_empty() {
                hits = matching(&|row| row.contains(filter.as_str()));
            }
            if hits.is_empty() {
                return Err(format!("no workload {filter:?}; --list shows them"));
            }
            hits.into_iter().for_each(|number| chosen[number] = true);
        }
        Ok(cases
            .into_iter()
            .zip(chosen)
            .filter_map(|(case, chosen)| chosen.then_some(case))
            .collect())
    }

    /// The programs that it needs and that are missing here.
    pub fn missing(&self) -> Option<String> {
        let needed: &[&str] = match self.workload.kind {
            Kind::Repeated | Kind::Consuming | Kind::Readdir => &[],
            Kind::Untar => &["tar", "rm"],
            Kind::GitClone => &["git"],
            Kind::CBuild => &["gcc"],
            Kind::Sort => &["sort"],
            Kind::PythonTemp => &["python3"],
            Kind::Sqlite { .. } => {
                let found = ["sqlite3", "python3"]
                    .iter()
                    .any(|name| process::find_program(name).is_some());
                return (!found).then(|| "neither sqlite3 nor python3 is installed".to_owned());
            }
        };
        needed
            .iter()
            .find(|name| process::find_program(name).is_none())
            .map(|name| format!("{name} is not installed"))
    }

    /// Whole programs take seconds: fewer rounds, and a warm-up so that nobody reads them from disk.
    pub fn is_program(&self) -> bool {
        !self.workload.is_worker()
    }

    /// Whether the mount is to be fresh after `set_up`.
    pub fn remounts(&self) -> bool {
        self.workload.kind == Kind::Readdir
    }

    /// What the rows count: nanoseconds for one of these.
    pub fn unit(&self) -> &'static str {
        match self.workload.kind {
            Kind::Repeated | Kind::Consuming => "operation",
            Kind::Readdir => "entry",
            _ => "run",
        }
    }

    /// Prepares `mount` once, before the rounds.
    pub fn set_up(&self, mount: &Path, place: &Place<'_>) -> Outcome<()> {
        if self.workload.kind != Kind::Readdir {
            return Ok(());
        }
        let dir = mount.join("readdir");
        fs::create_dir(&dir).map_err(doing("readdir"))?;
        let entries = place.scale.readdir_entries;
        place.workers("fill", &dir, 0, 1, entries).map(drop)
    }

    /// Runs once in `mount`; nanoseconds for each row.
    pub fn run(&self, mount: &Path, round: usize, place: &Place<'_>) -> Outcome<Vec<f64>> {
        let name = self.workload.row.0;
        let scale = place.scale;
        let fresh = |dir: PathBuf| {
            fs::create_dir(&dir).map_err(doing(format_args!("mkdir {}", dir.display())))?;
            Ok::<_, String>(dir)
        };
        match self.workload.kind {
            Kind::Repeated => {
                let dir = mount.join(name);
                fs::create_dir_all(&dir).map_err(doing("mkdir"))?;
                if matches!(name, "stat" | "open-read") {
                    // Their files are made in each round.
                    let dir = fresh(dir.join(round.to_string()))?;
                    return place.workers(name, &dir, round, self.programs, 0).map(one);
                }
                place.workers(name, &dir, round, self.programs, 0).map(one)
            }
            Kind::Consuming => {
                let count = if self.programs == 1 {
                    scale.files
                } else {
                    scale.files_of_many
                };
                let dir = fresh(mount.join(format!("{name}-{round}")))?;
                place
                    .workers(name, &dir, round, self.programs, count)
                    .map(one)
            }
            Kind::Readdir => {
                let dir = mount.join("readdir");
                place
                    .workers(name, &dir, round, self.programs, scale.readdir_entries)
                    .map(one)
            }
            _ => place.program(
                self.workload.kind,
                &fresh(mount.join(format!("{name}-{round}")))?,
            ),
        }
    }
}

impl Workload {
    fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        std::iter::once(self.row).chain(self.second_row)
    }

    fn is_worker(&self) -> bool {
        matches!(self.kind, Kind::Repeated | Kind::Consuming | Kind::Readdir)
    }
}
