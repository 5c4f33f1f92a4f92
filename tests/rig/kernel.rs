//! What the kernel remembers of a mount, in miniature: how often it was given each inode, what holds on to it, and when
//! it lets go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use ttlfs::fs::{Entry, Fs};
use ttlfs::inodes::Ino;
use ttlfs::notify::Notify;

/// An inode that the kernel knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// How often it was given in a reply.
    pub count: u64,
    /// Calls that are using it.
    pub users: u32,
    /// Open handles.
    pub handles: u32,
    /// Mappings and other holds that no handle stands for.
    pub holds: u32,
    /// Its last name is gone.
    pub unlinked: bool,
}

impl Known {
    pub fn in_use(&self) -> bool {
        self.users > 0 || self.handles > 0 || self.holds > 0
    }
}

/// The kernel's inode table for the mount.
pub struct Kernel {
    fs: Mutex<Option<Arc<Fs>>>,
    known: Mutex<HashMap<Ino, Known>>,
    root: Ino,
    reclaims: AtomicU64,
    dead: AtomicBool,
}

impl Kernel {
    pub fn new(fs: Arc<Fs>) -> Self {
        Self {
            root: fs.root_ino(),
            fs: Mutex::new(Some(fs)),
            known: Mutex::default(),
            reclaims: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        }
    }

    fn fs(&self) -> Option<Arc<Fs>> {
        self.fs.lock().clone()
    }

    /// From here on nothing is sent any more: the server was killed.
    pub fn dies(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// Another server serves from here on.
    pub fn is_served_by(&self, fs: Arc<Fs>) {
        *self.fs.lock() = Some(fs);
        self.dead.store(false, Ordering::SeqCst);
    }

    pub fn clear(&self) {
        self.fs.lock().take();
    }

    pub fn note_reclaim(&self) {
        self.reclaims.fetch_add(1, Ordering::SeqCst);
    }

    pub fn reclaims(&self) -> u64 {
        self.reclaims.load(Ordering::SeqCst)
    }

    /// A reply gives an inode; the caller uses it.
    pub fn given(self: &Arc<Self>, fs: &Fs, entry: &Entry<'_>) -> Held {
        // The count is the kernel's before the reply is read, as in a server.
        fs.give(&entry.node, None);
        let ino = entry.meta.ino;
        let mut known = self.known.lock();
        let at = known.entry(ino).or_default();
        at.count += 1;
        at.users += 1;
        drop(known);
        Held {
            kernel: self.clone(),
            ino,
        }
    }

    /// Uses an inode that is known, if it is.
    pub fn hold(self: &Arc<Self>, ino: Ino) -> Option<Held> {
        if ino != self.root {
            self.known.lock().get_mut(&ino)?.users += 1;
        }
        Some(Held {
            kernel: self.clone(),
            ino,
        })
    }

    /// What is known of an inode.
    pub fn get(&self, ino: Ino) -> Option<Known> {
        self.known.lock().get(&ino).copied()
    }

    /// All that is known.
    pub fn all(&self) -> HashMap<Ino, Known> {
        self.known.lock().clone()
    }

    fn change(&self, ino: Ino, change: impl FnOnce(&mut Known)) {
        if ino == self.root {
            return;
        }
        let mut known = self.known.lock();
        let at = known.get_mut(&ino).expect("what is used is known");
        change(at);
        let gone = at.unlinked && !at.in_use();
        drop(known);
        if gone {
            self.evict(ino);
        }
    }

    /// A handle was opened.
    pub fn opened(&self, ino: Ino) {
        self.change(ino, |k| k.handles += 1);
    }

    /// A handle was closed.
    pub fn closed(&self, ino: Ino) {
        self.change(ino, |k| k.handles -= 1);
    }

    /// A mapping was made, or another hold without a handle.
    pub fn mapped(&self, ino: Ino) {
        self.change(ino, |k| k.holds += 1);
    }

    /// A mapping is gone.
    pub fn unmapped(&self, ino: Ino) {
        self.change(ino, |k| k.holds -= 1);
    }

    /// The last name of an inode is gone: the kernel keeps it no longer than it is used.
    pub fn unlinked(&self, ino: Ino) {
        let mut known = self.known.lock();
        let Some(at) = known.get_mut(&ino) else {
            return;
        };
        at.unlinked = true;
        drop(known);
        self.evict(ino);
    }

    /// Forgets an inode unless it is used; tells whether it is gone.
    pub fn evict(&self, ino: Ino) -> bool {
        if self.dead.load(Ordering::SeqCst) {
            return false;
        }
        let mut known = self.known.lock();
        match known.get(&ino) {
            None => return true,
            Some(at) if at.in_use() => return false,
            Some(_) => {}
        }
        let gone = known.remove(&ino).map_or(0, |k| k.count);
        drop(known);
        if let Some(fs) = self.fs() {
            fs.forget(ino, gone);
        }
        true
    }

    /// Forgets all that is not used.
    pub fn evict_all(&self) {
        let inos: Vec<Ino> = self.known.lock().keys().copied().collect();
        for ino in inos {
            self.evict(ino);
        }
    }
}

impl Notify for Kernel {
    fn inval_inode(&self, ino: Ino, _data: bool) -> Result<bool, Errno> {
        Ok(ino == self.root || self.known.lock().contains_key(&ino))
    }

    fn delete(&self, _parent: Ino, child: Ino, _name: &[u8]) -> Result<bool, Errno> {
        let known = self.known.lock().contains_key(&child);
        if known {
            self.unlinked(child);
        }
        Ok(known)
    }

    fn prune(&self, inos: &[Ino]) -> Result<(), Errno> {
        for ino in inos {
            self.evict(*ino);
        }
        Ok(())
    }
}

/// An inode that a call is using: the kernel doesn't forget it meanwhile.
pub struct Held {
    kernel: Arc<Kernel>,
    pub ino: Ino,
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.kernel.dead.load(Ordering::SeqCst) {
            self.kernel.change(self.ino, |k| k.users -= 1);
        }
    }
}
