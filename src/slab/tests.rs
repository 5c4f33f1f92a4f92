use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::shared_record;
use crate::sys::shm::test_memory;

shared_record! {
    struct Thing { state: AtomicU32, value: AtomicU32, pad: [AtomicU32; 14] }
}

impl Record for Thing {
    fn state(&self) -> &AtomicU32 {
        &self.state
    }

    fn wipe(&self) {
        self.value.store(0, Ordering::Relaxed);
        self.pad.iter().for_each(|w| w.store(0, Ordering::Relaxed));
    }
}

/// Fills three blocks and a little.
const MANY: usize = Mapping::<Thing>::PER_BLOCK * 3 + 7;

fn fill(slab: &Slab<Thing>, value: u32) -> Slot {
    let slot = slab.take().unwrap();
    let thing = slab.get(slot);
    assert_eq!(thing.state.load(Ordering::Relaxed), 0, "not yet live");
    assert_eq!(thing.value.load(Ordering::Relaxed), 0, "all zeros");
    thing.value.store(value, Ordering::Relaxed);
    thing.state.store(1, Ordering::Release);
    slot
}

fn all(slab: &Slab<Thing>) -> HashSet<(Slot, u32)> {
    let mut all = HashSet::new();
    slab.for_each(|slot, thing| {
        all.insert((slot, thing.value.load(Ordering::Relaxed)));
    });
    all
}

#[test]
fn slots_survive_their_way_through_records() {
    let slab = Slab::<Thing>::new(test_memory(), MANY).unwrap();
    for n in 0..MANY as u32 {
        let slot = fill(&slab, n + 1);
        assert_eq!(Slot::from_raw(slot.raw()), Some(slot));
    }
    assert_eq!(Slot::from_raw(0), None);
    assert_eq!(slab.live(), MANY);
}

#[test]
fn a_full_table_says_so() {
    let slab = Slab::<Thing>::new(test_memory(), 1).unwrap();
    for n in 0..Mapping::<Thing>::PER_BLOCK as u32 {
        fill(&slab, n);
    }
    assert!(slab.take().is_err());
}

#[test]
fn a_successor_finds_what_was_left() {
    let memory = test_memory();
    let slab = Slab::<Thing>::new(memory.try_clone().unwrap(), MANY).unwrap();
    let slots: Vec<Slot> = (1..=MANY as u32).map(|n| fill(&slab, n)).collect();
    for slot in slots.iter().step_by(3) {
        slab.give_back(*slot);
    }
    let before = all(&slab);
    drop(slab);
    let slab = Slab::<Thing>::new(memory, MANY).unwrap();
    assert_eq!(slab.live(), before.len());
    assert_eq!(all(&slab), before);
    // What it takes is none of what is there.
    let slot = fill(&slab, 77);
    assert!(before.iter().all(|(taken, _)| *taken != slot));
}

/// A server that dies between taking a record and publishing it, or between unpublishing and wiping it, leaves its
/// fields behind.
#[test]
fn what_a_dead_server_had_not_published_is_wiped() {
    let memory = test_memory();
    let slab = Slab::<Thing>::new(memory.try_clone().unwrap(), MANY).unwrap();
    let slot = slab.take().unwrap();
    slab.get(slot).value.store(5, Ordering::Relaxed);
    drop(slab);
    let slab = Slab::<Thing>::new(memory, MANY).unwrap();
    assert_eq!(slab.live(), 0);
    fill(&slab, 1);
}

#[test]
fn memory_of_empty_blocks_goes_back() {
    let memory = test_memory();
    let slab = Slab::<Thing>::new(memory.try_clone().unwrap(), MANY).unwrap();
    let slots: Vec<Slot> = (1..=MANY as u32).map(|n| fill(&slab, n)).collect();
    let blocks = || rustix::fs::fstat(&memory).unwrap().st_blocks;
    let full = blocks();
    for slot in slots {
        slab.give_back(slot);
    }
    assert!(blocks() <= full / 3, "{} of {full} are left", blocks());
    fill(&slab, 1);
}

#[test]
#[should_panic(expected = "given back once")]
fn a_slot_is_not_given_back_twice() {
    let slab = Slab::<Thing>::new(test_memory(), MANY).unwrap();
    let slot = fill(&slab, 1);
    slab.give_back(slot);
    slab.give_back(slot);
}

#[test]
fn slots_of_other_tables_are_refused() {
    let slab = Slab::<Thing>::new(test_memory(), MANY).unwrap();
    let slot = fill(&slab, 1);
    assert!(slab.checked(slot).is_some());
    for raw in [slot.raw() + (1 << 12), slot.raw() | 0xfff, u32::MAX] {
        let other = Slot::from_raw(raw).unwrap();
        assert!(slab.checked(other).is_none(), "{raw:x}");
    }
}

#[test]
fn threads_never_share_a_slot() {
    let slab = Slab::<Thing>::new(test_memory(), 1 << 16).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..=4u32 {
            let slab = &slab;
            scope.spawn(move || {
                let mut mine = Vec::new();
                for round in 0..2000u32 {
                    mine.push(fill(slab, thread));
                    if round % 3 == 0 {
                        let slot = mine.swap_remove(round as usize % mine.len());
                        assert_eq!(slab.get(slot).value.load(Ordering::Relaxed), thread);
                        slab.give_back(slot);
                    }
                }
                for slot in mine {
                    assert_eq!(slab.get(slot).value.load(Ordering::Relaxed), thread);
                    slab.give_back(slot);
                }
            });
        }
    });
    assert_eq!(slab.live(), 0);
    assert!(all(&slab).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn it_holds_what_a_set_holds(steps in prop::collection::vec((any::<bool>(), any::<u16>()), 1..3000)) {
        let slab = Slab::<Thing>::new(test_memory(), 1 << 16).unwrap();
        let mut set: Vec<(Slot, u32)> = Vec::new();
        for (n, (takes, at)) in steps.into_iter().enumerate() {
            if takes || set.is_empty() {
                let value = n as u32 + 1;
                set.push((fill(&slab, value), value));
            } else {
                let (slot, value) = set.swap_remove(usize::from(at) % set.len());
                prop_assert_eq!(slab.get(slot).value.load(Ordering::Relaxed), value);
                slab.give_back(slot);
            }
            prop_assert_eq!(slab.live(), set.len());
        }
        prop_assert_eq!(all(&slab), set.into_iter().collect::<HashSet<_>>());
    }
}
