//! File system calls that `rustix` does not cover: file handles, the file system identity of a thread, FUSE ioctls.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The largest file handle that is kept inline; the kernel allows 128 bytes, local file systems need at most 20.
pub const MAX_FID_BYTES: usize = 20;

/// A file handle as `name_to_handle_at(2)` gives it: names an inode of one file system without keeping it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fid {
    /// The file system's own type of handle.
    pub kind: i32,
    /// How many of `bytes` count.
    pub len: u8,
    /// The opaque handle, zero-padded.
    pub bytes: [u8; MAX_FID_BYTES],
}

/// `struct file_handle` with room for the largest handle that is kept.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_FID_BYTES],
}

/// The handle of `name` in `dir`, or of `dir` itself if `name` is empty. `Ok(None)`: this file system has none, or none
/// this short. Symlinks are not followed.
pub fn name_to_fid(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Fid>> {
    let mut raw = RawHandle {
        handle_bytes: MAX_FID_BYTES as u32,
        handle_type: 0,
        f_handle: [0; MAX_FID_BYTES],
    };
    let mut mount_id: libc::c_int = 0;
    let flags = if name.is_empty() {
        libc::AT_EMPTY_PATH
    } else {
        0
    };
    // SAFETY: `name` is NUL-terminated, `raw` is a file_handle whose size field says how much room follows, and both
    // out-pointers outlive the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            flags,
        )
    };
    if rc < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EOVERFLOW | libc::ENOSYS) => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(Fid {
        kind: raw.handle_type,
        len: raw.handle_bytes as u8,
        bytes: raw.f_handle,
    }))
}

/// Opens the inode that `fid` names on the file system of `mount`. `ESTALE`: it is gone.
pub fn open_fid(mount: BorrowedFd<'_>, fid: &Fid, flags: i32) -> io::Result<OwnedFd> {
    let mut raw = RawHandle {
        handle_bytes: u32::from(fid.len),
        handle_type: fid.kind,
        f_handle: fid.bytes,
    };
    // SAFETY: `raw` is a valid file_handle of the size it states.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            flags | libc::O_CLOEXEC,
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(rc as i32) })
}

/// Sets the calling thread's file system user id. Other threads keep theirs (the raw system call, not glibc's).
pub fn set_fsuid(uid: u32) {
    // SAFETY: takes a plain number and changes only the calling thread's credentials.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
}

/// Sets the calling thread's file system group id.
pub fn set_fsgid(gid: u32) {
    // SAFETY: takes a plain number and changes only the calling thread's credentials.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
}

/// Lets `set_fsuid` leave the calling thread's capabilities alone, so that an identity switch decides who owns a new
/// file and nothing else.
pub fn keep_caps_over_setfsuid() -> io::Result<()> {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: prctl with plain numbers.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) };
    if bits < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: prctl with plain numbers.
    let rc = unsafe {
        libc::prctl(
            libc::PR_SET_SECUREBITS,
            bits as libc::c_ulong | SECBIT_NO_SETUID_FIXUP,
            0,
            0,
            0,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Gives the calling thread a umask and working directory of its own.
pub fn unshare_fs() -> io::Result<()> {
    // SAFETY: CLONE_FS only separates this thread's umask, root and working directory from the other threads'.
    let rc = unsafe { libc::unshare(libc::CLONE_FS) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets the size of the file behind `fd`, any descriptor of it, as truncate(2) does: unlike ftruncate(2), that leaves
/// the times alone where the size is what it was.
pub fn truncate_by_path(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let path = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let size =
        libc::off_t::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: `path` is NUL-terminated and outlives the call.
    let rc = unsafe { libc::truncate(path.as_ptr(), size) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes a passthrough id for an open file (`FUSE_DEV_IOC_BACKING_OPEN`).
pub fn open_backing(device: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<u32> {
    fuser::BackingId::create_raw(device, fd)
}

/// Gives a passthrough backing id back to the FUSE connection (`FUSE_DEV_IOC_BACKING_CLOSE`).
pub fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    const FUSE_DEV_IOC_BACKING_CLOSE: libc::c_ulong = 0x4004_e502; // _IOW(229, 2, u32)
    // SAFETY: the ioctl reads one u32.
    let rc = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            FUSE_DEV_IOC_BACKING_CLOSE,
            &raw const id,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Answers an OPEN with a backing id that the caller keeps owning.
pub fn reply_opened_passthrough(
    reply: fuser::ReplyOpen,
    handle: fuser::FileHandle,
    flags: fuser::FopenFlags,
    id: u32,
) {
    // SAFETY: the id is open on this session for as long as the inode's open record lives, which the caller holds;
    // `into_raw` gives the ownership back before the wrapper could close it.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(handle, flags, &backing);
    let _ = backing.into_raw();
}

/// Answers a CREATE with a backing id that the caller keeps owning.
pub fn reply_created_passthrough(
    reply: fuser::ReplyCreate,
    ttl: &std::time::Duration,
    attr: &fuser::FileAttr,
    generation: fuser::Generation,
    handle: fuser::FileHandle,
    flags: fuser::FopenFlags,
    id: u32,
) {
    // SAFETY: as in `reply_opened_passthrough`.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.created_passthrough(ttl, attr, generation, handle, flags, &backing);
    let _ = backing.into_raw();
}

/// Passes one of the file attribute ioctls on: `FS_IOC_[GS]ETFLAGS`, `FS_IOC_FS[GS]ETXATTR`, `FS_IOC_GETVERSION`
/// (include/uapi/linux/fs.h). Any other is `ENOTTY`.
pub fn attribute_ioctl(
    fd: BorrowedFd<'_>,
    command: u32,
    input: &[u8],
    out_bytes: usize,
) -> io::Result<Vec<u8>> {
    const GETFLAGS: u32 = 0x8008_6601;
    const SETFLAGS: u32 = 0x4008_6602;
    const GETVERSION: u32 = 0x8008_7601;
    const FSGETXATTR: u32 = 0x801c_581f;
    const FSSETXATTR: u32 = 0x401c_5820;
    if !matches!(
        command,
        GETFLAGS | SETFLAGS | GETVERSION | FSGETXATTR | FSSETXATTR
    ) {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY));
    }
    // Larger than any of the structures, whatever sizes the caller claims.
    let mut buffer = [0u64; 8];
    let bytes = as_bytes(&mut buffer);
    if input.len() > bytes.len() || out_bytes > bytes.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    bytes[..input.len()].copy_from_slice(input);
    // SAFETY: each of the commands reads or writes at most 28 bytes at the pointer, which has 64, aligned.
    let rc = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::c_ulong::from(command),
            buffer.as_mut_ptr(),
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(as_bytes(&mut buffer)[..out_bytes].to_vec())
}

fn as_bytes(words: &mut [u64; 8]) -> &mut [u8] {
    // SAFETY: 8 words are 64 bytes; any bytes are valid words and the other way round.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 64) }
}
