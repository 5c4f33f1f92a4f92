//! The backing directory: the only system calls on its tree, each through one gate.
//!
//! Everything goes by descriptor or file handle and one path component; nothing here follows a symlink that a user
//! could have put there.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, StatVfs,
    StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::clock::Time;
use crate::inodes::{Ino, Kind};
use crate::sys::fs::{Fid, name_to_fid, open_fid};

/// The result of a call on the backing store.
pub type Result<T> = std::result::Result<T, Errno>;

/// A file time as the backing store has it: any that a program may set, which can be beyond what a [`Time`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds, below one second.
    pub nanoseconds: u32,
}

impl Stamp {
    /// The nearest moment.
    pub fn time(self) -> Time {
        Time::from_parts(self.seconds, self.nanoseconds)
    }
}

/// Attributes of a backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The file system that it is on.
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: Ino,
    /// Type and permission bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file, as the kernel encodes it for FUSE.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// The unit of good I/O, bytes.
    pub block_bytes: u32,
    /// Last access.
    pub atime: Stamp,
    /// Last modification.
    pub mtime: Stamp,
    /// Last change.
    pub ctime: Stamp,
    /// Birth; the change time where the backing store knows none.
    pub btime: Time,
    /// Whether the backing store knows the birth time.
    pub has_btime: bool,
}

impl Meta {
    /// The type.
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }
}

/// Fails the Nth call, for tests. Off: one relaxed load per call.
#[derive(Debug, Default)]
pub struct Gate {
    left: AtomicI64,
    errno: AtomicI64,
}

impl Gate {
    /// Lets `calls` calls pass, then fails one with `errno`.
    pub fn arm(&self, calls: u32, errno: Errno) {
        self.errno
            .store(i64::from(errno.raw_os_error()), Ordering::SeqCst);
        self.left.store(i64::from(calls) + 1, Ordering::SeqCst);
    }

    /// Lets everything pass; tells whether the armed failure was used.
    pub fn disarm(&self) -> bool {
        self.left.swap(0, Ordering::SeqCst) <= 0
    }

    #[inline]
    fn pass(&self) -> Result<()> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.count()
    }

    #[cold]
    fn count(&self) -> Result<()> {
        // Below zero the failure has happened; the counter runs on so that a test can tell.
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.left.fetch_sub(1, Ordering::SeqCst);
            return Err(Errno::from_raw_os_error(
                self.errno.load(Ordering::SeqCst) as i32
            ));
        }
        Ok(())
    }
}

/// The tree under the mount.
#[derive(Debug)]
pub struct Backing {
    root: OwnedFd,
    dev: (u32, u32),
    has_fids: bool,
    /// The fault gate.
    pub gate: Gate,
}

const STATX: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl Backing {
    /// The tree whose root `root` names (an `O_PATH` descriptor will do).
    pub fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let root = rustix::fs::openat(
            root,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut backing = Self {
            root,
            dev: (0, 0),
            has_fids: false,
            gate: Gate::default(),
        };
        let meta = backing.stat(backing.root.as_fd())?;
        backing.dev = meta.dev;
        // A handle is only good if it can be opened again, which takes privileges.
        backing.has_fids = match name_to_fid(backing.root.as_fd(), c"") {
            Ok(Some(fid)) => open_fid(backing.root.as_fd(), &fid, libc::O_PATH).is_ok(),
            _ => false,
        };
        Ok(backing)
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether inodes can be named without a descriptor.
    pub fn has_fids(&self) -> bool {
        self.has_fids
    }

    /// Whether `meta` is of the file system that the tree is on, and not of one mounted within it.
    pub fn is_ours(&self, meta: &Meta) -> bool {
        meta.dev == self.dev
    }

    fn meta(at: rustix::fs::Statx) -> Meta {
        let stamp = |t: rustix::fs::StatxTimestamp| Stamp {
            seconds: t.tv_sec,
            nanoseconds: t.tv_nsec,
        };
        let has_btime = at.stx_mask & StatxFlags::BTIME.bits() != 0;
        Meta {
            dev: (at.stx_dev_major, at.stx_dev_minor),
            ino: Ino(at.stx_ino),
            mode: u32::from(at.stx_mode),
            nlink: at.stx_nlink,
            uid: at.stx_uid,
            gid: at.stx_gid,
            // The kernel's "new" encoding, in which FUSE carries device numbers.
            rdev: (at.stx_rdev_minor & 0xff)
                | at.stx_rdev_major << 8
                | (at.stx_rdev_minor & !0xff) << 12,
            size: at.stx_size,
            blocks: at.stx_blocks,
            block_bytes: at.stx_blksize,
            atime: stamp(at.stx_atime),
            mtime: stamp(at.stx_mtime),
            ctime: stamp(at.stx_ctime),
            btime: stamp(if has_btime {
                at.stx_btime
            } else {
                at.stx_ctime
            })
            .time(),
            has_btime,
        }
    }

    /// Attributes of an open file.
    pub fn stat(&self, fd: BorrowedFd<'_>) -> Result<Meta> {
        self.gate.pass()?;
        rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, STATX).map(Self::meta)
    }

    /// Attributes of `name` in `dir`; symlinks are not followed.
    pub fn stat_at(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Meta> {
        self.gate.pass()?;
        rustix::fs::statx(
            dir,
            name,
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            STATX,
        )
        .map(Self::meta)
    }

    /// The handle of `name` in `dir`, or of `dir` itself for an empty name; `None` where there are none.
    pub fn fid(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Fid>> {
        if !self.has_fids {
            return Ok(None);
        }
        self.gate.pass()?;
        name_to_fid(dir, name).map_err(os)
    }

    /// Opens an inode by its handle.
    pub fn open_fid(&self, fid: &Fid, flags: OFlags) -> Result<OwnedFd> {
        self.gate.pass()?;
        open_fid(self.root.as_fd(), fid, flags.bits() as i32).map_err(os)
    }

    /// Opens `name` in `dir` as a plain location, without following it if it is a symlink.
    pub fn open_path(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
        self.gate.pass()?;
        rustix::fs::openat(
            dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }

    /// Opens the inode behind a location descriptor for I/O.
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        self.gate.pass()?;
        with_proc_path(fd, |path| {
            rustix::fs::open(
                path,
                flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
                Mode::empty(),
            )
        })
    }

    /// Creates and opens a plain file that must not exist.
    pub fn create(&self, dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<OwnedFd> {
        self.gate.pass()?;
        rustix::fs::openat(
            dir,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode & 0o7777),
        )
    }

    /// Makes a directory.
    pub fn mkdir(&self, dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777))
    }

    /// Makes a plain or special file. `rdev` as in [`Meta::rdev`].
    pub fn mknod(&self, dir: BorrowedFd<'_>, name: &CStr, mode: u32, rdev: u32) -> Result<()> {
        self.gate.pass()?;
        let major = rdev >> 8 & 0xfff;
        let minor = rdev & 0xff | rdev >> 12 & 0xf_ff00;
        rustix::fs::mknodat(
            dir,
            name,
            FileType::from_raw_mode(mode),
            Mode::from_raw_mode(mode & 0o7777),
            rustix::fs::makedev(major, minor),
        )
    }

    /// Makes a symlink.
    pub fn symlink(&self, target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::symlinkat(target, dir, name)
    }

    /// Makes another name for an open inode.
    pub fn link(&self, fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.gate.pass()?;
        match rustix::fs::linkat(fd, c"", dir, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH the empty path is refused as if the file were not there.
            Err(Errno::NOENT) => with_proc_path(fd, |path| {
                rustix::fs::linkat(rustix::fs::CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
            }),
            done => done,
        }
    }

    /// Makes another name for `from`; symlinks are not followed.
    pub fn link_at(
        &self,
        from_dir: BorrowedFd<'_>,
        from: &CStr,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::linkat(from_dir, from, dir, name, AtFlags::empty())
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::unlinkat(dir, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
    }

    /// Renames, with the flags of `renameat2(2)`.
    pub fn rename(
        &self,
        from_dir: BorrowedFd<'_>,
        from: &CStr,
        to_dir: BorrowedFd<'_>,
        to: &CStr,
        flags: RenameFlags,
    ) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::renameat_with(from_dir, from, to_dir, to, flags)
    }

    /// The target of a symlink.
    pub fn readlink(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
        self.gate.pass()?;
        Ok(rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes())
    }

    /// Changes permission bits.
    pub fn chmod(&self, fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
        self.gate.pass()?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        with_proc_path(fd, |path| rustix::fs::chmod(path, mode))
    }

    /// Changes owner and group; `None` leaves them.
    pub fn chown(&self, fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::chownat(
            fd,
            c"",
            uid.map(Uid::from_raw),
            gid.map(Gid::from_raw),
            AtFlags::EMPTY_PATH,
        )
    }

    /// Sets access and modification times.
    pub fn utimens(&self, fd: BorrowedFd<'_>, atime: Timespec, mtime: Timespec) -> Result<()> {
        self.gate.pass()?;
        let times = Timestamps {
            last_access: atime,
            last_modification: mtime,
        };
        rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)
    }

    /// Sets the size of a file open for writing.
    pub fn truncate(&self, fd: BorrowedFd<'_>, size: u64) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::ftruncate(fd, size)
    }

    /// As truncate(2) to the size that the file has: its times stay, what is reserved beyond the end goes.
    pub fn truncate_same(&self, fd: BorrowedFd<'_>, size: u64) -> Result<()> {
        self.gate.pass()?;
        crate::sys::fs::truncate_by_path(fd, size).map_err(os)
    }

    /// Reserves, punches or zeroes a range.
    pub fn fallocate(
        &self,
        fd: BorrowedFd<'_>,
        mode: FallocateFlags,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::fallocate(fd, mode, offset, len)
    }

    /// Reads until `buf` is full, the file ends or an error comes.
    pub fn read(&self, fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.gate.pass()?;
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Writes until `buf` is stored or an error comes; less than all is stored only before an error.
    pub fn write(&self, fd: BorrowedFd<'_>, buf: &[u8], offset: u64, sync: Sync) -> Result<usize> {
        self.gate.pass()?;
        let flags = match sync {
            Sync::No => rustix::io::ReadWriteFlags::empty(),
            Sync::Data => rustix::io::ReadWriteFlags::DSYNC,
            Sync::File => rustix::io::ReadWriteFlags::SYNC,
        };
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let wrote = if flags.is_empty() {
                rustix::io::pwrite(fd, &buf[done..], at)
            } else {
                rustix::io::pwritev2(fd, &[std::io::IoSlice::new(&buf[done..])], at, flags)
            };
            match wrote {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Copies a range between two open files.
    pub fn copy_range(
        &self,
        from: BorrowedFd<'_>,
        mut from_offset: u64,
        to: BorrowedFd<'_>,
        mut to_offset: u64,
        len: usize,
    ) -> Result<usize> {
        self.gate.pass()?;
        rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), len)
    }

    /// The next data or hole, as `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`.
    pub fn seek(&self, fd: BorrowedFd<'_>, to: SeekFrom) -> Result<u64> {
        self.gate.pass()?;
        rustix::fs::seek(fd, to)
    }

    /// Puts a file on disk.
    pub fn sync(&self, fd: BorrowedFd<'_>, data_only: bool) -> Result<()> {
        self.gate.pass()?;
        if data_only {
            rustix::fs::fdatasync(fd)
        } else {
            rustix::fs::fsync(fd)
        }
    }

    /// Puts the whole backing file system on disk.
    pub fn sync_all(&self) -> Result<()> {
        self.gate.pass()?;
        rustix::fs::syncfs(&self.root)
    }

    /// Space and inodes of the backing store.
    pub fn statfs(&self) -> Result<StatVfs> {
        self.gate.pass()?;
        rustix::fs::fstatvfs(&self.root)
    }

    /// An extended attribute; `buf` of length 0 asks for its size.
    pub fn get_xattr(&self, fd: BorrowedFd<'_>, name: &CStr, buf: &mut [u8]) -> Result<usize> {
        self.gate.pass()?;
        with_proc_path(fd, |path| {
            if buf.is_empty() {
                rustix::fs::getxattr_query(path, name)
            } else {
                rustix::fs::getxattr(path, name, buf)
            }
        })
    }

    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        fd: BorrowedFd<'_>,
        name: &CStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        self.gate.pass()?;
        with_proc_path(fd, |path| rustix::fs::setxattr(path, name, value, flags))
    }

    /// The names of all extended attributes, each with its NUL.
    pub fn list_xattr(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
        self.gate.pass()?;
        with_proc_path(fd, |path| {
            loop {
                let len = rustix::fs::listxattr_query(path)?;
                let mut names = vec![0; len];
                match rustix::fs::listxattr(path, &mut names[..]) {
                    Ok(n) => {
                        names.truncate(n);
                        return Ok(names);
                    }
                    // It grew in between.
                    Err(Errno::RANGE) => {}
                    Err(errno) => return Err(errno),
                }
            }
        })
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, fd: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.gate.pass()?;
        with_proc_path(fd, |path| rustix::fs::removexattr(path, name))
    }
}

/// What a write puts on disk before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing.
    No,
    /// The data (`O_DSYNC`).
    Data,
    /// Data and attributes (`O_SYNC`).
    File,
}

fn os(error: std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Calls `f` with a path that leads to the inode behind `fd`, whatever it is: for the calls that take no `O_PATH`
/// descriptor.
fn with_proc_path<R>(fd: BorrowedFd<'_>, f: impl FnOnce(&CStr) -> R) -> R {
    use std::io::Write;
    let mut path = [0u8; 32];
    let room = path.len() - 1;
    let written = write!(&mut path[..room], "/proc/self/fd/{}", fd.as_raw_fd());
    debug_assert!(written.is_ok());
    f(CStr::from_bytes_until_nul(&path).expect("the last byte is 0"))
}
