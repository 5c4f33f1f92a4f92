//! The kernel's driver: decodes requests, calls the core, replies. The only room in which `fuser` has a name, but for
//! where a session is begun (`mount`).

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::backing::{Meta, Stamp};
use crate::error::{FsError, FsResult};
use crate::fs::{Change, Entry, Found, Fs, New, Transfer, Transport, When, c_name};
use crate::handles::{HandleId, IoMode};
use crate::identity::Caller;
use crate::inflight::Done;
use crate::inodes::{Ino, Kind};
use crate::sys::fs::{reply_created_passthrough, reply_opened_passthrough};

/// The kernel's own number of a mount's root.
const ROOT_ID: u64 = 1;

/// The largest write in one request, bytes; the kernel's limit on pages per request is the same.
const MAX_WRITE_BYTES: u32 = 1 << 20;

/// Requests that the kernel may have waiting in the background (readahead, asynchronous I/O).
const MAX_BACKGROUND: u16 = 64;

/// What we ask of the kernel; what it lacks we do without.
const WANTED: [InitFlags; 12] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_BIG_WRITES,
    // The backing store applies the umask, since only it knows of default ACLs.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_HAS_IOCTL_DIR,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Saves asking for `security.capability` before each write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// How data is to travel, as the options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// A mode that was asked for; `None` chooses the best.
    pub mode: Option<IoMode>,
    /// Whether the backing store is itself stacked on another file system.
    pub stacked: bool,
    /// What an earlier server of this mount agreed on with the kernel.
    pub agreed: Option<IoMode>,
}

/// The session's file system.
pub struct Session {
    fs: Arc<Fs>,
    wish: Wish,
}

impl Session {
    /// Serves `fs`.
    pub fn new(fs: Arc<Fs>, wish: Wish) -> Self {
        Self { fs, wish }
    }

    fn ino(&self, node: INodeNo) -> Ino {
        if node.0 == ROOT_ID {
            self.fs.root_ino()
        } else {
            Ino(node.0)
        }
    }

    fn node_id(&self, ino: Ino) -> INodeNo {
        INodeNo(if ino == self.fs.root_ino() {
            ROOT_ID
        } else {
            ino.0
        })
    }

    /// Runs a request. One that panics costs itself an EIO, which its reply sends when it is dropped, and not the mount.
    ///
    /// The request is given what a server before had done of it, if it is sent again.
    fn guard(&self, op: &'static str, req: &Request, request: impl FnOnce(Option<Done>)) {
        let done = self.fs.in_flight.begin(req.unique().0);
        if catch_unwind(AssertUnwindSafe(|| request(done))).is_err() {
            tracing::error!(op, "a request met a bug and was answered with an I/O error");
        }
        self.fs.in_flight.end();
    }

    fn attr(&self, meta: &Meta) -> FileAttr {
        FileAttr {
            ino: INodeNo(meta.ino.0),
            size: meta.size,
            blocks: meta.blocks,
            atime: system_time(meta.atime),
            mtime: system_time(meta.mtime),
            ctime: system_time(meta.ctime),
            crtime: SystemTime::UNIX_EPOCH,
            kind: file_type(meta.kind()),
            perm: (meta.mode & 0o7777) as u16,
            nlink: meta.nlink,
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
            blksize: meta.block_bytes,
            flags: 0,
        }
    }

    /// The attributes of an entry, named as the kernel names it.
    fn entry_attr(&self, entry: &Entry<'_>) -> FileAttr {
        let mut attr = self.attr(&entry.meta);
        attr.ino = self.node_id(entry.meta.ino);
        attr
    }

    fn reply_entry(&self, entry: FsResult<Entry<'_>>, done: Option<Done>, reply: ReplyEntry) {
        match entry {
            Ok(entry) => {
                let attr = self.entry_attr(&entry);
                self.fs.give(&entry.node, done);
                reply.entry_with_ttls(
                    &entry.attr_valid,
                    &entry.valid,
                    &attr,
                    Generation(entry.node.generation()),
                );
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn reply_attr(&self, entry: FsResult<Entry<'_>>, reply: ReplyAttr) {
        match entry {
            Ok(entry) => reply.attr(&entry.attr_valid, &self.attr(&entry.meta)),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Makes something and remembers by whom, after the caller has its answer.
    #[allow(clippy::too_many_arguments)]
    fn make(
        &self,
        req: &Request,
        done: Option<Done>,
        parent: INodeNo,
        name: &OsStr,
        umask: u32,
        what: New<'_>,
        reply: ReplyEntry,
    ) {
        let made = c_name(name.as_bytes()).and_then(|name| {
            self.fs
                .make(self.ino(parent), &name, caller(req), umask, what, done)
        });
        let key = made
            .as_ref()
            .ok()
            .map(|entry| (entry.meta.ino, entry.meta.btime));
        self.reply_entry(made, done, reply);
        self.remember(req, key);
    }

    fn remember(&self, req: &Request, key: Option<(Ino, crate::clock::Time)>) {
        if let Some((ino, btime)) = key {
            self.fs
                .creators
                .capture(ino.0, btime, req.uid(), req.gid(), req.pid());
        }
    }
}

fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
        tid: req.pid(),
    }
}

fn errno(error: FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

fn reply_empty(result: FsResult<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

/// Answers a question for a value of at most `size` bytes, or for its length if `size` is 0.
fn reply_xattr(value: FsResult<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

fn system_time(stamp: Stamp) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(stamp.nanoseconds));
    let whole = Duration::from_secs(stamp.seconds.unsigned_abs());
    let at = if stamp.seconds >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    };
    at.and_then(|at| at.checked_add(nanoseconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn when(time: TimeOrNow) -> When {
    match time {
        TimeOrNow::Now => When::Now,
        TimeOrNow::SpecificTime(at) => match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => When::At(after.as_secs() as i64, after.subsec_nanos()),
            // fuser turns (-2 s, 0.8 s) into 2.8 s before the epoch; this is its inverse.
            Err(before) => {
                let before = before.duration();
                When::At(-(before.as_secs() as i64), before.subsec_nanos())
            }
        },
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Fifo => FileType::NamedPipe,
        Kind::CharDevice => FileType::CharDevice,
        Kind::Directory => FileType::Directory,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Socket => FileType::Socket,
    }
}

fn open_flags(transfer: Transfer) -> FopenFlags {
    match transfer {
        Transfer::Passthrough(_) => FopenFlags::empty(),
        Transfer::DirectWithMappings(_) | Transfer::Direct => FopenFlags::FOPEN_DIRECT_IO,
        // Nobody but the kernel's callers changes the data, so what it cached stays good.
        Transfer::Cached => FopenFlags::FOPEN_KEEP_CACHE,
    }
}

fn backing_id(transfer: Transfer) -> Option<u32> {
    match transfer {
        Transfer::Passthrough(id) | Transfer::DirectWithMappings(id) => Some(id),
        Transfer::Direct | Transfer::Cached => None,
    }
}

thread_local! {
    /// What reads are answered from.
    static READ_BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[allow(clippy::too_many_arguments)]
impl fuser::Filesystem for Session {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if let Some(mode) = self.wish.agreed {
            // Agreed with the kernel by a server before; what is said now, nobody hears.
            self.fs.set_transport(Transport { mode });
            return Ok(());
        }
        for wanted in WANTED {
            let missing = config.add_capabilities(wanted).is_err();
            if missing {
                tracing::debug!(?wanted, "this kernel lacks a feature");
            }
        }
        if self.fs.acl {
            config
                .add_capabilities(InitFlags::FUSE_POSIX_ACL)
                .map_err(|_| std::io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        }
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let asked = self.wish.mode;
        let can_pass = matches!(asked, None | Some(IoMode::Passthrough))
            && self.fs.privileged
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config
                .set_max_stack_depth(if self.wish.stacked { 2 } else { 1 })
                .is_ok();
        let mode = match asked {
            None | Some(IoMode::Passthrough) if can_pass => IoMode::Passthrough,
            None => IoMode::Cached,
            Some(IoMode::Passthrough) => {
                tracing::warn!(
                    "no kernel passthrough here (it takes root and Linux 6.9); I/O goes through the daemon"
                );
                IoMode::Cached
            }
            Some(mode) => mode,
        };
        if mode != IoMode::Passthrough && asked.is_none() {
            tracing::info!(
                "no kernel passthrough here (it takes root and Linux 6.9); I/O goes through the daemon"
            );
        }
        self.fs.set_transport(Transport { mode });
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guard("lookup", req, |done| {
            let found = c_name(name.as_bytes())
                .and_then(|name| self.fs.lookup(self.ino(parent), &name, caller(req)));
            match found {
                Ok(Found::Entry(entry)) => self.reply_entry(Ok(entry), done, reply),
                Ok(Found::Nothing { valid }) if valid.is_zero() => reply.error(Errno::ENOENT),
                Ok(Found::Nothing { valid }) => reply.entry(&valid, &nothing(), Generation(0)),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        self.guard("forget", req, |_| self.fs.forget(self.ino(ino), nlookup));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.guard("getattr", req, |_| {
            self.reply_attr(
                self.fs.getattr(self.ino(ino), fh.map(|fh| HandleId(fh.0))),
                reply,
            );
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.guard("setattr", req, |_| {
            let change = Change {
                mode,
                uid,
                gid,
                size,
                atime: atime.map(when),
                mtime: mtime.map(when),
            };
            let changed = self.fs.setattr(
                self.ino(ino),
                fh.map(|fh| HandleId(fh.0)),
                change,
                caller(req),
            );
            self.reply_attr(changed, reply);
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.guard("readlink", req, |_| match self.fs.readlink(self.ino(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.guard("mknod", req, |done| {
            self.make(
                req,
                done,
                parent,
                name,
                umask,
                New::Node { mode, rdev },
                reply,
            )
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.guard("mkdir", req, |done| {
            self.make(
                req,
                done,
                parent,
                name,
                umask,
                New::Directory { mode },
                reply,
            )
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("unlink", req, |done| {
            let done = c_name(name.as_bytes())
                .and_then(|name| self.fs.unlink(self.ino(parent), &name, done));
            reply_empty(done, reply);
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("rmdir", req, |done| {
            let done = c_name(name.as_bytes())
                .and_then(|name| self.fs.rmdir(self.ino(parent), &name, done));
            reply_empty(done, reply);
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.guard("symlink", req, |done| {
            match CString::new(target.as_os_str().as_bytes()) {
                Ok(target) => self.make(
                    req,
                    done,
                    parent,
                    link_name,
                    0,
                    New::Symlink { target: &target },
                    reply,
                ),
                Err(_) => reply.error(Errno::EINVAL),
            }
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.guard("rename", req, |done| {
            let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            let done = c_name(name.as_bytes()).and_then(|name| {
                let newname = c_name(newname.as_bytes())?;
                self.fs.rename(
                    self.ino(parent),
                    &name,
                    self.ino(newparent),
                    &newname,
                    flags,
                    caller(req),
                    done,
                )
            });
            reply_empty(done, reply);
        });
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.guard("link", req, |done| {
            let made = c_name(newname.as_bytes()).and_then(|name| {
                self.fs
                    .link(self.ino(ino), self.ino(newparent), &name, caller(req), done)
            });
            self.reply_entry(made, done, reply);
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.guard("open", req, |done| {
            match self
                .fs
                .open(self.ino(ino), flags.0 as u32, caller(req), done)
            {
                Ok(opened) => {
                    let (handle, how) = (FileHandle(opened.handle.0), open_flags(opened.transfer));
                    match backing_id(opened.transfer) {
                        Some(id) => reply_opened_passthrough(reply, handle, how, id),
                        None => reply.opened(handle, how),
                    }
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.guard("create", req, |done| {
            let made = c_name(name.as_bytes()).and_then(|name| {
                self.fs.create(
                    self.ino(parent),
                    &name,
                    caller(req),
                    mode,
                    umask,
                    flags as u32,
                    done,
                )
            });
            let (entry, opened) = match made {
                Ok(made) => made,
                Err(error) => return reply.error(errno(error)),
            };
            let attr = self.entry_attr(&entry);
            let generation = Generation(entry.node.generation());
            let (handle, how) = (FileHandle(opened.handle.0), open_flags(opened.transfer));
            self.fs.give(&entry.node, done);
            match backing_id(opened.transfer) {
                Some(id) => reply_created_passthrough(
                    reply,
                    &entry.valid,
                    &attr,
                    generation,
                    handle,
                    how,
                    id,
                ),
                None => reply.created(&entry.valid, &attr, generation, handle, how),
            }
            self.remember(req, Some((entry.meta.ino, entry.meta.btime)));
        });
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guard("read", req, |_| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                match self.fs.read(HandleId(fh.0), offset, &mut buffer[..size]) {
                    Ok(n) => reply.data(&buffer[..n]),
                    Err(error) => reply.error(errno(error)),
                }
            });
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.guard("write", req, |_| {
            let ends = write_flags
                .contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)
                .then(|| caller(req));
            match self.fs.write(HandleId(fh.0), offset, data, ends) {
                Ok(n) => reply.written(n as u32),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing is held back, so nothing has to be flushed: the kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.guard("release", req, |done| {
            self.fs.release(HandleId(fh.0), done);
            reply.ok();
        });
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.slow("fsync", move |fs| {
            reply_empty(fs.sync(HandleId(fh.0), datasync), reply)
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.guard("opendir", req, |done| {
            match self.fs.opendir(self.ino(ino), done) {
                Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.guard("readdir", req, |_| {
            let read = self
                .fs
                .readdir(self.ino(ino), HandleId(fh.0), offset, false, |entry| {
                    let name = OsStr::from_bytes(entry.name.to_bytes());
                    !reply.add(
                        INodeNo(entry.ino.0),
                        entry.next,
                        file_type(entry.kind),
                        name,
                    )
                });
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.guard("readdirplus", req, |done| {
            let read = self
                .fs
                .readdir(self.ino(ino), HandleId(fh.0), offset, true, |shown| {
                    let name = OsStr::from_bytes(shown.name.to_bytes());
                    let Some(entry) = shown.entry else {
                        let dots = name == "." || name == "..";
                        // The kernel counts no reference for the dots; anything else without an inode is left out.
                        return !dots
                            || !reply.add(
                                INodeNo(shown.ino.0),
                                shown.next,
                                name,
                                &Duration::ZERO,
                                &self.dots(shown.ino),
                                Generation(0),
                            );
                    };
                    let attr = self.entry_attr(&entry);
                    let full = reply.add(
                        attr.ino,
                        shown.next,
                        name,
                        &entry.valid,
                        &attr,
                        Generation(entry.node.generation()),
                    );
                    if !full {
                        self.fs.give(&entry.node, done);
                    }
                    !full
                });
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn releasedir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.guard("releasedir", req, |done| {
            self.fs.release(HandleId(fh.0), done);
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.slow("fsyncdir", move |fs| {
            reply_empty(fs.sync(HandleId(fh.0), datasync), reply)
        });
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.guard("statfs", req, |_| match self.fs.statfs(self.ino(ino)) {
            Ok(space) => {
                let unit = crate::quota::CHARGE_UNIT as u32;
                reply.statfs(
                    space.blocks,
                    space.free,
                    space.available,
                    space.inodes,
                    space.free_inodes,
                    unit,
                    space.name_max,
                    unit,
                );
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.guard("setxattr", req, |_| {
            let done = c_name(name.as_bytes()).and_then(|name| {
                self.fs
                    .setxattr(self.ino(ino), &name, value, flags as u32, caller(req))
            });
            reply_empty(done, reply);
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.guard("getxattr", req, |_| {
            let value =
                c_name(name.as_bytes()).and_then(|name| self.fs.getxattr(self.ino(ino), &name));
            reply_xattr(value, size, reply);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.guard("listxattr", req, |_| {
            reply_xattr(self.fs.listxattr(self.ino(ino), caller(req)), size, reply)
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("removexattr", req, |_| {
            let done =
                c_name(name.as_bytes()).and_then(|name| self.fs.removexattr(self.ino(ino), &name));
            reply_empty(done, reply);
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.guard("fallocate", req, |_| {
            reply_empty(
                self.fs
                    .fallocate(HandleId(fh.0), mode as u32, offset, length, caller(req)),
                reply,
            );
        });
    }

    fn lseek(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.guard("lseek", req, |_| {
            match self.fs.seek(HandleId(fh.0), offset, whence) {
                Ok(at) => reply.offset(at as i64),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.slow("copy_file_range", move |fs| {
            match fs.copy_range(
                HandleId(fh_in.0),
                offset_in,
                HandleId(fh_out.0),
                offset_out,
                len,
            ) {
                Ok(n) => reply.written(n as u32),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.guard("ioctl", req, |_| {
            match self
                .fs
                .ioctl(HandleId(fh.0), cmd, in_data, out_size as usize)
            {
                Ok(out) => reply.ioctl(0, &out),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: ReplyPoll,
    ) {
        // Plain files are always ready; the kernel knows that by itself.
        reply.error(Errno::ENOSYS);
    }
}

impl Session {
    /// Runs what may take long beside the event loops, so that a slow disk does not hold up the others.
    fn slow(&self, op: &'static str, job: impl FnOnce(&Fs) + Send + 'static) {
        let fs = self.fs.clone();
        let refused = self.fs.pool().run(Box::new(move || {
            if catch_unwind(AssertUnwindSafe(|| job(&fs))).is_err() {
                tracing::error!(op, "a request met a bug and was answered with an I/O error");
            }
        }));
        if let Some(job) = refused {
            job();
        }
    }

    /// What stands for `.` and `..` in a listing with inodes.
    fn dots(&self, ino: Ino) -> FileAttr {
        FileAttr {
            ino: INodeNo(ino.0),
            kind: FileType::Directory,
            ..nothing()
        }
    }
}

/// The inode of a name that is not there: number 0.
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
