//! One scratch directory per test process, and the janitor that clears it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Processes started by the harness carry this variable, so that the janitor finds what they left running.
pub const SCRATCH_VARIABLE: &str = "TTLFS_TEST_SCRATCH";

/// Waits for the end of its input, which the kernel brings about when the test process is gone, however that
/// happened; then ends what it left running, and takes its mounts (loop devices go with them) and files away.
const JANITOR: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
scratch=$1
mine() { tr '\0' '\n' <"/proc/$1/environ" 2>/dev/null | grep -qxF "TTLFS_TEST_SCRATCH=$scratch"; }
mounts() { awk -v p="$scratch/" 'index($5, p) == 1 { print $5 }' /proc/self/mountinfo | sort -r; }
mounts | while IFS= read -r m; do umount -l "$m"; done 2>/dev/null
for p in /proc/[0-9]*; do
    if mine "${p#/proc/}"; then kill -9 "${p#/proc/}"; fi
done 2>/dev/null
for _ in 1 2 3; do mounts | while IFS= read -r m; do umount -l "$m"; done 2>/dev/null; done
rm -rf --one-file-system "$scratch"
"#;

struct Scratch {
    directory: PathBuf,
    /// Its input is held open for the life of the process: the end of that is what it waits for.
    _janitor: Child,
}

static SCRATCH: OnceLock<Scratch> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The scratch directory of this process; other users may pass through it.
pub fn directory() -> &'static Path {
    &SCRATCH.get_or_init(make).directory
}

/// A path in the scratch directory that nothing else uses.
pub fn fresh(what: &str) -> PathBuf {
    directory().join(format!("{what}.{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn make() -> Scratch {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests mount and change users: run them as root"
    );
    let base = std::env::var_os("TTLFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let base = base.canonicalize().expect("TTLFS_TEST_DIR exists");
    let unique = format!(
        "ttlfs-test-{}-{:08x}",
        std::process::id(),
        super::files::entropy() as u32
    );
    let directory = base.join(unique);
    std::fs::create_dir(&directory).unwrap();
    super::files::chmod(&directory, 0o755).unwrap();
    let janitor = Command::new("sh")
        .args(["-c", JANITOR, "ttlfs-test-janitor"])
        .arg(&directory)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh can be started");
    Scratch {
        directory,
        _janitor: janitor,
    }
}
