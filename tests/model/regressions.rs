//! Failures that were found, each by its name.

use std::time::Duration;

use rustix::io::Errno;

use super::rig::{Options, Rig};

const CREATE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;

/// tmpfs does not know `FALLOC_FL_ZERO_RANGE`: a call that is refused must not have erased the range.
#[test]
fn refused_zeroing_destroys_nothing() {
    let rig = Rig::new(&Options::new(&["erase=overwrite"]));
    let file = rig.vfs.open("/f", CREATE).unwrap();
    rig.vfs.write(&file, 0, &[7; 100]).unwrap();
    let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    let zeroed = rig.vfs.fallocate(&file, mode as u32, 0, 50);
    assert_eq!(zeroed, Err(Errno::OPNOTSUPP));
    assert_eq!(rig.vfs.read(&file, 0, 200).unwrap(), [7; 100]);
    rig.vfs.close(file);
    rig.check_empties();
}

/// What was open when the reaper came, and is closed and forgotten since, is reclaimed at a limit at once.
#[test]
fn closed_after_its_deadline_makes_room() {
    let rig = Rig::new(&Options::new(&["inodes=2", "rule=/t:ttl=1h"]));
    rig.vfs.mkdir("/t").unwrap();
    let file = rig.vfs.open("/t/f", CREATE).unwrap();
    rig.fs.clock.turn(Duration::from_secs(7200));
    rig.reap();
    assert!(rig.vfs.stat("/t/f").is_ok(), "it is open");
    rig.vfs.close(file);
    rig.kernel.evict_all();
    assert!(rig.vfs.mkdir("/d").is_ok());
    rig.check_empties();
}
