//! The core without a kernel: a file system in memory under it, a kernel in miniature above it, and the books checked
//! from outside.
//!
//! The backing store is a detached tmpfs (root is needed), the shared tables are memfds, the reaper and the eraser run
//! in threads as in a server. The reaper moves only when it is asked to (a reclaim), so that runs can be repeated.

#![allow(dead_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use ttlfs::backing::Backing;
use ttlfs::clock::Clock;
use ttlfs::config::{Config, Privilege};
use ttlfs::creators::Creators;
use ttlfs::fs::{Fs, Parts, Transport};
use ttlfs::handles::{HANDLE_FDS, Handles, IoMode};
use ttlfs::inflight::InFlight;
use ttlfs::inodes::{INODE_FDS, Inodes};
use ttlfs::policy::Policy;
use ttlfs::quota::Quotas;
use ttlfs::reaper::Reaper;
use ttlfs::work::Wake;

pub mod books;
pub mod kernel;
pub mod random;
pub mod vfs;

use kernel::Kernel;
use vfs::Vfs;

/// A backing store in memory, mounted nowhere: gone when the last descriptor is closed.
pub struct Store {
    pub root: OwnedFd,
}

impl Store {
    pub fn new() -> Self {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)
            .expect("a tmpfs; these tests are for root");
        rustix::mount::fsconfig_create(context.as_fd()).expect("a tmpfs");
        let root = rustix::mount::fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .expect("a detached mount");
        rustix::fs::mkdirat(&root, ".ttlfs", Mode::RWXU).expect("private state");
        rustix::fs::mkdirat(&root, ".ttlfs/unlinked", Mode::RWXU).expect("private state");
        Self { root }
    }

    /// A path in the store as this process can use it.
    pub fn path(&self, below: &str) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()));
        path.push(below.trim_start_matches('/'));
        path
    }

    /// What lies in private state.
    pub fn private_names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(".ttlfs/unlinked"))
            .expect("private state can be listed")
            .map(|entry| {
                let entry = entry.expect("private state can be listed");
                entry.file_name().to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

/// The memory of the shared tables, as a guard holds it.
struct Tables(Vec<OwnedFd>);

impl Tables {
    const COUNT: usize = INODE_FDS + HANDLE_FDS + 2;

    fn new() -> Self {
        let memfd =
            || rustix::fs::memfd_create("ttlfs-test", MemfdFlags::CLOEXEC).expect("a memfd");
        Self((0..Self::COUNT).map(|_| memfd()).collect())
    }

    /// Descriptors for a server.
    fn given(&self) -> Vec<OwnedFd> {
        let given = self.0.iter().map(OwnedFd::try_clone);
        given.collect::<Result<_, _>>().expect("a descriptor")
    }
}

/// A mounted core.
pub struct Rig {
    pub store: Arc<Store>,
    pub fs: Arc<Fs>,
    pub kernel: Arc<Kernel>,
    pub vfs: Arc<Vfs>,
    tables: Tables,
    threads: Vec<JoinHandle<()>>,
}

/// How a rig is put together.
#[derive(Clone, Debug)]
pub struct Options {
    /// As after `-o`, one each.
    pub rules: Vec<String>,
    /// How data travels.
    pub mode: IoMode,
    /// Location descriptors that are cached.
    pub descriptors: usize,
}

impl Options {
    pub fn new(rules: &[&str]) -> Self {
        Self {
            rules: rules.iter().map(|&rule| rule.to_owned()).collect(),
            mode: IoMode::Cached,
            descriptors: 64,
        }
    }
}

impl Rig {
    /// Mounts a new store.
    pub fn new(options: &Options) -> Self {
        Self::on(Arc::new(Store::new()), options)
    }

    /// Mounts a store, which may have content: as after a power loss, without books.
    pub fn on(store: Arc<Store>, options: &Options) -> Self {
        let tables = Tables::new();
        let fs = Self::core(&store, &tables, options, Clock::from_wall());
        fs.finish_leftovers().expect("private state can be cleared");
        ttlfs::scan::recount(&fs).expect("a recount");
        let kernel = Arc::new(Kernel::new(fs.clone()));
        let vfs = Arc::new(Vfs::new(fs.clone(), kernel.clone()));
        Self::serve(store, tables, fs, kernel, vfs)
    }

    fn core(store: &Store, tables: &Tables, options: &Options, clock: Clock) -> Arc<Fs> {
        let backing = Backing::new(store.root.as_fd()).expect("the store can be used");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let private = rustix::fs::openat(&store.root, ".ttlfs/unlinked", flags, Mode::empty())
            .expect("private state");
        let given: Vec<&str> = options.rules.iter().map(String::as_str).collect();
        let config = Config::from_options(&given, Privilege::Root).expect("good options");
        let policy = Policy::compile(&config, 1 << 40).expect("good rules");
        let mut memory = tables.given();
        let in_flight = memory.pop().expect("enough memory");
        let quotas = memory.pop().expect("enough memory");
        let handles = memory.split_off(INODE_FDS);
        let fs = Fs::new(Parts {
            backing,
            private,
            inodes: Inodes::new(memory, 1 << 20).expect("a table"),
            handles: Handles::new(handles, 1 << 20).expect("a table"),
            quotas: Quotas::new(quotas, 1 << 20).expect("a table"),
            in_flight: InFlight::new(in_flight).expect("a table"),
            clock,
            creators: Creators::in_memory(),
            policy,
            descriptors: options.descriptors,
            privileged: true,
            acl: false,
            adopted: None,
            transport: Transport { mode: options.mode },
        })
        .expect("a core");
        Arc::new(fs)
    }

    fn serve(
        store: Arc<Store>,
        tables: Tables,
        fs: Arc<Fs>,
        kernel: Arc<Kernel>,
        vfs: Arc<Vfs>,
    ) -> Self {
        let mut rig = Self {
            store,
            fs,
            kernel,
            vfs,
            tables,
            threads: Vec::new(),
        };
        rig.start();
        // As the indexer does, which a server runs beside the requests.
        ttlfs::scan::index(&rig.fs);
        rig
    }

    /// The server is killed between two requests, and another takes its place; the kernel and the programs stay.
    pub fn taken_over(mut self, options: &Options) -> Self {
        self.end();
        let (store, kernel) = (self.store.clone(), self.kernel.clone());
        let tables = std::mem::replace(&mut self.tables, Tables(Vec::new()));
        let clock = Clock::with_offset(self.fs.clock.offset_ns());
        clock.turn(clock.now().until(self.fs.clock.now()));
        let names = self.vfs.names();
        // Its descriptors are closed before the next server comes.
        drop(self);
        let fs = Self::core(&store, &tables, options, clock);
        fs.take_over().expect("a server can be followed");
        fs.finish_leftovers().expect("private state can be cleared");
        ttlfs::scan::recount_after_takeover(&fs).expect("a recount");
        kernel.is_served_by(fs.clone());
        let vfs = Arc::new(Vfs::new(fs.clone(), kernel.clone()));
        vfs.keep_names(names);
        Self::serve(store, tables, fs, kernel, vfs)
    }

    fn start(&mut self) {
        let (fs, kernel) = (self.fs.clone(), self.kernel.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut reaper = Reaper::new(&fs, &*kernel);
            loop {
                match fs.work().wait_reaper(std::time::Duration::from_secs(3600)) {
                    Wake::Stop => return,
                    Wake::Due => {}
                    Wake::Reclaim(ticket) => {
                        reaper.reclaim();
                        kernel.note_reclaim();
                        fs.work().reclaimed(ticket);
                    }
                }
            }
        }));
        let fs = self.fs.clone();
        self.threads
            .push(std::thread::spawn(move || ttlfs::erase::run(&fs)));
    }

    /// Lets the reaper do all it can do now.
    pub fn reap(&self) {
        let before = self.kernel.reclaims();
        while self.kernel.reclaims() == before {
            self.fs.work().reclaim();
        }
    }

    /// Waits until nothing waits for erasure.
    pub fn erased(&self) {
        while self.fs.work().to_erase() > 0 {
            self.fs
                .work()
                .wait_erased(std::time::Duration::from_millis(100));
        }
    }

    /// Ends it as `kill -9` does, but for what the threads are in the middle of: nothing is tidied up.
    pub fn crash(mut self) -> Arc<Store> {
        self.end();
        self.store.clone()
    }

    fn end(&mut self) {
        self.kernel.dies();
        self.fs.stop();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                assert!(ended.is_ok(), "a thread of the core panicked");
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
        // The core is referred to by what it refers to.
        self.kernel.clear();
    }
}
