//! Running programs from the mount.

use crate::common::wait::started;
use crate::common::*;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

in_each_io_mode!("": programs_run, scripts_run, text_file_busy, running_program_can_be_replaced);
in_default_mode!("": execution_needs_permission);
in_default_mode!("noexec": noexec_refuses);
in_default_mode!("suid": setuid_programs_change_users);
in_default_mode!("": setuid_is_off_by_default);
in_default_mode!("dev": devices_work_with_dev);
in_default_mode!("": devices_are_off_by_default);

fn copy_of(program: &str, m: &Mount, name: &str) -> std::path::PathBuf {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .expect("a standard program");
    let path = m.path(name);
    std::fs::copy(found, &path).unwrap();
    chmod(&path, 0o755).unwrap();
    path
}

fn programs_run(m: &mut Mount) {
    let program = copy_of("cat", m, "cat");
    put(m.path("f"), "content");
    for _ in 0..3 {
        let output = started(|| Command::new(&program).arg(m.path("f")).output()).unwrap();
        assert_eq!(output.stdout, b"content");
        drop_caches();
    }
    let output = ALICE
        .run(|| {
            started(|| {
                let mut command = Command::new(&program);
                command.arg(m.path("f")).current_dir(m.root()).output()
            })
        })
        .unwrap();
    assert_eq!(output.stdout, b"content");
}

fn scripts_run(m: &mut Mount) {
    // Written, closed and run at once, again and again.
    for round in 0..20 {
        let path = m.path(format!("script{round}"));
        put(&path, format!("#!/bin/sh\necho {round} \"$@\"\n"));
        chmod(&path, 0o755).unwrap();
        let output = started(|| Command::new(&path).arg("x").output()).unwrap();
        assert_eq!(output.stdout, format!("{round} x\n").as_bytes());
    }
}

fn text_file_busy(m: &mut Mount) {
    let program = copy_of("sleep", m, "sleep");
    // Not while somebody writes it ...
    let writer = open(&program, OFlags::WRONLY, 0).unwrap();
    fails(Errno::TXTBSY, Command::new(&program).arg("0").status());
    drop(writer);
    let mut child = started(|| {
        Command::new(&program)
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
    })
    .unwrap();
    // ... and nobody writes while it runs.
    fails(Errno::TXTBSY, open_rw(&program));
    fails(
        Errno::TXTBSY,
        open(&program, OFlags::WRONLY | OFlags::TRUNC, 0),
    );
    fails(Errno::TXTBSY, truncate(&program, 0));
    open_read(&program).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(
        std::time::Duration::from_secs(5),
        "it can be written",
        || open_rw(&program).is_ok(),
    );
}

fn running_program_can_be_replaced(m: &mut Mount) {
    let program = copy_of("sleep", m, "sleep");
    let mut child = started(|| Command::new(&program).arg("1000").spawn()).unwrap();
    put(m.path("new"), "#!/bin/sh\nexit 7\n");
    chmod(m.path("new"), 0o755).unwrap();
    rename(m.path("new"), &program).unwrap();
    drop_caches();
    assert_eq!(
        started(|| Command::new(&program).status()).unwrap().code(),
        Some(7)
    );
    assert!(child.try_wait().unwrap().is_none(), "the old one runs on");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn execution_needs_permission(m: &mut Mount) {
    put(m.path("script"), "#!/bin/sh\nexit 3\n");
    chmod(m.path("script"), 0o644).unwrap();
    fails(
        Errno::ACCESS,
        started(|| Command::new(m.path("script")).status()),
    );
    chmod(m.path("script"), 0o744).unwrap();
    BOB.run(|| {
        fails(
            Errno::ACCESS,
            started(|| Command::new(m.path("script")).status()),
        )
    });
    chmod(m.path("script"), 0o755).unwrap();
    assert_eq!(
        BOB.run(|| started(|| Command::new(m.path("script")).status()))
            .unwrap()
            .code(),
        Some(3)
    );
    // A program that may be run but not read.
    let program = copy_of("true", m, "true");
    chmod(&program, 0o711).unwrap();
    BOB.run(|| {
        fails(Errno::ACCESS, open_read(&program));
        assert!(
            started(|| Command::new(&program).status())
                .unwrap()
                .success()
        );
    });
}

fn noexec_refuses(m: &mut Mount) {
    if is_native() {
        return skip("an option of the mount");
    }
    put(m.path("script"), "#!/bin/sh\nexit 3\n");
    chmod(m.path("script"), 0o755).unwrap();
    fails(
        Errno::ACCESS,
        started(|| Command::new(m.path("script")).status()),
    );
    // Reading it stays allowed.
    assert_eq!(
        Command::new("sh")
            .arg(m.path("script"))
            .status()
            .unwrap()
            .code(),
        Some(3)
    );
}

/// The effective user id that a setuid copy of `id` runs with for Alice.
fn effective_user_of_setuid(m: &Mount) -> String {
    let program = copy_of("id", m, "id");
    chown(&program, BOB.uid, BOB.gid).unwrap();
    chmod(&program, 0o4755).unwrap();
    let output = ALICE
        .run(|| started(|| Command::new(&program).arg("-u").arg0("id").output()))
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn setuid_programs_change_users(m: &mut Mount) {
    assert_eq!(effective_user_of_setuid(m), BOB.uid.to_string());
}

fn setuid_is_off_by_default(m: &mut Mount) {
    if is_native() {
        return skip("an option of the mount");
    }
    assert_eq!(effective_user_of_setuid(m), ALICE.uid.to_string());
}

fn devices_work_with_dev(m: &mut Mount) {
    mknod(
        m.path("zero"),
        rustix::fs::FileType::CharacterDevice,
        0o666,
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    chmod(m.path("zero"), 0o666).unwrap();
    let file = BOB.run(|| open_rw(m.path("zero"))).unwrap();
    assert_eq!(pread(&file, 3, 0).unwrap(), [0; 3]);
}

fn devices_are_off_by_default(m: &mut Mount) {
    if is_native() {
        return skip("an option of the mount");
    }
    mknod(
        m.path("zero"),
        rustix::fs::FileType::CharacterDevice,
        0o666,
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    fails(Errno::ACCESS, open_read(m.path("zero")));
}
