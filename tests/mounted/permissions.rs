//! Who may do what: checked for every user, however warm the caches that another user filled.

use crate::common::*;
use rustix::fs::{Access, AtFlags, CWD, FileType, OFlags, ftruncate};
use rustix::io::Errno;
use std::path::Path;

in_default_mode!("":
    closed_directory_stops_a_cached_walk,
    revoked_permission_counts_at_once,
    supplementary_groups_count,
    supplementary_groups_of_a_process_count,
    other_bits_do_not_rescue_the_owner,
    directory_modes_decide,
    sticky_directory_protects_entries,
    chmod_is_for_owners,
    chown_rules,
    access_answers_for_the_real_user,
    special_files_need_privilege,
    protected_files_open_for_nobody_else,
    faccessat_agrees_with_open,
    hard_links_need_no_ownership_by_default_rules,
    opened_before_stays_usable,
    root_overrides,
);
in_each_io_mode!("": creation_without_own_permission);

fn write_file(path: impl AsRef<Path>, mode: u32) {
    put(path.as_ref(), "content");
    chmod(path, mode).unwrap();
}

fn closed_directory_stops_a_cached_walk(m: &mut Mount) {
    ALICE.run(|| {
        mkdir_mode(m.path("closed"), 0o700).unwrap();
        mkdir(m.path("closed/in")).unwrap();
        put(m.path("closed/in/file"), "secret");
        chmod(m.path("closed/in/file"), 0o644).unwrap();
    });
    for _ in 0..20 {
        // Warm for the owner ...
        ALICE.run(|| assert_eq!(get(m.path("closed/in/file")), b"secret"));
        // ... and closed for everybody else, although names and attributes are cached.
        BOB.run(|| {
            fails(Errno::ACCESS, stat(m.path("closed/in/file")));
            fails(Errno::ACCESS, open_read(m.path("closed/in/file")));
            fails(Errno::ACCESS, stat(m.path("closed/in")));
            fails(Errno::ACCESS, std::fs::read_dir(m.path("closed")));
            fails(Errno::ACCESS, stat(m.path("closed/missing")));
            fails(
                Errno::ACCESS,
                rename(m.path("closed/in/file"), m.path("stolen")),
            );
            fails(
                Errno::ACCESS,
                link(m.path("closed/in/file"), m.path("stolen")),
            );
        });
    }
}

fn revoked_permission_counts_at_once(m: &mut Mount) {
    ALICE.run(|| {
        mkdir(m.path("d")).unwrap();
        write_file(m.path("d/f"), 0o644);
    });
    for _ in 0..20 {
        BOB.run(|| assert_eq!(get(m.path("d/f")), b"content"));
        ALICE.run(|| chmod(m.path("d"), 0o700)).unwrap();
        BOB.run(|| fails(Errno::ACCESS, open_read(m.path("d/f"))));
        ALICE.run(|| chmod(m.path("d"), 0o755)).unwrap();
        BOB.run(|| assert_eq!(get(m.path("d/f")), b"content"));
        ALICE.run(|| chmod(m.path("d/f"), 0o600)).unwrap();
        BOB.run(|| fails(Errno::ACCESS, open_read(m.path("d/f"))));
        ALICE.run(|| chmod(m.path("d/f"), 0o644)).unwrap();
    }
}

fn supplementary_groups_count(m: &mut Mount) {
    const TEAM: u32 = 22_000;
    open_directory(m.path("d"));
    write_file(m.path("d/f"), 0o640);
    chown(m.path("d/f"), ALICE.uid, TEAM).unwrap();
    mkdir(m.path("team")).unwrap();
    chown(m.path("team"), 0, TEAM).unwrap();
    chmod(m.path("team"), 0o770).unwrap();
    for _ in 0..5 {
        BOB.in_groups(&[TEAM]).run(|| {
            assert_eq!(get(m.path("d/f")), b"content");
            fails(Errno::ACCESS, open_rw(m.path("d/f")));
            put(m.path("team/mine"), "x");
            unlink(m.path("team/mine")).unwrap();
        });
        BOB.run(|| {
            fails(Errno::ACCESS, open_read(m.path("d/f")));
            fails(Errno::ACCESS, try_create(m.path("team/mine")));
        });
        // Many groups: the one that counts stands last.
        let mut many: Vec<u32> = (23_000..23_060).collect();
        many.push(TEAM);
        BOB.in_groups(&many).run(|| {
            assert_eq!(get(m.path("d/f")), b"content");
            put(m.path("team/mine"), "x");
            // A group one is in can be given to one's own file, and only such a group.
            chown_group(m.path("team/mine"), TEAM).unwrap();
            fails(Errno::PERM, chown_group(m.path("team/mine"), 22_001));
            unlink(m.path("team/mine")).unwrap();
        });
    }
}

fn supplementary_groups_of_a_process_count(m: &mut Mount) {
    if !process::installed("setpriv") {
        return skip("no setpriv here");
    }
    mkdir(m.path("team")).unwrap();
    chown(m.path("team"), 0, 22_000).unwrap();
    chmod(m.path("team"), 0o3770).unwrap();
    let target = m.path("team/made");
    let touch = |groups: &str| {
        std::process::Command::new("setpriv")
            .args(["--reuid=21001", "--regid=21001", groups, "touch"])
            .arg(&target)
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert!(!touch("--clear-groups"), "nobody of the team");
    assert!(touch("--groups=22000,22001"), "one of the team");
    assert_eq!(owner(&target), (21_001, 22_000), "the directory is setgid");
}

fn other_bits_do_not_rescue_the_owner(m: &mut Mount) {
    ALICE.run(|| write_file(m.path("f"), 0o077));
    ALICE.run(|| fails(Errno::ACCESS, open_read(m.path("f"))));
    BOB.run(|| assert_eq!(get(m.path("f")), b"content"));
    BOB.with_gid(ALICE.gid)
        .run(|| assert_eq!(get(m.path("f")), b"content"));
    ALICE.run(|| chmod(m.path("f"), 0o604)).unwrap();
    BOB.in_groups(&[ALICE.gid])
        .run(|| fails(Errno::ACCESS, open_read(m.path("f"))));
    BOB.run(|| assert_eq!(get(m.path("f")), b"content"));
}

fn directory_modes_decide(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    put(m.path("d/f"), "x");
    // Search only: names can be used but not listed.
    chmod(m.path("d"), 0o711).unwrap();
    BOB.run(|| {
        assert_eq!(get(m.path("d/f")), b"x");
        fails(Errno::ACCESS, std::fs::read_dir(m.path("d")));
        fails(Errno::ACCESS, try_create(m.path("d/g")));
    });
    // Listing only: names can be seen but not used.
    chmod(m.path("d"), 0o744).unwrap();
    BOB.run(|| {
        assert_eq!(names(m.path("d")), ["f"]);
        fails(Errno::ACCESS, stat(m.path("d/f")));
        fails(Errno::ACCESS, open_read(m.path("d/f")));
    });
    // Writing without searching is nothing.
    chmod(m.path("d"), 0o766).unwrap();
    BOB.run(|| {
        fails(Errno::ACCESS, try_create(m.path("d/g")));
        fails(Errno::ACCESS, unlink(m.path("d/f")));
    });
    // Writing and searching without listing.
    chmod(m.path("d"), 0o733).unwrap();
    BOB.run(|| {
        put(m.path("d/g"), "y");
        fails(Errno::ACCESS, std::fs::read_dir(m.path("d")));
        rename(m.path("d/g"), m.path("d/h")).unwrap();
        // Root's file, in a directory one may write to, without a sticky bit.
        unlink(m.path("d/f")).unwrap();
    });
    assert_eq!(names(m.path("d")), ["h"]);
}

fn sticky_directory_protects_entries(m: &mut Mount) {
    open_directory(m.path("tmp"));
    chmod(m.path("tmp"), 0o1777).unwrap();
    ALICE.run(|| {
        put(m.path("tmp/a"), "x");
        mkdir(m.path("tmp/ad")).unwrap();
    });
    chmod(m.path("tmp/a"), 0o666).unwrap();
    for _ in 0..3 {
        BOB.run(|| {
            put(m.path("tmp/b"), "y");
            fails(Errno::PERM, unlink(m.path("tmp/a")));
            fails(Errno::PERM, rmdir(m.path("tmp/ad")));
            fails(Errno::PERM, rename(m.path("tmp/a"), m.path("tmp/c")));
            fails(Errno::PERM, rename(m.path("tmp/b"), m.path("tmp/a")));
            fails(Errno::PERM, rename(m.path("tmp/ad"), m.path("tmp/c")));
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            fails(
                Errno::PERM,
                rename_with(m.path("tmp/b"), m.path("tmp/a"), exchange),
            );
            unlink(m.path("tmp/b")).unwrap();
        });
    }
    // The directory's owner may.
    mkdir_mode(m.path("carols"), 0o777).unwrap();
    chown(m.path("carols"), CAROL.uid, CAROL.gid).unwrap();
    chmod(m.path("carols"), 0o1777).unwrap();
    ALICE.run(|| put(m.path("carols/a"), "x"));
    BOB.run(|| fails(Errno::PERM, unlink(m.path("carols/a"))));
    CAROL.run(|| unlink(m.path("carols/a"))).unwrap();
    ALICE
        .run(|| rename(m.path("tmp/a"), m.path("tmp/mine")))
        .unwrap();
}

fn chmod_is_for_owners(m: &mut Mount) {
    ALICE.run(|| write_file(m.path("f"), 0o666));
    BOB.run(|| fails(Errno::PERM, chmod(m.path("f"), 0o777)));
    BOB.with_gid(ALICE.gid)
        .run(|| fails(Errno::PERM, chmod(m.path("f"), 0o777)));
    ALICE.run(|| chmod(m.path("f"), 0o600)).unwrap();
    assert_eq!(mode(m.path("f")), 0o600);
    chmod(m.path("f"), 0o4755).unwrap();
    assert_eq!(mode(m.path("f")), 0o4755, "root may set anything");
    ALICE.run(|| {
        let file = open_read(m.path("f")).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
    });
    assert_eq!(mode(m.path("f")), 0o640);
    // By descriptor, others' files neither.
    chmod(m.path("f"), 0o644).unwrap();
    BOB.run(|| {
        let file = open_read(m.path("f")).unwrap();
        fails(
            Errno::PERM,
            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o777)),
        );
    });
}

fn chown_rules(m: &mut Mount) {
    ALICE.run(|| write_file(m.path("f"), 0o644));
    ALICE.run(|| fails(Errno::PERM, chown(m.path("f"), BOB.uid, BOB.gid)));
    BOB.run(|| fails(Errno::PERM, chown(m.path("f"), BOB.uid, BOB.gid)));
    ALICE.run(|| fails(Errno::PERM, chown_group(m.path("f"), BOB.gid)));
    ALICE
        .in_groups(&[22_000])
        .run(|| chown_group(m.path("f"), 22_000))
        .unwrap();
    assert_eq!(owner(m.path("f")), (ALICE.uid, 22_000));
    // Set-id bits go with a change of owner: for users always.
    chmod(m.path("f"), 0o6755).unwrap();
    ALICE
        .in_groups(&[22_001])
        .run(|| chown_group(m.path("f"), 22_001))
        .unwrap();
    assert_eq!(mode(m.path("f")), 0o755);
    // For root too.
    chmod(m.path("f"), 0o6755).unwrap();
    chown(m.path("f"), BOB.uid, BOB.gid).unwrap();
    assert_eq!(
        (owner(m.path("f")), mode(m.path("f"))),
        ((BOB.uid, BOB.gid), 0o755)
    );
    // Without group execution the setgid bit means locking, and stays.
    chmod(m.path("f"), 0o2644).unwrap();
    chown(m.path("f"), ALICE.uid, ALICE.gid).unwrap();
    assert_eq!(mode(m.path("f")), 0o2644);
    // Directories keep theirs.
    mkdir(m.path("d")).unwrap();
    chmod(m.path("d"), 0o6755).unwrap();
    chown(m.path("d"), ALICE.uid, ALICE.gid).unwrap();
    assert_eq!(mode(m.path("d")), 0o6755);
    // A symlink has an owner of its own.
    symlink("f", m.path("l")).unwrap();
    let id = rustix::fs::Uid::from_raw(CAROL.uid);
    rustix::fs::chownat(CWD, m.path("l"), Some(id), None, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(owner(m.path("l")).0, CAROL.uid);
    assert_eq!(owner(m.path("f")).0, ALICE.uid);
}

fn access_answers_for_the_real_user(m: &mut Mount) {
    ALICE.run(|| write_file(m.path("f"), 0o640));
    ALICE.run(|| {
        rustix::fs::access(m.path("f"), Access::READ_OK | Access::WRITE_OK).unwrap();
        fails(
            Errno::ACCESS,
            rustix::fs::access(m.path("f"), Access::EXEC_OK),
        );
    });
    BOB.run(|| {
        rustix::fs::access(m.path("f"), Access::EXISTS).unwrap();
        fails(
            Errno::ACCESS,
            rustix::fs::access(m.path("f"), Access::READ_OK),
        );
        fails(
            Errno::NOENT,
            rustix::fs::access(m.path("missing"), Access::EXISTS),
        );
    });
    BOB.in_groups(&[ALICE.gid])
        .run(|| rustix::fs::access(m.path("f"), Access::READ_OK))
        .unwrap();
    // Root can read anything, but runs only what somebody may run.
    rustix::fs::access(m.path("f"), Access::READ_OK | Access::WRITE_OK).unwrap();
    fails(
        Errno::ACCESS,
        rustix::fs::access(m.path("f"), Access::EXEC_OK),
    );
}

fn faccessat_agrees_with_open(m: &mut Mount) {
    for bits in 0..8 {
        let path = m.path(format!("f{bits}"));
        write_file(&path, bits);
        BOB.run(|| {
            let may = |access| rustix::fs::access(&path, access).is_ok();
            assert_eq!(
                may(Access::READ_OK),
                open_read(&path).is_ok(),
                "reading with {bits:o}"
            );
            assert_eq!(
                may(Access::WRITE_OK),
                open(&path, OFlags::WRONLY, 0).is_ok(),
                "writing with {bits:o}"
            );
            assert_eq!(
                may(Access::READ_OK | Access::WRITE_OK),
                open_rw(&path).is_ok(),
                "both with {bits:o}"
            );
        });
    }
}

fn special_files_need_privilege(m: &mut Mount) {
    ALICE.run(|| {
        let null = rustix::fs::makedev(1, 3);
        fails(
            Errno::PERM,
            mknod(m.path("c"), FileType::CharacterDevice, 0o666, null),
        );
        fails(
            Errno::PERM,
            mknod(m.path("b"), FileType::BlockDevice, 0o666, null),
        );
        mknod(m.path("p"), FileType::Fifo, 0o644, 0).unwrap();
        mknod(m.path("s"), FileType::Socket, 0o644, 0).unwrap();
        mknod(m.path("r"), FileType::RegularFile, 0o644, 0).unwrap();
    });
    for name in ["p", "s", "r"] {
        assert_eq!(owner(m.path(name)), (ALICE.uid, ALICE.gid), "{name}");
    }
}

fn protected_files_open_for_nobody_else(m: &mut Mount) {
    ALICE.run(|| write_file(m.path("f"), 0o600));
    BOB.run(|| {
        fails(Errno::ACCESS, open_read(m.path("f")));
        fails(Errno::ACCESS, open_rw(m.path("f")));
        fails(
            Errno::ACCESS,
            open(m.path("f"), OFlags::WRONLY | OFlags::TRUNC, 0),
        );
        fails(
            Errno::ACCESS,
            open(m.path("f"), OFlags::WRONLY | OFlags::APPEND, 0),
        );
        fails(Errno::EXIST, try_create(m.path("f")));
        fails(Errno::ACCESS, truncate(m.path("f"), 0));
        fails(
            Errno::PERM,
            set_times(m.path("f"), timespec(1, 0), timespec(1, 0)),
        );
        fails(Errno::ACCESS, set_times(m.path("f"), NOW, NOW));
    });
    assert_eq!(get(m.path("f")), b"content");
}

fn hard_links_need_no_ownership_by_default_rules(m: &mut Mount) {
    let protected = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks").unwrap_or_default();
    open_directory(m.path("d"));
    ALICE.run(|| write_file(m.path("d/f"), 0o600));
    let linked = BOB.run(|| link(m.path("d/f"), m.path("d/l")));
    if protected.trim() == "0" {
        linked.unwrap();
        assert_eq!(stat(m.path("d/f")).unwrap().st_nlink, 2);
    } else {
        fails(Errno::PERM, linked);
    }
    // Searching the way there is always needed.
    ALICE.run(|| {
        mkdir_mode(m.path("own"), 0o700).unwrap();
        write_file(m.path("own/f"), 0o666);
    });
    BOB.run(|| fails(Errno::ACCESS, link(m.path("own/f"), m.path("d/l2"))));
}

fn opened_before_stays_usable(m: &mut Mount) {
    ALICE.run(|| {
        write_file(m.path("f"), 0o600);
        let file = open_rw(m.path("f")).unwrap();
        chmod(m.path("f"), 0).unwrap();
        assert_eq!(pwrite(&file, b"C", 0), Ok(1));
        assert_eq!(pread(&file, 20, 0).unwrap(), b"Content");
        ftruncate(&file, 3).unwrap();
        assert_eq!(fstat(&file).st_size, 3);
        fails(Errno::ACCESS, open_read(m.path("f")));
    });
    // A descriptor that changes hands: a write by somebody who couldn't open the file.
    let file = open_rw(m.path("f")).unwrap();
    BOB.run(|| assert_eq!(pwrite(&file, b"K", 0), Ok(1)));
    assert_eq!(get(m.path("f")), b"Kon");
    // And one opened for reading can't be written, by root neither.
    let file = open_read(m.path("f")).unwrap();
    fails(Errno::BADF, pwrite(&file, b"x", 0));
    fails_with_any(&[Errno::INVAL, Errno::BADF], ftruncate(&file, 0));
}

fn root_overrides(m: &mut Mount) {
    ALICE.run(|| {
        mkdir_mode(m.path("d"), 0).unwrap();
        put(m.path("f"), "x");
        chmod(m.path("f"), 0).unwrap();
    });
    put(m.path("d/f"), "y");
    assert_eq!(get(m.path("d/f")), b"y");
    assert_eq!(get(m.path("f")), b"x");
    assert_eq!(owner(m.path("d/f")), (0, 0));
}

fn creation_without_own_permission(m: &mut Mount) {
    // What `git`, `cp` and `install` do: a new file that nobody may write, written through its descriptor.
    ALICE.run(|| {
        let file = open(
            m.path("f"),
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
            0o444,
        )
        .unwrap();
        assert_eq!(pwrite(&file, b"content", 0), Ok(7));
        ftruncate(&file, 4).unwrap();
        rustix::fs::fsync(&file).unwrap();
        drop(file);
        assert_eq!(get(m.path("f")), b"cont");
        fails(Errno::ACCESS, open_rw(m.path("f")));
        let file = open(m.path("g"), OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, 0).unwrap();
        assert_eq!(pwrite(&file, b"content", 0), Ok(7));
        assert_eq!(pread(&file, 7, 0).unwrap(), b"content");
        fails(Errno::ACCESS, open_read(m.path("g")));
    });
}
