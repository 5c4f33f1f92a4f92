//! Memory that outlives the process that fills it: a memfd mapped at a fixed reservation, seen as records of atomics.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A record that may live in memory shared between processes.
///
/// # Safety
/// Every field is an atomic integer or an array of them, so that any bit pattern is a valid value and any thread of any
/// process may read or write it at any time; all-zero bytes mean "free".
pub unsafe trait SharedRecord: Sync + 'static {}

/// Declares a record of atomics that may live in shared memory. Only atomic field types compile.
#[macro_export]
macro_rules! shared_record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug)]
        #[repr(C)]
        $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty),* }
        const _: () = {
            const fn only_atomics<T: $crate::sys::shm::AtomicField>() {}
            $(only_atomics::<$ty>();)*
        };
        // SAFETY: the constant above compiles only if every field is atomic.
        #[allow(unsafe_code)]
        unsafe impl $crate::sys::shm::SharedRecord for $name {}
    };
}

/// Field types that a [`SharedRecord`] may have.
pub trait AtomicField {}
impl AtomicField for std::sync::atomic::AtomicU32 {}
impl AtomicField for std::sync::atomic::AtomicU64 {}
impl AtomicField for std::sync::atomic::AtomicI64 {}
impl<T: AtomicField, const N: usize> AtomicField for [T; N] {}

/// A memfd mapped shared, as an array of blocks of `BLOCK_BYTES` that hold whole records.
#[derive(Debug)]
pub struct Mapping<T> {
    base: NonNull<u8>,
    reserved_bytes: usize,
    /// Bytes of the file that exist: touching more would raise SIGBUS.
    len_bytes: AtomicUsize,
    file: OwnedFd,
    of: PhantomData<T>,
}

// SAFETY: the mapping is plain memory of atomics (`T: SharedRecord`); the pointer is only ever turned into `&T`.
unsafe impl<T: SharedRecord> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: SharedRecord> Sync for Mapping<T> {}

/// The unit of growth and of giving memory back.
pub const BLOCK_BYTES: usize = 64 * 1024;

impl<T: SharedRecord> Mapping<T> {
    /// Records in one block.
    pub const PER_BLOCK: usize = BLOCK_BYTES / size_of::<T>();

    /// Maps `file` with room to grow to `blocks` blocks. What the file already holds is there at once.
    pub fn new(file: OwnedFd, blocks: usize) -> io::Result<Self> {
        assert!(Self::PER_BLOCK > 0 && align_of::<T>() <= 4096);
        let len = rustix::fs::fstat(&file)?.st_size as usize;
        let reserved_bytes = blocks * BLOCK_BYTES;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else is there.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                reserved_bytes,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED | rustix::mm::MapFlags::NORESERVE,
                &file,
                0,
            )?
        };
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            reserved_bytes,
            len_bytes: AtomicUsize::new(len.min(reserved_bytes) / BLOCK_BYTES * BLOCK_BYTES),
            file,
            of: PhantomData,
        })
    }

    /// How many blocks exist.
    pub fn blocks(&self) -> usize {
        self.len_bytes.load(Ordering::Acquire) / BLOCK_BYTES
    }

    /// Adds a zeroed block. Callers serialise this. `OutOfMemory`: the reservation is used up.
    pub fn grow(&self) -> io::Result<usize> {
        let len = self.len_bytes.load(Ordering::Acquire);
        if len + BLOCK_BYTES > self.reserved_bytes {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        rustix::fs::ftruncate(&self.file, (len + BLOCK_BYTES) as u64)?;
        self.len_bytes.store(len + BLOCK_BYTES, Ordering::Release);
        Ok(len / BLOCK_BYTES)
    }

    /// Gives the memory of `block` back to the system; it reads as zeros from then on.
    pub fn punch(&self, block: usize) -> io::Result<()> {
        rustix::fs::fallocate(
            &self.file,
            rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
            (block * BLOCK_BYTES) as u64,
            BLOCK_BYTES as u64,
        )?;
        Ok(())
    }

    /// The record `slot` of `block`, if the block exists.
    #[inline]
    pub fn get(&self, block: usize, slot: usize) -> Option<&T> {
        if slot >= Self::PER_BLOCK
            || (block + 1) * BLOCK_BYTES > self.len_bytes.load(Ordering::Acquire)
        {
            return None;
        }
        // SAFETY: the bounds were just checked against what exists of the file; the offset is aligned because blocks
        // are page-aligned and records follow each other as in an array; any bytes are a valid `T`; the reference
        // cannot outlive the mapping because it borrows `self`.
        Some(unsafe {
            &*self
                .base
                .as_ptr()
                .add(block * BLOCK_BYTES + slot * size_of::<T>())
                .cast::<T>()
        })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; no reference into it can be left, they borrow `self`.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.reserved_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

impl<T> AsFd for Mapping<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        debug_assert!(self.file.as_raw_fd() >= 0);
        self.file.as_fd()
    }
}

/// Empty memory for a table, for tests.
#[cfg(test)]
pub fn test_memory() -> OwnedFd {
    rustix::fs::memfd_create("ttlfs-test", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd")
}
