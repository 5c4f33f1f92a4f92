//! What the tests share.

mod callers;
mod damage;
mod load;
mod model;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ttlfs-creators-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self) -> Creators {
        open(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(dir: &Path) -> Creators {
    let dir = OwnedFd::from(fs::File::open(dir).unwrap());
    Creators::open(dir.as_fd()).unwrap()
}

fn creator(seed: u64) -> Creator {
    let mut comm = [0; 16];
    comm[..8].copy_from_slice(format!("{:08x}", seed as u32).as_bytes());
    Creator {
        uid: seed as u32,
        gid: (seed >> 1) as u32,
        pid: (seed >> 2) as u32,
        comm,
    }
}

impl Creators {
    fn add_simple(&self, ino: u64) {
        self.add(ino, Time(ino as i64), creator(ino));
    }

    fn knows(&self, ino: u64) -> bool {
        match self.get(ino, Time(ino as i64)) {
            Some(found) => {
                assert_eq!(found, creator(ino), "of {ino}");
                true
            }
            None => false,
        }
    }

    fn homes_log2(&self) -> u32 {
        self.with_store(|store| store.table().homes_log2())
    }

    fn with_store<R>(&self, look: impl FnOnce(&mut Store) -> R) -> R {
        look(self.disk.as_ref().unwrap().store.lock().as_mut().unwrap())
    }

    fn resize_whole(&self) {
        while self.is_resizing() {
            self.resize();
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
