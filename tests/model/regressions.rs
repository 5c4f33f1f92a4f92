//! Failures that were found, each by its name.

use std::time::Duration;

use rustix::fs::RenameFlags;
use rustix::io::Errno;
use ttlfs::fs::{Change, When};

use super::rig::vfs::File;
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

const HOUR: Duration = Duration::from_secs(3600);

fn put(rig: &Rig, path: &str, bytes: usize) {
    let file = rig.vfs.open(path, CREATE).unwrap();
    assert_eq!(rig.vfs.write(&file, 0, &vec![7; bytes]), Ok(bytes));
    rig.vfs.close(file);
}

/// Turns the clock past all deadlines, and lets the reaper come; nothing is in use.
fn expire(rig: &Rig) {
    rig.kernel.evict_all();
    rig.fs.clock.turn(2 * HOUR);
    rig.reap();
}

fn names(rig: &Rig, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(rig.store.path(dir)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A renamed second name does not hide the first from the reaper.
#[test]
fn all_names_of_an_expired_file_go() {
    let rig = Rig::new(&Options::new(&["rule=/t:ttl=1h"]));
    rig.vfs.mkdir("/t").unwrap();
    put(&rig, "/t/one", 10);
    rig.vfs.link("/t/one", "/t/two").unwrap();
    rig.vfs
        .rename("/t/two", "/t/three", RenameFlags::empty())
        .unwrap();
    rig.vfs.link("/t/one", "/t/gone").unwrap();
    rig.vfs.unlink("/t/gone").unwrap();
    expire(&rig);
    assert!(names(&rig, "/t").is_empty(), "{:?}", names(&rig, "/t"));
    rig.check_empties();
}

/// One name goes with its directory; the other is removed all the same.
#[test]
fn the_other_name_goes_after_a_directory_took_the_first() {
    let rig = Rig::new(&Options::new(&["rule=/t:ttl=1h"]));
    for dir in ["/t", "/t/d"] {
        rig.vfs.mkdir(dir).unwrap();
    }
    put(&rig, "/t/one", 10);
    rig.vfs.link("/t/one", "/t/d/two").unwrap();
    rig.kernel.evict_all();
    rig.vfs.stat("/t/d/two").unwrap();
    rig.kernel.evict_all();
    rig.fs.clock.turn(2 * HOUR);
    rig.vfs.rmdir("/t/d").unwrap();
    rig.reap();
    assert!(names(&rig, "/t").is_empty());
    rig.check_empties();
}

/// What lies expired in the very directory makes room for a rename into it, at once.
#[test]
fn a_rename_at_a_limit_reclaims_in_its_own_directory() {
    let rig = Rig::new(&Options::new(&["rule=/t:ttl=1h:quota=8K:inodes=2"]));
    rig.vfs.mkdir("/t").unwrap();
    put(&rig, "/t/old", 8192);
    put(&rig, "/new", 8192);
    rig.kernel.evict_all();
    rig.fs.clock.turn(2 * HOUR);
    let done = rig.vfs.rename("/new", "/t/new", RenameFlags::empty());
    assert_eq!(done, Ok(()));
    rig.check_books(&["/t"]);
    rig.check_empties();
}

/// A file that came under a rule late keeps its time over a remount and a further move.
#[test]
fn the_word_of_an_earlier_mount_holds() {
    let options = Options::new(&["ttl=1h", "rule=/l:ttl=4h"]);
    let rig = Rig::new(&options);
    rig.vfs.mkdir("/l").unwrap();
    put(&rig, "/f", 10);
    rig.fs.clock.turn(HOUR / 2);
    rig.vfs.rename("/f", "/l/f", RenameFlags::empty()).unwrap();
    let rig = Rig::on(rig.crash(), &options);
    rig.vfs.rename("/l/f", "/f", RenameFlags::empty()).unwrap();
    rig.kernel.evict_all();
    rig.fs.clock.turn(4 * HOUR);
    assert!(rig.vfs.stat("/f").is_ok());
    rig.fs.clock.turn(HOUR);
    assert_eq!(rig.vfs.stat("/f"), Err(Errno::NOENT));
    rig.check_empties();
}

fn reserve(rig: &Rig, file: &File, mode: i32, end: u64) -> Result<(), Errno> {
    rig.vfs.fallocate(file, mode as u32, 0, end)
}

/// The note of a reservation that a truncation ended does not count for a later, smaller one.
#[test]
fn an_outgrown_reservation_is_not_counted_again() {
    let rig = Rig::new(&Options::new(&["quota=1M"]));
    let file = rig.vfs.open("/f", CREATE).unwrap();
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    reserve(&rig, &file, keep, 20_000).unwrap();
    reserve(&rig, &file, 0, 50_000).unwrap();
    let shrunk = Change {
        size: Some(78),
        ..Change::default()
    };
    rig.vfs.fsetattr(&file, shrunk).unwrap();
    reserve(&rig, &file, keep, 10_000).unwrap();
    rig.check_books(&[]);
    rig.vfs.close(file);
    rig.check_empties();
}

/// A reservation that the store refuses leaves the note of the one before.
#[test]
fn a_refused_reservation_is_not_noted() {
    let rig = Rig::new(&Options::new(&["quota=1M"]));
    let file = rig.vfs.open("/f", CREATE).unwrap();
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    reserve(&rig, &file, keep, 20_000).unwrap();
    let refused = reserve(&rig, &file, keep | libc::FALLOC_FL_ZERO_RANGE, 90_000);
    assert_eq!(refused, Err(Errno::OPNOTSUPP));
    rig.check_books(&[]);
    rig.vfs.close(file);
    rig.check_empties();
}

/// A write moves a modification time that was set ahead back to now, and the deadline with it.
#[test]
fn a_write_brings_a_deadline_nearer() {
    let rig = Rig::new(&Options::new(&["rule=/t:ttl=1h:ttl_from=modified"]));
    rig.vfs.mkdir("/t").unwrap();
    put(&rig, "/t/f", 10);
    let ahead = rig.fs.clock.now().after(50 * HOUR).0 / 1_000_000_000;
    let touched = Change {
        mtime: Some(When::At(ahead, 0)),
        ..Change::default()
    };
    rig.vfs.setattr("/t/f", touched).unwrap();
    let file = rig.vfs.open("/t/f", libc::O_RDWR).unwrap();
    rig.vfs.write(&file, 0, b"now").unwrap();
    rig.vfs.close(file);
    expire(&rig);
    assert!(names(&rig, "/t").is_empty());
    rig.check_empties();
}

/// A pipe whose name is gone and that the kernel still knows dies with the server; its successor's books do not miss it
/// twice.
#[test]
fn what_died_with_a_server_is_given_back_once() {
    let options = Options::new(&["inodes=10"]);
    let rig = Rig::new(&options);
    rig.vfs.mkfifo("/p").unwrap();
    let held = rig.vfs.lookup("/p").unwrap();
    let ino = held.ino();
    rig.kernel.mapped(ino);
    drop(held);
    rig.vfs.unlink("/p").unwrap();
    rig.vfs.mkdir("/d").unwrap();
    let rig = rig.taken_over(&options);
    rig.kernel.unmapped(ino);
    rig.check_books(&[]);
    rig.check_empties();
}

/// What a rename leaves in the old place expires like anything else there.
#[test]
fn a_whiteout_expires() {
    let rig = Rig::new(&Options::new(&["rule=/t:ttl=1h"]));
    rig.vfs.mkdir("/t").unwrap();
    put(&rig, "/t/f", 10);
    rig.vfs.rename("/t/f", "/f", RenameFlags::WHITEOUT).unwrap();
    expire(&rig);
    assert!(names(&rig, "/t").is_empty());
    rig.check_empties();
}

/// A directory that is moved under a rule takes what is in it along: the reaper knows of it, looked at or not.
#[test]
#[ignore = "open: what was never looked up below a moved directory is hidden in time, but not removed"]
fn what_is_in_a_moved_directory_expires() {
    let rig = Rig::new(&Options::new(&["rule=/t:ttl=1h"]));
    for dir in ["/t", "/d", "/d/e"] {
        rig.vfs.mkdir(dir).unwrap();
    }
    put(&rig, "/d/f", 10);
    put(&rig, "/d/e/g", 10);
    rig.kernel.evict_all();
    rig.vfs.rename("/d", "/t/d", RenameFlags::empty()).unwrap();
    rig.kernel.evict_all();
    rig.fs.clock.turn(HOUR / 2);
    assert!(rig.vfs.stat("/t/d/f").is_ok());
    rig.kernel.evict_all();
    rig.fs.clock.turn(2 * HOUR);
    rig.reap();
    let left: Vec<String> = ["/t/d", "/t/d/e"]
        .into_iter()
        .filter(|dir| rig.store.path(dir).exists())
        .flat_map(|dir| names(&rig, dir))
        .filter(|name| name != "e")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
