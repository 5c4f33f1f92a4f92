//! Which names and paths there are: long ones, deep ones, any bytes, and the one that is reserved.

use crate::common::*;
use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

in_default_mode!("":
    long_names,
    names_of_any_bytes,
    paths_near_path_max,
    deep_trees,
    errors_of_paths,
    errors_of_removal,
    trailing_slashes,
    private_state_is_invisible,
    many_names_in_one_directory_stay_distinct,
);

fn long_names(m: &mut Mount) {
    for length in [1, 2, 127, 128, 200, 254, 255] {
        let name = "n".repeat(length);
        put(m.path(&name), name.as_bytes());
        assert_eq!(get(m.path(&name)), name.as_bytes());
        let other = "o".repeat(length);
        rename(m.path(&name), m.path(&other)).unwrap();
        link(m.path(&other), m.path(&name)).unwrap();
        assert_eq!(names(m.root()), [name.as_str(), other.as_str()]);
        unlink(m.path(&name)).unwrap();
        unlink(m.path(&other)).unwrap();
        mkdir(m.path(&name)).unwrap();
        put(m.path(&name).join(&other), "x");
        unlink(m.path(&name).join(&other)).unwrap();
        rmdir(m.path(&name)).unwrap();
        symlink("x", m.path(&name)).unwrap();
        unlink(m.path(&name)).unwrap();
        mknod(m.path(&name), FileType::Fifo, 0o600, 0).unwrap();
        unlink(m.path(&name)).unwrap();
    }
    put(m.path("f"), "x");
    let long = m.path("n".repeat(256));
    fails(Errno::NAMETOOLONG, try_create(&long));
    fails(Errno::NAMETOOLONG, stat(&long));
    fails(Errno::NAMETOOLONG, mkdir(&long));
    fails(Errno::NAMETOOLONG, unlink(&long));
    fails(Errno::NAMETOOLONG, rmdir(&long));
    fails(Errno::NAMETOOLONG, symlink("x", &long));
    fails(Errno::NAMETOOLONG, link(m.path("f"), &long));
    fails(Errno::NAMETOOLONG, rename(m.path("f"), &long));
    fails(Errno::NAMETOOLONG, mknod(&long, FileType::Fifo, 0o600, 0));
    fails(Errno::NAMETOOLONG, open_read(&long));
}

fn names_of_any_bytes(m: &mut Mount) {
    let mut all: Vec<OsString> = (1..=255u8)
        .filter(|byte| *byte != b'/' && *byte != b'.')
        .map(|byte| OsString::from_vec(vec![byte]))
        .collect();
    for special in [
        "...",
        "..a",
        ".hidden",
        "-rf",
        "*",
        "$(x)",
        "a\nb",
        " ",
        "\u{fffd}",
        "caf\u{e9}",
        "cafe\u{301}",
    ] {
        all.push(special.into());
    }
    // Not UTF-8; a truncated sequence; an overlong slash.
    for bytes in [
        &[0xff, 0xfe][..],
        &[0xe2, 0x82],
        &[0xc0, 0xaf],
        &[0x80; 255],
    ] {
        all.push(OsString::from_vec(bytes.to_vec()));
    }
    all.sort();
    all.dedup();
    for entry in &all {
        put(m.path(entry), entry.as_bytes());
    }
    assert_eq!(names(m.root()), all);
    for entry in &all {
        assert_eq!(get(m.path(entry)), entry.as_bytes());
        let mut other = entry.as_bytes().to_vec();
        other.truncate(200);
        other.extend_from_slice(b"\xffmoved");
        rename(m.path(entry), m.path(name(&other))).unwrap();
        fails(Errno::NOENT, stat(m.path(entry)));
        unlink(m.path(name(&other))).unwrap();
    }
    assert!(names(m.root()).is_empty());
}

fn paths_near_path_max(m: &mut Mount) {
    // The longest path the kernel takes has 4,095 bytes.
    let mut path = m.root().to_path_buf();
    while path.as_os_str().len() + 1 + 200 < 4000 {
        path.push("d".repeat(200));
        mkdir(&path).unwrap();
    }
    let left = 4095 - path.as_os_str().len() - 1;
    let file = path.join("f".repeat(left.min(255)));
    put(&file, "far away");
    assert_eq!(get(&file), b"far away");
    chmod(&file, 0o600).unwrap();
    stat(&file).unwrap();
    rename(&file, path.join("g")).unwrap();
    rename(path.join("g"), &file).unwrap();
    link(&file, path.join("g")).unwrap();
    assert_eq!(names(&path).len(), 2);
    if left <= 255 {
        fails(Errno::NAMETOOLONG, stat(path.join("f".repeat(left + 1))));
    }
    unlink(&file).unwrap();
}

fn deep_trees(m: &mut Mount) {
    // Deeper than any path reaches: step by step, by descriptors.
    let mut at = open(m.root(), OFlags::DIRECTORY | OFlags::RDONLY, 0).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o755);
    let step = "s".repeat(100);
    for _ in 0..150 {
        rustix::fs::mkdirat(&at, step.as_str(), mode).unwrap();
        at = rustix::fs::openat(
            &at,
            step.as_str(),
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            mode,
        )
        .unwrap()
        .into();
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file: std::fs::File = rustix::fs::openat(&at, "file", flags, mode).unwrap().into();
    pwrite(&file, b"deep", 0).unwrap();
    drop(file);
    drop_caches();
    let file: std::fs::File = rustix::fs::openat(&at, "file", OFlags::RDONLY, mode)
        .unwrap()
        .into();
    assert_eq!(pread(&file, 9, 0).unwrap(), b"deep");
    let mut depth = 0;
    while fstat(&at).st_ino != ino(m.root()) {
        at = rustix::fs::openat(&at, "..", OFlags::DIRECTORY | OFlags::CLOEXEC, mode)
            .unwrap()
            .into();
        depth += 1;
    }
    assert_eq!(depth, 150);
    std::fs::remove_dir_all(m.path(&step)).unwrap();
    assert!(names(m.root()).is_empty());
}

fn errors_of_paths(m: &mut Mount) {
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    for path in [
        m.path("f/x"),
        m.path("f/x/y"),
        m.path("f/.."),
        m.path("f/."),
    ] {
        fails(Errno::NOTDIR, stat(&path));
        fails(Errno::NOTDIR, open_read(&path));
    }
    fails(Errno::NOTDIR, try_create(m.path("f/x")));
    fails(Errno::NOTDIR, mkdir(m.path("f/x")));
    fails(Errno::NOENT, stat(m.path("missing")));
    fails(Errno::NOENT, stat(m.path("missing/x")));
    fails(Errno::NOENT, try_create(m.path("missing/x")));
    fails(Errno::NOENT, mkdir(m.path("missing/x")));
    fails(Errno::NOENT, unlink(m.path("missing")));
    fails(Errno::NOENT, rmdir(m.path("missing")));
    fails(Errno::EXIST, mkdir(m.path("d")));
    fails(Errno::EXIST, mkdir(m.path("f")));
    fails(Errno::EXIST, try_create(m.path("d")));
    fails(Errno::ISDIR, open_rw(m.path("d")));
    fails(
        Errno::ISDIR,
        open(m.path("d"), OFlags::CREATE | OFlags::RDWR, 0o644),
    );
    fails(Errno::NOTDIR, open(m.path("f"), OFlags::DIRECTORY, 0));
    fails(Errno::INVAL, truncate(m.path("f"), u64::MAX));
    fails(Errno::ISDIR, truncate(m.path("d"), 0));
}

fn errors_of_removal(m: &mut Mount) {
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "x");
    fails(Errno::NOTDIR, rmdir(m.path("f")));
    fails(Errno::ISDIR, unlink(m.path("d")));
    fails(Errno::NOTEMPTY, rmdir(m.path("d")));
    fails(Errno::INVAL, rmdir(m.path("d/.")));
    fails_with_any(&[Errno::NOTEMPTY, Errno::BUSY], rmdir(m.path("d/..")));
    unlink(m.path("d/f")).unwrap();
    rmdir(m.path("d")).unwrap();
    fails(Errno::NOENT, rmdir(m.path("d")));
    fails(Errno::NOENT, unlink(m.path("d")));
    // A directory that holds only hidden-looking names isn't empty.
    mkdir(m.path("d")).unwrap();
    put(m.path("d/.hidden"), "x");
    fails(Errno::NOTEMPTY, rmdir(m.path("d")));
}

fn trailing_slashes(m: &mut Mount) {
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    symlink("d", m.path("l")).unwrap();
    fails(Errno::NOTDIR, stat(m.path("f/")));
    stat(m.path("d/")).unwrap();
    assert_eq!(lstat(m.path("l/")).unwrap().st_ino, ino(m.path("d")));
    mkdir(m.path("e/")).unwrap();
    rename(m.path("e/"), m.path("g/")).unwrap();
    rmdir(m.path("g/")).unwrap();
    fails(Errno::NOTDIR, rmdir(m.path("l/")));
    fails(Errno::NOTDIR, unlink(m.path("f/")));
    fails(
        Errno::ISDIR,
        open(m.path("new/"), OFlags::CREATE | OFlags::RDWR, 0o644),
    );
}

fn private_state_is_invisible(m: &mut Mount) {
    if is_native() {
        return skip("natively there is none");
    }
    assert!(names(m.root()).is_empty(), "{:?}", names(m.root()));
    for name in [".ttlfs", ".ttlfs/x", ".ttlfs/CACHEDIR.TAG"] {
        fails(Errno::NOENT, stat(m.path(name)));
        fails(Errno::NOENT, open_read(m.path(name)));
        fails(Errno::NOENT, std::fs::read_dir(m.path(name)));
        fails(Errno::NOENT, set_times(m.path(name), NOW, NOW));
    }
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    // A reserved name: it can neither be made nor removed nor moved, and nothing put in its place.
    let refused = [
        try_create(m.path(".ttlfs")).errno(),
        open(m.path(".ttlfs"), OFlags::CREATE | OFlags::RDWR, 0o644).errno(),
        mkdir(m.path(".ttlfs")).errno(),
        symlink("x", m.path(".ttlfs")).errno(),
        mknod(m.path(".ttlfs"), FileType::Fifo, 0o600, 0).errno(),
        link(m.path("f"), m.path(".ttlfs")).errno(),
        rename(m.path("f"), m.path(".ttlfs")).errno(),
        rename(m.path("d"), m.path(".ttlfs")).errno(),
        rename_with(m.path("f"), m.path(".ttlfs"), RenameFlags::NOREPLACE).errno(),
        unlink(m.path(".ttlfs")).errno(),
        rmdir(m.path(".ttlfs")).errno(),
        rename(m.path(".ttlfs"), m.path("g")).errno(),
        rename_with(m.path("f"), m.path(".ttlfs"), RenameFlags::EXCHANGE).errno(),
        rename_with(m.path(".ttlfs"), m.path("f"), RenameFlags::EXCHANGE).errno(),
        link(m.path(".ttlfs/CACHEDIR.TAG"), m.path("g")).errno(),
    ];
    for (number, errno) in refused.into_iter().enumerate() {
        let errno = errno.unwrap_or_else(|| panic!("attempt {number} must be refused"));
        let clear = [Errno::NOENT, Errno::PERM, Errno::ACCESS, Errno::EXIST];
        assert!(clear.contains(&errno), "attempt {number}: {errno:?}");
    }
    assert_eq!(names(m.root()), ["d", "f"]);
    // Only at the root; below it is a name like any other.
    put(m.path("d/.ttlfs"), "mine");
    assert_eq!(get(m.path("d/.ttlfs")), b"mine");
    rename(m.path("d/.ttlfs"), m.path("d/x")).unwrap();
    mkdir(m.path("d/.ttlfs")).unwrap();
    put(m.path(".ttlfs2"), "mine");
    // On the store it is closed, and tagged for backups.
    assert_eq!(mode(m.back(".ttlfs")), 0o700);
    let tag = get(m.back(".ttlfs/CACHEDIR.TAG"));
    assert!(
        tag.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55"),
        "the standard's first line"
    );
    // Links of the root don't betray it.
    let (through, behind) = (
        stat(m.root()).unwrap().st_nlink,
        stat(m.backing()).unwrap().st_nlink,
    );
    if behind > 2 {
        assert_eq!(through, 3, "one visible subdirectory");
    }
}

fn many_names_in_one_directory_stay_distinct(m: &mut Mount) {
    for number in 0..3000 {
        put(m.path(format!("{number:05}")), number.to_string());
    }
    for number in (0..3000).step_by(3) {
        unlink(m.path(format!("{number:05}"))).unwrap();
    }
    for number in (1..3000).step_by(3) {
        rename(
            m.path(format!("{number:05}")),
            m.path(format!("{:05}", number - 1)),
        )
        .unwrap();
    }
    for number in 0..3000 {
        let path = m.path(format!("{number:05}"));
        match number % 3 {
            0 => assert_eq!(get(path), (number + 1).to_string().as_bytes()),
            1 => fails(Errno::NOENT, stat(path)),
            _ => assert_eq!(get(path), number.to_string().as_bytes()),
        }
    }
}

fn ino(path: impl AsRef<std::path::Path>) -> u64 {
    lstat(path).unwrap().st_ino
}
