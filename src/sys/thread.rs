//! Threads of other processes.

use rustix::io::Errno;

/// Is `tid` a thread of the process `pid` now?
///
/// The null signal is sent to nobody; it costs a tenth of reading `/proc`.
pub fn is_thread_of(pid: u32, tid: u32) -> bool {
    let (Ok(pid), Ok(tid)) = (libc::pid_t::try_from(pid), libc::pid_t::try_from(tid)) else {
        return false;
    };
    // SAFETY: three integers, no memory.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) };
    // Who may not signal it is told so only after both numbers were found to fit.
    sent == 0
        || !matches!(
            std::io::Error::last_os_error()
                .raw_os_error()
                .map(Errno::from_raw_os_error),
            Some(Errno::SRCH | Errno::INVAL | Errno::NOSYS) | None
        )
}
