//! Many files.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use super::*;

/// A million where the code is optimised.
const FILES: u64 = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};
const CHILD: &str = "TTLFS_TEST_CREATORS_LOAD";

fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn thread_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// How a backing store numbers its files.
fn number(order: &str, n: u64) -> u64 {
    match order {
        "sequence" => 1000 + n,
        _ => (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

fn load(order: &str) {
    let dir = Scratch::new();
    let creators = Arc::new(dir.open());
    let stopping = Arc::new(AtomicBool::new(false));
    let before_kib = status_kib("VmRSS");
    let began = Instant::now();
    let writer = std::thread::spawn({
        let (creators, stopping) = (Arc::clone(&creators), Arc::clone(&stopping));
        move || {
            creators.run(&stopping);
            thread_cpu()
        }
    });
    for n in 0..FILES {
        let ino = number(order, n);
        creators.add(ino, Time(n as i64), creator(n));
        // Programs are slower than this loop; what is measured is the writer, not what gets lost.
        if n % 20_000 == 0 {
            creators.flush().unwrap();
        }
    }
    stopping.store(true, Ordering::Release);
    creators.wake();
    let cpu = writer.join().unwrap() + thread_cpu();
    let wall = began.elapsed();
    let grown_kib = status_kib("VmHWM") - before_kib;
    let file_mib = fs::metadata(dir.file("creators")).unwrap().len() >> 20;
    let per = |time: Duration| time.as_nanos() as f64 / FILES as f64 / 1000.0;
    println!(
        "{order}: {:.2} us of CPU, {:.2} us per file; {grown_kib} KiB of memory; {file_mib} MiB of file",
        per(cpu),
        per(wall)
    );
    let lost = creators.lost();
    let known = (0..FILES)
        .filter(|n| creators.get(number(order, *n), Time(*n as i64)) == Some(creator(*n)))
        .count() as u64;
    assert_eq!(known + lost, FILES);
    assert!(lost < FILES / 10, "{lost} lost");
    assert!(grown_kib < 16 * 1024, "{grown_kib} KiB");
}

/// In a process of its own: the memory of other tests doesn't count.
#[test]
fn many_files_take_little_memory() {
    if let Ok(order) = std::env::var(CHILD) {
        return load(&order);
    }
    for order in ["sequence", "scattered"] {
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("creators::tests::load::many_files_take_little_memory")
            .env(CHILD, order)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout);
        print!("{text}");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(text.contains("us of CPU"), "{text}");
    }
}
