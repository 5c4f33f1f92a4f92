//! How much memory a daemon takes for a great many files: looked up once, then forgotten.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::process::{self, Outcome};
use crate::run::Place;
use crate::store::doing;
use crate::systems::{Mounted, System};

/// Below what a table of one descriptor per file would need.
const DESCRIPTORS: u64 = 20_000;
const FILES_PER_DIR: usize = 1000;
const STATE_DIR: &str = "/run/ttlfs";
const DAEMON: &str = "ttlfs-server";
const SETTLED: Duration = Duration::from_secs(2);
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// What ttlfs needs to take over files that were there before it.
pub const MOUNT_OPTIONS: &str = "adopt=birth";

/// Lowers the limit of open files, for this process and the daemons that it starts.
pub fn limit_descriptors() -> Outcome<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Some(maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS)));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .map_err(|error| format!("limit of open files: {error}"))
}

/// Makes `files` empty files below `root`, on the backing filesystem itself.
pub fn fill(root: &Path, files: usize) -> Outcome<()> {
    for number in 0..files {
        let dir = root.join(format!("dir{:05}", number / FILES_PER_DIR));
        if number % FILES_PER_DIR == 0 {
            if process::interrupted() {
                return Err("interrupted".to_owned());
            }
            fs::create_dir(&dir).map_err(doing("mkdir"))?;
        }
        File::create(dir.join(format!("file{number:07}"))).map_err(doing("create"))?;
    }
    Ok(())
}

/// One reading of a process, in KiB.
#[derive(Clone, Copy, Default, serde::Serialize)]
pub struct Resident {
    pub peak_kib: u64,
    pub now_kib: u64,
    /// The part of `now` that is shared memory.
    pub shared_kib: u64,
}

#[derive(serde::Serialize)]
pub struct Memory {
    pub system: String,
    pub files: usize,
    pub descriptors: u64,
    pub ns_per_file: f64,
    /// Name of the process; before the walk, after it, after everything was forgotten.
    pub processes: Vec<(String, Resident, Resident, Resident)>,
}

/// Walks `files` files below the mount, then makes the kernel forget them.
pub fn measure(
    system: &System,
    mounted: &Mounted,
    files: usize,
    place: &Place<'_>,
) -> Outcome<Memory> {
    let daemons = daemons(mounted)?;
    let read = |daemons: &[(String, u32)]| -> Outcome<Vec<Resident>> {
        daemons
            .iter()
            .map(|(name, pid)| resident(*pid).ok_or_else(|| format!("{name} has gone")))
            .collect()
    };
    let before = read(&daemons)?;
    let ns_per_file = place.workers("walk", mounted.dir(), 0, 1, files)?;
    let walked = read(&daemons)?;
    forget()?;
    let start = Instant::now();
    let mut forgotten = read(&daemons)?;
    // FORGETs come in after the call that caused them: until the figures stop falling.
    let mut still = Instant::now();
    while still.elapsed() < SETTLED && start.elapsed() < SETTLE_LIMIT && !process::interrupted() {
        thread::sleep(Duration::from_millis(100));
        let now = read(&daemons)?;
        let total = |all: &[Resident]| all.iter().map(|one| one.now_kib).sum::<u64>();
        if total(&now) < total(&forgotten) {
            still = Instant::now();
        }
        forgotten = now;
    }
    let readings = before.into_iter().zip(walked).zip(forgotten);
    let processes = daemons.into_iter().zip(readings);
    Ok(Memory {
        system: system.name.clone(),
        files,
        descriptors: DESCRIPTORS,
        ns_per_file,
        processes: processes
            .map(|((name, _), ((before, walked), forgotten))| (name, before, walked, forgotten))
            .collect(),
    })
}

impl Memory {
    pub fn text(&self) -> String {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let mut text = format!(
            "{}: {} files, {:.0} ns each\n",
            self.system, self.files, self.ns_per_file
        );
        let mut peak = 0;
        for (name, before, walked, forgotten) in &self.processes {
            peak += forgotten.peak_kib;
            text.push_str(&format!(
                "  {name:<8} peak {:.1} MiB; resident (of it shared): before {:.1} ({:.1}), walked {:.1} ({:.1}), forgotten {:.1} ({:.1})\n",
                mib(forgotten.peak_kib),
                mib(before.now_kib),
                mib(before.shared_kib),
                mib(walked.now_kib),
                mib(walked.shared_kib),
                mib(forgotten.now_kib),
                mib(forgotten.shared_kib),
            ));
        }
        text.push_str(&format!("  sum of peaks {:.1} MiB (VmHWM)\n", mib(peak)));
        text
    }
}

/// Drops names and inodes from the kernel's caches.
fn forget() -> Outcome<()> {
    fs::write("/proc/sys/vm/drop_caches", "2").map_err(doing("drop_caches"))
}

fn resident(pid: u32) -> Option<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line?.split_whitespace().next()?.parse().ok()
    };
    Some(Resident {
        peak_kib: field("VmHWM")?,
        now_kib: field("VmRSS")?,
        shared_kib: field("RssShmem")?,
    })
}

/// The processes that serve a mount: a peer's own, or what ttlfs says about itself.
fn daemons(mounted: &Mounted) -> Outcome<Vec<(String, u32)>> {
    if let Some(pid) = mounted.daemon_pid() {
        return Ok(vec![("daemon".to_owned(), pid)]);
    }
    let found = described(mounted.dir()).unwrap_or_else(|| searched(mounted.dir()));
    if found.is_empty() {
        return Err(format!(
            "no process found that serves {}",
            mounted.dir().display()
        ));
    }
    Ok(found)
}

fn described(mountpoint: &Path) -> Option<Vec<(String, u32)>> {
    fs::read_dir(STATE_DIR).ok()?.flatten().find_map(|entry| {
        let text = fs::read(entry.path()).ok()?;
        let state: Value = serde_json::from_slice(&text).ok()?;
        if Path::new(state.get("mountpoint")?.as_str()?) != mountpoint {
            return None;
        }
        let pid = |key: &str| u32::try_from(state.get(key)?.as_u64()?).ok();
        let mut found = vec![("server".to_owned(), pid("server_pid")?)];
        found.extend(pid("guard_pid").map(|pid| ("guard".to_owned(), pid)));
        Some(found)
    })
}

fn searched(mountpoint: &Path) -> Vec<(String, u32)> {
    let wanted = mountpoint.as_os_str().as_encoded_bytes();
    let names = |process: &PathBuf| -> Option<(String, u32)> {
        let pid = process.file_name()?.to_str()?.parse().ok()?;
        let comm = fs::read_to_string(process.join("comm")).ok()?;
        let line = fs::read(process.join("cmdline")).ok()?;
        let ours = comm.trim() == DAEMON
            && line
                .split(|&byte| byte == 0)
                .any(|argument| argument == wanted);
        ours.then(|| ("server".to_owned(), pid))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| names(&entry.path())).collect()
}
