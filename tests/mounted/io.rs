//! Reading and writing, in every mode of I/O.

use crate::common::*;
use rustix::fs::{
    CWD, FallocateFlags, OFlags, SeekFrom, fallocate, fdatasync, fsync, ftruncate, seek,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;

in_each_io_mode!("":
    what_is_written_is_read,
    sizes_show_at_once,
    appends_land_at_the_end,
    appends_of_many_never_overlap,
    append_ignores_offsets,
    exclusive_open_flags,
    vectors_and_short_buffers,
    unaligned_large_writes,
    two_descriptors_see_each_other,
    readers_and_writers_of_one_file,
    reading_past_the_end,
    write_errors,
    syncing,
    synchronous_descriptors,
    many_open_files,
    open_flags_are_kept,
    concurrent_writes_to_disjoint_blocks,
    data_survives_remount,
    changes_behind_the_mount_of_nothing,
    random_io_equals_memory,
    leases_of_tools,
);

fn what_is_written_is_read(m: &mut Mount) {
    for length in [0, 1, 511, 4095, 4096, 4097, 131_072, 1_048_577, 5_000_000] {
        let path = m.path(format!("f{length}"));
        let content = pattern(length, length as u64);
        std::fs::write(&path, &content).unwrap();
        assert!(get(&path) == content, "{length} bytes");
        assert_eq!(stat(&path).unwrap().st_size, length as i64);
        assert!(
            std::fs::read(m.back(path.file_name().unwrap())).unwrap() == content,
            "{length} bytes on the store"
        );
    }
}

fn sizes_show_at_once(m: &mut Mount) {
    let file = create(m.path("f"));
    let other = open_read(m.path("f")).unwrap();
    for length in (0..50_000u64).step_by(777) {
        assert_eq!(pwrite(&file, &[7; 777], length).unwrap(), 777);
        let expected = length as i64 + 777;
        assert_eq!(stat(m.path("f")).unwrap().st_size, expected);
        assert_eq!(fstat(&other).st_size, expected);
        assert_eq!(seek(&other, SeekFrom::End(0)).unwrap(), expected as u64);
    }
    let blocks = stat(m.path("f")).unwrap().st_blocks;
    fsync(&file).unwrap();
    assert!(
        stat(m.path("f")).unwrap().st_blocks * 512 >= 50_000,
        "blocks before: {blocks}"
    );
}

fn append(path: &std::path::Path) -> File {
    open(
        path,
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
        0o644,
    )
    .unwrap()
}

fn appends_land_at_the_end(m: &mut Mount) {
    put(m.path("f"), "start ");
    let mut one = append(&m.path("f"));
    let mut two = append(&m.path("f"));
    let mut plain = open_rw(m.path("f")).unwrap();
    one.write_all(b"one ").unwrap();
    two.write_all(b"two ").unwrap();
    plain.seek(std::io::SeekFrom::End(0)).unwrap();
    plain.write_all(b"plain ").unwrap();
    one.write_all(b"one ").unwrap();
    assert_eq!(get(m.path("f")), b"start one two plain one ");
    // After the file was cut by another descriptor, too.
    ftruncate(&plain, 2).unwrap();
    two.write_all(b"end").unwrap();
    assert_eq!(get(m.path("f")), b"stend");
    // A position is kept: after an append it is the end.
    assert_eq!(two.stream_position().unwrap(), 5);
    // The flag can be set and taken away later.
    rustix::fs::fcntl_setfl(&plain, OFlags::APPEND).unwrap();
    plain.seek(std::io::SeekFrom::Start(0)).unwrap();
    plain.write_all(b"!").unwrap();
    assert_eq!(get(m.path("f")), b"stend!");
    rustix::fs::fcntl_setfl(&plain, OFlags::empty()).unwrap();
    plain.seek(std::io::SeekFrom::Start(0)).unwrap();
    plain.write_all(b"S").unwrap();
    assert_eq!(get(m.path("f")), b"Stend!");
}

fn appends_of_many_never_overlap(m: &mut Mount) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 200;
    put(m.path("log"), "");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = m.path("log");
            scope.spawn(move || {
                let mut file = append(&path);
                for round in 0..ROUNDS {
                    // Of differing lengths, across page borders.
                    let line = format!(
                        "{writer} {round} {}\n",
                        "x".repeat((writer * 131 + round * 17) % 300)
                    );
                    assert_eq!(file.write(line.as_bytes()).unwrap(), line.len());
                }
            });
        }
    });
    let text = String::from_utf8(get(m.path("log"))).unwrap();
    let mut next = [0; WRITERS];
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse::<usize>().ok())
                .expect("a whole line")
        };
        let (writer, round) = (number(), number());
        assert_eq!(round, next[writer], "lines of one writer stay in order");
        next[writer] += 1;
        assert_eq!(
            words.next().unwrap(),
            "x".repeat((writer * 131 + round * 17) % 300)
        );
    }
    assert_eq!(next, [ROUNDS; WRITERS]);
}

fn append_ignores_offsets(m: &mut Mount) {
    put(m.path("f"), "0123456789");
    let file = append(&m.path("f"));
    // On Linux, pwrite(2) to such a descriptor appends.
    assert_eq!(pwrite(&file, b"ab", 0), Ok(2));
    assert_eq!(get(m.path("f")), b"0123456789ab");
}

fn exclusive_open_flags(m: &mut Mount) {
    put(m.path("f"), "x");
    fails(
        Errno::EXIST,
        open(
            m.path("f"),
            OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC | OFlags::RDWR,
            0o600,
        ),
    );
    assert_eq!(get(m.path("f")), b"x", "not truncated by the refused open");
    fails(
        Errno::NOENT,
        open(m.path("missing"), OFlags::TRUNC | OFlags::RDWR, 0),
    );
    let file = open(
        m.path("new"),
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
        0o600,
    )
    .unwrap();
    fails(Errno::BADF, pread(&file, 1, 0));
    // An O_PATH descriptor does neither.
    let path = open(m.path("f"), OFlags::PATH, 0).unwrap();
    fails(Errno::BADF, pread(&path, 1, 0));
    assert_eq!(fstat(&path).st_size, 1);
}

fn vectors_and_short_buffers(m: &mut Mount) {
    use std::io::{IoSlice, IoSliceMut};
    let file = create(m.path("f"));
    let parts = [
        IoSlice::new(b"one "),
        IoSlice::new(b""),
        IoSlice::new(b"two "),
        IoSlice::new(b"three"),
    ];
    assert_eq!(rustix::io::pwritev(&file, &parts, 3).unwrap(), 13);
    let (mut a, mut b, mut c) = ([0; 5], [0; 2], [0; 100]);
    let mut slices = [
        IoSliceMut::new(&mut a),
        IoSliceMut::new(&mut b),
        IoSliceMut::new(&mut c),
    ];
    assert_eq!(rustix::io::preadv(&file, &mut slices, 0).unwrap(), 16);
    assert_eq!((&a, &b, &c[..9]), (b"\0\0\0on", b"e ", &b"two three"[..]));
    // Byte by byte.
    let mut reader = open_read(m.path("f")).unwrap();
    let mut all = Vec::new();
    let mut byte = [0];
    while reader.read(&mut byte).unwrap() == 1 {
        all.push(byte[0]);
    }
    assert_eq!(all, b"\0\0\0one two three");
}

fn unaligned_large_writes(m: &mut Mount) {
    let file = create(m.path("f"));
    let content = pattern(9 << 20, 8);
    // Offsets and buffers that fit no page; one call each, which may not be short.
    let mut at = 0;
    for length in [1, 4095, 1 << 20, 3 << 20, (4 << 20) + 13] {
        assert_eq!(
            pwrite(&file, &content[at..at + length], at as u64),
            Ok(length)
        );
        at += length;
    }
    assert!(get(m.path("f")) == content[..at]);
    assert!(pread(&file, at - 77, 77).unwrap() == content[77..at]);
}

fn two_descriptors_see_each_other(m: &mut Mount) {
    let writer = create(m.path("f"));
    let reader = open_read(m.path("f")).unwrap();
    let third = open_rw(m.path("f")).unwrap();
    for round in 0..200u64 {
        let offset = (round * 3_001) % 40_000;
        let content = pattern(5_000, round);
        let by = if round % 2 == 0 { &writer } else { &third };
        by.write_all_at(&content, offset).unwrap();
        assert!(
            pread(&reader, 5_000, offset).unwrap() == content,
            "round {round}"
        );
        if round % 10 == 9 {
            ftruncate(&third, 20_000).unwrap();
            assert_eq!(
                (
                    fstat(&reader).st_size,
                    pread(&reader, 9, 20_000).unwrap().len()
                ),
                (20_000, 0)
            );
        }
    }
}

fn readers_and_writers_of_one_file(m: &mut Mount) {
    // A whole block is written at once: no reader may see a mix of two versions of a small block,
    // when reading through a descriptor opened anew each time or kept.
    let file = create(m.path("f"));
    file.write_all_at(&[0; 512], 0).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for keep in [true, false] {
            let (stop, path) = (&stop, m.path("f"));
            scope.spawn(move || {
                let kept = open_read(&path).unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let opened = if keep {
                        None
                    } else {
                        Some(open_read(&path).unwrap())
                    };
                    let block = pread(opened.as_ref().unwrap_or(&kept), 512, 0).unwrap();
                    assert_eq!(block.len(), 512);
                }
            });
        }
        for round in 0..500u64 {
            file.write_all_at(&[round as u8; 512], 0).unwrap();
            assert_eq!(pread(&file, 512, 0).unwrap(), [round as u8; 512]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn reading_past_the_end(m: &mut Mount) {
    put(m.path("f"), "12345");
    let file = open_read(m.path("f")).unwrap();
    assert_eq!(pread(&file, 100, 0).unwrap(), b"12345");
    assert_eq!(pread(&file, 100, 4).unwrap(), b"5");
    assert!(pread(&file, 100, 5).unwrap().is_empty());
    assert!(pread(&file, 100, 1 << 40).unwrap().is_empty());
    assert!(pread(&file, 0, 0).unwrap().is_empty());
}

fn write_errors(m: &mut Mount) {
    put(m.path("f"), "x");
    fails(
        Errno::BADF,
        pwrite(&open_read(m.path("f")).unwrap(), b"y", 0),
    );
    let directory = open(m.root(), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    fails(Errno::ISDIR, pread(&directory, 10, 0));
    let file = open_rw(m.path("f")).unwrap();
    assert_eq!(pwrite(&file, b"", 100), Ok(0));
    assert_eq!(
        fstat(&file).st_size,
        1,
        "writing nothing doesn't grow a file"
    );
    fails_with_any(
        &[Errno::FBIG, Errno::INVAL],
        pwrite(&file, b"xx", i64::MAX as u64),
    );
    fails(Errno::INVAL, seek(&file, SeekFrom::Current(-10)));
}

fn syncing(m: &mut Mount) {
    let file = create(m.path("f"));
    file.write_all_at(b"content", 0).unwrap();
    fsync(&file).unwrap();
    fdatasync(&file).unwrap();
    fsync(open_read(m.path("f")).unwrap()).unwrap();
    let directory = open(m.root(), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    fsync(&directory).unwrap();
    fdatasync(&directory).unwrap();
    rustix::fs::syncfs(&directory).unwrap();
    unlink(m.path("f")).unwrap();
    fsync(&file).unwrap();
}

fn synchronous_descriptors(m: &mut Mount) {
    for flag in [OFlags::SYNC, OFlags::DSYNC] {
        let path = m.path(format!("f{}", flag.bits()));
        let file = open(&path, OFlags::CREATE | OFlags::RDWR | flag, 0o644).unwrap();
        for round in 0..5 {
            file.write_all_at(&pattern(10_000, round), round * 9_000)
                .unwrap();
        }
        assert_eq!(get(&path).len(), 46_000);
        assert!(rustix::fs::fcntl_getfl(&file).unwrap().contains(flag));
    }
}

fn many_open_files(m: &mut Mount) {
    let files: Vec<File> = (0..700)
        .map(|number| {
            let file = create(m.path(format!("f{number}")));
            file.write_all_at(&u32::to_le_bytes(number), 0).unwrap();
            file
        })
        .collect();
    for (number, file) in files.iter().enumerate() {
        assert_eq!(pread(file, 9, 0).unwrap(), u32::to_le_bytes(number as u32));
    }
    // The same file many times over, in all directions.
    let again: Vec<File> = (0..200)
        .map(|number| match number % 3 {
            0 => open_read(m.path("f0")).unwrap(),
            1 => open_rw(m.path("f0")).unwrap(),
            _ => append(&m.path("f0")),
        })
        .collect();
    again[1].write_all_at(b"many", 0).unwrap();
    assert_eq!(pread(&again[0], 9, 0).unwrap(), b"many");
    assert_eq!(pread(&again[198], 9, 0).unwrap(), b"many");
}

fn open_flags_are_kept(m: &mut Mount) {
    for flags in [
        OFlags::APPEND,
        OFlags::NONBLOCK,
        OFlags::NOATIME,
        OFlags::SYNC,
    ] {
        let file = open(m.path("f"), OFlags::CREATE | OFlags::RDWR | flags, 0o644).unwrap();
        assert!(
            rustix::fs::fcntl_getfl(&file).unwrap().contains(flags),
            "{flags:?}"
        );
    }
}

fn concurrent_writes_to_disjoint_blocks(m: &mut Mount) {
    const THREADS: u64 = 6;
    let file = create(m.path("f"));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (own, shared) = (open_rw(m.path("f")).unwrap(), &file);
            scope.spawn(move || {
                // Interleaved records that share pages.
                for record in 0..400 {
                    let offset = (record * THREADS + thread) * 100;
                    let by = if record % 2 == 0 { &own } else { shared };
                    by.write_all_at(&[thread as u8 + 1; 100], offset).unwrap();
                }
            });
        }
    });
    let content = get(m.path("f"));
    assert_eq!(content.len() as u64, THREADS * 400 * 100);
    for (number, record) in content.chunks(100).enumerate() {
        assert!(
            record
                .iter()
                .all(|byte| u64::from(*byte) == number as u64 % THREADS + 1),
            "record {number}"
        );
    }
}

fn data_survives_remount(m: &mut Mount) {
    let content = pattern(500_000, 10);
    put(m.path("f"), &content);
    m.remount();
    assert!(get(m.path("f")) == content);
    pwrite(&open_rw(m.path("f")).unwrap(), b"changed", 100).unwrap();
    m.remount();
    assert_eq!(
        pread(&open_read(m.path("f")).unwrap(), 7, 100).unwrap(),
        b"changed"
    );
}

fn changes_behind_the_mount_of_nothing(m: &mut Mount) {
    // Nothing but the content itself lies in the backing file.
    let content = pattern(70_000, 11);
    put(m.path("f"), &content);
    assert!(std::fs::read(m.back("f")).unwrap() == content);
    let (through, behind) = (stat(m.path("f")).unwrap(), stat(m.back("f")).unwrap());
    assert_eq!(
        (through.st_size, through.st_mode, through.st_nlink),
        (behind.st_size, behind.st_mode, behind.st_nlink)
    );
    assert_eq!(
        (mtime(&through), ctime(&through)),
        (mtime(&behind), ctime(&behind))
    );
    assert_eq!(through.st_blocks, behind.st_blocks);
}

fn random_io_equals_memory(m: &mut Mount) {
    const SIZE: u64 = 300_000;
    let seed = entropy();
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let files = [create(m.path("f")), open_rw(m.path("f")).unwrap()];
    let reader = open_read(m.path("f")).unwrap();
    let mut model: Vec<u8> = Vec::new();
    for _ in 0..1500 {
        let file = random.pick(&files);
        let (at, length) = (random.below(SIZE), random.below(20_000));
        let end = (at + length) as usize;
        match random.below(10) {
            0..=3 => {
                let bytes = pattern(length as usize, random.next());
                file.write_all_at(&bytes, at).unwrap();
                if length > 0 {
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&bytes);
                }
            }
            4 => {
                ftruncate(file, at).unwrap();
                model.resize(at as usize, 0);
            }
            5 if length > 0 => {
                fallocate(
                    file,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    at,
                    length,
                )
                .unwrap();
                let (start, end) = ((at as usize).min(model.len()), end.min(model.len()));
                model[start..end].fill(0);
            }
            6 if length > 0 => {
                fallocate(file, FallocateFlags::empty(), at, length).unwrap();
                model.resize(model.len().max(end), 0);
            }
            _ => {
                let found = pread(
                    if random.chance(2) { &files[0] } else { &reader },
                    length as usize,
                    at,
                )
                .unwrap();
                let (start, end) = ((at as usize).min(model.len()), end.min(model.len()));
                assert!(found == model[start..end], "{length} bytes at {at}");
            }
        }
        assert_eq!(fstat(&reader).st_size, model.len() as i64);
    }
    assert!(get(m.path("f")) == model);
    fsync(&reader).unwrap();
    drop_caches();
    assert!(get(m.path("f")) == model, "after the caches were dropped");
}

fn leases_of_tools(m: &mut Mount) {
    // What editors and package managers do: write beside, sync, rename over.
    for round in 0..50u64 {
        let content = pattern(1000 + round as usize, round);
        let file = open(
            m.path(".f.tmp"),
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
            0o600,
        )
        .unwrap();
        file.write_all_at(&content, 0).unwrap();
        fsync(&file).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
        drop(file);
        rustix::fs::renameat(CWD, m.path(".f.tmp"), CWD, m.path("f")).unwrap();
        assert!(get(m.path("f")) == content);
    }
    assert_eq!(names(m.root()), ["f"]);
}
