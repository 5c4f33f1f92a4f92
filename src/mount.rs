//! The only wiring: from what the guard hands over to a serving session, and to its end.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::backing::Backing;
use crate::clock::{Clock, Time};
use crate::config::{Access, Config, IoMode as WantedMode};
use crate::creators::Creators;
use crate::error::FsError;
use crate::fs::{Fs, Parts, Transport};
use crate::fuse::{Session, Wish};
use crate::handles::{HANDLE_FDS, Handles, IoMode};
use crate::inflight::InFlight;
use crate::inodes::{INODE_FDS, Ino, Inodes};
use crate::notify::Kernel;
use crate::policy::Policy;
use crate::quota::{Amount, Quotas};
use crate::slab::{Record, Slab};
use crate::{erase, private, reaper, scan, shared_record};

/// How many memory files hold the shared tables: the header, inodes, handles, subtrees, requests.
pub const STATE_FDS: usize = 1 + INODE_FDS + HANDLE_FDS + 2;

/// What a server is given by its guard.
#[derive(Debug)]
pub struct ServeArgs {
    /// The FUSE device, already mounted.
    pub device: OwnedFd,
    /// The backing directory.
    pub backing: OwnedFd,
    /// The memory of the shared tables, [`STATE_FDS`] of them.
    pub state: Vec<OwnedFd>,
    /// What was asked for.
    pub config: Config,
    /// Whether another server served this mount before.
    pub takeover: bool,
    /// Gets one byte when the mount serves.
    pub ready: Option<OwnedFd>,
    /// Whether we may take on other users' identities.
    pub privileged: bool,
    /// The mount's device number.
    pub mount_device: Option<u64>,
    /// Where it is mounted.
    pub mountpoint: std::path::PathBuf,
}

shared_record! {
    /// What concerns the whole mount and must outlive its server.
    struct Header {
        /// 0 until it is filled; the version of the tables' layout.
        layout: AtomicU32,
        /// How data travels, as agreed with the kernel at the start: 0 not yet, else the mode plus 1.
        agreed: AtomicU32,
        /// The clock's offset.
        clock_offset_ns: AtomicI64,
    }
}

impl Record for Header {
    fn state(&self) -> &AtomicU32 {
        &self.layout
    }

    fn wipe(&self) {
        self.agreed.store(0, Ordering::Relaxed);
        self.clock_offset_ns.store(0, Ordering::Relaxed);
    }
}

/// The version of the shared tables' layout.
const LAYOUT: u32 = 1;

const MAX_NODES: usize = 64 << 20;
const MAX_HANDLES: usize = 16 << 20;
const MAX_SUBTREES: usize = 4 << 20;

/// Directories of private state that the core makes.
const UNLINKED: &str = "unlinked";

/// The books at a clean unmount.
const BOOKS: &str = "books";

/// Event loops: enough that one which waits for the disk does not stop the others.
const EVENT_LOOPS: usize = 4;

/// Descriptors left for open files when the rest goes to the cache.
const DESCRIPTORS_CACHED_AT_MOST: u64 = 4096;

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Serves a mount until it is unmounted.
pub fn serve(args: ServeArgs) -> io::Result<()> {
    log_panics();
    let backing = Backing::new(args.backing.as_fd())?;
    let private = open_private(&backing)?;
    let unlinked = open_subdirectory(&private, UNLINKED)?;
    let space = backing.statfs()?;
    let policy = Policy::compile(&args.config, space.f_blocks.saturating_mul(space.f_frsize))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;

    if let Some(why) = erasure_cannot_hold(&backing, &policy, args.config.mount().erase_best_effort)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }

    let mut state = args.state;
    if state.len() != STATE_FDS {
        return Err(bad("the guard's tables are of another version"));
    }
    let in_flight = InFlight::new(state.pop().ok_or(bad("no tables"))?)?;
    let quotas = Quotas::new(state.pop().ok_or(bad("no tables"))?, MAX_SUBTREES)?;
    let handles = Handles::new(state.split_off(1 + INODE_FDS), MAX_HANDLES)?;
    let inodes = Inodes::new(state.split_off(1), MAX_NODES)?;
    let header = Slab::<Header>::new(state.pop().ok_or(bad("no tables"))?, 1)?;
    let (header_slot, clock) = open_header(&header, args.takeover)?;
    let agreed = match header.get(header_slot).agreed.load(Ordering::Acquire) {
        1 => Some(IoMode::Passthrough),
        2 => Some(IoMode::Direct),
        3 => Some(IoMode::Cached),
        _ => None,
    };

    let creators = match Creators::open(private.as_fd()) {
        Ok(creators) => creators,
        Err(error) => {
            tracing::warn!(%error, "who made which file will be forgotten at the unmount");
            Creators::in_memory()
        }
    };
    let fs = Arc::new(
        Fs::new(Parts {
            adopted: read_adopted(&private)?,
            backing,
            private: unlinked,
            inodes,
            handles,
            quotas,
            clock,
            creators,
            in_flight,
            policy,
            descriptors: descriptor_budget(),
            privileged: args.privileged,
            acl: args.config.mount().acl,
            transport: Transport {
                mode: agreed.unwrap_or(IoMode::Cached),
            },
        })
        .map_err(os_error)?,
    );
    fs.set_device(args.device.try_clone()?);
    if let Some(device) = args.mount_device {
        fs.set_mount_device(device);
    }
    fs.set_mountpoint(args.mountpoint);
    let fingerprint = fingerprint(&args.config);
    if !args.takeover {
        fs.finish_leftovers().map_err(os_error)?;
        open_books(&fs, &private, fingerprint)?;
    } else {
        fs.take_over().map_err(os_error)?;
        fs.finish_leftovers().map_err(os_error)?;
        scan::recount_after_takeover(&fs).map_err(os_error)?;
    }

    let wish = Wish {
        mode: match args.config.mount().io {
            WantedMode::Auto => None,
            WantedMode::Passthrough => Some(IoMode::Passthrough),
            WantedMode::Direct => Some(IoMode::Direct),
            WantedMode::Cached => Some(IoMode::Cached),
        },
        stacked: is_stacked(&fs.backing),
        agreed,
    };
    let mut options = fuser::Config::default();
    options.acl = match args.config.kernel().access {
        // The kernel knows only `allow_other`: who is neither root nor the owner is refused here.
        Access::Root => fuser::SessionACL::RootAndOwner,
        // The kernel lets nobody else in unless `allow_other` was mounted with.
        Access::Unsaid | Access::Everyone => fuser::SessionACL::All,
    };
    options.n_threads = Some(EVENT_LOOPS);
    let session = begin_session(
        Session::new(fs.clone(), wish),
        args.device,
        args.takeover,
        options,
    )?;
    let agreed = match fs.transport().mode {
        IoMode::Passthrough => 1,
        IoMode::Direct => 2,
        IoMode::Cached => 3,
    };
    header
        .get(header_slot)
        .agreed
        .store(agreed, Ordering::Release);

    let kernel = Arc::new(Kernel::new(
        session.as_fd().try_clone_to_owned()?,
        fs.root_ino(),
    ));
    let workers = [
        spawn("reaper", &fs, {
            let kernel = kernel.clone();
            move |fs| reaper::run(fs, &*kernel)
        })?,
        spawn("creators", &fs, |fs| fs.creators.run(fs.stopping()))?,
        spawn("indexer", &fs, scan::index)?,
    ];
    let eraser = spawn("eraser", &fs, erase::run)?;
    if args.takeover {
        // Everything that the server before had taken and not answered.
        kernel.resend()?;
    }
    if let Some(ready) = args.ready {
        rustix::io::write(&ready, b"R")?;
    }

    let served = session.run();

    // The kernel tells nothing of what it forgets at an unmount: all of it.
    fs.forget_everything();
    fs.stop();
    for worker in workers {
        let _ = worker.join();
    }
    let _ = eraser.join();
    served?;
    close_books(&fs, &private, fingerprint)
}

/// A bug leaves its trace in the log, wherever standard error leads.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(thread = std::thread::current().name(), "{panic}");
    }));
}

/// Begins the session. The kernel says INIT once in the life of a mount: a successor says it to itself, through a
/// socket that the device then takes the place of.
fn begin_session(
    filesystem: Session,
    device: OwnedFd,
    takeover: bool,
    options: fuser::Config,
) -> io::Result<fuser::Session<Session>> {
    let acl = options.acl;
    if !takeover {
        return fuser::Session::from_fd(filesystem, device, acl, options);
    }
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&ours, &init_request())?;
    let session = fuser::Session::from_fd(filesystem, theirs, acl, options)?;
    crate::sys::process::replace(session.as_fd().as_raw_fd(), device.as_fd())?;
    Ok(session)
}

/// A FUSE_INIT request (include/uapi/linux/fuse.h): `fuse_in_header`, then `fuse_init_in`.
fn init_request() -> Vec<u8> {
    const FUSE_INIT: u32 = 26;
    const LEN: u32 = 40 + 64;
    let mut request = Vec::with_capacity(LEN as usize);
    request.extend_from_slice(&LEN.to_ne_bytes());
    request.extend_from_slice(&FUSE_INIT.to_ne_bytes());
    request.extend_from_slice(&1u64.to_ne_bytes());
    request.resize(40, 0);
    for word in [7u32, 41, 1 << 17, u32::MAX, u32::MAX] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    request.resize(LEN as usize, 0);
    request
}

fn spawn(
    name: &str,
    fs: &Arc<Fs>,
    body: impl FnOnce(&Fs) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let fs = fs.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || body(&fs))
}

fn os_error(error: FsError) -> io::Error {
    io::Error::from_raw_os_error(error.errno().raw_os_error())
}

fn open_header(header: &Slab<Header>, takeover: bool) -> io::Result<(crate::slab::Slot, Clock)> {
    let mut found = None;
    header.for_each(|slot, record| {
        found = Some((
            slot,
            record.layout.load(Ordering::Acquire),
            record.clock_offset_ns.load(Ordering::Acquire),
        ));
    });
    match found {
        Some((slot, LAYOUT, offset)) if takeover => Ok((slot, Clock::with_offset(offset))),
        Some(_) => Err(bad(
            "the tables of the server before are of another version",
        )),
        None if takeover => Err(bad("the server before left no tables")),
        None => {
            let slot = header.take()?;
            let clock = Clock::from_wall();
            header
                .get(slot)
                .clock_offset_ns
                .store(clock.offset_ns(), Ordering::Relaxed);
            header.get(slot).layout.store(LAYOUT, Ordering::Release);
            Ok((slot, clock))
        }
    }
}

fn open_private(backing: &Backing) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        backing.root(),
        private::DIRECTORY,
        flags,
        Mode::empty(),
    )?)
}

fn open_subdirectory(private: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(private, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(private, name, flags, Mode::empty())?)
}

/// A small file of private state; `None` if it is not there.
fn read_small(private: &OwnedFd, name: &str) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(private, name, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut text = String::new();
    file.take(64 << 20).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// From when lifetimes count of what was there before ttlfs, if the admin said so.
fn read_adopted(private: &OwnedFd) -> io::Result<Option<Time>> {
    let Some(text) = read_small(private, private::ADOPTED)? else {
        return Ok(None);
    };
    Ok(text.trim().parse().ok().map(Time))
}

/// How many descriptors the cache of locations may hold.
fn descriptor_budget() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(1 << 20);
    usize::try_from((limit / 4).min(DESCRIPTORS_CACHED_AT_MOST)).unwrap_or(1024)
}

/// Whether the backing store is stacked on another file system, which takes one level more of the kernel's stack.
fn is_stacked(backing: &Backing) -> bool {
    const OVERLAYFS: i64 = 0x794c_7630;
    const ECRYPTFS: i64 = 0xf15f;
    const FUSE: i64 = 0x6573_5546;
    rustix::fs::fstatfs(backing.root())
        .is_ok_and(|at| matches!(at.f_type, OVERLAYFS | ECRYPTFS | FUSE))
}

/// Why data cannot be overwritten where it lies, if a rule asks for that. With `best_effort` it is only said in the log.
fn erasure_cannot_hold(backing: &Backing, policy: &Policy, best_effort: bool) -> Option<String> {
    const COPY_ON_WRITE: [(i64, &str); 5] = [
        (0x9123_683e, "btrfs"),
        (0x2fc1_2fc1, "zfs"),
        (0xca45_1a4e, "bcachefs"),
        (0x794c_7630, "overlay"),
        (0xf2f5_2010, "f2fs"),
    ];
    let asked = policy
        .rules()
        .any(|(_, rule)| rule.values.erase == Some(crate::rule::Erase::Overwrite));
    let kind = rustix::fs::fstatfs(backing.root()).ok()?.f_type;
    let (_, name) = COPY_ON_WRITE.iter().find(|(magic, _)| *magic == kind)?;
    if !asked {
        return None;
    }
    let why = format!(
        "erase=overwrite: the backing store is {name}, which writes new data beside the old instead of over it"
    );
    if best_effort {
        tracing::warn!("{why}; what is erased may still be found on the device");
        return None;
    }
    Some(format!(
        "{why}; allowed: another store, or erase_best_effort"
    ))
}

// ---- Books ----

/// What was charged where, at a clean unmount.
#[derive(Debug, Serialize, Deserialize)]
struct Books {
    version: u32,
    /// Of the rules that they were kept under: other rules count other subtrees.
    fingerprint: u64,
    subtrees: Vec<(u64, u64, u64)>,
}

const BOOKS_VERSION: u32 = 1;

fn fingerprint(config: &Config) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for (_, rule) in config.rules() {
        let values = &rule.values;
        let limits = [
            values.quota.as_ref().map(ToString::to_string),
            values.inodes.as_ref().map(ToString::to_string),
            values.user_quota.as_ref().map(ToString::to_string),
            values.user_inodes.as_ref().map(ToString::to_string),
        ];
        // Only where limits are matters, not how large they are.
        (rule.path.as_str(), limits.map(|limit| limit.is_some())).hash(&mut hasher);
    }
    hasher.finish()
}

/// Takes the usage from the books of a clean unmount, or counts it.
fn open_books(fs: &Fs, private: &OwnedFd, fingerprint: u64) -> io::Result<()> {
    let books = read_small(private, BOOKS)?;
    // Whatever happens from here on, they are not true any more.
    match rustix::fs::unlinkat(private, BOOKS, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::ROFS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let books = books.and_then(|text| serde_json::from_str::<Books>(&text).ok());
    if let Some(books) = books
        && books.version == BOOKS_VERSION
        && books.fingerprint == fingerprint
    {
        let known = books
            .subtrees
            .into_iter()
            .map(|(dir, bytes, inodes)| (Ino(dir), Amount { bytes, inodes }))
            .collect();
        return fs.quotas.preload(known);
    }
    scan::recount(fs).map_err(os_error)
}

fn close_books(fs: &Fs, private: &OwnedFd, fingerprint: u64) -> io::Result<()> {
    let books = Books {
        version: BOOKS_VERSION,
        fingerprint,
        subtrees: fs
            .quotas
            .all_known()
            .into_iter()
            .map(|(dir, amount)| (dir.0, amount.bytes, amount.inodes))
            .collect(),
    };
    let new = format!("{BOOKS}.new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(private, &new, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::ROFS) => return Ok(()),
        fd => fd?,
    };
    let mut file = std::fs::File::from(fd);
    io::Write::write_all(&mut file, serde_json::to_string(&books)?.as_bytes())?;
    // What the books say is true only of what is on disk with them.
    rustix::fs::syncfs(&file)?;
    rustix::fs::renameat(private, &new, private, BOOKS)?;
    rustix::fs::fsync(private)?;
    Ok(())
}
