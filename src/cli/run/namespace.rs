//! `--private-tmp`: a mount namespace in which the directory is also `/tmp` and `/var/tmp`.

use crate::sys::process::new_mount_namespace;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Moves this process, and with it the command, into the namespace.
pub(super) fn enter(directory: &Path) -> io::Result<()> {
    let uid = rustix::process::geteuid();
    let gid = rustix::process::getegid();
    new_mount_namespace(!uid.is_root()).map_err(|error| {
        let hint = if uid.is_root() {
            ""
        } else {
            " (are user namespaces allowed here?)"
        };
        explain("can't make a mount namespace", &error, hint)
    })?;
    if !uid.is_root() {
        // The same ids inside as outside; a namespace that can't change groups may map one without privileges.
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw()))?;
        std::fs::write("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    }
    // New mounts outside still come in; ours stay inside.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    // By descriptor: the directory may be below what is covered first.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = rustix::fs::open(directory, flags, Mode::empty())?;
    let source = (format!("/proc/self/fd/{}", source.as_raw_fd()), source);
    for target in ["/tmp", "/var/tmp"] {
        if Path::new(target).is_dir() {
            mount_bind(&source.0, target).map_err(|error| {
                explain(&format!("can't mount over {target}"), &error.into(), "")
            })?;
        }
    }
    Ok(())
}

fn explain(what: &str, error: &io::Error, hint: &str) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("--private-tmp: {what}: {error}{hint}"),
    )
}
