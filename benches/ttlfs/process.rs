//! Child processes that never outlive the run: each has a time limit, and a signal ends them all.
//!
//! Cleaning up is left to destructors: once its children are dead, the main thread fails its way out of
//! whatever it did and drops mounts and store. Only a second signal cleans up from the signal's thread.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What went wrong, in words for the report.
pub type Outcome<T> = Result<T, String>;

/// How often overdue children are looked for. Rare, so that looking doesn't disturb what is measured.
const TICK: Duration = Duration::from_millis(500);

static STOP: AtomicBool = AtomicBool::new(false);
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

struct Running {
    group: Pid,
    deadline: Instant,
    overdue: bool,
}

fn running() -> MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True once a signal has asked the run to end.
pub fn interrupted() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Starts the threads that act on signals and on overdue children. `emergency` runs on a second signal.
pub fn watch(emergency: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if STOP.swap(true, Ordering::SeqCst) {
                emergency();
                std::process::exit(128 + signal);
            }
            eprintln!("\nending: a second signal doesn't wait for the mounts");
            for child in running().iter() {
                let _ = kill_process_group(child.group, Signal::KILL);
            }
        }
    });
    thread::spawn(|| {
        loop {
            thread::sleep(TICK);
            let now = Instant::now();
            for child in running().iter_mut().filter(|child| child.deadline <= now) {
                child.overdue = true;
                let _ = kill_process_group(child.group, Signal::KILL);
            }
        }
    });
    Ok(())
}

/// A child in a process group of its own, killed with the group when dropped unfinished.
pub struct Job {
    pub child: Child,
    name: String,
    log: Log,
    limit: Duration,
    reaped: bool,
}

impl Job {
    /// Starts `command`; what it says on stderr goes to `log`, for the message if it fails.
    pub fn start(command: &mut Command, log: &Path, limit: Duration) -> Outcome<Job> {
        let name = command.get_program().to_string_lossy().into_owned();
        let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
        let log = Log::open(log)?;
        command.process_group(0).stderr(log.output()?);
        // Under the lock: a signal finds the child in the list, or this finds the signal.
        let mut running = running();
        if interrupted() {
            return Err("interrupted".to_owned());
        }
        let child = command
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let group = Pid::from_child(&child);
        running.push(Running {
            group,
            deadline: Instant::now() + limit,
            overdue: false,
        });
        Ok(Job {
            child,
            name,
            log,
            limit,
            reaped: false,
        })
    }

    /// Calls it something else than its program in messages.
    pub fn named(mut self, name: String) -> Job {
        self.name = name;
        self
    }

    /// Waits for the child to succeed.
    pub fn wait(mut self) -> Outcome<()> {
        let (status, overdue) = self
            .reap()
            .map_err(|error| format!("waiting for {}: {error}", self.name))?;
        if interrupted() {
            Err("interrupted".to_owned())
        } else if overdue {
            Err(format!("{}: killed after {:?}", self.name, self.limit))
        } else if !status.success() {
            Err(format!("{}: {status}: {}", self.name, self.log.tail()))
        } else {
            Ok(())
        }
    }

    fn reap(&mut self) -> io::Result<(std::process::ExitStatus, bool)> {
        let pid = Pid::from_child(&self.child);
        // Wait without reaping: while its pid is in the list, it must not become another process's.
        loop {
            match waitid(
                WaitId::Pid(pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map(drop)?,
            }
        }
        let mut running = running();
        let overdue = running
            .iter()
            .any(|child| child.group == pid && child.overdue);
        running.retain(|child| child.group != pid);
        drop(running);
        self.reaped = true;
        Ok((self.child.wait()?, overdue))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.reap();
        }
    }
}

/// Runs `command` to its end without input or output, and returns how long it took.
pub fn run(command: &mut Command, log: &Path, limit: Duration) -> Outcome<Duration> {
    if command.get_program().is_empty() {
        return Err("no command".to_owned());
    }
    let start = Instant::now();
    Job::start(command.stdout(Stdio::null()), log, limit)?.wait()?;
    Ok(start.elapsed())
}

/// What children say, in a file: a daemon keeps its descriptors, and nobody would read a pipe to its end.
pub struct Log {
    path: PathBuf,
    file: File,
    /// Where the words of this child begin.
    start: u64,
}

impl Log {
    pub fn open(path: &Path) -> Outcome<Log> {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        let start = file.metadata().map_err(failed)?.len();
        Ok(Log {
            path: path.to_owned(),
            file,
            start,
        })
    }

    pub fn output(&self) -> Outcome<Stdio> {
        self.file
            .try_clone()
            .map(Stdio::from)
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// The last words, on one line.
    pub fn tail(&self) -> String {
        let text = std::fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(self.start as usize..).unwrap_or_default())
            .into_owned();
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        match lines.len() {
            0 => "(it said nothing)".to_owned(),
            count => lines[count.saturating_sub(3)..].join(" | "),
        }
    }
}

/// Where a program is found on PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
