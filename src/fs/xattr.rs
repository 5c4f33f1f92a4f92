//! Extended attributes: the backing file's own, and those that ttlfs shows of itself under `user.ttlfs.`.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use serde_json::json;

use super::Fs;
use crate::backing::Meta;
use crate::clock::Time;
use crate::error::{FsError, FsResult};
use crate::identity::Caller;
use crate::inodes::{Ino, Kind, Pin};
use crate::quota::UNLIMITED;
use crate::slab::Slot;

/// What ttlfs shows of itself.
const SHOWN: &[u8] = b"user.ttlfs.";

/// What ttlfs keeps on backing files for itself.
const KEPT: &[u8] = b"trusted.ttlfs.";

/// How long after a file was made its maker may still be being looked at, and how that is waited for.
const CREATOR_SETTLES: Duration = Duration::from_secs(1);
const CREATOR_LOOKS: u32 = 10;
const CREATOR_PAUSE: Duration = Duration::from_millis(2);

const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

impl Fs {
    fn is_hidden(&self, name: &CStr) -> bool {
        name.to_bytes().starts_with(KEPT)
    }

    fn refuses_acl(&self, name: &CStr) -> bool {
        !self.acl && ACLS.contains(&name)
    }

    /// The value of an attribute.
    pub fn getxattr(&self, ino: Ino, name: &CStr) -> FsResult<Vec<u8>> {
        if self.is_hidden(name) {
            return Err(FsError::Os(Errno::NODATA));
        }
        if self.refuses_acl(name) {
            return Err(FsError::Unsupported);
        }
        let node = self.live(ino)?;
        let fd = self.location(&node)?;
        if let Some(shown) = name.to_bytes().strip_prefix(SHOWN) {
            let meta = self.backing.stat(fd.as_fd())?;
            return self.shown(&node, &meta, shown);
        }
        loop {
            let len = self.backing.get_xattr(fd.as_fd(), name, &mut [])?;
            let mut value = vec![0; len];
            match self.backing.get_xattr(fd.as_fd(), name, &mut value) {
                Ok(n) => {
                    value.truncate(n);
                    return Ok(value);
                }
                // It grew in between.
                Err(Errno::RANGE) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sets an attribute.
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &CStr,
        value: &[u8],
        flags: u32,
        caller: Caller,
    ) -> FsResult<()> {
        if name.to_bytes().starts_with(SHOWN) || self.is_hidden(name) {
            return Err(FsError::NotPermitted);
        }
        if self.refuses_acl(name) {
            return Err(FsError::Unsupported);
        }
        let node = self.live(ino)?;
        let fd = self.location(&node)?;
        self.backing
            .set_xattr(fd.as_fd(), name, value, XattrFlags::from_bits_retain(flags))?;
        if name == ACLS[0] && caller.uid != 0 {
            self.end_foreign_setgid(fd.as_fd(), caller)?;
        }
        Ok(())
    }

    /// Who is not in a file's group cannot leave it set-gid by setting its access list (acl(5)); the daemon, which has
    /// the privilege, sees to it.
    fn end_foreign_setgid(&self, fd: BorrowedFd<'_>, caller: Caller) -> FsResult<()> {
        let meta = self.backing.stat(fd)?;
        if meta.mode & 0o2000 == 0 || caller.is_in_group(meta.gid) {
            return Ok(());
        }
        Ok(self.backing.chmod(fd, meta.mode & 0o5777)?)
    }

    /// The names of all attributes, each with its NUL.
    pub fn listxattr(&self, ino: Ino, caller: Caller) -> FsResult<Vec<u8>> {
        let node = self.live(ino)?;
        let fd = self.location(&node)?;
        let mut names = Vec::new();
        for name in self
            .backing
            .list_xattr(fd.as_fd())?
            .split_inclusive(|b| *b == 0)
        {
            let hidden = name.starts_with(KEPT)
                || caller.uid != 0 && name.starts_with(b"trusted.")
                || !self.acl && ACLS.iter().any(|acl| acl.to_bytes_with_nul() == name);
            if !hidden {
                names.extend_from_slice(name);
            }
        }
        Ok(names)
    }

    /// Removes an attribute.
    pub fn removexattr(&self, ino: Ino, name: &CStr) -> FsResult<()> {
        if name.to_bytes().starts_with(SHOWN) {
            return Err(FsError::NotPermitted);
        }
        if self.is_hidden(name) {
            return Err(FsError::Os(Errno::NODATA));
        }
        if self.refuses_acl(name) {
            return Err(FsError::Unsupported);
        }
        let node = self.live(ino)?;
        let fd = self.location(&node)?;
        Ok(self.backing.remove_xattr(fd.as_fd(), name)?)
    }

    /// Who made a file. That is found out after its maker has the answer: whoever asks within the moment waits for it.
    fn creator(&self, node: &Pin<'_>) -> Option<crate::creators::Creator> {
        for _ in 0..CREATOR_LOOKS {
            let found = self.creators.get(node.ino().0, node.btime());
            if found.is_some() || node.btime().until(self.clock.now()) > CREATOR_SETTLES {
                return found;
            }
            std::thread::sleep(CREATOR_PAUSE);
        }
        self.creators.get(node.ino().0, node.btime())
    }

    /// What ttlfs says of a file under `user.ttlfs.`.
    fn shown(&self, node: &Pin<'_>, meta: &Meta, what: &[u8]) -> FsResult<Vec<u8>> {
        let policy = self.policy();
        let settings = self.settings_in(&policy, node);
        let now = self.clock.now();
        let created = self
            .adopted
            .map_or(node.btime(), |adopted| adopted.max(node.btime()));
        let expires = || self.deadline_in(settings, node, meta);
        let seconds =
            |span: std::time::Duration| format!("{}.{:03}", span.as_secs(), span.subsec_millis());
        let text = match what {
            b"created" => created.to_string(),
            b"expires" => expires().to_string(),
            b"age" => seconds(created.until(now)),
            b"remaining" => match expires() {
                Time::NEVER => "never".to_owned(),
                at => seconds(now.until(at)),
            },
            b"ttl" => settings.ttl.map_or("never".to_owned(), |ttl| {
                crate::units::Interval::from_seconds(ttl.as_secs())
                    .map_or_else(String::new, |i| i.to_string())
            }),
            b"rule" => policy.rule_name(settings.rule).to_owned(),
            b"creator" => match self.creator(node) {
                Some(c) => {
                    json!({"uid": c.uid, "gid": c.gid, "pid": c.pid, "comm": c.comm_text()})
                }
                None => json!({"uid": meta.uid, "gid": meta.gid, "pid": null, "comm": null}),
            }
            .to_string(),
            b"usage" if node.kind() == Kind::Directory => {
                let subtree = Slot::from_raw(node.aux.load(Ordering::Acquire))
                    .ok_or(FsError::Os(Errno::NODATA))?;
                let usage = self.quotas.usage(subtree);
                let limit = |limit: u64| {
                    if limit == UNLIMITED {
                        json!(null)
                    } else {
                        json!(limit)
                    }
                };
                json!({
                    "bytes": usage.used_bytes,
                    "bytes_limit": limit(usage.limit_bytes),
                    "inodes": usage.used_inodes,
                    "inodes_limit": limit(usage.limit_inodes),
                })
                .to_string()
            }
            _ => return Err(FsError::Os(Errno::NODATA)),
        };
        Ok(text.into_bytes())
    }
}
