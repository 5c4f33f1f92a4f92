//! Who keeps a mount from being unmounted.
//!
//! Asks the kernel only for what it knows without the daemon, so that a daemon that hangs hangs nobody here.

use super::mountinfo::{DeviceNumber, MountEntry, mounts, parse};
use super::shown;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// More than this many users are counted, not listed.
const LISTED_MAX: usize = 16;

/// What a process does in a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    WorkingDirectory,
    RootDirectory,
    Program,
    OpenFile,
    Mapping,
}

impl Use {
    fn as_str(self) -> &'static str {
        match self {
            Use::WorkingDirectory => "working directory",
            Use::RootDirectory => "root directory",
            Use::Program => "running program",
            Use::OpenFile => "open file",
            Use::Mapping => "mapped file",
        }
    }
}

#[derive(Debug)]
struct User {
    pid: u32,
    comm: String,
    what: Use,
    path: PathBuf,
}

/// Who was found in a mount. Processes that we may not look into are not seen.
#[derive(Debug, Default)]
pub struct BusyReport {
    users: Vec<User>,
    mounts_inside: Vec<PathBuf>,
}

impl fmt::Display for BusyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.users.len() + self.mounts_inside.len();
        if total == 0 {
            return write!(f, "in use, by no process that may be looked into from here");
        }
        write!(f, "in use by ")?;
        let mut separator = "";
        for path in self.mounts_inside.iter().take(LISTED_MAX) {
            write!(f, "{separator}a mount on {}", shown(path))?;
            separator = ", ";
        }
        for user in self.users.iter().take(LISTED_MAX) {
            let (what, path) = (user.what.as_str(), shown(&user.path));
            write!(f, "{separator}{} ({}: {what} {path})", user.pid, user.comm)?;
            separator = ", ";
        }
        if total > LISTED_MAX {
            write!(f, " and more, {total} in all")?;
        }
        Ok(())
    }
}

/// Looks through all processes, and all mounts, for what is in this one.
pub fn busy_report(entry: &MountEntry) -> io::Result<BusyReport> {
    let mut report = BusyReport::default();
    for other in mounts()? {
        if other.parent_id == entry.mount_id {
            report.mounts_inside.push(other.mount_point);
        }
    }
    let own_pid = std::process::id();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let pid = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|pid| *pid != own_pid) {
            if let Some((what, path)) = use_by(&process.path(), entry.device) {
                report.users.push(User {
                    pid,
                    comm: comm(&process.path()),
                    what,
                    path,
                });
            }
        }
    }
    Ok(report)
}

/// A process in whose mount namespace this filesystem is mounted too, by number and name.
pub fn mounted_elsewhere(device: DeviceNumber) -> Option<String> {
    let own_namespace = std::fs::read_link("/proc/self/ns/mnt").ok();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let path = process.path();
        let namespace = std::fs::read_link(path.join("ns/mnt")).ok();
        if namespace.is_none() || namespace == own_namespace {
            continue;
        }
        let text = std::fs::read(path.join("mountinfo")).unwrap_or_default();
        if parse(&text).any(|entry| entry.device == device) {
            let pid = process.file_name();
            return Some(format!("{} ({})", pid.to_string_lossy(), comm(&path)));
        }
    }
    None
}

/// The first use that is found: one is enough to know whom to ask.
fn use_by(process: &Path, device: DeviceNumber) -> Option<(Use, PathBuf)> {
    let links = [
        ("cwd", Use::WorkingDirectory),
        ("root", Use::RootDirectory),
        ("exe", Use::Program),
    ];
    for (name, what) in links {
        let link = process.join(name);
        if is_on(&link, device) {
            return Some((what, target(&link)));
        }
    }
    for link in std::fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if is_on(&link.path(), device) {
            return Some((Use::OpenFile, target(&link.path())));
        }
    }
    let maps = std::fs::read(process.join("maps")).unwrap_or_default();
    let path = mapping_on(&String::from_utf8_lossy(&maps), device)?;
    Some((Use::Mapping, path))
}

/// Whether what this link of /proc leads to is on the mount. An empty mask: nobody asks the daemon.
fn is_on(link: &Path, device: DeviceNumber) -> bool {
    let answer = rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::empty());
    answer
        .is_ok_and(|stat| (stat.stx_dev_major, stat.stx_dev_minor) == (device.major, device.minor))
}

fn target(link: &Path) -> PathBuf {
    std::fs::read_link(link).unwrap_or_default()
}

// 7f6a4000-7f6a5000 rw-s 00000000 00:2f 12345    /mnt/name
fn mapping_on(maps: &str, device: DeviceNumber) -> Option<PathBuf> {
    let wanted = format!("{:02x}:{:02x}", device.major, device.minor);
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        (fields.nth(3)? == wanted).then(|| PathBuf::from(fields.nth(1).unwrap_or_default()))
    })
}

fn comm(process: &Path) -> String {
    let name = std::fs::read(process.join("comm")).unwrap_or_default();
    String::from_utf8_lossy(&name)
        .trim_end()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_found_by_device() {
        let maps =
            "7f00-7f01 r-xp 0000 fd:01 5 /usr/bin/x\n7f02-7f03 rw-s 0000 00:2f 12 /mnt/name\n";
        let device = DeviceNumber {
            major: 0,
            minor: 0x2f,
        };
        assert_eq!(mapping_on(maps, device), Some(PathBuf::from("/mnt/name")));
        let other = DeviceNumber { major: 0, minor: 3 };
        assert_eq!(mapping_on(maps, other), None);
    }

    #[test]
    fn a_report_is_one_line() {
        let report = BusyReport {
            users: vec![User {
                pid: 7,
                comm: "less".into(),
                what: Use::OpenFile,
                path: "/mnt/log".into(),
            }],
            mounts_inside: vec!["/mnt/sub".into()],
        };
        assert_eq!(
            report.to_string(),
            "in use by a mount on /mnt/sub, 7 (less: open file /mnt/log)"
        );
        assert!(BusyReport::default().to_string().contains("no process"));
    }
}
