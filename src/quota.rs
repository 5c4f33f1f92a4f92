//! Limits and what counts against them.
//!
//! Each directory with a limit has a subtree here; a charge is taken from the subtree up to the root, all or nothing,
//! and never exceeds a limit on the way. Left out on purpose: which directory belongs to which subtree (`fs`), what a
//! file costs (`fs`).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::error::{FsError, FsResult, QuotaErrno};
use crate::inodes::Ino;
use crate::shared_record;
use crate::slab::{Record, Slab, Slot};

/// The unit in which files are charged, bytes.
pub const CHARGE_UNIT: u64 = 4096;

/// What a file of `size` bytes is charged.
pub fn charge_for(size: u64) -> u64 {
    size.saturating_add(CHARGE_UNIT - 1) / CHARGE_UNIT * CHARGE_UNIT
}

const STATE_LIVE: u32 = 1;
/// Its directory is gone; it goes when nothing is charged to it any more.
const STATE_ORPHAN: u32 = 2;
const STATE_FREEING: u32 = 3;
/// From the books, of a directory that was not met yet.
const STATE_UNMET: u32 = 4;

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;

shared_record! {
    /// A directory whose contents are counted.
    pub struct Subtree {
        state: AtomicU32,
        parent: AtomicU32,
        dir: AtomicU64,
        used_bytes: AtomicU64,
        used_inodes: AtomicU64,
        limit_bytes: AtomicU64,
        limit_inodes: AtomicU64,
        /// How often something was refused here.
        refusals: AtomicU64,
        errno: AtomicU32,
        /// The rule that the limits come from.
        rule: AtomicU32,
    }
}

impl Record for Subtree {
    fn state(&self) -> &AtomicU32 {
        &self.state
    }

    fn wipe(&self) {
        self.parent.store(0, Ordering::Relaxed);
        self.dir.store(0, Ordering::Relaxed);
        self.used_bytes.store(0, Ordering::Relaxed);
        self.used_inodes.store(0, Ordering::Relaxed);
        self.limit_bytes.store(0, Ordering::Relaxed);
        self.limit_inodes.store(0, Ordering::Relaxed);
        self.refusals.store(0, Ordering::Relaxed);
        self.errno.store(0, Ordering::Relaxed);
        self.rule.store(0, Ordering::Relaxed);
    }
}

/// The limits of one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtreeLimits {
    /// Bytes, or [`UNLIMITED`].
    pub bytes: u64,
    /// Files and directories, or [`UNLIMITED`].
    pub inodes: u64,
    /// What a program gets at the limit.
    pub errno: QuotaErrno,
    /// The rule's number, for display.
    pub rule: u32,
}

/// What a subtree holds and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The directory.
    pub dir: Ino,
    /// Bytes charged.
    pub used_bytes: u64,
    /// Inodes charged.
    pub used_inodes: u64,
    /// The limit in bytes, or [`UNLIMITED`].
    pub limit_bytes: u64,
    /// The limit in inodes, or [`UNLIMITED`].
    pub limit_inodes: u64,
    /// How often something was refused.
    pub refusals: u64,
    /// The rule's number.
    pub rule: u32,
}

/// Something charged: bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// All subtrees of a mount.
#[derive(Debug)]
pub struct Quotas {
    subtrees: Slab<Subtree>,
    by_dir: RwLock<HashMap<Ino, Slot>>,
}

/// An amount that is taken and goes back when this is dropped, unless it is kept.
#[derive(Debug)]
#[must_use = "dropping a charge gives it back"]
pub struct Charge<'q> {
    quotas: &'q Quotas,
    subtree: Slot,
    stop: Option<Slot>,
    amount: Amount,
}

impl Charge<'_> {
    /// How many bytes were taken.
    pub fn bytes(&self) -> u64 {
        self.amount.bytes
    }

    /// Keeps the whole amount charged.
    pub fn keep(mut self) {
        self.amount = Amount::default();
    }

    /// Keeps at most `bytes` of it; the rest goes back.
    pub fn keep_bytes(mut self, bytes: u64) {
        self.amount.bytes = self.amount.bytes.saturating_sub(bytes);
        self.amount.inodes = 0;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.amount != Amount::default() {
            self.quotas
                .release_below(self.subtree, self.stop, self.amount);
        }
    }
}

impl Quotas {
    /// The subtrees in this memfd, with all that an earlier server left.
    pub fn new(file: OwnedFd, max_subtrees: usize) -> io::Result<Self> {
        let subtrees = Slab::<Subtree>::new(file, max_subtrees)?;
        let mut by_dir = HashMap::new();
        subtrees.for_each(|slot, s| {
            if !matches!(s.state.load(Ordering::Acquire), STATE_LIVE | STATE_UNMET) {
                return;
            }
            by_dir.insert(Ino(s.dir.load(Ordering::Relaxed)), slot);
        });
        Ok(Self {
            subtrees,
            by_dir: RwLock::new(by_dir),
        })
    }

    /// The subtree of `dir`, made if there is none; its limits are set to `limits`.
    pub fn subtree(
        &self,
        dir: Ino,
        parent: Option<Slot>,
        limits: SubtreeLimits,
    ) -> io::Result<Slot> {
        let found = self.by_dir.read().get(&dir).copied();
        if let Some(slot) = found
            && self.subtrees.get(slot).state.load(Ordering::Acquire) == STATE_LIVE
        {
            self.set_limits(slot, limits);
            return Ok(slot);
        }
        let mut by_dir = self.by_dir.write();
        let slot = match by_dir.get(&dir) {
            // Known from the books, or met by another thread just now.
            Some(slot) => *slot,
            None => self.subtrees.take()?,
        };
        let subtree = self.subtrees.get(slot);
        subtree
            .parent
            .store(parent.map_or(0, Slot::raw), Ordering::Relaxed);
        subtree.dir.store(dir.0, Ordering::Relaxed);
        self.set_limits(slot, limits);
        subtree.state.store(STATE_LIVE, Ordering::Release);
        by_dir.insert(dir, slot);
        Ok(slot)
    }

    fn set_limits(&self, slot: Slot, limits: SubtreeLimits) {
        let subtree = self.subtrees.get(slot);
        subtree.limit_bytes.store(limits.bytes, Ordering::Relaxed);
        subtree.limit_inodes.store(limits.inodes, Ordering::Relaxed);
        let errno = match limits.errno {
            QuotaErrno::NoSpace => 0,
            QuotaErrno::QuotaExceeded => 1,
        };
        subtree.errno.store(errno, Ordering::Relaxed);
        subtree.rule.store(limits.rule, Ordering::Relaxed);
    }

    /// The subtree of `dir`, if it has one of its own.
    pub fn find(&self, dir: Ino) -> Option<Slot> {
        self.by_dir.read().get(&dir).copied()
    }

    /// Forgets the subtree of a directory that is gone; what it held was moved or freed before.
    pub fn remove(&self, dir: Ino) {
        if let Some(slot) = self.by_dir.write().remove(&dir) {
            // Unlinked files that are still open, or wait for erasure, stay charged here and above.
            self.subtrees
                .get(slot)
                .state
                .store(STATE_ORPHAN, Ordering::Release);
            self.free_if_empty(slot);
        }
    }

    /// Frees the subtree of a directory that is gone once nothing is charged to it.
    fn free_if_empty(&self, slot: Slot) {
        let s = self.subtrees.get(slot);
        if s.state.load(Ordering::Acquire) == STATE_ORPHAN
            && s.used_bytes.load(Ordering::Acquire) == 0
            && s.used_inodes.load(Ordering::Acquire) == 0
            && s.state
                .compare_exchange(
                    STATE_ORPHAN,
                    STATE_FREEING,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
        {
            self.subtrees.give_back(slot);
        }
    }

    /// The subtree around a subtree.
    pub fn parent(&self, slot: Slot) -> Option<Slot> {
        Slot::from_raw(self.subtrees.get(slot).parent.load(Ordering::Relaxed))
    }

    fn chain(&self, from: Slot, stop: Option<Slot>) -> impl Iterator<Item = (Slot, &Subtree)> {
        let mut next = Some(from).filter(|s| Some(*s) != stop);
        std::iter::from_fn(move || {
            let slot = next?;
            let subtree = self.subtrees.get(slot);
            next = self.parent(slot).filter(|s| Some(*s) != stop);
            Some((slot, subtree))
        })
    }

    /// Takes `amount` from `subtree` up to the root: all of it everywhere, or nothing.
    pub fn reserve(&self, subtree: Slot, amount: Amount) -> FsResult<Charge<'_>> {
        self.reserve_below(subtree, None, amount)
    }

    /// Takes `amount` from `subtree` up to, but not including, `stop`.
    pub fn reserve_below(
        &self,
        subtree: Slot,
        stop: Option<Slot>,
        amount: Amount,
    ) -> FsResult<Charge<'_>> {
        for (slot, level) in self.chain(subtree, stop) {
            let refused = if !add_within(&level.used_bytes, amount.bytes, &level.limit_bytes) {
                true
            } else if !add_within(&level.used_inodes, amount.inodes, &level.limit_inodes) {
                level.used_bytes.fetch_sub(amount.bytes, Ordering::AcqRel);
                true
            } else {
                false
            };
            if refused {
                if slot != subtree {
                    self.release_below(subtree, Some(slot), amount);
                }
                return Err(FsError::Full(self.errno(level)));
            }
        }
        Ok(Charge {
            quotas: self,
            subtree,
            stop,
            amount,
        })
    }

    /// Takes up to `want` bytes, in whole [`CHARGE_UNIT`]s: what fits everywhere.
    pub fn reserve_some(&self, subtree: Slot, want: u64) -> FsResult<Charge<'_>> {
        let mut want = want;
        loop {
            match self.reserve(
                subtree,
                Amount {
                    bytes: want,
                    inodes: 0,
                },
            ) {
                Ok(charge) => return Ok(charge),
                Err(error) => {
                    let room = self.room(subtree) / CHARGE_UNIT * CHARGE_UNIT;
                    if room == 0 {
                        return Err(error);
                    }
                    // Somebody else may have taken it: then the next round sees less.
                    want = room.min(want.saturating_sub(CHARGE_UNIT));
                    if want == 0 {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Bytes that still fit everywhere from `subtree` up.
    pub fn room(&self, subtree: Slot) -> u64 {
        self.chain(subtree, None)
            .map(|(_, s)| {
                s.limit_bytes
                    .load(Ordering::Relaxed)
                    .saturating_sub(s.used_bytes.load(Ordering::Acquire))
            })
            .min()
            .unwrap_or(UNLIMITED)
    }

    /// Charges without asking the limits: what exists already.
    pub fn force(&self, subtree: Slot, amount: Amount) {
        for (_, level) in self.chain(subtree, None) {
            level.used_bytes.fetch_add(amount.bytes, Ordering::AcqRel);
            level.used_inodes.fetch_add(amount.inodes, Ordering::AcqRel);
        }
    }

    /// Gives `amount` back, from `subtree` up to the root.
    pub fn release(&self, subtree: Slot, amount: Amount) {
        self.release_below(subtree, None, amount);
    }

    fn release_below(&self, subtree: Slot, stop: Option<Slot>, amount: Amount) {
        for (slot, level) in self.chain(subtree, stop) {
            sub_to_zero(&level.used_bytes, amount.bytes);
            sub_to_zero(&level.used_inodes, amount.inodes);
            if level.state.load(Ordering::Acquire) == STATE_ORPHAN {
                self.free_if_empty(slot);
            }
        }
    }

    /// The nearest subtree that encloses both.
    pub fn common(&self, a: Slot, b: Slot) -> Option<Slot> {
        let above: Vec<Slot> = self.chain(a, None).map(|(slot, _)| slot).collect();
        self.chain(b, None)
            .map(|(slot, _)| slot)
            .find(|slot| above.contains(slot))
    }

    /// Moves a charge from one subtree to another: taken from the new before it is given back to the old, and never
    /// counted twice where both are inside the same.
    pub fn transfer(&self, from: Slot, to: Slot, amount: Amount) -> FsResult<()> {
        let common = self.common(from, to);
        self.reserve_below(to, common, amount)?.keep();
        self.release_below(from, common, amount);
        Ok(())
    }

    /// Moves a charge without asking the limits: to take back a move.
    pub fn transfer_back(&self, from: Slot, to: Slot, amount: Amount) {
        let common = self.common(from, to);
        for (_, level) in self.chain(to, common) {
            level.used_bytes.fetch_add(amount.bytes, Ordering::AcqRel);
            level.used_inodes.fetch_add(amount.inodes, Ordering::AcqRel);
        }
        self.release_below(from, common, amount);
    }

    /// Whether a byte limit stands anywhere from `subtree` up.
    pub fn limits_bytes(&self, subtree: Slot) -> bool {
        self.chain(subtree, None)
            .any(|(_, s)| s.limit_bytes.load(Ordering::Relaxed) != UNLIMITED)
    }

    /// The nearest subtree with a limit in bytes, from `subtree` up.
    pub fn nearest_byte_limit(&self, subtree: Slot) -> Option<Usage> {
        self.chain(subtree, None)
            .find(|(_, s)| s.limit_bytes.load(Ordering::Relaxed) != UNLIMITED)
            .map(|(slot, _)| self.usage(slot))
    }

    /// The nearest subtree with a limit in inodes, from `subtree` up.
    pub fn nearest_inode_limit(&self, subtree: Slot) -> Option<Usage> {
        self.chain(subtree, None)
            .find(|(_, s)| s.limit_inodes.load(Ordering::Relaxed) != UNLIMITED)
            .map(|(slot, _)| self.usage(slot))
    }

    /// What a subtree holds and may hold.
    pub fn usage(&self, slot: Slot) -> Usage {
        let s = self.subtrees.get(slot);
        Usage {
            dir: Ino(s.dir.load(Ordering::Relaxed)),
            used_bytes: s.used_bytes.load(Ordering::Acquire),
            used_inodes: s.used_inodes.load(Ordering::Acquire),
            limit_bytes: s.limit_bytes.load(Ordering::Relaxed),
            limit_inodes: s.limit_inodes.load(Ordering::Relaxed),
            refusals: s.refusals.load(Ordering::Relaxed),
            rule: s.rule.load(Ordering::Relaxed),
        }
    }

    /// All subtrees whose directories were met.
    pub fn all(&self) -> Vec<(Slot, Usage)> {
        let mut all = Vec::new();
        self.subtrees.for_each(|slot, s| {
            if s.state.load(Ordering::Acquire) == STATE_LIVE {
                all.push((slot, self.usage(slot)));
            }
        });
        all
    }

    /// Takes over what the books say: at once for subtrees that are there, for others when their directory is met.
    pub fn preload(&self, books: Vec<(Ino, Amount)>) -> io::Result<()> {
        let mut by_dir = self.by_dir.write();
        for (dir, amount) in books {
            let slot = match by_dir.get(&dir) {
                Some(slot) => *slot,
                None => {
                    let slot = self.subtrees.take()?;
                    let subtree = self.subtrees.get(slot);
                    subtree.dir.store(dir.0, Ordering::Relaxed);
                    subtree.state.store(STATE_UNMET, Ordering::Release);
                    by_dir.insert(dir, slot);
                    slot
                }
            };
            let subtree = self.subtrees.get(slot);
            subtree.used_bytes.store(amount.bytes, Ordering::Release);
            subtree.used_inodes.store(amount.inodes, Ordering::Release);
        }
        Ok(())
    }

    /// What all directories with limits hold, met or not: for the books.
    pub fn all_known(&self) -> Vec<(Ino, Amount)> {
        let mut known = Vec::new();
        self.subtrees.for_each(|slot, s| {
            if matches!(s.state.load(Ordering::Acquire), STATE_LIVE | STATE_UNMET) {
                let usage = self.usage(slot);
                let amount = Amount {
                    bytes: usage.used_bytes,
                    inodes: usage.used_inodes,
                };
                known.push((usage.dir, amount));
            }
        });
        known
    }

    /// How many inodes the whole mount holds.
    pub fn root_inodes(&self) -> u64 {
        self.all()
            .into_iter()
            .map(|(_, usage)| usage.used_inodes)
            .max()
            .unwrap_or(0)
    }

    /// Empties all subtrees, before a recount.
    pub fn clear_used(&self) {
        self.subtrees.for_each(|_, s| {
            s.used_bytes.store(0, Ordering::Release);
            s.used_inodes.store(0, Ordering::Release);
        });
    }

    /// Counts a refusal at the nearest limit.
    pub fn count_refusal(&self, subtree: Slot) {
        if let Some((_, s)) = self.chain(subtree, None).find(|(_, s)| {
            s.limit_bytes.load(Ordering::Relaxed) != UNLIMITED
                || s.limit_inodes.load(Ordering::Relaxed) != UNLIMITED
        }) {
            s.refusals.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a program gets that finds no room from `subtree` up: the errno of the level with the least.
    pub fn tightest_errno(&self, subtree: Slot) -> QuotaErrno {
        self.chain(subtree, None)
            .min_by_key(|(_, s)| {
                s.limit_bytes
                    .load(Ordering::Relaxed)
                    .saturating_sub(s.used_bytes.load(Ordering::Acquire))
            })
            .map_or(QuotaErrno::NoSpace, |(_, level)| self.errno(level))
    }

    fn errno(&self, level: &Subtree) -> QuotaErrno {
        match level.errno.load(Ordering::Relaxed) {
            0 => QuotaErrno::NoSpace,
            _ => QuotaErrno::QuotaExceeded,
        }
    }
}

/// Adds if the sum stays within the limit.
fn add_within(used: &AtomicU64, amount: u64, limit: &AtomicU64) -> bool {
    if amount == 0 {
        return true;
    }
    let limit = limit.load(Ordering::Relaxed);
    used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |u| {
        u.checked_add(amount).filter(|sum| *sum <= limit)
    })
    .is_ok()
}

fn sub_to_zero(used: &AtomicU64, amount: u64) {
    if amount == 0 {
        return;
    }
    let before = used
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |u| {
            Some(u.saturating_sub(amount))
        })
        .unwrap_or(0);
    if before < amount {
        tracing::error!(before, amount, "more was given back than was charged");
    }
}

#[cfg(test)]
mod tests;
