//! Tables of records addressed by index, in memory that outlives the server.
//!
//! A record is live if and only if its first word, the state, is not 0. What is free is known from the records alone,
//! so a new server finds it again; which slots are free is kept beside them, in this process only. Memory of empty
//! blocks goes back to the system.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::sys::shm::{Mapping, SharedRecord};

/// A record of a [`Slab`]: it says itself whether it is in use, and can be wiped.
pub trait Record: SharedRecord {
    /// The state word: 0 is free.
    fn state(&self) -> &AtomicU32;
    /// Sets every field but the state to zero.
    fn wipe(&self);
}

/// The address of a record: never 0, so that 0 in a field can mean "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    const SHIFT: u32 = 12;

    fn new(block: usize, slot: usize) -> Self {
        Self((block as u32 + 1) << Self::SHIFT | slot as u32)
    }

    fn block(self) -> usize {
        (self.0 >> Self::SHIFT) as usize - 1
    }

    fn index(self) -> usize {
        (self.0 & ((1 << Self::SHIFT) - 1)) as usize
    }

    /// The number as it stands in other records.
    pub fn raw(self) -> u32 {
        self.0
    }

    /// The slot of a number in a record; 0 is none.
    pub fn from_raw(raw: u32) -> Option<Self> {
        (raw >> Self::SHIFT != 0).then_some(Self(raw))
    }
}

#[derive(Debug, Default)]
struct Block {
    /// A bit per slot: set if taken.
    taken: Vec<u64>,
    live: usize,
    /// Whether its memory was given back since it was last used.
    punched: bool,
}

#[derive(Debug, Default)]
struct Free {
    blocks: Vec<Block>,
    /// Blocks with room, lowest first, so that high ones empty and go back.
    roomy: BTreeSet<usize>,
    live: usize,
}

/// A table of records.
#[derive(Debug)]
pub struct Slab<T> {
    memory: Mapping<T>,
    free: Mutex<Free>,
}

impl<T: Record> Slab<T> {
    const WORDS: usize = Mapping::<T>::PER_BLOCK.div_ceil(64);

    /// The table in `file`, with all records that an earlier server left in it.
    pub fn new(file: OwnedFd, max_records: usize) -> io::Result<Self> {
        const { assert!(Mapping::<T>::PER_BLOCK <= 1 << Slot::SHIFT) };
        let blocks = max_records
            .div_ceil(Mapping::<T>::PER_BLOCK)
            .min((1 << (32 - Slot::SHIFT)) - 2);
        let memory = Mapping::<T>::new(file, blocks)?;
        let mut free = Free::default();
        for block in 0..memory.blocks() {
            let mut map = Block {
                taken: vec![0; Self::WORDS],
                live: 0,
                punched: false,
            };
            for slot in 0..Mapping::<T>::PER_BLOCK {
                if memory
                    .get(block, slot)
                    .is_some_and(|r| r.state().load(Ordering::Acquire) != 0)
                {
                    map.taken[slot / 64] |= 1 << (slot % 64);
                    map.live += 1;
                }
            }
            free.live += map.live;
            if map.live < Mapping::<T>::PER_BLOCK {
                free.roomy.insert(block);
            }
            free.blocks.push(map);
        }
        Ok(Self {
            memory,
            free: Mutex::new(free),
        })
    }

    /// How many records are in use.
    pub fn live(&self) -> usize {
        self.free.lock().live
    }

    /// Takes a free slot. The record is all zeros but not yet live: the caller fills it and sets the state last.
    pub fn take(&self) -> io::Result<Slot> {
        let mut free = self.free.lock();
        let block = match free.roomy.first() {
            Some(&block) => block,
            None => {
                let block = self.memory.grow()?;
                free.blocks.push(Block {
                    taken: vec![0; Self::WORDS],
                    live: 0,
                    punched: false,
                });
                free.roomy.insert(block);
                block
            }
        };
        let map = &mut free.blocks[block];
        let (word, bits) = map
            .taken
            .iter_mut()
            .enumerate()
            .find(|(_, bits)| **bits != u64::MAX)
            .expect("a roomy block has a free slot");
        let bit = bits.trailing_ones() as usize;
        *bits |= 1 << bit;
        map.live += 1;
        map.punched = false;
        if map.live == Mapping::<T>::PER_BLOCK {
            free.roomy.remove(&block);
        }
        free.live += 1;
        let slot = Slot::new(block, word * 64 + bit);
        // A server that died while it filled a record left it unpublished, but not empty.
        self.get(slot).wipe();
        Ok(slot)
    }

    /// Frees a record: it is wiped, and memory that no record uses any more goes back.
    pub fn give_back(&self, slot: Slot) {
        let record = self.get(slot);
        record.state().store(0, Ordering::Release);
        record.wipe();
        let mut free = self.free.lock();
        let block = slot.block();
        let map = &mut free.blocks[block];
        let bit = 1 << (slot.index() % 64);
        assert!(
            map.taken[slot.index() / 64] & bit != 0,
            "a slot is given back once"
        );
        map.taken[slot.index() / 64] &= !bit;
        map.live -= 1;
        // One empty block is kept, so that a table that breathes does not ask the system each time.
        let empty = map.live == 0 && block > 0;
        if empty {
            map.punched = self.memory.punch(block).is_ok();
        }
        free.roomy.insert(block);
        free.live -= 1;
    }

    /// The record at `slot`.
    #[inline]
    pub fn get(&self, slot: Slot) -> &T {
        self.memory
            .get(slot.block(), slot.index())
            .expect("slots are made by this table")
    }

    /// The record at `slot` if such a slot can exist: for numbers found in memory that another process wrote.
    pub fn checked(&self, slot: Slot) -> Option<&T> {
        self.memory.get(slot.block(), slot.index())
    }

    /// Calls `each` for every live record. Records that come or go meanwhile may or may not be seen.
    pub fn for_each(&self, mut each: impl FnMut(Slot, &T)) {
        let blocks = self.free.lock().blocks.len();
        for block in 0..blocks {
            let taken = {
                let free = self.free.lock();
                if free.blocks[block].live == 0 {
                    continue;
                }
                free.blocks[block].taken.clone()
            };
            for (word, mut bits) in taken.into_iter().enumerate() {
                while bits != 0 {
                    let index = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    if let Some(record) = self.memory.get(block, index)
                        && record.state().load(Ordering::Acquire) != 0
                    {
                        each(Slot::new(block, index), record);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
