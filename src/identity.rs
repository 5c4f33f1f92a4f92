//! Whose a new file is: the file system identity and umask of the serving thread.
//!
//! Creations carry the caller's identity from the first instant, because the thread that creates has it. Capabilities
//! stay: the kernel has already checked the caller's permissions on the mount. The identity is left as it is until
//! another caller comes, so that a row of creations by one user costs no system call.

use std::cell::Cell;

use rustix::fs::Mode;

use crate::sys::fs as sys;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Current {
    ready: bool,
    uid: u32,
    gid: u32,
    umask: u32,
}

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current { ready: false, uid: 0, gid: 0, umask: 0 }) };
}

/// The identity of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Thread id; 0 for the kernel itself.
    pub tid: u32,
}

impl Caller {
    /// Whether `gid` is the caller's group or one of its supplementary groups, which requests do not carry.
    pub fn is_in_group(self, gid: u32) -> bool {
        if self.gid == gid {
            return true;
        }
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.tid)) else {
            return false;
        };
        status
            .lines()
            .find_map(|line| line.strip_prefix("Groups:"))
            .is_some_and(|groups| {
                groups
                    .split_whitespace()
                    .any(|group| group.parse() == Ok(gid))
            })
    }
}

/// Takes on the identity of `caller` for what this thread creates next. `umask` is applied by the backing file system,
/// which alone knows whether a default ACL takes its place.
pub fn assume(caller: Caller, umask: u32, privileged: bool) {
    CURRENT.with(|current| {
        let mut now = current.get();
        if !now.ready {
            // Without a umask of its own, one thread's would be every thread's.
            if let Err(error) = sys::unshare_fs() {
                tracing::error!(%error, "cannot give a thread its own umask");
            }
            if privileged && let Err(error) = sys::keep_caps_over_setfsuid() {
                tracing::error!(%error, "cannot keep capabilities over a change of identity");
            }
            let before = rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
            let _ = before;
            now = Current {
                ready: true,
                uid: 0,
                gid: 0,
                umask,
            };
        }
        if privileged {
            if now.gid != caller.gid {
                sys::set_fsgid(caller.gid);
            }
            if now.uid != caller.uid {
                sys::set_fsuid(caller.uid);
            }
        }
        if now.umask != umask {
            rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
        }
        current.set(Current {
            ready: true,
            uid: caller.uid,
            gid: caller.gid,
            umask,
        });
    });
}
