//! Location descriptors (`O_PATH`) of inodes: a bounded cache in front of file handles.
//!
//! With file handles a descriptor can always be made again, so the cache is small and forgets the least recently used.
//! Two kinds are held without bound, because nothing could bring them back: inodes of a backing store without handles,
//! and inodes whose last name is gone while the kernel still knows them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::slab::Slot;

const SHARDS: usize = 8;

/// The cache.
#[derive(Debug)]
pub struct Descriptors {
    recent: Vec<Mutex<LruCache<Slot, Arc<OwnedFd>>>>,
    held: Mutex<HashMap<Slot, Arc<OwnedFd>>>,
}

impl Descriptors {
    /// A cache of at most about `capacity` descriptors, not counting those that are held.
    pub fn new(capacity: usize) -> Self {
        let each = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self {
            recent: (0..SHARDS)
                .map(|_| Mutex::new(LruCache::new(each)))
                .collect(),
            held: Mutex::default(),
        }
    }

    fn shard(&self, slot: Slot) -> &Mutex<LruCache<Slot, Arc<OwnedFd>>> {
        &self.recent[slot.raw() as usize % SHARDS]
    }

    /// The descriptor of a node, if there is one.
    pub fn get(&self, slot: Slot) -> Option<Arc<OwnedFd>> {
        if let Some(fd) = self.shard(slot).lock().get(&slot) {
            return Some(fd.clone());
        }
        self.held.lock().get(&slot).cloned()
    }

    /// Remembers a descriptor that can be made again.
    pub fn remember(&self, slot: Slot, fd: Arc<OwnedFd>) {
        // What falls out is closed after the lock is gone.
        let evicted = self.shard(slot).lock().push(slot, fd);
        drop(evicted);
    }

    /// Keeps a descriptor until [`Descriptors::forget`].
    pub fn hold(&self, slot: Slot, fd: Arc<OwnedFd>) {
        let replaced = self.held.lock().insert(slot, fd);
        drop(replaced);
    }

    /// Drops what is known of a node.
    pub fn forget(&self, slot: Slot) {
        let recent = self.shard(slot).lock().pop(&slot);
        let held = {
            let mut held = self.held.lock();
            if held.is_empty() {
                None
            } else {
                held.remove(&slot)
            }
        };
        drop((recent, held));
    }

    /// How many descriptors are held without bound.
    pub fn held(&self) -> usize {
        self.held.lock().len()
    }
}
