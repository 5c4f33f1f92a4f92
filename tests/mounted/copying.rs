//! Contents that the kernel moves by itself: copied ranges, sendfile, splice; and direct I/O.

use crate::common::*;
use rustix::fs::{OFlags, SeekFrom, copy_file_range, seek};
use rustix::io::Errno;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

in_each_io_mode!("":
    copying_ranges,
    copying_ranges_refusals,
    sendfile_and_splice,
    direct_io,
    direct_io_is_coherent_with_buffered,
);

fn copying_ranges(m: &mut Mount) {
    let content = pattern(3_000_000, 6);
    put(m.path("from"), &content);
    let from = open_read(m.path("from")).unwrap();
    let to = create(m.path("to"));
    let mut done = 0;
    while done < content.len() {
        let (mut source, mut target) = (done as u64, done as u64);
        let count = copy_file_range(
            &from,
            Some(&mut source),
            &to,
            Some(&mut target),
            content.len() - done,
        )
        .unwrap();
        assert!(count > 0);
        done += count;
        assert_eq!((source, target), (done as u64, done as u64));
    }
    assert!(get(m.path("to")) == content);
    // Into the middle, and from the middle of the same file without overlap.
    let (mut source, mut target) = (100, 2_000_001);
    assert_eq!(
        copy_file_range(&from, Some(&mut source), &to, Some(&mut target), 5_000).unwrap(),
        5_000
    );
    let mut expected = content.clone();
    expected.copy_within(100..5_100, 2_000_001);
    assert!(get(m.path("to")) == expected);
    // At the end there is nothing left; positions move when no offsets are given.
    let mut end = 3_000_000;
    assert_eq!(
        copy_file_range(&from, Some(&mut end), &to, None, 10).unwrap(),
        0
    );
    seek(&from, SeekFrom::Start(2_999_990)).unwrap();
    seek(&to, SeekFrom::End(0)).unwrap();
    assert_eq!(copy_file_range(&from, None, &to, None, 100).unwrap(), 10);
    assert_eq!(stat(m.path("to")).unwrap().st_size, 3_000_010);
    // What was just written and isn't on disk yet is copied.
    let source = create(m.path("fresh"));
    source.write_all_at(b"fresh content", 0).unwrap();
    let target = create(m.path("fresh2"));
    assert_eq!(
        copy_file_range(&source, Some(&mut 0), &target, Some(&mut 0), 100).unwrap(),
        13
    );
    assert_eq!(get(m.path("fresh2")), b"fresh content");
    std::fs::copy(m.path("from"), m.path("copied")).unwrap();
    assert!(get(m.path("copied")) == content);
}

fn copying_ranges_refusals(m: &mut Mount) {
    put(m.path("f"), pattern(10_000, 1));
    let reader = open_read(m.path("f")).unwrap();
    let file = open_rw(m.path("f")).unwrap();
    fails(
        Errno::INVAL,
        copy_file_range(&file, Some(&mut 0), &file, Some(&mut 10), 100),
    );
    fails(
        Errno::BADF,
        copy_file_range(&reader, Some(&mut 0), &reader, Some(&mut 5_000), 100),
    );
    let appending = open(
        m.path("g"),
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
        0o644,
    )
    .unwrap();
    fails(
        Errno::BADF,
        copy_file_range(&reader, Some(&mut 0), &appending, None, 100),
    );
    let directory = open(m.root(), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    fails(
        Errno::ISDIR,
        copy_file_range(&directory, Some(&mut 0), &file, Some(&mut 0), 100),
    );
}

fn sendfile_and_splice(m: &mut Mount) {
    let content = pattern(300_000, 9);
    put(m.path("from"), &content);
    let from = open_read(m.path("from")).unwrap();
    let to = create(m.path("to"));
    let mut offset = 0;
    while rustix::fs::sendfile(&to, &from, Some(&mut offset), 1 << 20).unwrap() > 0 {}
    assert_eq!(offset, 300_000);
    assert!(get(m.path("to")) == content);
    // Through a pipe, in both directions.
    let (read_end, write_end) = rustix::pipe::pipe().unwrap();
    let spliced = create(m.path("spliced"));
    let (mut source, mut target) = (0, 0);
    let none = rustix::pipe::SpliceFlags::empty();
    while source < 300_000 {
        let into =
            rustix::pipe::splice(&from, Some(&mut source), &write_end, None, 50_000, none).unwrap();
        assert!(into > 0);
        let mut left = into;
        while left > 0 {
            left -= rustix::pipe::splice(&read_end, None, &spliced, Some(&mut target), left, none)
                .unwrap();
        }
    }
    assert!(get(m.path("spliced")) == content);
    // And into a socket.
    let (mut one, two) = std::os::unix::net::UnixStream::pair().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        one.read_to_end(&mut all).unwrap();
        all
    });
    let mut offset = 0;
    while rustix::fs::sendfile(&two, &from, Some(&mut offset), 1 << 20).unwrap() > 0 {}
    drop(two);
    assert!(reader.join().unwrap() == content);
}

fn direct_io(m: &mut Mount) {
    let file = match open(
        m.path("f"),
        OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT,
        0o644,
    ) {
        Ok(file) => file,
        Err(Errno::INVAL) if StoreKind::default_kind() == StoreKind::Tmpfs => {
            return skip("no O_DIRECT on this store");
        }
        Err(errno) => panic!("{errno:?}"),
    };
    let mut buffer = sys::Aligned::new(1 << 20);
    buffer.copy_from_slice(&pattern(1 << 20, 7));
    assert_eq!(pwrite(&file, &buffer, 0), Ok(1 << 20));
    assert_eq!(pwrite(&file, &buffer[..8192], 1 << 20), Ok(8192));
    let mut back = sys::Aligned::new(1 << 20);
    assert_eq!(rustix::io::pread(&file, &mut back[..], 0).unwrap(), 1 << 20);
    assert!(back[..] == buffer[..]);
    assert_eq!(
        rustix::io::pread(&file, &mut back[..], 1 << 20).unwrap(),
        8192,
        "short at the end"
    );
    assert_eq!(rustix::io::pread(&file, &mut back[..], 2 << 20).unwrap(), 0);
    assert_eq!(fstat(&file).st_size, (1 << 20) + 8192);
}

fn direct_io_is_coherent_with_buffered(m: &mut Mount) {
    let buffered = create(m.path("f"));
    let Ok(direct) = open(m.path("f"), OFlags::RDWR | OFlags::DIRECT, 0) else {
        return skip("no O_DIRECT on this store");
    };
    let mut block = sys::Aligned::new(16_384);
    for round in 0..20u64 {
        let content = pattern(16_384, round);
        buffered.write_all_at(&content, 0).unwrap();
        assert_eq!(
            rustix::io::pread(&direct, &mut block[..], 0).unwrap(),
            16_384
        );
        assert!(block[..] == content[..], "buffered, then direct");
        let content = pattern(16_384, 1000 + round);
        block.copy_from_slice(&content);
        assert_eq!(pwrite(&direct, &block, 0), Ok(16_384));
        assert!(
            pread(&buffered, 16_384, 0).unwrap() == content,
            "direct, then buffered"
        );
    }
}
