//! Claims of docs/semantics.md that no other module tests.

use crate::common::*;
use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, StatxFlags, fallocate};
use rustix::io::Errno;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime};

in_default_mode!("":
    no_birth_time_in_statx,
    no_reflinks_through_the_mount,
    chown_of_nothing,
    mounts_in_the_backing_directory_are_not_crossed,
    leftovers_in_private_state_are_finished,
);
in_each_io_mode!("": setid_bits_set_under_an_open_writer);
in_each_io_mode!("rule=/limited:quota=1M": unlimited_writers_stay_out_of_byte_limits);
in_default_mode!("ttl=2s": mounted_on_is_in_use);
in_default_mode!("ttl=1h,rule=/short:ttl=4s": a_moved_files_lifetime_survives_a_remount);

const SOON: Duration = Duration::from_secs(10);

fn no_birth_time_in_statx(m: &mut Mount) {
    if is_native() {
        return skip("the store shows it");
    }
    put(m.path("f"), "x");
    assert_eq!(
        statx(m.path("f")).stx_mask & StatxFlags::BTIME.bits(),
        0,
        "now it does: say so in the documentation"
    );
}

fn no_reflinks_through_the_mount(m: &mut Mount) {
    if is_native() {
        return skip("the store may have them");
    }
    put(m.path("a"), pattern(8192, 1));
    let (from, to) = (open_read(m.path("a")).unwrap(), create(m.path("b")));
    fails(Errno::OPNOTSUPP, rustix::fs::ioctl_ficlone(&to, &from));
}

fn chown_of_nothing(m: &mut Mount) {
    if is_native() {
        return skip("the store refuses it");
    }
    put(m.path("f"), "x");
    chown(m.path("f"), ALICE.uid, ALICE.gid).unwrap();
    chmod(m.path("f"), 0o6755).unwrap();
    BOB.run(|| rustix::fs::chownat(CWD, m.path("f"), None, None, AtFlags::empty()))
        .unwrap();
    assert_eq!(owner(m.path("f")), (ALICE.uid, ALICE.gid));
    assert_eq!(mode(m.path("f")), 0o6755);
}

fn mounts_in_the_backing_directory_are_not_crossed(m: &mut Mount) {
    if is_native() {
        return skip("about the mount");
    }
    m.unmount();
    let place = m.back("d");
    mkdir(&place).unwrap();
    let shown = place.display().to_string();
    process::tool("mount", &["-t", "tmpfs", "inner", &shown]);
    put(place.join("f"), "inside");
    m.mount();
    fails(Errno::XDEV, stat(m.path("d")));
    fails(Errno::XDEV, open_read(m.path("d/f")));
    fails(Errno::XDEV, rmdir(m.path("d")));
    m.unmount();
    process::tool("umount", &[&shown]);
    m.mount();
    assert_eq!(names(m.root()), ["d"]);
}

fn leftovers_in_private_state_are_finished(m: &mut Mount) {
    if is_native() {
        return skip("natively there is none");
    }
    m.unmount();
    // As a server leaves them that was killed: one to erase, one to free.
    for name in ["7b-2", "7c-0"] {
        put(m.back(".ttlfs/unlinked").join(name), pattern(100_000, 1));
    }
    m.mount();
    eventually(SOON, "private state is empty", || {
        names(m.back(".ttlfs/unlinked")).is_empty()
    });
    assert!(names(m.root()).is_empty());
}

fn setid_bits_set_under_an_open_writer(m: &mut Mount) {
    put(m.path("f"), "content");
    chown(m.path("f"), ALICE.uid, ALICE.gid).unwrap();
    chmod(m.path("f"), 0o666).unwrap();
    let file = BOB.run(|| open_rw(m.path("f"))).unwrap();
    chmod(m.path("f"), 0o6777).unwrap();
    BOB.run(|| pwrite(&file, b"C", 0)).unwrap();
    let unseen = m.io == Io::Passthrough && !is_native();
    assert_eq!(mode(m.path("f")), if unseen { 0o6777 } else { 0o777 });
    // The next one is seen.
    drop(file);
    chmod(m.path("f"), 0o6777).unwrap();
    BOB.run(|| pwrite(&open_rw(m.path("f")).unwrap(), b"C", 0))
        .unwrap();
    assert_eq!(mode(m.path("f")), 0o777);
}

fn unlimited_writers_stay_out_of_byte_limits(m: &mut Mount) {
    mkdir(m.path("limited")).unwrap();
    let file = create(m.path("f"));
    pwrite(&file, b"x", 0).unwrap();
    let moved = rename(m.path("f"), m.path("limited/f"));
    if m.io == Io::Passthrough {
        fails(Errno::XDEV, moved);
        drop(file);
        eventually(SOON, "after the close it can go", || {
            rename(m.path("f"), m.path("limited/f")).is_ok()
        });
    } else {
        moved.unwrap();
        assert_eq!(pwrite(&file, &vec![1; 2 << 20], 0), Ok(1 << 20));
    }
}

fn a_moved_files_lifetime_survives_a_remount(m: &mut Mount) {
    let ttl = Duration::from_secs(4);
    mkdir(m.path("short")).unwrap();
    put(m.path("f"), "x");
    wait::until(birth(m.back("f")) + ttl + Duration::from_millis(100));
    rename(m.path("f"), m.path("short/f")).unwrap();
    let moved = SystemTime::now();
    m.remount();
    let found = stat(m.path("short/f"));
    assert!(
        SystemTime::now() < moved + ttl,
        "the machine is too slow for this test"
    );
    found.unwrap();
    wait::until(moved + ttl + Duration::from_millis(10));
    fails(Errno::NOENT, stat(m.path("short/f")));
}

#[test]
fn punched_ranges_are_erased() {
    if is_native() {
        return skip("a feature of ttlfs");
    }
    if !StoreKind::Ext4.is_available() {
        return skip("no mkfs.ext4 here");
    }
    let store = Store::of_mebibytes(StoreKind::Ext4, 64);
    let m = Mount::new(&store, Io::Default, "erase=overwrite");
    for (mode, name) in [
        (
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            "punched",
        ),
        (FallocateFlags::ZERO_RANGE, "zeroed"),
    ] {
        let marker = format!("{name}-{:016x}{:016x}", entropy(), entropy());
        let is_on_the_device = || {
            rustix::fs::syncfs(open_read(store.path()).unwrap()).unwrap();
            let image = std::fs::read(store.image()).unwrap();
            image
                .windows(marker.len())
                .any(|window| window == marker.as_bytes())
        };
        let file = create(m.path(name));
        file.write_all_at(&format!("{marker:-<64}").repeat(1024).into_bytes(), 0)
            .unwrap();
        rustix::fs::fsync(&file).unwrap();
        assert!(is_on_the_device(), "the search finds what is there");
        fallocate(&file, mode, 0, 65_536).unwrap();
        assert!(!is_on_the_device(), "{name}");
        drop(open(m.path(name), OFlags::RDONLY, 0).unwrap());
    }
}

#[test]
fn the_clock_does_not_follow_the_wall_clock() {
    use rustix::time::{ClockId, clock_gettime};
    use ttlfs::clock::Clock;
    let boot = || {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    };
    // The clock that a server hands on: the wall clock at the mount, as an offset from the boot clock. Nothing else
    // is read from then on.
    let offset = Clock::from_wall().offset_ns() - 3_600_000_000_000;
    let clock = Clock::with_offset(offset);
    let before = boot();
    let now = clock.now().0 - offset;
    assert!((before..=boot()).contains(&now));
}

/// A mount that logs each request, in the notation of docs/architecture.md.
struct Traced {
    root: std::path::PathBuf,
    log: std::path::PathBuf,
}

impl Traced {
    fn new(options: &str) -> Traced {
        let backing = StoreKind::default_kind().shared().backing();
        let (root, log, file) = (
            scratch::fresh("mnt"),
            scratch::fresh("log"),
            scratch::fresh("toml"),
        );
        mkdir(&root).unwrap();
        std::fs::write(&file, format!("[log]\nfile = \"{}\"\n", log.display())).unwrap();
        let done = process::run_to_end(
            process::ttlfs()
                .env("TTLFS_LOG", "fuser=debug")
                .env(process::MOUNT_VARIABLE, &root)
                .args(["mount", "-o", options, "-c"])
                .args([&file, &backing, &root]),
            SOON,
        );
        assert!(done.status.success(), "{}", done.errors);
        Traced { root, log }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.join(name)
    }

    fn length(&self) -> usize {
        std::fs::metadata(&self.log).unwrap().len() as usize
    }

    /// What was asked since the log had this length; forgetting is nobody's doing.
    fn requests(&self, since: usize) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        text[since..]
            .lines()
            .filter_map(|line| {
                // `FUSE( 18) ino 0x1 GETATTR ...`: the word after the inode number.
                let (_, request) = line.split_once("FUSE(")?;
                let (_, rest) = request.split_once("ino ")?;
                rest.split_whitespace().nth(1)
            })
            .filter(|name| !name.contains("FORGET"))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let umount = process::run_to_end(process::ttlfs().arg("umount").arg(&self.root), SOON);
        assert!(umount.status.success() || std::thread::panicking());
    }
}

#[test]
fn round_trips_are_as_documented() {
    if is_native() {
        return skip("natively there are none");
    }
    type Step = fn(&Traced, u32);
    fn at(t: &Traced, kind: &str, number: u32) -> std::path::PathBuf {
        t.path(&format!("{kind}{number}"))
    }
    fn written(t: &Traced, number: u32) {
        put(at(t, "w", number), [1; 4096]);
    }
    fn nothing(_: &Traced, _: u32) {}
    /// A file that was opened for writing and looked at since, in a directory whose attributes are known.
    fn written_before(t: &Traced, number: u32) {
        written(t, number);
        assert!(exists(&t.root) && exists(at(t, "w", number)));
    }
    fn append(t: &Traced, number: u32) {
        let file = open(at(t, "w", number), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
        rustix::io::write(&file, &[2; 128]).unwrap();
    }
    /// A file that nobody has opened yet.
    fn read_only(t: &Traced, number: u32) {
        rustix::fs::mknodat(
            CWD,
            at(t, "n", number),
            rustix::fs::FileType::RegularFile,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        stat(at(t, "n", number)).unwrap();
    }
    // The row in the documentation, what it says, what to prepare, what to do.
    let unlimited: &[(&str, &str, Step, Step)] = &[
        (
            "create, close",
            "(GETATTR) LOOKUP CREATE [RELEASE]",
            nothing,
            |t, n| drop(create(at(t, "c", n))),
        ),
        (
            "create, write 4 KiB, close",
            "(GETATTR) LOOKUP CREATE GETXATTR [RELEASE]",
            nothing,
            written,
        ),
        (
            "stat, name and attributes known",
            "none",
            read_only,
            |t, n| assert!(exists(at(t, "n", n))),
        ),
        (
            "stat of a file that was opened for writing",
            "GETATTR",
            written_before,
            |t, n| assert!(exists(at(t, "w", n))),
        ),
        ("open, read, close", "OPEN [RELEASE]", read_only, |t, n| {
            drop(get(at(t, "n", n)))
        }),
        (
            "open, append, close",
            "GETATTR OPEN GETXATTR [RELEASE]",
            written_before,
            append,
        ),
        ("rename", "(GETATTR) LOOKUP RENAME", read_only, |t, n| {
            rename(at(t, "n", n), at(t, "m", n)).unwrap()
        }),
        ("unlink", "(GETATTR) UNLINK [FORGET]", read_only, |t, n| {
            unlink(at(t, "n", n)).unwrap()
        }),
        ("mkdir", "(GETATTR) LOOKUP MKDIR", nothing, |t, n| {
            mkdir(at(t, "d", n)).unwrap()
        }),
        (
            "rmdir",
            "(GETATTR) RMDIR [FORGET]",
            |t, n| mkdir(at(t, "d", n)).unwrap(),
            |t, n| rmdir(at(t, "d", n)).unwrap(),
        ),
        (
            "a name that is not there, the first time",
            "LOOKUP",
            |t, _| assert!(exists(&t.root)),
            |t, n| assert!(!exists(at(t, "no", n))),
        ),
        (
            "the same again",
            "none",
            |t, n| assert!(!exists(at(t, "no", n))),
            |t, n| assert!(!exists(at(t, "no", n))),
        ),
    ];
    let limited: &[(&str, &str, Step, Step)] = &[(
        "the same under a byte limit",
        "(GETATTR) LOOKUP CREATE WRITE [RELEASE]",
        nothing,
        written,
    )];
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/architecture.md"))
            .unwrap();
    for (options, steps) in [("rw", unlimited), ("quota=1G", limited)] {
        let t = Traced::new(options);
        // The first close on a mount.
        written(&t, 0);
        let mut number = 0;
        for (row, says, prepare, act) in steps {
            assert!(
                documented.contains(&format!("| {row} | {says} |")),
                "not in the documentation: {row}: {says}"
            );
            let all: Vec<&str> = says
                .split(' ')
                .filter(|name| !name.contains("FORGET") && *name != "none")
                .map(|name| name.trim_matches(['(', ')', '[', ']']))
                .collect();
            let short = if says.starts_with('(') {
                &all[1..]
            } else {
                &all[..]
            };
            let mut seen = Vec::new();
            // Other tests drop the machine's caches: what is seen once in a few attempts is what it takes.
            let found = (0..20).any(|_| {
                number += 1;
                prepare(&t, number);
                std::thread::sleep(Duration::from_millis(20));
                let since = t.length();
                act(&t, number);
                wait::comes_true(Duration::from_millis(200), || {
                    seen = t.requests(since);
                    seen.len() >= all.len()
                });
                seen == all || seen == short
            });
            assert!(found, "{row}: {seen:?}, not {says}");
        }
    }
}

/// Runs mount(8) or umount(8).
fn system(program: &str, arguments: &[&std::ffi::OsStr]) {
    let status = std::process::Command::new(program)
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn mounted_on_is_in_use(m: &mut Mount) {
    mkdir(m.path("under")).unwrap();
    put(m.path("bound"), "bound");
    mkdir(m.path("plain")).unwrap();
    let elsewhere = scratch::fresh("elsewhere");
    std::fs::write(&elsewhere, "").unwrap();
    let (under, bound) = (m.path("under"), m.path("bound"));
    system(
        "mount",
        &[
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "tmpfs".as_ref(),
            under.as_os_str(),
        ],
    );
    system(
        "mount",
        &["--bind".as_ref(), bound.as_os_str(), elsewhere.as_os_str()],
    );
    put(under.join("precious"), "precious");
    eventually(
        Duration::from_secs(6),
        "what nothing is mounted on expires",
        || !exists(m.path("plain")),
    );
    assert_eq!(get(under.join("precious")), b"precious");
    assert_eq!(get(&elsewhere), b"bound");
    assert!(exists(&bound));
    system("umount", &[under.as_os_str()]);
    system("umount", &[elsewhere.as_os_str()]);
    eventually(Duration::from_secs(6), "then they expire as well", || {
        !exists(&under) && !exists(&bound)
    });
}
