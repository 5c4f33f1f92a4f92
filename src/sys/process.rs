//! Processes, signals and inherited descriptors: what `std` and `rustix` have no safe call for.
#![allow(unsafe_code)]

use rustix::process::{Pid, Signal};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes over a descriptor that the parent process left open for us under this number.
///
/// Refuses a number that isn't open. The caller must take each number once, before anything else opens files.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD touches no memory; a number that isn't open gives EBADF.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, and by the contract above nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor above standard error but these: what a careless caller left open is not ours to keep.
///
/// For the start of a program, before it opens anything.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<libc::c_uint> = keep
        .iter()
        .filter_map(|fd| libc::c_uint::try_from(fd.as_raw_fd()).ok())
        .filter(|number| *number > 2)
        .collect();
    numbers.sort_unstable();
    let mut first: libc::c_uint = 3;
    for number in numbers {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = number + 1;
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: by the contract above nothing in this process owns a descriptor in the range.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn whole_file_lock(kind: libc::c_int) -> libc::flock {
    // SAFETY: all zeros is a valid value: the whole file, and no process.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Locks a file for as long as anybody has this open descriptor, across fork and exec. It must be open for writing:
/// others, who may only read the file, can't do the same. False if somebody else has it.
pub fn hold(file: BorrowedFd<'_>) -> io::Result<bool> {
    set_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK)
}

/// Whether somebody holds a file in that way.
pub fn is_held(file: BorrowedFd<'_>) -> io::Result<bool> {
    let free = set_lock(file, libc::F_OFD_SETLK, libc::F_RDLCK)?;
    if free {
        set_lock(file, libc::F_OFD_SETLK, libc::F_UNLCK)?;
    }
    Ok(!free)
}

/// Waits until nobody holds a file in that way any more.
pub fn wait_until_free(file: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match set_lock(file, libc::F_OFD_SETLKW, libc::F_RDLCK) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return set_lock(file, libc::F_OFD_SETLK, libc::F_UNLCK).map(|_| ()),
        }
    }
}

fn set_lock(file: BorrowedFd<'_>, how: libc::c_int, kind: libc::c_int) -> io::Result<bool> {
    let lock = whole_file_lock(kind);
    // SAFETY: the kernel only reads the record.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), how, &lock) }) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}

/// A signal that was received, and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub signal: i32,
    /// Sent by a process (`kill`, `sigqueue`), not by the terminal or the kernel.
    pub from_process: bool,
}

/// Signals that are blocked in this process and read from a descriptor instead.
pub struct Signals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks these signals in the calling thread (and those it starts later) and opens a descriptor for them.
    pub fn block(signals: &[Signal]) -> io::Result<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset and pthread_sigmask initialise the sets, the others only change or read them.
        unsafe {
            check(libc::sigemptyset(set.as_mut_ptr()))?;
            for signal in signals {
                check(libc::sigaddset(set.as_mut_ptr(), signal.as_raw()))?;
            }
            let code = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code));
            }
            let fd = check(libc::signalfd(
                -1,
                set.as_ptr(),
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            ))?;
            Ok(Signals {
                fd: OwnedFd::from_raw_fd(fd),
                before: before.assume_init(),
            })
        }
    }

    /// Lets this command start as if the signals had never been blocked.
    pub fn not_for(&self, command: &mut Command) {
        let before = self.before;
        let restore = move || {
            // SAFETY: reads a set that was initialised.
            let code =
                unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
            if code == 0 {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(code))
            }
        };
        // SAFETY: between fork and exec it makes one async-signal-safe call and allocates nothing.
        unsafe { command.pre_exec(restore) };
    }

    /// The next pending signal, if there is one. Never waits.
    pub fn next(&self) -> Option<Received> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = std::mem::size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most `size` bytes, and either a whole record or nothing.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(got) != Ok(size) {
            return None;
        }
        // SAFETY: a whole record was written.
        let info = unsafe { info.assume_init() };
        Some(Received {
            signal: info.ssi_signo as i32,
            from_process: info.ssi_code <= 0,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A program made ready to be started again and again without allocating.
pub struct Program {
    path: CString,
    argv: PointerList,
    env: PointerList,
}

/// Strings and the null-terminated list of pointers to them that execve(2) wants.
struct PointerList {
    pointers: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl PointerList {
    fn new(strings: Vec<CString>) -> PointerList {
        // The strings' bytes are on the heap: moving the vector doesn't move them.
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        PointerList {
            pointers,
            _strings: strings,
        }
    }
}

/// What a child process gets from its parent.
pub struct Inherit<'a> {
    /// Descriptors that stay open in the child under their numbers.
    pub keep: &'a [BorrowedFd<'a>],
    /// Written to the child's `oom_score_adj`, if given.
    pub oom_score_adj: Option<&'a [u8]>,
}

impl Program {
    /// `path` is executed with these arguments (the first is the program's name) in our environment of now.
    pub fn new<S: AsRef<OsStr>>(path: &OsStr, argv: &[S]) -> io::Result<Program> {
        let argv = argv
            .iter()
            .map(|arg| CString::new(arg.as_ref().as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut env = Vec::new();
        for (key, value) in std::env::vars_os() {
            let mut pair: OsString = key;
            pair.push("=");
            pair.push(value);
            env.push(CString::new(pair.as_bytes())?);
        }
        Ok(Program {
            path: CString::new(path.as_bytes())?,
            argv: PointerList::new(argv),
            env: PointerList::new(env),
        })
    }

    /// Starts the program in a child process. Only for processes of a single thread.
    ///
    /// Allocates nothing. When the program can't be executed, the child ends with status 126.
    pub fn spawn(&self, inherit: &Inherit<'_>) -> io::Result<Pid> {
        // SAFETY: the process has one thread, so the child's copy of it is complete. The child makes only
        // system calls, on memory that was prepared before, and never returns from here.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            // SAFETY: as above.
            unsafe { self.become_child(inherit) }
        }
        Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Does in the child what must be done before the program runs, and runs it.
    ///
    /// # Safety
    /// Only in a child process that was forked from a process of one thread.
    unsafe fn become_child(&self, inherit: &Inherit<'_>) -> ! {
        // SAFETY: system calls on prepared memory only; failures of the first ones are not fatal.
        unsafe {
            if let Some(score) = inherit.oom_score_adj {
                let file = libc::open(
                    c"/proc/self/oom_score_adj".as_ptr(),
                    libc::O_WRONLY | libc::O_CLOEXEC,
                );
                if file >= 0 {
                    libc::write(file, score.as_ptr().cast(), score.len());
                    libc::close(file);
                }
            }
            for fd in inherit.keep {
                libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0);
            }
            let mut none = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
            libc::execve(
                self.path.as_ptr(),
                self.argv.pointers.as_ptr(),
                self.env.pointers.as_ptr(),
            );
            libc::_exit(126)
        }
    }
}

/// Leaves the parent's mount namespace (and, if `with_user`, its user namespace) for new ones.
///
/// Only for processes of a single thread.
pub fn new_mount_namespace(with_user: bool) -> io::Result<()> {
    let user = if with_user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: touches no memory; neither flag separates the descriptor tables of threads.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS | user) })?;
    Ok(())
}

/// Puts what `with` refers to under this number, whose owner from then on owns that.
pub fn replace(number: RawFd, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: touches no memory; the number stays owned by whoever owns it.
    check(unsafe { libc::dup3(with.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    Ok(())
}
