//! Who uses a file: mappings, descriptors and working directories of all processes, read from `/proc`.
//!
//! Asked only for files that the kernel holds on to without their being open through a handle of ours, so rarely.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::inodes::Ino;

/// Which of `inos` on the mount with device number `dev` some process maps, has as an `O_PATH` descriptor, or has as its
/// working directory or root. `None`: nobody can tell.
///
/// Processes with privileges that we lack cannot be looked at, and do not count: their mappings outlive the name.
pub fn find(dev: Option<u64>, inos: &[Ino]) -> Option<HashSet<Ino>> {
    let dev = dev?;
    let wanted: HashSet<u64> = inos.iter().map(|ino| ino.0).collect();
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        if name
            .as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit)
        {
            // One that ended in the meantime, or may not be looked at.
            let _ = look_at(&entry.path(), dev, &wanted, &mut found);
        }
    }
    Some(found)
}

/// Paths within the mount with device number `dev` on which something is mounted, or which are mounted elsewhere, in any
/// mount namespace that some process lives in. Each begins with a slash.
pub fn mounted_paths(dev: Option<u64>) -> HashSet<Vec<u8>> {
    let mut paths = HashSet::new();
    let (Some(dev), Ok(processes)) = (dev, fs::read_dir("/proc")) else {
        return paths;
    };
    let mut namespaces = HashSet::new();
    for entry in processes.flatten() {
        let name = entry.file_name();
        if !name
            .as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit)
        {
            continue;
        }
        let Ok(namespace) = fs::read_link(entry.path().join("ns/mnt")) else {
            continue;
        };
        if namespaces.insert(namespace)
            && let Ok(table) = fs::read(entry.path().join("mountinfo"))
        {
            read_mounts(&table, dev, &mut paths);
        }
    }
    paths
}

/// Reads a `/proc/PID/mountinfo` (proc(5)).
fn read_mounts(table: &[u8], dev: u64, paths: &mut HashSet<Vec<u8>>) {
    struct Mount {
        id: u64,
        parent: u64,
        is_ours: bool,
        root: Vec<u8>,
        point: Vec<u8>,
    }
    let number = |text: &[u8]| {
        std::str::from_utf8(text)
            .ok()
            .and_then(|t| t.parse::<u64>().ok())
    };
    let ours = format!("{}:{}", libc::major(dev), libc::minor(dev));
    let mounts: Vec<Mount> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            Some(Mount {
                id: number(fields.next()?)?,
                parent: number(fields.next()?)?,
                is_ours: fields.next()? == ours.as_bytes(),
                root: unescape(fields.next()?),
                point: unescape(fields.next()?),
            })
        })
        .collect();
    for below in &mounts {
        if below.is_ours && below.root != b"/" {
            paths.insert(below.root.clone());
        }
        let Some(mount) = mounts.iter().find(|m| m.id == below.parent && m.is_ours) else {
            continue;
        };
        if let Some(inside) = below.point.strip_prefix(mount.point.as_slice())
            && inside.first() == Some(&b'/')
        {
            let mut path = if mount.root == b"/" {
                Vec::new()
            } else {
                mount.root.clone()
            };
            path.extend_from_slice(inside);
            paths.insert(path);
        }
    }
}

/// Undoes the octal escapes of blanks and backslashes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) => {
                plain.push(escaped);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

fn look_at(
    process: &Path,
    dev: u64,
    wanted: &HashSet<u64>,
    found: &mut HashSet<Ino>,
) -> std::io::Result<()> {
    for link in ["cwd", "root"] {
        note(&process.join(link), dev, wanted, found);
    }
    let maps = fs::read(process.join("maps"))?;
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    for line in maps.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b' ').filter(|f| !f.is_empty());
        let (Some(device), Some(inode)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        let Some((a, b)) = std::str::from_utf8(device)
            .ok()
            .and_then(|d| d.split_once(':'))
        else {
            continue;
        };
        let same =
            u32::from_str_radix(a, 16) == Ok(major) && u32::from_str_radix(b, 16) == Ok(minor);
        if same
            && let Some(ino) = std::str::from_utf8(inode).ok().and_then(|i| i.parse().ok())
            && wanted.contains(&ino)
        {
            found.insert(Ino(ino));
        }
    }
    for entry in fs::read_dir(process.join("fd"))? {
        note(&entry?.path(), dev, wanted, found);
    }
    Ok(())
}

/// Notes what a link in `/proc` leads to. The kernel answers from what it has cached: asking a mount that waits for us
/// could wait for ever.
fn note(link: &Path, dev: u64, wanted: &HashSet<u64>, found: &mut HashSet<Ino>) {
    let at = rustix::fs::statx(
        rustix::fs::CWD,
        link,
        rustix::fs::AtFlags::STATX_DONT_SYNC,
        rustix::fs::StatxFlags::INO,
    );
    if let Ok(at) = at
        && rustix::fs::makedev(at.stx_dev_major, at.stx_dev_minor) == dev
        && wanted.contains(&at.stx_ino)
    {
        found.insert(Ino(at.stx_ino));
    }
}

/// The device number of the file system mounted at `mountpoint`, as its files show it.
pub fn device_of(mountpoint: &Path) -> std::io::Result<u64> {
    fs::symlink_metadata(mountpoint).map(|meta| meta.dev())
}
