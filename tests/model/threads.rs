//! Several programs at once on the same names, while the kernel forgets and the reaper comes: what each call returns is
//! not foretold, but limits hold at every moment, and whenever all is quiet books, counts and names agree.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::RenameFlags;
use rustix::io::Errno;
use ttlfs::fs::{Change, When};
use ttlfs::handles::IoMode;

use super::rig::random::Random;
use super::rig::vfs::File;
use super::rig::{Options, Rig};
use super::rules::Rules;

const THREADS: u64 = 4;

/// What a call may fail with here; anything else is a bug.
const EXPECTED: &[Errno] = &[
    Errno::NOENT,
    Errno::EXIST,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::NOTEMPTY,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::XDEV,
    Errno::FBIG,
    Errno::PERM,
    Errno::NXIO,
    Errno::INVAL,
    Errno::OPNOTSUPP,
];

fn path(random: &mut Random) -> String {
    let mut path = String::new();
    for depth in 0..3 {
        let names: &[&str] = if depth == 0 {
            &["a", "b", "t", "e", "f"]
        } else {
            &["a", "b", "f", "g"]
        };
        path.push('/');
        path.push_str(random.pick::<&str>(names));
        if random.once_in(2) {
            break;
        }
    }
    path
}

struct Program<'r> {
    rig: &'r Rig,
    random: Random,
    open: Vec<File>,
}

impl Program<'_> {
    fn allow<T>(&self, what: &str, path: &str, outcome: Result<T, Errno>) -> Option<T> {
        match outcome {
            Ok(done) => Some(done),
            Err(error) if EXPECTED.contains(&error) => None,
            Err(error) => panic!("{what} {path}: {error:?}"),
        }
    }

    fn step(&mut self) {
        let path = path(&mut self.random);
        let vfs = &self.rig.vfs;
        match self.random.below(16) {
            0 | 1 => {
                let flags = *self.random.pick(&[
                    libc::O_CREAT | libc::O_RDWR,
                    libc::O_CREAT | libc::O_EXCL | libc::O_RDWR,
                    libc::O_RDWR | libc::O_TRUNC,
                ]);
                let opened = self.allow("open", &path, vfs.open(&path, flags));
                if self.open.len() < 6 {
                    self.open.extend(opened);
                } else if let Some(file) = opened {
                    vfs.close(file);
                }
            }
            2 => drop(self.allow("mkdir", &path, vfs.mkdir(&path))),
            3 => drop(self.allow("mkfifo", &path, vfs.mkfifo(&path))),
            4 => drop(self.allow("unlink", &path, vfs.unlink(&path))),
            5 => drop(self.allow("rmdir", &path, vfs.rmdir(&path))),
            6 => {
                let to = self::path(&mut self.random);
                self.allow("link", &path, vfs.link(&path, &to));
            }
            7 | 8 => {
                let to = self::path(&mut self.random);
                let flags = *self.random.pick(&[
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    RenameFlags::NOREPLACE,
                    RenameFlags::EXCHANGE,
                    RenameFlags::WHITEOUT,
                ]);
                self.allow("rename", &path, vfs.rename(&path, &to, flags));
            }
            9 | 10 => self.write(),
            11 => {
                let size = self.random.below(60_000);
                let change = Change {
                    size: Some(size),
                    ..Change::default()
                };
                if let Some(file) = self.open.first() {
                    self.allow("truncate", "", vfs.fsetattr(file, change));
                }
                self.allow("truncate", &path, vfs.setattr(&path, change));
            }
            12 => {
                if !self.open.is_empty() {
                    let at = self.random.below(self.open.len() as u64) as usize;
                    let file = self.open.swap_remove(at);
                    vfs.close(file);
                }
            }
            13 => {
                let plus = self.random.once_in(2);
                self.allow("list", &path, vfs.list(&path, plus));
            }
            14 => {
                if self.random.once_in(3) {
                    self.rig.kernel.evict_all();
                } else {
                    let change = Change {
                        mtime: Some(When::Now),
                        ..Change::default()
                    };
                    self.allow("touch", &path, vfs.setattr(&path, change));
                }
            }
            _ => drop(self.allow("stat", &path, vfs.stat(&path))),
        }
    }

    fn write(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.random.below(self.open.len() as u64) as usize;
        let offset = self.random.below(30_000);
        let len = 1 + self.random.below(40_000);
        let byte = self.random.below(256) as u8;
        let data = vec![byte; len as usize];
        let (file, vfs) = (&self.open[at], &self.rig.vfs);
        if self.random.once_in(6) {
            let mode = *self
                .random
                .pick(&[0, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE]);
            self.allow(
                "fallocate",
                "",
                vfs.fallocate(file, mode as u32, offset, len),
            );
        } else if let Some(n) = self.allow("write", "", vfs.write(file, offset, &data)) {
            assert!(n > 0 && n <= data.len());
        }
    }
}

/// The names on the store, and those that are visible: the same, but for what has expired.
fn check(rig: &Rig, rules: &Rules, may_expire: bool) {
    rig.erased();
    rig.check_counts();
    rig.check_limits();
    rig.check_books(&rules.borders());
    let visible: BTreeSet<String> = rig.visible().into_keys().collect();
    let mut stored = BTreeSet::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(rig.store.path(&dir)).expect("the store can be read") {
            let entry = entry.expect("the store can be read");
            let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
            if path == "/.ttlfs" {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(path.clone());
            }
            stored.insert(path);
        }
    }
    if may_expire {
        assert!(visible.is_subset(&stored));
    } else {
        assert_eq!(visible, stored);
    }
}

/// One run.
pub fn run(seed: u64, operations: u64) {
    let mut random = Random::new(seed);
    let rules = Rules::random(&mut random);
    let given = rules.options();
    eprintln!("rules: -o {}", given.join(" -o "));
    let mut options = Options::new(&given.iter().map(String::as_str).collect::<Vec<_>>());
    options.mode = *random.pick(&[IoMode::Cached, IoMode::Direct]);
    options.descriptors = *random.pick(&[1, 64]);
    let may_expire = rules.0.iter().any(|rule| rule.ttl.is_some());
    let mut rig = Rig::new(&options);
    for _ in 0..3 {
        rig.vfs.caches.store(random.once_in(2), Ordering::Relaxed);
        rig.fs.clock.turn(Duration::from_secs(700));
        let over = AtomicBool::new(false);
        let open = std::thread::scope(|scope| {
            let programs: Vec<_> = (0..THREADS)
                .map(|_| {
                    let mut program = Program {
                        rig: &rig,
                        random: Random::new(random.next()),
                        open: Vec::new(),
                    };
                    scope.spawn(move || {
                        for _ in 0..operations {
                            program.step();
                            program.rig.check_limits();
                        }
                        program.open
                    })
                })
                .collect();
            let (rig, over) = (&rig, &over);
            let reaper = scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    rig.reap();
                    std::thread::yield_now();
                }
            });
            let open: Vec<File> = programs
                .into_iter()
                .flat_map(|program| program.join().expect("a program panicked"))
                .collect();
            over.store(true, Ordering::Relaxed);
            reaper.join().expect("the reaper panicked");
            open
        });
        check(&rig, &rules, may_expire);
        match random.below(3) {
            0 => {
                rig = rig.taken_over(&options);
                check(&rig, &rules, may_expire);
                open.into_iter().for_each(|file| rig.vfs.close(file));
            }
            1 => {
                drop(open);
                rig = Rig::on(rig.crash(), &options);
            }
            _ => {
                open.into_iter().for_each(|file| rig.vfs.close(file));
            }
        }
        check(&rig, &rules, may_expire);
    }
    rig.check_empties();
}
