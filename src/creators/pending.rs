//! Facts on their way to the disk: bounded, and found while they wait.
//!
//! Sharded by the place of the record, so that request threads rarely meet, and so that what one shard holds lies
//! in one stretch of the file. When a shard is full its oldest fact is lost: programs never wait for this.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::clock::Time;
use crate::creators::Creator;
use crate::creators::record::{Key, Record};

const SHARDS_LOG2: u32 = 4;
pub const SHARDS: usize = 1 << SHARDS_LOG2;
/// Facts that wait in one shard.
pub const SHARD_FACTS: usize = 4096;

/// What is to become of the record of an inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Made {
        creator: Creator,
        /// The disk may hold an older file's record under the same number.
        over_older: bool,
    },
    /// The file is gone: no record as old or older is wanted.
    Gone,
    /// Made and gone again before it was written.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub struct Fact {
    pub ino: u64,
    pub btime: Time,
    pub what: What,
}

/// What the facts that wait say of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Made(Creator),
    Gone,
    /// The disk knows.
    Nothing,
}

/// Facts in the order in which they came, at most one for an inode number.
#[derive(Debug, Default)]
pub struct Batch {
    facts: VecDeque<Fact>,
    /// How many facts came before `facts[0]`. Wraps, as do the numbers in `index`.
    before: u32,
    index: HashTable<u32>,
}

impl Batch {
    pub fn facts(&self) -> impl Iterator<Item = Fact> + '_ {
        self.facts.iter().copied()
    }

    fn at(&self, number: u32) -> usize {
        number.wrapping_sub(self.before) as usize
    }

    fn position(&self, hash: u64, ino: u64) -> Option<usize> {
        let number = self
            .index
            .find(hash, |number| self.facts[self.at(*number)].ino == ino)?;
        Some(self.at(*number))
    }

    fn says(&self, hash: u64, ino: u64, btime: Time) -> Said {
        let Some(fact) = self.position(hash, ino).map(|at| self.facts[at]) else {
            return Said::Nothing;
        };
        match fact.what {
            What::Made { creator, .. } if fact.btime == btime => Said::Made(creator),
            // A newer file has the number: whatever the disk still says of this one is over.
            What::Made { .. } if fact.btime > btime => Said::Gone,
            What::Gone if fact.btime >= btime => Said::Gone,
            What::Made { .. } | What::Gone | What::Nothing => Said::Nothing,
        }
    }

    /// True if an older fact was lost.
    fn append(&mut self, key: Key, fact: Fact) -> bool {
        let full = self.facts.len() >= SHARD_FACTS;
        if full && let Some(oldest) = self.facts.front().copied() {
            let before = self.before;
            let hash = index_hash(key, oldest.ino);
            if let Ok(entry) = self.index.find_entry(hash, |number| *number == before) {
                entry.remove();
            }
            self.facts.pop_front();
            self.before = before.wrapping_add(1);
        }
        let number = self.before.wrapping_add(self.facts.len() as u32);
        self.facts.push_back(fact);
        let (facts, before) = (&self.facts, self.before);
        self.index
            .insert_unique(index_hash(key, fact.ino), number, |number| {
                index_hash(key, facts[number.wrapping_sub(before) as usize].ino)
            });
        full
    }

    /// The facts sorted by where their records lie.
    pub fn sorted(&self, key: Key) -> Vec<Fact> {
        let mut facts: Vec<Fact> = self.facts().filter(|f| f.what != What::Nothing).collect();
        facts.sort_unstable_by_key(|fact| (key.place(fact.ino), fact.ino));
        facts
    }
}

#[derive(Debug, Default)]
struct Shard {
    waiting: Batch,
    /// Being written just now; the disk may have it or not.
    writing: Option<Arc<Batch>>,
}

/// How a shard stands after a fact was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Partly,
    /// Just now.
    Half,
}

#[derive(Debug)]
pub struct Pending {
    key: Key,
    shards: [Mutex<Shard>; SHARDS],
    lost: AtomicU64,
}

/// Inodes that share a place are still told apart here.
fn index_hash(key: Key, ino: u64) -> u64 {
    // The high bits choose the shard and are equal within it; the table wants them too.
    (key.place(ino) << SHARDS_LOG2).rotate_left(7) ^ ino.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Pending {
    pub fn new(key: Key) -> Self {
        Self {
            key,
            shards: Default::default(),
            lost: AtomicU64::new(0),
        }
    }

    fn shard(&self, ino: u64) -> &Mutex<Shard> {
        &self.shards[(self.key.place(ino) >> (u64::BITS - SHARDS_LOG2)) as usize]
    }

    pub fn made(&self, record: Record) -> Filled {
        let Record {
            ino,
            btime,
            creator,
        } = record;
        let hash = index_hash(self.key, ino);
        let mut shard = self.shard(ino).lock();
        let batch = &mut shard.waiting;
        let Some(at) = batch.position(hash, ino) else {
            let what = What::Made {
                creator,
                over_older: false,
            };
            return self.append(batch, Fact { ino, btime, what });
        };
        let fact = &mut batch.facts[at];
        let over_older = match fact.what {
            What::Made { over_older, .. } => over_older,
            What::Gone => true,
            What::Nothing => false,
        };
        fact.btime = btime;
        fact.what = What::Made {
            creator,
            over_older,
        };
        Filled::Partly
    }

    /// Withdraws what still waits. Otherwise, if a disk may have the record, sends word to it.
    pub fn gone(&self, ino: u64, btime: Time, on_disk: bool) -> Filled {
        let hash = index_hash(self.key, ino);
        let mut shard = self.shard(ino).lock();
        let batch = &mut shard.waiting;
        let Some(at) = batch.position(hash, ino) else {
            if !on_disk {
                return Filled::Partly;
            }
            let what = What::Gone;
            return self.append(batch, Fact { ino, btime, what });
        };
        let fact = &mut batch.facts[at];
        match fact.what {
            What::Made { over_older, .. } if fact.btime == btime => {
                fact.what = if over_older {
                    What::Gone
                } else {
                    What::Nothing
                };
            }
            // Late news of an older file: the newer one's record replaces it anyway.
            What::Made { .. } => {}
            What::Gone => fact.btime = fact.btime.max(btime),
            What::Nothing if on_disk => {
                fact.btime = btime;
                fact.what = What::Gone;
            }
            What::Nothing => {}
        }
        Filled::Partly
    }

    fn append(&self, batch: &mut Batch, fact: Fact) -> Filled {
        if batch.append(self.key, fact) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if batch.facts.len() == SHARD_FACTS / 2 {
            return Filled::Half;
        }
        Filled::Partly
    }

    pub fn says(&self, ino: u64, btime: Time) -> Said {
        let hash = index_hash(self.key, ino);
        let shard = self.shard(ino).lock();
        let said = shard.waiting.says(hash, ino, btime);
        match (&shard.writing, said) {
            (Some(writing), Said::Nothing) => writing.says(hash, ino, btime),
            _ => said,
        }
    }

    /// Takes what waits in a shard. It is still found, until [`Pending::written`].
    pub fn take(&self, shard: usize) -> Option<Arc<Batch>> {
        let mut shard = self.shards[shard].lock();
        if shard.waiting.facts.is_empty() {
            return None;
        }
        let batch = Arc::new(std::mem::take(&mut shard.waiting));
        shard.writing = Some(Arc::clone(&batch));
        Some(batch)
    }

    pub fn written(&self, shard: usize) {
        let written = self.shards[shard].lock().writing.take();
        // Freed outside the lock.
        drop(written);
    }

    /// Facts that were dropped because the disk could not keep up.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
