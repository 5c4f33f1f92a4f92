//! System calls by path, as the kernel turns them into requests: with its locks, its checks before a request is sent,
//! its cache of names, and its second try after `ESTALE`.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use ttlfs::clock::Time;
use ttlfs::error::FsError;
use ttlfs::fs::{Change, Entry, Found, Fs, New};
use ttlfs::handles::HandleId;
use ttlfs::identity::Caller;
use ttlfs::inodes::{Ino, Kind, NodeFlags};

use super::kernel::{Held, Kernel};

pub type Outcome<T> = Result<T, Errno>;

/// Whose calls these are.
pub const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    tid: 0,
};

/// An inode that a call has reached.
pub struct Node {
    pub held: Held,
    pub kind: Kind,
}

impl Node {
    pub fn ino(&self) -> Ino {
        self.held.ino
    }
}

/// An open file or directory.
#[derive(Debug)]
pub struct File {
    pub handle: HandleId,
    pub ino: Ino,
}

/// What `stat` shows of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub ino: Ino,
    pub kind: Kind,
    pub size: u64,
    pub nlink: u32,
    pub mode: u32,
    pub mtime: i64,
}

/// A name that the kernel may keep.
#[derive(Clone, Copy)]
struct Cached {
    ino: Ino,
    kind: Kind,
    until: Time,
}

/// Names that the kernel keeps beyond its server.
pub struct Names(HashMap<(Ino, Vec<u8>), Cached>, bool);

/// The system calls.
pub struct Vfs {
    fs: Arc<Fs>,
    kernel: Arc<Kernel>,
    locks: Vec<RwLock<()>>,
    renames: Mutex<()>,
    names: Mutex<HashMap<(Ino, Vec<u8>), Cached>>,
    /// Whether names that the kernel may keep are kept.
    pub caches: AtomicBool,
}

fn os(error: FsError) -> Errno {
    error.errno()
}

/// The components of a path.
pub fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

fn split(path: &str) -> Outcome<(Vec<&str>, CString)> {
    let mut parts = parts(path);
    let last = parts.pop().ok_or(Errno::BUSY)?;
    Ok((parts, CString::new(last).expect("no NUL in test names")))
}

impl Vfs {
    pub fn new(fs: Arc<Fs>, kernel: Arc<Kernel>) -> Self {
        Self {
            fs,
            kernel,
            locks: (0..1024).map(|_| RwLock::new(())).collect(),
            renames: Mutex::new(()),
            names: Mutex::default(),
            caches: AtomicBool::new(false),
        }
    }

    // ---- Locks ----

    /// The locks of some inodes, all at once, so that no order among them can deadlock.
    fn lock(&self, inos: &[Ino]) -> Vec<RwLockWriteGuard<'_, ()>> {
        let mut places: Vec<usize> = inos
            .iter()
            .map(|ino| ino.0 as usize % self.locks.len())
            .collect();
        places.sort_unstable();
        places.dedup();
        loop {
            let got: Vec<_> = places
                .iter()
                .map_while(|place| self.locks[*place].try_write())
                .collect();
            if got.len() == places.len() {
                return got;
            }
            drop(got);
            std::thread::yield_now();
        }
    }

    // ---- Names ----

    fn root(&self) -> Node {
        Node {
            held: self
                .kernel
                .hold(self.fs.root_ino())
                .expect("the root is always known"),
            kind: Kind::Directory,
        }
    }

    fn keep(&self, dir: Ino, name: &[u8], entry: &Entry<'_>) {
        if self.caches.load(Ordering::Relaxed) && !entry.valid.is_zero() {
            let until = self.fs.clock.now().after(entry.valid);
            self.names.lock().insert(
                (dir, name.to_vec()),
                Cached {
                    ino: entry.meta.ino,
                    kind: entry.meta.kind(),
                    until,
                },
            );
        }
    }

    fn drop_name(&self, dir: Ino, name: &[u8]) {
        self.names.lock().remove(&(dir, name.to_vec()));
    }

    /// The names that are kept, for the server's successor, and whether any are.
    pub fn names(&self) -> Names {
        let caches = self.caches.load(Ordering::Relaxed);
        Names(self.names.lock().clone(), caches)
    }

    pub fn keep_names(&self, names: Names) {
        *self.names.lock() = names.0;
        self.caches.store(names.1, Ordering::Relaxed);
    }

    /// Lets go of all names that are kept.
    pub fn drop_names(&self) {
        self.names.lock().clear();
    }

    fn take(&self, dir: Ino, name: &[u8], entry: Entry<'_>) -> Node {
        self.keep(dir, name, &entry);
        Node {
            held: self.kernel.given(&self.fs, &entry),
            kind: entry.meta.kind(),
        }
    }

    /// Looks a name up, from the cache if it is there; under the directory's lock.
    fn find(&self, dir: &Node, name: &CString, fresh: bool) -> Outcome<Option<Node>> {
        let key = (dir.ino(), name.to_bytes().to_vec());
        if self.caches.load(Ordering::Relaxed) && !fresh {
            let now = self.fs.clock.now();
            let names = self.names.lock();
            if let Some(cached) = names.get(&key)
                && cached.until > now
                && let Some(held) = self.kernel.hold(cached.ino)
            {
                let kind = cached.kind;
                drop(names);
                return Ok(Some(Node { held, kind }));
            }
        }
        self.drop_name(key.0, &key.1);
        match self.fs.lookup(dir.ino(), name, CALLER) {
            Ok(Found::Entry(entry)) => Ok(Some(self.take(dir.ino(), name.to_bytes(), entry))),
            Ok(Found::Nothing { .. }) => Ok(None),
            Err(error) => Err(os(error)),
        }
    }

    fn walk(&self, parts: &[&str], fresh: bool) -> Outcome<Node> {
        let mut at = self.root();
        for part in parts {
            if at.kind != Kind::Directory {
                return Err(Errno::NOTDIR);
            }
            let name = CString::new(*part).expect("no NUL in test names");
            let _shared = self.locks[at.ino().0 as usize % self.locks.len()].read();
            at = self.find(&at, &name, fresh)?.ok_or(Errno::NOENT)?;
        }
        Ok(at)
    }

    fn directory(&self, parts: &[&str], fresh: bool) -> Outcome<Node> {
        let dir = self.walk(parts, fresh)?;
        if dir.kind == Kind::Directory {
            Ok(dir)
        } else {
            Err(Errno::NOTDIR)
        }
    }

    /// Runs a call; after `ESTALE` once more, without what is cached, as the kernel does.
    fn again<T>(&self, call: impl Fn(bool) -> Outcome<T>) -> Outcome<T> {
        match call(false) {
            Err(Errno::STALE) => call(true),
            done => done,
        }
    }

    fn gone_if_unlinked(&self, ino: Ino) {
        if self
            .fs
            .inodes
            .pin(ino)
            .is_some_and(|node| node.has(NodeFlags::UNLINKED))
        {
            self.kernel.unlinked(ino);
        }
    }

    // ---- Calls ----

    pub fn lookup(&self, path: &str) -> Outcome<Node> {
        self.again(|fresh| self.walk(&parts(path), fresh))
    }

    pub fn stat(&self, path: &str) -> Outcome<Stat> {
        self.again(|fresh| {
            let node = self.walk(&parts(path), fresh)?;
            self.stat_ino(node.ino(), None)
        })
    }

    fn stat_ino(&self, ino: Ino, handle: Option<HandleId>) -> Outcome<Stat> {
        let entry = self.fs.getattr(ino, handle).map_err(os)?;
        Ok(Stat {
            ino,
            kind: entry.meta.kind(),
            size: entry.meta.size,
            nlink: entry.meta.nlink,
            mode: entry.meta.mode & 0o7777,
            mtime: entry.meta.mtime.seconds,
        })
    }

    pub fn fstat(&self, file: &File) -> Outcome<Stat> {
        self.stat_ino(file.ino, Some(file.handle))
    }

    pub fn open(&self, path: &str, flags: i32) -> Outcome<File> {
        self.again(|fresh| {
            let (dir, name) = split(path)?;
            let dir = self.directory(&dir, fresh)?;
            let creates = flags & libc::O_CREAT != 0;
            let _excl;
            let _shared;
            if creates {
                _excl = self.lock(&[dir.ino()]);
            } else {
                _shared = self.locks[dir.ino().0 as usize % self.locks.len()].read();
            }
            match self.find(&dir, &name, fresh)? {
                Some(_) if creates && flags & libc::O_EXCL != 0 => Err(Errno::EXIST),
                Some(node) => {
                    if node.kind == Kind::Directory {
                        return Err(Errno::ISDIR);
                    }
                    if node.kind != Kind::File {
                        return Err(Errno::NXIO);
                    }
                    let flags = flags & !(libc::O_CREAT | libc::O_EXCL);
                    let opened = self
                        .fs
                        .open(node.ino(), flags as u32, CALLER, None)
                        .map_err(os)?;
                    self.kernel.opened(node.ino());
                    Ok(File {
                        handle: opened.handle,
                        ino: node.ino(),
                    })
                }
                None if !creates => Err(Errno::NOENT),
                None => {
                    let (entry, opened) = self
                        .fs
                        .create(dir.ino(), &name, CALLER, 0o644, 0o22, flags as u32, None)
                        .map_err(os)?;
                    let node = self.take(dir.ino(), name.to_bytes(), entry);
                    self.kernel.opened(node.ino());
                    Ok(File {
                        handle: opened.handle,
                        ino: node.ino(),
                    })
                }
            }
        })
    }

    pub fn close(&self, file: File) {
        self.fs.release(file.handle, None);
        self.kernel.closed(file.ino);
    }

    pub fn write(&self, file: &File, offset: u64, data: &[u8]) -> Outcome<usize> {
        self.fs.write(file.handle, offset, data, None).map_err(os)
    }

    pub fn read(&self, file: &File, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let mut buffer = vec![0; len];
        let n = self.fs.read(file.handle, offset, &mut buffer).map_err(os)?;
        buffer.truncate(n);
        Ok(buffer)
    }

    pub fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Outcome<()> {
        self.fs
            .fallocate(file.handle, mode, offset, len, CALLER)
            .map_err(os)
    }

    pub fn copy(&self, from: &File, at: u64, to: &File, to_at: u64, len: u64) -> Outcome<u64> {
        self.fs
            .copy_range(from.handle, at, to.handle, to_at, len)
            .map_err(os)
    }

    pub fn setattr(&self, path: &str, change: Change) -> Outcome<()> {
        self.again(|fresh| {
            let node = self.walk(&parts(path), fresh)?;
            if change.size.is_some() {
                match node.kind {
                    Kind::File => {}
                    Kind::Directory => return Err(Errno::ISDIR),
                    _ => return Err(Errno::INVAL),
                }
            }
            let _lock = self.lock(&[node.ino()]);
            self.fs
                .setattr(node.ino(), None, change, CALLER)
                .map_err(os)?;
            Ok(())
        })
    }

    pub fn fsetattr(&self, file: &File, change: Change) -> Outcome<()> {
        self.fs
            .setattr(file.ino, Some(file.handle), change, CALLER)
            .map_err(os)?;
        Ok(())
    }

    pub fn make(&self, path: &str, what: New<'_>) -> Outcome<Ino> {
        self.again(|fresh| {
            let (dir, name) = split(path)?;
            let dir = self.directory(&dir, fresh)?;
            let _lock = self.lock(&[dir.ino()]);
            if self.find(&dir, &name, fresh)?.is_some() {
                return Err(Errno::EXIST);
            }
            let entry = self
                .fs
                .make(dir.ino(), &name, CALLER, 0o22, what, None)
                .map_err(os)?;
            Ok(self.take(dir.ino(), name.to_bytes(), entry).ino())
        })
    }

    pub fn mkdir(&self, path: &str) -> Outcome<Ino> {
        self.make(path, New::Directory { mode: 0o755 })
    }

    pub fn mkfifo(&self, path: &str) -> Outcome<Ino> {
        self.make(
            path,
            New::Node {
                mode: libc::S_IFIFO | 0o644,
                rdev: 0,
            },
        )
    }

    pub fn symlink(&self, target: &str, path: &str) -> Outcome<Ino> {
        let target = CString::new(target).expect("no NUL in test names");
        self.make(path, New::Symlink { target: &target })
    }

    pub fn link(&self, from: &str, to: &str) -> Outcome<()> {
        self.again(|fresh| {
            let node = self.walk(&parts(from), fresh)?;
            let (dir, name) = split(to)?;
            let dir = self.directory(&dir, fresh)?;
            let _lock = self.lock(&[dir.ino(), node.ino()]);
            if self.find(&dir, &name, fresh)?.is_some() {
                return Err(Errno::EXIST);
            }
            if node.kind == Kind::Directory {
                return Err(Errno::PERM);
            }
            let entry = self
                .fs
                .link(node.ino(), dir.ino(), &name, CALLER, None)
                .map_err(os)?;
            drop(self.take(dir.ino(), name.to_bytes(), entry));
            Ok(())
        })
    }

    fn remove(&self, path: &str, is_dir: bool) -> Outcome<()> {
        self.again(|fresh| {
            let (dir, name) = split(path)?;
            let dir = self.directory(&dir, fresh)?;
            let mut lock = self.lock(&[dir.ino()]);
            let node = loop {
                let node = self.find(&dir, &name, fresh)?.ok_or(Errno::NOENT)?;
                drop(lock);
                lock = self.lock(&[dir.ino(), node.ino()]);
                // Between the locks the name may have gone to another file.
                match self.find(&dir, &name, fresh)? {
                    Some(same) if same.ino() == node.ino() => break node,
                    _ => {}
                }
            };
            match (is_dir, node.kind == Kind::Directory) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                _ => {}
            }
            if is_dir {
                self.fs.rmdir(dir.ino(), &name, None).map_err(os)?;
            } else {
                self.fs.unlink(dir.ino(), &name, None).map_err(os)?;
            }
            self.drop_name(dir.ino(), name.to_bytes());
            self.gone_if_unlinked(node.ino());
            drop(lock);
            Ok(())
        })
    }

    pub fn unlink(&self, path: &str) -> Outcome<()> {
        self.remove(path, false)
    }

    pub fn rmdir(&self, path: &str) -> Outcome<()> {
        self.remove(path, true)
    }

    pub fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Outcome<()> {
        self.again(|fresh| self.rename_once(from, to, flags, fresh))
    }

    fn rename_once(&self, from: &str, to: &str, flags: RenameFlags, fresh: bool) -> Outcome<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let _tree: MutexGuard<'_, ()> = self.renames.lock();
        let (from_dir, from_name) = split(from)?;
        let (to_dir, to_name) = split(to)?;
        let source = self.directory(&from_dir, fresh)?;
        let target = self.directory(&to_dir, fresh)?;
        let mut lock = self.lock(&[source.ino(), target.ino()]);
        let (node, there) = loop {
            let node = self.find(&source, &from_name, fresh)?.ok_or(Errno::NOENT)?;
            let there = self.find(&target, &to_name, fresh)?;
            let mut inos = vec![source.ino(), target.ino(), node.ino()];
            inos.extend(there.as_ref().map(Node::ino));
            drop(lock);
            lock = self.lock(&inos);
            let same = self.find(&source, &from_name, fresh)?.map(|n| n.ino()) == Some(node.ino())
                && self.find(&target, &to_name, fresh)?.map(|n| n.ino())
                    == there.as_ref().map(Node::ino);
            if same {
                break (node, there);
            }
        };
        if there.is_some() && flags.contains(RenameFlags::NOREPLACE) {
            return Err(Errno::EXIST);
        }
        if there.is_none() && exchange {
            return Err(Errno::NOENT);
        }
        let (from_all, to_all) = (parts(from), parts(to));
        if node.kind == Kind::Directory && to_dir.starts_with(&from_all) {
            return Err(Errno::INVAL);
        }
        if let Some(there) = &there {
            if there.kind == Kind::Directory && from_dir.starts_with(&to_all) {
                return Err(if exchange {
                    Errno::INVAL
                } else {
                    Errno::NOTEMPTY
                });
            }
            if there.ino() == node.ino() {
                return Ok(());
            }
            if !exchange {
                match (node.kind == Kind::Directory, there.kind == Kind::Directory) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    _ => {}
                }
            }
        }
        self.fs
            .rename(
                source.ino(),
                &from_name,
                target.ino(),
                &to_name,
                flags,
                CALLER,
                None,
            )
            .map_err(os)?;
        let mut names = self.names.lock();
        names.remove(&(source.ino(), from_name.to_bytes().to_vec()));
        names.remove(&(target.ino(), to_name.to_bytes().to_vec()));
        drop(names);
        if let Some(there) = &there
            && !exchange
        {
            self.gone_if_unlinked(there.ino());
        }
        Ok(())
    }

    pub fn opendir(&self, path: &str) -> Outcome<File> {
        self.again(|fresh| {
            let dir = self.directory(&parts(path), fresh)?;
            let handle = self.fs.opendir(dir.ino(), None).map_err(os)?;
            self.kernel.opened(dir.ino());
            Ok(File {
                handle,
                ino: dir.ino(),
            })
        })
    }

    pub fn readdir(&self, dir: &File, plus: bool) -> Outcome<Vec<(Vec<u8>, Ino, Kind)>> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let mut room = 5;
            let _shared = self.locks[dir.ino.0 as usize % self.locks.len()].read();
            self.fs
                .readdir(dir.ino, dir.handle, from, plus, |entry| {
                    if room == 0 {
                        return false;
                    }
                    room -= 1;
                    from = entry.next;
                    if let Some(inner) = entry.entry {
                        drop(self.take(dir.ino, entry.name.to_bytes(), inner));
                    }
                    if entry.name != c"." && entry.name != c".." {
                        all.push((entry.name.to_bytes().to_vec(), entry.ino, entry.kind));
                    }
                    true
                })
                .map_err(os)?;
            if room > 0 {
                return Ok(all);
            }
        }
    }

    pub fn list(&self, path: &str, plus: bool) -> Outcome<Vec<(Vec<u8>, Ino, Kind)>> {
        let dir = self.opendir(path)?;
        let all = self.readdir(&dir, plus);
        self.close(dir);
        all
    }

    pub fn readlink(&self, path: &str) -> Outcome<Vec<u8>> {
        self.again(|fresh| {
            let node = self.walk(&parts(path), fresh)?;
            self.fs.readlink(node.ino()).map_err(os)
        })
    }

    pub fn statfs(&self, path: &str) -> Outcome<ttlfs::fs::Space> {
        self.again(|fresh| {
            let node = self.walk(&parts(path), fresh)?;
            self.fs.statfs(node.ino()).map_err(os)
        })
    }
}
