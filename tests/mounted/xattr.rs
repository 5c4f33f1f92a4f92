//! The extended attributes of programs: ordinary, trusted, and those the kernel keeps.

use crate::common::*;
use rustix::fs::{XattrFlags, lsetxattr};
use rustix::io::Errno;
use std::path::Path;

in_default_mode!("":
    set_get_list_remove,
    flags_create_and_replace,
    sizes_and_limits,
    binary_values_and_names,
    on_directories_and_by_descriptor,
    trusted_is_for_root,
    others_need_the_mode_bits,
    not_on_special_files_and_links,
    survive_rename_link_and_remount,
    capabilities_go_with_a_write,
    many_attributes,
);

fn flagged(path: impl AsRef<Path>, key: &str, value: &[u8], flags: XattrFlags) -> Result<()> {
    lsetxattr(path.as_ref(), key, value, flags)
}

fn set_get_list_remove(m: &mut Mount) {
    put(m.path("f"), "x");
    assert!(xattrs(m.path("f")).unwrap().is_empty());
    fails(Errno::NODATA, xattr(m.path("f"), "user.a"));
    set_xattr(m.path("f"), "user.a", b"one").unwrap();
    set_xattr(m.path("f"), "user.b", b"").unwrap();
    assert_eq!(xattr(m.path("f"), "user.a").unwrap(), b"one");
    assert_eq!(xattr(m.path("f"), "user.b").unwrap(), b"");
    assert_eq!(xattrs(m.path("f")).unwrap(), ["user.a", "user.b"]);
    set_xattr(m.path("f"), "user.a", b"another").unwrap();
    assert_eq!(xattr(m.path("f"), "user.a").unwrap(), b"another");
    assert_eq!(
        xattr(m.back("f"), "user.a").unwrap(),
        b"another",
        "on the store"
    );
    remove_xattr(m.path("f"), "user.a").unwrap();
    fails(Errno::NODATA, remove_xattr(m.path("f"), "user.a"));
    fails(Errno::NODATA, xattr(m.path("f"), "user.a"));
    assert_eq!(xattrs(m.path("f")).unwrap(), ["user.b"]);
    fails(Errno::NOENT, xattr(m.path("missing"), "user.a"));
}

fn flags_create_and_replace(m: &mut Mount) {
    put(m.path("f"), "x");
    fails(
        Errno::NODATA,
        flagged(m.path("f"), "user.a", b"1", XattrFlags::REPLACE),
    );
    flagged(m.path("f"), "user.a", b"2", XattrFlags::CREATE).unwrap();
    fails(
        Errno::EXIST,
        flagged(m.path("f"), "user.a", b"3", XattrFlags::CREATE),
    );
    flagged(m.path("f"), "user.a", b"4", XattrFlags::REPLACE).unwrap();
    assert_eq!(xattr(m.path("f"), "user.a").unwrap(), b"4");
}

fn sizes_and_limits(m: &mut Mount) {
    put(m.path("f"), "x");
    put(m.back("twin"), "x");
    for length in [1, 100, 1000, 3000] {
        let value = pattern(length, length as u64);
        set_xattr(m.path("f"), "user.a", &value).unwrap();
        assert_eq!(
            rustix::fs::lgetxattr_query(m.path("f"), "user.a").unwrap(),
            length,
            "asked for the size"
        );
        assert!(xattr(m.path("f"), "user.a").unwrap() == value);
    }
    let mut short = [0u8; 100];
    fails(
        Errno::RANGE,
        rustix::fs::lgetxattr(m.path("f"), "user.a", &mut short[..]),
    );
    set_xattr(m.path("f"), "user.b", b"x").unwrap();
    let mut short = [0u8; 3];
    fails(
        Errno::RANGE,
        rustix::fs::llistxattr(m.path("f"), &mut short[..]),
    );
    assert!(rustix::fs::llistxattr_query(m.path("f")).unwrap() >= 14);
    for key in ["user.a", "user.b"] {
        remove_xattr(m.path("f"), key).unwrap();
    }
    // The largest value there is; what the store refuses, the mount refuses alike.
    for length in [4_000, 20_000, 65_536, 65_537] {
        let value = pattern(length, 1);
        let (through, behind) = (
            set_xattr(m.path("f"), "user.large", &value),
            set_xattr(m.back("twin"), "user.large", &value),
        );
        assert_eq!(through, behind, "{length}");
        if through.is_ok() {
            assert!(xattr(m.path("f"), "user.large").unwrap() == value);
        }
    }
    let _ = remove_xattr(m.path("f"), "user.large");
    let key = format!("user.{}", "k".repeat(250));
    set_xattr(m.path("f"), &key, b"v").unwrap();
    assert_eq!(xattr(m.path("f"), &key).unwrap(), b"v");
    fails(
        Errno::RANGE,
        set_xattr(m.path("f"), &format!("{key}k"), b"v"),
    );
}

fn binary_values_and_names(m: &mut Mount) {
    put(m.path("f"), "x");
    let value: Vec<u8> = (0..=255).collect();
    set_xattr(m.path("f"), "user.bytes", &value).unwrap();
    assert_eq!(xattr(m.path("f"), "user.bytes").unwrap(), value);
    set_xattr(
        m.path("f"),
        "user.\u{e4}\u{f6}\u{fc} with spaces.and=signs",
        b"v",
    )
    .unwrap();
    assert_eq!(xattrs(m.path("f")).unwrap().len(), 2);
    fails_with_any(
        &[Errno::OPNOTSUPP, Errno::INVAL],
        set_xattr(m.path("f"), "nonsense.a", b"v"),
    );
    fails_with_any(
        &[Errno::INVAL, Errno::OPNOTSUPP],
        set_xattr(m.path("f"), "user.", b"v"),
    );
}

fn on_directories_and_by_descriptor(m: &mut Mount) {
    mkdir(m.path("d")).unwrap();
    set_xattr(m.path("d"), "user.a", b"dir").unwrap();
    assert_eq!(xattr(m.path("d"), "user.a").unwrap(), b"dir");
    set_xattr(m.root(), "user.a", b"root").unwrap();
    assert_eq!(xattr(m.root(), "user.a").unwrap(), b"root");
    put(m.path("f"), "x");
    let file = open_read(m.path("f")).unwrap();
    rustix::fs::fsetxattr(&file, "user.a", b"by descriptor", XattrFlags::empty()).unwrap();
    unlink(m.path("f")).unwrap();
    let mut value = [0u8; 100];
    assert_eq!(
        rustix::fs::fgetxattr(&file, "user.a", &mut value[..]).unwrap(),
        13
    );
    rustix::fs::fremovexattr(&file, "user.a").unwrap();
    symlink("d", m.path("l")).unwrap();
    let mut value = [0u8; 100];
    assert_eq!(
        rustix::fs::getxattr(m.path("l"), "user.a", &mut value[..]).unwrap(),
        3,
        "through a symlink"
    );
}

fn trusted_is_for_root(m: &mut Mount) {
    ALICE.run(|| put(m.path("f"), "x"));
    set_xattr(m.path("f"), "trusted.a", b"root's").unwrap();
    assert_eq!(xattr(m.path("f"), "trusted.a").unwrap(), b"root's");
    assert_eq!(xattrs(m.path("f")).unwrap(), ["trusted.a"]);
    ALICE.run(|| {
        fails(Errno::NODATA, xattr(m.path("f"), "trusted.a"));
        fails(Errno::PERM, set_xattr(m.path("f"), "trusted.b", b"x"));
        fails(Errno::PERM, remove_xattr(m.path("f"), "trusted.a"));
        // btrfs itself lists them.
        if !store::is_default(StoreKind::Btrfs) {
            assert!(
                xattrs(m.path("f")).unwrap().is_empty(),
                "not listed for users"
            );
        }
        fails(Errno::PERM, set_xattr(m.path("f"), "security.other", b"x"));
    });
    remove_xattr(m.path("f"), "trusted.a").unwrap();
}

fn others_need_the_mode_bits(m: &mut Mount) {
    ALICE.run(|| {
        put(m.path("f"), "x");
        set_xattr(m.path("f"), "user.a", b"one").unwrap();
        chmod(m.path("f"), 0o644).unwrap();
    });
    BOB.run(|| {
        assert_eq!(xattr(m.path("f"), "user.a").unwrap(), b"one");
        fails(Errno::ACCESS, set_xattr(m.path("f"), "user.a", b"two"));
        fails(Errno::ACCESS, remove_xattr(m.path("f"), "user.a"));
    });
    ALICE.run(|| chmod(m.path("f"), 0o600)).unwrap();
    BOB.run(|| fails(Errno::ACCESS, xattr(m.path("f"), "user.a")));
    // In a sticky directory's own attributes the owner alone may write.
    open_directory(m.path("d"));
    chmod(m.path("d"), 0o1777).unwrap();
    BOB.run(|| fails(Errno::PERM, set_xattr(m.path("d"), "user.a", b"x")));
}

fn not_on_special_files_and_links(m: &mut Mount) {
    symlink("nowhere", m.path("l")).unwrap();
    mknod(m.path("p"), rustix::fs::FileType::Fifo, 0o666, 0).unwrap();
    for name in ["l", "p"] {
        fails(Errno::PERM, set_xattr(m.path(name), "user.a", b"x"));
        fails(Errno::NODATA, xattr(m.path(name), "user.a"));
        set_xattr(m.path(name), "trusted.a", b"x").unwrap();
        assert_eq!(xattr(m.path(name), "trusted.a").unwrap(), b"x");
    }
}

fn survive_rename_link_and_remount(m: &mut Mount) {
    put(m.path("f"), "x");
    set_xattr(m.path("f"), "user.a", b"kept").unwrap();
    rename(m.path("f"), m.path("g")).unwrap();
    link(m.path("g"), m.path("h")).unwrap();
    assert_eq!(xattr(m.path("h"), "user.a").unwrap(), b"kept");
    m.remount();
    assert_eq!(xattr(m.path("g"), "user.a").unwrap(), b"kept");
    set_xattr(m.path("h"), "user.a", b"changed").unwrap();
    assert_eq!(xattr(m.path("g"), "user.a").unwrap(), b"changed");
}

fn capabilities_go_with_a_write(m: &mut Mount) {
    ALICE.run(|| put(m.path("f"), "x"));
    // cap_net_raw+ep, revision 2.
    let mut value = [0u8; 20];
    value[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1u32 << 13).to_le_bytes());
    set_xattr(m.path("f"), "security.capability", &value).unwrap();
    assert_eq!(xattr(m.path("f"), "security.capability").unwrap(), value);
    ALICE
        .run(|| pwrite(&open_rw(m.path("f")).unwrap(), b"y", 0))
        .unwrap();
    fails(Errno::NODATA, xattr(m.path("f"), "security.capability"));
    set_xattr(m.path("f"), "security.capability", &value).unwrap();
    chown(m.path("f"), BOB.uid, BOB.gid).unwrap();
    fails(Errno::NODATA, xattr(m.path("f"), "security.capability"));
    set_xattr(m.path("f"), "security.capability", &value).unwrap();
    BOB.run(|| truncate(m.path("f"), 0)).unwrap();
    fails(Errno::NODATA, xattr(m.path("f"), "security.capability"));
}

fn many_attributes(m: &mut Mount) {
    put(m.path("f"), "x");
    let mut wanted = Vec::new();
    for number in 0..60 {
        let key = format!("user.key{number:03}");
        set_xattr(m.path("f"), &key, key.as_bytes()).unwrap();
        wanted.push(key);
    }
    assert_eq!(xattrs(m.path("f")).unwrap(), wanted);
    for key in &wanted {
        assert_eq!(xattr(m.path("f"), key).unwrap(), key.as_bytes());
    }
}
