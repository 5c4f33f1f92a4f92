//! When things die: the pure function that says it, and the queue of what is due next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::clock::Time;
use crate::inodes::{Inodes, NodeFlags, Pin};
use crate::rule::{Settings, TtlFrom};
use crate::slab::Slot;

/// The moments that a lifetime can count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// Birth.
    pub created: Time,
    /// Last modification.
    pub modified: Time,
    /// Latest open or close.
    pub accessed: Time,
}

/// The moment at which a file with these settings expires.
pub fn deadline(settings: &Settings, moments: Moments) -> Time {
    let from = match settings.ttl_from {
        TtlFrom::Created => moments.created,
        TtlFrom::Modified => moments.modified,
        TtlFrom::Accessed => moments.accessed,
    };
    let by_ttl = settings.ttl.map_or(Time::NEVER, |ttl| from.after(ttl));
    by_ttl.min(ceiling(settings, moments.created))
}

/// The moment past which nothing moves a deadline.
pub fn ceiling(settings: &Settings, created: Time) -> Time {
    settings
        .max_ttl
        .map_or(Time::NEVER, |max| created.after(max))
}

/// About 134 ms: what is due within one bucket is put in order only when its time comes.
const BUCKET_SHIFT: u32 = 27;

/// In `queue_prev`: the node stands in `near`.
const IN_NEAR: u32 = 1;

#[derive(Debug, Default)]
struct Due {
    /// Bucket number -> the first node of a doubly linked list through the nodes.
    buckets: BTreeMap<i64, Slot>,
    /// What is due soonest, in order. Entries whose node has another moment by now are void.
    near: BinaryHeap<Reverse<(Time, Slot)>>,
    /// Buckets before this one go to `near` at once.
    near_until: i64,
}

/// The queue of deadlines. Each node in it is kept by a reference.
///
/// Its lock comes after a node's own lock; inside it only shards of the index are locked.
#[derive(Debug, Default)]
pub struct Queue {
    due: Mutex<Due>,
}

impl Queue {
    /// Puts a node under `at`, or moves it there.
    pub fn schedule(&self, inodes: &Inodes, node: &Pin<'_>, at: Time) {
        if at == Time::NEVER {
            return self.remove(inodes, node);
        }
        let mut guard = self.due.lock();
        let due = &mut *guard;
        if node.has(NodeFlags::QUEUED) {
            if node.queued_at.load(Ordering::Relaxed) == at.0 {
                return;
            }
            unlink(inodes, due, node);
        } else {
            inodes.add_ref(node);
        }
        node.queued_at.store(at.0, Ordering::Relaxed);
        let bucket = at.0 >> BUCKET_SHIFT;
        if bucket < due.near_until {
            node.queue_prev.store(IN_NEAR, Ordering::Relaxed);
            due.near.push(Reverse((at, node.slot())));
        } else {
            let head = due.buckets.insert(bucket, node.slot());
            node.queue_prev.store(0, Ordering::Relaxed);
            node.queue_next
                .store(head.map_or(0, Slot::raw), Ordering::Relaxed);
            if let Some(head) = head {
                inodes
                    .pin_slot(head)
                    .queue_prev
                    .store(node.slot().raw(), Ordering::Relaxed);
            }
        }
        node.set(NodeFlags::QUEUED);
    }

    /// Takes a node out.
    pub fn remove(&self, inodes: &Inodes, node: &Pin<'_>) {
        let mut due = self.due.lock();
        let queued = node.has(NodeFlags::QUEUED);
        if queued {
            unlink(inodes, &mut due, node);
            node.clear(NodeFlags::QUEUED);
        }
        node.queued_at.store(0, Ordering::Relaxed);
        drop(due);
        if queued {
            inodes.unref(node.slot());
        }
    }

    /// When the next node may be due; never late, possibly a little early.
    pub fn next(&self) -> Option<Time> {
        let due = self.due.lock();
        let near = due.near.peek().map(|Reverse((at, _))| *at);
        let bucket = due
            .buckets
            .first_key_value()
            .map(|(bucket, _)| Time(bucket << BUCKET_SHIFT));
        near.into_iter().chain(bucket).min()
    }

    /// Takes at most `max` nodes out that stand under `now` or earlier, in order.
    pub fn take_due<'t>(&self, inodes: &'t Inodes, now: Time, max: usize) -> Vec<Pin<'t>> {
        let mut guard = self.due.lock();
        let due = &mut *guard;
        let until = (now.0 >> BUCKET_SHIFT) + 1;
        due.near_until = due.near_until.max(until);
        while let Some(entry) = due.buckets.first_entry() {
            if *entry.key() >= due.near_until {
                break;
            }
            let mut next = Some(entry.remove());
            while let Some(slot) = next {
                let node = inodes.pin_slot(slot);
                next = Slot::from_raw(node.queue_next.load(Ordering::Relaxed));
                node.queue_next.store(0, Ordering::Relaxed);
                node.queue_prev.store(IN_NEAR, Ordering::Relaxed);
                due.near.push(Reverse((
                    Time(node.queued_at.load(Ordering::Relaxed)),
                    slot,
                )));
            }
        }
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(&Reverse((at, slot))) = due.near.peek()
            && at <= now
        {
            due.near.pop();
            // The slot may hold another node by now, or none: it is looked at before a reference is taken.
            let Some(node) = inodes.peek(slot) else {
                continue;
            };
            if node.has(NodeFlags::QUEUED)
                && node.queue_prev.load(Ordering::Relaxed) == IN_NEAR
                && node.queued_at.load(Ordering::Relaxed) == at.0
            {
                node.clear(NodeFlags::QUEUED);
                node.queue_prev.store(0, Ordering::Relaxed);
                // The queue's reference becomes the pin's.
                taken.push(inodes.adopt(slot));
            }
        }
        taken
    }
}

/// Takes a queued node out of its list; in `near` its entry just becomes void.
fn unlink(inodes: &Inodes, due: &mut Due, node: &Pin<'_>) {
    let prev = node.queue_prev.swap(0, Ordering::Relaxed);
    if prev == IN_NEAR {
        return;
    }
    let next = Slot::from_raw(node.queue_next.swap(0, Ordering::Relaxed));
    if let Some(next) = next {
        inodes
            .pin_slot(next)
            .queue_prev
            .store(prev, Ordering::Relaxed);
    }
    if let Some(prev) = Slot::from_raw(prev) {
        inodes
            .pin_slot(prev)
            .queue_next
            .store(next.map_or(0, Slot::raw), Ordering::Relaxed);
    } else {
        let bucket = node.queued_at.load(Ordering::Relaxed) >> BUCKET_SHIFT;
        match next {
            Some(next) => due.buckets.insert(bucket, next),
            None => due.buckets.remove(&bucket),
        };
    }
}

#[cfg(test)]
mod tests;
