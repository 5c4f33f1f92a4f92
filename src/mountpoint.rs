//! Where a mount appears: the kernel's list of mounts, mounting, unmounting, and who is in the way.
//!
//! Nothing here knows about rules or about the backing directory's content.

mod busy;
mod mountinfo;
mod mounting;

pub use busy::{BusyReport, busy_report, mounted_elsewhere};
pub use mountinfo::{DeviceNumber, FILESYSTEM_TYPE, MountEntry, mount_at, mounts};
pub use mounting::{MountRequest, Mounted, Unmount, is_dead, mount, resolve, unmount};

use std::path::Path;

/// A path as it can stand in a line of a message: nothing in it can pass for another line or move a cursor.
pub fn shown(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}
