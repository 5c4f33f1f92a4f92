//! Overwriting: how bytes are destroyed before their blocks are freed.
//!
//! Data is overwritten where it lies, extent by extent, and synced past the page cache; holes and reserved blocks that
//! were never written hold none of it and are left alone. Many small files share one sync.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::backing::{Backing, Sync};
use crate::fs::Fs;
use crate::work::EraseJob;

/// Bytes written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Jobs that share a sync.
const BATCH: usize = 64;

/// Up to this size a file shares a sync of the whole store with others; a larger one is synced by itself.
const SHARED_SYNC_BYTES: u64 = 1 << 20;

/// Overwrites `from..to` of an open file with `passes` passes and puts each on disk: the last is zeros, the others
/// random.
pub fn overwrite(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    from: u64,
    to: u64,
    passes: u32,
) -> Result<(), Errno> {
    for pass in (0..passes).rev() {
        overwrite_once(backing, fd, from, to, pass > 0)?;
        backing.sync(fd, true)?;
    }
    Ok(())
}

/// One pass, not yet synced.
fn overwrite_once(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    from: u64,
    to: u64,
    random: bool,
) -> Result<(), Errno> {
    let mut chunk =
        vec![0u8; CHUNK_BYTES.min(usize::try_from(to.saturating_sub(from)).unwrap_or(CHUNK_BYTES))];
    let mut at = from;
    while at < to {
        at = match backing.seek(fd, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            // No holes known here: everything is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(errno),
        };
        let end = match backing.seek(fd, SeekFrom::Hole(at)) {
            Ok(hole) => hole.min(to),
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => to,
            Err(errno) => return Err(errno),
        };
        while at < end {
            let len = chunk
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            if random {
                fill_random(&mut chunk[..len])?;
            }
            let done = backing.write(fd, &chunk[..len], at, Sync::No)?;
            if done == 0 {
                return Err(Errno::IO);
            }
            at += done as u64;
        }
    }
    Ok(())
}

fn fill_random(buffer: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < buffer.len() {
        done +=
            rustix::rand::getrandom(&mut buffer[done..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

/// The eraser's thread: overwrites and frees what is in private state, until the end.
pub fn run(fs: &Fs) {
    while let Some(jobs) = fs.work().wait_eraser(BATCH) {
        let mut opened: Vec<(EraseJob, OwnedFd, u64)> = Vec::with_capacity(jobs.len());
        for job in jobs {
            match open(fs, &job) {
                Ok(Some((fd, size))) => opened.push((job, fd, size)),
                Ok(None) => fs.erased(&job),
                Err(errno) => failed(&job, errno),
            }
        }
        erase_batch(fs, opened);
        fs.work().erased();
    }
}

fn failed(job: &EraseJob, errno: Errno) {
    tracing::error!(
        name = ?job.name, %errno,
        "cannot erase a removed file; it stays in private state and is tried again at the next mount"
    );
}

/// Opens a file in private state. `Ok(None)`: it is gone, or only one of its names was.
fn open(fs: &Fs, job: &EraseJob) -> Result<Option<(OwnedFd, u64)>, Errno> {
    let fd = match rustix::fs::openat(
        fs.private.as_fd(),
        &job.name,
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    ) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let meta = fs.backing.stat(fd.as_fd())?;
    if meta.nlink > 1 {
        // Its data lives on under another name: a rename that was cut short.
        fs.backing.unlink(fs.private.as_fd(), &job.name)?;
        return Ok(None);
    }
    // The tail of the last block may hold what a mapping wrote beyond the end.
    let block = u64::from(meta.block_bytes.clamp(512, 1 << 16));
    Ok(Some((fd, meta.size.div_ceil(block) * block)))
}

fn erase_batch(fs: &Fs, files: Vec<(EraseJob, OwnedFd, u64)>) {
    let mut left = files;
    for round in 0..left.iter().map(|(job, ..)| job.passes).max().unwrap_or(0) {
        let mut shared = 0;
        left.retain(|(job, fd, size)| {
            if round >= job.passes {
                return true;
            }
            let random = round + 1 < job.passes;
            let done = overwrite_once(&fs.backing, fd.as_fd(), 0, *size, random).and_then(|()| {
                if *size > SHARED_SYNC_BYTES {
                    fs.backing.sync(fd.as_fd(), true)
                } else {
                    shared += 1;
                    Ok(())
                }
            });
            done.inspect_err(|errno| failed(job, *errno)).is_ok()
        });
        if shared > 1 {
            if let Err(errno) = fs.backing.sync_all() {
                left.iter().for_each(|(job, ..)| failed(job, errno));
                return;
            }
        } else if shared == 1 {
            left.retain(|(job, fd, size)| {
                *size > SHARED_SYNC_BYTES
                    || fs
                        .backing
                        .sync(fd.as_fd(), true)
                        .inspect_err(|errno| failed(job, *errno))
                        .is_ok()
            });
        }
    }
    for (job, fd, _) in left {
        match fs.backing.unlink(fs.private.as_fd(), &job.name) {
            Ok(()) | Err(Errno::NOENT) => {
                drop(fd);
                fs.erased(&job);
            }
            Err(errno) => failed(&job, errno),
        }
    }
}
