//! The directory of one `run`: `BASE/ttlfs-run-XXXX/tmp`. The outer one is closed to other users; the inner one
//! is both backing directory and mountpoint, so that what is kept lies where the command saw it.

use super::wipe;
use crate::cli::setup::is_on_ttlfs;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const PREFIX: &str = "ttlfs-run-";
const INNER: &str = "tmp";
const NAME_ATTEMPTS: usize = 8;

pub(super) struct TempDirectory {
    base: OwnedFd,
    name: String,
    outer: OwnedFd,
    path: PathBuf,
}

impl TempDirectory {
    /// In the first place that allows it. `inner_mode` is what the command sees.
    pub(super) fn create(inner_mode: Mode) -> io::Result<TempDirectory> {
        let mut last_error = io::Error::other("no directory for temporary files found");
        for base in bases() {
            // A mount of ours can't hold another one: its rules would apply as well.
            if !base.is_dir() || is_on_ttlfs(&base) {
                continue;
            }
            match TempDirectory::create_in(&base, inner_mode) {
                Ok(directory) => return Ok(directory),
                Err(error) => {
                    let text = format!("{}: {error}", base.display());
                    last_error = io::Error::new(error.kind(), text);
                }
            }
        }
        Err(last_error)
    }

    fn create_in(base_path: &Path, inner_mode: Mode) -> io::Result<TempDirectory> {
        let base_path = base_path.canonicalize()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::openat(CWD, &base_path, path_only, Mode::empty())?;
        let mut last_error = rustix::io::Errno::EXIST;
        for _ in 0..NAME_ATTEMPTS {
            let name = format!("{PREFIX}{}", random_name()?);
            match rustix::fs::mkdirat(&base, &name, Mode::RWXU) {
                Err(error @ rustix::io::Errno::EXIST) => last_error = error,
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let outer = rustix::fs::openat(&base, &name, flags, Mode::empty())?;
                    rustix::fs::mkdirat(&outer, INNER, Mode::RWXU)?;
                    let inner = rustix::fs::openat(&outer, INNER, flags, Mode::empty())?;
                    // Once more: the umask took bits away.
                    rustix::fs::fchmod(&inner, inner_mode)?;
                    let path = base_path.join(&name).join(INNER);
                    return Ok(TempDirectory {
                        base,
                        name,
                        outer,
                        path,
                    });
                }
            }
        }
        Err(last_error.into())
    }

    /// Finds it again, for when its keeper is gone.
    pub(super) fn reopen(path: &Path) -> io::Result<TempDirectory> {
        let outer_path = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let base_path = outer_path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = outer_path.file_name().and_then(|name| name.to_str());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(TempDirectory {
            base: rustix::fs::open(base_path, path_only, Mode::empty())?,
            name: name.ok_or(io::ErrorKind::InvalidInput)?.to_owned(),
            outer: rustix::fs::open(outer_path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// What the command gets.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything, overwritten before if `passes` are given. Nothing may be mounted there any more.
    pub(super) fn remove(self, passes: Option<u8>) -> Result<(), String> {
        let wiped = wipe::remove_tree(self.outer.as_fd(), INNER, passes);
        rustix::fs::unlinkat(&self.base, &self.name, AtFlags::REMOVEDIR).map_err(|error| {
            let path = self.path.parent().unwrap_or(&self.path);
            format!("{}: {error}", path.display())
        })?;
        wiped
    }

    /// Removes only what is ours, and leaves the rest where it is.
    pub(super) fn keep(self, passes: Option<u8>) -> Result<(), String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(&self.outer, INNER, flags, Mode::empty());
        let inner = inner.map_err(|error| error.to_string())?;
        wipe::remove_tree(inner.as_fd(), crate::private::DIRECTORY, passes)
    }
}

fn bases() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid();
    let mut bases: Vec<PathBuf> = std::env::var_os("TMPDIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .into_iter()
        .collect();
    bases.extend(["/var/tmp".into(), "/tmp".into()]);
    bases.extend(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from));
    // Inside another `run --private-tmp` all of these may be its own.
    bases.extend(uid.is_root().then(|| PathBuf::from("/run")));
    bases
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0u8; 10];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut name = String::new();
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}
