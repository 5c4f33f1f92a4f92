//! Where a rule holds: its path (`*` and `**`) and, for some, the names it is for.
//!
//! Paths name directories. What a path means is written down here in its plainest form; `policy` compiles it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::units::{Quoted, Wrong, serde_as_text};

/// Bounds what one rule can cost.
const MOST_COMPONENTS: usize = 64;
const MOST_PATH_BYTES: usize = 4096;
const MOST_NAME_BYTES: usize = 255;
const MOST_GLOBS: usize = 64;

/// The name in the mount's root that private state has for itself.
pub const PRIVATE_NAME: &str = ".ttlfs";

/// One step of a rule's path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    Literal(Vec<u8>),
    /// `*`: any one name.
    Any,
    /// A name with `*` in it: the pieces between the stars.
    Stars(Vec<Vec<u8>>),
    /// `**`: any number of directories; at the end of a path at least one.
    Deep,
}

impl Step {
    fn new(text: &str) -> Step {
        match text {
            "**" => Step::Deep,
            "*" => Step::Any,
            _ if text.contains('*') => Step::Stars(
                text.split('*')
                    .map(|piece| piece.as_bytes().to_vec())
                    .collect(),
            ),
            _ => Step::Literal(text.as_bytes().to_vec()),
        }
    }

    /// Does this step alone match the name?
    pub fn matches(&self, name: &[u8]) -> bool {
        match self {
            Step::Literal(literal) => literal == name,
            Step::Stars(pieces) => stars_match(pieces, name),
            Step::Any | Step::Deep => true,
        }
    }
}

fn stars_match(pieces: &[Vec<u8>], name: &[u8]) -> bool {
    let [first, middle @ .., last] = pieces else {
        return false;
    };
    let Some(mut rest) = name.strip_prefix(first.as_slice()) else {
        return false;
    };
    // Taking the leftmost fit for each piece leaves the most for the pieces after it.
    for piece in middle.iter().filter(|piece| !piece.is_empty()) {
        let Some(at) = rest
            .windows(piece.len())
            .position(|window| window == piece.as_slice())
        else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// A path from the mount's root, in its one canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RulePath {
    text: String,
    steps: Vec<Step>,
}

impl RulePath {
    pub fn root() -> RulePath {
        RulePath {
            text: "/".to_owned(),
            steps: Vec::new(),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// The names on the way to the one directory that this path can mean, if there is only one.
    pub fn literal(&self) -> Option<Vec<&[u8]>> {
        self.steps
            .iter()
            .map(|step| match step {
                Step::Literal(name) => Some(name.as_slice()),
                Step::Any | Step::Stars(_) | Step::Deep => None,
            })
            .collect()
    }

    /// Does the path mean exactly this directory?
    pub fn matches(&self, names: &[&[u8]]) -> bool {
        self.deepest(names) == Some(names.len())
    }

    /// How deep the deepest directory lies, on the way along `names`, that the path means.
    pub fn deepest(&self, names: &[&[u8]]) -> Option<usize> {
        let end = self.steps.len();
        // All the ways at once: backtracking could take time exponential in the number of `**`.
        let mut reached = vec![false; end + 1];
        reached[0] = true;
        self.skip_deep(&mut reached);
        let mut deepest = reached[end].then_some(0);
        for (depth, name) in (1..).zip(names) {
            let mut next = vec![false; end + 1];
            for (at, step) in self.steps.iter().enumerate().filter(|&(at, _)| reached[at]) {
                if *step == Step::Deep {
                    next[at] = true;
                    next[end] |= at + 1 == end;
                } else {
                    next[at + 1] |= step.matches(name);
                }
            }
            self.skip_deep(&mut next);
            if !next.contains(&true) {
                break;
            }
            if next[end] {
                deepest = Some(depth);
            }
            reached = next;
        }
        deepest
    }

    /// `**` can stand for nothing, but not at the end.
    fn skip_deep(&self, reached: &mut [bool]) {
        for (at, step) in self.steps.iter().enumerate() {
            reached[at + 1] |= reached[at] && *step == Step::Deep && at + 1 < self.steps.len();
        }
    }

    /// A directory that this path means and that no other path means by chance: it stands for all of them.
    pub(crate) fn example(&self) -> Vec<Vec<u8>> {
        let last = self.steps.len().saturating_sub(1);
        let mut names = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Literal(name) => names.push(name.clone()),
                Step::Stars(pieces) => names.push(pieces.join(&b"\x01"[..])),
                Step::Any => names.push(b"\x01".to_vec()),
                Step::Deep if at == last => names.push(b"\x01".to_vec()),
                Step::Deep => {}
            }
        }
        names
    }
}

impl FromStr for RulePath {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<RulePath, Wrong> {
        let wrong = |what: &str| Err(Wrong(format!("the path {} {what}", Quoted(text))));
        let Some(relative) = text.strip_prefix('/') else {
            return wrong("doesn't begin with /");
        };
        if text.len() > MOST_PATH_BYTES {
            return wrong("is too long");
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in relative.split('/').filter(|part| !part.is_empty()) {
            match part {
                "." | ".." => return wrong("has a `.` or `..` in it"),
                "**" if parts.last() == Some(&"**") => continue,
                "**" => {}
                _ if part.contains("**") => {
                    return wrong("has a `**` that isn't alone between slashes");
                }
                _ if part.contains('\0') => return wrong("has a NUL in it"),
                _ if part.len() > MOST_NAME_BYTES => {
                    return wrong("has a name of more than 255 bytes");
                }
                _ => {}
            }
            parts.push(part);
        }
        if parts.len() > MOST_COMPONENTS {
            return wrong("has more than 64 names");
        }
        if parts.first() == Some(&PRIVATE_NAME) {
            return wrong("is reserved for ttlfs's private state");
        }
        Ok(RulePath {
            text: format!("/{}", parts.join("/")),
            steps: parts.into_iter().map(Step::new).collect(),
        })
    }
}

impl RulePath {
    pub(crate) const ALLOWED: &'static str =
        "a path from the mount's root such as /processing, /jobs/*/scratch or /**/cache";
}

impl fmt::Display for RulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The names that a rule is for; none given means all of them.
#[derive(Debug, Clone, Default)]
pub struct Globs {
    typed: Vec<String>,
    set: GlobSet,
}

impl PartialEq for Globs {
    fn eq(&self, other: &Globs) -> bool {
        self.typed == other.typed
    }
}

impl Eq for Globs {}

impl Globs {
    pub(crate) const ALLOWED: &'static str = "globs for names such as [\"*.log\", \"core.[0-9]*\"]";

    /// Sorted, each once: the same names make the same rule, in whatever order they are written.
    pub fn new(typed: impl IntoIterator<Item = String>) -> Result<Globs, Wrong> {
        let mut typed: Vec<String> = typed.into_iter().collect();
        typed.sort_unstable();
        typed.dedup();
        if typed.len() > MOST_GLOBS {
            return Err(Wrong(format!(
                "{} globs are more than {MOST_GLOBS}",
                typed.len()
            )));
        }
        let mut set = GlobSetBuilder::new();
        for text in &typed {
            if text.is_empty() || text.contains(['/', '\0']) || text.len() > MOST_NAME_BYTES {
                return Err(Wrong(format!("{} can't match a name", Quoted(text))));
            }
            let glob = GlobBuilder::new(text)
                .literal_separator(true)
                .backslash_escape(true)
                .build();
            set.add(glob.map_err(|error| {
                Wrong(format!("{} is not a glob: {}", Quoted(text), error.kind()))
            })?);
        }
        let set = set
            .build()
            .map_err(|error| Wrong(format!("the globs can't be compiled: {}", error.kind())))?;
        Ok(Globs { typed, set })
    }

    pub fn is_empty(&self) -> bool {
        self.typed.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.typed.iter().map(String::as_str)
    }

    pub fn matches(&self, name: &[u8]) -> bool {
        self.set.is_match(Path::new(OsStr::from_bytes(name)))
    }
}

impl serde::Serialize for Globs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.typed.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Globs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Globs, D::Error> {
        Globs::new(Vec::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

serde_as_text!(RulePath);

#[cfg(test)]
mod tests;
