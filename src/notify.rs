//! What we tell the kernel without being asked.
//!
//! Written raw to the device, because `fuser` hides the answer that matters most here: `ENOENT`, "I know no such inode".
//! Never called from a request's thread, and never with a lock held that a request could wait for: the kernel holds
//! the directory's lock while it waits for us.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::inodes::Ino;

/// What the clock's driver tells and asks the kernel. Tests put a kernel of their own here.
pub trait Notify {
    /// Drops cached attributes of an inode; with `data`, its cached pages too. `false`: the kernel knows no such inode.
    fn inval_inode(&self, ino: Ino, data: bool) -> Result<bool, Errno>;

    /// Says that a name is gone: drops it, and lets watches on the file hear it. `false`: it was not cached.
    fn delete(&self, parent: Ino, child: Ino, name: &[u8]) -> Result<bool, Errno>;

    /// Asks the kernel to forget inodes that nothing holds. `EINVAL`: this kernel can't.
    fn prune(&self, inos: &[Ino]) -> Result<(), Errno>;
}

/// The kernel's side of the mount.
#[derive(Debug)]
pub struct Kernel {
    device: OwnedFd,
    root: Ino,
}

/// `FUSE_NOTIFY_*` (include/uapi/linux/fuse.h).
#[derive(Clone, Copy)]
#[repr(i32)]
enum Code {
    InvalInode = 2,
    InvalEntry = 3,
    Delete = 6,
    Resend = 7,
    IncEpoch = 8,
    Prune = 9,
}

const ROOT_ID: u64 = 1;

impl Kernel {
    /// Speaks through `device`; the kernel calls `root` 1.
    pub fn new(device: OwnedFd, root: Ino) -> Self {
        Self { device, root }
    }

    fn node_id(&self, ino: Ino) -> u64 {
        if ino == self.root { ROOT_ID } else { ino.0 }
    }

    fn send(&self, code: Code, payload: &[u8]) -> Result<(), Errno> {
        let len = 16 + payload.len();
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(&(len as u32).to_ne_bytes());
        message.extend_from_slice(&(code as i32).to_ne_bytes());
        message.extend_from_slice(&0u64.to_ne_bytes());
        message.extend_from_slice(payload);
        rustix::io::retry_on_intr(|| rustix::io::write(&self.device, &message)).map(drop)
    }

    /// Drops a cached name. `false`: there was none.
    pub fn inval_entry(&self, parent: Ino, name: &[u8]) -> Result<bool, Errno> {
        let mut payload = Vec::with_capacity(17 + name.len());
        payload.extend_from_slice(&self.node_id(parent).to_ne_bytes());
        payload.extend_from_slice(&(name.len() as u32).to_ne_bytes());
        payload.extend_from_slice(&0u32.to_ne_bytes());
        payload.extend_from_slice(name);
        payload.push(0);
        known(self.send(Code::InvalEntry, &payload))
    }

    /// Makes every cached name ask again.
    pub fn inc_epoch(&self) -> Result<(), Errno> {
        self.send(Code::IncEpoch, &[])
    }

    /// Asks for every request that was taken and not answered.
    pub fn resend(&self) -> Result<(), Errno> {
        self.send(Code::Resend, &[])
    }
}

impl Notify for Kernel {
    fn inval_inode(&self, ino: Ino, data: bool) -> Result<bool, Errno> {
        let mut payload = Vec::with_capacity(24);
        payload.extend_from_slice(&self.node_id(ino).to_ne_bytes());
        payload.extend_from_slice(&(if data { 0i64 } else { -1 }).to_ne_bytes());
        payload.extend_from_slice(&0i64.to_ne_bytes());
        known(self.send(Code::InvalInode, &payload))
    }

    fn delete(&self, parent: Ino, child: Ino, name: &[u8]) -> Result<bool, Errno> {
        let mut payload = Vec::with_capacity(25 + name.len());
        payload.extend_from_slice(&self.node_id(parent).to_ne_bytes());
        payload.extend_from_slice(&self.node_id(child).to_ne_bytes());
        payload.extend_from_slice(&(name.len() as u32).to_ne_bytes());
        payload.extend_from_slice(&0u32.to_ne_bytes());
        payload.extend_from_slice(name);
        payload.push(0);
        known(self.send(Code::Delete, &payload))
    }

    fn prune(&self, inos: &[Ino]) -> Result<(), Errno> {
        let mut payload = Vec::with_capacity(16 + 8 * inos.len());
        payload.extend_from_slice(&(inos.len() as u32).to_ne_bytes());
        payload.extend_from_slice(&[0; 12]);
        for ino in inos {
            payload.extend_from_slice(&self.node_id(*ino).to_ne_bytes());
        }
        self.send(Code::Prune, &payload)
    }
}

fn known(answer: Result<(), Errno>) -> Result<bool, Errno> {
    match answer {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
