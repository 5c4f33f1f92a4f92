//! `/proc/self/mountinfo`, parsed.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The type under which the kernel lists our mounts.
pub const FILESYSTEM_TYPE: &str = "fuse.ttlfs";

/// The device number of a mounted filesystem: no two live ones share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DeviceNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(major, minor)| {
            Some(DeviceNumber {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| format!("{text:?} is not a device number; MAJOR:MINOR is allowed"))
    }
}

/// One mount of this mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub mount_id: u64,
    pub parent_id: u64,
    pub device: DeviceNumber,
    pub mount_point: PathBuf,
    pub filesystem: OsString,
    pub source: OsString,
}

impl MountEntry {
    pub fn is_ours(&self) -> bool {
        self.filesystem == FILESYSTEM_TYPE
    }
}

/// All mounts that this process can see, older ones first where they cover each other.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&text).collect())
}

pub(super) fn parse(text: &[u8]) -> impl Iterator<Item = MountEntry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line)
}

/// The mount that is on top at exactly this path.
pub fn mount_at(path: &Path) -> io::Result<Option<MountEntry>> {
    let at_path: Vec<MountEntry> = mounts()?
        .into_iter()
        .filter(|entry| entry.mount_point == path)
        .collect();
    // The one on top is nobody's parent among those at the same path.
    let top = at_path
        .iter()
        .rfind(|entry| !at_path.iter().any(|o| o.parent_id == entry.mount_id));
    Ok(top.cloned())
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mount_id = number(fields.next()?)?;
    let parent_id = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _root = fields.next()?;
    let mount_point = PathBuf::from(unescape(fields.next()?));
    let mut after_separator = fields.skip_while(|field| *field != b"-").skip(1);
    Some(MountEntry {
        mount_id,
        parent_id,
        device,
        mount_point,
        filesystem: unescape(after_separator.next()?),
        source: unescape(after_separator.next()?),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let line = b"36 35 0:47 / /mnt/a\\040b\\134c rw,noatime shared:1 master:2 - fuse.ttlfs /srv/x\\011y rw";
        let entry = parse_line(line).expect("a valid line");
        assert_eq!(entry.mount_point, Path::new("/mnt/a b\\c"));
        assert_eq!(entry.source, OsStr::new("/srv/x\ty"));
        assert_eq!(entry.device.to_string(), "0:47");
        assert!(entry.is_ours());
    }

    #[test]
    fn half_a_line_is_no_mount() {
        assert_eq!(parse_line(b"36 35 0:47 / /mnt"), None);
        assert_eq!(parse_line(b""), None);
    }
}
