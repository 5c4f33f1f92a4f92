//! The inode table: inode number <-> backing file, with the kernel's lookup counts.
//!
//! A node lives while the kernel knows its inode (`nlookup`), or while something of ours refers to it (`refs`: a pin for
//! the length of a call, a child that names it as its parent, the queue of deadlines, private state). When both are 0
//! it is freed, and its parent loses a reference.
//!
//! Left out on purpose: open files (`handles`), charges (`quota`), deadlines (`expiry`); a node only carries their
//! numbers.
//!
//! Lock order: a node's own lock (`Inodes::lock`), then a shard of the index. Shard locks are held for a few
//! instructions only, never across a system call.

use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};

use crate::clock::Time;
use crate::names::{NAME_FDS, NameRef, Names};
use crate::shared_record;
use crate::slab::{Record, Slab, Slot};
use crate::sys::fs::{Fid, MAX_FID_BYTES};

/// An inode number, as programs see it in `st_ino` and as the kernel names the inode to us (but for the root, which
/// the kernel calls 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// The type of a file: the top bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Fifo = 1,
    CharDevice = 2,
    Directory = 4,
    BlockDevice = 6,
    File = 8,
    Symlink = 10,
    Socket = 12,
}

impl Kind {
    /// The type in a `st_mode`.
    pub fn of_mode(mode: u32) -> Self {
        match (mode >> 12) & 0xf {
            1 => Kind::Fifo,
            2 => Kind::CharDevice,
            4 => Kind::Directory,
            6 => Kind::BlockDevice,
            10 => Kind::Symlink,
            12 => Kind::Socket,
            _ => Kind::File,
        }
    }
}

shared_record! {
    /// What is known of one inode.
    pub struct Node {
        /// 0 free, 1 in use.
        state: AtomicU32,
        /// `NodeFlags`, the type in the top four bits.
        flags: AtomicU32,
        ino: AtomicU64,
        /// How often the kernel was given this inode and has not forgotten it.
        nlookup: AtomicU64,
        /// Birth time, ns since the epoch.
        btime: AtomicI64,
        /// The moment before which it does not expire, whatever its rule says of its age: since it was moved, opened or
        /// renewed. 0 is none.
        floor: AtomicI64,
        /// The deadline as it was last computed, under which the node stands in the queue; 0 is none. What counts is
        /// computed anew.
        pub queued_at: AtomicI64,
        /// What the file costs its quotas, bytes.
        pub charge: AtomicU64,
        /// The directory of the name that it was last reached by.
        parent: AtomicU32,
        /// That name, where it is kept: for directories and for what can expire.
        name: AtomicU32,
        /// The subtree that is charged for this inode.
        pub subtree: AtomicU32,
        /// Directories: the state of the rules' automaton. Others: the settings in force.
        pub policy: AtomicU32,
        /// Directories: the subtree charged for what is in it. Others: the open record, if any.
        pub aux: AtomicU32,
        refs: AtomicU32,
        /// The next and the previous node in the same bucket of the queue of deadlines.
        pub queue_next: AtomicU32,
        /// See `queue_next`.
        pub queue_prev: AtomicU32,
        fid: [AtomicU32; MAX_FID_BYTES / 4],
        fid_kind_len: AtomicU32,
    }
}

impl Record for Node {
    fn state(&self) -> &AtomicU32 {
        &self.state
    }

    fn wipe(&self) {
        for word in [
            &self.flags,
            &self.parent,
            &self.name,
            &self.subtree,
            &self.policy,
            &self.aux,
            &self.refs,
            &self.queue_next,
            &self.queue_prev,
            &self.fid_kind_len,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        self.fid.iter().for_each(|w| w.store(0, Ordering::Relaxed));
        self.ino.store(0, Ordering::Relaxed);
        self.nlookup.store(0, Ordering::Relaxed);
        self.charge.store(0, Ordering::Relaxed);
        self.btime.store(0, Ordering::Relaxed);
        self.queued_at.store(0, Ordering::Relaxed);
        self.floor.store(0, Ordering::Relaxed);
    }
}

bitflags::bitflags! {
    /// Facts about a node.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NodeFlags: u32 {
        /// Its last name is gone.
        const UNLINKED = 1 << 0;
        /// It was opened since the kernel last forgot it: it may still be mapped after the last close.
        const OPENED = 1 << 1;
        /// It stands in the queue of deadlines, which holds a reference.
        const QUEUED = 1 << 2;
        /// Its only name is in private state, which holds a reference; programs see one link less.
        const PRIVATE = 1 << 3;
        /// Found in use after its deadline.
        const KEPT = 1 << 4;
        /// Opened for writing in passthrough since the kernel last forgot it: a mapping may change it at any time.
        const UNSEEN = 1 << 5;
        /// Its deadline has passed and it was found unused: no call may reach it any more.
        const DEAD = 1 << 6;
        /// Private, and handed to those who free or erase it.
        const FINISHING = 1 << 7;
        /// Its attribute flags were asked for or changed: descriptors are not kept after the last close.
        const REOPEN = 1 << 8;
    }
}

const PASSES_SHIFT: u32 = 16;
const NAME_CLASS_SHIFT: u32 = 26;
const KIND_SHIFT: u32 = 28;

impl Node {
    /// The inode number.
    pub fn ino(&self) -> Ino {
        Ino(self.ino.load(Ordering::Relaxed))
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.flags.load(Ordering::Relaxed) >> KIND_SHIFT << 12)
    }

    /// Birth time.
    pub fn btime(&self) -> Time {
        Time(self.btime.load(Ordering::Relaxed))
    }

    /// The moment before which it does not expire (but for its ceiling); `Time(0)` if there is none.
    pub fn floor(&self) -> Time {
        Time(self.floor.load(Ordering::Relaxed))
    }

    /// Sees to it that it does not expire before `at`.
    pub fn raise_floor(&self, at: Time) {
        self.floor.fetch_max(at.0, Ordering::Relaxed);
    }

    /// When it was last found to expire; [`Time::NEVER`] if it was not.
    pub fn deadline_hint(&self) -> Time {
        match self.queued_at.load(Ordering::Relaxed) {
            0 => Time::NEVER,
            at => Time(at),
        }
    }

    /// Whether its name is kept.
    pub fn has_name(&self) -> bool {
        self.name.load(Ordering::Relaxed) != 0
    }

    /// How often the kernel holds it.
    pub fn nlookup(&self) -> u64 {
        self.nlookup.load(Ordering::Acquire)
    }

    /// Whether all of `flags` are set.
    pub fn has(&self, flags: NodeFlags) -> bool {
        self.flags.load(Ordering::Acquire) & flags.bits() == flags.bits()
    }

    /// Sets flags; tells which of them were set before.
    pub fn set(&self, flags: NodeFlags) -> NodeFlags {
        NodeFlags::from_bits_truncate(
            self.flags.fetch_or(flags.bits(), Ordering::AcqRel) & flags.bits(),
        )
    }

    /// Clears flags; tells which of them were set before.
    pub fn clear(&self, flags: NodeFlags) -> NodeFlags {
        NodeFlags::from_bits_truncate(
            self.flags.fetch_and(!flags.bits(), Ordering::AcqRel) & flags.bits(),
        )
    }

    /// Notes with how many passes the data is to be overwritten; 0 is not at all.
    pub fn set_passes(&self, passes: u32) {
        let _ = self
            .flags
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |f| {
                Some(f & !(0x3f << PASSES_SHIFT) | passes.min(0x3f) << PASSES_SHIFT)
            });
    }

    /// See [`Node::set_passes`].
    pub fn passes(&self) -> u32 {
        self.flags.load(Ordering::Acquire) >> PASSES_SHIFT & 0x3f
    }

    /// The handle of the backing inode; `None` where the backing store has none.
    pub fn fid(&self) -> Option<Fid> {
        let kind_len = self.fid_kind_len.load(Ordering::Acquire);
        let len = (kind_len & 0xff) as u8;
        if len == 0 {
            return None;
        }
        let mut bytes = [0; MAX_FID_BYTES];
        for (four, word) in bytes.chunks_exact_mut(4).zip(&self.fid) {
            four.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Some(Fid {
            kind: (kind_len >> 8) as i32,
            len,
            bytes,
        })
    }

    /// A number that differs between two inodes that had the same inode number one after the other.
    pub fn generation(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.btime.load(Ordering::Relaxed) as u64;
        for word in &self.fid {
            hash = (hash ^ u64::from(word.load(Ordering::Relaxed))).wrapping_mul(0x0100_0000_01b3);
        }
        // The kernel keeps 32 bits of it.
        (hash >> 32) ^ (hash & 0xffff_ffff)
    }

    fn fill(&self, new: &NewNode) {
        self.ino.store(new.ino.0, Ordering::Relaxed);
        self.btime.store(new.btime.0, Ordering::Relaxed);
        let (kind_len, bytes) = match &new.fid {
            Some(fid) => ((fid.kind as u32) << 8 | u32::from(fid.len), fid.bytes),
            None => (0, [0; MAX_FID_BYTES]),
        };
        for (word, four) in self.fid.iter().zip(bytes.chunks_exact(4)) {
            word.store(
                u32::from_ne_bytes([four[0], four[1], four[2], four[3]]),
                Ordering::Relaxed,
            );
        }
        self.fid_kind_len.store(kind_len, Ordering::Release);
        self.subtree.store(new.subtree, Ordering::Relaxed);
        self.policy.store(new.policy, Ordering::Relaxed);
        self.aux.store(new.aux, Ordering::Relaxed);
        self.charge.store(new.charge, Ordering::Relaxed);
        let kept =
            self.flags.load(Ordering::Relaxed) & (NodeFlags::QUEUED.bits() | 3 << NAME_CLASS_SHIFT);
        self.flags
            .store(kept | (new.kind as u32) << KIND_SHIFT, Ordering::Release);
    }

    fn name_ref(&self) -> Option<NameRef> {
        let slot = Slot::from_raw(self.name.load(Ordering::Acquire))?;
        let class = (self.flags.load(Ordering::Relaxed) >> NAME_CLASS_SHIFT & 3) as u8;
        Some(NameRef { class, slot })
    }
}

/// What a new node starts with.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// The inode number.
    pub ino: Ino,
    /// The type.
    pub kind: Kind,
    /// Birth time.
    pub btime: Time,
    /// The handle of the backing inode.
    pub fid: Option<Fid>,
    /// See [`Node::subtree`].
    pub subtree: u32,
    /// See [`Node::policy`].
    pub policy: u32,
    /// See [`Node::aux`].
    pub aux: u32,
    /// What is already charged for it, bytes.
    pub charge: u64,
}

/// The table.
pub struct Inodes {
    nodes: Slab<Node>,
    names: Names,
    index: Vec<Mutex<HashTable<Slot>>>,
    locks: Vec<Mutex<()>>,
    /// Called for each slot that is freed, before it can be taken again.
    on_free: OnceLock<Box<dyn Fn(Slot) + Send + Sync>>,
}

impl std::fmt::Debug for Inodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inodes")
            .field("live", &self.live())
            .finish_non_exhaustive()
    }
}

const SHARDS: usize = 64;
const LOCKS: usize = 1024;

/// How many memfds the table needs.
pub const INODE_FDS: usize = 1 + NAME_FDS;

fn hash(ino: Ino) -> u64 {
    // Fibonacci hashing: inode numbers come in runs. The high bits choose the shard, hashbrown takes the rest.
    let h = ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}

/// A node that cannot be freed while this lives.
#[derive(Debug)]
pub struct Pin<'t> {
    table: &'t Inodes,
    slot: Slot,
}

impl Pin<'_> {
    /// Where the node stands.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

impl Deref for Pin<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.table.nodes.get(self.slot)
    }
}

impl Clone for Pin<'_> {
    fn clone(&self) -> Self {
        self.refs.fetch_add(1, Ordering::AcqRel);
        Self {
            table: self.table,
            slot: self.slot,
        }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.table.unref(self.slot);
    }
}

impl Inodes {
    /// The table in these memfds, with all that an earlier server left in it.
    pub fn new(mut files: Vec<OwnedFd>, max_nodes: usize) -> io::Result<Self> {
        assert_eq!(files.len(), INODE_FDS);
        let names: [OwnedFd; NAME_FDS] = files
            .split_off(1)
            .try_into()
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let nodes = files.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let table = Self {
            nodes: Slab::new(nodes, max_nodes)?,
            names: Names::new(names, max_nodes)?,
            index: (0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect(),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            on_free: OnceLock::new(),
        };
        table.nodes.for_each(|slot, node| {
            let mut shard = table.shard(node.ino()).lock();
            shard.insert_unique(hash(node.ino()), slot, |s| hash(table.nodes.get(*s).ino()));
        });
        Ok(table)
    }

    /// Has `each` called for each slot that is freed, before it can be taken again. To be said once.
    pub fn on_free(&self, each: Box<dyn Fn(Slot) + Send + Sync>) {
        let already = self.on_free.set(each).is_err();
        debug_assert!(!already);
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashTable<Slot>> {
        &self.index[(hash(ino) >> 58) as usize]
    }

    /// How many nodes there are.
    pub fn live(&self) -> usize {
        self.nodes.live()
    }

    /// How many names are kept.
    pub fn live_names(&self) -> usize {
        self.names.live()
    }

    /// The node of `ino`, if there is one.
    pub fn pin(&self, ino: Ino) -> Option<Pin<'_>> {
        let shard = self.shard(ino).lock();
        let slot = *shard.find(hash(ino), |s| self.nodes.get(*s).ino() == ino)?;
        self.nodes.get(slot).refs.fetch_add(1, Ordering::AcqRel);
        Some(Pin { table: self, slot })
    }

    /// The node at a slot which something that holds a reference of its own names (a child, the queue, an open record).
    pub fn pin_slot(&self, slot: Slot) -> Pin<'_> {
        self.nodes.get(slot).refs.fetch_add(1, Ordering::AcqRel);
        Pin { table: self, slot }
    }

    /// As `pin_slot`, for a slot found in memory that a dead server wrote; `None` if no node is there.
    pub fn pin_live(&self, slot: Slot) -> Option<Pin<'_>> {
        let is_live = self
            .nodes
            .checked(slot)
            .is_some_and(|node| node.state.load(Ordering::Acquire) != 0);
        is_live.then(|| self.pin_slot(slot))
    }

    /// Looks at a slot without taking a reference: for those that find out themselves whether it is still theirs.
    pub fn peek(&self, slot: Slot) -> Option<&Node> {
        self.nodes.checked(slot)
    }

    /// After a takeover: forgets all references but the kernel's and the children's, and everything that a dead server's
    /// queue left in the nodes. Holders add theirs again; until `drop_unreferenced` every node has one more.
    pub fn reset_refs(&self) {
        self.nodes.for_each(|_, node| {
            node.refs.store(1, Ordering::Relaxed);
            node.queue_next.store(0, Ordering::Relaxed);
            node.queue_prev.store(0, Ordering::Relaxed);
            node.clear(NodeFlags::QUEUED | NodeFlags::FINISHING | NodeFlags::KEPT);
        });
        self.nodes.for_each(|_, node| {
            if let Some(parent) = Slot::from_raw(node.parent.load(Ordering::Relaxed)) {
                match self.nodes.checked(parent) {
                    Some(parent) if parent.state.load(Ordering::Relaxed) != 0 => {
                        parent.refs.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => node.parent.store(0, Ordering::Relaxed),
                }
            }
        });
    }

    /// After a takeover: frees names that no node has.
    pub fn drop_stray_names(&self) {
        let mut used = std::collections::HashSet::new();
        self.nodes.for_each(|_, node| {
            if let Some(name) = node.name_ref() {
                used.insert((name.class, name.slot));
            }
        });
        for name in self.names.all() {
            if !used.contains(&(name.class, name.slot)) {
                self.names.remove(name);
            }
        }
    }

    /// Drops the reference that `reset_refs` gave to each node: those that nobody else refers to are freed.
    pub fn drop_unreferenced(&self) {
        let mut slots = Vec::new();
        self.nodes.for_each(|slot, _| slots.push(slot));
        for slot in slots {
            self.unref(slot);
        }
    }

    /// Makes a reference that somebody held into a pin.
    pub fn adopt(&self, slot: Slot) -> Pin<'_> {
        Pin { table: self, slot }
    }

    /// Adds a node, unless one of this number came in the meantime; tells whether it is new. It keeps no reference but
    /// the pin.
    pub fn insert(&self, new: &NewNode) -> io::Result<(Pin<'_>, bool)> {
        let (node, lock) = self.insert_locked(new)?;
        Ok((node, lock.is_some()))
    }

    /// As [`Inodes::insert`]; a new node comes with its own lock held, taken before anybody could find it.
    pub fn insert_locked(
        &self,
        new: &NewNode,
    ) -> io::Result<(Pin<'_>, Option<MutexGuard<'_, ()>>)> {
        let slot = self.nodes.take()?;
        let lock = self.lock(slot);
        let node = self.nodes.get(slot);
        node.fill(new);
        node.refs.store(1, Ordering::Relaxed);
        let mut shard = self.shard(new.ino).lock();
        if let Some(&found) = shard.find(hash(new.ino), |s| self.nodes.get(*s).ino() == new.ino) {
            self.nodes.get(found).refs.fetch_add(1, Ordering::AcqRel);
            drop((shard, lock));
            self.nodes.give_back(slot);
            return Ok((
                Pin {
                    table: self,
                    slot: found,
                },
                None,
            ));
        }
        node.state.store(1, Ordering::Release);
        shard.insert_unique(hash(new.ino), slot, |s| hash(self.nodes.get(*s).ino()));
        Ok((Pin { table: self, slot }, Some(lock)))
    }

    /// Makes the node that of another backing inode which was given the same number. The kernel's count stays: it
    /// counts for the number.
    pub fn refill(&self, node: &Pin<'_>, new: &NewNode) {
        node.fill(new);
    }

    /// Keeps a node beyond its pins: the holder calls [`Inodes::unref`] once.
    pub fn add_ref(&self, node: &Pin<'_>) {
        node.refs.fetch_add(1, Ordering::AcqRel);
    }

    /// Drops a reference; the last one frees the node and lets go of its parent.
    pub fn unref(&self, slot: Slot) {
        let mut next = Some(slot);
        while let Some(slot) = next {
            let node = self.nodes.get(slot);
            let ino = node.ino();
            let mut shard = self.shard(ino).lock();
            let before = node.refs.fetch_sub(1, Ordering::AcqRel);
            assert!(before > 0, "a reference is dropped once");
            if before > 1 || node.nlookup() > 0 {
                return;
            }
            if let Ok(entry) = shard.find_entry(hash(ino), |s| *s == slot) {
                entry.remove();
            }
            if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
                let keep = shard.len() * 2;
                shard.shrink_to(keep, |s| hash(self.nodes.get(*s).ino()));
            }
            drop(shard);
            if let Some(name) = node.name_ref() {
                // The node lets go first: a server that dies in between leaves a stray name, which is found, and not
                // a node that names what another may have by then.
                node.name.store(0, Ordering::Release);
                self.names.remove(name);
            }
            next = Slot::from_raw(node.parent.load(Ordering::Relaxed));
            if let Some(on_free) = self.on_free.get() {
                on_free(slot);
            }
            self.nodes.give_back(slot);
        }
    }

    /// Counts one more reference of the kernel: to be called in the moment of the reply that gives it.
    pub fn add_lookup(&self, node: &Pin<'_>) {
        node.nlookup.fetch_add(1, Ordering::AcqRel);
    }

    /// The kernel forgot `count` references; returns what is left.
    pub fn sub_lookup(&self, node: &Pin<'_>, count: u64) -> u64 {
        let before = node
            .nlookup
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                Some(n.saturating_sub(count))
            })
            .unwrap_or(0);
        if before < count {
            tracing::error!(
                ino = node.ino().0,
                before,
                count,
                "the kernel forgot more than it was given"
            );
        }
        before.saturating_sub(count)
    }

    /// A node's own lock: size and charge change under it, and it comes and goes from the open table.
    pub fn lock(&self, slot: Slot) -> MutexGuard<'_, ()> {
        self.locks[Self::lock_index(slot)].lock()
    }

    /// The locks of two nodes, in an order that cannot deadlock; one if they share it.
    pub fn lock_two(&self, a: Slot, b: Slot) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (a, b) = (Self::lock_index(a), Self::lock_index(b));
        let first = self.locks[a.min(b)].lock();
        (first, (a != b).then(|| self.locks[a.max(b)].lock()))
    }

    fn lock_index(slot: Slot) -> usize {
        (slot.raw() as usize).wrapping_mul(0x9e37_79b1) >> 7 & (LOCKS - 1)
    }

    /// The directory that the node was last reached in.
    pub fn parent<'t>(&'t self, node: &Pin<'t>) -> Option<Pin<'t>> {
        // The parent is named by this node, which therefore holds a reference; but another thread may just be
        // renaming the node, so the reference is taken under the parent's shard only after a second look.
        loop {
            let raw = node.parent.load(Ordering::Acquire);
            let slot = Slot::from_raw(raw)?;
            let parent = self.nodes.get(slot);
            let ino = parent.ino();
            let shard = self.shard(ino).lock();
            if node.parent.load(Ordering::Acquire) == raw && parent.ino() == ino {
                parent.refs.fetch_add(1, Ordering::AcqRel);
                drop(shard);
                return Some(Pin { table: self, slot });
            }
        }
    }

    /// The name that the node was last reached by, where it is kept.
    pub fn name(&self, node: &Pin<'_>) -> Option<Vec<u8>> {
        let _lock = self.lock(node.slot);
        self.names.get(node.name_ref()?)
    }

    /// The directory and the name, read as one. `None`: they are not kept.
    pub fn place<'t>(&'t self, node: &Pin<'t>) -> Option<(Pin<'t>, Vec<u8>)> {
        loop {
            let parent = self.parent(node)?;
            let name = self.name(node)?;
            if node.parent.load(Ordering::Acquire) == parent.slot.raw() && self.name(node)? == name
            {
                return Some((parent, name));
            }
        }
    }

    /// Notes where the node was reached; `name` only where it has to be kept.
    pub fn set_place(
        &self,
        node: &Pin<'_>,
        parent: &Pin<'_>,
        name: Option<&[u8]>,
    ) -> io::Result<()> {
        let new_name = name.map(|n| self.names.add(n)).transpose()?;
        let lock = self.lock(node.slot);
        let old_name = node.name_ref();
        let old_parent = node.parent.load(Ordering::Acquire);
        if old_parent != parent.slot.raw() {
            parent.refs.fetch_add(1, Ordering::AcqRel);
            // Under the old parent's shard, so that nobody takes a reference to it through this node any more.
            let shard =
                Slot::from_raw(old_parent).map(|s| self.shard(self.nodes.get(s).ino()).lock());
            node.parent.store(parent.slot.raw(), Ordering::Release);
            drop(shard);
        }
        if let Some(new_name) = new_name {
            // Without a name in between: the size class and the slot are two words.
            node.name.store(0, Ordering::Release);
            let class = u32::from(new_name.class) << NAME_CLASS_SHIFT;
            let _ = node
                .flags
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |f| {
                    Some(f & !(3 << NAME_CLASS_SHIFT) | class)
                });
            node.name.store(new_name.slot.raw(), Ordering::Release);
            if let Some(old_name) = old_name {
                self.names.remove(old_name);
            }
        }
        drop(lock);
        if old_parent != parent.slot.raw()
            && let Some(old_parent) = Slot::from_raw(old_parent)
        {
            self.unref(old_parent);
        }
        Ok(())
    }

    /// Whether the node is kept under `name` in `parent`.
    pub fn is_at(&self, node: &Pin<'_>, parent: &Pin<'_>, name: &[u8]) -> bool {
        node.parent.load(Ordering::Acquire) == parent.slot.raw()
            && (!node.has_name() || self.name(node).is_none_or(|n| n == name))
    }

    /// Calls `each` for every node; nodes that come or go meanwhile may or may not be seen.
    pub fn for_each(&self, mut each: impl FnMut(Slot, &Node)) {
        self.nodes.for_each(|slot, node| each(slot, node));
    }
}

#[cfg(test)]
mod tests;
