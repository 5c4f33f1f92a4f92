//! A private directory and a backing store that don't do as they should.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_change, unmount};

use super::*;

/// Stores a fact, and finds it again after opening anew.
fn works(dir: &Path) {
    let creators = open(dir);
    creators.add_simple(17);
    creators.flush().unwrap();
    drop(creators);
    assert!(open(dir).knows(17));
    let mode = fs::symlink_metadata(dir.join("creators")).unwrap().mode();
    assert_eq!(mode, 0o100_600);
}

#[test]
fn what_is_not_ours_is_set_aside() {
    let outside = Scratch::new();
    let victim = outside.file("victim");
    type Forge<'a> = &'a dyn Fn(&Path);
    let own = |path: &Path| {
        let dir = path.parent().unwrap();
        let creators = open(dir);
        creators.add_simple(9);
        creators.flush().unwrap();
    };
    let edit = |path: &Path, at: usize, byte: u8| {
        own(path);
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= byte;
        fs::write(path, bytes).unwrap();
    };
    let forgeries: &[(&str, Forge<'_>)] = &[
        ("empty", &|path| fs::write(path, "").unwrap()),
        ("text", &|path| {
            fs::write(path, "x".repeat(10_000)).unwrap();
        }),
        ("symlink", &|path| symlink(&victim, path).unwrap()),
        ("dangling symlink", &|path| {
            symlink("/nowhere/at/all", path).unwrap()
        }),
        ("hard link", &|path| {
            own(path);
            let _ = fs::remove_file(path.with_file_name("other"));
            fs::hard_link(path, path.with_file_name("other")).unwrap();
        }),
        ("directory", &|path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "").unwrap();
        }),
        ("pipe", &|path| {
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap()
        }),
        ("magic", &|path| edit(path, 0, 1)),
        ("key", &|path| edit(path, 8, 1)),
        ("size in the head", &|path| edit(path, 16, 1)),
        ("cut", &|path| {
            own(path);
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(8192).unwrap();
        }),
        ("open to all", &|path| {
            own(path);
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("another user's", &|path| {
            own(path);
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(path, Some(1000), None).unwrap();
            } else {
                fs::write(path, "not root").unwrap();
            }
        }),
    ];
    for (what, forge) in forgeries {
        eprintln!("{what}");
        fs::write(&victim, "precious").unwrap();
        let dir = Scratch::new();
        let path = dir.file("creators");
        forge(&path);
        let before = fs::symlink_metadata(&path).unwrap();
        assert!(!dir.open().knows(9), "{what}");
        works(&dir.0);
        let aside = fs::symlink_metadata(dir.file("creators.bad")).unwrap();
        assert_eq!((aside.ino(), aside.len()), (before.ino(), before.len()));
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        // Again, now that something was set aside before.
        fs::write(&path, "short").unwrap();
        if *what == "directory" {
            fs::remove_dir_all(dir.file("creators.bad")).unwrap();
        }
        works(&dir.0);
    }
}

#[test]
fn a_resize_that_is_not_ours_is_removed() {
    let dir = Scratch::new();
    works(&dir.0);
    let victim = dir.file("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, dir.file("creators.new")).unwrap();
    works(&dir.0);
    assert!(fs::symlink_metadata(dir.file("creators.new")).is_err());
    // From another table.
    let other = Scratch::new();
    works(&other.0);
    fs::copy(other.file("creators"), dir.file("creators.new")).unwrap();
    works(&dir.0);
    assert!(fs::symlink_metadata(dir.file("creators.new")).is_err());
    // What can't be removed stands in the way of nothing but a resize.
    fs::create_dir_all(dir.file("creators.new/full")).unwrap();
    works(&dir.0);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn readable_to_others_is_closed_again() {
    let dir = Scratch::new();
    works(&dir.0);
    let path = dir.file("creators");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(dir.open().knows(17));
    works(&dir.0);
}

#[test]
fn damaged_records_are_not_believed() {
    let dir = Scratch::new();
    let inos = 1..4000;
    let creators = dir.open();
    for ino in inos.clone() {
        creators.add_simple(ino);
    }
    creators.flush().unwrap();
    creators.resize_whole();
    drop(creators);
    let path = dir.file("creators");
    let whole = fs::read(&path).unwrap();
    let mut random = Random(5);
    for share in [1, 10, 200, 4096] {
        let mut bytes = whole.clone();
        for byte in &mut bytes[4096..] {
            if random.below(4096) < share {
                *byte = random.next() as u8;
            }
        }
        fs::write(&path, &bytes).unwrap();
        let _ = fs::remove_file(dir.file("creators.new"));
        let creators = dir.open();
        let known = inos.clone().filter(|ino| creators.knows(*ino)).count();
        eprintln!("{share} of 4096 bytes damaged: {known} of 3999 known");
        assert!(known < 3999);
        assert!(share > 1 || known > 3000);
        // It goes on being useful, and never crowded out of bounds by what it can't read.
        for ino in inos.clone() {
            creators.add_simple(ino);
        }
        creators.flush().unwrap();
        assert!(inos.clone().all(|ino| share > 1 || creators.knows(ino)));
    }
}

#[test]
fn a_store_that_fails_costs_facts_only() {
    let dir = Scratch::new();
    let creators = dir.open();
    creators.add_simple(1);
    creators.flush().unwrap();
    // Neither to be read nor written.
    let unusable = rustix::fs::open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
    let good = creators.with_store(|store| store.table().swap_file(unusable));
    // Few enough that it need not grow: the larger table would take them.
    for ino in 2..300 {
        creators.add_simple(ino);
    }
    creators.flush().unwrap_err();
    assert!(!creators.knows(1) && !creators.knows(2));
    creators.with_store(|store| drop(store.table().swap_file(good)));
    creators.add_simple(300);
    creators.flush().unwrap();
    assert!(creators.knows(1) && creators.knows(300));
}

/// A tmpfs of a few pages, unmounted when dropped.
struct Tiny(Scratch);

impl Tiny {
    fn new(kib: u32) -> Option<Tiny> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting a small store takes root");
            return None;
        }
        let dir = Scratch::new();
        let options = std::ffi::CString::new(format!("size={kib}k")).unwrap();
        match mount(
            "tmpfs",
            &dir.0,
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        ) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("skipped: mount: {error}");
                return None;
            }
        }
        mount_change(&dir.0, rustix::mount::MountPropagationFlags::PRIVATE).unwrap();
        Some(Tiny(dir))
    }

    fn remount(&self, flags: MountFlags, options: &str) {
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount_remount(&self.0.0, flags, options.as_c_str()).unwrap();
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = unmount(&self.0.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_store_is_tried_again() {
    let Some(tiny) = Tiny::new(64) else { return };
    let creators = open(&tiny.0.0);
    creators.add_simple(5);
    creators.flush().unwrap_err();
    assert!(creators.knows(5), "it waits");
    assert!(
        fs::read_dir(&tiny.0.0).unwrap().next().is_none(),
        "nothing half-made"
    );
    tiny.remount(MountFlags::empty(), "size=1m");
    creators.flush().unwrap_err();
    creators.disk.as_ref().unwrap().writer.lock().retry_at = None;
    creators.flush().unwrap();
    assert!(creators.knows(5));
    drop(creators);
    assert!(open(&tiny.0.0).knows(5));
}

#[test]
fn where_it_cannot_grow_the_oldest_are_forgotten() {
    // Room for the smallest table and not for twice that.
    let Some(tiny) = Tiny::new(400) else { return };
    let creators = open(&tiny.0.0);
    let count = 20_000;
    for first in (1..count).step_by(1000) {
        for ino in first..first + 1000 {
            creators.add_simple(ino);
        }
        creators.flush().unwrap();
        creators.resize_whole();
    }
    assert_eq!(creators.homes_log2(), table::MIN_HOMES_LOG2);
    let known = (1..count).filter(|ino| creators.knows(*ino)).count();
    let late = (count - 2000..count)
        .filter(|ino| creators.knows(*ino))
        .count();
    eprintln!("{known} known, {late} of the last 2000");
    assert!(known > 4000 && late > 1800);
    // And with room it grows.
    tiny.remount(MountFlags::empty(), "size=8m");
    creators.with_store(Store::try_resize_now);
    for ino in count..count + 5000 {
        creators.add_simple(ino);
    }
    creators.flush().unwrap();
    creators.resize_whole();
    assert!(creators.homes_log2() > table::MIN_HOMES_LOG2);
    assert!((count..count + 5000).all(|ino| creators.knows(ino)));
}

#[test]
fn a_read_only_store_is_read() {
    let Some(tiny) = Tiny::new(1024) else { return };
    tiny.remount(MountFlags::RDONLY, "");
    let creators = open(&tiny.0.0);
    creators.add_simple(1);
    creators.flush().unwrap();
    assert!(creators.knows(1), "in memory");
    tiny.remount(MountFlags::empty(), "");
    works(&tiny.0.0);
    tiny.remount(MountFlags::RDONLY, "");
    let creators = open(&tiny.0.0);
    assert!(creators.knows(17));
    creators.forget(17, Time(17));
    creators.flush().unwrap();
    assert!(!creators.knows(17));
    drop(creators);
    assert!(open(&tiny.0.0).knows(17));
}
