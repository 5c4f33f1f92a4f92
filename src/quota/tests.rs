use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::sys::shm::test_memory;

fn quotas() -> Quotas {
    Quotas::new(test_memory(), 1 << 16).unwrap()
}

fn limits(bytes: u64, inodes: u64) -> SubtreeLimits {
    SubtreeLimits {
        bytes,
        inodes,
        errno: QuotaErrno::NoSpace,
        rule: 0,
    }
}

fn bytes(bytes: u64) -> Amount {
    Amount { bytes, inodes: 0 }
}

fn used(quotas: &Quotas, slot: Slot) -> (u64, u64) {
    let usage = quotas.usage(slot);
    (usage.used_bytes, usage.used_inodes)
}

#[test]
fn files_are_charged_in_whole_units() {
    let charges = [0, 1, 4095, 4096, 4097].map(charge_for);
    assert_eq!(charges, [0, 4096, 4096, 4096, 8192]);
    // As large as it gets.
    assert!(charge_for(u64::MAX) > u64::MAX - CHARGE_UNIT);
}

#[test]
fn a_charge_goes_back_unless_it_is_kept() {
    let quotas = quotas();
    let root = quotas.subtree(Ino(1), None, limits(10_000, 3)).unwrap();
    let one = Amount {
        bytes: 5000,
        inodes: 1,
    };
    drop(quotas.reserve(root, one).unwrap());
    assert_eq!(used(&quotas, root), (0, 0));
    quotas.reserve(root, one).unwrap().keep();
    assert_eq!(used(&quotas, root), (5000, 1));
    quotas.reserve(root, bytes(5000)).unwrap().keep_bytes(1000);
    assert_eq!(used(&quotas, root), (6000, 1));
    quotas.release(root, bytes(6000));
    assert_eq!(used(&quotas, root), (0, 1));
}

#[test]
fn all_or_nothing_up_to_the_root() {
    let quotas = quotas();
    let root = quotas.subtree(Ino(1), None, limits(100, 2)).unwrap();
    let errno = SubtreeLimits {
        errno: QuotaErrno::QuotaExceeded,
        ..limits(1000, 1)
    };
    let inner = quotas.subtree(Ino(2), Some(root), errno).unwrap();
    let over = quotas.reserve(inner, bytes(101)).map(Charge::keep);
    assert_eq!(over, Err(FsError::Full(QuotaErrno::NoSpace)), "the root's");
    assert_eq!(
        (used(&quotas, inner), used(&quotas, root)),
        ((0, 0), (0, 0))
    );
    let both = Amount {
        bytes: 50,
        inodes: 2,
    };
    let over = quotas.reserve(inner, both).map(Charge::keep);
    assert_eq!(over, Err(FsError::Full(QuotaErrno::QuotaExceeded)));
    assert_eq!(
        (used(&quotas, inner), used(&quotas, root)),
        ((0, 0), (0, 0))
    );
}

#[test]
fn what_fits_is_taken_in_whole_units() {
    let quotas = quotas();
    let root = quotas
        .subtree(Ino(1), None, limits(10 * CHARGE_UNIT + 100, 9))
        .unwrap();
    quotas.reserve(root, bytes(3 * CHARGE_UNIT)).unwrap().keep();
    let some = quotas.reserve_some(root, 20 * CHARGE_UNIT).unwrap();
    assert_eq!(some.bytes(), 7 * CHARGE_UNIT);
    some.keep();
    assert!(quotas.reserve_some(root, CHARGE_UNIT).is_err());
    assert_eq!(quotas.room(root), 100);
}

#[test]
fn a_move_within_a_subtree_does_not_ask_it() {
    let quotas = quotas();
    let root = quotas.subtree(Ino(1), None, limits(100, 1)).unwrap();
    let [a, b] = [2, 3].map(|ino| {
        quotas
            .subtree(Ino(ino), Some(root), limits(100, 1))
            .unwrap()
    });
    let all = Amount {
        bytes: 100,
        inodes: 1,
    };
    quotas.reserve(a, all).unwrap().keep();
    assert_eq!(quotas.common(a, b), Some(root));
    assert_eq!(quotas.common(a, root), Some(root));
    quotas.transfer(a, b, all).unwrap();
    assert_eq!(used(&quotas, a), (0, 0));
    assert_eq!(used(&quotas, b), (100, 1));
    assert_eq!(used(&quotas, root), (100, 1));
    quotas.transfer(b, root, all).unwrap();
    assert_eq!(used(&quotas, b), (0, 0));
    assert_eq!(used(&quotas, root), (100, 1));
}

#[test]
fn a_directory_that_is_gone_is_counted_until_it_is_empty() {
    let quotas = quotas();
    let root = quotas.subtree(Ino(1), None, limits(100, 9)).unwrap();
    let gone = quotas.subtree(Ino(2), Some(root), limits(100, 9)).unwrap();
    quotas.reserve(gone, bytes(60)).unwrap().keep();
    quotas.remove(Ino(2));
    assert_eq!(quotas.find(Ino(2)), None);
    assert_eq!(used(&quotas, root), (60, 0));
    quotas.release(gone, bytes(60));
    assert_eq!(used(&quotas, root), (0, 0));
    assert_eq!(quotas.all().len(), 1);
}

#[test]
fn a_successor_finds_the_books() {
    let memory = test_memory();
    let quotas = Quotas::new(memory.try_clone().unwrap(), 100).unwrap();
    let root = quotas.subtree(Ino(1), None, limits(100, 9)).unwrap();
    let inner = quotas.subtree(Ino(2), Some(root), limits(50, 9)).unwrap();
    quotas.reserve(inner, bytes(40)).unwrap().keep();
    drop(quotas);
    let quotas = Quotas::new(memory, 100).unwrap();
    assert_eq!(quotas.find(Ino(2)), Some(inner));
    assert_eq!(
        (used(&quotas, inner), used(&quotas, root)),
        ((40, 0), (40, 0))
    );
    assert!(quotas.reserve(inner, bytes(11)).is_err());
}

/// A tree of subtrees: for each, which of those before it is around it, and its limits in units.
fn tree() -> impl Strategy<Value = Vec<(usize, u64, u64)>> {
    prop::collection::vec((0..8usize, 1..40u64, 1..20u64), 1..8)
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize, u64, u64),
    TakeSome(usize, u64),
    Give(usize),
    Move(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..8usize;
    prop_oneof![
        (at.clone(), 0..10u64, 0..3u64).prop_map(|(at, b, i)| Step::Take(at, b, i)),
        (at.clone(), 1..30u64).prop_map(|(at, b)| Step::TakeSome(at, b)),
        (0..100usize).prop_map(Step::Give),
        (0..100usize, at).prop_map(|(n, to)| Step::Move(n, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_books_are_the_sum_of_what_was_taken(tree in tree(), steps in prop::collection::vec(step(), 1..100)) {
        let quotas = quotas();
        let mut slots: Vec<Slot> = Vec::new();
        let mut above: Vec<Vec<usize>> = Vec::new();
        for (n, (parent, max_bytes, max_inodes)) in tree.iter().enumerate() {
            let parent = (n > 0).then(|| parent % n);
            let slot = quotas
                .subtree(Ino(n as u64 + 1), parent.map(|p| slots[p]), limits(max_bytes * CHARGE_UNIT, *max_inodes))
                .unwrap();
            slots.push(slot);
            let mut levels = parent.map_or(Vec::new(), |p| above[p].clone());
            levels.push(n);
            above.push(levels);
        }
        let at = |n: usize| n % slots.len();
        let mut taken: Vec<(usize, Amount)> = Vec::new();
        for step in steps {
            match step {
                Step::Take(n, bytes, inodes) => {
                    let amount = Amount { bytes: bytes * CHARGE_UNIT, inodes };
                    if let Ok(charge) = quotas.reserve(slots[at(n)], amount) {
                        charge.keep();
                        taken.push((at(n), amount));
                    }
                }
                Step::TakeSome(n, want) => {
                    let room = quotas.room(slots[at(n)]) / CHARGE_UNIT * CHARGE_UNIT;
                    match quotas.reserve_some(slots[at(n)], want * CHARGE_UNIT) {
                        Ok(charge) => {
                            prop_assert_eq!(charge.bytes(), (want * CHARGE_UNIT).min(room));
                            taken.push((at(n), bytes(charge.bytes())));
                            charge.keep();
                        }
                        Err(_) => prop_assert_eq!(room, 0),
                    }
                }
                Step::Give(n) => {
                    if !taken.is_empty() {
                        let (from, amount) = taken.swap_remove(n % taken.len());
                        quotas.release(slots[from], amount);
                    }
                }
                Step::Move(n, to) => {
                    if !taken.is_empty() {
                        let n = n % taken.len();
                        let (from, amount) = taken[n];
                        if quotas.transfer(slots[from], slots[at(to)], amount).is_ok() {
                            taken[n].0 = at(to);
                        }
                    }
                }
            }
            for (n, slot) in slots.iter().enumerate() {
                let mut sum = Amount::default();
                for (_, amount) in taken.iter().filter(|(at, _)| above[*at].contains(&n)) {
                    sum.bytes += amount.bytes;
                    sum.inodes += amount.inodes;
                }
                prop_assert_eq!(used(&quotas, *slot), (sum.bytes, sum.inodes));
                prop_assert!(sum.bytes <= tree[n].1 * CHARGE_UNIT && sum.inodes <= tree[n].2);
            }
        }
    }
}

/// Threads take, give and move in a small tree; at no moment is a limit exceeded, and in the end all is given back.
#[test]
fn threads_never_exceed_a_limit() {
    let quotas = quotas();
    let root = quotas
        .subtree(Ino(1), None, limits(50 * CHARGE_UNIT, 20))
        .unwrap();
    let inner = |ino, parent| {
        quotas
            .subtree(Ino(ino), Some(parent), limits(20 * CHARGE_UNIT, 10))
            .unwrap()
    };
    let a = inner(2, root);
    let slots = [root, a, inner(3, root), inner(4, a)];
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3u64)
            .map(|thread| {
                let quotas = &quotas;
                scope.spawn(move || {
                    let mut taken: Vec<(Slot, Amount)> = Vec::new();
                    for n in 0..20_000u64 {
                        let draw = n.wrapping_mul(2_654_435_761).wrapping_add(thread * 97) >> 4;
                        let slot = slots[(draw % 4) as usize];
                        match draw / 4 % 5 {
                            0 => {
                                let amount = Amount {
                                    bytes: draw / 20 % 9 * CHARGE_UNIT,
                                    inodes: draw / 180 % 3,
                                };
                                if let Ok(charge) = quotas.reserve(slot, amount) {
                                    charge.keep();
                                    taken.push((slot, amount));
                                }
                            }
                            1 => {
                                let want = (1 + draw / 20 % 30) * CHARGE_UNIT;
                                if let Ok(charge) = quotas.reserve_some(slot, want) {
                                    let kept = charge.bytes() / CHARGE_UNIT / 2 * CHARGE_UNIT;
                                    charge.keep_bytes(kept);
                                    taken.push((slot, bytes(kept)));
                                }
                            }
                            2 => {
                                if let Some((from, amount)) = taken.last_mut()
                                    && quotas.transfer(*from, slot, *amount).is_ok()
                                {
                                    *from = slot;
                                }
                            }
                            _ => {
                                if let Some((from, amount)) = taken.pop() {
                                    quotas.release(from, amount);
                                }
                            }
                        }
                    }
                    for (from, amount) in taken {
                        quotas.release(from, amount);
                    }
                })
            })
            .collect();
        let (quotas, over) = (&quotas, &over);
        let watcher = scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for (_, usage) in quotas.all() {
                    assert!(usage.used_bytes <= usage.limit_bytes, "{usage:?}");
                    assert!(usage.used_inodes <= usage.limit_inodes, "{usage:?}");
                }
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
    });
    for slot in slots {
        assert_eq!(used(&quotas, slot), (0, 0));
    }
}
