//! Walks over the whole tree: to count what is used, and to meet what can expire.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::error::FsResult;
use crate::fs::Fs;
use crate::inodes::{Ino, Kind, Pin};
use crate::quota::Amount;
use crate::slab::Slot;

/// So many files are counted while programs wait.
const QUICKLY_COUNTED: u64 = 20_000;

/// Counts what is used and sets the books to it; before anything is served.
pub fn recount(fs: &Fs) -> FsResult<()> {
    fs.quotas.clear_used();
    walk(fs, &mut |node, subtree, bytes| {
        node.charge.store(bytes, Ordering::Release);
        fs.quotas.force(subtree, Amount { bytes, inodes: 1 });
    })?;
    fs.recharge_private();
    Ok(())
}

/// Counts again after a server died: it may have taken charges and not written them down. Before anything is served.
pub fn recount_after_takeover(fs: &Fs) -> FsResult<()> {
    let is_quick = fs.quotas.root_inodes() <= QUICKLY_COUNTED;
    if fs.policy().has_limits() || is_quick {
        recount(fs)
    } else {
        // Without limits the numbers are only shown: programs need not wait for them.
        Ok(())
    }
}

/// Meets every file that can expire, so that its deadline is known; beside the requests.
pub fn index(fs: &Fs) {
    let policy = fs.policy();
    if !policy.ttl_may_apply(policy.root()) {
        return;
    }
    if let Err(error) = walk(fs, &mut |_, _, _| {}) {
        tracing::error!(%error, "not every deadline is known yet; what is met is expired all the same");
    }
}

/// Goes through all directories, meets what is in them, and reports what each thing costs.
fn walk(fs: &Fs, count: &mut dyn FnMut(&Pin<'_>, Slot, u64)) -> FsResult<()> {
    // Files of several names, each of which is counted once, where its first name is met.
    let mut met = HashSet::new();
    let mut todo: Vec<Ino> = vec![fs.root_ino()];
    while let Some(ino) = todo.pop() {
        if fs.is_stopping() {
            return Ok(());
        }
        let Ok(dir) = fs.dir(ino) else {
            // It went in the meantime; with it goes the reference that held its node.
            if let Some(node) = fs.inodes.pin(ino) {
                fs.inodes.unref(node.slot());
            }
            continue;
        };
        let entries = match fs.raw_entries(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(ino = ino.0, %error, "cannot read a directory");
                Vec::new()
            }
        };
        for (name, _) in entries {
            if fs.check_reserved(&dir, &name).is_err() {
                continue;
            }
            let Ok(meta) = fs.backing.stat_at(dir.fd(), &name) else {
                continue;
            };
            let Ok(node) = fs.known(&dir, &name, &meta) else {
                continue;
            };
            if let Some(subtree) = dir.subtree() {
                let bytes = fs.charge_of(&meta, || fs.backing.open_path(dir.fd(), &name).ok());
                if meta.nlink == 1 || meta.kind() == Kind::Directory || met.insert(meta.ino) {
                    count(&node, subtree, bytes);
                }
            }
            if meta.kind() == Kind::Directory {
                // Its place in the tree is remembered by its node, which must stay until it is walked.
                fs.inodes.add_ref(&node);
                todo.push(node.ino());
            }
        }
        if ino != fs.root_ino() {
            fs.inodes.unref(dir.node.slot());
        }
    }
    Ok(())
}
