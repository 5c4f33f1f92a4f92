//! How facts lie in a page of the file: fixed records, each with its own checksum.
//!
//! Nothing read from a page is believed before its checksum fits: pages can be torn by a power loss.

use crate::clock::Time;
use crate::creators::Creator;

/// The unit of reading and writing.
pub const PAGE_BYTES: usize = 4096;
/// Records in a page.
pub const SLOTS: usize = (PAGE_BYTES - HEAD_BYTES) / RECORD_BYTES;
/// How many pages after its home a record may lie in.
pub const MAX_REACH: u8 = 7;

const HEAD_BYTES: usize = 16;
const RECORD_BYTES: usize = 48;
const SUMMED_BYTES: usize = RECORD_BYTES - 4;

/// Who made which file. A number alone names many files over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub ino: u64,
    pub btime: Time,
    pub creator: Creator,
}

/// What a table was made with: scatters its records, and tells them from those of any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub u64);

impl Key {
    /// Neighbours share a home: backing stores hand out inode numbers in sequence, and a batch then touches few pages.
    const NEIGHBOURS_LOG2: u32 = 3;

    /// Where among all homes this inode's is, as a fraction of 2^64. Larger tables only look at more of its bits.
    pub fn place(self, ino: u64) -> u64 {
        mix((ino >> Self::NEIGHBOURS_LOG2) ^ self.0)
    }

    /// A checksum, not a signature.
    pub fn sum(self, bytes: &[u8]) -> u32 {
        let mut sum = self.0 ^ bytes.len() as u64;
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            sum = mix(sum ^ u64::from_le_bytes(word));
        }
        (sum >> 32) as u32
    }
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of `x`.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Record {
    fn encode(&self, key: Key) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0..8].copy_from_slice(&self.ino.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.btime.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.creator.uid.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.creator.gid.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.creator.pid.to_le_bytes());
        bytes[28..44].copy_from_slice(&self.creator.comm);
        let sum = key.sum(&bytes[..SUMMED_BYTES]);
        bytes[SUMMED_BYTES..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// None: free, or damaged.
    fn decode(bytes: &[u8], key: Key) -> Option<Record> {
        let ino = u64_at(bytes, 0);
        if ino == 0 || key.sum(&bytes[..SUMMED_BYTES]) != u32_at(bytes, SUMMED_BYTES) {
            return None;
        }
        let mut comm = [0; 16];
        comm.copy_from_slice(&bytes[28..44]);
        Some(Record {
            ino,
            btime: Time(u64_at(bytes, 8) as i64),
            creator: Creator {
                uid: u32_at(bytes, 16),
                gid: u32_at(bytes, 20),
                pid: u32_at(bytes, 24),
                comm,
            },
        })
    }
}

/// A page in memory.
pub struct Page(Box<[u8; PAGE_BYTES]>);

impl Page {
    pub fn zeroed() -> Self {
        Self(Box::new([0; PAGE_BYTES]))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0[..]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0[..]
    }

    /// How many pages on a record whose home is this page may be.
    pub fn reach(&self) -> u8 {
        // Damage costs facts at most, never a walk through the file.
        self.0[0].min(MAX_REACH)
    }

    /// True if this changed it.
    pub fn extend_reach(&mut self, reach: u8) -> bool {
        let longer = reach > self.reach();
        if longer {
            self.0[0] = reach;
        }
        longer
    }

    fn slot(&self, slot: usize) -> &[u8] {
        let at = HEAD_BYTES + slot * RECORD_BYTES;
        &self.0[at..at + RECORD_BYTES]
    }

    /// The record in a slot, if there is one to believe.
    pub fn record(&self, slot: usize, key: Key) -> Option<Record> {
        Record::decode(self.slot(slot), key)
    }

    /// Where this inode's record is.
    pub fn find(&self, ino: u64, key: Key) -> Option<(usize, Record)> {
        let ino = ino.to_le_bytes();
        let mut slots = self.0[HEAD_BYTES..].chunks_exact(RECORD_BYTES);
        let mut next = 0;
        loop {
            let slot = next + slots.position(|record| record[..8] == ino)?;
            next = slot + 1;
            if let Some(record) = self.record(slot, key) {
                return Some((slot, record));
            }
        }
    }

    /// A slot that nothing was written to, or whose record was cleared.
    pub fn free(&self) -> Option<usize> {
        self.0[HEAD_BYTES..]
            .chunks_exact(RECORD_BYTES)
            .position(|record| record[..8] == [0; 8])
    }

    pub fn set(&mut self, slot: usize, record: Option<&Record>, key: Key) {
        let bytes = record.map_or([0; RECORD_BYTES], |record| record.encode(key));
        let at = HEAD_BYTES + slot * RECORD_BYTES;
        self.0[at..at + RECORD_BYTES].copy_from_slice(&bytes);
    }
}
