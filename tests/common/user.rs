//! Doing things as somebody else.
//!
//! On Linux, credentials belong to threads: a thread of its own takes the other identity, with a umask and a
//! working directory of its own too, and ends with the closure. Children it starts inherit all of that.

use super::sys;
use rustix::fs::Mode;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Who somebody is, as the kernel sees it.
#[derive(Clone, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
}

pub const ROOT: User = User::new(0, 0);
pub const ALICE: User = User::new(21_001, 21_001);
pub const BOB: User = User::new(21_002, 21_002);
pub const CAROL: User = User::new(21_003, 21_003);

impl User {
    pub const fn new(uid: u32, gid: u32) -> User {
        User {
            uid,
            gid,
            groups: Vec::new(),
            umask: 0o022,
        }
    }

    /// The same user, in these groups too.
    pub fn in_groups(&self, groups: &[u32]) -> User {
        User {
            groups: groups.to_vec(),
            ..self.clone()
        }
    }

    /// The same user with this umask.
    pub fn with_umask(&self, umask: u32) -> User {
        User {
            umask,
            ..self.clone()
        }
    }

    /// The same user with this primary group.
    pub fn with_gid(&self, gid: u32) -> User {
        User {
            gid,
            ..self.clone()
        }
    }

    /// Runs `action` as this user; a panic in it is the caller's.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.become_them();
                action()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Gives the calling thread this identity, for good: only for threads that end soon.
    pub fn become_them(&self) {
        sys::private_fs_context().unwrap();
        umask(Mode::from_raw_mode(self.umask));
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).unwrap();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
    }
}
