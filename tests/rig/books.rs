//! What is charged, counted again from outside: from the store alone, and from what the core says of files without
//! names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use ttlfs::inodes::{Ino, Kind, NodeFlags};
use ttlfs::quota::{UNLIMITED, charge_for};
use ttlfs::slab::Slot;

use super::Rig;
use super::vfs::parts;

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

/// Something visible: its type and what can be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub ino: Ino,
    pub kind: Kind,
    pub size: u64,
    pub nlink: u32,
    pub content: Vec<u8>,
}

/// How far a backing file is reserved.
fn reserved(path: &std::path::Path) -> u64 {
    let mut value = [0u8; 8];
    match rustix::fs::lgetxattr(path, ttlfs::fs::RESERVED_XATTR, &mut value[..]) {
        Ok(8) => u64::from_le_bytes(value),
        _ => 0,
    }
}

impl Rig {
    /// Usage by directory with a limit, counted in the store, with what has no name any more.
    fn recount(&self, borders: &[&str]) -> BTreeMap<String, Used> {
        let mut used: BTreeMap<String, Used> = BTreeMap::new();
        used.insert(String::new(), Used::default());
        let mut met = HashSet::new();
        let mut slots = HashMap::new();
        slots.insert(
            self.fs.quotas.find(self.fs.root_ino()),
            Vec::from([String::new()]),
        );
        let mut todo = vec![(String::new(), Vec::from([String::new()]))];
        while let Some((dir, above)) = todo.pop() {
            for entry in std::fs::read_dir(self.store.path(&dir)).expect("the store can be read") {
                let entry = entry.expect("the store can be read");
                let name = entry.file_name().into_string().expect("plain names");
                if dir.is_empty() && name == ".ttlfs" {
                    continue;
                }
                let path = format!("{dir}/{name}");
                let meta = entry.metadata().expect("the store can be read");
                if meta.is_dir() {
                    let mut inner = above.clone();
                    if borders.iter().any(|border| parts(border) == parts(&path)) {
                        inner.push(path.clone());
                        used.insert(path.clone(), Used::default());
                        let slot = self.fs.quotas.find(Ino(meta.ino()));
                        assert!(slot.is_some(), "{path} has a limit but no subtree");
                        slots.insert(slot, inner.clone());
                    }
                    todo.push((path.clone(), inner));
                } else if !met.insert(meta.ino()) {
                    continue;
                }
                let bytes = if meta.is_file() {
                    let by_size = charge_for(meta.size());
                    if meta.blocks() * 512 > by_size {
                        by_size.max(charge_for(reserved(&entry.path())))
                    } else {
                        by_size
                    }
                } else {
                    0
                };
                for level in &above {
                    let at = used.get_mut(level).expect("levels are counted");
                    at.bytes += bytes;
                    at.inodes += 1;
                }
            }
        }
        self.fs.inodes.for_each(|_, node| {
            let subtree = node.subtree.load(Ordering::Relaxed);
            if !node.has(NodeFlags::UNLINKED) || subtree == 0 {
                return;
            }
            // A subtree whose directory is gone still counts for those around it.
            let around = |slot: &Slot| self.fs.quotas.parent(*slot);
            let counted = std::iter::successors(Slot::from_raw(subtree), around)
                .find(|slot| slots.contains_key(&Some(*slot)));
            if let Some(above) = slots.get(&counted) {
                for level in above {
                    let at = used.get_mut(level).expect("levels are counted");
                    at.bytes += node.charge.load(Ordering::Relaxed);
                    at.inodes += 1;
                }
            }
        });
        used
    }

    /// Compares the books with a recount. `borders`: the directories with limits of their own.
    pub fn check_books(&self, borders: &[&str]) {
        let expected = self.recount(borders);
        for (path, used) in &expected {
            let ino = std::fs::metadata(self.store.path(path))
                .map(|meta| Ino(meta.ino()))
                .expect("the store can be read");
            let slot = self.fs.quotas.find(ino).expect("limits have subtrees");
            let usage = self.fs.quotas.usage(slot);
            assert_eq!(
                (usage.used_bytes, usage.used_inodes),
                (used.bytes, used.inodes),
                "(bytes, inodes) in the books (left) and in a recount (right) of {path:?}: {:#?}",
                self.nodes()
            );
        }
    }

    /// All nodes, for the report of a failure.
    fn nodes(&self) -> Vec<String> {
        let mut nodes = Vec::new();
        self.fs.inodes.for_each(|_, node| {
            let Some(pin) = self.fs.inodes.pin(node.ino()) else {
                return;
            };
            let flags: Vec<_> = NodeFlags::all()
                .iter_names()
                .filter(|(_, flag)| node.has(*flag))
                .map(|(name, _)| name)
                .collect();
            let name = self.fs.inodes.name(&pin).unwrap_or_default();
            nodes.push(format!(
                "{:?} {} {:?} in {:?}: {} times, charged {} to {}, {}",
                node.kind(),
                node.ino().0,
                String::from_utf8_lossy(&name),
                self.fs.inodes.parent(&pin).map(|parent| parent.ino().0),
                node.nlookup(),
                node.charge.load(Ordering::Relaxed),
                node.subtree.load(Ordering::Relaxed),
                flags.join(" "),
            ));
        });
        nodes
    }

    /// No limit is exceeded anywhere.
    pub fn check_limits(&self) {
        for (_, usage) in self.fs.quotas.all() {
            assert!(
                usage.limit_bytes == UNLIMITED || usage.used_bytes <= usage.limit_bytes,
                "{usage:?}"
            );
            assert!(
                usage.limit_inodes == UNLIMITED || usage.used_inodes <= usage.limit_inodes,
                "{usage:?}"
            );
        }
    }

    /// The kernel's counts and the core's are the same.
    pub fn check_counts(&self) {
        let known = self.kernel.all();
        let mut ours = HashMap::new();
        self.fs.inodes.for_each(|_, node| {
            if node.nlookup() > 0 {
                ours.insert(node.ino(), node.nlookup());
            }
        });
        let theirs: HashMap<Ino, u64> = known.iter().map(|(ino, k)| (*ino, k.count)).collect();
        assert_eq!(ours, theirs, "lookup counts: ours, the kernel's");
    }

    /// All that can be seen through the core, by path.
    pub fn visible(&self) -> BTreeMap<String, Seen> {
        let caches = self.vfs.caches.swap(false, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(dir) = todo.pop() {
            let Ok(entries) = self.vfs.list(&dir, false) else {
                continue;
            };
            let mut names = HashSet::new();
            for (name, ino, kind) in entries {
                let name = String::from_utf8(name).expect("plain names");
                assert!(names.insert(name.clone()), "{dir}/{name} is listed twice");
                let path = format!("{dir}/{name}");
                let stat = match self.vfs.stat(&path) {
                    Ok(stat) => stat,
                    // Only the clock is turned, not the times of directories, from which they live on.
                    Err(Errno::NOENT) if kind == Kind::Directory => continue,
                    Err(error) => panic!("{path} is listed but cannot be looked up: {error}"),
                };
                assert_eq!((stat.ino, stat.kind), (ino, kind), "{path}");
                let content = if kind == Kind::File {
                    std::fs::read(self.store.path(&path)).expect("the store can be read")
                } else {
                    Vec::new()
                };
                if kind == Kind::Directory {
                    todo.push(path.clone());
                }
                all.insert(
                    path,
                    Seen {
                        ino,
                        kind,
                        size: if kind == Kind::Directory {
                            0
                        } else {
                            stat.size
                        },
                        nlink: if kind == Kind::Directory {
                            0
                        } else {
                            stat.nlink
                        },
                        content,
                    },
                );
            }
        }
        self.vfs.caches.store(caches, Ordering::Relaxed);
        all
    }

    /// Removes everything, forgets everything, and checks that nothing is left anywhere.
    pub fn check_empties(&self) {
        let mut paths: Vec<_> = self.visible().into_iter().collect();
        // Children before their directories.
        paths.reverse();
        for (path, seen) in paths {
            let removed = if seen.kind == Kind::Directory {
                self.vfs.rmdir(&path)
            } else {
                self.vfs.unlink(&path)
            };
            // A directory that is empty now may have expired long ago: only the clock was turned.
            let hidden = seen.kind == Kind::Directory && removed == Err(Errno::NOENT);
            assert!(removed == Ok(()) || hidden, "{path}: {removed:?}");
            self.erased();
        }
        self.kernel.evict_all();
        // Directories that live a while yet, one in another.
        for _ in 0..4 {
            self.reap();
            self.fs.clock.turn(Duration::from_secs(365 * 86400));
        }
        self.erased();
        self.check_nothing_left();
    }

    /// Nothing is left of anything that was there.
    pub fn check_nothing_left(&self) {
        let on_store: Vec<_> = std::fs::read_dir(self.store.path(""))
            .expect("the store can be read")
            .map(|entry| entry.expect("the store can be read").file_name())
            .filter(|name| name != ".ttlfs")
            .collect();
        assert!(
            on_store.is_empty(),
            "what has expired is still there: {on_store:?}"
        );
        let mut left = Vec::new();
        self.fs.inodes.for_each(|_, node| {
            if node.ino() != self.fs.root_ino() {
                left.push(format!(
                    "ino {} {:?} nlookup {} unlinked {} private {} queued {} kept {} dead {}",
                    node.ino().0,
                    node.kind(),
                    node.nlookup(),
                    node.has(NodeFlags::UNLINKED),
                    node.has(NodeFlags::PRIVATE),
                    node.has(NodeFlags::QUEUED),
                    node.has(NodeFlags::KEPT),
                    node.has(NodeFlags::DEAD),
                ));
            }
        });
        assert!(left.is_empty(), "nodes are left: {left:#?}");
        assert_eq!(self.fs.inodes.live(), 1, "nodes");
        assert_eq!(self.fs.inodes.live_names(), 0, "names");
        assert_eq!(self.fs.handles.live(), (0, 0), "open records, handles");
        assert!(
            self.store.private_names().is_empty(),
            "private state: {:?}",
            self.store.private_names()
        );
        for (_, usage) in self.fs.quotas.all() {
            assert_eq!(
                (usage.used_bytes, usage.used_inodes),
                (0, 0),
                "in an empty tree: {usage:?}"
            );
        }
    }
}
