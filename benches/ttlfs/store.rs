//! The backing store of a run: a fresh filesystem on a loop device in a temporary directory.
//!
//! Everything lives below one directory that names its process. It goes away when the run ends, in whatever
//! way; after a SIGKILL the next run removes it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use crate::process::{self, Outcome};

const PREFIX: &str = "ttlfs-bench.";
const GIB: u64 = 1 << 30;
const IMAGE_BYTES: u64 = 16 * GIB;
const LIMIT: Duration = Duration::from_secs(120);

/// Prefix a failure with what was being done.
pub fn doing(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// The temporary directory: removed, with everything mounted below it, when dropped.
pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    pub fn new(parent: &Path) -> Outcome<Scratch> {
        let parent = parent
            .canonicalize()
            .map_err(doing(format_args!("{}", parent.display())))?;
        sweep(&parent);
        let root = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&root)
            .map_err(doing(format_args!("{}", root.display())))?;
        Ok(Scratch { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that collects what child processes say.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        discard(&self.root);
    }
}

/// Unmounts whatever is mounted at or below `root`, and removes it.
pub fn discard(root: &Path) {
    let mut mounts = mounts_below(root);
    // Later mounts lie on earlier ones.
    while let Some(mount) = mounts.pop() {
        let _ = unmount(&mount.point, Unmount::Lazily);
    }
    if mounts_below(root).is_empty() {
        let _ = fs::remove_dir_all(root);
    } else {
        eprintln!(
            "ttlfs bench: something is still mounted below {}",
            root.display()
        );
    }
}

/// Removes what runs left behind that were killed. Only directories of this user whose process is gone.
fn sweep(parent: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let ours = entry
            .metadata()
            .is_ok_and(|meta| meta.is_dir() && meta.uid() == own);
        let numeric = pid.parse::<u32>().is_ok();
        if ours && numeric && !Path::new("/proc").join(pid).exists() {
            eprintln!(
                "removing what a killed run left: {}",
                entry.path().display()
            );
            discard(&entry.path());
        }
    }
}

/// One line of the mount table.
pub struct Mount {
    pub point: PathBuf,
    pub kind: String,
}

/// What is mounted at or below `root`, oldest first.
pub fn mounts_below(root: &Path) -> Vec<Mount> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let point = unescape(fields.nth(4)?);
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            let kind = String::from_utf8_lossy(kind).into_owned();
            Some(Mount { point, kind })
        })
        .filter(|mount| mount.point.starts_with(root))
        .collect()
}

/// The type of the filesystem mounted at exactly `point`.
pub fn mounted_kind(point: &Path) -> Option<String> {
    mounts_below(point)
        .into_iter()
        .rfind(|mount| mount.point == point)
        .map(|mount| mount.kind)
}

/// The mount table writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    Cleanly,
    Lazily,
}

/// Unmounts `point`. Root asks the kernel itself: `umount` would look at the directory first, and wait for a
/// daemon that hangs.
pub fn unmount(point: &Path, how: Unmount) -> Outcome<()> {
    let lazily = how == Unmount::Lazily;
    if rustix::process::geteuid().is_root() {
        let flags = if lazily {
            UnmountFlags::DETACH
        } else {
            UnmountFlags::empty()
        };
        return rustix::mount::unmount(point, flags).map_err(|error| error.to_string());
    }
    let output = Command::new("fusermount3")
        .arg("-u")
        .args(lazily.then_some("-z"))
        .arg("--")
        .arg(point)
        .stdin(Stdio::null())
        .output()
        .map_err(doing("fusermount3"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// What the store should be made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum StoreKind {
    Xfs,
    Ext4,
    Btrfs,
    /// Memory.
    Tmpfs,
    /// A plain directory, on whatever filesystem it is.
    Dir,
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            StoreKind::Xfs => "xfs",
            StoreKind::Ext4 => "ext4",
            StoreKind::Btrfs => "btrfs",
            StoreKind::Tmpfs => "tmpfs",
            StoreKind::Dir => "directory",
        }
    }
}

/// The mounted backing store. It is unmounted by the scratch directory that it lies in.
pub struct Store {
    root: PathBuf,
    handle: OwnedFd,
    kind: StoreKind,
}

impl Store {
    /// Makes the wanted store, or, where nothing was asked for, the best that the machine allows.
    pub fn new(
        scratch: &Scratch,
        wanted: Option<StoreKind>,
        notes: &mut Vec<String>,
    ) -> Outcome<Store> {
        let root = scratch.root().join("store");
        fs::create_dir(&root).map_err(doing("store"))?;
        let candidates = match &wanted {
            Some(kind) => std::slice::from_ref(kind),
            None => &[
                StoreKind::Xfs,
                StoreKind::Ext4,
                StoreKind::Tmpfs,
                StoreKind::Dir,
            ],
        };
        let mut refusals = Vec::new();
        for &kind in candidates {
            match make(scratch, kind, &root) {
                Ok(()) => {
                    if !refusals.is_empty() {
                        let name = kind.name();
                        notes.push(format!("backing store is {name}: {}", refusals.join("; ")));
                    }
                    let handle = rustix::fs::open(
                        &root,
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                    .map_err(|error| format!("{}: {error}", root.display()))?;
                    return Ok(Store { root, handle, kind });
                }
                Err(reason) => refusals.push(format!("no {}: {reason}", kind.name())),
            }
        }
        Err(refusals.join("; "))
    }

    pub fn describe(&self) -> String {
        match self.kind {
            StoreKind::Dir | StoreKind::Tmpfs => self.kind.name().to_owned(),
            kind => format!("{} on a loop device", kind.name()),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A directory that holds nothing yet.
    pub fn fresh(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.root.join(name);
        self.remove(name)?;
        fs::create_dir(&dir).map_err(doing(format_args!("{}", dir.display())))?;
        Ok(dir)
    }

    pub fn remove(&self, name: &str) -> Outcome<()> {
        let dir = self.root.join(name);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes out what is dirty, so that nobody pays for the writes of the one before.
    pub fn sync(&self) {
        let _ = rustix::fs::syncfs(&self.handle);
    }
}

fn make(scratch: &Scratch, kind: StoreKind, root: &Path) -> Outcome<()> {
    let log = scratch.log();
    let mkfs = match kind {
        StoreKind::Dir => return Ok(()),
        StoreKind::Tmpfs => {
            let mut mount = Command::new("mount");
            mount
                .args(["-t", "tmpfs", "-o", "size=75%,nr_inodes=0", "tmpfs"])
                .arg(root);
            return process::run(&mut mount, &log, LIMIT).map(drop);
        }
        StoreKind::Xfs => ["mkfs.xfs", "-q", "-f"].as_slice(),
        StoreKind::Ext4 => ["mkfs.ext4", "-q", "-F"].as_slice(),
        StoreKind::Btrfs => ["mkfs.btrfs", "-q", "-f"].as_slice(),
    };
    if !rustix::process::geteuid().is_root() {
        return Err("loop devices need root".to_owned());
    }
    let Some(program) = process::find_program(mkfs[0]) else {
        return Err(format!("{} is not installed", mkfs[0]));
    };
    let image = scratch.root().join("image");
    let space = rustix::fs::statvfs(scratch.root()).map_err(|error| format!("statvfs: {error}"))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let bytes = IMAGE_BYTES.min(free / 10 * 9);
    if bytes < 3 * GIB {
        return Err(format!(
            "only {} MiB free in {}",
            free >> 20,
            scratch.root().display()
        ));
    }
    let file = fs::File::create(&image).map_err(doing("image"))?;
    file.set_len(bytes).map_err(doing("image"))?;
    let made = process::run(
        Command::new(program).args(&mkfs[1..]).arg(&image),
        &log,
        LIMIT,
    )
    .and_then(|_| {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", kind.name(), "-o", "loop", "--"])
            .arg(&image)
            .arg(root);
        process::run(&mut mount, &log, LIMIT)
    });
    // The loop device keeps the image, and goes when it is unmounted. Without a name it can't be left behind.
    fs::remove_file(&image).map_err(doing("image"))?;
    made.map(drop)
}
