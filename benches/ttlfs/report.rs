//! Statistics, the table, and the JSON beside it.

use std::fmt::Write as _;

use serde::Serialize;

use crate::systems::System;

/// Enough for every system but one with options of its own.
const NAME_WIDTH: usize = 16;

/// What the samples of one system say, in nanoseconds.
#[derive(Clone, Copy, Serialize)]
pub struct Summary {
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
}

impl Summary {
    fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            median: percentile(&sorted, 0.5)?,
            p10: percentile(&sorted, 0.1)?,
            p90: percentile(&sorted, 0.9)?,
        })
    }
}

/// Interpolates between the two nearest ranks, so that the median of an even number is the mean of its middle.
fn percentile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = part * last as f64;
    let low = rank.floor();
    let (below, above) = (sorted[low as usize], sorted[(low as usize + 1).min(last)]);
    Some(below + (above - below) * (rank - low))
}

/// One system in one row.
#[derive(Serialize)]
pub struct Entry {
    pub system: String,
    #[serde(skip)]
    role: Role,
    /// Nanoseconds, one for each round.
    pub samples: Vec<f64>,
    #[serde(flatten)]
    pub summary: Option<Summary>,
    /// Median time over the median time of the backing directory itself: 1 is native, less is faster.
    pub times_native: Option<f64>,
    /// The fastest peer's median time over this one's: more than 1 is faster than every peer.
    pub speed_of_fastest_peer: Option<f64>,
    pub failure: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Native,
    Ttlfs,
    Peer,
}

impl Role {
    fn of(system: &System) -> Role {
        if system.is_native() {
            Role::Native
        } else if system.is_ttlfs() {
            Role::Ttlfs
        } else {
            Role::Peer
        }
    }
}

/// One line of the table: a workload, on all systems.
#[derive(Serialize)]
pub struct Row {
    pub row: String,
    pub about: &'static str,
    pub programs: usize,
    /// The samples are nanoseconds per this.
    pub per: &'static str,
    pub fastest_peer: Option<String>,
    pub systems: Vec<Entry>,
}

impl Row {
    pub fn new(row: String, about: &'static str, programs: usize, per: &'static str) -> Row {
        Row {
            row,
            about,
            programs,
            per,
            fastest_peer: None,
            systems: Vec::new(),
        }
    }

    /// Adds what a system measured. One that failed in any round has no figures.
    pub fn add(&mut self, system: &System, samples: Vec<f64>, failure: Option<String>) {
        let samples = if failure.is_some() {
            Vec::new()
        } else {
            samples
        };
        self.systems.push(Entry {
            system: system.name.clone(),
            role: Role::of(system),
            summary: Summary::of(&samples),
            samples,
            times_native: None,
            speed_of_fastest_peer: None,
            failure,
        });
    }

    /// Forms the ratios, of medians, once all systems are in.
    pub fn finish(&mut self) {
        let median = |entry: &Entry| entry.summary.map(|summary| summary.median);
        let native = self
            .systems
            .iter()
            .find(|entry| entry.role == Role::Native)
            .and_then(median);
        let peers = self.systems.iter().filter(|entry| entry.role == Role::Peer);
        let fastest = peers
            .filter_map(|entry| Some((median(entry)?, entry.system.clone())))
            .min_by(|one, other| one.0.total_cmp(&other.0));
        for entry in &mut self.systems {
            let own = entry.summary.map(|summary| summary.median);
            entry.times_native = own.zip(native).map(|(own, native)| own / native);
            if entry.role != Role::Peer {
                entry.speed_of_fastest_peer =
                    own.zip(fastest.as_ref()).map(|(own, peer)| peer.0 / own);
            }
        }
        self.fastest_peer = fastest.map(|(_, name)| name);
    }

    /// The systems that failed.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        let failed = self.systems.iter().filter(|entry| entry.failure.is_some());
        failed.map(|entry| entry.system.as_str())
    }

    /// The row in full, with its spread.
    pub fn text(&self) -> String {
        let per = if self.per == "run" {
            String::new()
        } else {
            format!(" per {}", self.per)
        };
        let widest = self.systems.iter().map(|entry| entry.system.len()).max();
        let width = widest.unwrap_or(0).max(NAME_WIDTH);
        let mut text = format!("{}: {}{per}\n", self.row, self.about);
        for entry in &self.systems {
            let name = &entry.system;
            let line = match (&entry.failure, entry.summary) {
                (Some(failure), _) => writeln!(text, "  {name:<width$} failed: {failure}"),
                (None, None) => writeln!(text, "  {name:<width$} -"),
                (None, Some(summary)) => writeln!(
                    text,
                    "  {name:<width$} {:>9}  [{:>9} .. {:>9}] {:>9} {:>9}",
                    time(summary.median),
                    time(summary.p10),
                    time(summary.p90),
                    ratio(entry.times_native),
                    ratio(entry.speed_of_fastest_peer),
                ),
            };
            line.expect("a string takes everything");
        }
        text
    }
}

/// The heading of the rows in full.
pub fn heading() -> String {
    format!(
        "  {:<NAME_WIDTH$} {:>9}  [{:>9} .. {:>9}] {:>9} {:>9}",
        "", "median", "p10", "p90", "x native", "vs peer"
    )
}

/// Three significant digits, in the unit that fits.
pub fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

fn digits(value: f64) -> String {
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), digits)
}

/// All rows at a glance: native, each ttlfs with both ratios, the fastest peer.
pub fn summary(rows: &[Row]) -> String {
    let Some(widest) = rows.iter().max_by_key(|row| row.systems.len()) else {
        return String::new();
    };
    let ours: Vec<&str> = widest
        .systems
        .iter()
        .filter(|entry| entry.role == Role::Ttlfs)
        .map(|entry| entry.system.as_str())
        .collect();
    let mut text = format!("{:<18} {:>9}", "medians", "native");
    for name in &ours {
        let _ = write!(text, " | {name:>11} {:>8} {:>8}", "x native", "vs peer");
    }
    let _ = writeln!(text, " | fastest peer");
    for row in rows {
        let find = |name: &str| row.systems.iter().find(|entry| entry.system == name);
        let median =
            |entry: Option<&Entry>| match entry.map(|entry| (entry.summary, &entry.failure)) {
                Some((Some(summary), _)) => time(summary.median),
                Some((None, Some(_))) => "failed".to_owned(),
                _ => "-".to_owned(),
            };
        let _ = write!(text, "{:<18} {:>9}", row.row, median(find("native")));
        for name in &ours {
            let entry = find(name);
            let width = name.len().max(11);
            let _ = write!(
                text,
                " | {:>width$} {:>8} {:>8}",
                median(entry),
                ratio(entry.and_then(|entry| entry.times_native)),
                ratio(entry.and_then(|entry| entry.speed_of_fastest_peer)),
            );
        }
        let _ = match &row.fastest_peer {
            Some(peer) => writeln!(text, " | {:>9} {peer}", median(find(peer))),
            None => writeln!(text, " | -"),
        };
    }
    text
}

/// Where the figures come from.
#[derive(Serialize)]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    pub memory_mib: u64,
    pub store: String,
    /// Runnable processes in the minute before: figures of a busy machine are of little use.
    pub load_before: f64,
}

impl Machine {
    pub fn here(store: String) -> Machine {
        let uname = rustix::system::uname();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib: Option<u64> = meminfo.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Machine {
            kernel: uname.release().to_string_lossy().into_owned(),
            processor: processor.to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            store,
            load_before: load
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

/// The whole run, as it is written to the JSON file.
#[derive(Serialize)]
pub struct Report<'a> {
    pub version: u32,
    pub quick: bool,
    pub machine: &'a Machine,
    /// System, and what it says about its version.
    pub versions: Vec<(String, Option<String>)>,
    pub notes: &'a [String],
    pub rows: &'a [Row],
}
