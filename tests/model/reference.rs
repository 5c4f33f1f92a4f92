//! The reference: a file system of maps and byte vectors, with charges summed anew each time they are asked for.
//!
//! It knows what is on the backing store, expired or not; what of that is visible follows from the rules and the time.

use std::collections::{BTreeMap, HashMap};

use rustix::io::Errno;
use ttlfs::clock::Time;
use ttlfs::inodes::{Ino, Kind};
use ttlfs::quota::charge_for;

use super::rig::vfs::Outcome;
use super::rules::{Rule, Rules, Since};

pub type Id = u32;

pub const ROOT: Id = 0;

/// The times that a lifetime may count from, as the backing store has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    pub created: i64,
    pub modified: i64,
    pub accessed: i64,
    pub changed: i64,
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub content: Vec<u8>,
    /// How far it is reserved.
    pub reserved: u64,
    pub nlink: u32,
    /// The level that it counts for.
    pub level: Id,
    /// Directories: the level that what is in it counts for.
    pub inner: Id,
    pub children: BTreeMap<String, Id>,
    pub handles: u32,
    /// The moment before which it does not expire, and what of that is on the store.
    pub floor: i64,
    pub noted_floor: i64,
    pub stamps: Stamps,
    /// Its number on the store.
    pub ino: Ino,
}

/// A directory with limits.
#[derive(Clone, Debug)]
pub struct Level {
    pub parent: Option<Id>,
    pub quota: u64,
    pub inodes: u64,
    pub errno: Errno,
}

/// What is used of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

/// The reference.
#[derive(Clone, Debug)]
pub struct Reference {
    pub rules: Rules,
    pub nodes: HashMap<Id, Node>,
    pub levels: HashMap<Id, Level>,
    pub now: Time,
    next: Id,
}

impl Node {
    fn new(kind: Kind, level: Id, inner: Id) -> Self {
        Self {
            kind,
            content: Vec::new(),
            reserved: 0,
            nlink: 1,
            level,
            inner,
            children: BTreeMap::new(),
            handles: 0,
            floor: 0,
            noted_floor: 0,
            stamps: Stamps::default(),
            ino: Ino(0),
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub fn charge(&self) -> u64 {
        if self.kind == Kind::File {
            charge_for((self.content.len() as u64).max(self.reserved))
        } else {
            0
        }
    }
}

impl Reference {
    pub fn new(rules: Rules) -> Self {
        let mut all = Self {
            rules,
            nodes: HashMap::new(),
            levels: HashMap::new(),
            now: Time(0),
            next: 0,
        };
        let level = all.add_level(&[], None);
        all.nodes
            .insert(ROOT, Node::new(Kind::Directory, level, level));
        all
    }

    fn fresh(&mut self) -> Id {
        self.next += 1;
        self.next
    }

    fn add_level(&mut self, path: &[&str], parent: Option<Id>) -> Id {
        let id = self.fresh();
        let rule = self.rules.at(path);
        let level = Level {
            parent,
            quota: rule.and_then(|r| r.quota).unwrap_or(u64::MAX),
            inodes: rule.and_then(|r| r.inodes).unwrap_or(u64::MAX),
            errno: if self.rules.says_edquot(path) {
                Errno::DQUOT
            } else {
                Errno::NOSPC
            },
        };
        self.levels.insert(id, level);
        id
    }

    // ---- The tree ----

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("ids are of nodes")
    }

    /// What is on the store at a path, expired or not.
    pub fn on_store(&self, path: &[&str]) -> Option<Id> {
        path.iter().try_fold(ROOT, |at, name| {
            self.nodes[&at].children.get(*name).copied()
        })
    }

    /// What is visible at a path.
    pub fn find(&self, path: &[&str]) -> Outcome<Id> {
        let mut at = ROOT;
        for (depth, name) in path.iter().enumerate() {
            if !self.node(at).is_dir() {
                return Err(Errno::NOTDIR);
            }
            at = *self.node(at).children.get(*name).ok_or(Errno::NOENT)?;
            if self.is_hidden(&path[..=depth], at) {
                return Err(Errno::NOENT);
            }
        }
        Ok(at)
    }

    /// The visible directory of a path, and its last name.
    pub fn parent<'p>(&self, path: &'p [&'p str]) -> Outcome<(Id, &'p str)> {
        let (last, dir) = path.split_last().ok_or(Errno::BUSY)?;
        let id = self.find(dir)?;
        if self.node(id).is_dir() {
            Ok((id, last))
        } else {
            Err(Errno::NOTDIR)
        }
    }

    /// All paths on the store, directories before what is in them.
    pub fn paths(&self) -> Vec<(String, Id)> {
        let mut all = Vec::new();
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((dir, id)) = todo.pop() {
            for (name, child) in &self.node(id).children {
                let path = format!("{dir}/{name}");
                all.push((path.clone(), *child));
                if self.node(*child).is_dir() {
                    todo.push((path, *child));
                }
            }
        }
        all.sort();
        all
    }

    /// A new node at a path whose directory is there.
    pub fn add(&mut self, path: &[&str], kind: Kind) -> Id {
        let (name, dir) = path.split_last().expect("a name");
        let dir = self.on_store(dir).expect("its directory");
        let level = self.node(dir).inner;
        let inner = if kind == Kind::Directory && self.rules.is_border(path) {
            self.add_level(path, Some(level))
        } else {
            level
        };
        let id = self.fresh();
        self.nodes.insert(id, Node::new(kind, level, inner));
        self.attach(dir, name, id);
        id
    }

    pub fn attach(&mut self, dir: Id, name: &str, id: Id) {
        let before = self.node_mut(dir).children.insert((*name).to_owned(), id);
        assert!(before.is_none(), "one node for each name");
    }

    pub fn detach(&mut self, dir: Id, name: &str) -> Id {
        self.node_mut(dir)
            .children
            .remove(name)
            .expect("the name is there")
    }

    /// A name of a node is gone.
    pub fn drop_link(&mut self, id: Id) {
        let node = self.node_mut(id);
        node.nlink -= 1;
        self.collect(id);
    }

    /// A node without names and handles is gone.
    pub fn collect(&mut self, id: Id) {
        let node = self.node(id);
        if node.nlink == 0 && node.handles == 0 {
            assert!(node.children.is_empty());
            self.nodes.remove(&id);
        }
    }

    /// Removes a subtree that is hidden, or that is gone from the store.
    pub fn drop_tree(&mut self, dir: Id, name: &str) {
        let id = self.detach(dir, name);
        let names: Vec<String> = self.node(id).children.keys().cloned().collect();
        for name in names {
            self.drop_tree(id, &name);
        }
        self.drop_link(id);
    }

    // ---- Time ----

    /// When what is at this path expires.
    pub fn deadline(&self, path: &[&str], id: Id) -> i64 {
        let node = self.node(id);
        if node.is_dir() {
            if self.rules.at(path).is_some() || !node.children.is_empty() {
                return i64::MAX;
            }
            let settings = self.rules.settings(path);
            return settings.ttl.map_or(i64::MAX, |ttl| {
                node.stamps.changed.max(node.stamps.created) + ttl.as_nanos() as i64
            });
        }
        let settings = self.rules.settings(&path[..path.len() - 1]);
        let Some(ttl) = settings.ttl else {
            return i64::MAX;
        };
        let stamps = node.stamps;
        let since = match settings.ttl_from {
            Since::Created => stamps.created,
            Since::Modified => stamps.modified,
            Since::Accessed => stamps.created.max(stamps.modified).max(stamps.accessed),
        };
        (since + ttl.as_nanos() as i64).max(node.floor)
    }

    /// Whether it has expired and nobody uses it.
    pub fn is_hidden(&self, path: &[&str], id: Id) -> bool {
        self.node(id).handles == 0 && self.deadline(path, id) <= self.now.0
    }

    /// An open or a close, where lifetimes count from it.
    pub fn note_use(&mut self, path: &[&str], id: Id) {
        let settings = self.rules.settings(&path[..path.len() - 1]);
        if let (Since::Accessed, Some(ttl)) = (settings.ttl_from, settings.ttl) {
            let until = self.now.after(ttl).0;
            let node = self.node_mut(id);
            node.floor = node.floor.max(until);
        }
    }

    /// It came under another rule.
    pub fn note_move(&mut self, from: &[&str], to: &[&str], id: Id) {
        let settings = |path: &[&str]| self.rules.settings(&path[..path.len() - 1]);
        let (before, after) = (settings(from), settings(to));
        let rule = |path: &[&str]| self.rules.innermost(&path[..path.len() - 1]);
        if let Some(ttl) = after.ttl
            && (before != after || rule(from) != rule(to))
        {
            let least = self.now.after(ttl).0;
            if self.deadline(to, id) < least {
                let node = self.node_mut(id);
                node.floor = node.floor.max(least);
                node.noted_floor = node.floor;
            }
        }
    }

    // ---- Charges ----

    fn chain(&self, from: Id) -> Vec<Id> {
        std::iter::successors(Some(from), |level| self.levels[level].parent).collect()
    }

    /// What counts for a level.
    pub fn used(&self, level: Id) -> Used {
        let mut used = Used::default();
        for (id, node) in &self.nodes {
            if *id != ROOT && self.chain(node.level).contains(&level) {
                used.bytes += node.charge();
                used.inodes += 1;
            }
        }
        used
    }

    /// Bytes that fit everywhere.
    pub fn room(&self, level: Id) -> u64 {
        self.chain(level)
            .into_iter()
            .map(|at| self.levels[&at].quota.saturating_sub(self.used(at).bytes))
            .min()
            .expect("the root")
    }

    /// Whether an amount fits from a level up to where the other's chain begins; else with which error it does not.
    pub fn fits(&self, level: Id, below: Option<Id>, bytes: u64, inodes: u64) -> Outcome<()> {
        let stop = below.map(|other| self.chain(other)).unwrap_or_default();
        for at in self.chain(level) {
            if stop.contains(&at) {
                break;
            }
            let (level, used) = (&self.levels[&at], self.used(at));
            let full = |amount: u64, used: u64, limit: u64| amount > 0 && used + amount > limit;
            if full(bytes, used.bytes, level.quota) || full(inodes, used.inodes, level.inodes) {
                return Err(level.errno);
            }
        }
        Ok(())
    }

    /// The errors that limits from here up may be told with.
    pub fn errnos(&self, level: Id) -> Vec<Errno> {
        self.chain(level)
            .into_iter()
            .map(|at| self.levels[&at].errno)
            .collect()
    }
}

impl Rules {
    /// The deepest rule that holds in a directory.
    pub fn innermost(&self, dir: &[&str]) -> Option<&'static str> {
        self.0
            .iter()
            .filter(|rule: &&Rule| dir.starts_with(&super::rig::vfs::parts(rule.path)))
            .max_by_key(|rule| rule.path.len())
            .map(|rule| rule.path)
    }
}
