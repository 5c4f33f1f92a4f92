//! The names of files that have several and can expire: the reaper has to find them all.
//!
//! A file's node remembers only where it was last reached. Names are noted as they are met or made, and leave as they
//! are removed; one that changed unseen is found out when it is looked for.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::inodes::Ino;

/// A directory and a name in it.
pub type Name = (Ino, Vec<u8>);

/// Names of one file that are noted; the rest are found when they are looked up.
const MAX_NAMES: usize = 1024;

/// The names.
#[derive(Debug, Default)]
pub struct Links {
    names: Mutex<HashMap<Ino, Vec<Name>>>,
}

impl Links {
    /// Notes a name of `ino`.
    pub fn note(&self, ino: Ino, dir: Ino, name: &[u8]) {
        let mut all = self.names.lock();
        let names = all.entry(ino).or_default();
        if names.len() < MAX_NAMES && !names.iter().any(|(d, n)| *d == dir && n == name) {
            names.push((dir, name.to_vec()));
        }
    }

    /// A name is gone.
    pub fn forget(&self, ino: Ino, dir: Ino, name: &[u8]) {
        let mut all = self.names.lock();
        if let Some(names) = all.get_mut(&ino) {
            names.retain(|(d, n)| *d != dir || n != name);
            if names.is_empty() {
                all.remove(&ino);
            }
        }
    }

    /// All names are gone.
    pub fn forget_all(&self, ino: Ino) {
        self.names.lock().remove(&ino);
    }

    /// Takes one name out.
    pub fn take(&self, ino: Ino) -> Option<Name> {
        let mut all = self.names.lock();
        let names = all.get_mut(&ino)?;
        let taken = names.pop();
        if names.is_empty() {
            all.remove(&ino);
        }
        taken
    }

    /// Of how many files names are noted.
    pub fn live(&self) -> usize {
        self.names.lock().len()
    }
}
