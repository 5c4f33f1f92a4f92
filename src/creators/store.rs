//! The file `creators` in private state, and how it changes size.
//!
//! A resize copies into `creators.new`, a few pages at a time, while both are in use: new facts go to the new table,
//! old ones are found in the old until it is replaced by a rename. Copying never overwrites, so an interrupted copy
//! starts again from the beginning, with nothing lost.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::clock::Time;
use crate::creators::Creator;
use crate::creators::pending::{Fact, What};
use crate::creators::record::{Key, PAGE_BYTES, Page, Record, SLOTS};
use crate::creators::table::{MAX_HOMES_LOG2, MIN_HOMES_LOG2, OpenError, Table, capacity};
use crate::creators::window::{Stored, Window};

const NAME: &str = "creators";
const NAME_NEW: &str = "creators.new";
const NAME_BAD: &str = "creators.bad";
/// Pages copied under one lock.
const STEP_PAGES: u64 = 16;
/// After a failed resize.
const PAUSE: Duration = Duration::from_secs(10);

/// May the file be changed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Write,
    Read,
}

#[derive(Debug)]
struct Resize {
    table: Table,
    /// The first page of the old table that isn't copied yet.
    next_page: u64,
}

/// How a resize goes on.
#[derive(Debug)]
pub enum Step {
    Idle,
    Copying,
    /// This file is to be synced, then [`Store::finish`] called.
    Copied(OwnedFd),
}

#[derive(Debug)]
pub struct Store {
    dir: OwnedFd,
    table: Table,
    resize: Option<Resize>,
    paused_until: Option<Instant>,
    /// The log knows that resizing fails.
    told: bool,
    access: Access,
}

/// Random, so that nobody can choose inode numbers that crowd out those of others.
pub fn random_key() -> Key {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(8) => Key(u64::from_le_bytes(bytes)),
        // Early in a boot: a guessable key is better than none.
        _ => Key(
            rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec as u64 | 1 << 32,
        ),
    }
}

impl Store {
    pub fn open(dir: OwnedFd) -> io::Result<Store> {
        match Table::open(dir.as_fd(), NAME, OFlags::RDWR) {
            Ok(table) => return Store::with_table(dir, table),
            Err(OpenError::Missing) => {}
            Err(OpenError::Io(error)) if error.raw_os_error() == Some(rofs()) => {
                return Store::open_to_read(dir);
            }
            Err(OpenError::Io(error)) => return Err(error),
            Err(OpenError::Distrusted(why)) => {
                tracing::warn!("{NAME} in private state {why}: set aside as {NAME_BAD}, made anew");
                set_aside(&dir)?;
            }
        }
        // What can't be removed stands in the way of a resize only.
        let _ = remove(&dir, NAME_NEW);
        let table = Table::create(dir.as_fd(), NAME, random_key(), MIN_HOMES_LOG2)?;
        Ok(Store::new(dir, table, None, Access::Write))
    }

    fn with_table(dir: OwnedFd, table: Table) -> io::Result<Store> {
        let resize = match Table::open(dir.as_fd(), NAME_NEW, OFlags::RDWR) {
            Ok(new) if new.key() == table.key() => Some(Resize {
                table: new,
                next_page: 0,
            }),
            Err(OpenError::Missing) => None,
            Err(OpenError::Io(error)) => return Err(error),
            Ok(_) | Err(OpenError::Distrusted(_)) => {
                let _ = remove(&dir, NAME_NEW);
                None
            }
        };
        Ok(Store::new(dir, table, resize, Access::Write))
    }

    fn open_to_read(dir: OwnedFd) -> io::Result<Store> {
        let open = |name| match Table::open(dir.as_fd(), name, OFlags::RDONLY) {
            Ok(table) => Ok(table),
            Err(OpenError::Io(error)) => Err(error),
            Err(OpenError::Missing) => Err(Errno::ROFS.into()),
            Err(OpenError::Distrusted(why)) => Err(io::Error::other(format!("{name} {why}"))),
        };
        let table = open(NAME)?;
        let resize = open(NAME_NEW)
            .ok()
            .filter(|new| new.key() == table.key())
            .map(|table| Resize {
                table,
                next_page: 0,
            });
        Ok(Store::new(dir, table, resize, Access::Read))
    }

    fn new(dir: OwnedFd, table: Table, resize: Option<Resize>, access: Access) -> Store {
        Store {
            dir,
            table,
            resize,
            paused_until: None,
            told: false,
            access,
        }
    }

    pub fn access(&self) -> Access {
        self.access
    }

    pub fn key(&self) -> Key {
        self.table.key()
    }

    #[cfg(test)]
    pub fn try_resize_now(&mut self) {
        self.paused_until = None;
    }

    #[cfg(test)]
    pub fn all_live(&self) -> u64 {
        self.table.live + self.resize.as_ref().map_or(0, |resize| resize.table.live)
    }

    #[cfg(test)]
    pub fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    pub fn get(&self, ino: u64, btime: Time) -> io::Result<Option<Creator>> {
        if let Some(resize) = &self.resize
            && let Some(creator) = resize.table.get(ino, btime)?
        {
            return Ok(Some(creator));
        }
        self.table.get(ino, btime)
    }

    /// Carries facts out, sorted by place. Goes on after an error, and returns the first.
    pub fn apply(&mut self, facts: &[Fact]) -> io::Result<()> {
        let mut windows = Windows::default();
        let mut result = Ok(());
        for fact in facts {
            let done = match fact.what {
                What::Made { creator, .. } => {
                    let record = Record {
                        ino: fact.ino,
                        btime: fact.btime,
                        creator,
                    };
                    self.put(&mut windows, &record)
                }
                What::Gone => self.clear(&mut windows, fact.ino, fact.btime),
                What::Nothing => Ok(()),
            };
            result = result.and(done);
        }
        if let Some(resize) = &self.resize {
            result = result.and(windows.new.write(&resize.table));
        }
        result.and(windows.current.write(&self.table))
    }

    fn put(&mut self, windows: &mut Windows, record: &Record) -> io::Result<()> {
        if self.resize.is_none() {
            match windows.current.put(&mut self.table, record)? {
                Stored::Yes => return Ok(()),
                Stored::Full => self.grow(),
            }
        }
        let Some(Resize { table, .. }) = &mut self.resize else {
            return windows.current.put_over_oldest(&self.table, record);
        };
        match windows.new.put(table, record)? {
            Stored::Yes => Ok(()),
            Stored::Full => windows.new.put_over_oldest(table, record),
        }
    }

    fn clear(&mut self, windows: &mut Windows, ino: u64, btime: Time) -> io::Result<()> {
        // In both: what is left in the old table would be copied.
        let mut result = Ok(());
        if let Some(resize) = &mut self.resize {
            result = windows.new.clear(&mut resize.table, ino, btime);
        }
        result.and(windows.current.clear(&mut self.table, ino, btime))
    }

    /// Sees to a table that will hold so many facts more. True if a resize must be finished before they come.
    pub fn wants_to_finish_before(&mut self, more: u64) -> bool {
        let expected = self.table.live + more;
        if let Some(resize) = &self.resize {
            // What both hold counts twice: that only finishes it sooner.
            let expected = expected + resize.table.live;
            return expected * 2 > capacity(resize.table.homes_log2()) && self.is_resizing();
        }
        if expected * 4 > capacity(self.table.homes_log2()) * 3 {
            // Half empty, so that chance fills no stretch of it before it is ready.
            let larger = (self.table.homes_log2() + 1..MAX_HOMES_LOG2)
                .find(|homes_log2| expected * 2 <= capacity(*homes_log2));
            self.grow_to(larger.unwrap_or(MAX_HOMES_LOG2));
        }
        false
    }

    /// Begins to double the table where chance has filled a stretch of it.
    ///
    /// A table that overflows while three quarters of it are empty has an odd set of numbers, not too many of them.
    fn grow(&mut self) {
        if self.table.live * 4 >= capacity(self.table.homes_log2()) {
            self.grow_to(self.table.homes_log2() + 1);
        }
    }

    fn grow_to(&mut self, homes_log2: u32) {
        if homes_log2 > self.table.homes_log2() && homes_log2 <= MAX_HOMES_LOG2 {
            self.begin(homes_log2);
        }
    }

    /// After a batch: the head is brought up to date, and a table that is nearly empty begins to shrink.
    pub fn settle(&mut self) -> io::Result<()> {
        if let Some(resize) = &mut self.resize {
            resize.table.write_head()?;
        } else if self.table.live * 16 < capacity(self.table.homes_log2()) {
            let fits = |homes_log2: &u32| capacity(*homes_log2) >= self.table.live * 3;
            let smaller = (MIN_HOMES_LOG2..self.table.homes_log2()).find(fits);
            if let Some(homes_log2) = smaller {
                self.begin(homes_log2);
            }
        }
        self.table.write_head()
    }

    pub fn begin(&mut self, homes_log2: u32) {
        if self.is_paused() {
            return;
        }
        let made = remove(&self.dir, NAME_NEW)
            .and_then(|()| Table::create(self.dir.as_fd(), NAME_NEW, self.key(), homes_log2));
        match made {
            Ok(table) => {
                self.resize = Some(Resize {
                    table,
                    next_page: 0,
                });
            }
            Err(error) => self.pause(&error),
        }
    }

    fn is_paused(&self) -> bool {
        self.paused_until
            .is_some_and(|until| Instant::now() < until)
    }

    fn pause(&mut self, error: &io::Error) {
        self.paused_until = Some(Instant::now() + PAUSE);
        if !self.told {
            tracing::warn!(%error, "{NAME} in private state can't be resized; it may forget who made the oldest files");
            self.told = true;
        }
    }

    pub fn is_resizing(&self) -> bool {
        self.access == Access::Write && self.resize.is_some() && !self.is_paused()
    }

    /// Copies a few pages.
    pub fn step(&mut self) -> Step {
        if !self.is_resizing() {
            return Step::Idle;
        }
        self.copy_some().unwrap_or_else(|error| {
            self.pause(&error);
            Step::Idle
        })
    }

    fn copy_some(&mut self) -> io::Result<Step> {
        let Some(resize) = &mut self.resize else {
            return Ok(Step::Idle);
        };
        let pages = self.table.pages().min(resize.next_page + STEP_PAGES) - resize.next_page;
        if pages == 0 {
            resize.table.write_head()?;
            return Ok(Step::Copied(resize.table.file()?));
        }
        let key = self.table.key();
        let mut bytes = vec![0; pages as usize * PAGE_BYTES];
        self.table.read_pages(resize.next_page, &mut bytes)?;
        let mut window = Window::default();
        let mut page = Page::zeroed();
        for chunk in bytes.chunks_exact(PAGE_BYTES) {
            page.bytes_mut().copy_from_slice(chunk);
            for record in (0..SLOTS).filter_map(|slot| page.record(slot, key)) {
                if window.put_older(&mut resize.table, &record)? == Stored::Full {
                    window.put_over_oldest(&resize.table, &record)?;
                }
            }
        }
        window.write(&resize.table)?;
        resize.next_page += pages;
        Ok(Step::Copying)
    }

    /// Once the copy is complete and synced it takes the place of the old table.
    pub fn finish(&mut self, synced: io::Result<()>) {
        let renamed = synced.and_then(|()| {
            rustix::fs::renameat(&self.dir, NAME_NEW, &self.dir, NAME).map_err(io::Error::from)
        });
        if let Err(error) = renamed {
            return self.pause(&error);
        }
        if let Some(resize) = self.resize.take() {
            self.table = resize.table;
            self.told = false;
        }
    }
}

/// Pages of both tables while a batch is carried out.
#[derive(Default)]
struct Windows {
    current: Window,
    new: Window,
}

fn rofs() -> i32 {
    Errno::ROFS.raw_os_error()
}

fn remove(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?),
        Err(error) => Err(error.into()),
    }
}

/// Out of the way, for an admin to look at. Of several, the last is kept.
fn set_aside(dir: &OwnedFd) -> io::Result<()> {
    if remove(dir, NAME_BAD).is_ok() && rustix::fs::renameat(dir, NAME, dir, NAME_BAD).is_ok() {
        return Ok(());
    }
    remove(dir, NAME)
}
