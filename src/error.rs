//! What can go wrong inside the core, and the one place where it becomes an errno.

use std::fmt;

use rustix::io::Errno;

/// Why an operation on the mount failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsError {
    /// The backing store said so.
    Os(Errno),
    /// The name is not there, or has expired.
    NotFound,
    /// The inode is gone or has expired: the kernel looks its name up again.
    Stale,
    /// The name belongs to ttlfs itself.
    Reserved,
    /// A byte or inode limit is reached.
    Full(QuotaErrno),
    /// The file would grow past `max_file`.
    TooLarge,
    /// A directory, a link, or a file with an unlimited writer would cross the border of a quota.
    CrossesQuota,
    /// Something else is mounted on this directory of the backing store.
    OtherFilesystem,
    /// Not the caller's to change.
    NotPermitted,
    /// The value means nothing here.
    Invalid,
    /// Not to be had on this mount or this backing store.
    Unsupported,
    /// A bug or a table that is used up: said in the log where it happened.
    Internal,
}

/// What a program gets at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaErrno {
    /// "No space left on device", as tmpfs and XFS project quotas say.
    NoSpace,
    /// "Disk quota exceeded".
    QuotaExceeded,
}

/// The result of an operation of the core.
pub type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// The errno that the program gets.
    pub fn errno(self) -> Errno {
        match self {
            FsError::Os(errno) => errno,
            FsError::NotFound => Errno::NOENT,
            FsError::Stale => Errno::STALE,
            FsError::Reserved | FsError::NotPermitted => Errno::PERM,
            FsError::Full(QuotaErrno::NoSpace) => Errno::NOSPC,
            FsError::Full(QuotaErrno::QuotaExceeded) => Errno::DQUOT,
            FsError::TooLarge => Errno::FBIG,
            FsError::CrossesQuota | FsError::OtherFilesystem => Errno::XDEV,
            FsError::Invalid => Errno::INVAL,
            FsError::Unsupported => Errno::OPNOTSUPP,
            FsError::Internal => Errno::IO,
        }
    }
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        FsError::Os(errno)
    }
}

impl From<std::io::Error> for FsError {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => FsError::Os(Errno::from_raw_os_error(code)),
            None => {
                tracing::error!(%error, "an error without a number");
                FsError::Internal
            }
        }
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno())
    }
}

impl std::error::Error for FsError {}
