//! The guard's entry in the registry, rewritten in place from a buffer that was made before.

use super::Launch;
use rustix::process::{Pid, WaitStatus};
use std::ffi::CString;
use std::fmt;
use std::io::{self, Cursor, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Room for what changes.
const CHANGING_MAX_BYTES: usize = 256;

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    None,
    Exit(i32),
    Signal(i32),
}

impl End {
    pub(super) fn is_success(self) -> bool {
        self == End::Exit(0)
    }
}

impl From<WaitStatus> for End {
    fn from(status: WaitStatus) -> End {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exit(code),
            (None, Some(signal)) => End::Signal(signal),
            (None, None) => End::None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::None => Ok(()),
            End::Exit(code) => write!(f, "exit status {code}"),
            End::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What the world is told about this mount.
pub(super) struct Published {
    file: OwnedFd,
    path: CString,
    log: CString,
    /// The unchanging facts as JSON, without the closing brace; then room.
    buffer: Vec<u8>,
    fixed_bytes: usize,
    server_pid: i32,
    is_ready: bool,
    restarts: u64,
    last_end: End,
}

impl Published {
    pub(super) fn open(launch: &Launch, entry: &OwnedFd) -> io::Result<Published> {
        let file = entry.try_clone()?;
        let mut buffer = serde_json::to_vec(&launch.facts)?;
        // The facts are an object: its closing brace is written again after what changes.
        buffer.pop();
        let fixed_bytes = buffer.len();
        buffer.resize(fixed_bytes + CHANGING_MAX_BYTES, b' ');
        let mut published = Published {
            file,
            path: CString::new(launch.entry.as_os_str().as_bytes())?,
            log: CString::new(launch.log_fallback.as_os_str().as_bytes())?,
            buffer,
            fixed_bytes,
            server_pid: 0,
            is_ready: false,
            restarts: 0,
            last_end: End::None,
        };
        published.write();
        Ok(published)
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn server_started(&mut self, pid: Pid) {
        self.server_pid = pid.as_raw_nonzero().get();
        self.is_ready = false;
        self.write();
    }

    pub(super) fn server_ready(&mut self) {
        self.is_ready = true;
        self.write();
    }

    pub(super) fn server_ended(&mut self, end: End) {
        self.server_pid = 0;
        self.is_ready = false;
        self.restarts += 1;
        self.last_end = end;
        self.write();
    }

    /// Best effort: the entry informs, nothing depends on it.
    fn write(&mut self) {
        let changing = &mut self.buffer[self.fixed_bytes..];
        changing.fill(b' ');
        let _ = writeln!(
            Cursor::new(changing),
            ",\"guard_pid\":{},\"server_pid\":{},\"restarts\":{},\"last_end\":\"{}\",\"ready\":{}}}",
            std::process::id(),
            self.server_pid,
            self.restarts,
            self.last_end,
            self.is_ready,
        );
        let _ = rustix::io::pwrite(&self.file, &self.buffer, 0);
    }

    /// At the end. A log without a line goes too.
    pub(super) fn remove(&self) {
        // Gone already is just as well.
        let _ = rustix::fs::unlink(&self.path);
        if rustix::fs::lstat(&self.log).is_ok_and(|log| log.st_size == 0) {
            let _ = rustix::fs::unlink(&self.log);
        }
    }
}
