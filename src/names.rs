//! File names in memory that outlives the server, in four sizes of record.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::shared_record;
use crate::slab::{Record, Slab, Slot};

/// How many memfds the names need.
pub const NAME_FDS: usize = 4;

/// The longest name, as in `NAME_MAX`.
pub const NAME_MAX: usize = 255;

macro_rules! name_record {
    ($name:ident, $words:literal) => {
        shared_record! {
            #[doc = "A name: the state is its length plus one."]
            struct $name { state: AtomicU32, bytes: [AtomicU32; $words] }
        }
        impl Record for $name {
            fn state(&self) -> &AtomicU32 {
                &self.state
            }
            fn wipe(&self) {
                self.bytes
                    .iter()
                    .for_each(|w| w.store(0, Ordering::Relaxed));
            }
        }
    };
}
name_record!(Name28, 7);
name_record!(Name60, 15);
name_record!(Name124, 31);
name_record!(Name256, 64);

/// Where a name is kept: its size class and its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRef {
    /// 0 to 3.
    pub class: u8,
    /// The record.
    pub slot: Slot,
}

/// The table of names.
#[derive(Debug)]
pub struct Names {
    small: Slab<Name28>,
    medium: Slab<Name60>,
    large: Slab<Name124>,
    full: Slab<Name256>,
}

fn put<'a>(state: &AtomicU32, words: impl Iterator<Item = &'a AtomicU32>, name: &[u8]) {
    for (word, bytes) in words.zip(name.chunks(4)) {
        let mut four = [0; 4];
        four[..bytes.len()].copy_from_slice(bytes);
        word.store(u32::from_ne_bytes(four), Ordering::Relaxed);
    }
    state.store(name.len() as u32 + 1, Ordering::Release);
}

fn copy<'a>(state: &AtomicU32, words: impl Iterator<Item = &'a AtomicU32>) -> Option<Vec<u8>> {
    let len = state.load(Ordering::Acquire).checked_sub(1)? as usize;
    let mut name = Vec::with_capacity(len + 4);
    for word in words.take(len.div_ceil(4)) {
        name.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    name.truncate(len);
    Some(name)
}

impl Names {
    /// The names in these memfds, with all that an earlier server left.
    pub fn new(files: [OwnedFd; NAME_FDS], max_names: usize) -> io::Result<Self> {
        let [small, medium, large, full] = files;
        Ok(Self {
            small: Slab::new(small, max_names)?,
            medium: Slab::new(medium, max_names)?,
            large: Slab::new(large, max_names)?,
            full: Slab::new(full, max_names)?,
        })
    }

    /// Keeps a name of at most `NAME_MAX` bytes.
    pub fn add(&self, name: &[u8]) -> io::Result<NameRef> {
        macro_rules! keep {
            ($class:literal, $slab:expr) => {{
                let slot = $slab.take()?;
                let record = $slab.get(slot);
                put(&record.state, record.bytes.iter(), name);
                NameRef {
                    class: $class,
                    slot,
                }
            }};
        }
        Ok(match name.len() {
            0..=28 => keep!(0, self.small),
            29..=60 => keep!(1, self.medium),
            61..=124 => keep!(2, self.large),
            _ => keep!(3, self.full),
        })
    }

    /// A copy of the name. `None`: there is none (a record that a dead server left half-made).
    pub fn get(&self, at: NameRef) -> Option<Vec<u8>> {
        macro_rules! read {
            ($slab:expr) => {{
                let record = $slab.checked(at.slot)?;
                copy(&record.state, record.bytes.iter())
            }};
        }
        match at.class {
            0 => read!(self.small),
            1 => read!(self.medium),
            2 => read!(self.large),
            _ => read!(self.full),
        }
    }

    /// Frees a name.
    pub fn remove(&self, at: NameRef) {
        match at.class {
            0 => self.small.give_back(at.slot),
            1 => self.medium.give_back(at.slot),
            2 => self.large.give_back(at.slot),
            _ => self.full.give_back(at.slot),
        }
    }

    /// Every name.
    pub fn all(&self) -> Vec<NameRef> {
        let mut all = Vec::new();
        self.small
            .for_each(|slot, _| all.push(NameRef { class: 0, slot }));
        self.medium
            .for_each(|slot, _| all.push(NameRef { class: 1, slot }));
        self.large
            .for_each(|slot, _| all.push(NameRef { class: 2, slot }));
        self.full
            .for_each(|slot, _| all.push(NameRef { class: 3, slot }));
        all
    }

    /// How many names are kept.
    pub fn live(&self) -> usize {
        self.small.live() + self.medium.live() + self.large.live() + self.full.live()
    }
}

#[cfg(test)]
mod tests;
