//! Files past their deadline: gone on access, whatever is cached; kept in use; removed by the reaper.

use crate::common::*;
use rustix::fs::{Access, FileType, OFlags, RenameFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

in_default_mode!("ttl=2s":
    no_call_finds_an_expired_name,
    listings_lose_expired_names_at_once,
    by_descriptor_of_the_directory,
    changing_calls_miss_expired_names,
    names_are_free_at_once,
    directories_with_expired_names_only_are_empty,
    reaper_removes_from_the_store,
    all_kinds_of_files_expire,
    hard_links_expire_together,
    empty_directories_expire,
    created_cannot_be_fooled,
    copies_have_lifetimes_of_their_own,
    deadlines_survive_a_remount,
    expired_while_unmounted,
    many_files_expire,
    races_with_the_deadline,
);
in_default_mode!("ttl=1h,rule=/short:ttl=2s":
    subtree_expires_alone,
    moved_file_gets_the_new_rules_lifetime,
);
in_default_mode!("ttl=2s,rule=/keep:ttl=never": subtree_is_kept);
in_default_mode!("ttl=2s,ttl_from=modified": modification_prolongs);
in_default_mode!("ttl=2s,ttl_from=accessed": access_prolongs);

const TTL: Duration = Duration::from_secs(2);
/// A name must not be found by a call that begins this long after its deadline.
const EXACTNESS: Duration = Duration::from_millis(10);
/// When the reaper must have removed it, and something that came out of use be gone; with room for a busy machine.
pub const REAPED: Duration = Duration::from_secs(3);

/// The file's deadline, from the birth time that the backing store knows.
fn deadline(m: &Mount, name: impl AsRef<Path>) -> SystemTime {
    birth(m.back(name)) + TTL
}

/// Asks again and again until well past the deadline: never found by a call that began too late, and found by all
/// that ended before it.
#[track_caller]
fn exact(what: &str, deadline: SystemTime, mut found: impl FnMut() -> bool) {
    let (mut found_early, mut missed_late) = (0, 0);
    while missed_late < 20 {
        let begin = SystemTime::now();
        let answer = found();
        let end = SystemTime::now();
        if begin >= deadline + EXACTNESS {
            let late = begin.duration_since(deadline).unwrap();
            assert!(!answer, "{what} still found it {late:?} after its deadline");
            missed_late += 1;
        } else if end < deadline {
            assert!(
                answer,
                "{what} missed it {:?} before its deadline",
                deadline.duration_since(end).unwrap()
            );
            found_early += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(
        found_early > 0,
        "{what}: the deadline had passed before it was asked"
    );
}

/// Waits until the names must be gone.
pub fn until_expired(m: &Mount, name: impl AsRef<Path>) {
    wait::until(deadline(m, name) + EXACTNESS);
}

#[track_caller]
fn found(outcome: impl Outcome) -> bool {
    match outcome.errno() {
        None => true,
        Some(Errno::NOENT) => false,
        Some(errno) => panic!("{errno:?}"),
    }
}

fn no_call_finds_an_expired_name(m: &mut Mount) {
    type Probe = fn(&Path) -> bool;
    let probes: [(&str, Probe); 9] = [
        ("stat", |path| found(stat(path))),
        ("lstat", |path| found(lstat(path))),
        ("access", |path| {
            found(rustix::fs::access(path, Access::READ_OK))
        }),
        ("getxattr", |path| found(xattr(path, "user.ttlfs.created"))),
        ("statx", |path| path.symlink_metadata().is_ok()),
        ("chmod", |path| found(chmod(path, 0o644))),
        ("utimensat", |path| found(set_times(path, NOW, OMIT))),
        ("statfs", |path| found(rustix::fs::statfs(path))),
        ("exists", |path| path.try_exists().unwrap()),
    ];
    std::thread::scope(|scope| {
        let threads: Vec<_> = probes
            .into_iter()
            .map(|(what, probe)| {
                let m = &*m;
                scope.spawn(move || {
                    put(m.path(what), "x");
                    exact(what, deadline(m, what), || probe(&m.path(what)));
                })
            })
            .collect();
        // Opening can't be asked in a loop across the deadline: an open file is in use. So once, as early as allowed.
        put(m.path("open"), "x");
        until_expired(m, "open");
        fails(Errno::NOENT, open_read(m.path("open")));
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
    assert!(names(m.root()).is_empty());
}

fn listings_lose_expired_names_at_once(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("d/first"), "x");
    // Kept, so that the directory isn't empty.
    let kept = create(m.path("d/kept"));
    exact("readdir", deadline(m, "d/first"), || {
        names(m.path("d")).contains(&"first".into())
    });
    assert_eq!(names(m.path("d")), ["kept"]);
    drop(kept);
}

fn by_descriptor_of_the_directory(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    let directory = open(m.path("d"), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    put(m.path("d/f"), "x");
    let flags = rustix::fs::AtFlags::empty();
    exact("fstatat", deadline(m, "d/f"), || {
        found(rustix::fs::statat(&directory, "f", flags))
    });
}

fn changing_calls_miss_expired_names(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    for number in 0..10 {
        put(m.path(format!("f{number}")), "x");
        stat(m.path(format!("f{number}"))).unwrap();
    }
    until_expired(m, "f9");
    fails(Errno::NOENT, unlink(m.path("f0")));
    fails(Errno::NOENT, rename(m.path("f1"), m.path("g")));
    fails(Errno::NOENT, link(m.path("f2"), m.path("g")));
    fails(Errno::NOENT, truncate(m.path("f3"), 0));
    fails(Errno::NOENT, chown(m.path("f4"), 1, 1));
    fails(Errno::NOENT, set_xattr(m.path("f5"), "user.a", b"x"));
    fails(
        Errno::NOENT,
        rename_with(m.path("f6"), m.path("f7"), RenameFlags::EXCHANGE),
    );
    fails(
        Errno::NOENT,
        open(m.path("f8"), OFlags::WRONLY | OFlags::TRUNC, 0),
    );
    fails(Errno::NOENT, std::fs::read_link(m.path("f9")));
    assert!(!exists(m.path("g")));
}

fn names_are_free_at_once(m: &mut Mount) {
    let all = [
        "create",
        "mkdir",
        "symlink",
        "link",
        "rename",
        "noreplace",
        "mknod",
    ];
    for name in all {
        put(m.path(name), "old");
        stat(m.path(name)).unwrap();
    }
    wait::until(deadline(m, "create") - Duration::from_millis(700));
    for number in 0..3 {
        put(m.path(format!("new{number}")), "new");
    }
    until_expired(m, "mknod");
    let file = try_create(m.path("create")).unwrap();
    assert_eq!(fstat(&file).st_size, 0);
    mkdir(m.path("mkdir")).unwrap();
    symlink("x", m.path("symlink")).unwrap();
    link(m.path("new0"), m.path("link")).unwrap();
    rename(m.path("new1"), m.path("rename")).unwrap();
    rename_with(m.path("new2"), m.path("noreplace"), RenameFlags::NOREPLACE).unwrap();
    mknod(m.path("mknod"), FileType::Fifo, 0o600, 0).unwrap();
    assert_eq!(
        (get(m.path("rename")), get(m.path("noreplace"))),
        (b"new".to_vec(), b"new".to_vec())
    );
    // The new files live their own lives: they are there for long after the reaper has come for the old ones.
    wait::until(deadline(m, "create") - Duration::from_millis(200));
    for name in ["create", "mkdir", "symlink", "mknod"] {
        lstat(m.path(name)).unwrap_or_else(|errno| panic!("{name}: {errno:?}"));
    }
}

fn directories_with_expired_names_only_are_empty(m: &mut Mount) {
    for directory in ["a", "b", "c"] {
        mkdir(m.path(directory)).unwrap();
        put(m.path(directory).join("f"), "x");
        assert_eq!(names(m.path(directory)), ["f"]);
    }
    fails(Errno::NOTEMPTY, rmdir(m.path("a")));
    until_expired(m, "c/f");
    rmdir(m.path("a")).unwrap();
    assert!(names(m.path("b")).is_empty());
    mkdir(m.path("d")).unwrap();
    rename(m.path("d"), m.path("b")).unwrap();
    // A directory can replace it and be filled again.
    put(m.path("c/f"), "new");
    assert_eq!(get(m.path("c/f")), b"new");
    fails(Errno::NOTEMPTY, rmdir(m.path("c")));
}

fn reaper_removes_from_the_store(m: &mut Mount) {
    for number in 0..20 {
        put(m.path(format!("f{number}")), pattern(10_000, number));
    }
    let end = deadline(m, "f19");
    // Nobody asks through the mount meanwhile.
    wait::until(end);
    eventually(REAPED, "gone from the backing directory", || {
        !names(m.backing())
            .iter()
            .any(|name| name.to_str().is_some_and(|name| name.starts_with('f')))
    });
}

fn all_kinds_of_files_expire(m: &mut Mount) {
    symlink("nowhere", m.path("l")).unwrap();
    mknod(m.path("p"), FileType::Fifo, 0o600, 0).unwrap();
    mknod(m.path("s"), FileType::Socket, 0o600, 0).unwrap();
    mknod(
        m.path("c"),
        FileType::CharacterDevice,
        0o600,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    put(m.path("f"), "x");
    until_expired(m, "f");
    for name in ["l", "p", "s", "c", "f"] {
        fails(Errno::NOENT, lstat(m.path(name)));
        assert!(
            !exists(m.back(name)) || wait::comes_true(REAPED, || !exists(m.back(name))),
            "{name}"
        );
    }
}

fn hard_links_expire_together(m: &mut Mount) {
    put(m.path("a"), "x");
    wait::until(deadline(m, "a") - Duration::from_millis(500));
    link(m.path("a"), m.path("b")).unwrap();
    mkdir(m.path("d")).unwrap();
    link(m.path("a"), m.path("d/c")).unwrap();
    until_expired(m, "a");
    for name in ["a", "b", "d/c"] {
        fails(Errno::NOENT, stat(m.path(name)));
    }
    eventually(REAPED, "all names are gone", || {
        ["a", "b", "d/c"].iter().all(|name| !exists(m.back(name)))
    });
}

fn empty_directories_expire(m: &mut Mount) {
    mkdir(m.path("empty")).unwrap();
    mkdir(m.path("outer")).unwrap();
    mkdir(m.path("outer/inner")).unwrap();
    mkdir(m.path("filled")).unwrap();
    let kept = create(m.path("filled/f"));
    until_expired(m, "empty");
    eventually(REAPED, "the empty ones are gone", || {
        !exists(m.path("empty")) && !exists(m.path("outer/inner"))
    });
    // The outer one held something until now: its time runs from then.
    eventually(TTL + REAPED, "the outer one follows", || {
        !exists(m.path("outer"))
    });
    stat(m.path("filled")).unwrap();
    drop(kept);
    // The root stays, whatever happens below.
    eventually(TTL + REAPED + REAPED, "all is gone", || {
        names(m.root()).is_empty()
    });
    stat(m.root()).unwrap();
    put(m.path("f"), "x");
}

fn created_cannot_be_fooled(m: &mut Mount) {
    let day = 86_400_000_000_000;
    for name in ["future", "past", "touched", "written", "renamed"] {
        put(m.path(name), "x");
    }
    let at = |nanoseconds: i128| timespec((nanoseconds / 1_000_000_000) as i64, 0);
    set_times(m.path("future"), at(now() + day), at(now() + day)).unwrap();
    set_times(m.path("past"), at(now() - day), at(now() - day)).unwrap();
    let end = deadline(m, "future");
    wait::until(end - Duration::from_millis(300));
    lstat(m.path("past")).unwrap();
    process::tool("touch", &[&m.path("touched").display().to_string()]);
    std::fs::write(m.path("written"), "more").unwrap();
    rename(m.path("renamed"), m.path("moved")).unwrap();
    until_expired(m, "written");
    assert!(names(m.root()).is_empty(), "{:?}", names(m.root()));
}

fn copies_have_lifetimes_of_their_own(m: &mut Mount) {
    let old = scratch::fresh("old");
    std::fs::write(&old, "x").unwrap();
    set_times(&old, timespec(1, 0), timespec(1, 0)).unwrap();
    let (from, to) = (
        old.display().to_string(),
        m.path("copy").display().to_string(),
    );
    process::tool("cp", &["-p", &from, &to]);
    assert_eq!(stat(m.path("copy")).unwrap().st_mtime, 1);
    exact("stat of a copy", deadline(m, "copy"), || {
        found(stat(m.path("copy")))
    });
    std::fs::remove_file(old).unwrap();
}

fn deadlines_survive_a_remount(m: &mut Mount) {
    put(m.path("f"), "x");
    let end = deadline(m, "f");
    m.remount();
    if SystemTime::now() < end {
        exact("stat after a remount", end, || found(stat(m.path("f"))));
    }
    fails(Errno::NOENT, stat(m.path("f")));
}

fn expired_while_unmounted(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "x");
    put(m.path("g"), "x");
    let end = deadline(m, "g");
    m.unmount();
    wait::until(end);
    assert!(
        m.back("g").exists() && m.back("d/f").exists(),
        "nobody removes while nothing is mounted"
    );
    m.mount();
    wait::until(end + EXACTNESS);
    fails(Errno::NOENT, stat(m.path("g")));
    fails(Errno::NOENT, stat(m.path("d/f")));
    eventually(REAPED, "removed from the store", || {
        !m.back("g").exists() && !m.back("d/f").exists()
    });
}

fn many_files_expire(m: &mut Mount) {
    for directory in 0..10 {
        mkdir(m.path(format!("d{directory}"))).unwrap();
        for number in 0..200 {
            put(m.path(format!("d{directory}/f{number}")), "x");
        }
    }
    until_expired(m, "d9/f199");
    for directory in 0..10 {
        assert!(
            !exists(m.path(format!("d{directory}")))
                || names(m.path(format!("d{directory}"))).is_empty()
        );
    }
    eventually(REAPED, "all are removed", || {
        (0..10).all(|directory| {
            let path = m.back(format!("d{directory}"));
            std::fs::read_dir(path).map_or(0, |listing| listing.count()) == 0
        })
    });
}

fn races_with_the_deadline(m: &mut Mount) {
    // Programs that work on names that expire under their hands: honest errors only.
    for round in 0..40 {
        put(m.path(format!("f{round}")), "x");
        mkdir(m.path(format!("d{round}"))).unwrap();
        put(m.path(format!("d{round}/f")), "x");
        std::thread::sleep(Duration::from_millis(10));
    }
    let end = deadline(m, "f39") + Duration::from_millis(200);
    let root: PathBuf = m.root().into();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let root = &root;
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while SystemTime::now() < end {
                    let (one, two) = (random.below(40), random.below(40));
                    let (file, inner) =
                        (root.join(format!("f{one}")), root.join(format!("d{two}/f")));
                    let outcome = match random.below(7) {
                        0 => stat(&file).errno(),
                        1 => chmod(&file, 0o600).errno(),
                        2 => std::fs::read_dir(root.join(format!("d{two}")))
                            .map(Iterator::count)
                            .errno(),
                        3 => rename(&file, &inner).errno(),
                        4 => link(&inner, root.join(format!("l{one}"))).errno(),
                        5 => truncate(&inner, 100).errno(),
                        _ => rmdir(root.join(format!("d{two}"))).errno(),
                    };
                    let honest = [Errno::NOENT, Errno::EXIST, Errno::NOTEMPTY];
                    assert!(
                        outcome.is_none_or(|errno| honest.contains(&errno)),
                        "{outcome:?}"
                    );
                }
            });
        }
    });
    m.assert_alive();
    eventually(TTL + REAPED, "all files are gone", || {
        names(m.root())
            .iter()
            .all(|name| name.to_str().is_some_and(|name| name.starts_with('d')))
    });
}

fn subtree_expires_alone(m: &mut Mount) {
    mkdir(m.path("short")).unwrap();
    mkdir(m.path("short/sub")).unwrap();
    mkdir(m.path("shorter")).unwrap();
    for name in ["f", "short/f", "short/sub/f", "shorter/f"] {
        put(m.path(name), "x");
    }
    until_expired(m, "short/sub/f");
    fails(Errno::NOENT, stat(m.path("short/f")));
    fails(Errno::NOENT, stat(m.path("short/sub/f")));
    stat(m.path("f")).unwrap();
    stat(m.path("shorter/f")).unwrap();
    stat(m.path("short")).expect("a rule's own directory never expires");
}

fn subtree_is_kept(m: &mut Mount) {
    mkdir(m.path("keep")).unwrap();
    mkdir(m.path("keep/empty")).unwrap();
    put(m.path("keep/f"), "x");
    put(m.path("f"), "x");
    until_expired(m, "f");
    fails(Errno::NOENT, stat(m.path("f")));
    never(Duration::from_secs(2), "what is kept is gone", || {
        !exists(m.path("keep/f")) || !exists(m.path("keep/empty"))
    });
}

fn moved_file_gets_the_new_rules_lifetime(m: &mut Mount) {
    mkdir(m.path("short")).unwrap();
    put(m.path("f"), "x");
    wait::until(birth(m.back("f")) + TTL + Duration::from_millis(300));
    let moved = SystemTime::now();
    rename(m.path("f"), m.path("short/f")).unwrap();
    // Not gone in the moment it arrives, but one lifetime later.
    wait::until(moved + TTL / 2);
    stat(m.path("short/f")).unwrap();
    wait::until(moved + TTL - Duration::from_millis(100));
    stat(m.path("short/f")).unwrap();
    eventually(REAPED, "gone", || !exists(m.path("short/f")));
    // And a short-lived one that is moved out lives on.
    put(m.path("short/g"), "x");
    rename(m.path("short/g"), m.path("g")).unwrap();
    wait::until(birth(m.back("g")) + TTL + Duration::from_millis(500));
    stat(m.path("g")).unwrap();
}

fn modification_prolongs(m: &mut Mount) {
    put(m.path("written"), "x");
    put(m.path("read"), "x");
    put(m.path("appended"), "x");
    let end = deadline(m, "appended");
    wait::until(end - Duration::from_millis(700));
    std::fs::write(m.path("written"), "more").unwrap();
    let file = open(m.path("appended"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    rustix::io::write(&file, b"more").unwrap();
    drop(file);
    get(m.path("read"));
    wait::until(end + EXACTNESS);
    fails(Errno::NOENT, stat(m.path("read")));
    stat(m.path("written")).unwrap();
    stat(m.path("appended")).unwrap();
    let mtime = stat(m.path("written")).unwrap();
    let end = SystemTime::UNIX_EPOCH
        + Duration::new(mtime.st_mtime as u64, mtime.st_mtime_nsec as u32)
        + TTL;
    exact("stat of a modified file", end, || {
        found(stat(m.path("written")))
    });
    // A time in the past counts as well: that is what the rule says.
    put(m.path("old"), "x");
    set_times(m.path("old"), OMIT, timespec(1_000, 0)).unwrap();
    eventually(EXACTNESS * 10, "gone", || !exists(m.path("old")));
}

fn access_prolongs(m: &mut Mount) {
    put(m.path("read"), "x");
    put(m.path("idle"), "x");
    put(m.path("looked"), "x");
    let end = deadline(m, "looked");
    wait::until(end - Duration::from_millis(700));
    get(m.path("read"));
    let opened = SystemTime::now();
    stat(m.path("looked")).unwrap();
    wait::until(end + EXACTNESS * 2);
    fails(Errno::NOENT, stat(m.path("idle")));
    fails(Errno::NOENT, stat(m.path("looked")));
    stat(m.path("read")).unwrap();
    wait::until(opened + TTL + EXACTNESS * 5);
    fails(Errno::NOENT, stat(m.path("read")));
}
