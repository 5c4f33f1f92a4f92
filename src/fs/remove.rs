//! How things leave: the one way out of the tree for unlink, rename-over, expiry and eviction.
//!
//! What nobody refers to any more is unlinked where it is. What is open, or is to be overwritten, is moved into
//! private state first, in one step, and freed after its last reference: a server that dies in between leaves a file in
//! private state, which the next one finishes.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Dir, Fs, Verdict};
use crate::backing::Meta;
use crate::error::{FsError, FsResult};
use crate::inodes::{Kind, NodeFlags, Pin};
use crate::rule::Erase;
use crate::slab::Slot;
use crate::work::EraseJob;

/// What the reaper needs to know of a removal, to tell the kernel with no lock held.
#[derive(Debug)]
pub struct Reaped {
    /// The directory.
    pub parent: crate::inodes::Ino,
    /// The name that is gone.
    pub name: Vec<u8>,
    /// Whether the kernel may know it.
    pub known_to_kernel: bool,
}

/// How the clock's visit to a node ended.
#[derive(Debug)]
pub enum Reap {
    /// Its name is gone.
    Removed(Reaped),
    /// Its deadline moved; it stands in the queue again.
    Lives,
    /// It is in use.
    Kept,
    /// It was gone before.
    Gone,
}

/// How a name's file ends up once the name is gone.
enum Way {
    /// Other names are left.
    OtherNames,
    /// Unlinked where it is.
    Direct,
    /// Moved to private state, to be overwritten with this many passes or just freed.
    Private { passes: u32 },
}

/// A file or directory in whose place something is about to come.
pub(crate) struct Replacing<'f> {
    lock: Option<MutexGuard<'f, ()>>,
    meta: Meta,
}

impl Fs {
    /// Passes with which the node's data is overwritten; 0 if it is not.
    pub(crate) fn erase_passes(&self, node: &Pin<'_>) -> u32 {
        if node.kind() != Kind::File {
            return 0;
        }
        let policy = self.policy();
        let settings = self.settings_in(&policy, node);
        match settings.erase {
            Erase::None => 0,
            Erase::Overwrite => u32::from(settings.passes),
        }
    }

    /// The name of a node in private state: its inode number and what is to be done with it.
    fn private_name(node: &Pin<'_>) -> CString {
        let mut name = String::with_capacity(24);
        let written = write!(name, "{:x}-{}", node.ino().0, node.passes());
        debug_assert!(written.is_ok());
        CString::new(name).expect("digits hold no NUL")
    }

    fn way_out(&self, node: &Pin<'_>, meta: &Meta) -> Way {
        if meta.kind() == Kind::Directory {
            return Way::Direct;
        }
        if meta.nlink > 1 {
            return Way::OtherNames;
        }
        let passes = self.erase_passes(node);
        let open = meta.kind() == Kind::File
            && Slot::from_raw(node.aux.load(Ordering::Acquire))
                .is_some_and(|o| self.handles.file(o).handles() > 0);
        if passes > 0 && (meta.size > 0 || meta.blocks > 0 || open) || open {
            Way::Private { passes }
        } else {
            Way::Direct
        }
    }

    /// Removes `name` from `dir`, under the directory's lock. The data is freed or erased after the last reference.
    pub(crate) fn remove_name(
        &self,
        dir: &Dir<'_>,
        name: &CStr,
        node: &Pin<'_>,
        meta: &Meta,
    ) -> FsResult<bool> {
        let lock = self.inodes.lock(node.slot());
        let meta = &self.fresh(dir, name, node, meta)?;
        let way = self.way_out(node, meta);
        let has_other_names = matches!(way, Way::OtherNames);
        match way {
            Way::OtherNames => {
                self.backing.unlink(dir.fd(), name)?;
                self.links
                    .forget(node.ino(), dir.node.ino(), name.to_bytes());
            }
            Way::Direct => {
                self.hold_if_known(dir, name, node)?;
                if meta.kind() == Kind::Directory {
                    self.backing.rmdir(dir.fd(), name)?;
                } else {
                    self.backing.unlink(dir.fd(), name)?;
                }
                node.set(NodeFlags::UNLINKED);
            }
            Way::Private { passes } => {
                node.set_passes(passes);
                let private = Self::private_name(node);
                self.backing.rename(
                    dir.fd(),
                    name,
                    self.private.as_fd(),
                    &private,
                    RenameFlags::NOREPLACE,
                )?;
                self.made_private(node);
            }
        }
        drop(lock);
        self.left(node, meta);
        Ok(has_other_names)
    }

    /// Attributes from under the node's lock, where the number of names may have changed before it was taken: of a file
    /// with names in several directories, and of one that the reaper takes while the kernel doesn't know of it.
    fn fresh(&self, dir: &Dir<'_>, name: &CStr, node: &Pin<'_>, meta: &Meta) -> FsResult<Meta> {
        let changes = meta.nlink > 1 || node.has(NodeFlags::DEAD);
        if meta.kind() == Kind::Directory || !changes {
            return Ok(*meta);
        }
        let fresh = self.backing.stat_at(dir.fd(), name)?;
        if fresh.ino != meta.ino {
            return Err(FsError::NotFound);
        }
        Ok(fresh)
    }

    /// Prepares that something takes the place of `name`: what must survive that gets a name in private state first.
    /// Call under the directory's lock; after the replacement `Fs::replaced` finishes. A file stays locked until then, so
    /// that it does not lose its other names, or is opened, in between.
    pub(crate) fn before_replace<'f>(
        &'f self,
        dir: &Dir<'_>,
        name: &CStr,
        node: &Pin<'_>,
        meta: &Meta,
    ) -> FsResult<Replacing<'f>> {
        let lock = self.inodes.lock(node.slot());
        let meta = self.fresh(dir, name, node, meta)?;
        match self.way_out(node, &meta) {
            Way::OtherNames => {}
            Way::Direct => self.hold_if_known(dir, name, node)?,
            Way::Private { passes } => {
                node.set_passes(passes);
                match self.backing.link_at(
                    dir.fd(),
                    name,
                    self.private.as_fd(),
                    &Self::private_name(node),
                ) {
                    Ok(()) | Err(Errno::EXIST) => self.made_private(node),
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(Replacing {
            lock: (meta.kind() != Kind::Directory).then_some(lock),
            meta,
        })
    }

    /// The replacement did not happen.
    pub(crate) fn not_replaced(&self, node: &Pin<'_>, replacing: Replacing<'_>) {
        let _lock = replacing.lock;
        if node
            .clear(NodeFlags::PRIVATE | NodeFlags::UNLINKED)
            .contains(NodeFlags::PRIVATE)
        {
            if let Err(errno) = self
                .backing
                .unlink(self.private.as_fd(), &Self::private_name(node))
            {
                tracing::error!(%errno, "a second name stays in private state until the next mount");
            }
            self.inodes.unref(node.slot());
        }
    }

    /// Something took the place of the node's name.
    pub(crate) fn replaced(&self, node: &Pin<'_>, replacing: Replacing<'_>) {
        let Replacing { lock, meta } = replacing;
        if meta.nlink == 1 || meta.kind() == Kind::Directory {
            node.set(NodeFlags::UNLINKED);
        }
        drop(lock);
        self.left(node, &meta);
    }

    fn made_private(&self, node: &Pin<'_>) {
        let was = node.set(NodeFlags::PRIVATE | NodeFlags::UNLINKED);
        if !was.contains(NodeFlags::PRIVATE) {
            self.inodes.add_ref(node);
        }
    }

    /// A descriptor keeps an unlinked inode reachable while the kernel knows it: as a working directory, through an
    /// `O_PATH` descriptor, for a `stat` of what was open.
    fn hold_if_known(&self, dir: &Dir<'_>, name: &CStr, node: &Pin<'_>) -> FsResult<()> {
        if node.nlookup() == 0 {
            return Ok(());
        }
        let fd = match self.descriptors.get(node.slot()) {
            Some(fd) => fd,
            None => Arc::new(self.backing.open_path(dir.fd(), name)?),
        };
        self.descriptors.hold(node.slot(), fd);
        Ok(())
    }

    /// After a name is gone: the queue, and what nobody refers to.
    fn left(&self, node: &Pin<'_>, meta: &Meta) {
        if !node.has(NodeFlags::UNLINKED) {
            // Other names may be left; the file is charged as long as one is.
            return;
        }
        if meta.kind() == Kind::Directory {
            self.quotas.remove(node.ino());
        }
        self.queue.remove(&self.inodes, node);
        self.links.forget_all(node.ino());
        self.creators.forget(node.ino().0, node.btime());
        if node.nlookup() == 0 {
            self.descriptors.forget(node.slot());
            self.finish(node);
        }
    }

    /// The last reference to an unlinked node is gone: its blocks are freed, or erased first.
    pub(crate) fn finish(&self, node: &Pin<'_>) {
        if !node.has(NodeFlags::PRIVATE) {
            self.uncharge(node);
            return;
        }
        if node
            .set(NodeFlags::FINISHING)
            .contains(NodeFlags::FINISHING)
        {
            return;
        }
        if node.passes() > 0 {
            let bytes = node.charge.load(Ordering::Acquire);
            self.erase_backlog_bytes.fetch_add(bytes, Ordering::AcqRel);
            self.work.erase(EraseJob {
                slot: Some(node.slot()),
                name: Self::private_name(node),
                passes: node.passes(),
                bytes,
            });
            return;
        }
        let name = Self::private_name(node);
        match self.backing.unlink(self.private.as_fd(), &name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                tracing::error!(%errno, ino = node.ino().0, "cannot free a removed file; it is tried again at the next mount");
            }
        }
        self.freed(node);
    }

    /// A private node's blocks are free: its charge and its place go.
    pub(crate) fn freed(&self, node: &Pin<'_>) {
        self.uncharge(node);
        if node.clear(NodeFlags::PRIVATE).contains(NodeFlags::PRIVATE) {
            self.inodes.unref(node.slot());
        }
    }

    /// The eraser is done with a job.
    pub fn erased(&self, job: &EraseJob) {
        self.erase_backlog_bytes
            .fetch_sub(job.bytes, Ordering::AcqRel);
        if let Some(slot) = job.slot {
            let node = self.inodes.pin_slot(slot);
            self.freed(&node);
        }
    }

    /// Removes `name` from `dir` if it has expired and is not in use; under the directory's lock. Tells whether the
    /// name is free now.
    pub(crate) fn clear_expired(&self, dir: &Dir<'_>, name: &CStr) -> FsResult<bool> {
        let meta = match self.backing.stat_at(dir.fd(), name) {
            Err(Errno::NOENT) => return Ok(true),
            meta => meta?,
        };
        let expired = self.known(dir, name, &meta).and_then(|node| {
            if self.verdict(&node, &meta)? != Verdict::Expired {
                return Ok(false);
            }
            self.expire(dir, name, &node, &meta)?;
            Ok(true)
        });
        match expired {
            // Within a directory that is cleared, the reaper may have come first.
            Err(FsError::NotFound | FsError::Os(Errno::NOENT)) => Ok(true),
            Err(FsError::Os(Errno::BUSY)) => Ok(false),
            expired => expired,
        }
    }

    /// Removes an expired name, whatever it is; under the directory's lock. Tells whether it has other names.
    fn expire(&self, dir: &Dir<'_>, name: &CStr, node: &Pin<'_>, meta: &Meta) -> FsResult<bool> {
        let lock = self.inodes.lock(node.slot());
        if self.in_use(node) {
            // Opened since the verdict.
            return Err(FsError::Os(Errno::BUSY));
        }
        let already = node.set(NodeFlags::DEAD);
        drop(lock);
        if meta.kind() == Kind::Directory {
            let inner = Dir {
                node: node.clone(),
                fd: self.location(node)?,
            };
            if let Err(error) = self.clear_directory(&inner) {
                node.clear(NodeFlags::DEAD.difference(already));
                return Err(error);
            }
        }
        let removed = self.remove_name(dir, name, node, meta);
        if !matches!(removed, Ok(false)) {
            // Its other names are found by their own way; each is hidden by the same deadline.
            node.clear(NodeFlags::DEAD.difference(already));
        }
        removed
    }

    /// Removes the expired names in a directory, for `rmdir` and `rename`: to programs they are gone already.
    pub(crate) fn clear_directory(&self, dir: &Dir<'_>) -> FsResult<()> {
        for (name, _) in self.raw_entries(dir)? {
            if self.check_reserved(dir, &name).is_err() || !self.clear_expired(dir, &name)? {
                return Err(FsError::Os(Errno::NOTEMPTY));
            }
        }
        Ok(())
    }

    /// Whether nothing at all is in a directory, not even what has expired.
    pub(crate) fn is_bare(&self, node: &Pin<'_>) -> FsResult<bool> {
        let dir = Dir {
            node: node.clone(),
            fd: self.location(node)?,
        };
        Ok(self.raw_entries(&dir)?.is_empty())
    }

    /// The clock's way in: removes a node whose deadline has passed, if it still has and nobody uses it.
    pub fn reap(&self, node: &Pin<'_>) -> FsResult<Reap> {
        let Some((parent, name)) = self.inodes.place(node) else {
            return Ok(Reap::Gone);
        };
        if node.has(NodeFlags::UNLINKED) {
            return Ok(Reap::Gone);
        }
        if parent.has(NodeFlags::UNLINKED) {
            self.expire_other_names(node)?;
            return Ok(Reap::Gone);
        }
        let name = super::c_name(&name)?;
        let dir = Dir {
            fd: self.location(&parent)?,
            node: parent,
        };
        let _names = self.dir_lock(&dir.node);
        let meta = match self.backing.stat_at(dir.fd(), &name) {
            Err(Errno::NOENT) => None,
            meta => Some(meta?),
        };
        let Some(meta) = meta.filter(|m| m.ino == node.ino() && self.is_same(node, m)) else {
            self.expire_other_names(node)?;
            return Ok(Reap::Gone);
        };
        match self.verdict(node, &meta)? {
            Verdict::Live(at) => {
                self.schedule(node, at);
                return Ok(Reap::Lives);
            }
            Verdict::Kept => return Ok(Reap::Kept),
            Verdict::Expired => {}
        }
        let known_to_kernel = node.nlookup() > 0;
        if self.expire(&dir, &name, node, &meta)? {
            self.expire_other_names(node)?;
        }
        Ok(Reap::Removed(Reaped {
            parent: dir.node.ino(),
            name: name.into_bytes(),
            known_to_kernel,
        }))
    }

    /// Moves on to another name of a file of several names, one of which was removed or is not there any more.
    fn expire_other_names(&self, node: &Pin<'_>) -> FsResult<()> {
        while let Some((parent, name)) = self.links.take(node.ino()) {
            if let Some(parent) = self.inodes.pin(parent) {
                self.inodes.set_place(node, &parent, Some(&name))?;
                self.schedule(node, self.clock.now());
                break;
            }
        }
        Ok(())
    }

    /// Unlinked nodes that are still charged because the kernel has not let go of them, or because they wait for
    /// erasure.
    pub fn unlinked_nodes(&self) -> Vec<Pin<'_>> {
        let mut inos = Vec::new();
        self.inodes.for_each(|_, node| {
            if node.has(NodeFlags::UNLINKED) && node.subtree.load(Ordering::Relaxed) != 0 {
                inos.push(node.ino());
            }
        });
        inos.into_iter()
            .filter_map(|ino| self.inodes.pin(ino))
            .collect()
    }

    /// The kernel turned out to know nothing of an unlinked node: its blocks can be freed before it says so.
    pub fn settle_gone(&self, node: &Pin<'_>) {
        let lock = self.inodes.lock(node.slot());
        if self.has_handles(node) {
            return;
        }
        if let Some(open) = Slot::from_raw(node.aux.load(Ordering::Acquire))
            && node.kind() != Kind::Directory
        {
            self.drop_open_file(node, open);
        }
        self.descriptors.forget(node.slot());
        drop(lock);
        self.finish(node);
    }

    /// Frees what an earlier mount left in private state, and hands on what is to be erased.
    pub fn finish_leftovers(&self) -> FsResult<()> {
        for (name, _) in self.entries_of(self.private.as_fd())? {
            if self.is_private_of_a_node(&name) {
                continue;
            }
            let passes = name
                .to_str()
                .ok()
                .and_then(|name| name.split_once('-'))
                .and_then(|(_, passes)| passes.parse::<u32>().ok())
                .unwrap_or(0);
            if passes == 0 {
                self.backing.unlink(self.private.as_fd(), &name)?;
            } else {
                self.work().erase(EraseJob {
                    slot: None,
                    name,
                    passes: passes.min(35),
                    bytes: 0,
                });
            }
        }
        Ok(())
    }
}
