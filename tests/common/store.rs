//! Backing stores: filesystems made for the tests.

use super::process::{installed, run_to_end};
use super::wait::comes_true;
use super::{files, scratch};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreKind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
}

impl StoreKind {
    pub const ALL: [StoreKind; 4] = [
        StoreKind::Tmpfs,
        StoreKind::Ext4,
        StoreKind::Xfs,
        StoreKind::Btrfs,
    ];

    /// What `TTLFS_TEST_STORE` asks for; if nothing, XFS, or what can be made instead where its tools are missing.
    pub fn default_kind() -> StoreKind {
        match std::env::var("TTLFS_TEST_STORE").as_deref() {
            Err(_) => [StoreKind::Xfs, StoreKind::Ext4]
                .into_iter()
                .find(|kind| kind.is_available())
                .unwrap_or(StoreKind::Tmpfs),
            Ok("xfs") => StoreKind::Xfs,
            Ok("tmpfs") => StoreKind::Tmpfs,
            Ok("ext4") => StoreKind::Ext4,
            Ok("btrfs") => StoreKind::Btrfs,
            Ok(other) => panic!("TTLFS_TEST_STORE={other}: tmpfs, ext4, xfs and btrfs are known"),
        }
    }

    fn make(self) -> &'static [&'static str] {
        match self {
            StoreKind::Tmpfs => &[],
            StoreKind::Ext4 => &[
                "mkfs.ext4",
                "-q",
                "-F",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1",
            ],
            StoreKind::Xfs => &["mkfs.xfs", "-q", "-f"],
            StoreKind::Btrfs => &["mkfs.btrfs", "-q", "-f"],
        }
    }

    /// Are the tools there that make such a store?
    pub fn is_available(self) -> bool {
        self.make().first().is_none_or(|program| installed(program))
    }

    pub fn name(self) -> &'static str {
        match self {
            StoreKind::Tmpfs => "tmpfs",
            StoreKind::Ext4 => "ext4",
            StoreKind::Xfs => "xfs",
            StoreKind::Btrfs => "btrfs",
        }
    }

    /// The store of this kind that the tests of this process share; the janitor removes it.
    pub fn shared(self) -> &'static Store {
        static SHARED: [OnceLock<Store>; 4] = [const { OnceLock::new() }; 4];
        SHARED[self as usize].get_or_init(|| Store::new(self))
    }
}

/// Do tests run on this kind of store, unless they ask for another one?
pub fn is_default(kind: StoreKind) -> bool {
    StoreKind::default_kind() == kind
}

/// A mounted filesystem, unmounted and removed on drop. The loop device goes with the mount.
pub struct Store {
    pub kind: StoreKind,
    path: PathBuf,
    image: Option<PathBuf>,
    next: AtomicU32,
}

impl Store {
    /// Large enough for whatever a test wants; its image is sparse.
    pub fn new(kind: StoreKind) -> Store {
        Store::of_mebibytes(kind, 3072)
    }

    /// A store of about this size; XFS wants 300 MiB at least.
    pub fn of_mebibytes(kind: StoreKind, mebibytes: u64) -> Store {
        let path = scratch::fresh(kind.name());
        std::fs::create_dir(&path).unwrap();
        let mut store = Store {
            kind,
            path,
            image: None,
            next: AtomicU32::new(0),
        };
        if kind == StoreKind::Tmpfs {
            mount(
                &[
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={mebibytes}m,mode=755"),
                    "tmpfs",
                ],
                &store.path,
            );
            return store;
        }
        let image = scratch::fresh("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        let make = kind.make();
        assert!(
            installed(make[0]),
            "{} is needed: see .ci/run for the packages",
            make[0]
        );
        let made = run_to_end(
            Command::new(make[0]).args(&make[1..]).arg(&image),
            Duration::from_secs(120),
        );
        assert!(
            made.status.success(),
            "{}: {}{}",
            make[0],
            made.output,
            made.errors
        );
        mount(
            &[
                "-t",
                kind.name(),
                "-o",
                "loop",
                &image.display().to_string(),
            ],
            &store.path,
        );
        store.image = Some(image);
        store
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file behind the loop device.
    pub fn image(&self) -> &Path {
        self.image.as_deref().expect("a store on a loop device")
    }

    /// A new, empty directory in a closed one, as the documentation advises.
    pub fn backing(&self) -> PathBuf {
        let closed = self.path.join(format!(
            "case.{}",
            self.next.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir(&closed).unwrap();
        files::chmod(&closed, if super::is_native() { 0o755 } else { 0o700 }).unwrap();
        let backing = closed.join("backing");
        std::fs::create_dir(&backing).unwrap();
        files::chmod(&backing, 0o755).unwrap();
        backing
    }
}

fn mount(arguments: &[&str], at: &Path) {
    let done = run_to_end(
        Command::new("mount").args(arguments).arg(at),
        Duration::from_secs(60),
    );
    assert!(
        done.status.success(),
        "mount {arguments:?}: {}{}",
        done.output,
        done.errors
    );
}

impl Drop for Store {
    fn drop(&mut self) {
        let unmount = |lazy: &[&str]| {
            Command::new("umount")
                .args(lazy)
                .arg("-q")
                .arg(&self.path)
                .status()
        };
        // A server that is just ending may hold it for a moment.
        let gone = comes_true(Duration::from_secs(5), || {
            unmount(&[]).is_ok_and(|status| status.success())
        });
        if !gone {
            eprintln!("{} is still in use: unmounted lazily", self.path.display());
            let _ = unmount(&["-l"]);
        }
        let _ = std::fs::remove_dir(&self.path);
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
        assert!(
            gone || std::thread::panicking(),
            "something still uses the backing store"
        );
    }
}
