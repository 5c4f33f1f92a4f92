//! One run: operations drawn at random, done to the core and to the reference, and both compared after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxFlags};
use rustix::io::Errno;
use ttlfs::fs::{Change, New, When};
use ttlfs::handles::IoMode;
use ttlfs::inodes::{Ino, Kind, NodeFlags};
use ttlfs::quota::{CHARGE_UNIT, charge_for};

use super::reference::{Id, ROOT, Reference, Stamps};
use super::rig::random::Random;
use super::rig::vfs::{File, Outcome, parts};
use super::rig::{Options, Rig};
use super::rules::Rules;

/// The step of the clock, seconds. Deadlines lie at multiples of it from real moments, and the clock is turned to
/// halves, so that what a run takes in real time decides nothing.
const STEP: u64 = 1000;

struct Open {
    file: File,
    id: Id,
    /// Where it is, or was last: rules follow the directory.
    path: String,
    dir: Id,
}

pub struct Run {
    random: Random,
    options: Options,
    rules: Rules,
    rig: Option<Rig>,
    reference: Reference,
    open: Vec<Open>,
    /// What was done, for the report of a failure.
    pub log: Vec<String>,
    caches: bool,
    /// Every how many operations everything is compared.
    thorough: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let options = self.options.rules.join(" -o ");
            eprintln!("rules: -o {options}");
            let shown = if std::env::var_os("TTLFS_MODEL_SEED").is_some() {
                usize::MAX
            } else {
                60
            };
            let skipped = self.log.len().saturating_sub(shown);
            for line in &self.log[skipped..] {
                eprintln!("  {line}");
            }
        }
    }
}

fn stamps(path: &std::path::Path) -> Option<(Ino, Stamps)> {
    let at = rustix::fs::statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )
    .ok()?;
    let ns = |t: rustix::fs::StatxTimestamp| t.tv_sec * 1_000_000_000 + i64::from(t.tv_nsec);
    Some((
        Ino(at.stx_ino),
        Stamps {
            created: ns(at.stx_btime),
            modified: ns(at.stx_mtime),
            accessed: ns(at.stx_atime),
            changed: ns(at.stx_ctime),
        },
    ))
}

impl Run {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let rules = Rules::random(&mut random);
        let given = rules.options();
        let mut options = Options::new(&given.iter().map(String::as_str).collect::<Vec<_>>());
        options.mode = *random.pick(&[IoMode::Cached, IoMode::Direct]);
        options.descriptors = *random.pick(&[1, 64]);
        let caches = random.once_in(2);
        let thorough = *random.pick(&[1, 3, 10]);
        let mut run = Self {
            reference: Reference::new(rules.clone()),
            rig: Some(Rig::new(&options)),
            random,
            options,
            rules,
            open: Vec::new(),
            log: Vec::new(),
            caches,
            thorough,
        };
        run.mounted();
        run
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("mounted but for a moment")
    }

    fn mounted(&mut self) {
        self.rig().vfs.caches.store(self.caches, Ordering::Relaxed);
        self.rig().fs.clock.turn(Duration::from_secs(STEP / 2));
        self.sync();
    }

    pub fn steps(&mut self, count: u64) {
        for n in 0..count {
            self.step();
            self.settle();
            self.check_usage();
            if n % self.thorough == 0 {
                self.check_all();
            }
        }
        self.end();
    }

    // ---- Keeping the reference up to date ----

    /// Brings times up to date, and lets go of what has expired and is gone from the store.
    fn sync(&mut self) {
        let rig = self.rig.as_ref().expect("mounted");
        self.reference.now = rig.fs.clock.now();
        // What is in a directory before the directory.
        for (path, id) in self.reference.paths().into_iter().rev() {
            let names = parts(&path);
            if self.reference.on_store(&names) != Some(id) {
                // It went with its directory.
                continue;
            }
            match stamps(&rig.store.path(&path)) {
                Some((ino, stamps)) if ino == self.reference.node(id).ino => {
                    self.reference.node_mut(id).stamps = stamps;
                }
                _ => {
                    assert!(
                        self.reference.is_hidden(&names, id),
                        "{path} is gone from the store"
                    );
                    let (name, dir) = names.split_last().expect("a name");
                    let dir = self.reference.on_store(dir).expect("its directory");
                    self.reference.drop_tree(dir, name);
                }
            }
        }
        let paths = self.reference.paths();
        let place = |wanted: Id| paths.iter().find(|(_, id)| *id == wanted);
        for open in &mut self.open {
            if let Some((path, _)) = place(open.id) {
                let names = parts(path);
                open.path = path.clone();
                open.dir = self
                    .reference
                    .on_store(&names[..names.len() - 1])
                    .expect("its directory");
            } else if let Some((dir, _)) = place(open.dir) {
                let names = parts(&open.path);
                open.path = format!("{dir}/{}", names.last().expect("a name"));
            }
        }
    }

    /// Lets what goes on beside the calls come to its end: erasure, and the kernel forgetting what has expired.
    fn settle(&mut self) {
        self.sync();
        let rig = self.rig.as_ref().expect("mounted");
        for (path, id) in self.reference.paths() {
            let hidden = self.reference.is_hidden(&parts(&path), id);
            if hidden && self.reference.node(id).is_dir() {
                // Its times were not turned with the clock, so its name was cached for longer than it lives.
                rig.vfs.drop_names();
            }
            if hidden && let Some((ino, _)) = stamps(&rig.store.path(&path)) {
                rig.kernel.evict(ino);
            }
        }
        rig.erased();
    }

    // ---- Comparing ----

    fn check_usage(&self) {
        let rig = self.rig();
        rig.check_limits();
        let mut dirs = self.reference.paths();
        dirs.push((String::new(), ROOT));
        for (path, id) in dirs {
            let node = self.reference.node(id);
            let is_level = id == ROOT || node.is_dir() && node.inner != node.level;
            if !is_level {
                continue;
            }
            let (ino, _) = stamps(&rig.store.path(&path)).expect("it is on the store");
            let slot = rig.fs.quotas.find(ino).expect("limits have subtrees");
            let usage = rig.fs.quotas.usage(slot);
            let used = self.reference.used(node.inner);
            assert_eq!(
                (usage.used_bytes, usage.used_inodes),
                (used.bytes, used.inodes),
                "(bytes, inodes) used below {path:?}: the core's (left), the reference's (right)"
            );
        }
    }

    fn check_all(&mut self) {
        let rig = self.rig();
        rig.check_counts();
        rig.check_books(&self.rules.borders());
        let seen = rig.visible();
        let mut expected = BTreeMap::new();
        for (path, id) in self.reference.paths() {
            if self.reference.find(&parts(&path)) == Ok(id) {
                let node = self.reference.node(id);
                let size = node.content.len() as u64;
                let nlink = if node.is_dir() { 0 } else { node.nlink };
                expected.insert(path, (node.kind, size, nlink, node.content.clone()));
            }
        }
        let seen: BTreeMap<_, _> = seen
            .into_iter()
            .map(|(path, s)| {
                let size = if s.kind == Kind::File { s.size } else { 0 };
                (path, (s.kind, size, s.nlink, s.content))
            })
            .collect();
        let names = |all: &BTreeMap<String, _>| all.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(
            names(&seen),
            names(&expected),
            "visible names: the core's (left), the reference's (right)"
        );
        for (path, what) in &expected {
            let at = &seen[path];
            assert_eq!(
                (at.0, at.1, at.2),
                (what.0, what.1, what.2),
                "type, size and links of {path}: the core's (left), the reference's (right)"
            );
            assert!(at.3 == what.3, "the content of {path}");
        }
        for open in &self.open {
            let node = self.reference.node(open.id);
            let stat = rig.vfs.fstat(&open.file).expect("it is open");
            assert_eq!(
                (stat.size, stat.nlink),
                (node.content.len() as u64, node.nlink),
                "size and links of an open file that was {}",
                open.path
            );
            let content = rig
                .vfs
                .read(&open.file, 0, node.content.len() + 100)
                .expect("it is open");
            assert!(content == node.content, "the content of {}", open.path);
        }
        self.sync();
    }

    fn end(&mut self) {
        self.log.push("the end".to_owned());
        for open in std::mem::take(&mut self.open) {
            self.rig().vfs.close(open.file);
        }
        self.rig().check_empties();
    }

    // ---- Drawing ----

    fn any_path(&mut self) -> String {
        let all = self.reference.paths();
        if !all.is_empty() && self.random.below(3) > 0 {
            return self.random.pick(&all).0.clone();
        }
        self.new_path()
    }

    fn new_path(&mut self) -> String {
        let mut dirs: Vec<String> = self
            .reference
            .paths()
            .into_iter()
            .filter(|(path, id)| self.reference.node(*id).is_dir() && parts(path).len() < 3)
            .map(|(path, _)| path)
            .collect();
        dirs.push(String::new());
        let dir = self.random.pick(&dirs).clone();
        let name = *self
            .random
            .pick(&["a", "b", "t", "e", "f0", "f1", "f2", "f3"]);
        format!("{dir}/{name}")
    }

    fn data(&mut self, len: u64) -> Vec<u8> {
        vec![1 + self.random.below(255) as u8; len as usize]
    }

    fn size(&mut self) -> u64 {
        let most = *self.random.pick(&[100, 5000, 20_000, 150_000]);
        self.random.below(most)
    }

    // ---- What is expected at limits ----

    /// The outcomes that may be: as things are, or, if that is a refusal, after what has expired is gone. Directories
    /// that have expired may go then or later.
    fn expected<T: PartialEq>(
        &self,
        outcome: impl Fn(&Reference) -> Outcome<T>,
    ) -> Vec<Outcome<T>> {
        let first = outcome(&self.reference);
        if first.is_ok() {
            return vec![first];
        }
        let mut without = self.reference.clone();
        without.drop_hidden(false);
        let mut all = vec![outcome(&without)];
        without.drop_hidden(true);
        all.push(outcome(&without));
        all
    }

    fn compare<T: PartialEq + std::fmt::Debug>(
        &mut self,
        actual: &Outcome<T>,
        expected: &[Outcome<T>],
    ) {
        let line = self.log.last_mut().expect("operations are logged");
        line.push_str(&format!(" = {actual:?}"));
        assert!(
            expected.contains(actual),
            "{line}: the core's; the reference allows {expected:?}"
        );
        self.sync();
    }

    // ---- Operations ----

    fn step(&mut self) {
        self.sync();
        let weights = [
            12, 8, 10, 8, 5, 6, 3, 8, 12, 4, 14, 6, 5, 4, 4, 4, 3, 3, 3, 1, 2, 2,
        ];
        match self.random.weighted(&weights) {
            0 => self.create(),
            1 => self.open(),
            2 => self.make(Kind::Directory),
            3 => self.close(),
            4 => self.make_other(),
            5 => self.unlink(),
            6 => self.rmdir(),
            7 => self.link(),
            8 => self.rename(),
            9 => self.exchange(),
            10 => self.write(),
            11 => self.truncate(),
            12 => self.reserve(),
            13 => self.punch(),
            14 => self.copy(),
            15 => self.touch(),
            16 => self.forget(),
            17 => self.turn(),
            18 => self.reap(),
            19 => self.crash(),
            20 => self.take_over(),
            _ => self.look(),
        }
    }

    fn create(&mut self) {
        let path = self.new_path();
        self.open_path(&path, libc::O_CREAT | libc::O_EXCL | libc::O_RDWR);
    }

    fn open(&mut self) {
        let path = self.any_path();
        let flags = *self.random.pick(&[
            libc::O_RDWR,
            libc::O_RDONLY,
            libc::O_RDWR | libc::O_CREAT,
            libc::O_RDWR | libc::O_TRUNC,
        ]);
        self.open_path(&path, flags);
    }

    fn open_path(&mut self, path: &str, flags: i32) {
        self.log.push(format!("open {path} {flags:o}"));
        if self.open.len() > 8 {
            return self.close();
        }
        let names = parts(path);
        let expected = self.expected(|r| {
            let (dir, _) = r.parent(&names)?;
            match r.find(&names) {
                Ok(_) if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL => {
                    Err(Errno::EXIST)
                }
                Ok(id) => match r.node(id).kind {
                    Kind::File => Ok(()),
                    Kind::Directory => Err(Errno::ISDIR),
                    _ => Err(Errno::NXIO),
                },
                Err(_) if flags & libc::O_CREAT != 0 => r.fits(r.node(dir).inner, None, 0, 1),
                Err(error) => Err(error),
            }
        });
        let opened = self.rig().vfs.open(path, flags);
        let outcome = opened.as_ref().map(drop).map_err(|e| *e);
        self.compare(&outcome, &expected);
        let Ok(file) = opened else { return };
        let id = match self.reference.find(&names) {
            Ok(id) => id,
            Err(_) => self.add(&names, Kind::File),
        };
        let node = self.reference.node_mut(id);
        node.handles += 1;
        if flags & libc::O_TRUNC != 0 {
            node.content.clear();
            node.reserved = 0;
        }
        self.reference.note_use(&names, id);
        self.open.push(Open {
            file,
            id,
            path: path.to_owned(),
            dir: ROOT,
        });
        self.sync();
    }

    /// A new node; what has expired at its place goes first.
    fn add(&mut self, names: &[&str], kind: Kind) -> Id {
        if self.reference.on_store(names).is_some() {
            let (name, dir) = names.split_last().expect("a name");
            let dir = self.reference.on_store(dir).expect("its directory");
            self.reference.drop_tree(dir, name);
        }
        let id = self.reference.add(names, kind);
        let path = format!("/{}", names.join("/"));
        let (ino, stamps) = stamps(&self.rig().store.path(&path)).expect("it is on the store");
        let node = self.reference.node_mut(id);
        node.stamps = stamps;
        node.ino = ino;
        id
    }

    fn make(&mut self, kind: Kind) {
        let path = self.new_path();
        self.log.push(format!("make {kind:?} {path}"));
        let names = parts(&path);
        let expected = self.expected(|r| {
            let (dir, _) = r.parent(&names)?;
            match r.find(&names) {
                Ok(_) => Err(Errno::EXIST),
                Err(_) => r.fits(r.node(dir).inner, None, 0, 1),
            }
        });
        let what = match kind {
            Kind::Directory => New::Directory { mode: 0o755 },
            Kind::Symlink => New::Symlink { target: c"there" },
            _ => New::Node {
                mode: libc::S_IFIFO | 0o644,
                rdev: 0,
            },
        };
        let made = self.rig().vfs.make(&path, what).map(drop);
        self.compare(&made, &expected);
        if made.is_ok() {
            self.add(&names, kind);
        }
    }

    fn make_other(&mut self) {
        let kind = *self.random.pick(&[Kind::Symlink, Kind::Fifo]);
        self.make(kind);
    }

    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.random.below(self.open.len() as u64) as usize;
        let open = self.open.swap_remove(at);
        self.log.push(format!("close {}", open.path));
        self.rig().vfs.close(open.file);
        self.sync();
        self.reference.note_use(&parts(&open.path), open.id);
        self.reference.node_mut(open.id).handles -= 1;
        self.reference.collect(open.id);
    }

    fn unlink(&mut self) {
        let path = self.any_path();
        self.log.push(format!("unlink {path}"));
        let names = parts(&path);
        let expected = self.reference.parent(&names).and_then(|_| {
            let id = self.reference.find(&names)?;
            if self.reference.node(id).is_dir() {
                Err(Errno::ISDIR)
            } else {
                Ok(())
            }
        });
        let done = self.rig().vfs.unlink(&path);
        let gone = self.reference.find(&names);
        self.remove(&names, &done, gone);
        self.compare(&done, &[expected]);
    }

    fn remove(&mut self, names: &[&str], done: &Outcome<()>, gone: Outcome<Id>) {
        if done.is_ok() && gone.is_ok() {
            let (name, dir) = names.split_last().expect("a name");
            let dir = self.reference.on_store(dir).expect("its directory");
            self.reference.drop_tree(dir, name);
        }
    }

    /// Whether what is in a directory has expired, all of it.
    fn is_empty(&self, path: &[&str], id: Id) -> bool {
        self.reference
            .node(id)
            .children
            .iter()
            .all(|(name, child)| {
                let mut inner = path.to_vec();
                inner.push(name);
                self.reference.is_hidden(&inner, *child)
            })
    }

    fn rmdir(&mut self) {
        let path = self.any_path();
        self.log.push(format!("rmdir {path}"));
        let names = parts(&path);
        let expected = self.reference.parent(&names).and_then(|_| {
            let id = self.reference.find(&names)?;
            if !self.reference.node(id).is_dir() {
                Err(Errno::NOTDIR)
            } else if self.is_empty(&names, id) {
                Ok(())
            } else {
                Err(Errno::NOTEMPTY)
            }
        });
        let done = self.rig().vfs.rmdir(&path);
        let gone = self.reference.find(&names);
        self.remove(&names, &done, gone);
        self.compare(&done, &[expected]);
    }

    fn link(&mut self) {
        let (from, to) = (self.any_path(), self.new_path());
        let (from_names, to_names) = (parts(&from), parts(&to));
        let within = |names: &[&str]| self.rules.innermost(&names[..names.len() - 1]);
        if from_names.is_empty() || within(&from_names) != within(&to_names) {
            // A file with names under several rules lives by the one it was last reached by.
            return;
        }
        self.log.push(format!("link {from} {to}"));
        let r = &self.reference;
        let expected = r.find(&from_names).and_then(|id| {
            let (dir, _) = r.parent(&to_names)?;
            if r.find(&to_names).is_ok() {
                return Err(Errno::EXIST);
            }
            if r.node(id).is_dir() {
                return Err(Errno::PERM);
            }
            if r.node(id).level != r.node(dir).inner {
                return Err(Errno::XDEV);
            }
            Ok(())
        });
        let done = self.rig().vfs.link(&from, &to);
        let id = self.reference.find(&from_names);
        if done.is_ok() && expected.is_ok() {
            let id = id.expect("it was found");
            let (name, dir) = to_names.split_last().expect("a name");
            let dir = self.reference.on_store(dir).expect("its directory");
            if self.reference.node(dir).children.contains_key(*name) {
                self.reference.drop_tree(dir, name);
            }
            self.reference.attach(dir, name, id);
            self.reference.node_mut(id).nlink += 1;
        }
        self.compare(&done, &[expected]);
    }

    /// Whether a move of this to there is one whose outcome the reference can tell.
    fn can_tell(&self, from: &[&str], to: &[&str]) -> bool {
        let Ok(id) = self.reference.find(from) else {
            return true;
        };
        let node = self.reference.node(id);
        let innermost = |path: &[&str]| self.rules.innermost(path);
        if node.is_dir() {
            let expires = |path: &[&str]| {
                self.rules.settings(path).ttl.is_some()
                    || self
                        .rules
                        .0
                        .iter()
                        .any(|rule| rule.ttl.is_some() && parts(rule.path).starts_with(path))
            };
            return innermost(from) == innermost(to)
                && !self.rules.any_below(from)
                && !self.rules.any_below(to)
                || !expires(from) && !expires(to);
        }
        node.nlink == 1 || innermost(&from[..from.len() - 1]) == innermost(&to[..to.len() - 1])
    }

    fn check_border(
        r: &Reference,
        id: Id,
        from: &[&str],
        to_dir: Id,
        to: &[&str],
        limits_below: bool,
    ) -> Outcome<()> {
        let node = r.node(id);
        let crosses = node.level != r.node(to_dir).inner;
        if node.is_dir() {
            let border = |path: &[&str]| r.rules.is_border(path);
            let moves = from != to && (border(from) || border(to));
            if crosses || moves || limits_below {
                return Err(Errno::XDEV);
            }
        } else if crosses && node.nlink > 1 {
            return Err(Errno::XDEV);
        }
        Ok(())
    }

    /// Whether a move of a directory may be refused because limits could stand below its old or new place: the core
    /// looks at rules only, more or less closely.
    fn may_refuse(&self, from: &[&str], to: &[&str]) -> bool {
        !self.rules.borders().is_empty() && (self.rules.any_below(from) || self.rules.any_below(to))
    }

    fn rename(&mut self) {
        let (from, to) = (self.any_path(), self.any_path());
        let flags = match self.random.below(6) {
            0 => RenameFlags::NOREPLACE,
            1 => RenameFlags::WHITEOUT,
            _ => RenameFlags::empty(),
        };
        let (from_names, to_names) = (parts(&from), parts(&to));
        if !self.can_tell(&from_names, &to_names) {
            return;
        }
        self.log.push(format!("rename {from} {to} {flags:?}"));
        let whiteout = flags.contains(RenameFlags::WHITEOUT);
        let mut expected = Vec::new();
        let mut variants = vec![false];
        if self.may_refuse(&from_names, &to_names) {
            variants.push(true);
        }
        for refused in variants {
            expected.extend(self.expected(|r| {
                let (source, _) = r.parent(&from_names)?;
                let (target, _) = r.parent(&to_names)?;
                let id = r.find(&from_names)?;
                let there = r.find(&to_names).ok();
                if there.is_some() && flags.contains(RenameFlags::NOREPLACE) {
                    return Err(Errno::EXIST);
                }
                let is_dir = r.node(id).is_dir();
                if is_dir && to_names[..to_names.len() - 1].starts_with(&from_names) {
                    return Err(Errno::INVAL);
                }
                if let Some(other) = there {
                    let other_is_dir = r.node(other).is_dir();
                    if other_is_dir && from_names[..from_names.len() - 1].starts_with(&to_names) {
                        return Err(Errno::NOTEMPTY);
                    }
                    if other == id {
                        return Ok(());
                    }
                    match (is_dir, other_is_dir) {
                        (true, false) => return Err(Errno::NOTDIR),
                        (false, true) => return Err(Errno::ISDIR),
                        _ => {}
                    }
                }
                Self::check_border(r, id, &from_names, target, &to_names, is_dir && refused)?;
                let (level, inner) = (r.node(id).level, r.node(target).inner);
                let source_inner = r.node(source).inner;
                if whiteout {
                    r.fits(source_inner, None, 0, 1)?;
                }
                if level != inner {
                    let bytes = r.node(id).charge();
                    // What is counted already of the whiteout.
                    let full = r.fits(inner, Some(level), bytes, 1);
                    if let Err(error) = full {
                        let credit = there.filter(|other| {
                            let o = r.node(*other);
                            o.nlink == 1
                                && o.handles == 0
                                && (o.kind != Kind::File
                                    || r.rules.settings(&to_names[..to_names.len() - 1]).passes
                                        == 0)
                        });
                        let other = credit.ok_or(error)?;
                        let mut without = r.clone();
                        without.nodes.remove(&other);
                        without
                            .fits(inner, Some(level), bytes, 1)
                            .map_err(|_| error)?;
                    }
                }
                match there {
                    Some(other) if is_dir && !self.is_empty(&to_names, other) => {
                        Err(Errno::NOTEMPTY)
                    }
                    _ => Ok(()),
                }
            }));
        }
        let done = self.rig().vfs.rename(&from, &to, flags);
        let id = self.reference.find(&from_names);
        let there = self.reference.find(&to_names);
        if let (Ok(()), Ok(id)) = (&done, id)
            && there != Ok(id)
        {
            self.reference.note_move(&from_names, &to_names, id);
            let (name, dir) = from_names.split_last().expect("a name");
            let dir = self.reference.on_store(dir).expect("its directory");
            self.reference.detach(dir, name);
            let (to_name, to_dir) = to_names.split_last().expect("a name");
            let to_dir = self.reference.on_store(to_dir).expect("its directory");
            if self.reference.node(to_dir).children.contains_key(*to_name) {
                self.reference.drop_tree(to_dir, to_name);
            }
            self.reference.attach(to_dir, to_name, id);
            self.reference.node_mut(id).level = self.reference.node(to_dir).inner;
            if whiteout {
                self.add(&from_names, Kind::CharDevice);
            }
        }
        self.compare(&done, &expected);
    }

    fn exchange(&mut self) {
        let (from, to) = (self.any_path(), self.any_path());
        let (from_names, to_names) = (parts(&from), parts(&to));
        if !self.can_tell(&from_names, &to_names) || !self.can_tell(&to_names, &from_names) {
            return;
        }
        self.log.push(format!("exchange {from} {to}"));
        let mut expected = Vec::new();
        let mut variants = vec![false];
        if self.may_refuse(&from_names, &to_names) {
            variants.push(true);
        }
        for refused in variants {
            expected.extend(self.expected(|r| {
                let (source, _) = r.parent(&from_names)?;
                let (target, _) = r.parent(&to_names)?;
                let a = r.find(&from_names)?;
                let b = r.find(&to_names)?;
                let is_dir = |id: Id| r.node(id).is_dir();
                if is_dir(a) && to_names[..to_names.len() - 1].starts_with(&from_names)
                    || is_dir(b) && from_names[..from_names.len() - 1].starts_with(&to_names)
                {
                    return Err(Errno::INVAL);
                }
                if a == b {
                    return Ok(());
                }
                let refused = refused && (is_dir(a) || is_dir(b));
                Self::check_border(r, a, &from_names, target, &to_names, refused)?;
                Self::check_border(r, b, &to_names, source, &from_names, refused)?;
                let (al, bl) = (r.node(a).level, r.node(b).level);
                let (ac, bc) = (r.node(a).charge(), r.node(b).charge());
                if al != bl {
                    let (from, to) = if ac >= bc { (al, bl) } else { (bl, al) };
                    r.fits(to, Some(from), ac.abs_diff(bc), 0)?;
                }
                Ok(())
            }));
        }
        let done = self.rig().vfs.rename(&from, &to, RenameFlags::EXCHANGE);
        if done.is_ok()
            && let (Ok(a), Ok(b)) = (
                self.reference.find(&from_names),
                self.reference.find(&to_names),
            )
            && a != b
        {
            self.reference.note_move(&from_names, &to_names, a);
            self.reference.note_move(&to_names, &from_names, b);
            let place = |r: &Reference, names: &[&str]| {
                let (name, dir) = names.split_last().expect("a name");
                let dir = r.on_store(dir).expect("its directory");
                (dir, (*name).to_owned())
            };
            let (a_dir, a_name) = place(&self.reference, &from_names);
            let (b_dir, b_name) = place(&self.reference, &to_names);
            self.reference.detach(a_dir, &a_name);
            self.reference.detach(b_dir, &b_name);
            self.reference.attach(b_dir, &b_name, a);
            self.reference.attach(a_dir, &a_name, b);
            self.reference.node_mut(a).level = self.reference.node(b_dir).inner;
            self.reference.node_mut(b).level = self.reference.node(a_dir).inner;
        }
        self.compare(&done, &expected);
    }

    fn pick_open(&mut self) -> Option<usize> {
        (!self.open.is_empty()).then(|| self.random.below(self.open.len() as u64) as usize)
    }

    fn settings_of(&self, at: usize) -> super::rules::Settings {
        let path = parts(&self.open[at].path);
        self.rules.settings(&path[..path.len() - 1])
    }

    /// How much of a write fits.
    fn grown(r: &Reference, id: Id, offset: u64, len: u64, max: Option<u64>) -> Outcome<u64> {
        let mut len = len;
        if let Some(max) = max {
            if offset >= max && len > 0 {
                return Err(Errno::FBIG);
            }
            len = len.min(max - offset);
        }
        let node = r.node(id);
        let (have, need) = (node.charge(), charge_for(offset + len));
        if need <= have {
            return Ok(len);
        }
        let granted = (need - have).min(r.room(node.level) / CHARGE_UNIT * CHARGE_UNIT);
        let fits = (have + granted).saturating_sub(offset).min(len);
        if fits == 0 && len > 0 {
            return Err(Errno::NOSPC);
        }
        Ok(fits)
    }

    /// Both errors of limits are one here; which one it is follows from what limits there are.
    fn limit(&self, id: Id, outcome: Outcome<u64>) -> Outcome<u64> {
        match outcome {
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => {
                let level = self.reference.node(id).level;
                assert!(self.reference.errnos(level).contains(&error), "{error}");
                Err(Errno::NOSPC)
            }
            other => other,
        }
    }

    fn stored(&mut self, id: Id, offset: u64, data: &[u8]) {
        let node = self.reference.node_mut(id);
        let end = offset as usize + data.len();
        if node.content.len() < end {
            node.content.resize(end, 0);
        }
        node.content[offset as usize..end].copy_from_slice(data);
    }

    fn write(&mut self) {
        let Some(at) = self.pick_open() else { return };
        let id = self.open[at].id;
        let size = self.reference.node(id).content.len() as u64;
        let offset = match self.random.below(4) {
            0 => self.size(),
            1 => 0,
            _ => size,
        };
        let len = 1 + self.size();
        let data = self.data(len);
        self.log
            .push(format!("write {} {offset}+{len}", self.open[at].path));
        let max = self.settings_of(at).max_file;
        let expected = self.expected(|r| Self::grown(r, id, offset, len, max));
        let wrote = self
            .rig()
            .vfs
            .write(&self.open[at].file, offset, &data)
            .map(|n| n as u64);
        if let Ok(n) = wrote {
            self.stored(id, offset, &data[..n as usize]);
        }
        let wrote = self.limit(id, wrote);
        self.compare(&wrote, &expected);
    }

    fn truncate(&mut self) {
        let Some(at) = self.pick_open() else { return };
        let (id, path) = (self.open[at].id, self.open[at].path.clone());
        let size = self.size();
        self.log.push(format!("truncate {path} {size}"));
        let max = self.settings_of(at).max_file;
        let expected = self.expected(|r| {
            if max.is_some_and(|max| size > max) {
                return Err(Errno::FBIG);
            }
            let node = r.node(id);
            let more = charge_for(size).saturating_sub(node.charge());
            r.fits(node.level, None, more, 0)
        });
        let change = Change {
            size: Some(size),
            ..Change::default()
        };
        let by_path = self.random.once_in(2) && self.reference.find(&parts(&path)) == Ok(id);
        let done = if by_path {
            self.rig().vfs.setattr(&path, change)
        } else {
            self.rig().vfs.fsetattr(&self.open[at].file, change)
        };
        if done.is_ok() {
            let node = self.reference.node_mut(id);
            if size <= node.content.len() as u64 {
                node.reserved = 0;
            }
            node.content.resize(size as usize, 0);
        }
        self.compare(&done, &expected);
    }

    fn reserve(&mut self) {
        let Some(at) = self.pick_open() else { return };
        let id = self.open[at].id;
        let (offset, len) = (self.size(), 1 + self.size());
        let end = offset + len;
        let mut mode = *self.random.pick(&[
            0,
            libc::FALLOC_FL_KEEP_SIZE,
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        ]);
        let size = self.reference.node(id).content.len() as u64;
        if mode == libc::FALLOC_FL_KEEP_SIZE && end > size && (offset > size || self.has_holes(at))
        {
            // Where there are holes, a recount from outside cannot tell what is reserved beyond the end.
            mode = 0;
        }
        self.log.push(format!(
            "fallocate {} {mode} {offset}+{len}",
            self.open[at].path
        ));
        let max = self.settings_of(at).max_file;
        let keeps = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeroes = mode & libc::FALLOC_FL_ZERO_RANGE != 0;
        let expected = self.expected(|r| {
            if !keeps && max.is_some_and(|max| end > max) {
                return Err(Errno::FBIG);
            }
            let node = r.node(id);
            let more = charge_for(end).saturating_sub(node.charge());
            r.fits(node.level, None, more, 0)?;
            if zeroes {
                // Not on tmpfs.
                return Err(Errno::OPNOTSUPP);
            }
            Ok(())
        });
        let done = self
            .rig()
            .vfs
            .fallocate(&self.open[at].file, mode as u32, offset, len);
        if done.is_ok() {
            let node = self.reference.node_mut(id);
            if keeps {
                if end > size {
                    node.reserved = node.reserved.max(end);
                }
            } else if end > size {
                node.content.resize(end as usize, 0);
            }
        }
        self.compare(&done, &expected);
    }

    fn has_holes(&self, at: usize) -> bool {
        let entry = self
            .rig()
            .fs
            .getattr(self.open[at].file.ino, Some(self.open[at].file.handle))
            .expect("it is open");
        entry.meta.blocks * 512 < charge_for(entry.meta.size)
    }

    fn punch(&mut self) {
        let Some(at) = self.pick_open() else { return };
        let id = self.open[at].id;
        if self.reference.node(id).reserved > 0 {
            return;
        }
        let (offset, len) = (self.size(), 1 + self.size());
        self.log
            .push(format!("punch {} {offset}+{len}", self.open[at].path));
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let done = self
            .rig()
            .vfs
            .fallocate(&self.open[at].file, mode as u32, offset, len);
        let node = self.reference.node_mut(id);
        let size = node.content.len();
        let (from, to) = (offset as usize, (offset + len) as usize);
        if from < size {
            node.content[from..to.min(size)].fill(0);
        }
        self.compare(&done, &[Ok(())]);
    }

    fn copy(&mut self) {
        let (Some(from), Some(to)) = (self.pick_open(), self.pick_open()) else {
            return;
        };
        let (source, id) = (self.open[from].id, self.open[to].id);
        if source == id {
            return;
        }
        let (offset, to_offset, len) = (self.size(), self.size(), 1 + self.size());
        self.log.push(format!(
            "copy {} {offset} {} {to_offset}+{len}",
            self.open[from].path, self.open[to].path
        ));
        let settings = self.settings_of(to);
        let erases = settings.passes > 0 || self.settings_of(from).passes > 0;
        let size = self.reference.node(source).content.len() as u64;
        let fits = len.min(size.saturating_sub(offset));
        let expected = self.expected(|r| {
            if erases {
                Err(Errno::OPNOTSUPP)
            } else if fits == 0 {
                Ok(0)
            } else {
                Self::grown(r, id, to_offset, fits, settings.max_file)
            }
        });
        let copied = self.rig().vfs.copy(
            &self.open[from].file,
            offset,
            &self.open[to].file,
            to_offset,
            len,
        );
        if let Ok(n) = copied
            && n > 0
        {
            let at = offset as usize;
            let data = self.reference.node(source).content[at..at + n as usize].to_vec();
            self.stored(id, to_offset, &data);
        }
        let copied = self.limit(id, copied);
        self.compare(&copied, &expected);
    }

    /// Sets the modification time to some step before or after.
    fn touch(&mut self) {
        let path = self.any_path();
        let names = parts(&path);
        if names.is_empty() {
            return;
        }
        let now = self.rig().fs.clock.now().0 / 1_000_000_000 - (STEP / 2) as i64;
        let steps = self.random.below(5) as i64 - 2;
        let at = now + steps * STEP as i64;
        self.log.push(format!("touch {path} {steps:+} steps"));
        let expected = self.reference.find(&names).map(drop);
        let done = self.rig().vfs.setattr(
            &path,
            Change {
                mtime: Some(When::At(at, 0)),
                ..Change::default()
            },
        );
        self.compare(&done, &[expected]);
    }

    fn forget(&mut self) {
        let known: Vec<Ino> = {
            let mut known: Vec<Ino> = self.rig().kernel.all().into_keys().collect();
            known.sort();
            known
        };
        if known.is_empty() {
            return;
        }
        if self.random.once_in(3) {
            self.log.push("forget everything".to_owned());
            self.rig().kernel.evict_all();
        } else {
            let ino = *self.random.pick(&known);
            self.log.push(format!("forget {}", ino.0));
            self.rig().kernel.evict(ino);
        }
    }

    fn turn(&mut self) {
        let steps = 1 + self.random.below(2);
        self.log.push(format!("turn {steps}"));
        if self.random.once_in(2) {
            // What the kernel knows is asked back by the reaper, and hidden from then on.
            self.rig().fs.clock.turn(Duration::from_secs(steps * STEP));
            self.sync();
            self.reap();
        } else {
            self.rig().kernel.evict_all();
            self.rig().fs.clock.turn(Duration::from_secs(steps * STEP));
            self.sync();
        }
    }

    /// The reaper comes: what has expired and is not in use is gone. Directories may live on, their times not being
    /// turned with the clock.
    fn reap(&mut self) {
        self.log.push("reap".to_owned());
        self.rig().reap();
        self.sync();
        for (path, id) in self.reference.paths() {
            let names = parts(&path);
            assert!(
                self.reference.node(id).is_dir() || !self.reference.is_hidden(&names, id),
                "{path} has expired and is still there after the reaper came: {}",
                self.describe(&path)
            );
        }
    }

    /// What the core knows of a file.
    fn describe(&self, path: &str) -> String {
        let rig = self.rig();
        let ino = stamps(&rig.store.path(path)).map(|(ino, _)| ino);
        let Some(node) = ino.and_then(|ino| rig.fs.inodes.pin(ino)) else {
            return "not known".to_owned();
        };
        let name = rig.fs.inodes.name(&node).unwrap_or_default();
        let flags = [
            NodeFlags::QUEUED,
            NodeFlags::KEPT,
            NodeFlags::DEAD,
            NodeFlags::OPENED,
        ]
        .map(|flag| (flag, node.has(flag)));
        format!(
            "known as {:?} in {:?}, known to the kernel {} times, queued for {}, not before {}, now {}, {flags:?}",
            String::from_utf8_lossy(&name),
            rig.fs.inodes.parent(&node).map(|parent| parent.ino()),
            node.nlookup(),
            node.deadline_hint(),
            node.floor(),
            rig.fs.clock.now(),
        )
    }

    fn look(&mut self) {
        let path = self.any_path();
        self.log.push(format!("look {path}"));
        let names = parts(&path);
        let expected = self.reference.find(&names).map(|id| {
            let node = self.reference.node(id);
            (node.kind, node.content.len() as u64)
        });
        let seen = self.rig().vfs.stat(&path).map(|stat| {
            let size = if stat.kind == Kind::File {
                stat.size
            } else {
                0
            };
            (stat.kind, size)
        });
        self.compare(&seen, &[expected]);
        if let Ok((Kind::Directory, _)) = seen {
            let plus = self.random.once_in(2);
            let listed = self.rig().vfs.list(&path, plus);
            assert!(listed.is_ok(), "{path} can be listed");
        }
    }

    /// The server is killed between two calls, and another goes on with its memory: programs notice nothing.
    fn take_over(&mut self) {
        self.log.push("take over".to_owned());
        let rig = self.rig.take().expect("mounted");
        self.rig = Some(rig.taken_over(&self.options));
        self.settle();
        self.check_usage();
        self.check_all();
    }

    /// The server is killed, and the store mounted again.
    fn crash(&mut self) {
        self.log.push("crash".to_owned());
        self.open.clear();
        let store = self.rig.take().expect("mounted").crash();
        self.rig = Some(Rig::on(store, &self.options));
        let ids: Vec<Id> = self.reference.nodes.keys().copied().collect();
        for id in ids {
            let node = self.reference.node_mut(id);
            node.handles = 0;
            node.floor = if node.kind == Kind::File {
                node.noted_floor
            } else {
                0
            };
            self.reference.collect(id);
        }
        self.rig().erased();
        self.mounted();
        self.check_usage();
        self.check_all();
    }
}

impl Reference {
    /// Without what has expired: files, or directories too.
    pub fn drop_hidden(&mut self, directories: bool) {
        loop {
            let hidden = self.paths().into_iter().rev().find(|(path, id)| {
                (directories || !self.node(*id).is_dir()) && self.is_hidden(&parts(path), *id)
            });
            let Some((path, _)) = hidden else { return };
            let names = parts(&path);
            let (name, dir) = names.split_last().expect("a name");
            let dir = self.on_store(dir).expect("its directory");
            self.drop_tree(dir, name);
            // From now on it lives.
            self.node_mut(dir).stamps.changed = self.now.0;
        }
    }
}
