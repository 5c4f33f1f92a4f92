//! Who a thread belongs to: its process and that process's name, as `ps` shows them.
//!
//! The kernel names a request's *thread*. For the leader of a process, which most callers are, one cheap system
//! call shows that the number is the process's too. For other threads the leader stands first in `task/`; it is
//! remembered, and a remembered one is verified by the same cheap call. The name can change at any moment (exec),
//! so it is never remembered.

use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, RawDir, open, openat};

use crate::sys::thread::is_thread_of;

/// As long as the kernel's `TASK_COMM_LEN`; padded with zeros.
pub type Comm = [u8; 16];

/// How many threads' leaders are remembered.
const LEADERS: usize = 256;

#[derive(Debug)]
pub struct Callers {
    /// None where there is no `/proc`: then names stay empty.
    proc: Option<OwnedFd>,
    /// Thread number in the high half, leader in the low one. Whoever is hashed to the same place replaces it.
    pub(super) leaders: Box<[AtomicU64]>,
}

impl Callers {
    pub fn new() -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self {
            proc: open("/proc", flags, Mode::empty()).ok(),
            leaders: (0..LEADERS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The process of thread `tid`, and the process's name.
    ///
    /// Of a thread that is gone already, its own number and no name: it was most likely a whole process, because
    /// the threads of a larger one outlive a single call.
    pub fn identify(&self, tid: u32) -> (u32, Comm) {
        if tid == 0 {
            return (0, Comm::default());
        }
        match self.leader(tid) {
            Some(pid) => (pid, self.comm(pid).unwrap_or_default()),
            None => (tid, Comm::default()),
        }
    }

    fn leader(&self, tid: u32) -> Option<u32> {
        if is_thread_of(tid, tid) {
            return Some(tid);
        }
        let place = &self.leaders[tid as usize % LEADERS];
        let remembered = place.load(Ordering::Relaxed);
        let pid = remembered as u32;
        if (remembered >> 32) as u32 == tid && is_thread_of(pid, tid) {
            return Some(pid);
        }
        let pid = self.first_task(tid)?;
        place.store(u64::from(tid) << 32 | u64::from(pid), Ordering::Relaxed);
        Some(pid)
    }

    /// The kernel lists a process's threads from its leader on.
    fn first_task(&self, tid: u32) -> Option<u32> {
        let mut path = [0; 32];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tasks = openat(
            self.proc.as_ref()?,
            c_path(&mut path, tid, "task")?,
            flags,
            Mode::empty(),
        )
        .ok()?;
        // Small on purpose: the kernel looks up every thread that fits.
        let mut buffer = [MaybeUninit::<u8>::uninit(); 104];
        let mut entries = RawDir::new(&tasks, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let pid = std::str::from_utf8(name).ok()?.parse().ok()?;
            return is_thread_of(pid, tid).then_some(pid);
        }
        None
    }

    fn comm(&self, pid: u32) -> Option<Comm> {
        let mut path = [0; 32];
        let file = openat(
            self.proc.as_ref()?,
            c_path(&mut path, pid, "comm")?,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        let mut text = [0; 64];
        let read = rustix::io::read(&file, &mut text).ok()?;
        // The name may hold line ends of its own; only the last is the kernel's.
        let name = text[..read].strip_suffix(b"\n").unwrap_or(&text[..read]);
        let mut comm = Comm::default();
        let length = name.len().min(comm.len());
        comm[..length].copy_from_slice(&name[..length]);
        Some(comm)
    }
}

/// `NUMBER/tail`, without an allocation.
fn c_path<'a>(buffer: &'a mut [u8; 32], number: u32, tail: &str) -> Option<&'a CStr> {
    let mut rest = &mut buffer[..];
    write!(rest, "{number}/{tail}\0").ok()?;
    CStr::from_bytes_until_nul(buffer).ok()
}
