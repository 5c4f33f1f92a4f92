//! Finding, awaiting and ending processes that the harness started.

use super::scratch;
use super::wait::comes_true;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Daemons carry the mountpoint in this variable, inherited from the command that mounted.
pub const MOUNT_VARIABLE: &str = "TTLFS_TEST_MOUNT";

/// The program under test.
pub fn ttlfs() -> Command {
    let program =
        std::env::var_os("TTLFS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_ttlfs").into());
    let mut command = Command::new(program);
    command.env(scratch::SCRATCH_VARIABLE, scratch::directory());
    command
}

/// What a command that ended left.
pub struct Finished {
    pub status: ExitStatus,
    pub output: String,
    pub errors: String,
}

/// Runs a command to its end, which must come within `limit`.
#[track_caller]
pub fn run_to_end(command: &mut Command, limit: Duration) -> Finished {
    run(command, limit).unwrap_or_else(|killed| {
        panic!(
            "not done within {limit:?}: {command:?}\n{}{}",
            killed.output, killed.errors
        )
    })
}

/// The same; what had to be killed at the limit is an error. Output goes through files, because a daemon may
/// inherit it and keep a pipe open for good.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished, Finished> {
    let (output, errors) = (scratch::fresh("stdout"), scratch::fresh("stderr"));
    let file = |path: &PathBuf| std::fs::File::create(path).unwrap();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file(&output))
        .stderr(file(&errors))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let ended = comes_true(limit, || child.try_wait().unwrap().is_some());
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let read = |path: &PathBuf| {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let _ = std::fs::remove_file(path);
        text
    };
    let finished = Finished {
        status,
        output: read(&output),
        errors: read(&errors),
    };
    if ended { Ok(finished) } else { Err(finished) }
}

/// Runs a tool that must succeed; gives its output.
#[track_caller]
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let finished = run_to_end(
        Command::new(program).args(arguments),
        Duration::from_secs(60),
    );
    assert!(
        finished.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        finished.status,
        finished.output,
        finished.errors
    );
    finished.output
}

/// Is this program installed?
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Processes with this variable in the environment they were started with.
pub fn with_variable(name: &str, value: &Path) -> Vec<i32> {
    let wanted = format!("{name}={}", value.display()).into_bytes();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != std::process::id() as i32)
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == wanted)
        })
        .collect()
}

/// Is the process there, and not a zombie?
pub fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.starts_with('Z') && !state.starts_with('X')
}

pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or("0 kB");
    let kib: u64 = line
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

/// The guard's and the server's process ids, as the mount's state file tells them.
pub fn daemon_of(mountpoint: &Path) -> Option<Daemon> {
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("ttlfs"));
    let places = std::iter::once(PathBuf::from("/run/ttlfs")).chain(runtime);
    for entry in places
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten()
        .flatten()
    {
        if entry
            .path()
            .extension()
            .is_none_or(|extension| extension != "json")
        {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let Ok(state) = serde_json::from_str::<serde_json::Value>(&text) else {
            continue;
        };
        if state["mountpoint"].as_str().map(Path::new) != Some(mountpoint) {
            continue;
        }
        let pid = |key: &str| state[key].as_i64().and_then(|pid| i32::try_from(pid).ok());
        return Some(Daemon {
            guard: pid("guard_pid"),
            server: pid("server_pid"),
        });
    }
    None
}

/// The processes behind a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    pub guard: Option<i32>,
    pub server: Option<i32>,
}
