//! The clock's driver: removes what is due, soon after its deadline, and makes room at limits.
//!
//! Shortly before a deadline the kernel is asked to let go of inodes that nobody uses, so that at the deadline "the
//! kernel still knows it" means "it is in use". What is due is removed in bounded batches; the kernel is told with no
//! lock held. What is in use, or cannot be removed, is looked at again; nothing is forgotten.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use crate::clock::Time;
use crate::error::FsError;
use crate::fs::{Fs, Reap};
use crate::inodes::{Ino, Kind, NodeFlags, Pin};
use crate::notify::Notify;
use crate::uses;
use crate::work::Wake;

/// How soon a file that was found in use is looked at again.
const RECHECK: Duration = Duration::from_millis(400);

/// How long before a deadline the kernel is asked to let go: while it still answers from its caches, so that lookups do
/// not keep it from doing so.
const LEAD: Duration = Duration::from_millis(250);

/// Files handled between two looks at the clock.
const BATCH: usize = 256;

/// How long the thread sleeps at most.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// After a failed removal: the first pause; it doubles each time.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(300);

/// How long programs at a limit wait for files that are being erased.
const ERASE_WAIT: Duration = Duration::from_secs(1);

/// At a limit, how often and after which pauses it is looked whether unlinked files were closed.
const CLOSING_LOOKS: u32 = 25;
const CLOSING_PAUSE: Duration = Duration::from_millis(2);

/// How often the kernel is asked to forget before it is looked who holds on.
const FORGET_TRIES: u32 = 4;

struct Item<'f> {
    at: Time,
    node: Pin<'f>,
}

impl PartialEq for Item<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Item<'_> {}

impl PartialOrd for Item<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// The reaper itself, for a thread or for a test that steps it.
pub struct Reaper<'f> {
    fs: &'f Fs,
    kernel: &'f dyn Notify,
    /// Taken from the queue: near their time, in use, or to be tried again.
    later: BinaryHeap<Reverse<Item<'f>>>,
    failures: HashMap<Ino, u32>,
    /// Directories whose attributes changed behind the kernel's back.
    changed: HashSet<Ino>,
}

/// The reaper's thread, until the end.
pub fn run(fs: &Fs, kernel: &dyn Notify) {
    let mut reaper = Reaper::new(fs, kernel);
    let mut sleep = Duration::ZERO;
    loop {
        match fs.work().wait_reaper(sleep) {
            Wake::Stop => return,
            Wake::Due => {
                for ino in fs.work().take_invalidate() {
                    // It may be gone: then there is nothing to drop.
                    let _ = kernel.inval_inode(ino, false);
                }
                // Somebody may have closed what was kept.
                reaper.reconsider();
            }
            Wake::Reclaim(ticket) => {
                reaper.reclaim();
                fs.work().reclaimed(ticket);
            }
        }
        while reaper.round() {
            if fs.is_stopping() {
                return;
            }
        }
        fs.work().reaper_wakes_at(Time::NEVER);
        sleep = reaper.until_next();
        fs.work()
            .reaper_wakes_at(fs.clock.now().after(sleep).after(LEAD));
    }
}

impl<'f> Reaper<'f> {
    /// A reaper that has seen nothing yet.
    pub fn new(fs: &'f Fs, kernel: &'f dyn Notify) -> Self {
        Self {
            fs,
            kernel,
            later: BinaryHeap::new(),
            failures: HashMap::new(),
            changed: HashSet::new(),
        }
    }

    /// Removes everything that is due and not in use, and frees what nobody holds any more.
    pub fn reclaim(&mut self) {
        self.reconsider();
        while self.round() {}
        self.settle_unlinked();
        while self.round() {}
    }

    fn until_next(&self) -> Duration {
        let now = self.fs.clock.now();
        let later = self.later.peek().map(|Reverse(item)| now.until(item.at));
        let queued = self.fs.queue.next().map(|at| now.after(LEAD).until(at));
        later
            .into_iter()
            .chain(queued)
            .min()
            .unwrap_or(MAX_SLEEP)
            .clamp(Duration::from_millis(1), MAX_SLEEP)
    }

    /// Handles one batch; `true` if there may be more at once.
    fn round(&mut self) -> bool {
        let fs = self.fs;
        let now = fs.clock.now();
        let taken = fs.queue.take_due(&fs.inodes, now.after(LEAD), BATCH);
        let full = taken.len() == BATCH;
        let mut due = Vec::new();
        let mut near = Vec::new();
        for node in taken {
            let at = node.deadline_hint();
            if at > now {
                near.push(Item { at, node })
            } else {
                due.push(node)
            }
        }
        while due.len() < 2 * BATCH
            && let Some(Reverse(item)) = self.later.peek()
            && item.at <= now
        {
            if let Some(Reverse(item)) = self.later.pop() {
                due.push(item.node);
            }
        }
        self.prepare(&near);
        self.later.extend(near.into_iter().map(Reverse));
        let any = !due.is_empty();
        self.reap_all(due);
        // What was removed may have other names, which are due from then on.
        full || any
    }

    /// Those whose time is near: what the kernel still knows after it was asked to forget is in use.
    fn prepare(&self, near: &[Item<'f>]) {
        let nodes: Vec<&Pin<'_>> = near.iter().map(|item| &item.node).collect();
        let used = self.still_used(&nodes);
        for node in nodes {
            if used.contains(&node.ino()) {
                node.set(NodeFlags::KEPT);
            } else {
                node.clear(NodeFlags::KEPT);
            }
        }
    }

    fn reap_all(&mut self, due: Vec<Pin<'f>>) {
        let used = self.still_used(&due.iter().collect::<Vec<_>>());
        for node in due {
            if used.contains(&node.ino()) {
                node.set(NodeFlags::KEPT);
            } else {
                node.clear(NodeFlags::KEPT);
            }
            self.reap(node);
        }
        for parent in self.changed.drain() {
            // The kernel may know nothing of it: all the better.
            let _ = self.kernel.inval_inode(parent, false);
        }
    }

    /// Asks the kernel to forget nodes that it knows and that are not open.
    fn ask_to_forget(&self, nodes: &[&Pin<'_>]) {
        let inos: Vec<Ino> = nodes.iter().map(|node| node.ino()).collect();
        for some in inos.chunks(128) {
            if let Err(errno) = self.kernel.prune(some) {
                tracing::debug!(%errno, "the kernel cannot be asked to forget inodes");
                return;
            }
        }
    }

    /// Whether the kernel knows an inode.
    fn knows(&self, node: &Pin<'_>) -> bool {
        self.kernel.inval_inode(node.ino(), false).unwrap_or(true)
    }

    /// Which of these nodes are in use. Files that are open are; for what the kernel holds on to without that, it
    /// depends on what holds it: a mapping, a working directory or an `O_PATH` descriptor is a use, an inotify watch is
    /// none.
    fn still_used(&self, nodes: &[&Pin<'_>]) -> Vec<Ino> {
        let mut used = Vec::new();
        let mut closed = Vec::new();
        for node in nodes.iter().copied().filter(|node| node.nlookup() > 0) {
            if self.fs.has_handles(node) {
                used.push(node.ino());
            } else {
                closed.push(node);
            }
        }
        // The flag first: an open that comes after it shows in it again.
        let mut held: Vec<(&Pin<'_>, bool)> = closed
            .into_iter()
            .map(|node| {
                (
                    node,
                    node.clear(NodeFlags::OPENED).contains(NodeFlags::OPENED),
                )
            })
            .collect();
        for _ in 0..FORGET_TRIES {
            // A lookup that is just under way holds on to the inode, too.
            self.ask_to_forget(&held.iter().map(|(node, _)| *node).collect::<Vec<_>>());
            held.retain(|(node, _)| self.knows(node));
            if held.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
        if held.is_empty() {
            return used;
        }
        let inos: Vec<Ino> = held.iter().map(|(node, _)| node.ino()).collect();
        let found = uses::find(self.fs.mount_device(), &inos);
        let mounted = uses::mounted_paths(self.fs.mount_device());
        for (node, opened) in held {
            let is_mount = !mounted.is_empty()
                && self
                    .fs
                    .path_in_mount(node)
                    .is_none_or(|path| mounted.contains(&path));
            let is_used = is_mount || node.has(NodeFlags::OPENED)
                // One that the kernel holds on to is bound; nothing among descriptors would tell.
                || node.kind() == Kind::Socket
                || found.as_ref().is_none_or(|found| found.contains(&node.ino()));
            if is_used {
                used.push(node.ino());
                if opened {
                    node.set(NodeFlags::OPENED);
                }
            } else {
                self.show_again(node);
            }
        }
        used
    }

    /// A file that only watches hold on to: the kernel dropped its name when it was asked to forget, and hears of the
    /// removal only through a name. So the name is looked up once more, through the mount like anybody's.
    fn show_again(&self, node: &Pin<'_>) {
        let Some(path) = self.fs.path_through_mount(node) else {
            return;
        };
        self.fs.show_to_this_thread(Some(node.ino()));
        if let Err(errno) = rustix::fs::lstat(&path) {
            tracing::debug!(%errno, ?path, "watches on a file will not hear of its expiry");
        }
        self.fs.show_to_this_thread(None);
    }

    fn reap(&mut self, node: Pin<'f>) {
        let ino = node.ino();
        let now = self.fs.clock.now();
        match self.fs.reap(&node) {
            Ok(Reap::Removed(reaped)) => {
                self.failures.remove(&ino);
                if reaped.known_to_kernel
                    && let Err(errno) = self.kernel.delete(reaped.parent, ino, &reaped.name)
                {
                    // Busy where something is mounted on it; the name is gone for everybody all the same.
                    tracing::debug!(%errno, "the kernel keeps a removed name");
                }
                self.changed.insert(reaped.parent);
            }
            // Busy: opened in the last moment.
            Ok(Reap::Kept) | Err(FsError::Os(rustix::io::Errno::BUSY)) => {
                self.later.push(Reverse(Item {
                    at: now.after(RECHECK),
                    node,
                }))
            }
            Ok(Reap::Lives | Reap::Gone)
            | Err(
                FsError::Os(rustix::io::Errno::NOENT | rustix::io::Errno::STALE)
                | FsError::NotFound
                | FsError::Stale,
            ) => {
                self.failures.remove(&ino);
            }
            Err(error) => {
                let failures = self.failures.entry(ino).or_insert(0);
                let pause = RETRY
                    .saturating_mul(1 << (*failures).min(10))
                    .min(MAX_RETRY);
                *failures += 1;
                tracing::warn!(ino = ino.0, %error, failures, "cannot remove an expired file; it is tried again");
                self.later.push(Reverse(Item {
                    at: now.after(pause),
                    node,
                }));
            }
        }
    }

    /// Looks at what was kept without waiting for its time: it may have been closed.
    fn reconsider(&mut self) {
        let now = self.fs.clock.now();
        let items = std::mem::take(&mut self.later).into_vec();
        self.later = items
            .into_iter()
            .map(|Reverse(mut item)| {
                // The mark of being kept is gone once the kernel has forgotten it. What failed waits for its time.
                let kept = item.node.deadline_hint() <= now
                    && !self.failures.contains_key(&item.node.ino());
                if kept && !self.fs.has_handles(&item.node) {
                    item.at = item.at.min(now);
                }
                Reverse(item)
            })
            .collect();
    }

    /// Gives back what unlinked files are charged that nobody holds any more, without waiting for the kernel to say
    /// so, and waits a little for what is being erased.
    fn settle_unlinked(&self) {
        for _ in 0..CLOSING_LOOKS {
            let mut closing = false;
            for node in self.fs.unlinked_nodes() {
                if node.nlookup() == 0 {
                    continue;
                }
                if self.fs.has_handles(&node) {
                    // Open, or closed a moment ago: the kernel tells of closes when it finds the time.
                    closing = true;
                } else if !self.knows(&node) {
                    self.fs.settle_gone(&node);
                }
            }
            if !closing {
                break;
            }
            std::thread::sleep(CLOSING_PAUSE);
        }
        self.fs.work().wait_erased(ERASE_WAIT);
    }
}
