//! The core: what the kernel, the admin and the clock may do to the tree, and the doors through which they enter.
//!
//! Every operation enters by a door: [`Fs::live`] by inode number, [`Fs::dir`] for the directory of a name,
//! [`Fs::child`] for a name. The doors check expiry; charges are taken by guards; what leaves the tree leaves through
//! `Fs::remove_name`.
//!
//! Lock order: a directory's lock (`dir_lock`: names in it change), a node's lock (`Inodes::lock`: size, charge, open
//! record), the queue of deadlines, shards of the index. No lock is held across a notification to the kernel, and no
//! table lock across a system call.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::backing::{Backing, Meta};
use crate::clock::{Clock, Time};
use crate::creators::Creators;
use crate::descriptors::Descriptors;
use crate::error::{FsError, FsResult, QuotaErrno};
use crate::expiry::{self, Moments, Queue};
use crate::handles::Handles;
use crate::identity::{self, Caller};
use crate::inflight::{Done, InFlight};
use crate::inodes::{Ino, Inodes, Kind, NewNode, NodeFlags, Pin};
use crate::links::Links;
use crate::policy::{DirState, Policy, SettingsId};
use crate::quota::{Amount, Quotas, SubtreeLimits, UNLIMITED, charge_for};
use crate::rule::{self, Settings};
use crate::slab::Slot;

mod attr;
mod dir;
mod io;
mod namespace;
mod remove;
mod takeover;
mod xattr;

pub use attr::{Change, Space, When};
pub use dir::DirEntry;
pub use io::{Opened, RESERVED_XATTR, Transfer};
pub use namespace::{Found, New};
pub use remove::{Reap, Reaped};

/// The name of private state in the root: invisible and reserved.
pub const PRIVATE_NAME: &CStr = c".ttlfs";

/// The moment before which a file does not expire: ns since the epoch, 8 bytes, little-endian, on the backing file.
const FLOOR_XATTR: &CStr = c"trusted.ttlfs.floor";

/// How long the kernel may answer from its caches where nothing expires: the tree changes through the mount only.
const CACHE_FOR: Duration = Duration::from_secs(3600);

/// The kernel counts a timeout from when it reads the reply, and in clock ticks: what a busy machine may add.
const TICKS: Duration = Duration::from_millis(100);

/// Where data may travel on this mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The mode of files that no limit concerns.
    pub mode: crate::handles::IoMode,
}

/// The core.
#[derive(Debug)]
pub struct Fs {
    /// The backing directory.
    pub backing: Backing,
    /// Private state: where unlinked files go that cannot be freed yet.
    pub private: OwnedFd,
    /// Inodes.
    pub inodes: Inodes,
    /// Open files.
    pub handles: Handles,
    /// Limits.
    pub quotas: Quotas,
    /// Deadlines.
    pub queue: Queue,
    /// Time.
    pub clock: Clock,
    /// Who made what.
    pub creators: Creators,
    /// Requests being served.
    pub in_flight: InFlight,
    descriptors: Arc<Descriptors>,
    policy: RwLock<Arc<Policy>>,
    dir_locks: Vec<Mutex<()>>,
    root: Slot,
    root_ino: Ino,
    /// Whether the daemon may take on its callers' identities.
    pub privileged: bool,
    /// Whether ACLs are served.
    pub acl: bool,
    /// Lifetimes of what was there before ttlfs count from here.
    pub adopted: Option<Time>,
    transport: RwLock<Transport>,
    /// The names of files with several, where they can expire.
    pub links: Links,
    work: crate::work::Work,
    pool: crate::pool::Pool,
    /// Bytes that wait for erasure.
    pub erase_backlog_bytes: AtomicU64,
    device: OnceLock<OwnedFd>,
    mount_device: OnceLock<u64>,
    mountpoint: OnceLock<std::path::PathBuf>,
    /// A thread of ours that may find an expired file.
    shown: Mutex<Option<(u32, Ino)>>,
    stopping: AtomicBool,
}

/// What the core is made of.
#[derive(Debug)]
pub struct Parts {
    /// See [`Fs::backing`].
    pub backing: Backing,
    /// See [`Fs::private`].
    pub private: OwnedFd,
    /// See [`Fs::inodes`].
    pub inodes: Inodes,
    /// See [`Fs::handles`].
    pub handles: Handles,
    /// See [`Fs::quotas`].
    pub quotas: Quotas,
    /// See [`Fs::clock`].
    pub clock: Clock,
    /// See [`Fs::creators`].
    pub creators: Creators,
    /// See [`Fs::in_flight`].
    pub in_flight: InFlight,
    /// The rules.
    pub policy: Policy,
    /// How many descriptors may be cached.
    pub descriptors: usize,
    /// See [`Fs::privileged`].
    pub privileged: bool,
    /// See [`Fs::acl`].
    pub acl: bool,
    /// See [`Fs::adopted`].
    pub adopted: Option<Time>,
    /// Where data may travel.
    pub transport: Transport,
}

/// A directory through its door: its node and a descriptor of it.
#[derive(Debug)]
pub struct Dir<'f> {
    /// The node.
    pub node: Pin<'f>,
    fd: Arc<OwnedFd>,
}

impl Dir<'_> {
    /// A location descriptor of the directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its place in the rules.
    pub fn state(&self) -> DirState {
        DirState(self.node.policy.load(Ordering::Relaxed))
    }

    /// The subtree that is charged for what is in it.
    pub fn subtree(&self) -> Option<Slot> {
        Slot::from_raw(self.node.aux.load(Ordering::Relaxed))
    }
}

/// An inode as it is given to the kernel.
#[derive(Debug)]
pub struct Entry<'f> {
    /// The node: pinned until the reply is on its way.
    pub node: Pin<'f>,
    /// Its attributes.
    pub meta: Meta,
    /// How long the kernel may keep the name.
    pub valid: Duration,
    /// How long it may keep the attributes.
    pub attr_valid: Duration,
}

/// What a deadline says about a file right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It lives until then.
    Live(Time),
    /// It has expired, but is in use.
    Kept,
    /// It has expired.
    Expired,
}

impl Fs {
    /// Puts the core together; the root's node is found again or made.
    pub fn new(parts: Parts) -> FsResult<Self> {
        let meta = parts.backing.stat(parts.backing.root())?;
        let policy = parts.policy;
        let limits = subtree_limits(&policy, policy.root());
        let subtree = parts.quotas.subtree(meta.ino, None, limits)?;
        let (root, _) = parts.inodes.insert(&NewNode {
            ino: meta.ino,
            kind: Kind::Directory,
            btime: meta.btime,
            fid: parts.backing.fid(parts.backing.root(), c"")?,
            subtree: subtree.raw(),
            policy: policy.root().0,
            aux: subtree.raw(),
            charge: 0,
        })?;
        let descriptors = Arc::new(Descriptors::new(parts.descriptors));
        parts.inodes.on_free({
            let descriptors = descriptors.clone();
            Box::new(move |slot| descriptors.forget(slot))
        });
        let root_slot = root.slot();
        if root.fid().is_none() {
            let fd = parts.backing.open_path(parts.backing.root(), c".")?;
            descriptors.hold(root_slot, Arc::new(fd));
        }
        // The root is never forgotten.
        std::mem::forget(root);
        Ok(Self {
            root: root_slot,
            root_ino: meta.ino,
            backing: parts.backing,
            private: parts.private,
            inodes: parts.inodes,
            handles: parts.handles,
            quotas: parts.quotas,
            queue: Queue::default(),
            clock: parts.clock,
            creators: parts.creators,
            in_flight: parts.in_flight,
            descriptors,
            policy: RwLock::new(Arc::new(policy)),
            dir_locks: (0..1024).map(|_| Mutex::new(())).collect(),
            privileged: parts.privileged,
            acl: parts.acl,
            adopted: parts.adopted,
            transport: RwLock::new(parts.transport),
            links: Links::default(),
            work: crate::work::Work::default(),
            pool: crate::pool::Pool::new()?,
            erase_backlog_bytes: AtomicU64::new(0),
            device: OnceLock::new(),
            mount_device: OnceLock::new(),
            mountpoint: OnceLock::new(),
            shown: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// The rules in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().clone()
    }

    /// What waits to be done by other threads.
    pub fn work(&self) -> &crate::work::Work {
        &self.work
    }

    /// Threads for what may take long.
    pub fn pool(&self) -> &crate::pool::Pool {
        &self.pool
    }

    /// Where passthrough ids are made.
    pub fn set_device(&self, device: OwnedFd) {
        let already = self.device.set(device).is_err();
        debug_assert!(!already, "a core serves one connection");
    }

    /// Learns at the start of the session what the kernel can do.
    pub fn set_transport(&self, transport: Transport) {
        *self.transport.write() = transport;
    }

    /// Where data may travel.
    pub fn transport(&self) -> Transport {
        *self.transport.read()
    }

    /// The mount's device number, once it is known.
    pub fn mount_device(&self) -> Option<u64> {
        self.mount_device.get().copied()
    }

    /// Learns the mount's device number.
    pub fn set_mount_device(&self, device: u64) {
        let _ = self.mount_device.set(device);
    }

    /// Lets the calling thread, and nobody else, find an expired file through the mount.
    pub(crate) fn show_to_this_thread(&self, ino: Option<Ino>) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        *self.shown.lock() = ino.map(|ino| (tid, ino));
    }

    /// Learns where the mount is.
    pub fn set_mountpoint(&self, mountpoint: std::path::PathBuf) {
        let _ = self.mountpoint.set(mountpoint);
    }

    /// A node's path within the mount, beginning with a slash; `None` where a name is not kept.
    pub(crate) fn path_in_mount(&self, node: &Pin<'_>) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = node.clone();
        while at.slot() != self.root {
            let (parent, name) = self.inodes.place(&at)?;
            names.push(name);
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Some(path)
    }

    /// A node's path through the mount, as far as its names are known.
    pub(crate) fn path_through_mount(&self, node: &Pin<'_>) -> Option<std::path::PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let mut path = self.mountpoint.get()?.clone().into_os_string();
        path.push(std::ffi::OsString::from_vec(self.path_in_mount(node)?));
        Some(path.into())
    }

    /// The root's inode number.
    pub fn root_ino(&self) -> Ino {
        self.root_ino
    }

    /// Whether threads should end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Set when threads should end.
    pub fn stopping(&self) -> &AtomicBool {
        &self.stopping
    }

    /// Ends the threads that wait for work.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.work.wake_all();
        self.creators.wake();
        self.pool.stop();
    }

    // ---- The doors ----

    /// The door by number. `Stale`: it is gone or has expired; the kernel looks the name up again.
    pub fn live(&self, ino: Ino) -> FsResult<Pin<'_>> {
        let node = self.inodes.pin(ino).ok_or(FsError::Stale)?;
        if node.has(NodeFlags::DEAD) {
            return Err(FsError::Stale);
        }
        Ok(node)
    }

    /// The door to a directory, for calls on names in it.
    pub fn dir(&self, ino: Ino) -> FsResult<Dir<'_>> {
        let node = self.live(ino)?;
        let fd = self.location(&node)?;
        Ok(Dir { node, fd })
    }

    /// The door by name: what `name` is in `dir`, unless it has expired. The attributes are fresh.
    pub fn child(&self, dir: &Dir<'_>, name: &CStr) -> FsResult<(Pin<'_>, Meta, Verdict)> {
        self.check_reserved(dir, name)?;
        let meta = match self.backing.stat_at(dir.fd(), name) {
            Err(Errno::NOENT) => return Err(FsError::NotFound),
            meta => meta?,
        };
        let node = self.known(dir, name, &meta)?;
        match self.verdict(&node, &meta)? {
            Verdict::Expired => {
                if !node.has(NodeFlags::QUEUED) {
                    // One of several names, or met before its deadline was known.
                    self.inodes
                        .set_place(&node, &dir.node, Some(name.to_bytes()))?;
                    self.schedule(&node, self.clock.now());
                }
                Err(FsError::NotFound)
            }
            verdict => Ok((node, meta, verdict)),
        }
    }

    /// `NotFound` for private state's name in the root.
    pub(crate) fn check_reserved(&self, dir: &Dir<'_>, name: &CStr) -> FsResult<()> {
        if dir.node.slot() == self.root && name == PRIVATE_NAME {
            return Err(FsError::NotFound);
        }
        Ok(())
    }

    /// `Reserved` for making private state's name in the root.
    pub(crate) fn check_new_name(&self, dir: &Dir<'_>, name: &CStr) -> FsResult<()> {
        if dir.node.slot() == self.root && name == PRIVATE_NAME {
            return Err(FsError::Reserved);
        }
        if dir.node.has(NodeFlags::UNLINKED) {
            return Err(FsError::NotFound);
        }
        Ok(())
    }

    // ---- Nodes ----

    /// The node of what `meta` describes at `name` in `dir`: found or made, its place and rules brought up to date.
    pub(crate) fn known(&self, dir: &Dir<'_>, name: &CStr, meta: &Meta) -> FsResult<Pin<'_>> {
        if !self.backing.is_ours(meta) {
            return Err(FsError::OtherFilesystem);
        }
        if let Some(node) = self.inodes.pin(meta.ino)
            && !node.has(NodeFlags::UNLINKED)
            && self.is_same(&node, meta)
        {
            self.place(&node, dir, name, meta)?;
            return Ok(node);
        }
        let fid = self.backing.fid(dir.fd(), name)?;
        let held = if fid.is_none() {
            Some(self.backing.open_path(dir.fd(), name)?)
        } else {
            None
        };
        self.introduce(dir, name, meta, fid, held, None)
    }

    /// Adds a node for an inode that was just met or made. `charge`: what it is charged; `None`: what its attributes
    /// say it was charged.
    pub(crate) fn introduce(
        &self,
        dir: &Dir<'_>,
        name: &CStr,
        meta: &Meta,
        fid: Option<crate::sys::fs::Fid>,
        held: Option<OwnedFd>,
        charge: Option<u64>,
    ) -> FsResult<Pin<'_>> {
        let policy = self.policy();
        let (policy_word, aux) = self.placement(&policy, dir, name, meta)?;
        let is_met = charge.is_none();
        let charge_of =
            |meta: &Meta| self.charge_of(meta, || self.backing.open_path(dir.fd(), name).ok());
        let charge = charge.unwrap_or_else(|| charge_of(meta));
        let new = NewNode {
            ino: meta.ino,
            kind: meta.kind(),
            btime: meta.btime,
            fid,
            subtree: dir.subtree().map_or(0, Slot::raw),
            policy: policy_word,
            aux,
            charge,
        };
        let (node, lock) = self.inodes.insert_locked(&new)?;
        let is_new = lock.is_some();
        if is_new && is_met && meta.kind() == Kind::File && policy.has_limits() {
            // It may have been opened, written and forgotten since its attributes were read. From here on nobody
            // changes its size without this lock.
            let now = self.backing.stat_at(dir.fd(), name)?;
            if now.ino != meta.ino {
                return Err(FsError::NotFound);
            }
            node.charge.store(charge_of(&now), Ordering::Release);
        }
        drop(lock);
        if !is_new && (node.has(NodeFlags::UNLINKED) || !self.is_same(&node, meta)) {
            // The number was given to another file before the kernel let go of the old one.
            let lock = self.inodes.lock(node.slot());
            self.bury(&node);
            self.inodes.refill(&node, &new);
            drop(lock);
        }
        if let Some(fd) = held {
            self.descriptors.hold(node.slot(), Arc::new(fd));
        }
        self.place(&node, dir, name, meta)?;
        Ok(node)
    }

    /// Whether `meta`, of the same inode number, is of the file that the node stands for.
    fn is_same(&self, node: &Pin<'_>, meta: &Meta) -> bool {
        node.kind() == meta.kind() && (node.btime() == meta.btime || !meta.has_btime)
    }

    /// The inode that the node stood for is gone for good, and its number taken by another.
    fn bury(&self, node: &Pin<'_>) {
        self.queue.remove(&self.inodes, node);
        self.descriptors.forget(node.slot());
        if node.kind() != Kind::Directory
            && let Some(open) = Slot::from_raw(node.aux.load(Ordering::Acquire))
        {
            if self.handles.file(open).handles() == 0 {
                self.drop_open_file(node, open);
            } else {
                tracing::error!(
                    ino = node.ino().0,
                    "an inode number was reused while its file was open"
                );
            }
        }
        if node.has(NodeFlags::UNLINKED) {
            self.uncharge(node);
        }
    }

    /// Where an inode at `name` in `dir` stands in rules and quotas: the words for [`NewNode::policy`] and
    /// [`NewNode::aux`].
    fn placement(
        &self,
        policy: &Policy,
        dir: &Dir<'_>,
        name: &CStr,
        meta: &Meta,
    ) -> FsResult<(u32, u32)> {
        if meta.kind() == Kind::Directory {
            let state = policy.enter(dir.state(), name.to_bytes());
            let subtree = match policy.limits_at(state) {
                Some(_) => Some(self.quotas.subtree(
                    meta.ino,
                    dir.subtree(),
                    subtree_limits(policy, state),
                )?),
                None => dir.subtree(),
            };
            Ok((state.0, subtree.map_or(0, Slot::raw)))
        } else {
            Ok((policy.settings_id_for(dir.state(), name.to_bytes()).0, 0))
        }
    }

    /// Brings a known node's place and settings up to date, and its deadline into the queue.
    fn place(&self, node: &Pin<'_>, dir: &Dir<'_>, name: &CStr, meta: &Meta) -> FsResult<()> {
        let policy = self.policy();
        let is_dir = meta.kind() == Kind::Directory;
        if !is_dir {
            let id = policy.settings_id_for(dir.state(), name.to_bytes());
            if node.policy.load(Ordering::Relaxed) != id.0 {
                node.policy.store(id.0, Ordering::Relaxed);
            }
        }
        let settings = self.settings_in(&policy, node);
        let keep_name = is_dir || settings.may_expire();
        let name = keep_name.then_some(name.to_bytes());
        if !self
            .inodes
            .is_at(node, dir_node(dir), name.unwrap_or_default())
            || (keep_name && !node.has_name())
        {
            self.inodes.set_place(node, dir_node(dir), name)?;
        }
        if !is_dir
            && meta.nlink > 1
            && let Some(name) = name
        {
            self.links.note(meta.ino, dir.node.ino(), name);
        }
        if settings.may_expire() && node.deadline_hint() == Time::NEVER {
            let at = self.deadline_in(settings, node, meta);
            self.schedule(node, at);
        }
        Ok(())
    }

    /// Brings the places in the rules up to date of everything below a directory that was moved to where other rules
    /// hold. What can expire is looked at by the reaper, which finds the new deadline.
    pub(crate) fn refresh_below(&self, moved: &Pin<'_>) -> FsResult<()> {
        let policy = self.policy();
        let same = (moved.slot() != self.root).then_some(self.root);
        let mut inos = Vec::new();
        self.inodes.for_each(|_, node| inos.push(node.ino()));
        let mut states: HashMap<Slot, Option<DirState>> = HashMap::new();
        states.extend(same.map(|root| (root, None)));
        states.insert(
            moved.slot(),
            Some(DirState(moved.policy.load(Ordering::Relaxed))),
        );
        for ino in inos {
            let Some(node) = self.inodes.pin(ino) else {
                continue;
            };
            if node.slot() == moved.slot() || node.slot() == self.root {
                continue;
            }
            if node.kind() == Kind::Directory {
                self.refreshed_state(&policy, &node, &mut states);
                continue;
            }
            let Some(parent) = self.inodes.parent(&node) else {
                continue;
            };
            let Some(state) = self.refreshed_state(&policy, &parent, &mut states) else {
                continue;
            };
            let name = self.inodes.name(&node).unwrap_or_default();
            node.policy
                .store(policy.settings_id_for(state, &name).0, Ordering::Relaxed);
            if node.has_name() && same.is_some() {
                // The reaper finds the new deadline.
                self.schedule(&node, self.clock.now());
            }
        }
        Ok(())
    }

    /// The new state of a directory if it lies below one whose state is known to have changed; `None` if not.
    fn refreshed_state(
        &self,
        policy: &Policy,
        dir: &Pin<'_>,
        states: &mut HashMap<Slot, Option<DirState>>,
    ) -> Option<DirState> {
        let mut chain = Vec::new();
        let mut at = dir.clone();
        let mut state = loop {
            if let Some(known) = states.get(&at.slot()) {
                break *known;
            }
            let parent = self.inodes.parent(&at)?;
            chain.push(at);
            at = parent;
        };
        for node in chain.into_iter().rev() {
            state = state.and_then(|state| Some(policy.enter(state, &self.inodes.name(&node)?)));
            if let Some(state) = state {
                node.policy.store(state.0, Ordering::Relaxed);
            }
            states.insert(node.slot(), state);
        }
        state
    }

    /// The settings in force for a node.
    pub(crate) fn settings_in<'p>(&self, policy: &'p Policy, node: &Pin<'_>) -> &'p Settings {
        let word = node.policy.load(Ordering::Relaxed);
        if node.kind() == Kind::Directory {
            policy.dir_settings(DirState(word))
        } else {
            policy.settings(SettingsId(word))
        }
    }

    /// A location descriptor of a node.
    pub(crate) fn location(&self, node: &Pin<'_>) -> FsResult<Arc<OwnedFd>> {
        if let Some(fd) = self.descriptors.get(node.slot()) {
            return Ok(fd);
        }
        if node.kind() != Kind::Directory
            && let Some(open) = Slot::from_raw(node.aux.load(Ordering::Acquire))
            && let Some(fd) = self.handles.descriptor(open, node.slot())
        {
            return Ok(fd);
        }
        let Some(fid) = node.fid() else {
            return Err(FsError::Stale);
        };
        let fd = Arc::new(
            self.backing
                .open_fid(&fid, OFlags::PATH | OFlags::NOFOLLOW)?,
        );
        self.descriptors.remember(node.slot(), fd.clone());
        Ok(fd)
    }

    /// The lock under which the names in a directory change.
    pub(crate) fn dir_lock(&self, dir: &Pin<'_>) -> MutexGuard<'_, ()> {
        self.dir_locks[dir_lock_index(dir.slot())].lock()
    }

    /// The locks of two directories, in an order that cannot deadlock.
    pub(crate) fn dir_locks(
        &self,
        a: &Pin<'_>,
        b: &Pin<'_>,
    ) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (a, b) = (dir_lock_index(a.slot()), dir_lock_index(b.slot()));
        let first = self.dir_locks[a.min(b)].lock();
        (first, (a != b).then(|| self.dir_locks[a.max(b)].lock()))
    }

    // ---- Time ----

    /// When the node expires, going by its own rule and `meta`. For a directory: if nothing is in it.
    pub(crate) fn deadline_in(&self, settings: &Settings, node: &Pin<'_>, meta: &Meta) -> Time {
        let created = self
            .adopted
            .map_or(node.btime(), |adopted| adopted.max(node.btime()));
        if node.kind() == Kind::Directory {
            if node.slot() == self.root {
                return Time::NEVER;
            }
            // The change time rather than the modification time, which anybody may set: it moves with each entry.
            let changed = meta.ctime.time().max(created);
            let by_ttl = settings.ttl.map_or(Time::NEVER, |ttl| changed.after(ttl));
            return by_ttl.min(expiry::ceiling(settings, created));
        }
        let modified = meta
            .mtime
            .time()
            .max(self.adopted.unwrap_or(Time(i64::MIN)));
        // Opens and closes that were seen raise the floor; before the first, the file's own times are all there is.
        let accessed = created.max(modified).max(meta.atime.time());
        let moments = Moments {
            created,
            modified,
            accessed,
        };
        expiry::deadline(settings, moments)
            .max(node.floor())
            .min(expiry::ceiling(settings, created))
    }

    /// What the deadline says about a node.
    pub(crate) fn verdict(&self, node: &Pin<'_>, meta: &Meta) -> FsResult<Verdict> {
        if node.has(NodeFlags::DEAD) {
            return Ok(Verdict::Expired);
        }
        let policy = self.policy();
        let settings = self.settings_in(&policy, node);
        if !settings.may_expire() {
            return Ok(Verdict::Live(Time::NEVER));
        }
        let at = self.deadline_in(settings, node, meta);
        let now = self.clock.now();
        if at > now {
            return Ok(Verdict::Live(at));
        }
        if node.floor() == Time(0) && node.kind() == Kind::File {
            // An earlier mount may have left a word that it lives longer.
            let kept = self.kept_floor(node);
            node.raise_floor(kept.max(Time(1)));
            let at = self.deadline_in(settings, node, meta);
            if at > now {
                return Ok(Verdict::Live(at));
            }
        }
        if node.kind() == Kind::Directory {
            if policy
                .here(DirState(node.policy.load(Ordering::Relaxed)))
                .is_rules_own
            {
                return Ok(Verdict::Live(Time::NEVER));
            }
            if !self.is_bare(node)? {
                // What is in it must go first, and only then does the directory's own time begin.
                return Ok(Verdict::Live(now.after(settings.ttl.unwrap_or(CACHE_FOR))));
            }
        }
        Ok(if self.in_use(node) {
            Verdict::Kept
        } else {
            Verdict::Expired
        })
    }

    /// Whether a node counts as in use although its deadline has passed: it is open, may still be mapped, or was found
    /// in use by the reaper.
    pub(crate) fn in_use(&self, node: &Pin<'_>) -> bool {
        if node.has(NodeFlags::KEPT) {
            return true;
        }
        if node.kind() == Kind::Directory {
            return false;
        }
        node.has(NodeFlags::OPENED) || self.has_handles(node)
    }

    /// How long the kernel may keep a name that lives until the verdict's time.
    pub(crate) fn valid_for(&self, verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Live(Time::NEVER) => CACHE_FOR,
            Verdict::Live(at) => self
                .clock
                .now()
                .until(at)
                .saturating_sub(TICKS)
                .min(CACHE_FOR),
            Verdict::Kept | Verdict::Expired => Duration::ZERO,
        }
    }

    /// Puts a node into the queue of deadlines, and wakes the reaper if that is the next one.
    pub(crate) fn schedule(&self, node: &Pin<'_>, at: Time) {
        self.queue.schedule(&self.inodes, node, at);
        self.work.wake_reaper_before(at);
    }

    /// The floor that an earlier mount noted on the backing file; 0 if none.
    fn kept_floor(&self, node: &Pin<'_>) -> Time {
        let mut value = [0; 8];
        match self
            .location(node)
            .map(|fd| self.backing.get_xattr(fd.as_fd(), FLOOR_XATTR, &mut value))
        {
            Ok(Ok(8)) => Time(i64::from_le_bytes(value)),
            _ => Time(0),
        }
    }

    /// Sees to it that a file does not expire before `at`, in this mount and, where the backing store can note it, in
    /// later ones.
    pub(crate) fn keep_until(&self, node: &Pin<'_>, at: Time) {
        if node.floor() == Time(0) && node.kind() == Kind::File {
            // The word of an earlier mount still holds.
            node.raise_floor(self.kept_floor(node));
        }
        node.raise_floor(at);
        let at = node.floor();
        let noted = self.location(node).and_then(|fd| {
            Ok(self.backing.set_xattr(
                fd.as_fd(),
                FLOOR_XATTR,
                &at.0.to_le_bytes(),
                XattrFlags::empty(),
            )?)
        });
        if let Err(error) = noted {
            tracing::debug!(%error, ino = node.ino().0, "a later mount will not know that a file was to live longer");
        }
    }

    // ---- Charges ----

    /// What a file is charged, going by its attributes. `open` is asked only where blocks lie beyond the size.
    pub(crate) fn charge_of(&self, meta: &Meta, open: impl FnOnce() -> Option<OwnedFd>) -> u64 {
        if meta.kind() != Kind::File {
            return 0;
        }
        let by_size = charge_for(meta.size);
        if meta.blocks * 512 <= by_size {
            return by_size;
        }
        let reserved = open().map_or(0, |fd| self.reserved_end(fd.as_fd()));
        by_size.max(charge_for(reserved))
    }

    /// How far `fallocate` reserved the file, bytes; 0 if it did not reach beyond the size.
    pub(crate) fn reserved_end(&self, fd: BorrowedFd<'_>) -> u64 {
        let mut value = [0; 8];
        match self.backing.get_xattr(fd, io::RESERVED_XATTR, &mut value) {
            Ok(8) => u64::from_le_bytes(value),
            _ => 0,
        }
    }

    /// Takes one inode in `dir`; at the limit, what has expired goes first.
    pub(crate) fn charge_inode(&self, dir: &Dir<'_>) -> FsResult<Option<crate::quota::Charge<'_>>> {
        let Some(subtree) = dir.subtree() else {
            return Ok(None);
        };
        let amount = Amount {
            bytes: 0,
            inodes: 1,
        };
        self.with_reclaim(subtree, || self.quotas.reserve(subtree, amount))
            .map(Some)
    }

    /// Runs `take`; if a limit refuses, reclaims what has expired and tries once more.
    pub(crate) fn with_reclaim<T>(
        &self,
        subtree: Slot,
        take: impl Fn() -> FsResult<T>,
    ) -> FsResult<T> {
        match take() {
            Err(FsError::Full(_)) => {
                self.work.reclaim();
                take().inspect_err(|_| self.quotas.count_refusal(subtree))
            }
            done => done,
        }
    }

    /// Gives back all that a node was charged.
    pub(crate) fn uncharge(&self, node: &Pin<'_>) {
        let bytes = node.charge.swap(0, Ordering::AcqRel);
        if let Some(subtree) = Slot::from_raw(node.subtree.swap(0, Ordering::AcqRel)) {
            self.quotas.release(subtree, Amount { bytes, inodes: 1 });
        }
    }

    /// Brings the charge of a file to `bytes` without asking the limits: for sizes that changed out of our sight.
    pub(crate) fn settle_charge(&self, node: &Pin<'_>, bytes: u64) {
        let before = node.charge.swap(bytes, Ordering::AcqRel);
        if let Some(subtree) = Slot::from_raw(node.subtree.load(Ordering::Acquire)) {
            if bytes > before {
                self.quotas.force(
                    subtree,
                    Amount {
                        bytes: bytes - before,
                        inodes: 0,
                    },
                );
            } else {
                self.quotas.release(
                    subtree,
                    Amount {
                        bytes: before - bytes,
                        inodes: 0,
                    },
                );
            }
        }
    }

    // ---- The kernel's references ----

    /// Counts the reference that a reply is about to give.
    ///
    /// `done`: what a server before had done of the request; if it gave this inode, it counted it, too.
    pub fn give(&self, node: &Pin<'_>, done: Option<Done>) {
        let before = done.and_then(|done| done.ino);
        if before != Some(node.ino()) {
            self.inodes.add_lookup(node);
        }
        self.in_flight.gives(node.ino());
    }

    /// The kernel forgot an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        if ino == self.root_ino {
            return;
        }
        let Some(node) = self.inodes.pin(ino) else {
            tracing::error!(
                ino = ino.0,
                count,
                "the kernel forgot an inode that it was not given"
            );
            return;
        };
        if self.inodes.sub_lookup(&node, count) == 0 {
            self.forgotten(&node);
        }
    }

    /// The mount is gone: the kernel has forgotten everything.
    pub fn forget_everything(&self) {
        let mut inos = Vec::new();
        self.inodes.for_each(|slot, node| {
            if slot != self.root && node.nlookup() > 0 {
                inos.push((node.ino(), node.nlookup()));
            }
        });
        for handle in self.handles.all() {
            self.release(handle, None);
        }
        for (ino, count) in inos {
            self.forget(ino, count);
        }
    }

    /// Nothing of the kernel's refers to the node any more.
    pub(crate) fn forgotten(&self, node: &Pin<'_>) {
        let lock = self.inodes.lock(node.slot());
        if node.nlookup() > 0 {
            // Given again in the meantime.
            return;
        }
        let was = node.clear(NodeFlags::OPENED | NodeFlags::KEPT | NodeFlags::UNSEEN);
        if node.kind() != Kind::Directory
            && let Some(open) = Slot::from_raw(node.aux.load(Ordering::Acquire))
            && self.handles.file(open).handles() == 0
        {
            self.drop_open_file(node, open);
        }
        let gone = node.has(NodeFlags::UNLINKED);
        if gone {
            self.descriptors.forget(node.slot());
        }
        drop(lock);
        if gone {
            self.finish(node);
        } else if was.contains(NodeFlags::KEPT) || was.contains(NodeFlags::OPENED) {
            // It may have been kept only because it was in use.
            if self.is_overdue(node) {
                self.work.nudge_reaper();
            }
        }
    }

    /// Closes a passthrough id.
    pub(crate) fn close_backing(&self, id: Option<u32>) {
        if let (Some(id), Some(device)) = (id, self.device.get())
            && let Err(error) = crate::sys::fs::close_backing(device.as_fd(), id)
        {
            tracing::error!(id, %error, "cannot close a passthrough id");
        }
    }

    /// Makes a passthrough id for an open backing file. `None`: the kernel won't.
    pub(crate) fn open_backing(&self, fd: BorrowedFd<'_>) -> Option<u32> {
        let device = self.device.get()?;
        match crate::sys::fs::open_backing(device.as_fd(), fd) {
            Ok(id) => Some(id),
            Err(error) => {
                tracing::debug!(%error, "no passthrough for a file");
                None
            }
        }
    }

    /// Takes on a caller's identity for what the thread creates next.
    pub(crate) fn assume(&self, caller: Caller, umask: u32) {
        identity::assume(caller, umask, self.privileged);
    }

    /// Opens a node's backing file for I/O.
    pub(crate) fn open_node(&self, node: &Pin<'_>, flags: OFlags) -> FsResult<OwnedFd> {
        if let Some(held) = self.descriptors.get(node.slot()) {
            return Ok(self.backing.reopen(held.as_fd(), flags)?);
        }
        match node.fid() {
            Some(fid) => Ok(self
                .backing
                .open_fid(&fid, flags | OFlags::NONBLOCK | OFlags::NOCTTY)?),
            None => Err(FsError::Stale),
        }
    }

    /// Opens a directory for reading its entries.
    pub(crate) fn open_dir(&self, dir: BorrowedFd<'_>) -> FsResult<OwnedFd> {
        Ok(rustix::fs::openat(
            dir,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }
}

fn dir_lock_index(slot: Slot) -> usize {
    (slot.raw() as usize).wrapping_mul(0x9e37_79b1) >> 9 & 1023
}

fn dir_node<'a, 'f>(dir: &'a Dir<'f>) -> &'a Pin<'f> {
    &dir.node
}

/// The limits that the directory in `state` bears.
pub(crate) fn subtree_limits(policy: &Policy, state: DirState) -> SubtreeLimits {
    let limits = policy.limits_at(state);
    SubtreeLimits {
        bytes: limits.and_then(|l| l.quota_bytes).unwrap_or(UNLIMITED),
        inodes: limits.and_then(|l| l.inodes).unwrap_or(UNLIMITED),
        errno: match policy.dir_settings(state).quota_errno {
            Some(rule::QuotaErrno::Edquot) => QuotaErrno::QuotaExceeded,
            Some(rule::QuotaErrno::Enospc) | None => QuotaErrno::NoSpace,
        },
        rule: limits.map_or(0, |l| l.rule.0),
    }
}

/// A name as the backing store takes it. FUSE names hold no NUL and no slash.
pub fn c_name(name: &[u8]) -> FsResult<CString> {
    if name.len() > crate::names::NAME_MAX {
        return Err(FsError::Os(Errno::NAMETOOLONG));
    }
    CString::new(name).map_err(|_| FsError::Invalid)
}
