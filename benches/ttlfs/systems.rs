//! What is compared: the backing directory itself, ttlfs, and its peers, each as its users would start it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{self, Log, Outcome};
use crate::store::{self, Unmount, doing};

/// Another build than the one just made.
const TTLFS_VARIABLE: &str = "TTLFS_BENCH_TTLFS";
const PASSTHROUGH_HP_VARIABLE: &str = "TTLFS_BENCH_PASSTHROUGH_HP";
/// A limit that no workload reaches: counting is measured, not refusing.
const QUOTA: &str = "quota=1T";
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
const UNMOUNT_LIMIT: Duration = Duration::from_secs(120);
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

pub const DEFAULT: &[&str] = &[
    "native",
    "ttlfs",
    "ttlfs+quota",
    "bindfs",
    "gocryptfs",
    "passthrough_hp",
];

fn ttlfs() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_ttlfs").into();
    std::env::var_os(TTLFS_VARIABLE).map_or_else(built, PathBuf::from)
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Native,
    Ttlfs { options: String },
    Bindfs,
    Gocryptfs,
    PassthroughHp,
}

#[derive(Clone, PartialEq, Eq)]
pub struct System {
    pub name: String,
    kind: Kind,
}

impl System {
    /// A name of `DEFAULT`, `quota` for short, or `ttlfs:OPT+OPT...` for ttlfs with any mount options.
    pub fn parse(text: &str) -> Outcome<System> {
        let ttlfs = |options: &str| Kind::Ttlfs {
            options: options.to_owned(),
        };
        let (name, kind) = match text {
            "native" => (text, Kind::Native),
            "ttlfs" => (text, ttlfs("")),
            "quota" | "ttlfs+quota" => ("ttlfs+quota", ttlfs(QUOTA)),
            "bindfs" => (text, Kind::Bindfs),
            "gocryptfs" => (text, Kind::Gocryptfs),
            "passthrough_hp" => (text, Kind::PassthroughHp),
            _ => match text.strip_prefix("ttlfs:") {
                Some(options) => (text, ttlfs(&options.replace('+', ","))),
                None => {
                    let known = DEFAULT.join(", ");
                    return Err(format!("no system {text:?}; known: {known}, ttlfs:OPT+OPT"));
                }
            },
        };
        Ok(System {
            name: name.to_owned(),
            kind,
        })
    }

    /// Its name, made fit for a directory.
    pub fn slot(&self) -> String {
        let fit = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        self.name.chars().map(fit).collect()
    }

    pub fn is_native(&self) -> bool {
        self.kind == Kind::Native
    }

    pub fn is_ttlfs(&self) -> bool {
        matches!(self.kind, Kind::Ttlfs { .. })
    }

    fn program(&self) -> Option<PathBuf> {
        match self.kind {
            Kind::Native => None,
            Kind::Ttlfs { .. } => Some(ttlfs()),
            Kind::PassthroughHp => std::env::var_os(PASSTHROUGH_HP_VARIABLE)
                .map(PathBuf::from)
                .or_else(|| process::find_program(&self.name)),
            Kind::Bindfs | Kind::Gocryptfs => process::find_program(&self.name),
        }
    }

    /// Whether it can be tried at all on this machine.
    pub fn is_installed(&self) -> bool {
        self.is_native() || self.program().is_some_and(|program| program.is_file())
    }

    /// What it says about its version.
    pub fn version(&self) -> Option<String> {
        let argument = match self.kind {
            Kind::Gocryptfs => "-version",
            _ => "--version",
        };
        let output = Command::new(self.program()?)
            .arg(argument)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(|line| line.trim().to_owned())
    }

    /// Makes `backing`, an empty directory, ready to be mounted.
    pub fn prepare(&self, backing: &Path, log: &Path) -> Outcome<()> {
        let (Kind::Gocryptfs, Some(program)) = (&self.kind, self.program()) else {
            return Ok(());
        };
        let mut command = Command::new(program);
        command
            .args([
                "-init",
                "-q",
                "-scryptn",
                "10",
                "-extpass",
                "echo bench",
                "--",
            ])
            .arg(backing);
        process::run(&mut command, log, MOUNT_LIMIT).map(drop)
    }

    /// Mounts `backing` on `mountpoint`. `more` are further options for ttlfs, comma-separated.
    pub fn mount(
        &self,
        backing: &Path,
        mountpoint: &Path,
        more: &str,
        log: &Path,
    ) -> Outcome<Mounted> {
        let Some(program) = self.program() else {
            return if self.is_native() {
                Ok(Mounted {
                    dir: backing.to_owned(),
                    kind: Kind::Native,
                    daemon: None,
                    log: Log::open(log)?,
                })
            } else {
                Err("not installed".to_owned())
            };
        };
        fs::create_dir_all(mountpoint).map_err(doing(format_args!("{}", mountpoint.display())))?;
        let mut command = Command::new(program);
        let mut mounted = Mounted {
            dir: mountpoint.to_owned(),
            kind: self.kind.clone(),
            daemon: None,
            log: Log::open(log)?,
        };
        match &self.kind {
            Kind::Native => {}
            Kind::Ttlfs { options } => {
                command.arg("mount");
                let options: Vec<&str> = [options.as_str(), more]
                    .into_iter()
                    .filter(|options| !options.is_empty())
                    .collect();
                if !options.is_empty() {
                    command.arg("-o").arg(options.join(","));
                }
                // Not a pipe: the daemon may keep its descriptors.
                process::run(command.arg(backing).arg(mountpoint), log, MOUNT_LIMIT)?;
                if store::mounted_kind(mountpoint).is_none() {
                    return Err("`ttlfs mount` succeeded, and nothing is mounted".to_owned());
                }
                return Ok(mounted);
            }
            Kind::Bindfs => {
                command.arg("-f").arg(backing).arg(mountpoint);
            }
            Kind::Gocryptfs => {
                command
                    .args(["-fg", "-q", "-nosyslog", "-extpass", "echo bench", "--"])
                    .arg(backing)
                    .arg(mountpoint);
            }
            Kind::PassthroughHp => {
                command.arg("--foreground").arg(backing).arg(mountpoint);
            }
        }
        mounted.daemon = Some(start_daemon(&mut command, &mounted.log)?);
        mounted.wait_until_mounted()?;
        Ok(mounted)
    }
}

/// In a process group of its own: ^C ends the daemon only after its mount has gone.
fn start_daemon(command: &mut Command, log: &Log) -> Outcome<Child> {
    use std::os::unix::process::CommandExt;
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.output()?)
        .stderr(log.output()?)
        .spawn()
        .map_err(doing(name))
}

/// A system in place; unmounted, and its daemon gone, when dropped.
pub struct Mounted {
    dir: PathBuf,
    kind: Kind,
    daemon: Option<Child>,
    log: Log,
}

impl Mounted {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process of a peer's daemon.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    fn wait_until_mounted(&mut self) -> Outcome<()> {
        let start = Instant::now();
        while store::mounted_kind(&self.dir).is_none() {
            let ended = self
                .daemon
                .as_mut()
                .and_then(|daemon| daemon.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(format!("ended with {status}: {}", self.log.tail()));
            }
            if process::interrupted() || start.elapsed() > MOUNT_LIMIT {
                return Err(format!("not mounted after {:?}", start.elapsed()));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn unmount(&mut self) -> Outcome<()> {
        if store::mounted_kind(&self.dir).is_none() {
            return Ok(());
        }
        if let Kind::Ttlfs { .. } = self.kind {
            // Not a `Job`: those are refused once a signal has come, and this is how it is answered.
            let mut child = Command::new(ttlfs())
                .arg("umount")
                .arg(&self.dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(self.log.output()?)
                .spawn()
                .map_err(doing("ttlfs umount"))?;
            if !end(&mut child, UNMOUNT_LIMIT) {
                return Err(format!("`ttlfs umount` took more than {UNMOUNT_LIMIT:?}"));
            }
        } else {
            // Peers look at their own mount at the start, and the kernel lets go a little later.
            let start = Instant::now();
            while let Err(reason) = store::unmount(&self.dir, Unmount::Cleanly) {
                if start.elapsed() > BUSY_LIMIT {
                    return Err(reason);
                }
                thread::sleep(POLL);
            }
        }
        match store::mounted_kind(&self.dir) {
            None => Ok(()),
            Some(_) => Err(format!("still mounted: {}", self.log.tail())),
        }
    }
}

/// Waits for `child`, and kills it when it takes longer than `limit`. True if it ended by itself.
fn end(child: &mut Child, limit: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return true;
        }
        thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.kind == Kind::Native {
            return;
        }
        if let Err(reason) = self.unmount() {
            eprintln!(
                "ttlfs bench: {}: {reason}; detaching it",
                self.dir.display()
            );
            let _ = store::unmount(&self.dir, Unmount::Lazily);
        }
        if let Some(mut daemon) = self.daemon.take()
            && !end(&mut daemon, MOUNT_LIMIT)
        {
            eprintln!("ttlfs bench: killed the daemon of {}", self.dir.display());
        }
    }
}
