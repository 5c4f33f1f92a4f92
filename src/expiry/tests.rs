use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{Config, Privilege};
use crate::inodes::{INODE_FDS, Ino, Kind, NewNode};
use crate::policy::Policy;
use crate::sys::shm::test_memory;

fn inodes() -> Inodes {
    Inodes::new((0..INODE_FDS).map(|_| test_memory()).collect(), 1 << 16).unwrap()
}

fn add(inodes: &Inodes, ino: u64) -> Pin<'_> {
    let new = NewNode {
        ino: Ino(ino),
        kind: Kind::File,
        btime: Time(0),
        fid: None,
        subtree: 0,
        policy: 0,
        aux: 0,
        charge: 0,
    };
    inodes.insert(&new).unwrap().0
}

#[test]
fn what_is_queued_is_kept() {
    let (inodes, queue) = (inodes(), Queue::default());
    queue.schedule(&inodes, &add(&inodes, 5), Time(1000));
    assert_eq!(inodes.live(), 1);
    assert_eq!(queue.next().map(|at| at <= Time(1000)), Some(true));
    let taken = queue.take_due(&inodes, Time(1000), 10);
    assert_eq!(
        taken.iter().map(|node| node.ino()).collect::<Vec<_>>(),
        [Ino(5)]
    );
    drop(taken);
    assert_eq!((inodes.live(), queue.next()), (0, None));
}

#[test]
fn never_is_not_queued() {
    let (inodes, queue) = (inodes(), Queue::default());
    let node = add(&inodes, 5);
    queue.schedule(&inodes, &node, Time(1000));
    queue.schedule(&inodes, &node, Time::NEVER);
    assert_eq!(node.deadline_hint(), Time::NEVER);
    drop(node);
    assert_eq!(inodes.live(), 0);
    assert!(queue.take_due(&inodes, Time(i64::MAX - 1), 10).is_empty());
}

#[test]
fn a_void_entry_of_a_slot_does_not_touch_the_next_node_in_it() {
    let (inodes, queue) = (inodes(), Queue::default());
    // Everything near goes to the heap, where entries become void.
    assert!(queue.take_due(&inodes, Time(1 << 40), 1).is_empty());
    let node = add(&inodes, 5);
    let slot = node.slot();
    queue.schedule(&inodes, &node, Time(100));
    queue.remove(&inodes, &node);
    drop(node);
    let next = add(&inodes, 6);
    assert_eq!(next.slot(), slot);
    assert!(queue.take_due(&inodes, Time(1 << 40), 10).is_empty());
    queue.schedule(&inodes, &next, Time(200));
    assert!(queue.take_due(&inodes, Time(150), 10).is_empty());
    assert_eq!(queue.take_due(&inodes, Time(200), 10).len(), 1);
}

#[test]
fn deadlines_never_wrap() {
    let config = Config::from_options(&[], Privilege::Root).unwrap();
    let policy = Policy::compile(&config, 0).unwrap();
    let settings = Settings {
        ttl: Some(Duration::from_secs(u64::MAX)),
        ..policy.dir_settings(policy.root()).clone()
    };
    let late = Time(i64::MAX - 5);
    let moments = Moments {
        created: late,
        modified: late,
        accessed: late,
    };
    assert_eq!(deadline(&settings, moments), Time::NEVER);
}

/// What the queue should be.
#[derive(Default)]
struct Model {
    set: BTreeSet<(Time, Ino)>,
    at: HashMap<Ino, Time>,
}

impl Model {
    fn put(&mut self, ino: Ino, at: Time) {
        self.remove(ino);
        self.set.insert((at, ino));
        self.at.insert(ino, at);
    }

    fn remove(&mut self, ino: Ino) -> bool {
        self.at
            .remove(&ino)
            .is_some_and(|at| self.set.remove(&(at, ino)))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Schedule(u64, i64),
    Remove(u64),
    Take(i64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Within a bucket, some buckets apart, and far away.
    let at = prop_oneof![0..1000i64, 0..(20i64 << BUCKET_SHIFT), 0..(1i64 << 50),];
    prop_oneof![
        6 => (0..30u64, at.clone()).prop_map(|(ino, at)| Step::Schedule(ino, at)),
        2 => (0..30u64).prop_map(Step::Remove),
        2 => (at, 1..10usize).prop_map(|(now, max)| Step::Take(now, max)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn it_gives_what_an_ordered_set_gives(steps in prop::collection::vec(step(), 1..200)) {
        let (inodes, queue) = (inodes(), Queue::default());
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Schedule(ino, at) => {
                    let at = Time(at + 1);
                    let node = add(&inodes, ino + 1);
                    queue.schedule(&inodes, &node, at);
                    model.put(node.ino(), at);
                }
                Step::Remove(ino) => {
                    if let Some(node) = inodes.pin(Ino(ino + 1)) {
                        queue.remove(&inodes, &node);
                    }
                    model.remove(Ino(ino + 1));
                }
                Step::Take(now, max) => {
                    let taken: Vec<Time> = queue
                        .take_due(&inodes, Time(now), max)
                        .iter()
                        .map(|node| {
                            assert!(model.remove(node.ino()), "it is in the set");
                            node.deadline_hint()
                        })
                        .collect();
                    prop_assert!(taken.is_sorted());
                    prop_assert!(taken.iter().all(|at| at.0 <= now));
                    if taken.len() < max {
                        prop_assert!(model.set.first().is_none_or(|(at, _)| at.0 > now));
                    }
                    if let (Some(last), Some((first, _))) = (taken.last(), model.set.first()) {
                        prop_assert!(last <= first);
                    }
                }
            }
            prop_assert_eq!(inodes.live(), model.set.len());
            let first = model.set.first().map(|(at, _)| *at);
            let next = queue.next();
            prop_assert!(next.is_some() || first.is_none());
            if let (Some(next), Some(first)) = (next, first) {
                prop_assert!(next <= first, "it is never late");
            }
        }
        let left = queue.take_due(&inodes, Time(i64::MAX - 1), usize::MAX).len();
        prop_assert_eq!(left, model.set.len());
        prop_assert_eq!(inodes.live(), 0);
    }
}

/// Threads schedule and remove while one takes: each node is taken as often as it was in the queue, and none is left.
#[test]
fn threads_leave_nothing_behind() {
    let (inodes, queue) = (inodes(), Queue::default());
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (inodes, queue) = (&inodes, &queue);
            scope.spawn(move || {
                for n in 0..20_000u64 {
                    let node = add(inodes, 1 + (n * 7 + thread) % 40);
                    if n % 5 == 0 {
                        queue.remove(inodes, &node);
                    } else {
                        let at = ((n * 31) % 400) as i64;
                        queue.schedule(inodes, &node, Time((at << (BUCKET_SHIFT - 4)) + 1));
                    }
                }
            });
        }
        let (inodes, queue) = (&inodes, &queue);
        scope.spawn(move || {
            for now in 0..3000i64 {
                let now = Time((now % 500) << (BUCKET_SHIFT - 4));
                let taken = queue.take_due(inodes, now, 8);
                assert!(taken.len() <= 8);
            }
        });
    });
    queue.take_due(&inodes, Time(i64::MAX - 1), usize::MAX);
    assert_eq!((inodes.live(), queue.next()), (0, None));
}
