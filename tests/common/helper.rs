//! A second process for tests that need one: the test binary itself, started again with a task.
//!
//! What it says it writes to its standard error, line by line: standard output is the test runner's.

use super::sys::{Lock, posix_lock, posix_lock_wait};
use super::{files, scratch};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};

const TASK_VARIABLE: &str = "TTLFS_TEST_TASK";
const PATH_VARIABLE: &str = "TTLFS_TEST_PATH";
const SECOND_PATH_VARIABLE: &str = "TTLFS_TEST_SECOND_PATH";
/// The test that does what the helper was started for.
const ENTRY: &str = "helper_process";

/// What the second process does before it waits to be told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Takes a POSIX write lock on the first ten bytes.
    Lock,
    /// Says "waiting", then waits for the same lock.
    LockWait,
    /// Says whether that lock could be had at once.
    TryLock,
    /// Takes that lock, says "waiting", then waits for the same lock on the second file.
    LockThenWait,
    /// Opens the file and keeps it open.
    KeepOpen,
    /// Uses the directory as its working directory.
    WorkThere,
}

const TASKS: [Task; 6] = [
    Task::Lock,
    Task::LockWait,
    Task::TryLock,
    Task::LockThenWait,
    Task::KeepOpen,
    Task::WorkThere,
];

/// The second process; killed when dropped.
pub struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    lines: BufReader<ChildStderr>,
}

impl Helper {
    pub fn start(task: Task, path: &Path) -> Helper {
        Helper::start_on(task, path, path)
    }

    /// For tasks on two files.
    pub fn start_on(task: Task, path: &Path, second: &Path) -> Helper {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([ENTRY, "--exact", "--nocapture", "--test-threads=1"])
            .env(TASK_VARIABLE, format!("{task:?}"))
            .env(PATH_VARIABLE, path)
            .env(SECOND_PATH_VARIABLE, second)
            .env(scratch::SCRATCH_VARIABLE, scratch::directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let input = child.stdin.take();
        Helper {
            child,
            input,
            lines,
        }
    }

    /// The next line it says.
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Tells it to end, and waits until it did.
    pub fn finish(mut self) {
        self.input = None;
        self.child.wait().unwrap();
    }

    /// SIGKILL; waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the test named `helper_process`: nothing, unless started as a helper.
pub fn entry() {
    let (Ok(task), Some(path)) = (
        std::env::var(TASK_VARIABLE),
        std::env::var_os(PATH_VARIABLE),
    ) else {
        return;
    };
    let path = Path::new(&path);
    let task = TASKS
        .into_iter()
        .find(|known| format!("{known:?}") == task)
        .expect("a known task");
    let say = |text: &str| {
        let _ = writeln!(std::io::stderr(), "{text}");
    };
    let file = match task {
        Task::WorkThere => {
            std::env::set_current_dir(path).unwrap();
            None
        }
        _ => Some(files::open_rw(path).unwrap()),
    };
    match (task, &file) {
        (Task::Lock, Some(file)) => posix_lock(file, Lock::Write, 0, 10).unwrap(),
        (Task::LockWait, Some(file)) => {
            say("waiting");
            posix_lock_wait(file, Lock::Write, 0, 10).unwrap();
        }
        (Task::LockThenWait, Some(file)) => {
            posix_lock(file, Lock::Write, 0, 10).unwrap();
            let second = files::open_rw(std::env::var_os(SECOND_PATH_VARIABLE).unwrap()).unwrap();
            say("waiting");
            posix_lock_wait(&second, Lock::Write, 0, 10).unwrap();
        }
        (Task::TryLock, Some(file)) => match posix_lock(file, Lock::Write, 0, 10) {
            Ok(()) => say("free"),
            Err(_) => say("taken"),
        },
        _ => {}
    }
    say("ready");
    // Until the other end is closed.
    let _ = std::io::stdin().lines().count();
}
