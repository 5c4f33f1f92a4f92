//! `ttlfs mount`, `ttlfs umount`, the guard and the helpers of mount(8), seen from outside.

#[allow(dead_code)]
mod scratch;

use rustix::process::Signal;
use scratch::*;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn mount_output(options: &[&str], backing: &Path, mountpoint: &Path) -> std::process::Output {
    ttlfs(["mount"], |command| {
        command.args(options).arg(backing).arg(mountpoint);
    })
}

fn assert_one_line(text: &str) {
    assert!(
        text.starts_with("ttlfs: ") && text.lines().count() == 1,
        "not one line: {text:?}"
    );
}

#[test]
fn a_mount_serves_when_mount_returns_and_is_gone_when_umount_returns() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&["-o", "ttl=1h,noexec"]);
    assert!(mount.is_mounted() && mount.answers());
    let (guard, server) = (mount.guard(), mount.server());
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = mountinfo
        .lines()
        .find(|line| line.contains(&format!(" {} ", mount.mountpoint.display())))
        .expect("it is listed");
    for word in [
        "nosuid",
        "nodev",
        "noexec",
        "default_permissions",
        "allow_other",
    ] {
        assert!(line.contains(word), "{word} is missing: {line}");
    }
    let backing = scratch.backing();
    assert!(
        line.contains(&format!(" fuse.ttlfs {} ", backing.display())),
        "{line}"
    );

    let output = mount.umount();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!mount.is_mounted());
    let now = std::time::Duration::ZERO;
    assert!(has_ended_within(&guard, now) && has_ended_within(&server, now));
    assert!(!mount.entry_path.exists());
}

#[test]
fn private_state_is_closed_and_tagged() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    assert!(mount.umount().status.success());
    let private = scratch.backing().join(".ttlfs");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&private)
            .expect("it is there")
            .permissions(),
    );
    assert_eq!(mode & 0o7777, 0o700);
    let tag = std::fs::read_to_string(private.join("CACHEDIR.TAG")).expect("a tag");
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    assert_eq!(
        std::fs::read_to_string(private.join("format")).expect("a format"),
        "ttlfs 1\n"
    );
    assert!(!private.join("adopted").exists());
    // A second time it is known.
    let mount = scratch.mount(&[]);
    assert!(mount.umount().status.success());
}

#[test]
fn wrong_usage_is_one_line_and_changes_nothing() {
    needs_root!();
    let scratch = Scratch::new();
    let (backing, mountpoint) = (scratch.backing(), scratch.mountpoint());
    let file = scratch.file("file", "");
    let missing = scratch.path("missing");
    let inside = scratch.directory("closed/backing/inside");
    std::fs::remove_dir(&inside).expect("empty");
    let cases: &[(&[&str], &Path, &Path, &str)] = &[
        (&["-o", "bogus=1"], &backing, &mountpoint, "bogus"),
        (&["-o", "ttl=soon"], &backing, &mountpoint, "ttl"),
        (
            &["-c", "/nonexistent.toml"],
            &backing,
            &mountpoint,
            "nonexistent",
        ),
        (&["-q"], &backing, &mountpoint, "-q"),
        (&[], &missing, &mountpoint, "BACKING"),
        (&[], &file, &mountpoint, "BACKING"),
        (&[], &backing, &missing, "MOUNTPOINT"),
        (&[], &backing, &file, "MOUNTPOINT"),
        (&[], Path::new("/"), &mountpoint, "BACKING"),
        (&[], Path::new("/usr/../usr/"), &mountpoint, "BACKING"),
        (&[], Path::new("/var"), &mountpoint, "BACKING"),
    ];
    for (options, backing_given, mountpoint_given, named) in cases {
        let output = mount_output(options, backing_given, mountpoint_given);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {text}");
        assert_one_line(&text);
        assert!(text.contains(named), "{named} isn't named: {text}");
    }
    for arguments in [
        &["mount"][..],
        &["mount", "/tmp"],
        &["umount"],
        &["bogus"],
        &["config", "check"],
    ] {
        let output = ttlfs([], |command| {
            command.args(arguments);
        });
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_one_line(&stderr(&output));
    }
    assert!(!backing.join(".ttlfs").exists());
    assert!(!is_mounted(&mountpoint));
}

#[test]
fn a_mountpoint_inside_the_backing_directory_is_refused() {
    needs_root!();
    let scratch = Scratch::new();
    let inside = scratch.directory("closed/backing/inside");
    let output = mount_output(&["-o", "adopt=birth"], &scratch.backing(), &inside);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(!scratch.backing().join(".ttlfs").exists());
}

#[test]
fn content_is_refused_unless_adopted() {
    needs_root!();
    let scratch = Scratch::new();
    scratch.directory("closed/backing/lost+found");
    assert!(scratch.mount(&[]).umount().status.success());

    scratch.directory("closed/other");
    scratch.file("closed/other/content", "x");
    let (other, mountpoint) = (scratch.path("closed/other"), scratch.mountpoint());
    let output = mount_output(&[], &other, &mountpoint);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("adopt=now"), "{}", stderr(&output));
    assert!(!other.join(".ttlfs").exists());

    let mount = scratch.mount_at(&["-o", "adopt=now"], &other, &mountpoint);
    assert!(mount.umount().status.success());
    let adopted = std::fs::read_to_string(other.join(".ttlfs/adopted")).expect("recorded");
    let adopted: u128 = adopted.trim().parse().expect("a number");
    assert!(adopted > 1_600_000_000_000_000_000);
    // Once adopted, it needs no word, and the time stays.
    let mount = scratch.mount_at(&["-o", "adopt=now"], &other, &mountpoint);
    assert!(mount.umount().status.success());
    let again = std::fs::read_to_string(other.join(".ttlfs/adopted")).expect("recorded");
    assert_eq!(again.trim().parse(), Ok(adopted));

    scratch.directory("closed/third");
    scratch.file("closed/third/content", "x");
    let third = scratch.path("closed/third");
    let mount = scratch.mount_at(&["-o", "adopt=birth"], &third, &mountpoint);
    assert!(mount.umount().status.success());
    assert!(!third.join(".ttlfs/adopted").exists());
}

#[test]
fn a_backing_directory_in_use_is_refused_with_all_above_and_below() {
    needs_root!();
    let scratch = Scratch::new();
    let below = scratch.directory("closed/backing/below");
    let mount = scratch.mount(&["-o", "adopt=birth"]);
    let elsewhere = scratch.directory("elsewhere");
    for other in [scratch.backing(), below, scratch.path("closed")] {
        let output = mount_output(&["-o", "adopt=birth"], &other, &elsewhere);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{}: {}",
            other.display(),
            stderr(&output)
        );
        let text = stderr(&output);
        assert!(
            text.contains(&*mount.mountpoint.to_string_lossy()),
            "{text}"
        );
    }
    assert!(!scratch.path("closed/.ttlfs").exists());
    // Seen through the mount, too.
    let output = mount_output(&[], &mount.mountpoint, &elsewhere);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    // The lock holds even where the registry says nothing.
    std::fs::remove_file(&mount.entry_path).expect("an entry");
    let output = mount_output(&[], &scratch.backing(), &elsewhere);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(mount.answers());
    rustix::mount::unmount(&mount.mountpoint, rustix::mount::UnmountFlags::empty())
        .expect("unmounted");
}

#[test]
fn the_backing_directory_can_be_the_mountpoint() {
    needs_root!();
    let scratch = Scratch::new();
    let backing = scratch.backing();
    let mount = scratch.mount_at(&[], &backing, &backing);
    assert!(mount.answers());
    let output = mount_output(&[], &backing, &backing);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(mount.umount().status.success());
    assert!(!is_mounted(&backing));
    assert!(backing.join(".ttlfs/format").exists());
}

#[test]
fn a_backing_directory_that_others_can_enter_is_warned_about() {
    needs_root!();
    let scratch = Scratch::new();
    let open = scratch.directory("open");
    let output = mount_output(&[], &open, &scratch.mountpoint());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning"), "{}", stderr(&output));
    let mount = Mount::at(&scratch.mountpoint()).expect("mounted");
    assert!(mount.umount().status.success());
    let output = mount_output(&[], &scratch.backing(), &scratch.mountpoint());
    assert_eq!(stderr(&output), "");
    assert!(mount.umount().status.success());
}

#[test]
fn forged_private_state_is_refused_and_left_alone() {
    needs_root!();
    use rustix::fs::{FileType, Mode};
    use std::os::unix::fs::symlink;
    type Forge = fn(&Path, &Path);
    let finished = |private: &Path| {
        std::fs::create_dir(private).expect("made");
        std::fs::write(private.join("format"), "ttlfs 1\n").expect("written");
    };
    let cases: &[(&str, Forge)] = &[
        ("a link", |private, outside| {
            symlink(outside, private).expect("linked")
        }),
        ("a dangling link", |private, _| {
            symlink("/nonexistent", private).expect("linked")
        }),
        ("a file", |private, _| {
            std::fs::write(private, "x").expect("written")
        }),
        ("a pipe", |private, _| {
            rustix::fs::mknodat(rustix::fs::CWD, private, FileType::Fifo, Mode::RWXU, 0)
                .expect("made");
        }),
        ("another user's", |private, _| {
            std::fs::create_dir(private).expect("made");
            std::os::unix::fs::chown(private, Some(65534), None).expect("given away");
        }),
        ("open to others", |private, _| {
            std::fs::create_dir(private).expect("made");
            rustix::fs::chmod(private, Mode::from_raw_mode(0o777)).expect("opened");
        }),
        ("somebody's content", |private, _| {
            std::fs::create_dir(private).expect("made");
            std::fs::write(private.join("thesis.tex"), "x").expect("written");
        }),
    ];
    let inner_cases: &[(&str, Forge)] = &[
        ("a newer format", |private, _| {
            std::fs::write(private.join("format"), "ttlfs 99\n").expect("written");
        }),
        ("a link as format", |private, outside| {
            std::fs::remove_file(private.join("format")).expect("there");
            symlink(outside.join("target"), private.join("format")).expect("linked");
        }),
        ("a link as lock", |private, outside| {
            symlink(outside.join("target"), private.join("lock")).expect("linked");
        }),
        ("a pipe as lock", |private, _| {
            let lock = private.join("lock");
            rustix::fs::mknodat(rustix::fs::CWD, lock, FileType::Fifo, Mode::RWXU, 0)
                .expect("made");
        }),
        ("a hard link as lock", |private, outside| {
            std::fs::hard_link(outside.join("target"), private.join("lock")).expect("linked");
        }),
    ];
    let all = cases.iter().map(|case| (case, false));
    for ((name, forge), is_inner) in all.chain(inner_cases.iter().map(|case| (case, true))) {
        let scratch = Scratch::new();
        let outside = scratch.directory("outside");
        scratch.file("outside/target", "untouched");
        let private = scratch.backing().join(".ttlfs");
        if is_inner {
            finished(&private);
        }
        forge(&private, &outside);
        let output = mount_output(
            &["-o", "adopt=now"],
            &scratch.backing(),
            &scratch.mountpoint(),
        );
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert_one_line(&text);
        assert!(text.contains(".ttlfs"), "{name}: {text}");
        assert!(!is_mounted(&scratch.mountpoint()), "{name}");
        let target = std::fs::read_to_string(outside.join("target")).expect("there");
        assert_eq!(target, "untouched", "{name}");
        assert_eq!(
            std::fs::read_dir(&outside).expect("there").count(),
            1,
            "{name}"
        );
    }
}

#[test]
fn an_interrupted_creation_is_completed() {
    needs_root!();
    let scratch = Scratch::new();
    let private = scratch.directory("closed/backing/.ttlfs");
    scratch.file("closed/backing/.ttlfs/CACHEDIR.TAG", "half");
    scratch.file("closed/backing/.ttlfs/format.new", "");
    let mount = scratch.mount(&[]);
    assert!(mount.umount().status.success());
    assert!(private.join("format").exists());
    let tag = std::fs::read_to_string(private.join("CACHEDIR.TAG")).expect("a tag");
    assert!(tag.starts_with("Signature:"));
}

#[test]
fn a_killed_server_is_replaced_again_and_again() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    for kills in 1..=10 {
        let server = mount.server();
        send(&server, Signal::KILL);
        wait_for_end(&server);
        // Waits for the next server, and gets its answer.
        assert!(mount.answers());
        eventually("the restart is registered", || mount.restarts() == kills);
        eventually("the new server says that it serves", || {
            Mount::at(&mount.mountpoint).is_some_and(|now| now.entry["ready"] == true)
        });
    }
    let now = Mount::at(&mount.mountpoint).expect("registered");
    assert_eq!(now.entry["last_end"], "signal 9");
    assert!(mount.umount().status.success());
}

#[test]
fn plain_umount_ends_everything() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    let (guard, server) = (mount.guard(), mount.server());
    rustix::mount::unmount(&mount.mountpoint, rustix::mount::UnmountFlags::empty())
        .expect("unmounted");
    wait_for_end(&guard);
    wait_for_end(&server);
    assert!(!mount.entry_path.exists());
}

#[test]
fn term_unmounts_whoever_gets_it() {
    needs_root!();
    for signal in [Signal::TERM, Signal::INT] {
        for to_guard in [true, false] {
            let scratch = Scratch::new();
            let mount = scratch.mount(&[]);
            let (guard, server) = (mount.guard(), mount.server());
            send(if to_guard { &guard } else { &server }, signal);
            wait_for_end(&guard);
            wait_for_end(&server);
            assert!(!mount.is_mounted());
        }
    }
}

#[test]
fn a_busy_mount_names_its_users_and_goes_on() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    let mut user = Command::new("sleep")
        .arg("1000")
        .current_dir(&mount.mountpoint)
        .spawn()
        .expect("sleep runs");
    let output = mount.umount();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert_one_line(&text);
    let expected = format!("{} (sleep: working directory", user.id());
    assert!(text.contains("busy") && text.contains(&expected), "{text}");
    assert!(mount.answers());
    user.kill().expect("it lives");
    user.wait().expect("it ends");
    assert!(mount.umount().status.success());
}

#[test]
fn a_mount_that_lives_on_in_another_namespace_is_reported() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    let mut other = Command::new("unshare")
        .args(["--mount", "sh", "-c", "findmnt -rn -t fuse.ttlfs -o TARGET | grep -v \"^$0$\" | xargs -r umount -l; exec sleep 1000"])
        .arg(&mount.mountpoint)
        .spawn()
        .expect("unshare runs");
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt"));
    let pid = other.id().to_string();
    eventually("it has a namespace", || {
        namespace(&pid).ok() != namespace("self").ok()
    });
    let output = mount.umount();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert_one_line(&text);
    assert!(text.contains("namespace") && text.contains(&pid), "{text}");
    assert!(!mount.is_mounted());
    other.kill().expect("it lives");
    other.wait().expect("it ends");
    wait_for_end(&mount.guard());
}

#[test]
fn what_is_no_mount_of_ours_is_not_unmounted() {
    needs_root!();
    let scratch = Scratch::new();
    for path in [
        scratch.mountpoint(),
        scratch.path(""),
        scratch.path("missing"),
    ] {
        let output = ttlfs(["umount"], |command| {
            command.arg(&path);
        });
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert_one_line(&stderr(&output));
    }
    assert_eq!(
        filesystem_at(&scratch.path("mnt/..").canonicalize().expect("there")).as_deref(),
        Some("tmpfs")
    );
}

#[test]
fn in_front_a_first_signal_names_users_and_a_second_goes_without_them() {
    needs_root!();
    let scratch = Scratch::new();
    let mut front = command(["mount", "-f"])
        .arg(scratch.backing())
        .arg(scratch.mountpoint())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(front.stderr.take().expect("piped")).lines();
    wait_for_mounts("the mount", || is_mounted(&scratch.mountpoint()));
    eventually("it serves", || {
        Mount::at(&scratch.mountpoint()).is_some_and(|now| now.entry["ready"] == true)
    });
    let mount = Mount::at(&scratch.mountpoint()).expect("registered");
    assert!(mount.answers());
    assert_eq!(mount.entry["guard_pid"], front.id());
    let mut user = Command::new("sleep")
        .arg("1000")
        .current_dir(&mount.mountpoint)
        .spawn()
        .expect("sleep runs");
    let guard = mount.guard();
    send(&guard, Signal::TERM);
    let busy = lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find(|line| line.contains("busy"))
        .expect("a line about it");
    assert!(busy.contains(&format!("{} (sleep", user.id())), "{busy}");
    assert!(mount.answers());
    send(&guard, Signal::TERM);
    wait_for_mounts("the name is gone", || !is_mounted(&scratch.mountpoint()));
    // It serves its last user to the end.
    user.kill().expect("it lives");
    user.wait().expect("it ends");
    wait_for_end(&guard);
    assert_eq!(front.wait().expect("it ended").code(), Some(0));
}

#[test]
fn a_server_without_its_guard_serves_on() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    let (guard, server) = (mount.guard(), mount.server());
    send(&guard, Signal::KILL);
    wait_for_end(&guard);
    assert!(mount.answers());
    // The backing directory is still taken.
    let output = mount_output(&[], &scratch.backing(), &scratch.directory("elsewhere"));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let output = mount.umount();
    assert!(output.status.success(), "{}", stderr(&output));
    wait_for_end(&server);
    assert!(!mount.entry_path.exists());
}

#[test]
fn an_orphaned_server_unmounts_on_term() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    let (guard, server) = (mount.guard(), mount.server());
    send(&guard, Signal::KILL);
    wait_for_end(&guard);
    assert!(mount.answers());
    send(&server, Signal::TERM);
    wait_for_end(&server);
    assert!(!mount.is_mounted());
}

#[test]
fn a_dead_mount_is_replaced() {
    needs_root!();
    let scratch = Scratch::new();
    for mountpoint in [scratch.mountpoint(), scratch.backing()] {
        let mount = scratch.mount_at(&[], &scratch.backing(), &mountpoint);
        for process in [mount.guard(), mount.server()] {
            send(&process, Signal::KILL);
            wait_for_end(&process);
        }
        eventually("the kernel has noticed", || !mount.answers());
        let again = scratch.mount_at(&[], &scratch.backing(), &mountpoint);
        assert!(again.answers());
        let output = again.umount();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(!is_mounted(&mountpoint), "the dead one is still below");
    }
}

#[test]
fn a_dead_mount_can_be_unmounted() {
    needs_root!();
    let scratch = Scratch::new();
    let mount = scratch.mount(&[]);
    for process in [mount.guard(), mount.server()] {
        send(&process, Signal::KILL);
        wait_for_end(&process);
    }
    let output = mount.umount();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!mount.is_mounted());
}

#[test]
fn the_daemon_keeps_nothing_of_its_caller() {
    needs_root!();
    let scratch = Scratch::new();
    let pipe = rustix::pipe::pipe().expect("a pipe");
    let (reader, writer) = pipe;
    // The writing end is inherited by the command; if a daemon kept it, the end of the pipe would never come.
    let output = mount_output(&[], &scratch.backing(), &scratch.mountpoint());
    assert!(output.status.success(), "{}", stderr(&output));
    drop(writer);
    let mut byte = [0u8; 1];
    assert_eq!(rustix::io::read(&reader, &mut byte), Ok(0));
    let mount = Mount::at(&scratch.mountpoint()).expect("registered");
    for pid in ["guard_pid", "server_pid"] {
        let process = format!("/proc/{}", mount.entry[pid]);
        assert_eq!(
            std::fs::read_link(format!("{process}/cwd")).expect("alive"),
            Path::new("/")
        );
        for number in 0..3 {
            let target = std::fs::read_link(format!("{process}/fd/{number}")).expect("open");
            assert_eq!(target, Path::new("/dev/null"), "{pid} {number}");
        }
        let name = std::fs::read_to_string(format!("{process}/comm")).expect("alive");
        assert!(name.starts_with("ttlfs-"), "{name}");
    }
    assert!(mount.umount().status.success());
}

#[test]
fn a_configuration_file_can_name_everything() {
    needs_root!();
    let scratch = Scratch::new();
    let text = format!(
        "[mount]\nbacking = {:?}\nmountpoint = {:?}\n[defaults]\nttl = \"1h\"\n",
        scratch.backing(),
        scratch.mountpoint()
    );
    let file = scratch.file("ttlfs.toml", &text);
    let checked = ttlfs(["config", "check"], |command| {
        command.arg(&file);
    });
    assert!(checked.status.success(), "{}", stderr(&checked));
    let output = ttlfs(["mount"], |command| {
        command.env("TTLFS_CONFIG", &file);
    });
    assert!(output.status.success(), "{}", stderr(&output));
    let mount = Mount::at(&scratch.mountpoint()).expect("mounted");
    assert!(mount.umount().status.success());
    let bad = scratch.file("bad.toml", "[defaults]\nttl = \"soon\"\n");
    let checked = ttlfs(["config", "check"], |command| {
        command.arg(&bad);
    });
    assert_eq!(checked.status.code(), Some(2));
    assert!(
        stderr(&checked).contains("bad.toml:2"),
        "{}",
        stderr(&checked)
    );
}

#[test]
fn a_bad_log_filter_is_refused() {
    needs_root!();
    let scratch = Scratch::new();
    let output = ttlfs(["mount"], |command| {
        command.arg(scratch.backing()).arg(scratch.mountpoint());
        command.env("TTLFS_LOG", "ttlfs=loud");
    });
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("TTLFS_LOG"), "{}", stderr(&output));
    assert!(!scratch.backing().join(".ttlfs").exists());
}

#[test]
fn completions_and_the_manual_are_printed() {
    let completions = ttlfs(["completions", "bash"], |_| {});
    assert!(completions.status.success() && stdout(&completions).contains("umount"));
    let manual = ttlfs(["man"], |_| {});
    assert!(manual.status.success());
    let text = stdout(&manual);
    assert!(text.contains(".TH ttlfs"));
    assert!(
        text.contains("TTLFS_LOG") && text.contains("private\\-tmp"),
        "{text}"
    );
    assert!(!text.contains("keeper") && !text.contains("takeover"));
}

/// The directory with the helpers, and the program beside them.
fn helpers(scratch: &Scratch) -> std::path::PathBuf {
    let directory = scratch.directory("helpers");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts");
    for name in ["mount.ttlfs", "mount.fuse.ttlfs"] {
        std::fs::copy(source.join(name), directory.join(name)).expect("copied");
    }
    std::os::unix::fs::symlink(TTLFS, directory.join("ttlfs")).expect("linked");
    directory
}

#[test]
fn the_helper_exits_as_mount_does() {
    needs_root!();
    let scratch = Scratch::new();
    let helper = helpers(&scratch).join("mount.ttlfs");
    let run = |arguments: &[&str]| {
        let backing = scratch.backing();
        let mountpoint = scratch.mountpoint();
        let output = Command::new(&helper)
            .arg(&backing)
            .arg(&mountpoint)
            .args(arguments)
            .output()
            .expect("it runs");
        (output.status.code(), stderr(&output))
    };
    assert_eq!(run(&["-o", "rw,bogus=1"]).0, Some(1));
    assert_eq!(run(&["third"]).0, Some(1));
    assert_eq!(run(&["-f", "-o", "rw"]).0, Some(0));
    assert!(!is_mounted(&scratch.mountpoint()));
    let (status, text) = run(&["-o", "remount,quota=1G"]);
    assert_eq!(status, Some(32));
    assert!(text.contains("not supported"), "{text}");
    assert_eq!(
        run(&["-s", "-n", "-t", "fuse.ttlfs", "-o", "rw,ttl=1h"]).0,
        Some(0)
    );
    let mount = Mount::at(&scratch.mountpoint()).expect("mounted");
    assert!(mount.umount().status.success());
    std::fs::write(scratch.backing().join(".ttlfs/format"), "ttlfs 99\n").expect("written");
    assert_eq!(run(&[]).0, Some(32));
}

#[test]
fn mount_and_fstab_know_the_type() {
    needs_root!();
    let scratch = Scratch::new();
    let directory = helpers(&scratch);
    let fstab = format!(
        "{} {} ttlfs noauto,ttl=1h 0 0\n",
        scratch.backing().display(),
        scratch.mountpoint().display()
    );
    scratch.file("fstab", &fstab);
    // mount(8) looks for helpers in fixed places: in this namespace they are there.
    let script = format!(
        "set -e; mount -t overlay overlay -o lowerdir={helpers}:/usr/sbin /usr/sbin || exit 77
         cd {root}
         mount -t ttlfs -o quota=1G,noexec,_netdev closed/backing mnt
         findmnt -n -o FSTYPE mnt
         ! mount -o remount,quota=2G mnt 2>remount-error
         umount mnt
         mount -T fstab mnt
         findmnt -n -o FSTYPE mnt
         {ttlfs} umount mnt
         mount -t fuse.ttlfs -o ttl=1h closed/backing mnt
         findmnt -n -o FSTYPE mnt
         umount mnt",
        helpers = directory.display(),
        root = scratch.path("").display(),
        ttlfs = TTLFS,
    );
    let output = in_namespace(&script).output().expect("unshare runs");
    if output.status.code() == Some(77) {
        eprintln!("skipped: no overlay filesystem");
        return;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "fuse.ttlfs\nfuse.ttlfs\nfuse.ttlfs\n");
    let remount = std::fs::read_to_string(scratch.path("remount-error")).expect("written");
    assert!(remount.contains("not supported"), "{remount}");
}

#[test]
fn a_plain_user_mounts_through_fusermount3() {
    needs_root!();
    needs_fusermount!();
    let scratch = Scratch::new();
    scratch.directory("user/backing");
    scratch.directory("user/mnt");
    for name in ["user", "user/backing", "user/mnt"] {
        let path = scratch.path(name);
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("given away");
        scratch.mode(name, 0o700);
    }
    scratch.directory("runtime");
    std::os::unix::fs::chown(scratch.path("runtime"), Some(65534), Some(65534))
        .expect("given away");
    let script = format!(
        "set -e; cd {}; export XDG_RUNTIME_DIR={}
         $TTLFS mount -o ttl=1h backing mnt
         findmnt -n -o FSTYPE mnt; stat -c %F mnt
         (cd mnt && exec sleep 1000) & sleeper=$!
         until [ \"$(readlink /proc/$sleeper/cwd)\" = \"$PWD/mnt\" ]; do :; done
         ! $TTLFS umount mnt 2>../runtime/busy
         kill $sleeper; wait $sleeper || true
         $TTLFS umount mnt
         ! findmnt mnt
         ls $XDG_RUNTIME_DIR/ttlfs",
        scratch.path("user").display(),
        scratch.path("runtime").display()
    );
    let output = as_plain_user(&scratch, &script);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.starts_with("fuse.ttlfs\ndirectory\n"), "{text}");
    assert!(!text.contains(".json"), "{text}");
    let busy = std::fs::read_to_string(scratch.path("runtime/busy")).expect("written");
    assert!(busy.contains("(sleep: working directory"), "{busy}");
}
