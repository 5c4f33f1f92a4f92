//! `--report`: what a command left behind.

use crate::mountpoint::shown;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const AGE_ATTRIBUTE: &str = "user.ttlfs.age";

/// One line for each file, and one for all. On standard error: standard output is the command's.
pub(super) fn report(directory: &Path) {
    let mut files = 0u64;
    let mut bytes = 0u64;
    let mut to_look_into = vec![directory.to_owned()];
    let mut lines = Vec::new();
    while let Some(path) = to_look_into.pop() {
        let entries: Vec<PathBuf> = match std::fs::read_dir(&path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) => {
                eprintln!("ttlfs: {}: {error}", shown(&path));
                continue;
            }
        };
        for entry in entries {
            let Ok(metadata) = std::fs::symlink_metadata(&entry) else {
                continue;
            };
            if metadata.is_dir() {
                to_look_into.push(entry);
                continue;
            }
            files += 1;
            bytes += metadata.size();
            let age_seconds = age_seconds(&entry, &metadata);
            let name = entry.strip_prefix(directory).unwrap_or(&entry);
            lines.push((name.to_owned(), metadata.size(), age_seconds));
        }
    }
    lines.sort();
    eprintln!("ttlfs: left behind: {files} files, {bytes} bytes");
    for (name, bytes, age_seconds) in lines {
        eprintln!(
            "ttlfs: {bytes:>12} bytes {age_seconds:>6}s old  {}",
            shown(&name)
        );
    }
}

/// As the mount counts it, where it says so.
fn age_seconds(path: &Path, metadata: &Metadata) -> u64 {
    let mut value = [0u8; 32];
    let counted = rustix::fs::lgetxattr(path, AGE_ATTRIBUTE, &mut value)
        .ok()
        .and_then(|length| std::str::from_utf8(&value[..length]).ok()?.parse().ok());
    counted.unwrap_or_else(|| {
        let modified = metadata.modified().ok();
        let since = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
        since.map_or(0, |age| age.as_secs())
    })
}
