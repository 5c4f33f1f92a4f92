//! Random operations, the same ones through the mount and on a plain directory of the same store: every result,
//! every errno, all attributes, contents and listings must agree.
//!
//! A failure prints its seed and the last operations; `TTLFS_TEST_SEED` repeats it, `TTLFS_TEST_OPERATIONS` says
//! how many operations a run has.

use crate::common::*;
use operation::Operation;
use rustix::fs::FileType;
use side::{Bytes, Seen, Side, seen};
use std::collections::VecDeque;
use std::path::Path;

mod operation;
mod side;

// Devices and set-id bits are allowed, since they are on the plain side.
in_each_io_mode!("dev,suid": equals_a_plain_directory);
in_default_mode!("dev,suid,quota=1G,inodes=100000,max_file=1G,ttl=1d": equals_a_plain_directory_under_ample_limits);
in_default_mode!("dev,suid,erase=overwrite,erase_best_effort": equals_a_plain_directory_while_erasing);

const DEFAULT_OPERATIONS: u64 = 4000;
/// How many operations lie between two comparisons of the whole trees.
const COMPARED_EVERY: u64 = 500;

fn equals_a_plain_directory(m: &mut Mount) {
    compare(m);
}

fn equals_a_plain_directory_under_ample_limits(m: &mut Mount) {
    compare(m);
}

fn equals_a_plain_directory_while_erasing(m: &mut Mount) {
    compare(m);
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

fn compare(m: &mut Mount) {
    let seed = number_from("TTLFS_TEST_SEED").unwrap_or_else(entropy);
    let operations = number_from("TTLFS_TEST_OPERATIONS").unwrap_or(DEFAULT_OPERATIONS);
    let plain = StoreKind::default_kind().shared().backing();
    // Other users work there too, and its parent is closed.
    chmod(plain.parent().unwrap(), 0o755).unwrap();
    // Links lead one level up: there it must be as open as in the mount's root.
    chmod(&plain, 0o1777).unwrap();
    // Below the root: a mountpoint can't be renamed or removed.
    let (mounted, plain) = (m.path("top"), plain.join("top"));
    for top in [&mounted, &plain] {
        mkdir(top).unwrap();
        chmod(top, 0o1777).unwrap();
    }
    let mut random = Random::new(seed);
    let mut through = Side::new(&mounted);
    let mut behind = Side::new(&plain);
    let mut last: VecDeque<String> = VecDeque::new();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for step in 0..operations {
            let operation = Operation::random(&mut random);
            last.push_back(format!("{step}: {operation:?}"));
            if last.len() > 25 {
                last.pop_front();
            }
            let (found, wanted) = (through.carry_out(&operation), behind.carry_out(&operation));
            assert!(
                found == wanted,
                "step {step}, {operation:?}:\n  mount {found:?}\n  plain {wanted:?}"
            );
            if step % COMPARED_EVERY == COMPARED_EVERY - 1 {
                compare_trees(&mounted, &plain);
                if random.chance(2) {
                    drop_caches();
                }
            }
        }
        compare_trees(&mounted, &plain);
        through.handles.clear();
        behind.handles.clear();
        m.remount();
        compare_trees(&mounted, &plain);
    }));
    if let Err(panic) = outcome {
        eprintln!("TTLFS_TEST_SEED={seed}; the last operations:");
        last.iter().for_each(|operation| eprintln!("  {operation}"));
        std::panic::resume_unwind(panic);
    }
}

fn compare_trees(through: &Path, behind: &Path) {
    let (found, wanted) = (snapshot(through), snapshot(behind));
    for (one, two) in found.iter().zip(&wanted) {
        assert!(
            one == two,
            "the trees differ:\n  mount {one:?}\n  plain {two:?}"
        );
    }
    assert_eq!(
        found.len(),
        wanted.len(),
        "one tree has more than the other"
    );
}

type Entry = (String, Seen, Bytes, Vec<(String, Bytes)>);

/// Everything below a directory: attributes, content or target, extended attributes; for files with several names,
/// which is which.
fn snapshot(root: &Path) -> Vec<Entry> {
    fn walk(root: &Path, below: &str, numbers: &mut Vec<u64>, all: &mut Vec<Entry>) {
        for name in names(root.join(below)) {
            let path = format!("{below}{}", name.to_str().expect("ours are text"));
            let whole = root.join(&path);
            let stat = lstat(&whole).unwrap();
            let kind = FileType::from_raw_mode(stat.st_mode);
            let content = match kind {
                FileType::RegularFile => get(&whole),
                FileType::Symlink => rustix::fs::readlink(&whole, Vec::new())
                    .unwrap()
                    .into_bytes(),
                _ => Vec::new(),
            };
            let attributes = xattrs(&whole).unwrap().into_iter().map(|key| {
                let value = xattr(&whole, &key).unwrap();
                (key, Bytes(value))
            });
            let attributes = attributes.collect();
            // The number of the file in the order of the walk: equal for names of one file.
            let place = numbers
                .iter()
                .position(|number| *number == stat.st_ino)
                .unwrap_or_else(|| {
                    numbers.push(stat.st_ino);
                    numbers.len() - 1
                });
            all.push((
                format!("{path} (file {place})"),
                seen(&stat),
                Bytes(content),
                attributes,
            ));
            if kind == FileType::Directory {
                walk(root, &format!("{path}/"), numbers, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(root, "", &mut Vec::new(), &mut all);
    all
}
