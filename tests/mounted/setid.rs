//! Modes that creation gives, and set-id bits: who may set them, and what takes them away.

use crate::common::*;
use rustix::fs::{FallocateFlags, FileType, OFlags, fallocate, ftruncate};
use std::path::Path;

in_default_mode!("":
    setgid_directory_hands_its_group_down,
    umask_is_applied_once,
    modes_survive_creation_unchanged,
    chmod_by_outsider_drops_setgid,
);
in_each_io_mode!("":
    write_drops_setid_bits,
    truncate_drops_setid_bits,
    fallocate_drops_setid_bits,
    setid_bits_survive_roots_writes,
);

fn setgid_directory_hands_its_group_down(m: &mut Mount) {
    const TEAM: u32 = 22_000;
    open_directory(m.path("d"));
    chown_group(m.path("d"), TEAM).unwrap();
    chmod(m.path("d"), 0o2777).unwrap();
    ALICE.with_umask(0).run(|| {
        put(m.path("d/f"), "x");
        mkdir_mode(m.path("d/sub"), 0o755).unwrap();
        put(m.path("d/sub/f"), "x");
        symlink("f", m.path("d/l")).unwrap();
        mknod(m.path("d/p"), FileType::Fifo, 0o644, 0).unwrap();
    });
    for entry in ["d/f", "d/sub", "d/sub/f", "d/l", "d/p"] {
        assert_eq!(owner(m.path(entry)), (ALICE.uid, TEAM), "{entry}");
    }
    assert_eq!(mode(m.path("d/sub")), 0o2755, "directories inherit the bit");
    assert_eq!(mode(m.path("d/f")), 0o644, "files don't");
    // Who isn't in the group can't make setgid files for it.
    ALICE.with_umask(0).run(|| {
        let _ = open(m.path("d/setgid"), OFlags::CREATE | OFlags::WRONLY, 0o2775).unwrap();
    });
    assert_eq!(mode(m.path("d/setgid")), 0o775);
    ALICE.in_groups(&[TEAM]).with_umask(0).run(|| {
        let _ = open(m.path("d/setgid2"), OFlags::CREATE | OFlags::WRONLY, 0o2775).unwrap();
    });
    assert_eq!(mode(m.path("d/setgid2")), 0o2775);
    // Without the bit, the maker's group.
    open_directory(m.path("plain"));
    chown_group(m.path("plain"), TEAM).unwrap();
    ALICE.run(|| put(m.path("plain/f"), "x"));
    assert_eq!(owner(m.path("plain/f")), (ALICE.uid, ALICE.gid));
}

fn umask_is_applied_once(m: &mut Mount) {
    for umask in [0o000, 0o002, 0o022, 0o027, 0o077, 0o777] {
        let path = |what: &str| m.path(format!("{what}{umask:o}"));
        ALICE.with_umask(umask).run(|| {
            drop(
                open(
                    path("f"),
                    OFlags::CREATE | OFlags::EXCL | OFlags::RDWR,
                    0o666,
                )
                .unwrap(),
            );
            drop(open(path("x"), OFlags::CREATE | OFlags::RDWR, 0o777).unwrap());
            mkdir_mode(path("d"), 0o777).unwrap();
            mknod(path("p"), FileType::Fifo, 0o666, 0).unwrap();
            mknod(path("r"), FileType::RegularFile, 0o640, 0).unwrap();
        });
        assert_eq!(mode(path("f")), 0o666 & !umask);
        assert_eq!(mode(path("x")), 0o777 & !umask);
        assert_eq!(mode(path("d")), 0o777 & !umask);
        assert_eq!(mode(path("p")), 0o666 & !umask);
        assert_eq!(mode(path("r")), 0o640 & !umask);
        // chmod knows no umask.
        ALICE
            .with_umask(umask)
            .run(|| chmod(path("f"), 0o664))
            .unwrap();
        assert_eq!(mode(path("f")), 0o664);
    }
}

fn modes_survive_creation_unchanged(m: &mut Mount) {
    // Among them modes that shut the maker out: the descriptor works all the same.
    for bits in [0o000, 0o200, 0o400, 0o4755, 0o1644, 0o6711, 0o7777] {
        let path = m.path(format!("f{bits:o}"));
        ALICE.with_umask(0).run(|| {
            let file = open(&path, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, bits).unwrap();
            assert_eq!(fstat(&file).st_mode & 0o7777, bits);
            assert_eq!(fstat(&file).st_uid, ALICE.uid);
        });
        assert_eq!(mode(&path), bits, "open with {bits:o}");
    }
    ROOT.with_umask(0).run(|| {
        for bits in [0o000, 0o700, 0o1777, 0o2755] {
            mkdir_mode(m.path(format!("d{bits:o}")), bits).unwrap();
            assert_eq!(
                mode(m.path(format!("d{bits:o}"))) & 0o1777,
                bits & 0o1777,
                "mkdir with {bits:o}"
            );
        }
    });
}

fn chmod_by_outsider_drops_setgid(m: &mut Mount) {
    put(m.path("f"), "x");
    chown(m.path("f"), ALICE.uid, 22_000).unwrap();
    ALICE.run(|| chmod(m.path("f"), 0o2755)).unwrap();
    assert_eq!(mode(m.path("f")), 0o755, "not in the file's group");
    ALICE
        .in_groups(&[22_000])
        .run(|| chmod(m.path("f"), 0o2755))
        .unwrap();
    assert_eq!(mode(m.path("f")), 0o2755);
}

fn write_drops_setid_bits(m: &mut Mount) {
    for (bits, left) in [
        (0o6777, 0o777),
        (0o4666, 0o666),
        (0o2676, 0o676),
        (0o1777, 0o1777),
    ] {
        let path = m.path(format!("f{bits:o}"));
        put(&path, "content");
        chown(&path, ALICE.uid, ALICE.gid).unwrap();
        chmod(&path, bits).unwrap();
        BOB.run(|| {
            let file = open_rw(&path).unwrap();
            assert_eq!(mode(&path), bits, "opening changes nothing");
            assert_eq!(pwrite(&file, b"C", 0), Ok(1));
            assert_eq!(mode(&path), left, "a write of another user");
            assert_eq!(fstat(&file).st_mode & 0o7777, left);
        });
        assert_eq!(
            lstat(m.back(path.file_name().unwrap())).unwrap().st_mode & 0o7777,
            left,
            "on the store too"
        );
    }
    // The owner's own writes too.
    put(m.path("own"), "content");
    chown(m.path("own"), ALICE.uid, ALICE.gid).unwrap();
    chmod(m.path("own"), 0o4755).unwrap();
    ALICE
        .run(|| pwrite(&open_rw(m.path("own")).unwrap(), b"C", 0))
        .unwrap();
    assert_eq!(mode(m.path("own")), 0o755);
}

fn truncate_drops_setid_bits(m: &mut Mount) {
    type Way = fn(&Path);
    let ways: [(&str, Way); 4] = [
        ("truncate", |path| truncate(path, 2).unwrap()),
        ("ftruncate", |path| {
            ftruncate(open_rw(path).unwrap(), 3).unwrap()
        }),
        ("longer", |path| truncate(path, 2000).unwrap()),
        ("O_TRUNC", |path| {
            drop(open(path, OFlags::WRONLY | OFlags::TRUNC, 0).unwrap())
        }),
    ];
    for (name, way) in ways {
        let path = m.path(name);
        put(&path, "content");
        chown(&path, ALICE.uid, ALICE.gid).unwrap();
        chmod(&path, 0o6777).unwrap();
        BOB.run(|| way(&path));
        assert_eq!(mode(&path), 0o777, "{name}");
    }
}

fn fallocate_drops_setid_bits(m: &mut Mount) {
    put(m.path("f"), "content");
    chown(m.path("f"), ALICE.uid, ALICE.gid).unwrap();
    chmod(m.path("f"), 0o6777).unwrap();
    BOB.run(|| {
        fallocate(
            open_rw(m.path("f")).unwrap(),
            FallocateFlags::empty(),
            0,
            10_000,
        )
    })
    .unwrap();
    assert_eq!(mode(m.path("f")), 0o777);
}

fn setid_bits_survive_roots_writes(m: &mut Mount) {
    put(m.path("f"), "content");
    chmod(m.path("f"), 0o6755).unwrap();
    pwrite(&open_rw(m.path("f")).unwrap(), b"C", 0).unwrap();
    assert_eq!(mode(m.path("f")), 0o6755);
    truncate(m.path("f"), 3).unwrap();
    assert_eq!(mode(m.path("f")), 0o6755);
}
