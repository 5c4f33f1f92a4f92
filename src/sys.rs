//! The one room for `unsafe`: system calls that no library wraps safely, and memory shared between processes.
//!
//! Everything here has a safe signature; each block says why it is sound. The rest of the crate denies `unsafe`.
#![allow(unsafe_code)]

pub mod fs;
pub mod process;
pub mod shm;
pub mod thread;
