//! What `df` sees.

use crate::common::*;
use rustix::fs::{StatVfs, statvfs};

in_default_mode!("": figures_are_the_stores, figures_are_sane_everywhere, flags_of_the_mount);
in_default_mode!("quota=10M,inodes=50": df_shows_the_quota);
in_default_mode!("quota=100M,rule=/a:quota=10M,rule=/a/b:inodes=7": df_shows_the_nearest_limit);
in_default_mode!("quota=1T": df_never_shows_more_than_there_is);

fn total(figures: &StatVfs) -> u64 {
    figures.f_blocks * figures.f_frsize
}

fn free(figures: &StatVfs) -> u64 {
    figures.f_bavail * figures.f_frsize
}

fn figures_are_the_stores(m: &mut Mount) {
    let (through, behind) = (statvfs(m.root()).unwrap(), statvfs(m.backing()).unwrap());
    assert_eq!(total(&through), total(&behind));
    // Others use the store at the same time.
    assert!(free(&through).abs_diff(free(&behind)) < 1 << 28);
    assert_eq!(through.f_namemax, 255);
    if behind.f_files > 0 {
        assert!(through.f_files > 0 && through.f_ffree <= through.f_files);
    }
}

fn figures_are_sane_everywhere(m: &mut Mount) {
    put(m.path("f"), "x");
    mkdir(m.path("d")).unwrap();
    for name in ["", "f", "d"] {
        let found = statvfs(m.path(name)).unwrap();
        assert!(
            found.f_bfree <= found.f_blocks && found.f_bavail <= found.f_bfree,
            "{name}"
        );
        assert!(found.f_bsize >= 512 && found.f_frsize >= 512 && found.f_frsize <= 1 << 20);
    }
    let open_file = open_read(m.path("f")).unwrap();
    rustix::fs::fstatvfs(&open_file).unwrap();
}

fn flags_of_the_mount(m: &mut Mount) {
    if is_native() {
        return skip("about the mount");
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == m.root().to_str())
        .expect("a line");
    let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
    assert!(
        options.contains(&"nosuid") && options.contains(&"nodev") && options.contains(&"rw"),
        "{line}"
    );
    let kind = line.split(" - ").nth(1).unwrap().split(' ').next();
    assert_eq!(kind, Some("fuse.ttlfs"), "{line}");
}

fn df_shows_the_quota(m: &mut Mount) {
    const MEBIBYTE: u64 = 1 << 20;
    let before = statvfs(m.root()).unwrap();
    assert_eq!(total(&before), 10 * MEBIBYTE);
    assert_eq!(free(&before), 10 * MEBIBYTE);
    assert_eq!(before.f_files, 50);
    let used_inodes = before.f_files - before.f_ffree;
    put(m.path("f"), vec![1; 3 * MEBIBYTE as usize]);
    mkdir(m.path("d")).unwrap();
    let after = statvfs(m.root()).unwrap();
    assert_eq!(free(&after), 7 * MEBIBYTE);
    assert_eq!(after.f_files - after.f_ffree, used_inodes + 2);
    unlink(m.path("f")).unwrap();
    eventually(std::time::Duration::from_secs(3), "given back", || {
        free(&statvfs(m.root()).unwrap()) == 10 * MEBIBYTE
    });
    // And to the programs that people use.
    let shown = process::tool(
        "df",
        &[
            "-B1",
            "--output=size,used,avail",
            &m.root().display().to_string(),
        ],
    );
    let numbers: Vec<u64> = shown
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(numbers, [10 * MEBIBYTE, 0, 10 * MEBIBYTE]);
}

fn df_shows_the_nearest_limit(m: &mut Mount) {
    const MEBIBYTE: u64 = 1 << 20;
    mkdir(m.path("a")).unwrap();
    mkdir(m.path("a/b")).unwrap();
    mkdir(m.path("c")).unwrap();
    put(m.path("a/f"), vec![1; MEBIBYTE as usize]);
    put(m.path("c/f"), vec![1; 2 * MEBIBYTE as usize]);
    let at = |name: &str| statvfs(m.path(name)).unwrap();
    assert_eq!(
        (total(&at("")), free(&at(""))),
        (100 * MEBIBYTE, 97 * MEBIBYTE)
    );
    assert_eq!(
        (total(&at("c")), free(&at("c"))),
        (100 * MEBIBYTE, 97 * MEBIBYTE)
    );
    assert_eq!(
        (total(&at("a")), free(&at("a"))),
        (10 * MEBIBYTE, 9 * MEBIBYTE)
    );
    assert_eq!(
        (total(&at("a/f")), free(&at("a/f"))),
        (10 * MEBIBYTE, 9 * MEBIBYTE)
    );
    assert_eq!(
        (total(&at("a/b")), free(&at("a/b"))),
        (10 * MEBIBYTE, 9 * MEBIBYTE)
    );
    assert_eq!(at("a/b").f_files, 7);
    // What is free is never more than an enclosing limit leaves.
    put(m.path("c/g"), vec![1; 92 * MEBIBYTE as usize]);
    assert!(free(&at("a")) <= 5 * MEBIBYTE, "{}", free(&at("a")));
}

fn df_never_shows_more_than_there_is(m: &mut Mount) {
    let (through, behind) = (statvfs(m.root()).unwrap(), statvfs(m.backing()).unwrap());
    assert!(
        free(&through) <= free(&behind) + (1 << 28),
        "{} of {}",
        free(&through),
        free(&behind)
    );
}
