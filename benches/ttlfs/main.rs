//! The same work on the backing directory itself, through ttlfs, and through its peers, in turn in one run.
//!
//! `docs/benchmarks.md` says how to run it and what its rows mean. There is no pass mark.

#![forbid(unsafe_code)]

mod compare;
mod fixtures;
mod loops;
mod memory;
mod process;
mod report;
mod run;
mod store;
mod systems;
mod workers;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use fixtures::Fixtures;
use process::Outcome;
use run::Place;
use store::{Scratch, Store, StoreKind, doing};
use systems::{Mounted, System};
use workloads::{Case, Scale};

const ROUNDS: usize = 5;
const PROGRAM_ROUNDS: usize = 3;
const QUICK_ROUNDS: usize = 3;
const QUICK_PROGRAM_ROUNDS: usize = 1;

/// What a shell makes of an end by SIGINT.
const INTERRUPTED: u8 = 130;

/// Compares ttlfs with the backing filesystem and with its peers.
#[derive(Parser)]
#[command(name = "cargo bench --")]
struct Arguments {
    /// Workloads to run: names of --list, or parts of names [default: all]
    names: Vec<String>,
    /// Rounds per workload [default: 5, programs 3; quick: 3 and 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Small amounts and few rounds: to see that it works, not to compare
    #[arg(long)]
    quick: bool,
    /// Systems to compare; also ttlfs:OPT+OPT for any mount options
    #[arg(long, value_delimiter = ',', default_values = systems::DEFAULT)]
    systems: Vec<String>,
    /// How many programs run at once
    #[arg(long, value_delimiter = ',', default_values = ["1", "4"], value_parser = clap::value_parser!(u16).range(1..=64))]
    programs: Vec<u16>,
    /// Where the JSON goes [default: target/bench/latest.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The backing store [default: the first of xfs, ext4, tmpfs, dir that can be had]
    #[arg(long, value_enum)]
    store: Option<StoreKind>,
    /// Where the backing store is made [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Seconds after which one run of one system counts as failed
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Instead: memory of the daemon for this many files, looked up and forgotten
    #[arg(long, value_name = "FILES", num_args = 0..=1, default_missing_value = "1000000")]
    memory: Option<usize>,
    /// Lists workloads and systems
    #[arg(long)]
    list: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments
        .next_if(|first| first == workers::COMMAND)
        .is_some()
    {
        return match workers::main(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("worker: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::parse();
    if !arguments.bench {
        // `cargo test --all-targets` starts benchmarks too.
        println!("nothing measured: run it with `cargo bench`");
        return ExitCode::SUCCESS;
    }
    match bench(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("ttlfs bench: {reason}");
            if process::interrupted() {
                ExitCode::from(INTERRUPTED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// The whole run. False if ttlfs failed at something: how fast it was decides nothing.
fn bench(arguments: &Arguments) -> Outcome<bool> {
    let programs: Vec<usize> = arguments
        .programs
        .iter()
        .copied()
        .map(usize::from)
        .collect();
    let cases = Case::select(Case::all(&programs), &arguments.names)?;
    let systems: Vec<System> =
        if arguments.memory.is_some() && arguments.systems == systems::DEFAULT {
            vec![System::parse("ttlfs")?]
        } else {
            arguments
                .systems
                .iter()
                .map(|name| System::parse(name))
                .collect::<Outcome<_>>()?
        };
    if arguments.list {
        list(&cases, &systems);
        return Ok(true);
    }
    let mut bench = Bench::new(arguments)?;
    let systems = bench.usable(systems);
    let ok = match arguments.memory {
        Some(files) => bench.memory(&systems, files)?,
        None => bench.compare(&systems, &cases)?,
    };
    if process::interrupted() {
        return Err("interrupted".to_owned());
    }
    Ok(ok && !bench.ttlfs_failed)
}

fn list(cases: &[Case], systems: &[System]) {
    for case in cases {
        let missing = case
            .missing()
            .map(|why| format!(" ({why})"))
            .unwrap_or_default();
        for (name, about) in case.rows() {
            println!("{name:<18} {about}{missing}");
        }
    }
    println!();
    for system in systems {
        let installed = if system.is_installed() {
            ""
        } else {
            " (not installed)"
        };
        println!("{}{installed}", system.name);
    }
}

struct Bench<'a> {
    arguments: &'a Arguments,
    notes: Vec<String>,
    ttlfs_failed: bool,
    fixtures: Fixtures,
    store: Store,
    /// Last: it unmounts the store.
    scratch: Scratch,
    log: PathBuf,
}

impl Bench<'_> {
    fn new(arguments: &Arguments) -> Outcome<Bench<'_>> {
        let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
        let scratch = Scratch::new(&parent)?;
        let root = scratch.root().to_owned();
        process::watch(move || store::discard(&root)).map_err(doing("signals"))?;
        let mut notes = Vec::new();
        let store = Store::new(&scratch, arguments.store, &mut notes)?;
        let sizes = scale(arguments).fixtures;
        let log = scratch.log();
        let fixtures = Fixtures::new(store.fresh("fixtures")?, log.clone(), sizes);
        Ok(Bench {
            arguments,
            notes,
            ttlfs_failed: false,
            fixtures,
            store,
            scratch,
            log,
        })
    }

    fn note(&mut self, note: String) {
        println!("note: {note}");
        self.notes.push(note);
    }

    fn place(&self) -> Place<'_> {
        Place {
            fixtures: &self.fixtures,
            scale: scale(self.arguments),
            log: self.log(),
            limit: Duration::from_secs(self.arguments.timeout),
        }
    }

    fn log(&self) -> &Path {
        &self.log
    }

    /// Tries each system once, and leaves out what doesn't run here.
    fn usable(&mut self, systems: Vec<System>) -> Vec<System> {
        let mut usable = Vec::new();
        for system in systems {
            if !system.is_installed() {
                self.note(format!("{} is not installed: left out", system.name));
                continue;
            }
            let tried = self.mount(&system, "").map(drop);
            match tried.and_then(|()| self.store.remove(&system.slot())) {
                Ok(()) => usable.push(system),
                Err(_) if process::interrupted() => break,
                Err(reason) => {
                    self.ttlfs_failed |= system.is_ttlfs();
                    self.note(format!(
                        "{} does not mount: left out: {reason}",
                        system.name
                    ));
                }
            }
        }
        usable
    }

    fn mountpoint(&self, system: &System) -> PathBuf {
        self.scratch.root().join("mounts").join(system.slot())
    }

    fn backing(&self, system: &System) -> PathBuf {
        self.store.path(&system.slot())
    }

    /// Mounts a system on a fresh backing directory.
    fn mount(&self, system: &System, more: &str) -> Outcome<Mounted> {
        let backing = self.store.fresh(&system.slot())?;
        system.prepare(&backing, self.log())?;
        system.mount(&backing, &self.mountpoint(system), more, self.log())
    }

    /// Measures memory instead of time.
    fn memory(&mut self, systems: &[System], files: usize) -> Outcome<bool> {
        memory::limit_descriptors()?;
        let mut all_ok = true;
        let mut results = Vec::new();
        for system in systems.iter().filter(|system| !system.is_native()) {
            match self.memory_of(system, files) {
                Ok(memory) => {
                    print!("{}", memory.text());
                    results.push(memory);
                }
                Err(reason) if process::interrupted() => return Err(reason),
                Err(reason) => {
                    all_ok &= !system.is_ttlfs();
                    self.note(format!("{}: {reason}", system.name));
                }
            }
        }
        if let Some(path) = &self.arguments.json {
            compare::write_json(path, &results)?;
        }
        Ok(all_ok)
    }

    fn memory_of(&self, system: &System, files: usize) -> Outcome<memory::Memory> {
        let backing = self.store.fresh(&system.slot())?;
        system.prepare(&backing, self.log())?;
        let more = memory::MOUNT_OPTIONS;
        memory::fill(&backing, files)?;
        self.store.sync();
        let mounted = system.mount(&backing, &self.mountpoint(system), more, self.log())?;
        let memory = memory::measure(system, &mounted, files, &self.place())?;
        drop(mounted);
        self.store.remove(&system.slot())?;
        Ok(memory)
    }
}

fn scale(arguments: &Arguments) -> Scale {
    if arguments.quick {
        Scale::QUICK
    } else {
        Scale::FULL
    }
}
