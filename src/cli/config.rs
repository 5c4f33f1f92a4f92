//! `ttlfs config check`.

use super::Failure;
use crate::config::{Config, Privilege, Sources};
use std::path::PathBuf;
use std::process::ExitCode;

/// Who runs us: some defaults are different for root.
pub(super) fn privilege() -> Privilege {
    if rustix::process::geteuid().is_root() {
        Privilege::Root
    } else {
        Privilege::User
    }
}

pub(super) fn check(file: PathBuf) -> Result<ExitCode, Failure> {
    Config::load(Sources {
        file: Some(file),
        options: Vec::new(),
        privilege: privilege(),
    })?;
    Ok(ExitCode::SUCCESS)
}
