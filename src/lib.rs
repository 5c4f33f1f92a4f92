//! ttlfs: a filesystem for temporary files with expiry, quotas and secure erasure.
//!
//! Three drivers (the kernel, the admin, the clock) call one core, `fs`. The backing directory and its
//! extended attributes are the only truth; what memory holds can be rebuilt from them.

pub mod backing;
pub mod cli;
pub mod clock;
pub mod config;
pub mod creators;
pub mod cron;
pub mod descriptors;
pub mod erase;
pub mod error;
pub mod expiry;
pub mod fs;
pub mod fuse;
pub mod guard;
pub mod handles;
pub mod identity;
pub mod inflight;
pub mod inodes;
pub mod links;
pub mod logging;
pub mod mount;
pub mod mountpoint;
pub mod names;
pub mod notify;
pub mod policy;
pub mod pool;
pub mod private;
pub mod quota;
pub mod reaper;
pub mod registry;
pub mod rule;
pub mod scan;
pub mod slab;
pub mod sys;
pub mod units;
pub mod uses;
pub mod work;
