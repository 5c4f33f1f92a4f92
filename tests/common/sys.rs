//! The few calls that need `unsafe`, each behind a safe function. Nothing else in the tests has any.

#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd as _};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use std::ffi::c_void;

/// Gives the calling thread a umask and a working directory of its own.
pub fn private_fs_context() -> Result<(), Errno> {
    // SAFETY: only CLONE_FS; descriptors and memory stay shared, so no Rust invariant is touched.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
}

/// How a file is mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Shared,
    SharedReadOnly,
    Private,
}

/// A mapped file. Bytes are read and written one at a time and volatile: others change them.
pub struct Mapping {
    start: *mut u8,
    length: usize,
}

// SAFETY: the mapping belongs to nobody's thread, and every access is a volatile one to a byte.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of a file.
    pub fn new(file: impl AsFd, length: usize, sharing: Sharing) -> Result<Mapping, Errno> {
        let flags = if sharing == Sharing::Private {
            MapFlags::PRIVATE
        } else {
            MapFlags::SHARED
        };
        let protection = match sharing {
            Sharing::SharedReadOnly => ProtFlags::READ,
            Sharing::Shared | Sharing::Private => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, flags, file, 0) }?;
        Ok(Mapping {
            start: start.cast(),
            length,
        })
    }

    pub fn get(&self, at: usize) -> u8 {
        assert!(at < self.length);
        // SAFETY: within the mapping, which lives as long as self.
        unsafe { self.start.add(at).read_volatile() }
    }

    pub fn set(&self, at: usize, byte: u8) {
        assert!(at < self.length);
        // SAFETY: within the mapping; callers map writable what they write.
        unsafe { self.start.add(at).write_volatile(byte) }
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            self.set(at + offset, *byte);
        }
    }

    pub fn bytes(&self, at: usize, length: usize) -> Vec<u8> {
        (at..at + length).map(|at| self.get(at)).collect()
    }

    /// `msync(MS_SYNC)`.
    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: the range is this mapping.
        unsafe { rustix::mm::msync(self.start.cast::<c_void>(), self.length, MsyncFlags::SYNC) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and self is its only user.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.length) };
    }
}

/// A kind of record lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    Read,
    Write,
    Unlock,
}

impl Lock {
    fn raw(self) -> libc::c_short {
        let raw = match self {
            Lock::Read => libc::F_RDLCK,
            Lock::Write => libc::F_WRLCK,
            Lock::Unlock => libc::F_UNLCK,
        };
        raw as libc::c_short
    }
}

fn record(kind: Lock, start: i64, length: i64) -> libc::flock {
    // SAFETY: all-zero is a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind.raw();
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = length;
    lock
}

fn fcntl(file: impl AsFd, command: libc::c_int, lock: &mut libc::flock) -> Result<(), Errno> {
    // SAFETY: the descriptor is open and the command takes a flock.
    match unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, lock) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).expect("an errno")),
    }
}

/// `F_SETLK`: a lock of this process.
pub fn posix_lock(file: impl AsFd, kind: Lock, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, libc::F_SETLK, &mut record(kind, start, length))
}

/// `F_SETLKW`: the same, waiting.
pub fn posix_lock_wait(file: impl AsFd, kind: Lock, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, libc::F_SETLKW, &mut record(kind, start, length))
}

/// `F_GETLK`: who is in the way, if anybody: kind, first byte, length, process.
pub fn posix_lock_holder(
    file: impl AsFd,
    kind: Lock,
    start: i64,
    length: i64,
) -> Result<Option<(Lock, i64, i64, i32)>, Errno> {
    let mut lock = record(kind, start, length);
    fcntl(file, libc::F_GETLK, &mut lock)?;
    let found = match libc::c_int::from(lock.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_RDLCK => Lock::Read,
        _ => Lock::Write,
    };
    Ok(Some((found, lock.l_start, lock.l_len, lock.l_pid)))
}

/// `F_OFD_SETLK`: a lock of this open file description.
pub fn ofd_lock(file: impl AsFd, kind: Lock, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, libc::F_OFD_SETLK, &mut record(kind, start, length))
}

/// `F_OFD_SETLKW`: the same, waiting.
pub fn ofd_lock_wait(file: impl AsFd, kind: Lock, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, libc::F_OFD_SETLKW, &mut record(kind, start, length))
}

/// A file handle as `name_to_handle_at` gives it.
#[repr(C)]
pub struct FileHandle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

/// The handle of what a path names.
pub fn name_to_handle(path: &std::path::Path) -> Result<FileHandle, Errno> {
    let name = super::files::c_string(path);
    let mut handle = FileHandle {
        bytes: 128,
        kind: 0,
        data: [0; 128],
    };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the handle has the room it claims, and all pointers live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            0,
        )
    };
    if result == 0 {
        Ok(handle)
    } else {
        Err(last_errno())
    }
}

/// Opens by handle, for reading.
pub fn open_by_handle(mount: impl AsFd, handle: &mut FileHandle) -> Result<std::fs::File, Errno> {
    use rustix::fd::FromRawFd as _;
    // SAFETY: the handle came from the kernel and lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            std::ptr::from_mut(handle),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    // SAFETY: a descriptor that the kernel just made and nobody else owns.
    Ok(unsafe { std::fs::File::from_raw_fd(result as i32) })
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).expect("an errno")
}

/// Memory for `O_DIRECT`: aligned to a page.
pub struct Aligned {
    start: *mut u8,
    layout: std::alloc::Layout,
}

impl Aligned {
    pub fn new(length: usize) -> Aligned {
        let layout = std::alloc::Layout::from_size_align(length, 4096).expect("a sane size");
        // SAFETY: the layout isn't empty: callers ask for pages.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!start.is_null());
        Aligned { start, layout }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: this many bytes were allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.start, self.layout) }
    }
}

/// `truncate(2)`.
pub fn truncate(path: &std::path::Path, length: u64) -> Result<(), Errno> {
    let name = super::files::c_string(path);
    // SAFETY: a NUL-terminated name that lives through the call.
    match unsafe { libc::truncate(name.as_ptr(), length as libc::off_t) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// `close(2)`, whose answer dropping a file doesn't tell.
pub fn close(file: std::fs::File) -> Result<(), Errno> {
    use rustix::fd::IntoRawFd as _;
    // SAFETY: the descriptor was owned, and is given up here.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}
