//! Removing a tree for good: file contents are overwritten and brought to the disk before anything is unlinked.
//!
//! Nobody else reaches the tree any more: its mount is gone. However deep it is, two descriptors suffice:
//! directories are moved up to the top before they are looked into.

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, RenameFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

const CHUNK_BYTES: usize = 1 << 18;
const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What went wrong first, and how often something did.
#[derive(Default)]
struct Problems {
    count: usize,
    first: Option<String>,
}

impl Problems {
    fn add(&mut self, what: &CStr, error: impl Into<io::Error>) {
        self.count += 1;
        let error = error.into();
        self.first
            .get_or_insert_with(|| format!("{}: {error}", what.to_string_lossy()));
    }
}

/// Removes the directory `name`. Goes on after errors, and reports them in one line.
pub(super) fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &str,
    passes: Option<u8>,
) -> Result<(), String> {
    let top = match rustix::fs::openat(parent, name, OPEN_DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|error| format!("{name}: {error}"))?,
    };
    let mut problems = Problems::default();
    let mut eraser = passes
        .map(Eraser::new)
        .transpose()
        .map_err(|error| error.to_string())?;
    let directories = flatten(top.as_fd(), eraser.as_mut(), &mut problems);
    if eraser.is_some() {
        if let Err(error) = rustix::fs::syncfs(&top) {
            problems.add(c"sync", error);
        }
    }
    for directory in &directories {
        match open_below(top.as_fd(), directory) {
            Ok(opened) => empty(opened.as_fd(), &mut problems),
            Err(error) => problems.add(directory, error),
        }
        if let Err(error) = unlink(top.as_fd(), directory, AtFlags::REMOVEDIR) {
            problems.add(directory, error);
        }
    }
    empty(top.as_fd(), &mut problems);
    if let Err(error) = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        return Err(format!("{name}: {error}"));
    }
    match problems.first {
        Some(first) => Err(format!("{first} ({} such in all)", problems.count)),
        None => Ok(()),
    }
}

/// Moves all directories up into the top one and erases the files in each. Returns the directories' new names.
fn flatten(
    top: BorrowedFd<'_>,
    mut eraser: Option<&mut Eraser>,
    problems: &mut Problems,
) -> Vec<CString> {
    let mut found: Vec<CString> = Vec::new();
    let mut counter = 0u64;
    look_into(
        top,
        None,
        eraser.as_deref_mut(),
        &mut found,
        &mut counter,
        problems,
    );
    let mut next = 0;
    while let Some(name) = found.get(next).cloned() {
        next += 1;
        match open_below(top, &name) {
            Ok(directory) => {
                let eraser = eraser.as_deref_mut();
                look_into(
                    directory.as_fd(),
                    Some(top),
                    eraser,
                    &mut found,
                    &mut counter,
                    problems,
                );
            }
            Err(error) => problems.add(&name, error),
        }
    }
    found
}

/// Erases one directory's files, and moves its directories to `top` (if it isn't the top itself).
fn look_into(
    directory: BorrowedFd<'_>,
    top: Option<BorrowedFd<'_>>,
    mut eraser: Option<&mut Eraser>,
    found: &mut Vec<CString>,
    counter: &mut u64,
    problems: &mut Problems,
) {
    for name in names(directory, problems) {
        let stat = match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => {
                problems.add(&name, error);
                continue;
            }
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                // Whatever bits the command left: moving it and looking into it needs them all.
                let _ = rustix::fs::chmodat(directory, &name, Mode::RWXU, AtFlags::empty());
                match top {
                    None => found.push(name),
                    Some(top) => match move_up(directory, &name, top, counter) {
                        Ok(new_name) => found.push(new_name),
                        Err(error) => problems.add(&name, error),
                    },
                }
            }
            FileType::RegularFile => {
                if let Some(eraser) = eraser.as_deref_mut() {
                    if let Err(error) = eraser.erase(directory, &name, &stat) {
                        problems.add(&name, error);
                    }
                }
            }
            _ => {}
        }
    }
}

fn names(directory: BorrowedFd<'_>, problems: &mut Problems) -> Vec<CString> {
    let mut names = Vec::new();
    match Dir::read_from(directory) {
        Ok(entries) => {
            for entry in entries {
                match entry {
                    Ok(entry) if [c".", c".."].contains(&entry.file_name()) => {}
                    Ok(entry) => names.push(entry.file_name().to_owned()),
                    Err(error) => {
                        problems.add(c"a directory", error);
                        break;
                    }
                }
            }
        }
        Err(error) => problems.add(c"a directory", error),
    }
    names
}

fn move_up(
    from: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    counter: &mut u64,
) -> Result<CString, Errno> {
    loop {
        *counter += 1;
        let new_name =
            CString::new(format!(".ttlfs-removed-{counter}")).map_err(|_| Errno::INVAL)?;
        match rustix::fs::renameat_with(from, name, top, &new_name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(Errno::PERM) if clear_flags(from, name) => {}
            other => return other.map(|()| new_name),
        }
    }
}

fn open_below(top: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(top, name, OPEN_DIRECTORY, Mode::empty())
}

/// Unlinks everything in a directory that isn't a directory.
fn empty(directory: BorrowedFd<'_>, problems: &mut Problems) {
    for name in names(directory, problems) {
        match unlink(directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::ISDIR) => {}
            Err(error) => problems.add(&name, error),
        }
    }
}

fn unlink(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, flags) {
        Err(Errno::PERM) if clear_flags(directory, name) => {
            rustix::fs::unlinkat(directory, name, flags)
        }
        other => other,
    }
}

/// Takes `chattr +i` and `+a` away. True if there was something to take away.
fn clear_flags(directory: BorrowedFd<'_>, name: &CStr) -> bool {
    let keeps_it = IFlags::IMMUTABLE | IFlags::APPEND;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) else {
        return false;
    };
    match rustix::fs::ioctl_getflags(&file) {
        Ok(old) if old.intersects(keeps_it) => {
            rustix::fs::ioctl_setflags(&file, old - keeps_it).is_ok()
        }
        _ => false,
    }
}

/// Overwrites files in place. The last pass is zeros, the others are random.
struct Eraser {
    passes: u8,
    zeros: Vec<u8>,
    random: File,
    /// Files with several names that are done.
    done: HashSet<(u64, u64)>,
}

impl Eraser {
    fn new(passes: u8) -> io::Result<Eraser> {
        Ok(Eraser {
            passes,
            zeros: vec![0; CHUNK_BYTES],
            random: File::open("/dev/urandom")?,
            done: HashSet::new(),
        })
    }

    /// The last pass is brought to the disk by the caller, for all files at once.
    fn erase(&mut self, directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        if stat.st_size == 0 || (stat.st_nlink > 1 && !self.done.insert((stat.st_dev, stat.st_ino)))
        {
            return Ok(());
        }
        let file = open_for_writing(directory, name)?;
        for pass in 1..=self.passes {
            self.overwrite(&file, pass == self.passes)?;
            if pass < self.passes {
                file.sync_data()?;
            }
        }
        Ok(())
    }

    fn overwrite(&mut self, file: &File, is_last: bool) -> io::Result<()> {
        let mut noise = if is_last {
            Vec::new()
        } else {
            vec![0; CHUNK_BYTES]
        };
        let mut position = 0;
        // Holes hold nothing: only data is written over.
        while let Some(start) = next(file, SeekFrom::Data(position))? {
            let end = next(file, SeekFrom::Hole(start))?.unwrap_or(start);
            position = start;
            while position < end {
                let length = usize::try_from(end - position)
                    .unwrap_or(CHUNK_BYTES)
                    .min(CHUNK_BYTES);
                let bytes = if is_last {
                    &self.zeros[..length]
                } else {
                    self.random.read_exact(&mut noise[..length])?;
                    &noise[..length]
                };
                file.write_all_at(bytes, position)?;
                position += length as u64;
            }
            if end <= start {
                break;
            }
        }
        Ok(())
    }
}

fn next(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Err(Errno::NXIO) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn open_for_writing(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::PERM) if clear_flags(directory, name) => {
            rustix::fs::openat(directory, name, flags, Mode::empty())
        }
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        }
        other => other,
    };
    Ok(opened?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// A directory that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path =
                std::env::temp_dir().join(format!("ttlfs-wipe-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).expect("a fresh name");
            Scratch(path)
        }

        fn open(&self) -> OwnedFd {
            rustix::fs::open(&self.0, OPEN_DIRECTORY, Mode::empty()).expect("it is there")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_deep_tree_with_hostile_modes_goes() {
        let scratch = Scratch::new("deep");
        let fd = scratch.open();
        let flags = OPEN_DIRECTORY;
        rustix::fs::mkdirat(&fd, "tree", Mode::RWXU).expect("made");
        let mut current = rustix::fs::openat(&fd, "tree", flags, Mode::empty()).expect("open");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&current, "a-rather-long-name", Mode::RWXU).expect("made");
            let below = rustix::fs::openat(&current, "a-rather-long-name", flags, Mode::empty());
            current = below.expect("open");
        }
        rustix::fs::fchmod(&current, Mode::empty()).expect("closed");
        assert_eq!(remove_tree(fd.as_fd(), "tree", Some(1)), Ok(()));
        assert!(!scratch.0.join("tree").exists());
    }

    #[test]
    fn data_is_overwritten_and_holes_are_not() {
        let scratch = Scratch::new("data");
        let path = scratch.0.join("secret");
        let file = File::create_new(&path).expect("made");
        file.write_all_at(b"secret", 0).expect("written");
        file.write_all_at(b"secret", 10 << 20).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).expect("closed");
        let fd = scratch.open();
        let stat = rustix::fs::stat(&path).expect("there");
        let mut eraser = Eraser::new(3).expect("an eraser");
        eraser.erase(fd.as_fd(), c"secret", &stat).expect("erased");
        let after = std::fs::read(&path).expect("readable");
        assert_eq!(after.len(), (10 << 20) + 6);
        assert!(after.iter().all(|&byte| byte == 0));
        let stat = rustix::fs::stat(&path).expect("there");
        assert!(stat.st_blocks * 512 < 1 << 20, "holes were filled");
    }

    #[test]
    fn links_out_of_the_tree_are_not_followed() {
        let scratch = Scratch::new("links");
        std::fs::write(scratch.0.join("outside"), "stays").expect("written");
        std::fs::create_dir(scratch.0.join("tree")).expect("made");
        std::os::unix::fs::symlink("../outside", scratch.0.join("tree/link")).expect("linked");
        std::os::unix::fs::symlink("..", scratch.0.join("tree/up")).expect("linked");
        assert_eq!(remove_tree(scratch.open().as_fd(), "tree", Some(1)), Ok(()));
        let outside = std::fs::read_to_string(scratch.0.join("outside"));
        assert_eq!(outside.expect("still there"), "stays");
    }
}
