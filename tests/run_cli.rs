//! `ttlfs run`, seen from outside.

#[allow(dead_code)]
mod scratch;

use rustix::process::{Pid, PidfdFlags, Signal};
use scratch::*;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Runs it with its directory in the scratch space, so that what it leaves behind is seen.
fn run(scratch: &Scratch, arguments: &[&str]) -> Output {
    run_command(scratch, arguments).output().expect("it runs")
}

fn run_command(scratch: &Scratch, arguments: &[&str]) -> Command {
    let base = scratch.directory("base");
    let mut command = command(["run"]);
    command.args(arguments).env("TMPDIR", base);
    command
}

fn left_behind(scratch: &Scratch) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(scratch.path("base")).expect("there");
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Everything of a run is gone: its directory, its mount, its entry.
fn assert_gone(scratch: &Scratch) {
    assert_eq!(left_behind(scratch), Vec::<PathBuf>::new());
    let ours = scratch.path("base");
    for (_, entry) in entries() {
        let mountpoint = entry["mountpoint"].as_str().unwrap_or_default().to_owned();
        assert!(
            !Path::new(&mountpoint).starts_with(&ours),
            "still registered: {mountpoint}"
        );
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(
        !mounts.contains(&format!("{}/", ours.display())),
        "{mounts}"
    );
}

/// Starts a run whose command says its process number first, and waits for that.
fn start(scratch: &Scratch, arguments: &[&str], script: &str) -> (Child, OwnedFd, String) {
    start_after(scratch, arguments, ":", script)
}

/// The same, with something to be done before.
fn start_after(
    scratch: &Scratch,
    arguments: &[&str],
    first: &str,
    script: &str,
) -> (Child, OwnedFd, String) {
    let script = format!("{first}; echo $$; echo $TMPDIR; {script}");
    let mut front = run_command(scratch, arguments)
        .args(["--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(front.stdout.as_mut().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let (pid, directory) = (line(), line());
    let pid = Pid::from_raw(pid.parse().expect("a number")).expect("a process");
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("it lives");
    (front, process, directory)
}

#[test]
fn the_status_is_the_commands() {
    needs_root!();
    let scratch = Scratch::new();
    let cases: &[(&[&str], i32)] = &[
        (&["--", "true"], 0),
        (&["--", "sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 2"], 2),
        (&["--", "sh", "-c", "kill -TERM $$"], 143),
        (&["--", "sh", "-c", "kill -KILL $$"], 137),
        (&["--", "/nonexistent"], 127),
        (&["--", "no-such-command-anywhere"], 127),
        (&["--", "/etc/passwd"], 126),
        (&["--", "/"], 126),
        (&["--private-tmp", "--", "sh", "-c", "exit 7"], 7),
        (&["--private-tmp", "--", "/nonexistent"], 127),
        (&["--private-tmp", "--", "/etc/passwd"], 126),
        (&["-o", "bogus=1", "--", "true"], 125),
        (&["--bogus", "--", "true"], 125),
        (&[], 125),
    ];
    for (arguments, expected) in cases {
        let output = run(&scratch, arguments);
        let text = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(*expected),
            "{arguments:?}: {text}"
        );
        assert!(text.lines().count() <= 1, "{arguments:?}: {text}");
    }
    assert_gone(&scratch);
}

#[test]
fn the_command_finds_its_directory_and_nobody_else_can() {
    needs_root!();
    let scratch = Scratch::new();
    let script = "test \"$TMP\" = \"$TMPDIR\" -a \"$TEMP\" = \"$TMPDIR\"
        findmnt -n -o FSTYPE \"$TMPDIR\"; stat -c %a \"$TMPDIR/..\"; echo \"$TMPDIR\"";
    let output = run(&scratch, &["-o", "ttl=1h", "--", "sh", "-ec", script]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("fuse.ttlfs"));
    assert_eq!(lines.next(), Some("700"));
    let directory = lines.next().expect("a path");
    assert!(
        Path::new(directory).starts_with(scratch.path("base")),
        "{directory}"
    );
    assert_gone(&scratch);
}

#[test]
fn standard_input_and_open_files_reach_the_command() {
    needs_root!();
    let scratch = Scratch::new();
    let script = format!(
        "echo hello | {TTLFS} run -- sh -c 'cat; cat <&9' 9<{}",
        scratch.file("nine", "nine\n").display()
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("it runs");
    assert_eq!(stdout(&output), "hello\nnine\n", "{}", stderr(&output));
}

#[test]
fn signals_are_passed_on_and_cleaning_up_is_not_interrupted() {
    needs_root!();
    let scratch = Scratch::new();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1] {
        let (mut front, process, _) = start(&scratch, &[], "exec sleep 1000");
        let pid = Pid::from_child(&front);
        rustix::process::kill_process(pid, signal).expect("it lives");
        wait_for_end(&process);
        let status = front.wait().expect("it ends");
        assert_eq!(status.code(), Some(128 + signal.as_raw()));
        assert_gone(&scratch);
    }
}

#[test]
fn a_signal_to_the_command_alone_is_its_own_business() {
    needs_root!();
    let scratch = Scratch::new();
    let trap = "trap 'exit 3' USR1";
    let (mut front, process, _) = start_after(&scratch, &[], trap, "while :; do sleep 0.01; done");
    send(&process, Signal::USR1);
    assert_eq!(front.wait().expect("it ends").code(), Some(3));
    assert_gone(&scratch);
}

#[test]
fn killed_run_takes_its_command_and_its_directory_along() {
    needs_root!();
    let scratch = Scratch::new();
    let (mut front, process, directory) = start(&scratch, &[], "exec sleep 1000");
    let mount = Mount::at(Path::new(&directory)).expect("mounted");
    let (guard, server) = (mount.guard(), mount.server());
    front.kill().expect("it lives");
    front.wait().expect("it ends");
    for ended in [&process, &guard, &server] {
        wait_for_end(ended);
    }
    eventually("everything is removed", || left_behind(&scratch).is_empty());
    assert_gone(&scratch);
}

#[test]
fn a_killed_keeper_or_guard_changes_nothing() {
    needs_root!();
    let scratch = Scratch::new();
    for victim in ["keeper", "guard", "server"] {
        let (mut front, process, directory) = start(&scratch, &[], "exec sleep 1000");
        let mount = Mount::at(Path::new(&directory)).expect("mounted");
        let doomed = match victim {
            "guard" => mount.guard(),
            "server" => mount.server(),
            _ => keeper_of(&front),
        };
        send(&doomed, Signal::KILL);
        wait_for_end(&doomed);
        assert!(mount.answers(), "{victim}");
        send(&process, Signal::TERM);
        assert_eq!(front.wait().expect("it ends").code(), Some(143), "{victim}");
        assert_gone(&scratch);
    }
}

fn keeper_of(front: &Child) -> OwnedFd {
    let path = format!("/proc/{0}/task/{0}/children", front.id());
    let children = std::fs::read_to_string(path).expect("it lives");
    let keeper = children.split_whitespace().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "ttlfs-keeper")
    });
    let pid: i32 = keeper.expect("a keeper").parse().expect("a number");
    rustix::process::pidfd_open(Pid::from_raw(pid).expect("a process"), PidfdFlags::empty())
        .expect("it lives")
}

#[test]
fn what_the_command_left_running_keeps_nothing_alive() {
    needs_root!();
    let scratch = Scratch::new();
    for option in [&[][..], &["--private-tmp"]] {
        let script = "cd $TMPDIR; sleep 1000 >/dev/null 2>&1 & echo $!";
        let mut arguments = option.to_vec();
        arguments.extend(["--", "sh", "-c", script]);
        let output = run(&scratch, &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_gone(&scratch);
        let pid: i32 = stdout(&output).trim().parse().expect("a number");
        let pid = Pid::from_raw(pid).expect("a process");
        rustix::process::kill_process(pid, Signal::KILL).expect("it was left alone");
    }
}

#[test]
fn private_tmp_covers_both_places_and_only_inside() {
    needs_root!();
    let scratch = Scratch::new();
    let before = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let script =
        "echo $TMPDIR; stat -c %a /tmp; for d in /tmp /var/tmp; do findmnt -n -o FSTYPE $d; done";
    let output = run(&scratch, &["--private-tmp", "--", "sh", "-ec", script]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(
        text.starts_with("/tmp\n") && text.ends_with("fuse.ttlfs\nfuse.ttlfs\n"),
        "{text}"
    );
    let after = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let covers = |text: &str| text.lines().filter(|line| line.contains(" /tmp ")).count();
    assert_eq!(covers(&before), covers(&after));
    assert_gone(&scratch);
}

#[test]
fn a_run_inside_a_run_works() {
    needs_root!();
    let scratch = Scratch::new();
    let script = format!("{TTLFS} run -- sh -c 'echo $TMPDIR; findmnt -n -o FSTYPE $TMPDIR'");
    for option in [&[][..], &["--private-tmp"]] {
        if !option.is_empty() && (TTLFS.starts_with("/tmp/") || TTLFS.starts_with("/var/tmp/")) {
            eprintln!("skipped: the program under test lies where --private-tmp hides it");
            continue;
        }
        let mut arguments = option.to_vec();
        arguments.extend(["--", "sh", "-c", &script]);
        let output = run(&scratch, &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(
            stdout(&output).ends_with("fuse.ttlfs\n"),
            "{}",
            stdout(&output)
        );
    }
    assert_gone(&scratch);
}

#[test]
fn what_is_left_is_listed_kept_or_removed() {
    needs_root!();
    let scratch = Scratch::new();
    let script =
        "mkdir -p $TMPDIR/d && printf 12345 > $TMPDIR/d/five && : > \"$TMPDIR/with\nnewline\"";
    let output = run(&scratch, &["--report", "--", "sh", "-c", script]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(text.contains("2 files, 5 bytes"), "{text}");
    assert!(
        text.contains("5 bytes") && text.contains("  d/five\n"),
        "{text}"
    );
    assert!(text.contains("with\\nnewline"), "{text}");
    assert_eq!(stdout(&output), "");
    assert_gone(&scratch);

    let output = run(&scratch, &["--keep", "--", "sh", "-c", script]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stderr(&output);
    let kept = text
        .trim()
        .rsplit(' ')
        .next()
        .map(PathBuf::from)
        .expect("a path");
    assert!(kept.starts_with(scratch.path("base")), "{text}");
    assert_eq!(
        std::fs::read_to_string(kept.join("d/five")).expect("kept"),
        "12345"
    );
    assert!(!kept.join(".ttlfs").exists());
}

#[test]
fn a_plain_user_runs_too() {
    needs_root!();
    needs_fusermount!();
    let scratch = Scratch::new();
    let script = "set -e
        $TTLFS run -- sh -c 'findmnt -n -o FSTYPE $TMPDIR; id -u'
        $TTLFS run --private-tmp -- sh -c 'echo $TMPDIR; findmnt -n -o FSTYPE /var/tmp; id -u; exit 7' || echo $?";
    scratch.directory("base");
    std::os::unix::fs::chown(scratch.path("base"), Some(65534), Some(65534)).expect("given away");
    let script = format!("export TMPDIR={}; {script}", scratch.path("base").display());
    let output = as_plain_user(&scratch, &script);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "fuse.ttlfs\n65534\n/tmp\nfuse.ttlfs\n65534\n7\n",
        "{}",
        stderr(&output)
    );
    assert_gone(&scratch);
}

#[test]
fn the_command_starts_with_no_signal_blocked() {
    needs_root!();
    let scratch = Scratch::new();
    let output = run(&scratch, &["--", "grep", "SigBlk", "/proc/self/status"]);
    let masks: Vec<&str> = std::str::from_utf8(&output.stdout)
        .expect("text")
        .split_whitespace()
        .collect();
    assert_eq!(masks, ["SigBlk:", "0000000000000000"]);
}

#[test]
fn what_is_left_is_overwritten_unless_told_otherwise() {
    needs_root!();
    let scratch = Scratch::new();
    for (options, expected) in [(&[][..], "\0\0\0\0\0\0"), (&["-o", "erase=none"], "secret")] {
        let write = "printf secret >$TMPDIR/file";
        let (mut front, _, directory) = start_after(&scratch, options, write, "exec sleep 1000");
        let mount = Mount::at(Path::new(&directory)).expect("mounted");
        // A second name for the file on the backing store, by way of the server's descriptor.
        let pid = mount.entry["server_pid"].as_u64().expect("a number");
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
        let line = String::from_utf8(line).expect("text");
        let number = line
            .split('\0')
            .find_map(|word| word.strip_prefix("--backing="));
        let number = number.expect("a descriptor");
        let witness = scratch.path("witness");
        std::fs::hard_link(format!("/proc/{pid}/fd/{number}/file"), &witness).expect("linked");
        front.kill().expect("it lives");
        front.wait().expect("it ends");
        eventually("everything is removed", || left_behind(&scratch).is_empty());
        let text = std::fs::read_to_string(&witness).expect("it outlived the directory");
        assert_eq!(text, expected);
        std::fs::remove_file(&witness).expect("removed");
    }
}
