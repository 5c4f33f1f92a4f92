//! Tests of a real mount, one module per concern. `tests/common` says how they run.

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

mod acl;
mod attr;
mod copying;
mod differential;
mod dir;
mod documented;
mod erase;
mod exec;
mod expiry;
mod in_use;
mod inodes;
mod io;
mod locks;
mod mmap;
mod names;
mod namespace;
mod notify;
mod options;
mod ownership;
mod permissions;
mod quota;
mod races;
mod rename;
mod setid;
mod sockets;
mod sparse;
mod statfs;
mod subtrees;
mod times;
mod virtual_xattr;
mod xattr;

/// Not a test: what `common::helper` starts in a second process.
#[test]
fn helper_process() {
    common::helper::entry();
}
