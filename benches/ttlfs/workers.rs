//! The programs that are measured: this binary, started again once per program.
//!
//! A worker prepares its files, says `ready`, waits for a line, runs its loop, and prints what it measured:
//! how many operations took how many nanoseconds. Starting and preparing are not in it.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::loops;

const PAGE_BYTES: usize = 4096;
/// Small operations between two looks at the clock.
pub const BATCH: u64 = 16;

/// The first argument that makes this binary a worker.
pub const COMMAND: &str = "worker";

/// What one worker is to do.
pub struct Task {
    pub dir: PathBuf,
    /// Which of the programs that run at once this is.
    pub index: usize,
    pub round: usize,
    /// Operations, where each needs a file of its own.
    pub count: usize,
    /// How long to go on, where operations can be repeated.
    pub budget: Duration,
}

/// What a worker measured.
#[derive(Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Measured {
    pub operations: u64,
    pub nanoseconds: u64,
}

impl Task {
    pub fn arguments(&self, name: &str) -> Vec<std::ffi::OsString> {
        vec![
            COMMAND.into(),
            name.into(),
            self.dir.clone().into(),
            self.index.to_string().into(),
            self.round.to_string().into(),
            self.count.to_string().into(),
            self.budget.as_millis().to_string().into(),
        ]
    }

    fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<(String, Task)> {
        let name = arguments.next()?.into_string().ok()?;
        let dir = arguments.next()?.into();
        let mut number = || arguments.next()?.to_str()?.parse::<usize>().ok();
        let task = Task {
            dir,
            index: number()?,
            round: number()?,
            count: number()?,
            budget: Duration::from_millis(u64::try_from(number()?).ok()?),
        };
        Some((name, task))
    }

    /// A path that no other program, and no other round, uses.
    pub fn path(&self, what: &str, number: usize) -> PathBuf {
        self.dir.join(format!("{what}-{}-{number:06}", self.index))
    }
}

/// Where the measured part begins.
pub struct Gate;

impl Gate {
    pub fn pass(&mut self) -> io::Result<()> {
        println!("ready");
        io::stdout().flush()?;
        let mut line = String::new();
        match io::stdin().lock().read_line(&mut line)? {
            0 => Err(io::Error::other("the benchmark has gone")),
            _ => Ok(()),
        }
    }
}

/// Does what the arguments after `worker` say.
pub fn main(arguments: impl Iterator<Item = std::ffi::OsString>) -> io::Result<()> {
    let (name, task) =
        Task::parse(arguments).ok_or_else(|| io::Error::other("wrong arguments for a worker"))?;
    let work = loops::find(&name).ok_or_else(|| io::Error::other(format!("no worker {name:?}")))?;
    let measured = work(&task, &mut Gate)?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Page-aligned memory: an unaligned buffer costs a direct write one request more.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize) -> Buffer {
        let mut bytes = vec![0; length + PAGE_BYTES];
        let mut random = Random::new(length as u64);
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
        }
        let start = bytes.as_ptr().align_offset(PAGE_BYTES);
        assert!(start < PAGE_BYTES, "a page boundary lies within any page");
        Buffer {
            bytes,
            start,
            length,
        }
    }

    pub fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// Xorshift: the same numbers in every run, for the systems to be compared on the same work.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

/// Repeats `operation` for as long as the budget says, looking at the clock after each `batch`.
pub fn repeat(
    budget: Duration,
    batch: u64,
    max: u64,
    mut operation: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<Measured> {
    let start = Instant::now();
    let mut operations = 0;
    loop {
        for _ in 0..batch {
            operation(operations)?;
            operations += 1;
        }
        let elapsed = start.elapsed();
        if elapsed >= budget || operations >= max {
            return Ok(measured(operations, elapsed));
        }
    }
}

/// Does `operation` once for each number.
pub fn each(
    count: usize,
    mut operation: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<Measured> {
    let start = Instant::now();
    for number in 0..count {
        operation(number)?;
    }
    Ok(measured(count as u64, start.elapsed()))
}

pub fn measured(operations: u64, elapsed: Duration) -> Measured {
    let nanoseconds = u64::try_from(elapsed.as_nanos()).expect("runs end within centuries");
    Measured {
        operations,
        nanoseconds,
    }
}
