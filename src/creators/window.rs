//! The pages of a table that a batch changes: each read once, and written once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, IoSlice};

use crate::clock::Time;
use crate::creators::record::{MAX_REACH, Page, Record, SLOTS};
use crate::creators::table::Table;

/// What became of a record that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stored {
    Yes,
    /// Every page within reach is full.
    Full,
}

struct Held {
    page: Page,
    dirty: bool,
}

/// Where a record is, or where it can go.
enum Spot {
    Same {
        page: u64,
        slot: usize,
        record: Record,
    },
    Free {
        page: u64,
        slot: usize,
    },
    Full,
}

/// Pages of one table while a batch changes them.
#[derive(Default)]
pub struct Window {
    held: BTreeMap<u64, Held>,
}

impl Window {
    const MAX_PAGES: usize = 64;

    fn load(&mut self, table: &Table, number: u64) -> io::Result<&mut Held> {
        Ok(match self.held.entry(number) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                let mut page = Page::zeroed();
                table.read_pages(number, page.bytes_mut())?;
                place.insert(Held { page, dirty: false })
            }
        })
    }

    /// Writes what was changed, neighbours together, and lets go of everything, whatever fails.
    pub fn write(&mut self, table: &Table) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let dirty: Vec<(u64, Held)> = held.into_iter().filter(|(_, held)| held.dirty).collect();
        let mut result = Ok(());
        for run in dirty.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
            let pages: Vec<IoSlice<'_>> = run
                .iter()
                .map(|(_, held)| IoSlice::new(held.page.bytes()))
                .collect();
            let written = table.write_pages(run[0].0, &pages);
            result = result.and(written);
        }
        result
    }

    fn make_room(&mut self, table: &Table) -> io::Result<()> {
        if self.held.len() < Self::MAX_PAGES {
            return Ok(());
        }
        self.write(table)
    }

    fn spot(&mut self, table: &Table, ino: u64) -> io::Result<Spot> {
        self.make_room(table)?;
        let home = table.home(ino);
        let mut reach = 0;
        let mut free = None;
        for distance in 0..=MAX_REACH {
            let number = home + u64::from(distance);
            let page = &self.load(table, number)?.page;
            if distance == 0 {
                reach = page.reach();
            }
            if let Some((slot, record)) = page.find(ino, table.key()) {
                return Ok(Spot::Same {
                    page: number,
                    slot,
                    record,
                });
            }
            free = free.or_else(|| page.free().map(|slot| (number, slot)));
            if distance >= reach
                && let Some((page, slot)) = free
            {
                return Ok(Spot::Free { page, slot });
            }
        }
        Ok(free.map_or(Spot::Full, |(page, slot)| Spot::Free { page, slot }))
    }

    fn set(
        &mut self,
        table: &Table,
        number: u64,
        slot: usize,
        record: Option<&Record>,
    ) -> io::Result<()> {
        if let Some(record) = record {
            let home = table.home(record.ino);
            let held = self.load(table, home)?;
            held.dirty |= held.page.extend_reach((number - home) as u8);
        }
        let held = self.load(table, number)?;
        held.page.set(slot, record, table.key());
        held.dirty = true;
        Ok(())
    }

    /// Replaces any record of the same inode number.
    pub fn put(&mut self, table: &mut Table, record: &Record) -> io::Result<Stored> {
        match self.spot(table, record.ino)? {
            Spot::Same { page, slot, .. } => {
                self.set(table, page, slot, Some(record))?;
                Ok(Stored::Yes)
            }
            Spot::Free { page, slot } => self.add(table, page, slot, record),
            Spot::Full => Ok(Stored::Full),
        }
    }

    /// Leaves a record of the same inode number as it is: it is newer.
    pub fn put_older(&mut self, table: &mut Table, record: &Record) -> io::Result<Stored> {
        match self.spot(table, record.ino)? {
            Spot::Same { .. } => Ok(Stored::Yes),
            Spot::Free { page, slot } => self.add(table, page, slot, record),
            Spot::Full => Ok(Stored::Full),
        }
    }

    fn add(
        &mut self,
        table: &mut Table,
        page: u64,
        slot: usize,
        record: &Record,
    ) -> io::Result<Stored> {
        self.set(table, page, slot, Some(record))?;
        table.live += 1;
        Ok(Stored::Yes)
    }

    /// Where there is no room left: instead of the oldest within reach.
    pub fn put_over_oldest(&mut self, table: &Table, record: &Record) -> io::Result<()> {
        self.make_room(table)?;
        let home = table.home(record.ino);
        let mut oldest = (None, home, 0);
        for number in home..=home + u64::from(MAX_REACH) {
            let page = &self.load(table, number)?.page;
            for slot in 0..SLOTS {
                // What is damaged sorts before all times.
                let btime = page.record(slot, table.key()).map(|record| record.btime);
                if (number, slot) == (home, 0) || btime < oldest.0 {
                    oldest = (btime, number, slot);
                }
            }
        }
        self.set(table, oldest.1, oldest.2, Some(record))
    }

    /// Clears the record of an inode number, unless it is of a newer file.
    pub fn clear(&mut self, table: &mut Table, ino: u64, btime: Time) -> io::Result<()> {
        if let Spot::Same { page, slot, record } = self.spot(table, ino)?
            && record.btime <= btime
        {
            self.set(table, page, slot, None)?;
            table.live = table.live.saturating_sub(1);
        }
        Ok(())
    }
}
