//! ttlfs: a filesystem for temporary files with expiry, quotas and secure erasure.
//!
//! Three drivers (the kernel, the admin, the clock) call one core, `fs`. The backing directory and its
//! extended attributes are the only truth; what memory holds can be rebuilt from them.

pub mod config;
pub mod cron;
pub mod policy;
pub mod rule;
pub mod units;
