//! Names: lookup, creation, links, removal, rename.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Dir, Entry, Fs, Opened, Verdict};
use crate::backing::Meta;
use crate::error::{FsError, FsResult};
use crate::handles::HandleId;
use crate::identity::Caller;
use crate::inflight::Done;
use crate::inodes::{Ino, Kind, NodeFlags, Pin};
use crate::quota::Amount;
use crate::slab::Slot;

/// What is to be made by [`Fs::make`].
#[derive(Clone, Copy, Debug)]
pub enum New<'a> {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A plain or special file.
    Node {
        /// Type and permission bits.
        mode: u32,
        /// Device number, as FUSE carries it.
        rdev: u32,
    },
    /// A symlink.
    Symlink {
        /// Where it leads.
        target: &'a CStr,
    },
}

/// What a lookup found.
#[derive(Debug)]
pub enum Found<'f> {
    /// The inode.
    Entry(Entry<'f>),
    /// Nothing, and the kernel may remember that for so long.
    Nothing {
        /// 0 where the name may come back by itself.
        valid: std::time::Duration,
    },
}

/// A charge that was moved ahead of a rename.
struct MovedCharge<'n> {
    from: Slot,
    to: Slot,
    /// What was given back for what the rename replaces: its node, its subtree, its charge.
    replaced: Option<(&'n Pin<'n>, Slot, Amount)>,
}

impl Fs {
    /// Looks a name up.
    pub fn lookup(&self, parent: Ino, name: &CStr, caller: Caller) -> FsResult<Found<'_>> {
        let dir = self.dir(parent)?;
        match self.child(&dir, name) {
            Ok((node, meta, verdict)) => Ok(Found::Entry(self.entry(node, meta, verdict))),
            Err(FsError::NotFound) => self.lookup_hidden(&dir, name, caller),
            Err(error) => Err(error),
        }
    }

    /// A name that is not there, or has expired; the reaper may have to see what has.
    fn lookup_hidden(&self, dir: &Dir<'_>, name: &CStr, caller: Caller) -> FsResult<Found<'_>> {
        let shown = *self.shown.lock();
        if let Some((_, ino)) = shown.filter(|(tid, _)| *tid == caller.tid)
            && self.check_reserved(dir, name).is_ok()
            && let Ok(meta) = self.backing.stat_at(dir.fd(), name)
            && meta.ino == ino
        {
            let node = self.known(dir, name, &meta)?;
            return Ok(Found::Entry(self.entry(node, meta, Verdict::Kept)));
        }
        Ok(Found::Nothing {
            valid: super::CACHE_FOR,
        })
    }

    pub(crate) fn entry<'f>(&self, node: Pin<'f>, mut meta: Meta, verdict: Verdict) -> Entry<'f> {
        if node.has(NodeFlags::PRIVATE) {
            meta.nlink = meta.nlink.saturating_sub(1);
        }
        if node.slot() == self.root && meta.nlink > 2 {
            // Private state is a directory in the root, and invisible.
            meta.nlink -= 1;
        }
        let valid = self.valid_for(verdict);
        // What a mapping may change behind our back is asked for each time.
        let attr_valid = if node.has(NodeFlags::UNSEEN) {
            Duration::ZERO
        } else {
            valid
        };
        Entry {
            valid,
            attr_valid,
            node,
            meta,
        }
    }

    /// The entry of something that was just made.
    fn new_entry<'f>(&'f self, node: Pin<'f>, meta: Meta) -> Entry<'f> {
        let policy = self.policy();
        let settings = self.settings_in(&policy, &node);
        let at = if settings.may_expire() {
            self.deadline_in(settings, &node, &meta)
        } else {
            crate::clock::Time::NEVER
        };
        self.entry(node, meta, Verdict::Live(at))
    }

    /// Creates and opens a plain file. `Stale`: a file is there that the kernel does not know of.
    #[allow(clippy::too_many_arguments)]
    pub fn create(
        &self,
        parent: Ino,
        name: &CStr,
        caller: Caller,
        mode: u32,
        umask: u32,
        flags: u32,
        done: Option<Done>,
    ) -> FsResult<(Entry<'_>, Opened)> {
        let dir = self.dir(parent)?;
        if done.is_some()
            && let Ok((node, meta, _)) = self.child(&dir, name)
        {
            // The kernel holds the directory for this very request: only the server before can have made it.
            let opened = match done.and_then(|done| done.handle) {
                Some(handle) => self.opened_before(HandleId(handle))?,
                None => self.open_with(&node, flags & !(libc::O_TRUNC as u32), None, true)?,
            };
            return Ok((self.new_entry(node, meta), opened));
        }
        self.check_new_name(&dir, name)?;
        let charge = self.charge_inode(&dir)?;
        let names = self.dir_lock(&dir.node);
        self.assume(caller, umask);
        let fd = match self.backing.create(dir.fd(), name, mode) {
            Err(Errno::EXIST) if self.clear_expired(&dir, name)? => {
                self.assume(caller, umask);
                self.backing.create(dir.fd(), name, mode)
            }
            Err(Errno::EXIST) if flags & libc::O_EXCL as u32 == 0 => return Err(FsError::Stale),
            made => made,
        }?;
        let undo = |error: FsError| {
            if let Err(errno) = self.backing.unlink(dir.fd(), name) {
                tracing::error!(%errno, "a file that could not be opened stays");
            }
            error
        };
        let meta = self.backing.stat(fd.as_fd()).map_err(|e| undo(e.into()))?;
        let node = self.met(&dir, name, &meta, &fd).map_err(undo)?;
        if let Some(charge) = charge {
            charge.keep();
        }
        drop(names);
        let keeps_set_id = caller.uid == 0 || meta.mode & 0o6000 == 0;
        let opened = match self.open_with(
            &node,
            flags & !(libc::O_TRUNC as u32),
            Some(fd),
            keeps_set_id,
        ) {
            Ok(opened) => opened,
            Err(error) => {
                let _names = self.dir_lock(&dir.node);
                self.remove_name(&dir, name, &node, &meta)?;
                return Err(error);
            }
        };
        Ok((self.new_entry(node, meta), opened))
    }

    /// Introduces a file that was just made, through a descriptor of it.
    fn met(&self, dir: &Dir<'_>, name: &CStr, meta: &Meta, fd: &OwnedFd) -> FsResult<Pin<'_>> {
        let fid = self.backing.fid(fd.as_fd(), c"")?;
        let held = if fid.is_none() {
            Some(self.backing.open_path(dir.fd(), name)?)
        } else {
            None
        };
        self.introduce(dir, name, meta, fid, held, Some(0))
    }

    /// Makes a directory, a special file or a symlink.
    pub fn make(
        &self,
        parent: Ino,
        name: &CStr,
        caller: Caller,
        umask: u32,
        what: New<'_>,
        done: Option<Done>,
    ) -> FsResult<Entry<'_>> {
        let dir = self.dir(parent)?;
        if done.is_some()
            && let Ok((node, meta, _)) = self.child(&dir, name)
        {
            return Ok(self.new_entry(node, meta));
        }
        self.check_new_name(&dir, name)?;
        let charge = self.charge_inode(&dir)?;
        let _names = self.dir_lock(&dir.node);
        let make = || {
            self.assume(caller, umask);
            match what {
                New::Directory { mode } => self.backing.mkdir(dir.fd(), name, mode),
                New::Node { mode, rdev } => self.backing.mknod(dir.fd(), name, mode, rdev),
                New::Symlink { target } => self.backing.symlink(target, dir.fd(), name),
            }
        };
        match make() {
            Err(Errno::EXIST) if self.clear_expired(&dir, name)? => make(),
            made => made,
        }?;
        let (node, meta) = match self.met_by_name(&dir, name) {
            Ok(met) => met,
            Err(error) => {
                // Nothing was said of it yet: it goes, and the charge goes back.
                self.undo_make(&dir, name, matches!(what, New::Directory { .. }));
                return Err(error);
            }
        };
        if let Some(charge) = charge {
            charge.keep();
        }
        Ok(self.new_entry(node, meta))
    }

    /// Introduces what was just made under a name.
    fn met_by_name(&self, dir: &Dir<'_>, name: &CStr) -> FsResult<(Pin<'_>, Meta)> {
        let meta = self.backing.stat_at(dir.fd(), name)?;
        let fid = self.backing.fid(dir.fd(), name)?;
        let held = if fid.is_none() {
            Some(self.backing.open_path(dir.fd(), name)?)
        } else {
            None
        };
        let node = self.introduce(dir, name, &meta, fid, held, Some(0))?;
        Ok((node, meta))
    }

    /// Takes back a name that was just made and not yet told of.
    fn undo_make(&self, dir: &Dir<'_>, name: &CStr, is_dir: bool) {
        let undone = if is_dir {
            self.backing.rmdir(dir.fd(), name)
        } else {
            self.backing.unlink(dir.fd(), name)
        };
        if let Err(errno) = undone {
            tracing::error!(%errno, "what could not be looked at after it was made stays");
        }
    }

    /// Makes another name for an inode.
    pub fn link(
        &self,
        ino: Ino,
        parent: Ino,
        name: &CStr,
        caller: Caller,
        done: Option<Done>,
    ) -> FsResult<Entry<'_>> {
        let node = self.live(ino)?;
        let dir = self.dir(parent)?;
        if done.is_some()
            && let Ok((there, meta, verdict)) = self.child(&dir, name)
            && there.slot() == node.slot()
        {
            return Ok(self.entry(node, meta, verdict));
        }
        self.check_new_name(&dir, name)?;
        if node.has(NodeFlags::UNLINKED) {
            return Err(FsError::NotFound);
        }
        if node.subtree.load(Ordering::Acquire) != dir.node.aux.load(Ordering::Acquire) {
            return Err(FsError::CrossesQuota);
        }
        let _names = self.dir_lock(&dir.node);
        let fd = self.location(&node)?;
        let meta = self.backing.stat(fd.as_fd())?;
        if self.verdict(&node, &meta)? == Verdict::Expired {
            return Err(FsError::Stale);
        }
        self.assume(caller, 0);
        let link = || {
            // Its last name may be going just now.
            let _lock = self.inodes.lock(node.slot());
            if node.has(NodeFlags::UNLINKED) || node.has(NodeFlags::DEAD) {
                return Err(FsError::Stale);
            }
            Ok(self.backing.link(fd.as_fd(), dir.fd(), name)?)
        };
        match link() {
            Err(FsError::Os(Errno::EXIST)) if self.clear_expired(&dir, name)? => link(),
            made => made,
        }?;
        let meta = self.backing.stat(fd.as_fd()).inspect_err(|_| {
            self.undo_make(&dir, name, false);
        })?;
        self.note_link(&node, &dir, name);
        let verdict = self.verdict(&node, &meta)?;
        Ok(self.entry(node, meta, verdict))
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, parent: Ino, name: &CStr, done: Option<Done>) -> FsResult<()> {
        let dir = self.dir(parent)?;
        let _names = self.dir_lock(&dir.node);
        let (node, meta, _) = match self.child(&dir, name) {
            Err(FsError::NotFound) if done.is_some() => return Ok(()),
            child => child?,
        };
        if meta.kind() == Kind::Directory {
            return Err(FsError::Os(Errno::ISDIR));
        }
        self.remove_name(&dir, name, &node, &meta).map(drop)
    }

    /// Removes a directory in which nothing is, or only what has expired.
    pub fn rmdir(&self, parent: Ino, name: &CStr, done: Option<Done>) -> FsResult<()> {
        let dir = self.dir(parent)?;
        let _names = self.dir_lock(&dir.node);
        let (node, meta, _) = match self.child(&dir, name) {
            Err(FsError::NotFound) if done.is_some() => return Ok(()),
            child => child?,
        };
        if meta.kind() != Kind::Directory {
            return Err(FsError::Os(Errno::NOTDIR));
        }
        match self.remove_name(&dir, name, &node, &meta) {
            Err(FsError::Os(Errno::NOTEMPTY | Errno::EXIST)) => {
                self.empty_of_expired(&node)?;
                self.remove_name(&dir, name, &node, &meta)
            }
            done => done,
        }
        .map(drop)
    }

    /// Clears a directory in which only expired things are.
    fn empty_of_expired(&self, node: &Pin<'_>) -> FsResult<()> {
        let inner = Dir {
            node: node.clone(),
            fd: self.location(node)?,
        };
        // The inner directory's lock cannot be taken out of order; the kernel holds the directory itself, and the
        // reaper checks what it is about to remove.
        self.clear_directory(&inner)
    }

    /// Renames, with the flags of `renameat2(2)`.
    #[allow(clippy::too_many_arguments)]
    pub fn rename(
        &self,
        from_dir: Ino,
        from: &CStr,
        to_dir: Ino,
        to: &CStr,
        flags: RenameFlags,
        caller: Caller,
        done: Option<Done>,
    ) -> FsResult<()> {
        // A whiteout that is left behind is the caller's.
        self.assume(caller, 0);
        let source = self.dir(from_dir)?;
        let target = self.dir(to_dir)?;
        self.check_new_name(&target, to)?;
        let rename = || self.rename_locked(&source, from, &target, to, flags, done);
        match rename() {
            // Not under the directories' locks: the reaper needs them.
            Err(FsError::Full(_)) => {
                self.work.reclaim();
                rename().inspect_err(|error| {
                    if let (FsError::Full(_), Some(subtree)) = (error, target.subtree()) {
                        self.quotas.count_refusal(subtree);
                    }
                })
            }
            done => done,
        }
    }

    /// Renames under the directories' locks.
    fn rename_locked(
        &self,
        source: &Dir<'_>,
        from: &CStr,
        target: &Dir<'_>,
        to: &CStr,
        flags: RenameFlags,
        done: Option<Done>,
    ) -> FsResult<()> {
        let _names = self.dir_locks(&source.node, &target.node);
        let (node, meta, _) = match self.child(source, from) {
            Err(FsError::NotFound) if done.is_some() && self.child(target, to).is_ok() => {
                return Ok(());
            }
            child => child?,
        };
        if let Some(before) = done.and_then(|done| done.ino)
            && before != node.ino()
        {
            // The server before began with another file here: it had come to the end of an exchange, or of a rename
            // that left a whiteout.
            return Ok(());
        }
        self.in_flight.gives(node.ino());
        let there = match self.child(target, to) {
            Ok((other, other_meta, _)) => Some((other, other_meta)),
            Err(FsError::NotFound) => {
                // An expired name may still lie there.
                if !self.clear_expired(target, to)? {
                    return Err(FsError::Os(Errno::EXIST));
                }
                None
            }
            Err(error) => return Err(error),
        };
        if let Some((other, _)) = &there
            && other.slot() == node.slot()
        {
            // Two names of one file: the backing store knows what rename(2) does then.
            self.backing
                .rename(source.fd(), from, target.fd(), to, flags)?;
            return Ok(());
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            let Some((other, other_meta)) = there else {
                return Err(FsError::NotFound);
            };
            return self.exchange(
                (source, from, &node, &meta),
                (target, to, &other, &other_meta),
            );
        }
        if there.is_some() && flags.contains(RenameFlags::NOREPLACE) {
            return Err(FsError::Os(Errno::EXIST));
        }
        self.check_border(&node, &meta, source, from, target, to)?;
        let whiteout = if flags.contains(RenameFlags::WHITEOUT) {
            let one = Amount {
                bytes: 0,
                inodes: 1,
            };
            let subtree = source.subtree();
            subtree.map(|s| self.quotas.reserve(s, one)).transpose()?
        } else {
            None
        };

        let moved = self.move_charge(&node, target.subtree(), there.as_ref())?;
        let back = |error: FsError| {
            if let Some(moved) = &moved {
                self.move_charge_back(&node, moved);
            }
            error
        };
        let replacing = match &there {
            Some((other, other_meta)) => Some(
                self.before_replace(target, to, other, other_meta)
                    .map_err(back)?,
            ),
            None => None,
        };
        let mut renamed = self
            .backing
            .rename(source.fd(), from, target.fd(), to, flags);
        if (renamed == Err(Errno::NOTEMPTY) || renamed == Err(Errno::EXIST))
            && let Some((other, other_meta)) = &there
            && other_meta.kind() == Kind::Directory
        {
            let inner = Dir {
                node: other.clone(),
                fd: self.location(other).map_err(back)?,
            };
            renamed = match self.clear_directory(&inner) {
                Ok(()) => self
                    .backing
                    .rename(source.fd(), from, target.fd(), to, flags),
                Err(FsError::Os(errno)) => Err(errno),
                Err(_) => renamed,
            };
        }
        if let Err(errno) = renamed {
            if let (Some((other, _)), Some(replacing)) = (&there, replacing) {
                self.not_replaced(other, replacing);
            }
            return Err(back(errno.into()));
        }
        if let Some(charge) = whiteout {
            charge.keep();
        }
        if let (Some((other, _)), Some(replacing)) = (&there, replacing) {
            self.links
                .forget(other.ino(), target.node.ino(), to.to_bytes());
            self.replaced(other, replacing);
        }
        self.links
            .forget(node.ino(), source.node.ino(), from.to_bytes());
        self.moved(&node, target, to, &meta)?;
        if flags.contains(RenameFlags::WHITEOUT) {
            // What lies in the old place now is new here, and may expire.
            let left = self.backing.stat_at(source.fd(), from);
            let met = left
                .map_err(FsError::from)
                .and_then(|meta| self.known(source, from, &meta));
            if let Err(error) = met {
                tracing::debug!(%error, "a whiteout is met when it is looked up");
            }
        }
        Ok(())
    }

    /// Moves what a node is charged to another subtree, ahead of its rename: from then on it grows there. `there` is what
    /// the rename replaces.
    fn move_charge<'n>(
        &self,
        node: &Pin<'_>,
        to: Option<Slot>,
        there: Option<&'n (Pin<'n>, Meta)>,
    ) -> FsResult<Option<MovedCharge<'n>>> {
        let _lock = self.inodes.lock(node.slot());
        let from = Slot::from_raw(node.subtree.load(Ordering::Acquire));
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(None);
        };
        if from == to {
            return Ok(None);
        }
        let amount = Self::charged(node);
        let replaced = match self.quotas.transfer(from, to, amount) {
            Ok(()) => None,
            Err(error) => Some(
                there
                    .and_then(|there| self.transfer_over(there, from, to, amount))
                    .ok_or(error)?,
            ),
        };
        node.subtree.store(to.raw(), Ordering::Release);
        Ok(Some(MovedCharge { from, to, replaced }))
    }

    /// The rename did not happen.
    fn move_charge_back(&self, node: &Pin<'_>, moved: &MovedCharge<'_>) {
        let _lock = self.inodes.lock(node.slot());
        let amount = Self::charged(node);
        self.quotas.transfer_back(moved.to, moved.from, amount);
        node.subtree.store(moved.from.raw(), Ordering::Release);
        if let Some((other, subtree, amount)) = &moved.replaced {
            self.quotas.force(*subtree, *amount);
            other.charge.store(amount.bytes, Ordering::Release);
            other.subtree.store(subtree.raw(), Ordering::Release);
        }
    }

    fn charged(node: &Pin<'_>) -> Amount {
        Amount {
            bytes: node.charge.load(Ordering::Acquire),
            inodes: 1,
        }
    }

    /// Moves a charge into a full subtree where what is replaced there makes the room: nobody has it open, so that its
    /// own charge ends with the rename. Returns what that was; `None`: it is not enough either.
    fn transfer_over<'n>(
        &self,
        (other, meta): &'n (Pin<'n>, Meta),
        from: Slot,
        to: Slot,
        amount: Amount,
    ) -> Option<(&'n Pin<'n>, Slot, Amount)> {
        if meta.nlink > 1 || self.has_handles(other) || self.erase_passes(other) > 0 {
            return None;
        }
        let subtree = Slot::from_raw(other.subtree.load(Ordering::Acquire))?;
        let credit = Self::charged(other);
        self.uncharge(other);
        if self.quotas.transfer(from, to, amount).is_err() {
            self.quotas.force(subtree, credit);
            other.charge.store(credit.bytes, Ordering::Release);
            other.subtree.store(subtree.raw(), Ordering::Release);
            return None;
        }
        Some((other, subtree, credit))
    }

    /// Exchanges two names.
    fn exchange(
        &self,
        (a_dir, a_name, a, a_meta): (&Dir<'_>, &CStr, &Pin<'_>, &Meta),
        (b_dir, b_name, b, b_meta): (&Dir<'_>, &CStr, &Pin<'_>, &Meta),
    ) -> FsResult<()> {
        self.check_border(a, a_meta, a_dir, a_name, b_dir, b_name)?;
        self.check_border(b, b_meta, b_dir, b_name, a_dir, a_name)?;
        let crossing = self.exchange_charges(a, b)?;
        if let Err(errno) = self.backing.rename(
            a_dir.fd(),
            a_name,
            b_dir.fd(),
            b_name,
            RenameFlags::EXCHANGE,
        ) {
            if let Some((of_a, of_b)) = crossing {
                let _locks = self.inodes.lock_two(a.slot(), b.slot());
                self.quotas.transfer_back(of_b, of_a, Self::charged(a));
                self.quotas.transfer_back(of_a, of_b, Self::charged(b));
                a.subtree.store(of_a.raw(), Ordering::Release);
                b.subtree.store(of_b.raw(), Ordering::Release);
            }
            return Err(errno.into());
        }
        self.links
            .forget(a.ino(), a_dir.node.ino(), a_name.to_bytes());
        self.links
            .forget(b.ino(), b_dir.node.ino(), b_name.to_bytes());
        self.moved(a, b_dir, b_name, a_meta)?;
        self.moved(b, a_dir, a_name, b_meta)
    }

    /// Exchanges what two nodes are charged, ahead of their names. Returns where each was charged, if not in one place.
    fn exchange_charges(&self, a: &Pin<'_>, b: &Pin<'_>) -> FsResult<Option<(Slot, Slot)>> {
        let _locks = self.inodes.lock_two(a.slot(), b.slot());
        let of = |node: &Pin<'_>| Slot::from_raw(node.subtree.load(Ordering::Acquire));
        let (Some(of_a), Some(of_b)) = (of(a), of(b)) else {
            return Ok(None);
        };
        if of_a == of_b {
            return Ok(None);
        }
        let (a_bytes, b_bytes) = (Self::charged(a).bytes, Self::charged(b).bytes);
        // One inode goes each way: only the difference of the bytes moves, from where the larger was.
        let difference = Amount {
            bytes: a_bytes.abs_diff(b_bytes),
            inodes: 0,
        };
        let (from, to) = if a_bytes >= b_bytes {
            (of_a, of_b)
        } else {
            (of_b, of_a)
        };
        self.quotas.transfer(from, to, difference)?;
        a.subtree.store(of_b.raw(), Ordering::Release);
        b.subtree.store(of_a.raw(), Ordering::Release);
        Ok(Some((of_a, of_b)))
    }

    /// `CrossesQuota` where a rename would take a directory, a file of several names or a file with an unlimited
    /// writer over the border of a quota.
    fn check_border(
        &self,
        node: &Pin<'_>,
        meta: &Meta,
        from_dir: &Dir<'_>,
        from: &CStr,
        to_dir: &Dir<'_>,
        to: &CStr,
    ) -> FsResult<()> {
        let crosses =
            node.subtree.load(Ordering::Acquire) != to_dir.node.aux.load(Ordering::Acquire);
        if meta.kind() == Kind::Directory {
            let policy = self.policy();
            // A path with a limit of its own makes a border at the directory itself.
            let has_limit = |dir: &Dir<'_>, name: &CStr| {
                policy
                    .limits_at(policy.enter(dir.state(), name.to_bytes()))
                    .is_some()
            };
            let same_place = from_dir.node.slot() == to_dir.node.slot() && from == to;
            if crosses || !same_place && (has_limit(from_dir, from) || has_limit(to_dir, to)) {
                return Err(FsError::CrossesQuota);
            }
            // Nor may directories below it get or lose a limit by the move.
            let before = policy.enter(from_dir.state(), from.to_bytes());
            let after = policy.enter(to_dir.state(), to.to_bytes());
            if before != after
                && policy.has_limits_below_root()
                && (policy.has_rules_below(before) || policy.has_rules_below(after))
            {
                return Err(FsError::CrossesQuota);
            }
            return Ok(());
        }
        if !crosses {
            return Ok(());
        }
        let unseen = meta.kind() == Kind::File
            && Slot::from_raw(node.aux.load(Ordering::Acquire))
                .is_some_and(|open| self.handles.file(open).unseen_writers() > 0);
        let limited = to_dir
            .subtree()
            .is_some_and(|s| self.quotas.limits_bytes(s));
        if meta.nlink > 1 || unseen && limited {
            return Err(FsError::CrossesQuota);
        }
        Ok(())
    }

    /// After a node got another place: its name, rules and deadline.
    fn moved(&self, node: &Pin<'_>, dir: &Dir<'_>, name: &CStr, meta: &Meta) -> FsResult<()> {
        let policy = self.policy();
        if meta.kind() == Kind::Directory {
            let state = policy.enter(dir.state(), name.to_bytes());
            let before = node.policy.swap(state.0, Ordering::AcqRel);
            self.inodes
                .set_place(node, &dir.node, Some(name.to_bytes()))?;
            if before != state.0 {
                self.refresh_below(node)?;
            }
            return Ok(());
        }
        let id = policy.settings_id_for(dir.state(), name.to_bytes());
        let before = node.policy.swap(id.0, Ordering::AcqRel);
        let settings = policy.settings(id);
        let keep = settings.may_expire().then_some(name.to_bytes());
        self.inodes.set_place(node, &dir.node, keep)?;
        if meta.nlink > 1
            && let Some(name) = keep
        {
            self.links.note(node.ino(), dir.node.ino(), name);
        }
        if before != id.0 {
            if let Some(ttl) = settings.ttl {
                // It gets at least the new rule's lifetime from now.
                let at_least = self.clock.now().after(ttl);
                if self.deadline_in(settings, node, meta) < at_least {
                    self.keep_until(node, at_least);
                }
            }
            let at = if settings.may_expire() {
                self.deadline_in(settings, node, meta)
            } else {
                crate::clock::Time::NEVER
            };
            self.schedule(node, at);
        }
        Ok(())
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let node = self.live(ino)?;
        let fd = self.location(&node)?;
        Ok(self.backing.readlink(fd.as_fd())?)
    }

    /// Opens a directory for reading.
    pub fn opendir(&self, ino: Ino, done: Option<Done>) -> FsResult<HandleId> {
        if let Some(handle) = done.and_then(|done| done.handle) {
            return Ok(HandleId(handle));
        }
        let dir = self.dir(ino)?;
        let fd = self.open_dir(dir.fd())?;
        let handle = self.handles.add_dir(dir.node.slot(), fd)?;
        self.in_flight.gives_handle(handle.0);
        Ok(handle)
    }

    /// Notes a second name of a file that can expire, and the one that it was known by.
    fn note_link(&self, node: &Pin<'_>, dir: &Dir<'_>, name: &CStr) {
        if let (Some(parent), Some(known)) = (self.inodes.parent(node), self.inodes.name(node)) {
            self.links.note(node.ino(), parent.ino(), &known);
            self.links.note(node.ino(), dir.node.ino(), name.to_bytes());
        }
    }
}
