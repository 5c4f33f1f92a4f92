//! Holes, reservations and lengths, in every mode of I/O.

use crate::common::*;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fsync, ftruncate, seek};
use rustix::io::Errno;
use std::os::unix::fs::FileExt as _;

in_each_io_mode!("":
    sparse_files_read_zeros,
    seek_hole_and_data,
    punched_holes_are_holes,
    fallocate_modes,
    fallocate_refusals,
    truncation_and_extension,
    truncate_on_open,
    large_offsets,
);

fn sparse_files_read_zeros(m: &mut Mount) {
    let file = create(m.path("f"));
    pwrite(&file, b"end", 10_000_000).unwrap();
    assert_eq!(fstat(&file).st_size, 10_000_003);
    assert!(fstat(&file).st_blocks * 512 < 1_000_000, "not allocated");
    assert!(
        pread(&file, 100_000, 5_000_000)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    pwrite(&file, b"mid", 5_000_001).unwrap();
    let middle = pread(&file, 5, 5_000_000).unwrap();
    assert_eq!(middle, b"\0mid\0");
    ftruncate(&file, 1 << 40).unwrap();
    assert_eq!(pread(&file, 3, (1 << 40) - 3).unwrap(), [0; 3]);
    assert_eq!(pread(&file, 3, 10_000_000).unwrap(), b"end");
    assert_eq!(std::fs::metadata(m.path("f")).unwrap().len(), 1 << 40);
}

fn seek_hole_and_data(m: &mut Mount) {
    let file = create(m.path("f"));
    const BLOCK: u64 = 1 << 20;
    pwrite(&file, &pattern(BLOCK as usize, 1), 4 * BLOCK).unwrap();
    pwrite(&file, &pattern(BLOCK as usize, 2), 10 * BLOCK).unwrap();
    ftruncate(&file, 20 * BLOCK).unwrap();
    fsync(&file).unwrap();
    assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), 4 * BLOCK);
    assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 0);
    assert_eq!(seek(&file, SeekFrom::Hole(4 * BLOCK)).unwrap(), 5 * BLOCK);
    assert_eq!(
        seek(&file, SeekFrom::Data(4 * BLOCK + 5)).unwrap(),
        4 * BLOCK + 5
    );
    assert_eq!(seek(&file, SeekFrom::Data(5 * BLOCK)).unwrap(), 10 * BLOCK);
    assert_eq!(seek(&file, SeekFrom::Hole(10 * BLOCK)).unwrap(), 11 * BLOCK);
    fails(Errno::NXIO, seek(&file, SeekFrom::Data(11 * BLOCK)));
    assert_eq!(seek(&file, SeekFrom::Hole(11 * BLOCK)).unwrap(), 11 * BLOCK);
    fails(Errno::NXIO, seek(&file, SeekFrom::Data(20 * BLOCK)));
    fails(Errno::NXIO, seek(&file, SeekFrom::Hole(20 * BLOCK)));
    // A file without holes has one at its end.
    put(m.path("g"), pattern(10_000, 3));
    let file = open_read(m.path("g")).unwrap();
    assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 10_000);
    assert_eq!(seek(&file, SeekFrom::Data(9_999)).unwrap(), 9_999);
}

fn punched_holes_are_holes(m: &mut Mount) {
    let file = create(m.path("f"));
    let content = pattern(1 << 20, 4);
    file.write_all_at(&content, 0).unwrap();
    fsync(&file).unwrap();
    let before = fstat(&file).st_blocks;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 100_000, 600_000).unwrap();
    assert_eq!(fstat(&file).st_size, 1 << 20);
    let mut expected = content.clone();
    expected[100_000..700_000].fill(0);
    assert!(get(m.path("f")) == expected);
    fsync(&file).unwrap();
    assert!(fstat(&file).st_blocks < before, "blocks are freed");
    let hole = seek(&file, SeekFrom::Hole(0)).unwrap();
    assert!((100_000..=131_072).contains(&hole), "a hole at {hole}");
    // Beyond the end is nothing to do.
    fallocate(&file, punch, 5 << 20, 4096).unwrap();
    assert_eq!(fstat(&file).st_size, 1 << 20);
}

fn fallocate_modes(m: &mut Mount) {
    let file = create(m.path("f"));
    fallocate(&file, FallocateFlags::empty(), 0, 100_000).unwrap();
    assert_eq!(fstat(&file).st_size, 100_000);
    assert!(fstat(&file).st_blocks * 512 >= 100_000);
    assert!(get(m.path("f")).iter().all(|byte| *byte == 0));
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1_000_000).unwrap();
    assert_eq!(fstat(&file).st_size, 100_000);
    assert!(stat(m.path("f")).unwrap().st_blocks * 512 >= 1_000_000);
    file.write_all_at(&[7; 100_000], 0).unwrap();
    let zeroed = fallocate(&file, FallocateFlags::ZERO_RANGE, 10_000, 20_000);
    if store::is_default(StoreKind::Tmpfs) {
        return fails(Errno::OPNOTSUPP, zeroed);
    }
    zeroed.unwrap();
    let mut expected = vec![7; 100_000];
    expected[10_000..30_000].fill(0);
    assert!(get(m.path("f")) == expected);
    fallocate(
        &file,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        90_000,
        50_000,
    )
    .unwrap();
    expected[90_000..].fill(0);
    assert!(get(m.path("f")) == expected);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 90_000, 50_000).unwrap();
    assert_eq!(stat(m.path("f")).unwrap().st_size, 140_000);
    // What is there stays; the file doesn't get shorter.
    fallocate(&file, FallocateFlags::empty(), 0, 50).unwrap();
    assert_eq!(
        (fstat(&file).st_size, pread(&file, 1, 0).unwrap()),
        (140_000, vec![7])
    );
    // Truncation gives back what was reserved beyond the end.
    ftruncate(&file, 4096).unwrap();
    fsync(&file).unwrap();
    assert!(
        fstat(&file).st_blocks * 512 <= 65_536,
        "{}",
        fstat(&file).st_blocks
    );
}

fn fallocate_refusals(m: &mut Mount) {
    let file = create(m.path("f"));
    fails(
        Errno::INVAL,
        fallocate(&file, FallocateFlags::empty(), 0, 0),
    );
    fails(
        Errno::OPNOTSUPP,
        fallocate(&file, FallocateFlags::PUNCH_HOLE, 0, 4096),
    );
    fails(
        Errno::BADF,
        fallocate(
            open_read(m.path("f")).unwrap(),
            FallocateFlags::empty(),
            0,
            10,
        ),
    );
    fails(
        Errno::FBIG,
        fallocate(&file, FallocateFlags::empty(), i64::MAX as u64, 10),
    );
    if !is_native() {
        // FUSE passes on neither of them.
        fails(
            Errno::OPNOTSUPP,
            fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096),
        );
        fails(
            Errno::OPNOTSUPP,
            fallocate(&file, FallocateFlags::INSERT_RANGE, 0, 4096),
        );
    }
    assert_eq!(fstat(&file).st_size, 0);
}

fn truncation_and_extension(m: &mut Mount) {
    put(m.path("f"), pattern(10_000, 5));
    let content = get(m.path("f"));
    let file = open_rw(m.path("f")).unwrap();
    truncate(m.path("f"), 5_000).unwrap();
    assert_eq!(
        (fstat(&file).st_size, stat(m.path("f")).unwrap().st_size),
        (5_000, 5_000)
    );
    // The cut-off part is zeros when the file grows again.
    ftruncate(&file, 10_000).unwrap();
    let mut expected = content[..5_000].to_vec();
    expected.resize(10_000, 0);
    assert!(get(m.path("f")) == expected);
    // Again by a write further out, with the old bytes in the same page.
    ftruncate(&file, 100).unwrap();
    pwrite(&file, b"x", 4_000).unwrap();
    assert!(
        pread(&file, 3_900, 100)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    truncate(m.path("f"), 4_001).unwrap();
    assert_eq!(get(m.path("f")).len(), 4_001);
    ftruncate(&file, 0).unwrap();
    assert_eq!((get(m.path("f")).len(), fstat(&file).st_blocks), (0, 0));
    fails(Errno::INVAL, ftruncate(open_read(m.path("f")).unwrap(), 0));
    // Times of a truncation that changes nothing: mtime moves all the same with ftruncate(2).
    let before = fstat(&file);
    wait::tick();
    ftruncate(&file, 10).unwrap();
    assert!(mtime(&fstat(&file)) > mtime(&before));
    assert!(ctime(&fstat(&file)) > ctime(&before));
}

fn truncate_on_open(m: &mut Mount) {
    put(m.path("f"), "content");
    let reader = open_read(m.path("f")).unwrap();
    let before = mtime(&fstat(&reader));
    wait::tick();
    let file = open(m.path("f"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
    assert_eq!((fstat(&file).st_size, fstat(&reader).st_size), (0, 0));
    assert!(mtime(&fstat(&file)) > before);
    assert!(pread(&reader, 10, 0).unwrap().is_empty());
    pwrite(&file, b"new", 0).unwrap();
    assert_eq!(pread(&reader, 10, 0).unwrap(), b"new");
    drop(
        open(
            m.path("f"),
            OFlags::WRONLY | OFlags::TRUNC | OFlags::CREATE,
            0o644,
        )
        .unwrap(),
    );
    assert_eq!(stat(m.path("f")).unwrap().st_size, 0);
    // Linux truncates for readers as well, if they may write.
    put(m.path("g"), "content");
    drop(open(m.path("g"), OFlags::RDONLY | OFlags::TRUNC, 0).unwrap());
    assert_eq!(stat(m.path("g")).unwrap().st_size, 0);
}

fn large_offsets(m: &mut Mount) {
    let file = create(m.path("f"));
    for shift in [31, 32, 33, 39] {
        let offset = (1u64 << shift) - 2;
        pwrite(&file, b"across", offset).unwrap();
        assert_eq!(pread(&file, 6, offset).unwrap(), b"across");
        assert_eq!(fstat(&file).st_size as u64, offset + 6);
    }
    assert_eq!(pread(&file, 6, (1 << 31) - 2).unwrap(), b"across");
}
