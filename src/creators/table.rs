//! One hash table in a file: a head page, then pages of records.
//!
//! A record lies in its home page or in one of the few after it. Ordinary reads and writes, no mapping: a store that
//! fails gives an error, not a SIGBUS. What a batch changes is collected in a [`super::window::Window`].

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::clock::Time;
use crate::creators::Creator;
use crate::creators::record::{Key, MAX_REACH, PAGE_BYTES, Page, SLOTS, u32_at, u64_at};

/// 5,440 records in 288 KiB.
pub const MIN_HOMES_LOG2: u32 = 6;
/// 356 million records in 16 GiB.
pub const MAX_HOMES_LOG2: u32 = 22;

const MAGIC: &[u8; 8] = b"ttlfscr1";
const HEAD_BYTES: usize = 36;
const SUMMED_BYTES: usize = HEAD_BYTES - 4;
const PRIVATE: Mode = Mode::from_raw_mode(0o600);

#[derive(Debug)]
pub struct Table {
    file: OwnedFd,
    key: Key,
    homes_log2: u32,
    /// Records in it: a hint for when to resize. It is exact unless facts were lost in between.
    pub live: u64,
    live_on_disk: u64,
}

#[derive(Debug)]
pub enum OpenError {
    Missing,
    /// Not what we made, or damaged.
    Distrusted(&'static str),
    Io(io::Error),
}

impl From<Errno> for OpenError {
    fn from(error: Errno) -> Self {
        OpenError::Io(error.into())
    }
}

impl Table {
    /// Reserves the whole file now, so that no later write to it finds the backing store full.
    pub fn create(dir: BorrowedFd<'_>, name: &str, key: Key, homes_log2: u32) -> io::Result<Table> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, PRIVATE)?;
        let mut table = Table {
            file,
            key,
            homes_log2,
            live: 0,
            live_on_disk: u64::MAX,
        };
        let made = table.reserve().and_then(|()| table.write_head());
        if let Err(error) = made {
            // What is left of it would only be distrusted later.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            return Err(error);
        }
        Ok(table)
    }

    fn reserve(&self) -> io::Result<()> {
        let bytes = file_bytes(self.homes_log2);
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP) => Ok(rustix::fs::ftruncate(&self.file, bytes)?),
            reserved => Ok(reserved?),
        }
    }

    /// `access`: to read, or to read and write.
    pub fn open(dir: BorrowedFd<'_>, name: &str, access: OFlags) -> Result<Table, OpenError> {
        // Looked at before it is opened: opening a device or a pipe can do things of its own.
        let found = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(OpenError::Missing),
            found => found?,
        };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(OpenError::Distrusted("is not a regular file"));
        }
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(OpenError::Distrusted("is not a regular file"));
        }
        // A second name could be any file of the store, and writing here would change it there.
        if stat.st_nlink != 1 {
            return Err(OpenError::Distrusted("has several names"));
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(OpenError::Distrusted("belongs to another user"));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(OpenError::Distrusted("could be written by others"));
        }
        let mut head = [0; HEAD_BYTES];
        read_at(file.as_fd(), &mut head, 0)?;
        if head[..8] != MAGIC[..] {
            return Err(OpenError::Distrusted("does not begin as ours do"));
        }
        let key = Key(u64_at(&head, 8));
        if key.sum(&head[..SUMMED_BYTES]) != u32_at(&head, SUMMED_BYTES) {
            return Err(OpenError::Distrusted("is damaged at its beginning"));
        }
        let homes_log2 = u32_at(&head, 16);
        if !(MIN_HOMES_LOG2..=MAX_HOMES_LOG2).contains(&homes_log2)
            || u64::try_from(stat.st_size) != Ok(file_bytes(homes_log2))
        {
            return Err(OpenError::Distrusted("has the wrong size"));
        }
        if access == OFlags::RDWR && stat.st_mode & 0o777 != PRIVATE.as_raw_mode() {
            rustix::fs::fchmod(&file, PRIVATE)?;
        }
        let live = u64_at(&head, 24);
        Ok(Table {
            file,
            key,
            homes_log2,
            live: live.min(capacity(homes_log2)),
            live_on_disk: live,
        })
    }

    pub fn key(&self) -> Key {
        self.key
    }

    pub fn homes_log2(&self) -> u32 {
        self.homes_log2
    }

    /// All pages of records.
    pub fn pages(&self) -> u64 {
        (1 << self.homes_log2) + u64::from(MAX_REACH)
    }

    /// To see what a failing store does.
    #[cfg(test)]
    pub fn swap_file(&mut self, file: OwnedFd) -> OwnedFd {
        std::mem::replace(&mut self.file, file)
    }

    /// For a sync without a lock on the table.
    pub fn file(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }

    pub fn home(&self, ino: u64) -> u64 {
        self.key.place(ino) >> (u64::BITS - self.homes_log2)
    }

    pub fn get(&self, ino: u64, btime: Time) -> io::Result<Option<Creator>> {
        let home = self.home(ino);
        let mut page = Page::zeroed();
        let mut reach = 0;
        let mut distance = 0;
        while distance <= reach {
            self.read_pages(home + u64::from(distance), page.bytes_mut())?;
            if let Some((_, record)) = page.find(ino, self.key) {
                return Ok((record.btime == btime).then_some(record.creator));
            }
            if distance == 0 {
                reach = page.reach();
            }
            distance += 1;
        }
        Ok(None)
    }

    /// What lies past the end of a file that somebody cut reads as free slots.
    pub fn read_pages(&self, first: u64, bytes: &mut [u8]) -> io::Result<()> {
        Ok(read_at(self.file.as_fd(), bytes, page_offset(first))?)
    }

    pub fn write_pages(&self, first: u64, pages: &[IoSlice<'_>]) -> io::Result<()> {
        let written = rustix::io::pwritev(&self.file, pages, page_offset(first))?;
        if written == pages.len() * PAGE_BYTES {
            return Ok(());
        }
        // Rare: the rest in small steps says why.
        for (number, page) in (first..).zip(pages) {
            write_at(self.file.as_fd(), page, page_offset(number))?;
        }
        Ok(())
    }

    /// Brings the head up to date.
    pub fn write_head(&mut self) -> io::Result<()> {
        if self.live == self.live_on_disk {
            return Ok(());
        }
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        head[8..16].copy_from_slice(&self.key.0.to_le_bytes());
        head[16..20].copy_from_slice(&self.homes_log2.to_le_bytes());
        head[24..32].copy_from_slice(&self.live.to_le_bytes());
        let sum = self.key.sum(&head[..SUMMED_BYTES]);
        head[SUMMED_BYTES..].copy_from_slice(&sum.to_le_bytes());
        write_at(self.file.as_fd(), &head, 0)?;
        self.live_on_disk = self.live;
        Ok(())
    }
}

/// Records that would fill a table.
pub fn capacity(homes_log2: u32) -> u64 {
    (SLOTS as u64) << homes_log2
}

fn file_bytes(homes_log2: u32) -> u64 {
    page_offset((1 << homes_log2) + u64::from(MAX_REACH))
}

fn page_offset(page: u64) -> u64 {
    (page + 1) * PAGE_BYTES as u64
}

fn read_at(file: BorrowedFd<'_>, bytes: &mut [u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(file, &mut bytes[done..], offset + done as u64) {
            Ok(0) => {
                bytes[done..].fill(0);
                break;
            }
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
