//! `in_use = keep`: what is in use when its deadline passes stays, and goes soon after.

use super::expiry::{REAPED, until_expired};
use crate::common::helper::{Helper, Task};
use crate::common::sys::{Mapping, Sharing};
use crate::common::*;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::time::Duration;

in_default_mode!("ttl=2s":
    directories_in_use_stay,
    bound_sockets_stay,
    unlink_of_an_expired_open_file,
    running_programs_stay,
);
in_each_io_mode!("ttl=2s": open_files_stay, mapped_files_stay, files_open_for_writing_stay);

fn directories_in_use_stay(m: &mut Mount) {
    mkdir(m.path("cwd")).unwrap();
    mkdir(m.path("open")).unwrap();
    let mut there = Helper::start(Task::WorkThere, &m.path("cwd"));
    assert_eq!(there.says(), "ready");
    let listing = open(m.path("open"), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    until_expired(m, "open");
    never(Duration::from_secs(2), "a directory in use is gone", || {
        !exists(m.path("cwd")) || !exists(m.path("open"))
    });
    there.finish();
    drop(listing);
    eventually(REAPED, "gone out of use", || {
        !exists(m.path("cwd")) && !exists(m.path("open"))
    });
}

fn bound_sockets_stay(m: &mut Mount) {
    let listener = std::os::unix::net::UnixListener::bind(m.path("s")).unwrap();
    until_expired(m, "s");
    never(Duration::from_secs(2), "a bound socket is gone", || {
        !exists(m.path("s"))
    });
    drop(std::os::unix::net::UnixStream::connect(m.path("s")).unwrap());
    drop(listener);
    eventually(REAPED, "gone out of use", || !exists(m.path("s")));
}

fn unlink_of_an_expired_open_file(m: &mut Mount) {
    let file = create(m.path("f"));
    until_expired(m, "f");
    // It is in use and so hasn't expired: unlink is the ordinary one.
    unlink(m.path("f")).unwrap();
    put(m.path("f"), "new");
    pwrite(&file, b"old", 0).unwrap();
    assert_eq!(
        (pread(&file, 9, 0).unwrap(), get(m.path("f"))),
        (b"old".to_vec(), b"new".to_vec())
    );
}

fn running_programs_stay(m: &mut Mount) {
    let path = m.path("sleep");
    std::fs::copy("/bin/sleep", &path).unwrap();
    chmod(&path, 0o755).unwrap();
    let mut child =
        wait::started(|| std::process::Command::new(&path).arg("1000").spawn()).unwrap();
    until_expired(m, "sleep");
    never(Duration::from_secs(1), "a running program is gone", || {
        !exists(&path)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(REAPED, "gone when it ended", || !exists(&path));
}

fn open_files_stay(m: &mut Mount) {
    put(m.path("f"), "content");
    let file = open_read(m.path("f")).unwrap();
    until_expired(m, "f");
    never(Duration::from_millis(1500), "an open file is gone", || {
        !exists(m.path("f")) || !m.back("f").exists() || names(m.root()) != ["f"]
    });
    // Others may open it too, and use it in all ways.
    assert_eq!(get(m.path("f")), b"content");
    assert_eq!(pread(&file, 9, 0).unwrap(), b"content");
    pwrite(&open_rw(m.path("f")).unwrap(), b"C", 0).unwrap();
    fails(Errno::EXIST, try_create(m.path("f")));
    drop(file);
    eventually(REAPED, "gone after the last close", || !exists(m.path("f")));
    eventually(REAPED, "removed", || !m.back("f").exists());
}

fn files_open_for_writing_stay(m: &mut Mount) {
    let file = create(m.path("f"));
    until_expired(m, "f");
    for round in 0..10u64 {
        pwrite(&file, &pattern(1000, round), round * 1000).unwrap();
        assert_eq!(
            stat(m.path("f")).unwrap().st_size,
            round as i64 * 1000 + 1000
        );
        wait::tick();
    }
    drop(file);
    eventually(REAPED, "gone after the last close", || !exists(m.path("f")));
}

fn mapped_files_stay(m: &mut Mount) {
    put(m.path("f"), vec![7; 8192]);
    // Mapped, closed: no descriptor is left.
    let map = {
        let file = open_rw(m.path("f")).unwrap();
        Mapping::new(&file, 8192, Sharing::Shared).unwrap()
    };
    until_expired(m, "f");
    never(Duration::from_millis(1500), "a mapped file is gone", || {
        !exists(m.path("f")) || !m.back("f").exists()
    });
    assert_eq!(map.bytes(5000, 3), [7; 3]);
    map.put(5000, b"abc");
    assert_eq!(
        pread(&open_read(m.path("f")).unwrap(), 3, 5000).unwrap(),
        b"abc"
    );
    drop(map);
    eventually(REAPED, "gone after munmap", || !exists(m.path("f")));
    eventually(REAPED, "removed", || !m.back("f").exists());
}
