//! Assertions on system call results, alike for `std` and `rustix`.

use rustix::io::Errno;

/// A system call's result: its errno if it failed.
pub trait Outcome {
    /// The errno, if the call failed.
    fn errno(&self) -> Option<Errno>;
}

impl<T> Outcome for std::io::Result<T> {
    fn errno(&self) -> Option<Errno> {
        let code = self.as_ref().err()?.raw_os_error();
        Some(Errno::from_raw_os_error(
            code.expect("an error of the system"),
        ))
    }
}

impl<T> Outcome for Result<T, Errno> {
    fn errno(&self) -> Option<Errno> {
        self.as_ref().err().copied()
    }
}

/// The call must have failed with this errno.
#[track_caller]
pub fn fails(expected: Errno, outcome: impl Outcome) {
    let found = outcome.errno();
    assert!(
        found == Some(expected),
        "expected {}, got {}",
        name(Some(expected)),
        name(found)
    );
}

/// The call must have failed with one of these.
#[track_caller]
pub fn fails_with_any(expected: &[Errno], outcome: impl Outcome) {
    let found = outcome.errno();
    assert!(
        found.is_some_and(|errno| expected.contains(&errno)),
        "expected {expected:?}, got {}",
        name(found)
    );
}

fn name(errno: Option<Errno>) -> String {
    errno.map_or("success".into(), |errno| {
        format!(
            "errno {} ({})",
            errno.raw_os_error(),
            std::io::Error::from(errno)
        )
    })
}
