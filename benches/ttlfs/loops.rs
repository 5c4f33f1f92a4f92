//! The loops that are measured, each on files of its own.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Mode, StatxFlags};

use crate::workers::{BATCH, Buffer, Gate, Measured, Random, Task, each, measured, repeat};

const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;
const FILE_BYTES: usize = 32 << 20;
/// Few enough that a cached name outlives its attributes only now and then: one request per call.
const STAT_FILES: usize = 64;
const OPEN_FILES: usize = 512;
const APPEND_BYTES: usize = 128;
const APPENDS_MAX: u64 = 200_000;

/// One loop: it prepares, passes the gate, measures.
pub type Work = fn(&Task, &mut Gate) -> io::Result<Measured>;

/// The loop of this name.
pub fn find(name: &str) -> Option<Work> {
    Some(match name {
        "seq-read-4k" => |task, gate| data(task, gate, Data::Read, Order::Sequential, SMALL),
        "seq-read-1m" => |task, gate| data(task, gate, Data::Read, Order::Sequential, LARGE),
        "rand-read-4k" => |task, gate| data(task, gate, Data::Read, Order::Random, SMALL),
        "rand-read-1m" => |task, gate| data(task, gate, Data::Read, Order::Random, LARGE),
        "seq-write-4k" => |task, gate| data(task, gate, Data::Write, Order::Sequential, SMALL),
        "seq-write-1m" => |task, gate| data(task, gate, Data::Write, Order::Sequential, LARGE),
        "rand-write-4k" => |task, gate| data(task, gate, Data::Write, Order::Random, SMALL),
        "rand-write-1m" => |task, gate| data(task, gate, Data::Write, Order::Random, LARGE),
        "grow-1m" => grow,
        "append-128" => append,
        "create" => create,
        "stat" => stat,
        "open-read" => open_read,
        "rename" => rename,
        "unlink" => unlink,
        "mkdir" => mkdir,
        "rmdir" => rmdir,
        "readdir" => readdir,
        "fill" => fill,
        "walk" => walk,
        _ => return None,
    })
}

#[derive(Clone, Copy)]
enum Data {
    Read,
    Write,
}

#[derive(Clone, Copy)]
enum Order {
    Sequential,
    Random,
}

/// Reads or overwrites a file that is in the page cache.
fn data(
    task: &Task,
    gate: &mut Gate,
    what: Data,
    order: Order,
    size: usize,
) -> io::Result<Measured> {
    let path = task.path("data", 0);
    if fs::metadata(&path).map_or(0, |meta| meta.len()) != FILE_BYTES as u64 {
        let file = File::create(&path)?;
        write_all(&file, &Buffer::new(LARGE))?;
        file.sync_all()?;
    }
    let file = match what {
        Data::Read => File::open(&path)?,
        Data::Write => OpenOptions::new().write(true).open(&path)?,
    };
    let mut buffer = Buffer::new(size);
    if let Data::Read = what {
        // Some peers forget the file's pages at each open.
        let mut large = Buffer::new(LARGE);
        for at in (0..FILE_BYTES).step_by(LARGE) {
            file.read_exact_at(large.get_mut(), at as u64)?;
        }
    }
    let slots = (FILE_BYTES / size) as u64;
    let mut random = Random::new((task.round * 64 + task.index) as u64 + 1);
    let batch = if size == SMALL { BATCH } else { 1 };
    gate.pass()?;
    repeat(task.budget, batch, u64::MAX, |number| {
        let slot = match order {
            Order::Sequential => number % slots,
            Order::Random => random.below(slots),
        };
        let at = slot * size as u64;
        match what {
            Data::Read => {
                file.read_exact_at(buffer.get_mut(), at)?;
                black_box(buffer.get());
                Ok(())
            }
            Data::Write => file.write_all_at(buffer.get(), at),
        }
    })
}

fn write_all(mut file: &File, buffer: &Buffer) -> io::Result<()> {
    for _ in 0..FILE_BYTES / buffer.get().len() {
        file.write_all(buffer.get())?;
    }
    Ok(())
}

/// Writes new files; removing them is not measured.
fn grow(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let buffer = Buffer::new(LARGE);
    let mut total = Duration::ZERO;
    let mut operations = 0;
    gate.pass()?;
    for number in 0.. {
        let path = task.path(&format!("grow-{}", task.round), number);
        let file = File::create_new(&path)?;
        let start = Instant::now();
        write_all(&file, &buffer)?;
        total += start.elapsed();
        operations += (FILE_BYTES / LARGE) as u64;
        drop(file);
        fs::remove_file(&path)?;
        if total >= task.budget {
            break;
        }
    }
    Ok(measured(operations, total))
}

fn append(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let path = task.path("append", task.round);
    let mut file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(&path)?;
    let buffer = Buffer::new(APPEND_BYTES);
    gate.pass()?;
    let measured = repeat(task.budget, BATCH, APPENDS_MAX, |_| {
        file.write_all(buffer.get())
    })?;
    let length = file.metadata()?.len();
    if length != measured.operations * APPEND_BYTES as u64 {
        return Err(io::Error::other(format!(
            "{length} bytes after {} appends",
            measured.operations
        )));
    }
    fs::remove_file(&path)?;
    Ok(measured)
}

/// Creates as a temp file is created, writes one page, closes.
fn create_one(path: &Path, buffer: &Buffer) -> io::Result<()> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(buffer.get())
}

fn create_many(task: &Task, count: usize) -> io::Result<Vec<PathBuf>> {
    let buffer = Buffer::new(SMALL);
    let paths: Vec<PathBuf> = (0..count).map(|number| task.path("file", number)).collect();
    for path in &paths {
        create_one(path, &buffer)?;
    }
    Ok(paths)
}

fn create(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let buffer = Buffer::new(SMALL);
    let paths: Vec<PathBuf> = (0..task.count)
        .map(|number| task.path("file", number))
        .collect();
    gate.pass()?;
    each(paths.len(), |number| create_one(&paths[number], &buffer))
}

/// Asks for fresh attributes, as the kernel does where it may not answer from its cache.
fn stat(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let paths = create_many(task, STAT_FILES)?;
    let look = |number: usize| -> io::Result<()> {
        let path = &paths[number % paths.len()];
        let attributes = rustix::fs::statx(
            CWD,
            path,
            AtFlags::STATX_FORCE_SYNC,
            StatxFlags::BASIC_STATS,
        )?;
        if attributes.stx_size != SMALL as u64 {
            return Err(io::Error::other("a size that is not the file's"));
        }
        Ok(())
    };
    (0..paths.len()).try_for_each(look)?;
    gate.pass()?;
    repeat(task.budget, BATCH, u64::MAX, |number| look(number as usize))
}

fn open_read(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let paths = create_many(task, OPEN_FILES)?;
    let mut buffer = Buffer::new(SMALL);
    let mut look = |number: usize| -> io::Result<()> {
        let mut file = File::open(&paths[number % paths.len()])?;
        file.read_exact(buffer.get_mut())?;
        black_box(buffer.get());
        Ok(())
    };
    (0..paths.len()).try_for_each(&mut look)?;
    gate.pass()?;
    repeat(task.budget, BATCH, u64::MAX, |number| look(number as usize))
}

fn rename(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let old = create_many(task, task.count)?;
    let new: Vec<PathBuf> = (0..task.count)
        .map(|number| task.path("renamed", number))
        .collect();
    gate.pass()?;
    each(old.len(), |number| fs::rename(&old[number], &new[number]))
}

fn unlink(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let paths = create_many(task, task.count)?;
    gate.pass()?;
    each(paths.len(), |number| fs::remove_file(&paths[number]))
}

fn mkdir(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let paths: Vec<PathBuf> = (0..task.count)
        .map(|number| task.path("dir", number))
        .collect();
    gate.pass()?;
    each(paths.len(), |number| fs::create_dir(&paths[number]))
}

fn rmdir(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    let paths: Vec<PathBuf> = (0..task.count)
        .map(|number| task.path("dir", number))
        .collect();
    paths.iter().try_for_each(fs::create_dir)?;
    gate.pass()?;
    each(paths.len(), |number| fs::remove_dir(&paths[number]))
}

/// Fills the directory for `readdir`.
fn fill(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    gate.pass()?;
    let mode = Mode::from_raw_mode(0o600);
    each(task.count, |number| {
        let path = task.path("entry", number);
        Ok(rustix::fs::mknodat(
            CWD,
            &path,
            FileType::RegularFile,
            mode,
            0,
        )?)
    })
}

/// Lists the directory from its beginning to its end; one operation is one entry.
fn readdir(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    gate.pass()?;
    let listings = repeat(task.budget, 1, u64::MAX, |_| {
        let mut entries = 0;
        for entry in fs::read_dir(&task.dir)? {
            entry?;
            entries += 1;
        }
        if entries != task.count {
            return Err(io::Error::other(format!(
                "{entries} entries instead of {}",
                task.count
            )));
        }
        Ok(())
    })?;
    let operations = listings.operations * task.count as u64;
    Ok(Measured {
        operations,
        ..listings
    })
}

/// Looks up and stats everything below the directory; one operation is one file.
fn walk(task: &Task, gate: &mut Gate) -> io::Result<Measured> {
    gate.pass()?;
    let start = Instant::now();
    let mut files = 0;
    let mut dirs = vec![task.dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let attributes = rustix::fs::statx(
                CWD,
                &path,
                AtFlags::SYMLINK_NOFOLLOW,
                StatxFlags::BASIC_STATS,
            )?;
            if FileType::from_raw_mode(attributes.stx_mode.into()) == FileType::Directory {
                dirs.push(path);
            } else {
                files += 1;
            }
        }
    }
    if files != task.count as u64 {
        return Err(io::Error::other(format!(
            "{files} files instead of {}",
            task.count
        )));
    }
    Ok(measured(files, start.elapsed()))
}
