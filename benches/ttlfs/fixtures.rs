//! What the programs work on, generated once per run and always the same: an archive, a repository, sources.

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Outcome};
use crate::store::doing;
use crate::workers::Random;

const LIMIT: Duration = Duration::from_secs(300);
const FILES_PER_DIR: usize = 40;
const WORDS: &[&str] = &[
    "return", "static", "struct", "buffer", "length", "offset", "index", "value", "result",
    "error", "if", "else", "while", "for", "const", "uint64_t", "char", "handle", "request",
    "reply", "(", ")", "{", "}", ";", "=", "+",
];

/// How much of everything.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub archive_files: usize,
    pub repository_files: usize,
    pub sources: usize,
    pub sort_bytes: u64,
}

pub struct Fixtures {
    dir: PathBuf,
    log: PathBuf,
    pub sizes: Sizes,
    archive: OnceCell<PathBuf>,
    repository: OnceCell<PathBuf>,
    sources: OnceCell<Vec<PathBuf>>,
    lines: OnceCell<PathBuf>,
}

impl Fixtures {
    pub fn new(dir: PathBuf, log: PathBuf, sizes: Sizes) -> Fixtures {
        Fixtures {
            dir,
            log,
            sizes,
            archive: OnceCell::new(),
            repository: OnceCell::new(),
            sources: OnceCell::new(),
            lines: OnceCell::new(),
        }
    }

    /// Where a program may leave what isn't measured.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A tar archive of a tree.
    pub fn archive(&self) -> Outcome<&Path> {
        made_once(&self.archive, || {
            let tree = self.dir.join("tree");
            let archive = self.dir.join("tree.tar");
            write_tree(&tree, self.sizes.archive_files, 1).map_err(doing("tree"))?;
            self.run(
                Command::new("tar")
                    .arg("-C")
                    .arg(&self.dir)
                    .arg("-cf")
                    .arg(&archive)
                    .arg("tree"),
            )?;
            fs::remove_dir_all(&tree).map_err(doing("tree"))?;
            Ok(archive)
        })
        .map(PathBuf::as_path)
    }

    /// A git repository, packed.
    pub fn repository(&self) -> Outcome<&Path> {
        made_once(&self.repository, || {
            let tree = self.dir.join("repository");
            write_tree(&tree, self.sizes.repository_files, 2).map_err(doing("repository"))?;
            for arguments in [
                ["init", "-q"].as_slice(),
                &["add", "--all"],
                &["commit", "-q", "-m", "Everything"],
                &["repack", "-a", "-d", "-q"],
            ] {
                self.run(git().arg("-C").arg(&tree).args(arguments))?;
            }
            Ok(tree)
        })
        .map(PathBuf::as_path)
    }

    /// C sources that each take a compiler about a tenth of a second.
    pub fn sources(&self) -> Outcome<&[PathBuf]> {
        made_once(&self.sources, || {
            let dir = self.dir.join("sources");
            fs::create_dir(&dir).map_err(doing("sources"))?;
            (0..self.sizes.sources)
                .map(|number| {
                    let path = dir.join(format!("unit{number:03}.c"));
                    fs::write(&path, c_source(number)).map_err(doing("sources"))?;
                    Ok(path)
                })
                .collect()
        })
        .map(Vec::as_slice)
    }

    /// Unsorted lines.
    pub fn lines(&self) -> Outcome<&Path> {
        made_once(&self.lines, || {
            let path = self.dir.join("lines");
            write_lines(&path, self.sizes.sort_bytes).map_err(doing("lines"))?;
            Ok(path)
        })
        .map(PathBuf::as_path)
    }

    fn run(&self, command: &mut Command) -> Outcome<()> {
        process::run(command, &self.log, LIMIT).map(drop)
    }
}

fn made_once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Outcome<T>) -> Outcome<&T> {
    if cell.get().is_none() {
        let _ = cell.set(make()?);
    }
    Ok(cell.get().expect("set just before"))
}

/// Git, untouched by anybody's configuration.
pub fn git() -> Command {
    let mut git = Command::new("git");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "bench")
            .env(format!("GIT_{role}_EMAIL"), "bench@localhost")
            .env(format!("GIT_{role}_DATE"), "2026-01-01T00:00:00Z");
    }
    git.env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE");
    git
}

/// Small files of a few KiB, as in a source tree.
fn write_tree(root: &Path, files: usize, seed: u64) -> std::io::Result<()> {
    let mut random = Random::new(seed);
    let mut text = String::new();
    for number in 0..files {
        let directory = number / FILES_PER_DIR;
        let dir = root.join(format!("part{:02}/module{directory:04}", directory % 20));
        if number % FILES_PER_DIR == 0 {
            fs::create_dir_all(&dir)?;
        }
        text.clear();
        let length = 200 + random.below(3800) + random.below(4000);
        while (text.len() as u64) < length {
            let word = WORDS[random.below(WORDS.len() as u64) as usize];
            let end = if random.below(9) == 0 { '\n' } else { ' ' };
            let _ = write!(text, "{word}{:x}{end}", random.below(4096));
        }
        fs::write(dir.join(format!("file{number:05}.c")), &text)?;
    }
    Ok(())
}

fn write_lines(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut random = Random::new(3);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut written = 0;
    while written < bytes {
        let line = format!(
            "{:016x} {:016x} {:08x}\n",
            random.next(),
            random.next(),
            random.below(1 << 32)
        );
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    file.flush()
}

fn c_source(number: usize) -> String {
    let mut text = String::from(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n",
    );
    let _ = writeln!(text, "#include <sys/stat.h>\n#include <unistd.h>\n");
    for function in 0..16 {
        let salt = number * 1000 + function;
        let _ = writeln!(
            text,
            "int work_{salt}(const char *text, size_t length, int *out) {{\n\
             \x20   int sum = {salt};\n\
             \x20   for (size_t i = 0; i < length; i++) {{\n\
             \x20       if (text[i] == '{}') sum += (int)i * {};\n\
             \x20       else if (out && i % {} == 0) out[i] = sum ^ (int)strlen(text);\n\
             \x20       else sum = sum * 31 + text[i];\n\
             \x20   }}\n\
             \x20   printf(\"%d of %zu\\n\", sum, length);\n\
             \x20   return sum;\n}}\n",
            char::from(b'a' + (salt % 26) as u8),
            salt % 97 + 1,
            salt % 13 + 2,
        );
    }
    text
}
