//! One run of one workload on one system: starting it, and what it took.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixtures::{self, Fixtures};
use crate::process::{self, Job, Outcome};
use crate::store::doing;
use crate::workers::{Measured, Task};
use crate::workloads::{Kind, Scale};

const SORT_BUFFER: &str = "20M";

pub fn one(value: f64) -> Vec<f64> {
    vec![value]
}

/// What a case needs besides a mount.
pub struct Place<'a> {
    pub fixtures: &'a Fixtures,
    pub scale: Scale,
    pub log: &'a Path,
    pub limit: Duration,
}

impl Place<'_> {
    /// Runs `programs` workers at once; the mean time of one operation as one program sees it.
    pub fn workers(
        &self,
        name: &str,
        dir: &Path,
        round: usize,
        programs: usize,
        count: usize,
    ) -> Outcome<f64> {
        let myself = std::env::current_exe().map_err(doing("this program"))?;
        let mut jobs = Vec::new();
        for index in 0..programs {
            let task = Task {
                dir: dir.to_owned(),
                index,
                round,
                count,
                budget: self.scale.budget,
            };
            let mut command = Command::new(&myself);
            command
                .args(task.arguments(name))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let job = Job::start(&mut command, self.log, self.limit)?;
            let mut job = job.named(format!("worker {name}"));
            let input = job.child.stdin.take().expect("piped above");
            let output = BufReader::new(job.child.stdout.take().expect("piped above"));
            jobs.push((job, input, output));
        }
        let mut ready = 0;
        for (_, _, output) in &mut jobs {
            let mut line = String::new();
            let _ = output.read_line(&mut line);
            ready += usize::from(line.trim() == "ready");
        }
        if ready == programs {
            for (_, input, _) in &mut jobs {
                let _ = input.write_all(b"go\n");
            }
        }
        let mut total = Measured::default();
        let mut failure = None;
        for (job, input, mut output) in jobs {
            let mut line = String::new();
            // A worker that waits in vain ends when its input does.
            drop(input);
            let _ = output.read_to_string(&mut line);
            match job.wait().map(|()| serde_json::from_str::<Measured>(&line)) {
                Ok(Ok(measured)) => {
                    total.operations += measured.operations;
                    total.nanoseconds += measured.nanoseconds;
                }
                Ok(Err(error)) => failure = failure.or(Some(format!("{name}: {error}"))),
                Err(reason) => failure = failure.or(Some(reason)),
            }
        }
        match failure {
            None => Ok(total.nanoseconds as f64 / total.operations.max(1) as f64),
            Some(reason) => Err(reason),
        }
    }

    fn run(&self, command: &mut Command) -> Outcome<f64> {
        let elapsed = process::run(command.stdin(Stdio::null()), self.log, self.limit)?;
        Ok(elapsed.as_nanos() as f64)
    }

    pub fn program(&self, kind: Kind, dir: &Path) -> Outcome<Vec<f64>> {
        match kind {
            Kind::Repeated | Kind::Consuming | Kind::Readdir => Err("not a program".to_owned()),
            Kind::Untar => {
                let archive = self.fixtures.archive()?;
                let untar = self.run(
                    Command::new("tar")
                        .arg("-xf")
                        .arg(archive)
                        .arg("-C")
                        .arg(dir),
                )?;
                let remove = self.run(Command::new("rm").arg("-r").arg(dir.join("tree")))?;
                Ok(vec![untar, remove])
            }
            Kind::GitClone => {
                let repository = self.fixtures.repository()?;
                let mut git = fixtures::git();
                git.args(["clone", "-q", "--no-local"])
                    .arg(repository)
                    .arg(dir.join("clone"));
                self.run(&mut git).map(one)
            }
            Kind::CBuild => {
                let mut total = 0.0;
                for source in self.fixtures.sources()? {
                    let mut gcc = Command::new("gcc");
                    gcc.args(["-O1", "-c", "-o"])
                        .arg(source.with_extension("o"))
                        .arg(source);
                    total += self.run(gcc.env("TMPDIR", dir))?;
                }
                Ok(one(total))
            }
            Kind::Sort => {
                let mut sort = Command::new("sort");
                sort.env("LC_ALL", "C")
                    .args(["-S", SORT_BUFFER, "-o", "/dev/null", "-T"]);
                self.run(sort.arg(dir).arg(self.fixtures.lines()?)).map(one)
            }
            Kind::Sqlite { synchronous } => self.sqlite(synchronous, dir).map(one),
            Kind::PythonTemp => {
                let count = self.scale.temp_files;
                self.python(PYTHON_TEMP, &[dir.as_os_str(), count.to_string().as_ref()])
                    .map(one)
            }
        }
    }

    fn sqlite(&self, synchronous: &str, dir: &Path) -> Outcome<f64> {
        let database = dir.join("database");
        let transactions = self.scale.transactions;
        let Some(sqlite) = process::find_program("sqlite3") else {
            let count = transactions.to_string();
            return self.python(
                PYTHON_SQLITE,
                &[database.as_os_str(), synchronous.as_ref(), count.as_ref()],
            );
        };
        let script = self.fixtures.dir().join("script.sql");
        let mut text = format!(
            "PRAGMA synchronous={synchronous};\nCREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);\n"
        );
        for number in 0..transactions {
            text.push_str(&format!(
                "INSERT INTO t(v) VALUES('row {number} {}');\n",
                "x".repeat(100)
            ));
        }
        fs::write(&script, text).map_err(doing("sqlite"))?;
        let input = fs::File::open(&script).map_err(doing("sqlite"))?;
        let start = Instant::now();
        let mut command = Command::new(sqlite);
        command
            .arg("-batch")
            .arg("-bail")
            .arg(database)
            .stdin(input)
            .stdout(Stdio::null());
        Job::start(&mut command, self.log, self.limit)?.wait()?;
        Ok(start.elapsed().as_nanos() as f64)
    }

    /// Runs a script that prints how many nanoseconds it took: starting Python is not in it.
    fn python(&self, script: &str, arguments: &[&std::ffi::OsStr]) -> Outcome<f64> {
        let mut command = Command::new("python3");
        command
            .arg("-c")
            .arg(script)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut job = Job::start(&mut command, self.log, self.limit)?;
        let mut output = job.child.stdout.take().expect("piped above");
        let mut text = String::new();
        let _ = output.read_to_string(&mut text);
        job.wait()?;
        text.trim()
            .parse()
            .map_err(|_| format!("python3 printed {text:?}"))
    }
}

const PYTHON_SQLITE: &str = "
import sqlite3, sys, time
start = time.perf_counter_ns()
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA synchronous=' + sys.argv[2])
db.execute('CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)')
for number in range(int(sys.argv[3])):
    db.execute('INSERT INTO t(v) VALUES(?)', ('row %d %s' % (number, 'x' * 100),))
db.close()
print(time.perf_counter_ns() - start)
";

const PYTHON_TEMP: &str = "
import sys, tempfile, time
data = b'x' * 4096
start = time.perf_counter_ns()
for number in range(int(sys.argv[2])):
    with tempfile.NamedTemporaryFile(dir=sys.argv[1]) as file:
        file.write(data)
        file.flush()
        with open(file.name, 'rb') as again:
            assert again.read() == data
print(time.perf_counter_ns() - start)
";
