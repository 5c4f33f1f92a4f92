//! Who made each file: remembered under inode number and birth time, across remounts.
//!
//! A request thread only looks at who the caller is and queues that, after its reply; a background thread writes.
//! These facts are for people to read. So nothing here ever fails a program's call or holds it up: when the backing
//! store is full or fails, or falls behind by [`pending::SHARDS`] times [`pending::SHARD_FACTS`] facts, facts are
//! lost, the oldest first, and the log says so. Nothing is synced either: a power loss costs the latest facts.

mod caller;
mod pending;
mod record;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use crate::clock::Time;
use caller::{Callers, Comm};
use pending::{Filled, Pending, SHARDS, Said};
use record::Record;
use store::{Access, Step, Store};

/// Facts gather this long before they are written: a crash of the daemon costs no more, an idle mount writes nothing.
const GATHER: Duration = Duration::from_millis(200);
/// Facts written under one lock, so that `get` never waits long.
const FACTS_PER_LOCK: usize = 64;
/// Steps of a resize between two looks at the queue.
const STEPS_PER_LOOK: usize = 64;
/// Between attempts to open a store that failed.
const RETRY: Duration = Duration::from_secs(10);

/// Who made a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    pub uid: u32,
    pub gid: u32,
    /// The process. 0: not visible from here (another pid namespace, or the kernel itself).
    pub pid: u32,
    /// The process's name, padded with zeros. Empty: the caller was gone before anybody looked; `pid` is then the
    /// number of the thread that called, of a process with one thread the same.
    pub comm: Comm,
}

impl Creator {
    /// The name in one printable line: what isn't UTF-8 is replaced, what isn't printable is escaped.
    pub fn comm_text(&self) -> String {
        let length = self.comm.iter().position(|byte| *byte == 0);
        let name = &self.comm[..length.unwrap_or(self.comm.len())];
        let mut text = String::with_capacity(name.len());
        for c in String::from_utf8_lossy(name).chars() {
            match c {
                '"' | '\'' => text.push(c),
                _ => text.extend(c.escape_debug()),
            }
        }
        text
    }
}

/// Wakes the background thread.
#[derive(Default)]
struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Rung {
    /// Facts have begun to gather.
    something: bool,
    /// Don't wait for more.
    now: bool,
}

impl Bell {
    fn ring(&self, how: Rung) {
        let mut rung = self.rung.lock();
        rung.something |= how.something;
        rung.now |= how.now;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock();
        self.changed
            .wait_while(&mut rung, |rung| !rung.something && !rung.now);
        self.changed
            .wait_while_for(&mut rung, |rung| !rung.now, GATHER);
        *rung = Rung::default();
    }
}

/// What the writing side has to remember.
#[derive(Default)]
struct Writer {
    retry_at: Option<Instant>,
    /// The log was told, and nothing went well since.
    failing: bool,
    lost_told: u64,
}

/// Lock order: `writer`, then `store` or a shard of the queue. Only who holds `writer` changes the store.
struct Disk {
    dir: OwnedFd,
    writer: Mutex<Writer>,
    /// None while it can't be opened.
    store: Mutex<Option<Store>>,
}

/// Remembers who made each file.
pub struct Creators {
    callers: Callers,
    pending: Pending,
    /// None: the queue is all there is.
    disk: Option<Disk>,
    bell: Bell,
    /// Facts came since the background thread last took them.
    stirred: AtomicBool,
}

impl fmt::Debug for Creators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Creators").finish_non_exhaustive()
    }
}

impl Creators {
    /// Uses the file `creators` in the private directory. What isn't plainly ours there is set aside and made anew.
    ///
    /// A backing store that is full or fails now is tried again later; a read-only one is only read.
    pub fn open(private_dir: BorrowedFd<'_>) -> io::Result<Creators> {
        let dir = private_dir.try_clone_to_owned()?;
        let store = match Store::open(dir.try_clone()?) {
            Ok(store) => Some(store),
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::ROFS) => return Ok(Creators::in_memory()),
                Some(Errno::NOSPC | Errno::DQUOT | Errno::IO) => {
                    warn_failing(&error);
                    None
                }
                _ => return Err(error),
            },
        };
        let writer = Writer {
            retry_at: store.is_none().then(|| Instant::now() + RETRY),
            failing: store.is_none(),
            lost_told: 0,
        };
        // The same key in both, so that a shard of the queue is one stretch of the file.
        let key = store.as_ref().map_or_else(store::random_key, Store::key);
        Ok(Creators {
            disk: Some(Disk {
                dir,
                writer: Mutex::new(writer),
                store: Mutex::new(store),
            }),
            ..Creators::with_key(key)
        })
    }

    /// Remembers the latest, as long as it lives.
    pub fn in_memory() -> Creators {
        Creators::with_key(store::random_key())
    }

    fn with_key(key: record::Key) -> Creators {
        Creators {
            callers: Callers::new(),
            pending: Pending::new(key),
            disk: None,
            bell: Bell::default(),
            stirred: AtomicBool::new(false),
        }
    }

    /// Notes that thread `tid` (0: unknown) made a file. For right after the reply, while the caller still lives.
    pub fn capture(&self, ino: u64, btime: Time, uid: u32, gid: u32, tid: u32) {
        let (pid, comm) = self.callers.identify(tid);
        let creator = Creator {
            uid,
            gid,
            pid,
            comm,
        };
        self.add(ino, btime, creator);
    }

    fn add(&self, ino: u64, btime: Time, creator: Creator) {
        // No backing store has such a file; 0 marks free records.
        if ino == 0 {
            return;
        }
        let filled = self.pending.made(Record {
            ino,
            btime,
            creator,
        });
        self.stir(filled);
    }

    /// Who made the file, if that is known.
    pub fn get(&self, ino: u64, btime: Time) -> Option<Creator> {
        match self.pending.says(ino, btime) {
            Said::Made(creator) => return Some(creator),
            Said::Gone => return None,
            Said::Nothing => {}
        }
        let store = self.disk.as_ref()?.store.lock();
        store.as_ref()?.get(ino, btime).ok().flatten()
    }

    /// The file is gone.
    pub fn forget(&self, ino: u64, btime: Time) {
        let filled = self.pending.gone(ino, btime, self.disk.is_some());
        self.stir(filled);
    }

    /// Tells the background thread, if it doesn't know yet, that there is something to write.
    fn stir(&self, filled: Filled) {
        if self.disk.is_none() {
            return;
        }
        let now = filled == Filled::Half;
        // A swap even if it is set: the background thread must see the fact if we don't see its swap.
        let something = !self.stirred.swap(true, Ordering::AcqRel);
        if now || something {
            self.bell.ring(Rung { something, now });
        }
    }

    /// The body of the background thread. Returns after a last flush, once `stopping` is set and [`Self::wake`] called.
    pub fn run(&self, stopping: &AtomicBool) {
        loop {
            if !self.is_resizing() {
                self.bell.wait();
            }
            let last = stopping.load(Ordering::Acquire);
            // Errors are in the log by now.
            let _ = self.flush();
            if last {
                return;
            }
            self.resize();
        }
    }

    /// Has the background thread look at once.
    pub fn wake(&self) {
        self.bell.ring(Rung {
            something: false,
            now: true,
        });
    }

    /// Hands what is queued to the backing store's page cache.
    pub fn flush(&self) -> io::Result<()> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let mut writer = disk.writer.lock();
        self.stirred.swap(false, Ordering::AcqRel);
        let result = self.write_all(disk, &mut writer);
        self.report(&mut writer, &result);
        result
    }

    fn write_all(&self, disk: &Disk, writer: &mut Writer) -> io::Result<()> {
        let Some(key) = disk.ready(writer)? else {
            return Ok(());
        };
        let mut result = Ok(());
        for shard in 0..SHARDS {
            let Some(batch) = self.pending.take(shard) else {
                continue;
            };
            let facts = batch.sorted(key);
            // The other shards will have about as much, and this one's facts all go to its share of the table.
            disk.make_room((facts.len() * SHARDS) as u64);
            for facts in facts.chunks(FACTS_PER_LOCK) {
                if let Some(store) = &mut *disk.store.lock() {
                    result = result.and(store.apply(facts));
                }
                // A larger table must be ready before what is new fills it up.
                disk.step();
            }
            self.pending.written(shard);
        }
        match &mut *disk.store.lock() {
            Some(store) => result.and(store.settle()),
            None => result,
        }
    }

    /// Tells the log what changed, once.
    fn report(&self, writer: &mut Writer, result: &io::Result<()>) {
        match result {
            Err(error) if !writer.failing => warn_failing(error),
            Ok(()) if writer.failing => tracing::info!("who makes files is remembered again"),
            _ => {}
        }
        writer.failing = result.is_err();
        let lost = self.pending.lost();
        // Each time it has doubled: a store that stays slow doesn't fill the log.
        if lost > 0 && lost >= writer.lost_told * 2 {
            tracing::warn!(
                lost,
                "files come and go faster than their makers can be written"
            );
            writer.lost_told = lost;
        }
    }

    /// How many facts were lost because the disk could not keep up.
    pub fn lost(&self) -> u64 {
        self.pending.lost()
    }

    fn is_resizing(&self) -> bool {
        let Some(disk) = &self.disk else {
            return false;
        };
        let store = disk.store.lock();
        store.as_ref().is_some_and(Store::is_resizing)
    }

    /// A bounded part of a resize, if one is under way.
    fn resize(&self) {
        let Some(disk) = &self.disk else {
            return;
        };
        let _writer = disk.writer.lock();
        for _ in 0..STEPS_PER_LOOK {
            if !disk.step() {
                return;
            }
        }
    }
}

impl Disk {
    /// The key to sort by; None if the store is only read.
    fn ready(&self, writer: &mut Writer) -> io::Result<Option<record::Key>> {
        let mut store = self.store.lock();
        if store.is_none() {
            let now = Instant::now();
            if writer.retry_at.is_some_and(|at| now < at) {
                return Err(io::Error::other("will be tried again"));
            }
            writer.retry_at = Some(now + RETRY);
            *store = Some(Store::open(self.dir.try_clone()?)?);
        }
        let writable = store
            .as_ref()
            .filter(|store| store.access() == Access::Write);
        Ok(writable.map(Store::key))
    }

    /// Has a table that is large enough, or is being copied to one.
    fn make_room(&self, more: u64) {
        let wants_to_finish = || {
            let mut store = self.store.lock();
            store
                .as_mut()
                .is_some_and(|store| store.wants_to_finish_before(more))
        };
        while wants_to_finish() {
            self.step();
        }
    }

    /// Carries a resize on, for whoever holds `writer`. False if there is none, or none any more.
    fn step(&self) -> bool {
        let step = self.store.lock().as_mut().map_or(Step::Idle, Store::step);
        match step {
            Step::Idle => false,
            Step::Copying => true,
            Step::Copied(file) => {
                // The rename must not reach the disk before the copy: a power loss would cost all facts, not just
                // the latest. It can take long, so `get` isn't locked out.
                let synced = rustix::fs::fdatasync(&file).map_err(io::Error::from);
                if let Some(store) = &mut *self.store.lock() {
                    store.finish(synced);
                }
                false
            }
        }
    }
}

fn warn_failing(error: &io::Error) {
    tracing::warn!(%error, "who makes files can't be written to private state, and may be forgotten");
}
