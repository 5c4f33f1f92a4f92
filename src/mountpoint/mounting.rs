//! mount(2), umount2(2), and `fusermount3` for those who may not call them.

use super::mountinfo::{DeviceNumber, FILESYSTEM_TYPE};
use crate::config::{Access, KernelOptions};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::net::{SocketFlags, SocketType};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is to be mounted, and where.
pub struct MountRequest<'a> {
    /// Shown by the kernel as the mount's source.
    pub source: &'a Path,
    /// Resolved: absolute and without symbolic links.
    pub mountpoint: &'a Path,
    pub options: &'a KernelOptions,
}

/// A fresh mount. Requests wait in the device until somebody serves them.
pub struct Mounted {
    pub device: OwnedFd,
    pub number: DeviceNumber,
    /// Whether the kernel lets other users in.
    pub allow_other: bool,
}

/// How to take a mount away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails with `EBUSY` while anybody is in it.
    Clean,
    /// The name goes at once, the rest with the last user.
    Lazy,
}

/// An absolute path without symbolic links, even if a dead mount is in its last component.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(path)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// Whether the mount at this path has lost its daemon for good.
pub fn is_dead(mountpoint: &Path) -> bool {
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let answer = rustix::fs::statx(CWD, mountpoint, flags, StatxFlags::BASIC_STATS);
    matches!(answer, Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// Mounts, with mount(2) where that is allowed and with `fusermount3` elsewhere.
pub fn mount(request: &MountRequest<'_>) -> io::Result<Mounted> {
    if rustix::process::geteuid().is_root() {
        mount_directly(request)
    } else {
        mount_with_helper(request)
    }
}

fn mount_directly(request: &MountRequest<'_>) -> io::Result<Mounted> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| explain(error.into(), "/dev/fuse"))?;
    // Mounting on a descriptor leaves no time for the path to be redirected.
    let directory = rustix::fs::open(
        request.mountpoint,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let file_type = rustix::fs::fstat(&directory)?.st_mode & 0o170_000;
    let allow_other = request.options.access != Access::Unsaid;
    let mut data = format!(
        "fd={},rootmode={file_type:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if allow_other {
        data.push_str(",allow_other");
    }
    for (name, value) in &request.options.contexts {
        // Quoted as mount(8) does: categories in a context are separated by commas.
        data.push_str(&format!(",{name}=\"{value}\""));
    }
    let target = format!("/proc/self/fd/{}", directory.as_raw_fd());
    rustix::mount::mount(
        request.source,
        target,
        FILESYSTEM_TYPE,
        MountFlags::from_bits_retain(request.options.ms_flags() as u32),
        CString::new(data)?.as_c_str(),
    )?;
    drop(directory);
    Ok(Mounted {
        device,
        number: device_number(request.mountpoint)?,
        allow_other,
    })
}

/// Asks only what the kernel knows by itself: the daemon isn't there yet.
fn device_number(mountpoint: &Path) -> io::Result<DeviceNumber> {
    let stat = rustix::fs::statx(
        CWD,
        mountpoint,
        AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::empty(),
    )?;
    Ok(DeviceNumber {
        major: stat.stx_dev_major,
        minor: stat.stx_dev_minor,
    })
}

fn mount_with_helper(request: &MountRequest<'_>) -> io::Result<Mounted> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let allow_other = request.options.access != Access::Unsaid;
    let mut options = OsString::from("subtype=ttlfs,default_permissions,fsname=");
    options.push(escape_commas(request.source.as_os_str()));
    for word in request.options.flag_names() {
        options.push(",");
        options.push(word);
    }
    if allow_other {
        options.push(",allow_other");
    }
    for (name, value) in &request.options.contexts {
        options.push(format!(",{name}=\"{value}\""));
    }
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(request.mountpoint)
        .current_dir("/")
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| explain(error, "fusermount3 (package fuse3)"))?;
    drop(theirs);
    let received = receive_descriptor(ours.as_fd());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(helper_error(&output.stderr));
    }
    let device = received?.ok_or_else(|| io::Error::other("fusermount3 sent no device"))?;
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Mounted {
        device,
        number: device_number(request.mountpoint)?,
        allow_other,
    })
}

fn escape_commas(text: &OsStr) -> OsString {
    let mut escaped = Vec::new();
    for &byte in text.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

/// The descriptor that comes with the next message, or nothing if the other end closes without one.
fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [io::IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

/// Takes the mount on top at this path away. The caller has its turn, and has looked at what is on top.
pub fn unmount(mountpoint: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Clean => UnmountFlags::NOFOLLOW,
        Unmount::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(mountpoint, flags) {
        Err(Errno::PERM) => unmount_with_helper(mountpoint, how),
        other => Ok(other?),
    }
}

fn unmount_with_helper(mountpoint: &Path, how: Unmount) -> io::Result<()> {
    let output = Command::new("fusermount3")
        .arg("-u")
        .args((how == Unmount::Lazy).then_some("-z"))
        .arg("--")
        .arg(mountpoint)
        .current_dir("/")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| explain(error, "fusermount3 (package fuse3)"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(helper_error(&output.stderr))
    }
}

fn helper_error(stderr: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(stderr);
    let line = text.trim().lines().last().unwrap_or("failed").to_owned();
    if line.contains("busy") {
        return io::Error::from_raw_os_error(libc::EBUSY);
    }
    if line.starts_with("fusermount3") {
        io::Error::other(line)
    } else {
        io::Error::other(format!("fusermount3: {line}"))
    }
}

fn explain(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_the_source_do_not_end_the_option() {
        assert_eq!(escape_commas(OsStr::new("/a,b\\c")), "/a\\,b\\\\c");
    }
}
