//! Mapped files: coherent with reads and writes, alive after close, and their effect on times.

use crate::common::sys::{Mapping, Sharing};
use crate::common::*;
use rustix::fs::{OFlags, ftruncate};
use rustix::io::Errno;
use std::os::unix::fs::FileExt as _;

in_each_io_mode!("":
    shared_mapping_sees_writes_and_shows_stores,
    private_mapping_keeps_its_stores,
    mapping_outlives_its_descriptor,
    mapping_outlives_its_name,
    two_mappings_are_one,
    stores_through_a_mapping_move_mtime,
    mapped_stores_reach_the_store,
    mapping_needs_the_right_descriptor,
    tail_of_the_last_page_is_zeros,
    mapping_of_a_growing_file,
    sqlite_like_sharing,
);

const PAGE: usize = 4096;

fn shared_mapping_sees_writes_and_shows_stores(m: &mut Mount) {
    let file = create(m.path("f"));
    file.write_all_at(&pattern(8 * PAGE, 1), 0).unwrap();
    let map = Mapping::new(&file, 8 * PAGE, Sharing::Shared).unwrap();
    let reader = open_read(m.path("f")).unwrap();
    assert_eq!(map.bytes(0, 8 * PAGE), pattern(8 * PAGE, 1));
    for round in 0..100u64 {
        let at = (round as usize * 1013) % (7 * PAGE);
        let bytes = pattern(100, round);
        file.write_all_at(&bytes, at as u64).unwrap();
        assert_eq!(map.bytes(at, 100), bytes, "a write shows in the mapping");
        let bytes = pattern(100, 1000 + round);
        map.put(at + 50, &bytes);
        assert_eq!(
            pread(&reader, 100, at as u64 + 50).unwrap(),
            bytes,
            "a store shows in a read"
        );
        assert_eq!(
            pread(&open_read(m.path("f")).unwrap(), 100, at as u64 + 50).unwrap(),
            bytes,
            "in a new open too"
        );
    }
}

fn private_mapping_keeps_its_stores(m: &mut Mount) {
    put(m.path("f"), pattern(2 * PAGE, 2));
    let file = open_read(m.path("f")).unwrap();
    let map = Mapping::new(&file, 2 * PAGE, Sharing::Private).unwrap();
    map.put(100, b"mine alone");
    assert_eq!(map.bytes(100, 10), b"mine alone");
    assert!(get(m.path("f")) == pattern(2 * PAGE, 2));
    // A page not yet stored to shows what others write.
    pwrite(&open_rw(m.path("f")).unwrap(), b"others", PAGE as u64 + 7).unwrap();
    assert_eq!(map.bytes(PAGE + 7, 6), b"others");
    drop(map);
    assert_eq!(
        pread(&file, 10, 100).unwrap(),
        &pattern(2 * PAGE, 2)[100..110]
    );
}

fn mapping_outlives_its_descriptor(m: &mut Mount) {
    let file = create(m.path("f"));
    ftruncate(&file, 4 * PAGE as u64).unwrap();
    let map = Mapping::new(&file, 4 * PAGE, Sharing::Shared).unwrap();
    drop(file);
    drop_caches();
    for round in 0..20u8 {
        map.put(PAGE * (round as usize % 4), &[round + 1; 100]);
        // Others come and go meanwhile, through all kinds of descriptors.
        let file = open_rw(m.path("f")).unwrap();
        assert_eq!(
            pread(&file, 100, (PAGE * (round as usize % 4)) as u64).unwrap(),
            [round + 1; 100]
        );
        pwrite(
            &file,
            &[round + 101; 50],
            (PAGE * (round as usize % 4)) as u64 + 200,
        )
        .unwrap();
        drop(file);
        assert_eq!(
            map.bytes(PAGE * (round as usize % 4) + 200, 50),
            [round + 101; 50]
        );
        assert_eq!(get(m.path("f")).len(), 4 * PAGE);
    }
}

fn mapping_outlives_its_name(m: &mut Mount) {
    put(m.path("f"), pattern(2 * PAGE, 3));
    let map = {
        let file = open_rw(m.path("f")).unwrap();
        Mapping::new(&file, 2 * PAGE, Sharing::Shared).unwrap()
    };
    unlink(m.path("f")).unwrap();
    put(m.path("f"), "another file");
    drop_caches();
    assert_eq!(map.bytes(0, 2 * PAGE), pattern(2 * PAGE, 3));
    map.put(10, b"still here");
    map.sync().unwrap();
    assert_eq!(map.bytes(10, 10), b"still here");
    assert_eq!(get(m.path("f")), b"another file");
}

fn two_mappings_are_one(m: &mut Mount) {
    put(m.path("f"), vec![0; 2 * PAGE]);
    link(m.path("f"), m.path("g")).unwrap();
    let one = Mapping::new(open_rw(m.path("f")).unwrap(), 2 * PAGE, Sharing::Shared).unwrap();
    let two = Mapping::new(open_rw(m.path("g")).unwrap(), 2 * PAGE, Sharing::Shared).unwrap();
    let seen = Mapping::new(
        open_read(m.path("f")).unwrap(),
        2 * PAGE,
        Sharing::SharedReadOnly,
    )
    .unwrap();
    for round in 0..50usize {
        one.put(round * 7, &[round as u8 + 1]);
        two.put(PAGE + round * 7, &[round as u8 + 2]);
        assert_eq!(
            (two.get(round * 7), one.get(PAGE + round * 7)),
            (round as u8 + 1, round as u8 + 2)
        );
        assert_eq!(
            (seen.get(round * 7), seen.get(PAGE + round * 7)),
            (round as u8 + 1, round as u8 + 2)
        );
    }
}

fn stores_through_a_mapping_move_mtime(m: &mut Mount) {
    put(m.path("f"), vec![0; PAGE]);
    set_times(m.path("f"), timespec(1_000, 0), timespec(1_000, 0)).unwrap();
    let map = Mapping::new(open_rw(m.path("f")).unwrap(), PAGE, Sharing::Shared).unwrap();
    assert_eq!(
        mtime(&stat(m.path("f")).unwrap()),
        1_000_000_000_000,
        "mapping alone moves nothing"
    );
    map.put(0, b"stored");
    map.sync().unwrap();
    let after = stat(m.path("f")).unwrap();
    assert!(mtime(&after) > 1_000_000_000_000, "mtime after msync");
    assert!(
        (now() - mtime(&after)).abs() < 60_000_000_000,
        "a time of now"
    );
    if store::is_default(StoreKind::Tmpfs) {
        return skip("tmpfs itself notices only msync");
    }
    // Without msync, at the latest when it is unmapped and everybody has closed it.
    set_times(m.path("f"), timespec(2_000, 0), timespec(2_000, 0)).unwrap();
    map.put(0, b"again");
    drop(map);
    rustix::fs::fsync(open_rw(m.path("f")).unwrap()).unwrap();
    assert!(
        mtime(&stat(m.path("f")).unwrap()) > 2_000_000_000_000,
        "mtime after munmap and fsync"
    );
}

fn mapped_stores_reach_the_store(m: &mut Mount) {
    let content = pattern(100 * PAGE, 4);
    let file = create(m.path("f"));
    ftruncate(&file, content.len() as u64).unwrap();
    let map = Mapping::new(&file, content.len(), Sharing::Shared).unwrap();
    map.put(0, &content);
    drop((map, file));
    m.remount();
    assert!(get(m.path("f")) == content);
}

fn mapping_needs_the_right_descriptor(m: &mut Mount) {
    put(m.path("f"), vec![0; PAGE]);
    let reader = open_read(m.path("f")).unwrap();
    fails(
        Errno::ACCESS,
        Mapping::new(&reader, PAGE, Sharing::Shared).map(drop),
    );
    Mapping::new(&reader, PAGE, Sharing::Private).unwrap();
    let writer = open(m.path("f"), OFlags::WRONLY, 0).unwrap();
    fails(
        Errno::ACCESS,
        Mapping::new(&writer, PAGE, Sharing::SharedReadOnly).map(drop),
    );
    let directory = open(m.root(), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    fails(
        Errno::NODEV,
        Mapping::new(&directory, PAGE, Sharing::Private).map(drop),
    );
}

fn tail_of_the_last_page_is_zeros(m: &mut Mount) {
    put(m.path("f"), vec![7; 100]);
    let file = open_rw(m.path("f")).unwrap();
    let map = Mapping::new(&file, PAGE, Sharing::Shared).unwrap();
    assert_eq!(map.bytes(99, 2), [7, 0]);
    // What is stored beyond the end never becomes content.
    map.put(200, b"beyond");
    map.sync().unwrap();
    assert_eq!(get(m.path("f")), [7; 100]);
    drop(map);
    if store::is_default(StoreKind::Tmpfs) {
        return skip("tmpfs itself keeps what was stored there");
    }
    drop_caches();
    ftruncate(&file, 1000).unwrap();
    assert!(
        pread(&file, 900, 100)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
}

fn mapping_of_a_growing_file(m: &mut Mount) {
    let file = create(m.path("f"));
    ftruncate(&file, PAGE as u64).unwrap();
    let map = Mapping::new(&file, 8 * PAGE, Sharing::Shared).unwrap();
    map.put(0, b"first");
    ftruncate(&file, 8 * PAGE as u64).unwrap();
    map.put(7 * PAGE, b"last");
    assert_eq!(pread(&file, 4, 7 * PAGE as u64).unwrap(), b"last");
    pwrite(&file, b"written", 3 * PAGE as u64).unwrap();
    assert_eq!(map.bytes(3 * PAGE, 7), b"written");
}

fn sqlite_like_sharing(m: &mut Mount) {
    // A write-ahead log's index: a small file, mapped by several who also read and grow it.
    let file = create(m.path("shm"));
    ftruncate(&file, 8 * PAGE as u64).unwrap();
    let maps: Vec<Mapping> = (0..4)
        .map(|_| Mapping::new(open_rw(m.path("shm")).unwrap(), 8 * PAGE, Sharing::Shared).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for (number, map) in maps.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..2000usize {
                    map.set(number * PAGE + round % PAGE, (round % 251) as u8);
                }
            });
        }
    });
    for number in 0..4 {
        for round in (0..2000usize).rev().take(PAGE.min(2000)) {
            assert_eq!(
                maps[3 - number].get(number * PAGE + round),
                (round % 251) as u8
            );
        }
    }
    if process::installed("sqlite3") {
        let database = m.path("db.sqlite").display().to_string();
        let found = process::tool("sqlite3", &[
            &database,
            "pragma journal_mode=wal; create table t(x); insert into t select value from generate_series(1,500);
             select count(*), sum(x) from t; pragma integrity_check;",
        ]);
        assert!(
            found.contains("500|125250") && found.contains("ok"),
            "{found}"
        );
    }
}
