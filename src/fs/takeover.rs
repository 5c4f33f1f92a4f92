//! Taking over from a server that died: what memory holds is made whole again, and what only that process had
//! (descriptors, the queue, the words of its compiled rules) is made anew.
//!
//! Whatever the dead server was just doing is either published in a record or never was. Charges that it had taken and
//! not yet written down are found by counting.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use super::Fs;
use crate::clock::Time;
use crate::error::FsResult;
use crate::inodes::{Kind, NodeFlags};
use crate::quota::Amount;
use crate::slab::Slot;

impl Fs {
    /// Makes whole what the server before left. Before anything is served.
    pub fn take_over(&self) -> FsResult<()> {
        self.inodes.reset_refs();
        self.inodes.drop_stray_names();
        // The root's own reference, which is never dropped.
        std::mem::forget(self.inodes.pin_slot(self.root));
        self.restore_places()?;
        self.restore_open_files();
        self.restore_private();
        self.restore_queue();
        self.inodes.drop_unreferenced();
        Ok(())
    }

    /// The rules' words are this process's own: all are looked up again, from the root.
    fn restore_places(&self) -> FsResult<()> {
        let policy = self.policy();
        let root = self.inodes.pin_slot(self.root);
        root.policy.store(policy.root().0, Ordering::Relaxed);
        self.refresh_below(&root)
    }

    fn restore_open_files(&self) {
        let (open, idle) = self.handles.recount();
        for slot in open {
            let Some(node) = self
                .handles
                .file(slot)
                .node()
                .and_then(|node| self.inodes.pin_live(node))
            else {
                tracing::error!("an open file is of no inode that is known");
                continue;
            };
            self.inodes.add_ref(&node);
            node.aux.store(slot.raw(), Ordering::Release);
            let flags = if self.handles.file(slot).is_read_only() {
                OFlags::RDONLY
            } else {
                OFlags::RDWR
            };
            match self.open_node(&node, flags) {
                Ok(fd) => self.handles.set_descriptor(slot, node.slot(), fd),
                Err(error) => {
                    tracing::error!(ino = node.ino().0, %error, "an open file cannot be opened again");
                }
            }
        }
        for slot in idle {
            if let Some(node) = self
                .handles
                .file(slot)
                .node()
                .and_then(|node| self.inodes.peek(node))
                && node.kind() != Kind::Directory
                && node.aux.load(Ordering::Acquire) == slot.raw()
            {
                node.aux.store(0, Ordering::Release);
            }
            self.close_backing(self.handles.remove_file(slot));
        }
        // A node must not name an open record that is not its own.
        self.inodes.for_each(|at, node| {
            if node.kind() != Kind::Directory
                && let Some(open) = Slot::from_raw(node.aux.load(Ordering::Acquire))
                && self.handles.file_checked(open).and_then(|file| file.node()) != Some(at)
            {
                node.aux.store(0, Ordering::Release);
            }
        });
        let mut dirs = Vec::new();
        self.handles
            .for_each_dir(|handle, node| dirs.push((handle, node)));
        for (handle, node) in dirs {
            let Some(node) = self.inodes.pin_live(node) else {
                // Made for a caller that was gone before it had it: the kernel knows nothing of it.
                self.handles.drop_dir(handle);
                continue;
            };
            match self
                .location(&node)
                .and_then(|fd| self.open_dir(fd.as_fd()))
            {
                Ok(fd) => self.handles.set_stream(handle, fd),
                Err(error) => {
                    tracing::debug!(ino = node.ino().0, %error, "an open directory is gone");
                }
            }
        }
    }

    /// Files in private state keep their references; those that nobody refers to are freed or erased now.
    fn restore_private(&self) {
        let mut private = Vec::new();
        self.inodes.for_each(|slot, node| {
            if node.has(NodeFlags::PRIVATE) {
                private.push(slot);
            }
        });
        for slot in private {
            let node = self.inodes.pin_slot(slot);
            self.inodes.add_ref(&node);
            if node.nlookup() == 0 && !self.has_handles(&node) {
                self.finish(&node);
            }
        }
    }

    /// Charges what lies in private state for nodes that are still known, in a recount.
    pub(crate) fn recharge_private(&self) {
        let mut private = Vec::new();
        self.inodes.for_each(|slot, node| {
            if node.has(NodeFlags::PRIVATE) {
                private.push(slot);
            } else if node.has(NodeFlags::UNLINKED) {
                // It went with the descriptor that held it.
                node.subtree.store(0, Ordering::Release);
                node.charge.store(0, Ordering::Release);
            }
        });
        for slot in private {
            let node = self.inodes.pin_slot(slot);
            let Some(subtree) = Slot::from_raw(node.subtree.load(Ordering::Acquire)) else {
                continue;
            };
            if let Ok(fd) = self.location(&node)
                && let Ok(meta) = self.backing.stat(fd.as_fd())
            {
                let bytes = self.charge_of(&meta, || fd.try_clone().ok());
                node.charge.store(bytes, Ordering::Release);
                self.quotas.force(subtree, Amount { bytes, inodes: 1 });
            }
        }
    }

    fn restore_queue(&self) {
        let mut queued = Vec::new();
        self.inodes.for_each(|slot, node| {
            if node.deadline_hint() != Time::NEVER && !node.has(NodeFlags::UNLINKED) {
                queued.push(slot);
            }
        });
        for slot in queued {
            let node = self.inodes.pin_slot(slot);
            self.schedule(&node, node.deadline_hint());
        }
    }

    /// Whether a name in private state belongs to a node.
    pub(crate) fn is_private_of_a_node(&self, name: &std::ffi::CStr) -> bool {
        name.to_str()
            .ok()
            .and_then(|name| name.split_once('-'))
            .and_then(|(ino, _)| u64::from_str_radix(ino, 16).ok())
            .and_then(|ino| self.inodes.pin(crate::inodes::Ino(ino)))
            .is_some_and(|node| node.has(NodeFlags::PRIVATE))
    }
}
