//! inotify, through the mount.

use crate::common::*;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::path::Path;
use std::time::Duration;

in_each_io_mode!("": changes_of_contents_are_heard);
in_default_mode!("": changes_of_names_are_heard, watches_follow_renames, watched_file_is_deleted);
in_default_mode!("ttl=2s": expiry_is_heard_by_watches_on_the_file);

/// What happened, as `(what, name)`.
pub type Event = (ReadFlags, String);

pub struct Watch(rustix::fd::OwnedFd);

impl Watch {
    pub fn on(path: &Path, what: WatchFlags) -> Watch {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, path, what).unwrap();
        Watch(watch)
    }

    /// What was heard since the last call.
    pub fn heard(&self) -> Vec<Event> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 16_384];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned());
                    events.push((event.events(), name.unwrap_or_default()));
                }
                Err(Errno::AGAIN) => return events,
                Err(errno) => panic!("{errno:?}"),
            }
        }
    }

    /// Waits until this was heard.
    #[track_caller]
    pub fn hears(&self, what: ReadFlags, name: &str, limit: Duration) {
        let mut all = Vec::new();
        let found = wait::comes_true(limit, || {
            all.extend(self.heard());
            all.iter()
                .any(|(flags, about)| flags.contains(what) && about == name)
        });
        assert!(found, "{what:?} of {name:?} not heard, but {all:?}");
    }
}

const SOON: Duration = Duration::from_secs(2);

fn changes_of_contents_are_heard(m: &mut Mount) {
    put(m.path("f"), "x");
    let watch = Watch::on(m.root(), WatchFlags::ALL_EVENTS);
    let file = open_rw(m.path("f")).unwrap();
    watch.hears(ReadFlags::OPEN, "f", SOON);
    pwrite(&file, b"y", 0).unwrap();
    watch.hears(ReadFlags::MODIFY, "f", SOON);
    pread(&file, 1, 0).unwrap();
    watch.hears(ReadFlags::ACCESS, "f", SOON);
    rustix::fs::ftruncate(&file, 0).unwrap();
    watch.hears(ReadFlags::MODIFY, "f", SOON);
    drop(file);
    watch.hears(ReadFlags::CLOSE_WRITE, "f", SOON);
    chmod(m.path("f"), 0o600).unwrap();
    watch.hears(ReadFlags::ATTRIB, "f", SOON);
    drop(open_read(m.path("f")).unwrap());
    watch.hears(ReadFlags::CLOSE_NOWRITE, "f", SOON);
}

fn changes_of_names_are_heard(m: &mut Mount) {
    let watch = Watch::on(m.root(), WatchFlags::ALL_EVENTS);
    put(m.path("f"), "x");
    watch.hears(ReadFlags::CREATE, "f", SOON);
    rename(m.path("f"), m.path("g")).unwrap();
    let events = watch.heard();
    assert!(
        events
            .iter()
            .any(|(what, name)| what.contains(ReadFlags::MOVED_FROM) && name == "f"),
        "{events:?}"
    );
    assert!(
        events
            .iter()
            .any(|(what, name)| what.contains(ReadFlags::MOVED_TO) && name == "g"),
        "{events:?}"
    );
    link(m.path("g"), m.path("h")).unwrap();
    watch.hears(ReadFlags::CREATE, "h", SOON);
    unlink(m.path("h")).unwrap();
    watch.hears(ReadFlags::DELETE, "h", SOON);
    mkdir(m.path("d")).unwrap();
    watch.hears(ReadFlags::CREATE | ReadFlags::ISDIR, "d", SOON);
    rmdir(m.path("d")).unwrap();
    watch.hears(ReadFlags::DELETE | ReadFlags::ISDIR, "d", SOON);
}

fn watches_follow_renames(m: &mut Mount) {
    put(m.path("f"), "x");
    let watch = Watch::on(&m.path("f"), WatchFlags::ALL_EVENTS);
    rename(m.path("f"), m.path("g")).unwrap();
    watch.hears(ReadFlags::MOVE_SELF, "", SOON);
    drop_caches();
    pwrite(&open_rw(m.path("g")).unwrap(), b"y", 0).unwrap();
    watch.hears(ReadFlags::MODIFY, "", SOON);
}

fn watched_file_is_deleted(m: &mut Mount) {
    put(m.path("f"), "x");
    let watch = Watch::on(&m.path("f"), WatchFlags::ALL_EVENTS);
    let file = open_read(m.path("f")).unwrap();
    unlink(m.path("f")).unwrap();
    watch.hears(ReadFlags::ATTRIB, "", SOON);
    assert!(
        !watch
            .heard()
            .iter()
            .any(|(what, _)| what.contains(ReadFlags::DELETE_SELF)),
        "it is still open"
    );
    drop(file);
    watch.hears(ReadFlags::DELETE_SELF, "", SOON);
}

fn expiry_is_heard_by_watches_on_the_file(m: &mut Mount) {
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    let (file, directory) = (
        Watch::on(&m.path("f"), WatchFlags::ALL_EVENTS),
        Watch::on(&m.path("d"), WatchFlags::ALL_EVENTS),
    );
    // A watch is no use that keeps a file.
    file.hears(ReadFlags::DELETE_SELF, "", Duration::from_secs(6));
    directory.hears(ReadFlags::DELETE_SELF, "", Duration::from_secs(6));
    assert!(!exists(m.path("f")));
}
