//! `erase = overwrite`: what was destroyed can't be found on the device.

use crate::common::*;
use rustix::fs::{OFlags, ftruncate};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

/// How long the eraser may take for the little data here.
const ERASED: Duration = Duration::from_secs(15);

/// A mount with erasure on an ext4 of its own, whose raw image can be searched. None natively.
fn erasing(options: &str) -> Option<(Store, Mount)> {
    if is_native() {
        skip("a feature of ttlfs");
        return None;
    }
    if !StoreKind::Ext4.is_available() {
        skip("no mkfs.ext4 here");
        return None;
    }
    let store = Store::of_mebibytes(StoreKind::Ext4, 64);
    let options = if options.is_empty() {
        "erase=overwrite".to_owned()
    } else {
        format!("erase=overwrite,{options}")
    };
    let mount = Mount::new(&store, Io::Default, &options);
    // In this order, so that the mount is dropped first.
    Some((store, mount))
}

/// A text that occurs nowhere else, and a content full of it.
struct Marker(String);

impl Marker {
    fn new() -> Marker {
        Marker(format!("MARK{:016x}{:016x}", entropy(), entropy()))
    }

    /// Each 64 bytes have it once, so that no remnant of a sector goes unseen.
    fn content(&self, length: usize) -> Vec<u8> {
        format!("{:-<64}", self.0)
            .into_bytes()
            .into_iter()
            .cycle()
            .take(length)
            .collect()
    }

    fn is_on(&self, store: &Store) -> bool {
        rustix::fs::syncfs(open_read(store.path()).unwrap()).unwrap();
        let grep = std::process::Command::new("grep")
            .args(["-q", "-a", "-F", &self.0])
            .arg(store.image())
            .env("LC_ALL", "C")
            .status()
            .unwrap();
        match grep.code() {
            Some(0) => true,
            Some(1) => false,
            other => panic!("grep: {other:?}"),
        }
    }
}

/// Stores a marked file and makes sure that it is on the device, so that not finding it later means something.
fn put_marked(m: &Mount, store: &Store, name: &str, length: usize) -> Marker {
    let marker = Marker::new();
    let file = create(m.path(name));
    file.write_all_at(&marker.content(length), 0).unwrap();
    rustix::fs::fsync(&file).unwrap();
    drop(file);
    assert!(marker.is_on(store), "the search finds what is there");
    marker
}

#[track_caller]
fn assert_erased(marker: &Marker, store: &Store) {
    eventually(ERASED, "the marker is gone from the device", || {
        !marker.is_on(store)
    });
    drop_caches();
    assert!(!marker.is_on(store));
}

#[test]
fn without_erasure_it_would_be_found() {
    if !StoreKind::Ext4.is_available() {
        return skip("no mkfs.ext4 here");
    }
    // What all other tests here stand on.
    let store = Store::of_mebibytes(StoreKind::Ext4, 64);
    let m = Mount::new(&store, Io::Default, "");
    let marker = put_marked(&m, &store, "f", 500_000);
    unlink(m.path("f")).unwrap();
    assert!(marker.is_on(&store));
}

#[test]
fn unlinked_files_are_erased() {
    let Some((store, m)) = erasing("") else {
        return;
    };
    for (name, length) in [("small", 100), ("block", 4096), ("large", 3_000_000)] {
        let marker = put_marked(&m, &store, name, length);
        unlink(m.path(name)).unwrap();
        assert_erased(&marker, &store);
    }
    assert!(names(m.root()).is_empty());
}

#[test]
fn expired_files_are_erased() {
    let Some((store, m)) = erasing("ttl=2s") else {
        return;
    };
    let marker = put_marked(&m, &store, "f", 500_000);
    eventually(Duration::from_secs(5), "it expires", || {
        !exists(m.path("f"))
    });
    assert_erased(&marker, &store);
}

#[test]
fn replaced_files_are_erased() {
    let Some((store, m)) = erasing("") else {
        return;
    };
    let marker = put_marked(&m, &store, "f", 500_000);
    put(m.path("new"), "new content");
    rename(m.path("new"), m.path("f")).unwrap();
    assert_erased(&marker, &store);
    assert_eq!(get(m.path("f")), b"new content");
}

#[test]
fn truncated_tails_are_erased() {
    let Some((store, m)) = erasing("") else {
        return;
    };
    // "Truncation returns once the tail is erased": what is on the device after a sync decides, without waiting.
    type Cut = fn(&Path);
    let cuts: [(&str, Cut); 4] = [
        ("truncate", |path| truncate(path, 0).unwrap()),
        ("ftruncate", |path| {
            ftruncate(open_rw(path).unwrap(), 0).unwrap()
        }),
        ("O_TRUNC", |path| {
            drop(open(path, OFlags::WRONLY | OFlags::TRUNC, 0).unwrap())
        }),
        ("creat", |path| {
            drop(open(path, OFlags::WRONLY | OFlags::TRUNC | OFlags::CREATE, 0o600).unwrap())
        }),
    ];
    for (name, cut) in cuts {
        let marker = put_marked(&m, &store, name, 500_000);
        cut(&m.path(name));
        assert!(!marker.is_on(&store), "{name}");
        assert_eq!(stat(m.path(name)).unwrap().st_size, 0);
    }
    // The tail only: what stays, stays.
    let head = Marker::new();
    let tail = Marker::new();
    let file = create(m.path("f"));
    file.write_all_at(&head.content(50_000), 0).unwrap();
    file.write_all_at(&tail.content(500_000), 50_000).unwrap();
    rustix::fs::fsync(&file).unwrap();
    assert!(head.is_on(&store) && tail.is_on(&store));
    ftruncate(&file, 50_000).unwrap();
    assert!(!tail.is_on(&store));
    assert!(get(m.path("f")) == head.content(50_000));
    assert!(head.is_on(&store));
}

#[test]
fn unlinked_open_files_are_erased_after_the_last_close() {
    let Some((store, m)) = erasing("") else {
        return;
    };
    let marker = put_marked(&m, &store, "f", 500_000);
    let file = open_rw(m.path("f")).unwrap();
    unlink(m.path("f")).unwrap();
    never(Duration::from_millis(500), "an open file is erased", || {
        pread(&file, 4, 0).unwrap() != b"MARK"
    });
    let late = Marker::new();
    file.write_all_at(&late.content(100_000), 500_000).unwrap();
    rustix::fs::fsync(&file).unwrap();
    assert!(marker.is_on(&store) && late.is_on(&store));
    drop(file);
    assert_erased(&marker, &store);
    assert_erased(&late, &store);
}

#[test]
fn other_names_keep_a_file_whole() {
    let Some((store, m)) = erasing("") else {
        return;
    };
    let marker = put_marked(&m, &store, "f", 300_000);
    link(m.path("f"), m.path("g")).unwrap();
    unlink(m.path("f")).unwrap();
    put(m.path("h"), "x");
    link(m.path("g"), m.path("i")).unwrap();
    rename(m.path("h"), m.path("i")).unwrap();
    never(
        Duration::from_secs(1),
        "a file with another name is erased",
        || get(m.path("g")) != marker.content(300_000),
    );
    unlink(m.path("g")).unwrap();
    assert_erased(&marker, &store);
}

#[test]
fn unmounting_can_wait_for_erasure() {
    let Some((store, mut m)) = erasing("passes=3") else {
        return;
    };
    let markers: Vec<Marker> = (0..20)
        .map(|number| put_marked(&m, &store, &format!("f{number}"), 200_000))
        .collect();
    for number in 0..20 {
        unlink(m.path(format!("f{number}"))).unwrap();
    }
    m.unmount_with(&["--wait-erased"]);
    for marker in &markers {
        assert!(!marker.is_on(&store));
    }
}

#[test]
fn interrupted_erasure_is_finished_at_the_next_mount() {
    let Some((store, mut m)) = erasing("") else {
        return;
    };
    let markers: Vec<Marker> = (0..10)
        .map(|number| put_marked(&m, &store, &format!("f{number}"), 500_000))
        .collect();
    for number in 0..10 {
        unlink(m.path(format!("f{number}"))).unwrap();
    }
    m.unmount();
    m.mount();
    for marker in &markers {
        assert_erased(marker, &store);
    }
    assert!(names(m.root()).is_empty());
}

#[test]
fn what_waits_for_erasure_is_never_seen() {
    let Some((_store, m)) = erasing("") else {
        return;
    };
    for number in 0..200 {
        put(m.path(format!("f{number}")), pattern(20_000, number));
        unlink(m.path(format!("f{number}"))).unwrap();
        fails(rustix::io::Errno::NOENT, stat(m.path(format!("f{number}"))));
    }
    assert!(names(m.root()).is_empty());
    eventually(ERASED, "nothing is left outside of private state", || {
        names(m.backing()).iter().all(|name| name == ".ttlfs")
    });
}

#[test]
fn erased_files_are_given_back() {
    let Some((_store, m)) = erasing("quota=4M") else {
        return;
    };
    for round in 0..5u8 {
        put(m.path("f"), vec![round; 4 << 20]);
        unlink(m.path("f")).unwrap();
        eventually(ERASED, "given back once erased", || {
            let figures = rustix::fs::statvfs(m.root()).unwrap();
            figures.f_bavail * figures.f_frsize == 4 << 20
        });
    }
}
