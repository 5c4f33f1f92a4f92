//! Listing directories while they change.

use crate::common::*;
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

in_default_mode!("":
    listing_shows_what_is_there,
    listing_names_itself_and_its_parent,
    stable_entries_survive_changes_during_a_listing,
    deleting_while_listing_deletes_everything,
    positions_can_be_returned_to,
    rewinding_shows_news,
    two_listings_of_one_directory,
    a_hundred_thousand_entries,
    removed_directory_lists_nothing,
    listing_needs_read_permission_only_at_open,
    entry_types_are_right,
    listing_by_many_at_once,
    tiny_buffers,
);

fn open_dir(path: impl AsRef<Path>) -> Dir {
    Dir::new(open(path, OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap()).unwrap()
}

/// All names that a listing gives, with repetitions, without the dots.
fn read_all(listing: &mut Dir) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(entry) = listing.read() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        if name != "." && name != ".." {
            found.push(name);
        }
    }
    found
}

fn assert_once(found: &[String], wanted: &BTreeSet<String>) {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for name in found {
        *counts.entry(name).or_default() += 1;
    }
    for name in wanted {
        let count = counts.get(name.as_str()).copied().unwrap_or(0);
        assert_eq!(count, 1, "{name} was listed {count} times");
    }
}

fn listing_shows_what_is_there(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    let mut wanted = BTreeSet::new();
    for number in 0..1000 {
        let name = format!("{number:04}-{}", "n".repeat(number % 200));
        put(m.path("d").join(&name), "");
        wanted.insert(name);
    }
    let found = read_all(&mut open_dir(m.path("d")));
    assert_eq!(found.len(), 1000);
    assert_once(&found, &wanted);
    for number in (0..1000).step_by(2) {
        let name = format!("{number:04}-{}", "n".repeat(number % 200));
        unlink(m.path("d").join(&name)).unwrap();
        wanted.remove(&name);
    }
    let found = read_all(&mut open_dir(m.path("d")));
    assert_eq!(found.len(), 500);
    assert_once(&found, &wanted);
}

fn listing_names_itself_and_its_parent(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    mkdir(m.path("d/sub")).unwrap();
    for directory in ["", "d", "d/sub"] {
        let mut listing = open_dir(m.path(directory));
        let mut found = Vec::new();
        while let Some(entry) = listing.read() {
            found.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
        }
        for dots in [".", ".."] {
            assert_eq!(
                found.iter().filter(|name| *name == dots).count(),
                1,
                "{dots} in {directory:?}"
            );
        }
    }
}

fn stable_entries_survive_changes_during_a_listing(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    let stable: BTreeSet<String> = (0..2000).map(|number| format!("stable{number}")).collect();
    for name in &stable {
        put(m.path("d").join(name), "");
    }
    let (stop, directory) = (AtomicBool::new(false), m.path("d"));
    std::thread::scope(|scope| {
        for changer in 0..2 {
            let (stop, directory) = (&stop, &directory);
            scope.spawn(move || {
                let mut random = Random::new(changer);
                while !stop.load(Ordering::Relaxed) {
                    let path = directory.join(format!("changing{changer}.{}", random.below(500)));
                    match random.below(3) {
                        0 => drop(open(&path, OFlags::CREATE | OFlags::WRONLY, 0o644).unwrap()),
                        1 => {
                            let _ = unlink(&path);
                        }
                        _ => {
                            let _ = rename(
                                &path,
                                directory.join(format!("changing{changer}.{}", random.below(500))),
                            );
                        }
                    }
                }
            });
        }
        let outcome = std::panic::catch_unwind(|| {
            for round in 0..15 {
                let mut listing = open_dir(&directory);
                assert_once(&read_all(&mut listing), &stable);
                if round % 3 == 0 {
                    drop_caches();
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn deleting_while_listing_deletes_everything(m: &mut Mount) {
    // `rm -r` reads a bit, deletes that, reads on.
    mkdir(m.path("d")).unwrap();
    for number in 0..5000 {
        put(m.path(format!("d/file{number}")), "");
    }
    let mut listing = open_dir(m.path("d"));
    let mut deleted = 0;
    while let Some(entry) = listing.read() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        if name != "." && name != ".." {
            unlink(m.path("d").join(name)).unwrap();
            deleted += 1;
        }
    }
    assert_eq!(deleted, 5000, "one pass finds them all");
    rmdir(m.path("d")).unwrap();
}

fn positions_can_be_returned_to(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    for number in 0..3000 {
        put(m.path(format!("d/file{number}")), "");
    }
    let mut listing = open_dir(m.path("d"));
    let mut all: Vec<(String, i64)> = Vec::new();
    while let Some(entry) = listing.read() {
        let entry = entry.unwrap();
        all.push((
            entry.file_name().to_str().unwrap().to_owned(),
            entry.offset(),
        ));
    }
    assert_eq!(all.len(), 3002);
    let mut random = Random::new(1);
    for _ in 0..200 {
        let at = random.below(3001) as usize;
        listing.seek(all[at].1).unwrap();
        let next = listing.read().expect("not the end").unwrap();
        assert_eq!(
            next.file_name().to_str().unwrap(),
            all[at + 1].0,
            "after the entry at {at}"
        );
    }
    listing.seek(all[3001].1).unwrap();
    assert!(listing.read().is_none(), "the end");
    // A position stays good when entries before and behind it go.
    for number in 0..2000 {
        unlink(m.path(format!("d/file{number}"))).unwrap();
    }
    let exists = |name: &str| {
        name.strip_prefix("file")
            .is_none_or(|number| number.parse::<u32>().unwrap() >= 2000)
    };
    for at in (0..3001).step_by(97) {
        let mut other = open_dir(m.path("d"));
        other.seek(all[at].1).unwrap();
        let found = read_all(&mut other);
        let wanted: BTreeSet<String> = all[at + 1..]
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| !name.starts_with('.') && exists(name))
            .collect();
        assert_once(&found, &wanted);
        // tmpfs itself begins anew at the position of an entry that is gone.
        if !store::is_default(StoreKind::Tmpfs) {
            assert_eq!(found.len(), wanted.len(), "from {at} on");
        }
    }
}

fn rewinding_shows_news(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("d/a"), "");
    let mut listing = open_dir(m.path("d"));
    assert_eq!(read_all(&mut listing), ["a"]);
    for round in 0..10 {
        put(m.path(format!("d/b{round}")), "");
        listing.rewind();
        let found = read_all(&mut listing);
        assert_eq!(
            found.len(),
            round + 2,
            "what was made before rewinddir is seen"
        );
    }
    unlink(m.path("d/a")).unwrap();
    listing.rewind();
    assert!(!read_all(&mut listing).contains(&"a".to_owned()));
}

fn two_listings_of_one_directory(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    let wanted: BTreeSet<String> = (0..1000).map(|number| format!("file{number}")).collect();
    for name in &wanted {
        put(m.path("d").join(name), "");
    }
    let (mut one, mut two) = (open_dir(m.path("d")), open_dir(m.path("d")));
    let (mut from_one, mut from_two) = (Vec::new(), Vec::new());
    let mut random = Random::new(2);
    let take = |listing: &mut Dir, found: &mut Vec<String>| {
        if let Some(entry) = listing.read() {
            found.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
        }
    };
    for _ in 0..3000 {
        if random.chance(2) {
            take(&mut one, &mut from_one);
        } else {
            take(&mut two, &mut from_two);
        }
    }
    from_one.extend(read_all(&mut one));
    from_two.extend(read_all(&mut two));
    assert_once(&from_one, &wanted);
    assert_once(&from_two, &wanted);
}

fn a_hundred_thousand_entries(m: &mut Mount) {
    const COUNT: usize = 100_000;
    mkdir(m.path("d")).unwrap();
    // Made behind the mount: this is about listing them.
    for number in 0..COUNT {
        let (path, flags) = (
            m.back(format!("d/entry-{number}")),
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
        );
        drop(open(path, flags, 0o644).unwrap());
    }
    for _ in 0..2 {
        let found = read_all(&mut open_dir(m.path("d")));
        assert_eq!(found.len(), COUNT);
        let distinct: BTreeSet<&String> = found.iter().collect();
        assert_eq!(distinct.len(), COUNT);
        drop_caches();
    }
    // With attributes, as `ls -l` wants them.
    let mut bytes = 0;
    for entry in std::fs::read_dir(m.path("d")).unwrap().take(20_000) {
        bytes += entry.unwrap().metadata().unwrap().len();
    }
    assert_eq!(bytes, 0);
    m.assert_alive();
}

fn removed_directory_lists_nothing(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "");
    let mut listing = open_dir(m.path("d"));
    let inside = open(m.path("d"), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    unlink(m.path("d/f")).unwrap();
    rmdir(m.path("d")).unwrap();
    loop {
        match listing.read() {
            None | Some(Err(Errno::NOENT)) => break,
            Some(entry) => {
                let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
                assert!(name == "." || name == "..", "{name}");
            }
        }
    }
    mkdir(m.path("d")).unwrap();
    put(m.path("d/new"), "");
    assert_eq!(fstat(&inside).st_nlink, 0);
    let again = Dir::read_from(&inside).and_then(|mut listing| listing.read().transpose());
    assert!(!matches!(again, Ok(Some(entry)) if entry.file_name().to_bytes() == b"new"));
}

fn listing_needs_read_permission_only_at_open(m: &mut Mount) {
    mkdir_mode(m.path("d"), 0o755).unwrap();
    for number in 0..100 {
        put(m.path(format!("d/file{number}")), "");
    }
    let mut listing = BOB.run(|| open_dir(m.path("d")));
    chmod(m.path("d"), 0o700).unwrap();
    BOB.run(|| {
        assert_eq!(read_all(&mut listing).len(), 100);
        fails(Errno::ACCESS, open(m.path("d"), OFlags::DIRECTORY, 0));
    });
}

fn entry_types_are_right(m: &mut Mount) {
    use rustix::fs::FileType;
    mkdir(m.path("d")).unwrap();
    put(m.path("f"), "");
    symlink("f", m.path("l")).unwrap();
    mknod(m.path("p"), FileType::Fifo, 0o600, 0).unwrap();
    mknod(m.path("s"), FileType::Socket, 0o600, 0).unwrap();
    let mut listing = open_dir(m.root());
    while let Some(entry) = listing.read() {
        let entry = entry.unwrap();
        let expected = match entry.file_name().to_bytes() {
            b"f" => FileType::RegularFile,
            b"l" => FileType::Symlink,
            b"p" => FileType::Fifo,
            b"s" => FileType::Socket,
            _ => FileType::Directory,
        };
        assert_eq!(entry.file_type(), expected, "{:?}", entry.file_name());
    }
}

fn listing_by_many_at_once(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    for number in 0..500 {
        put(m.path(format!("d/file{number}")), "");
    }
    let directory = m.path("d");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(read_all(&mut open_dir(&directory)).len(), 500);
                }
            });
        }
    });
    // One descriptor shared by threads: each entry once, to one of them.
    let shared = open(&directory, OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    let found = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
                let mut listing = rustix::fs::RawDir::new(&shared, &mut buffer);
                while let Some(entry) = listing.next() {
                    let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
                    found.lock().unwrap().push(name);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    let total = found.len();
    found.dedup();
    assert_eq!((found.len(), total), (502, 502));
}

fn tiny_buffers(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    for number in 0..300 {
        put(m.path(format!("d/{number}{}", "x".repeat(200))), "");
    }
    // Room for one long entry only.
    let mut buffer = [std::mem::MaybeUninit::uninit(); 300];
    let directory = open(m.path("d"), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    let mut listing = rustix::fs::RawDir::new(&directory, &mut buffer);
    let mut count = 0;
    while let Some(entry) = listing.next() {
        entry.unwrap();
        count += 1;
    }
    assert_eq!(count, 302);
    // None at all.
    let mut buffer = [std::mem::MaybeUninit::uninit(); 24];
    rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(0)).unwrap();
    let mut listing = rustix::fs::RawDir::new(&directory, &mut buffer);
    let mut outcome = Ok(());
    while let Some(entry) = listing.next() {
        if let Err(errno) = entry {
            outcome = Err(errno);
            break;
        }
    }
    fails(Errno::INVAL, outcome);
}
