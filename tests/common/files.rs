//! Small conveniences on files, so that tests read as what they check.

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Statx, StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

pub type Result<T> = std::result::Result<T, Errno>;

pub fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL")
}

/// `open(2)`, close-on-exec.
pub fn open(path: impl AsRef<Path>, flags: OFlags, mode: u32) -> Result<File> {
    rustix::fs::open(
        path.as_ref(),
        flags | OFlags::CLOEXEC,
        Mode::from_raw_mode(mode),
    )
    .map(File::from)
}

pub fn open_read(path: impl AsRef<Path>) -> Result<File> {
    open(path, OFlags::RDONLY, 0)
}

pub fn open_rw(path: impl AsRef<Path>) -> Result<File> {
    open(path, OFlags::RDWR, 0)
}

/// Creates a file that must not exist, open for reading and writing, mode 0644.
#[track_caller]
pub fn create(path: impl AsRef<Path>) -> File {
    try_create(path).unwrap()
}

pub fn try_create(path: impl AsRef<Path>) -> Result<File> {
    open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, 0o644)
}

/// Creates a file with this content.
#[track_caller]
pub fn put(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    create(path).write_all_at(content.as_ref(), 0).unwrap();
}

#[track_caller]
pub fn get(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// One `pwrite(2)`, which may be short.
pub fn pwrite(file: &File, bytes: &[u8], offset: u64) -> Result<usize> {
    rustix::io::pwrite(file, bytes, offset)
}

/// One `pread(2)`, which may be short.
pub fn pread(file: &File, length: usize, offset: u64) -> Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let got = rustix::io::pread(file, &mut buffer[..], offset)?;
    buffer.truncate(got);
    Ok(buffer)
}

pub fn mkdir(path: impl AsRef<Path>) -> Result<()> {
    mkdir_mode(path, 0o755)
}

pub fn mkdir_mode(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    rustix::fs::mkdir(path.as_ref(), Mode::from_raw_mode(mode))
}

/// A directory that everybody may use.
#[track_caller]
pub fn open_directory(path: impl AsRef<Path>) {
    mkdir(path.as_ref()).unwrap();
    chmod(path.as_ref(), 0o777).unwrap();
}

pub fn chmod(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    rustix::fs::chmod(path.as_ref(), Mode::from_raw_mode(mode))
}

pub fn chown(path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
    rustix::fs::chown(
        path.as_ref(),
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )
}

pub fn chown_group(path: impl AsRef<Path>, gid: u32) -> Result<()> {
    rustix::fs::chown(path.as_ref(), None, Some(Gid::from_raw(gid)))
}

pub fn unlink(path: impl AsRef<Path>) -> Result<()> {
    rustix::fs::unlink(path.as_ref())
}

pub fn rmdir(path: impl AsRef<Path>) -> Result<()> {
    rustix::fs::rmdir(path.as_ref())
}

pub fn link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    rustix::fs::link(from.as_ref(), to.as_ref())
}

pub fn symlink(target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
    rustix::fs::symlink(target.as_ref(), path.as_ref())
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    rustix::fs::rename(from.as_ref(), to.as_ref())
}

pub fn rename_with(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    flags: rustix::fs::RenameFlags,
) -> Result<()> {
    rustix::fs::renameat_with(CWD, from.as_ref(), CWD, to.as_ref(), flags)
}

pub fn mknod(path: impl AsRef<Path>, kind: FileType, mode: u32, device: u64) -> Result<()> {
    rustix::fs::mknodat(CWD, path.as_ref(), kind, Mode::from_raw_mode(mode), device)
}

pub fn stat(path: impl AsRef<Path>) -> Result<Stat> {
    rustix::fs::stat(path.as_ref())
}

pub fn lstat(path: impl AsRef<Path>) -> Result<Stat> {
    rustix::fs::lstat(path.as_ref())
}

pub fn fstat(file: &File) -> Stat {
    rustix::fs::fstat(file).unwrap()
}

/// `truncate(2)`, which `rustix` lacks: by path, without a descriptor on the way.
pub fn truncate(path: impl AsRef<Path>, length: u64) -> Result<()> {
    super::sys::truncate(path.as_ref(), length)
}

/// Permission bits, set-id and sticky bits included.
#[track_caller]
pub fn mode(path: impl AsRef<Path>) -> u32 {
    lstat(path).unwrap().st_mode & 0o7777
}

#[track_caller]
pub fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let stat = lstat(path).unwrap();
    (stat.st_uid, stat.st_gid)
}

pub fn exists(path: impl AsRef<Path>) -> bool {
    match lstat(path) {
        Ok(_) => true,
        Err(Errno::NOENT) => false,
        Err(errno) => panic!("lstat: {errno:?}"),
    }
}

/// Seconds and nanoseconds as one number.
pub fn mtime(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

pub fn atime(stat: &Stat) -> i128 {
    i128::from(stat.st_atime) * 1_000_000_000 + i128::from(stat.st_atime_nsec)
}

pub fn ctime(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}

pub fn now() -> i128 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    since.as_nanos() as i128
}

pub const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: rustix::fs::UTIME_NOW as _,
};
pub const OMIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: rustix::fs::UTIME_OMIT as _,
};

pub fn timespec(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    }
}

/// `utimensat(2)`: access and modification time.
pub fn set_times(path: impl AsRef<Path>, access: Timespec, modification: Timespec) -> Result<()> {
    let times = Timestamps {
        last_access: access,
        last_modification: modification,
    };
    rustix::fs::utimensat(CWD, path.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW)
}

pub fn statx(path: impl AsRef<Path>) -> Statx {
    rustix::fs::statx(
        CWD,
        path.as_ref(),
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::ALL,
    )
    .unwrap()
}

/// When a file of the backing store was born.
pub fn birth(path: impl AsRef<Path>) -> SystemTime {
    let found = statx(path);
    assert!(
        StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME),
        "the backing store keeps birth times"
    );
    SystemTime::UNIX_EPOCH + Duration::new(found.stx_btime.tv_sec as u64, found.stx_btime.tv_nsec)
}

/// Names in a directory, sorted, without `.` and `..`.
#[track_caller]
pub fn names(path: impl AsRef<Path>) -> Vec<OsString> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

pub fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

pub fn set_xattr(path: impl AsRef<Path>, key: &str, value: &[u8]) -> Result<()> {
    rustix::fs::lsetxattr(path.as_ref(), key, value, rustix::fs::XattrFlags::empty())
}

pub fn xattr(path: impl AsRef<Path>, key: &str) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let length = rustix::fs::lgetxattr(path.as_ref(), key, &mut buffer[..])?;
    buffer.truncate(length);
    Ok(buffer)
}

/// An attribute that must be there, as text.
#[track_caller]
pub fn xattr_text(path: impl AsRef<Path>, key: &str) -> String {
    let value = xattr(path, key).unwrap_or_else(|errno| panic!("{key}: {errno:?}"));
    String::from_utf8(value).expect("text")
}

pub fn remove_xattr(path: impl AsRef<Path>, key: &str) -> Result<()> {
    rustix::fs::lremovexattr(path.as_ref(), key)
}

/// Names of the extended attributes, sorted; `security.*` is left to the security modules of the machine.
pub fn xattrs(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let mut buffer = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path.as_ref(), &mut buffer[..])?;
    let mut keys: Vec<String> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|key| !key.is_empty())
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .filter(|key| !key.starts_with("security."))
        .collect();
    keys.sort();
    Ok(keys)
}

/// Makes the kernel forget the names, inodes and clean pages that nothing uses.
pub fn drop_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Something that differs from run to run.
pub fn entropy() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// A small generator of repeatable random numbers (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
