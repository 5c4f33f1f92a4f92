//! Who a thread belongs to.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;

fn text(comm: Comm) -> String {
    Creator { comm, ..creator(0) }.comm_text()
}

fn process_name() -> String {
    fs::read_to_string("/proc/self/comm")
        .unwrap()
        .trim_end()
        .to_owned()
}

fn spawn(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_thread_is_its_process() {
    let callers = Callers::new();
    let expected = (std::process::id(), process_name());
    let identify = |tid| {
        let (pid, comm) = callers.identify(tid);
        (pid, text(comm))
    };
    assert_eq!(identify(std::process::id()), expected);
    let thread = std::thread::Builder::new().name("not-the-process".to_owned());
    let own_tid = || rustix::thread::gettid().as_raw_nonzero().get() as u32;
    std::thread::scope(|scope| {
        let seen = thread.spawn_scoped(scope, || {
            // The second time its leader is remembered.
            [own_tid(), own_tid()].map(identify)
        });
        assert_eq!(
            seen.unwrap().join().unwrap(),
            [expected.clone(), expected.clone()]
        );
    });
    assert!(
        callers
            .leaders
            .iter()
            .any(|place| place.load(Ordering::Relaxed) as u32 == std::process::id())
    );
}

#[test]
fn another_process_has_the_name_it_has_now() {
    let callers = Callers::new();
    let mut child = spawn("echo ready; read line; exec cat");
    let pid = child.id();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let (found, comm) = callers.identify(pid);
    assert_eq!((found, text(comm).as_str()), (pid, "sh"));

    // What comes back comes from cat: the program was replaced, under the same number.
    input.write_all(b"go\nback\n").unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "back\n");
    let (found, comm) = callers.identify(pid);
    assert_eq!((found, text(comm).as_str()), (pid, "cat"));

    drop(input);
    child.wait().unwrap();
    assert_eq!(callers.identify(pid), (pid, Comm::default()), "gone");
}

#[test]
fn a_process_that_ended_unreaped_is_still_known() {
    let callers = Callers::new();
    let mut child = spawn("exit 0");
    let mut output = child.stdout.take().unwrap();
    let mut rest = Vec::new();
    // Its end of the pipe closes as it ends; nobody has waited for it.
    std::io::Read::read_to_end(&mut output, &mut rest).unwrap();
    let (pid, comm) = callers.identify(child.id());
    assert_eq!((pid, text(comm).as_str()), (child.id(), "sh"));
    child.wait().unwrap();
}

#[test]
fn unknown_threads_are_nobody() {
    let callers = Callers::new();
    assert_eq!(callers.identify(0), (0, Comm::default()));
    let beyond = u32::MAX - 1;
    assert_eq!(callers.identify(beyond), (beyond, Comm::default()));
}

#[test]
fn capture_keeps_what_it_saw() {
    let creators = Creators::in_memory();
    creators.capture(7, Time(1), 1000, 100, std::process::id());
    let found = creators.get(7, Time(1)).unwrap();
    assert_eq!(
        (found.uid, found.gid, found.pid),
        (1000, 100, std::process::id())
    );
    assert_eq!(found.comm_text(), process_name());
    assert_eq!(creators.get(7, Time(2)), None);
    assert_eq!(creators.get(8, Time(1)), None);
    creators.forget(7, Time(1));
    assert_eq!(creators.get(7, Time(1)), None);
}

#[test]
fn names_are_one_printable_line() {
    let shown = |name: &[u8]| {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        text(comm)
    };
    assert_eq!(shown(b""), "");
    assert_eq!(shown(b"(sd-pam)"), "(sd-pam)");
    assert_eq!(shown(b"0123456789abcdef"), "0123456789abcdef");
    assert_eq!(shown(b"a\nb\x1b[m\\"), "a\\nb\\u{1b}[m\\\\");
    assert_eq!(shown(b"\"it's\""), "\"it's\"");
    assert_eq!(shown("\u{202e}x".as_bytes()), "\\u{202e}x");
    assert_eq!(shown(b"caf\xc3\xa9 \xff"), "caf\u{e9} \u{fffd}");
}
