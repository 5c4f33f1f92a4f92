//! Options that are the kernel's or mount(8)'s own: passed on, or known and ignored.

use serde::{Deserialize, Serialize};

/// Who but the mounting user may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Nothing was said: everyone for root's mounts, else nobody.
    Unsaid,
    /// `allow_root`.
    Root,
    /// `allow_other`.
    Everyone,
}

/// What goes into mount(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelOptions {
    flags: u64,
    pub access: Access,
    /// Was `default_permissions` asked for? The core may use it all the same.
    pub default_permissions: bool,
    /// SELinux's `context=` and its like.
    pub contexts: Vec<(String, String)>,
}

impl Default for KernelOptions {
    fn default() -> KernelOptions {
        KernelOptions {
            flags: libc::MS_NOSUID | libc::MS_NODEV,
            access: Access::Unsaid,
            default_permissions: false,
            contexts: Vec::new(),
        }
    }
}

/// Name, bits it sets, bits it clears: as mount(8) reads them.
const FLAGS: &[(&str, u64, u64)] = &[
    ("ro", libc::MS_RDONLY, 0),
    ("rw", 0, libc::MS_RDONLY),
    ("nosuid", libc::MS_NOSUID, 0),
    ("suid", 0, libc::MS_NOSUID),
    ("nodev", libc::MS_NODEV, 0),
    ("dev", 0, libc::MS_NODEV),
    ("noexec", libc::MS_NOEXEC, 0),
    ("exec", 0, libc::MS_NOEXEC),
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("async", 0, libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC, 0),
    (
        "noatime",
        libc::MS_NOATIME,
        libc::MS_RELATIME | libc::MS_STRICTATIME,
    ),
    ("atime", 0, libc::MS_NOATIME),
    (
        "relatime",
        libc::MS_RELATIME,
        libc::MS_NOATIME | libc::MS_STRICTATIME,
    ),
    ("norelatime", 0, libc::MS_RELATIME),
    (
        "strictatime",
        libc::MS_STRICTATIME,
        libc::MS_NOATIME | libc::MS_RELATIME,
    ),
    ("nostrictatime", 0, libc::MS_STRICTATIME),
    ("nodiratime", libc::MS_NODIRATIME, 0),
    ("diratime", 0, libc::MS_NODIRATIME),
    ("lazytime", MS_LAZYTIME, 0),
    ("nolazytime", 0, MS_LAZYTIME),
    ("nosymfollow", MS_NOSYMFOLLOW, 0),
    ("symfollow", 0, MS_NOSYMFOLLOW),
];

// Not in every libc that the crate supports.
const MS_LAZYTIME: u64 = 1 << 25;
const MS_NOSYMFOLLOW: u64 = 1 << 8;

const CONTEXTS: &[&str] = &["context", "fscontext", "defcontext", "rootcontext"];

/// Known, without a meaning of their own by the time they arrive here: mount(8)'s and fstab's words, what FUSE helpers
/// add, and what /proc/mounts shows of a FUSE mount, which a remount hands back.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "remount",
    "silent",
    "loud",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
];
const IGNORED_WITH_VALUE: &[&str] = &[
    "comment", "uhelper", "helper", "fsname", "subtype", "fd", "rootmode", "user_id", "group_id",
    "max_read", "blksize",
];

/// Is it one of the words that mean nothing here?
pub(super) fn is_ignored(name: &str, value: Option<&str>) -> bool {
    name.starts_with("x-")
        || name.starts_with("X-")
        || match value {
            None => IGNORED.contains(&name),
            Some(_) => IGNORED_WITH_VALUE.contains(&name),
        }
}

/// The names that error messages list.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let access = ["allow_other", "allow_root", "default_permissions"];
    FLAGS
        .iter()
        .map(|&(name, ..)| name)
        .chain(access)
        .chain(CONTEXTS.iter().copied())
}

pub(super) fn is_context(name: &str) -> bool {
    CONTEXTS.contains(&name)
}

impl KernelOptions {
    /// Switches the named option on or off; `false` if it is no option of ours.
    pub(super) fn switch(&mut self, name: &str, on: bool) -> bool {
        match name {
            "allow_other" => self.access = if on { Access::Everyone } else { Access::Unsaid },
            "allow_root" => self.access = if on { Access::Root } else { Access::Unsaid },
            "default_permissions" => self.default_permissions = on,
            _ => {
                let Some(&(_, set, clear)) = FLAGS.iter().find(|(flag, ..)| *flag == name) else {
                    return false;
                };
                match (on, set) {
                    (true, _) => self.flags = self.flags & !clear | set,
                    // `suid = false` says nosuid; `noatime = false` doesn't say which kind of atime.
                    (false, 0) => self.flags |= clear,
                    (false, _) => self.flags &= !set,
                }
            }
        }
        true
    }

    pub(super) fn set_context(&mut self, name: &str, value: &str) {
        self.contexts.retain(|(known, _)| known != name);
        self.contexts.push((name.to_owned(), value.to_owned()));
    }

    /// For mount(2).
    pub fn ms_flags(&self) -> libc::c_ulong {
        self.flags
    }

    pub fn is_read_only(&self) -> bool {
        self.flags & libc::MS_RDONLY != 0
    }

    /// The flags in force as mount(8) and fusermount3 spell them.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        FLAGS
            .iter()
            .filter(|&&(_, set, _)| set != 0 && self.flags & set == set)
            .map(|&(name, ..)| name)
    }
}
