//! The comparison itself: every workload on every system, in turn.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{self, Outcome};
use crate::report::{self, Machine, Report, Row};
use crate::run::Place;
use crate::store::doing;
use crate::systems::{Mounted, System};
use crate::workloads::Case;
use crate::{Bench, PROGRAM_ROUNDS, QUICK_PROGRAM_ROUNDS, QUICK_ROUNDS, ROUNDS};

/// Of other processes, before the run: more than this disturbs the figures.
const LOAD_MAX: f64 = 0.3;
const JSON_VERSION: u32 = 1;

/// One system's part in a case.
struct Lane<'a> {
    system: &'a System,
    mounted: Option<Mounted>,
    /// For each round the nanoseconds of each row.
    samples: Vec<Vec<f64>>,
    failure: Option<String>,
}

impl Lane<'_> {
    /// Runs one round. A system that has failed is left alone for the rest of the case.
    fn run(&mut self, case: &Case, round: usize, place: &Place<'_>) -> Option<Vec<f64>> {
        let mounted = self.mounted.as_ref().filter(|_| self.failure.is_none())?;
        match case.run(mounted.dir(), round, place) {
            Ok(values) => Some(values),
            Err(reason) => {
                self.failure = Some(reason);
                None
            }
        }
    }
}

impl Bench<'_> {
    /// Runs all cases, prints them, and writes the JSON. False if ttlfs failed in any.
    pub fn compare(&mut self, systems: &[System], cases: &[Case]) -> Outcome<bool> {
        let machine = Machine::here(self.store.describe());
        println!(
            "{} processors ({}), {} MiB, Linux {}; backing store: {}",
            machine.processors,
            machine.processor,
            machine.memory_mib,
            machine.kernel,
            machine.store
        );
        if machine.load_before > LOAD_MAX {
            self.note(format!(
                "the machine is not idle: load {} before the run",
                machine.load_before
            ));
        }
        if self.arguments.quick {
            self.note(
                "--quick: a tenth of the amounts that the rows name, too little for a comparison"
                    .to_owned(),
            );
        }
        println!("\n{}", report::heading());
        let mut rows = Vec::new();
        for case in cases {
            if process::interrupted() {
                break;
            }
            match case.missing() {
                Some(why) => self.note(format!("{} left out: {why}", case.names())),
                None => rows.extend(self.case(case, systems)?),
            }
        }
        println!("{}", report::summary(&rows));
        if process::interrupted() {
            return Err("interrupted".to_owned());
        }
        let path = self.json_path();
        let report = Report {
            version: JSON_VERSION,
            quick: self.arguments.quick,
            machine: &machine,
            versions: systems
                .iter()
                .map(|system| (system.name.clone(), system.version()))
                .collect(),
            notes: &self.notes,
            rows: &rows,
        };
        write_json(&path, &report)?;
        println!("written to {}", path.display());
        let failed = |row: &Row| row.failures().any(|system| is_ttlfs(systems, system));
        Ok(!rows.iter().any(failed))
    }

    fn json_path(&self) -> PathBuf {
        let usual = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench/latest.json");
        self.arguments.json.clone().unwrap_or_else(usual)
    }

    fn rounds(&self, case: &Case) -> usize {
        let usual = match (self.arguments.quick, case.is_program()) {
            (false, false) => ROUNDS,
            (false, true) => PROGRAM_ROUNDS,
            (true, false) => QUICK_ROUNDS,
            (true, true) => QUICK_PROGRAM_ROUNDS,
        };
        self.arguments.rounds.map_or(usual, usize::from)
    }

    fn case(&self, case: &Case, systems: &[System]) -> Outcome<Vec<Row>> {
        let place = self.place();
        let rounds = self.rounds(case);
        let mut lanes: Vec<Lane<'_>> = systems
            .iter()
            .map(|system| {
                let (mounted, failure) = match self.ready(case, system, &place) {
                    Ok(mounted) => (Some(mounted), None),
                    Err(reason) => (None, Some(reason)),
                };
                let samples = Vec::new();
                Lane {
                    system,
                    mounted,
                    samples,
                    failure,
                }
            })
            .collect();
        if case.is_program()
            && let Some(first) = lanes.first_mut()
        {
            // Untimed, in a round of its own: nobody is to pay for reading the program from disk.
            first.run(case, rounds, &place);
        }
        for round in 0..rounds {
            let count = lanes.len();
            for turn in 0..count {
                // Nobody always comes after the same other one.
                let lane = &mut lanes[(round + turn) % count];
                self.store.sync();
                if let Some(values) = lane.run(case, round, &place) {
                    lane.samples.push(values);
                }
            }
            if process::interrupted() {
                return Err("interrupted".to_owned());
            }
        }
        for lane in &mut lanes {
            lane.mounted = None;
            self.store.remove(&lane.system.slot())?;
        }
        let mut rows = Vec::new();
        for (number, (name, about)) in case.rows().into_iter().enumerate() {
            let mut row = Row::new(name, about, case.programs, case.unit());
            for lane in &lanes {
                let samples = lane.samples.iter().map(|values| values[number]).collect();
                row.add(lane.system, samples, lane.failure.clone());
            }
            row.finish();
            print!("{}", row.text());
            rows.push(row);
        }
        Ok(rows)
    }

    /// Mounts a system, with what the case needs in it.
    fn ready(&self, case: &Case, system: &System, place: &Place<'_>) -> Outcome<Mounted> {
        let mounted = self.mount(system, "")?;
        case.set_up(mounted.dir(), place)?;
        if !case.remounts() {
            return Ok(mounted);
        }
        drop(mounted);
        system.mount(
            &self.backing(system),
            &self.mountpoint(system),
            "",
            self.log(),
        )
    }
}

fn is_ttlfs(systems: &[System], name: &str) -> bool {
    systems
        .iter()
        .any(|system| system.name == name && system.is_ttlfs())
}

/// Whole or not at all.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Outcome<()> {
    let what = || format!("{}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(doing(what()))?;
    }
    let mut text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    text.push('\n');
    let part = path.with_extension("part");
    fs::write(&part, text).map_err(doing(what()))?;
    fs::rename(&part, path).map_err(doing(what()))
}
