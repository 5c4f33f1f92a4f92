//! Random operations against a map.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;

/// Files as a backing store makes them: a number is used again only after its file is gone.
#[derive(Default)]
struct Model {
    files: HashMap<u64, (Time, Creator)>,
    gone: Vec<(u64, Time)>,
    now: i64,
}

impl Model {
    fn create(&mut self, creators: &Creators, ino: u64, seed: u64) {
        self.forget(creators, ino);
        // Some files of one number are born in the same tick.
        self.now += (seed % 3) as i64;
        let file = (Time(self.now), creator(seed));
        self.gone
            .retain(|(gone, btime)| *gone != ino || *btime != file.0);
        creators.add(ino, file.0, file.1);
        self.files.insert(ino, file);
    }

    fn forget(&mut self, creators: &Creators, ino: u64) {
        if let Some((btime, _)) = self.files.remove(&ino) {
            creators.forget(ino, btime);
            if self.gone.len() < 500 {
                self.gone.push((ino, btime));
            }
        }
    }

    fn check_one(&self, creators: &Creators, ino: u64) {
        if let Some((btime, creator)) = self.files.get(&ino) {
            assert_eq!(creators.get(ino, *btime), Some(*creator), "of {ino}");
            assert_eq!(creators.get(ino, Time(btime.0 + 1)), None);
        }
    }

    fn check(&self, creators: &Creators) {
        for ino in self.files.keys() {
            self.check_one(creators, *ino);
        }
        for (ino, btime) in &self.gone {
            assert_eq!(creators.get(*ino, *btime), None, "of {ino}, gone");
        }
        assert_eq!(creators.lost(), 0);
    }
}

fn random_operations(seed: u64, numbers: u64, spread: impl Fn(u64) -> u64) {
    let dir = Scratch::new();
    let mut creators = dir.open();
    let mut model = Model::default();
    let mut random = Random(seed);
    let mut largest = 0;
    for step in 0..60_000u64 {
        let ino = spread(random.below(numbers));
        // First more is made than removed, at last only removed.
        let kind = random.below(if step < 40_000 { 100 } else { 40 });
        match kind {
            0..30 => model.forget(&creators, ino),
            30..40 => model.check_one(&creators, ino),
            _ => model.create(&creators, ino, step + 1),
        }
        match random.below(3000) {
            0..20 => creators.flush().unwrap(),
            20..30 => creators.resize(),
            30 => {
                // With a resize under way as it may be.
                creators.flush().unwrap();
                drop(creators);
                creators = dir.open();
            }
            31 => model.check(&creators),
            _ => {}
        }
        if step % 5000 == 0 {
            creators.flush().unwrap();
            creators.resize_whole();
            largest = largest.max(creators.homes_log2());
        }
    }
    assert!(largest > table::MIN_HOMES_LOG2, "it grew");
    model.check(&creators);
    for ino in (0..numbers).map(spread) {
        model.forget(&creators, ino);
    }
    creators.flush().unwrap();
    assert_eq!(creators.with_store(|store| store.all_live()), 0);
    creators.resize_whole();
    creators.flush().unwrap();
    assert_eq!(creators.homes_log2(), table::MIN_HOMES_LOG2);
}

#[test]
fn agrees_with_a_map_for_numbers_in_sequence() {
    random_operations(1, 24_000, |n| 128 + n);
}

#[test]
fn agrees_with_a_map_for_scattered_numbers() {
    random_operations(2, 24_000, |n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
}

#[test]
fn a_resize_survives_being_interrupted() {
    let dir = Scratch::new();
    let creators = dir.open();
    let made = 20_000;
    for ino in 1..=made {
        creators.add_simple(ino);
    }
    creators.flush().unwrap();
    creators.resize_whole();
    let homes_log2 = creators.homes_log2();
    creators.with_store(|store| store.begin(homes_log2 + 1));
    creators.with_store(Store::step);
    for ino in 1..=8 {
        creators.forget(ino, Time(ino as i64));
        creators.add_simple(made + ino);
    }
    creators.flush().unwrap();
    assert!(creators.is_resizing());
    drop(creators);
    let creators = dir.open();
    assert!(creators.is_resizing());
    creators.resize_whole();
    assert!(!dir.file("creators.new").exists());
    assert_eq!(creators.homes_log2(), homes_log2 + 1);
    for ino in 1..=made + 8 {
        assert_eq!(creators.knows(ino), ino > 8, "of {ino}");
    }
}

#[test]
fn what_came_and_went_is_never_written() {
    let dir = Scratch::new();
    let creators = dir.open();
    for ino in 1..1000 {
        creators.add_simple(ino);
        creators.forget(ino, Time(ino as i64));
    }
    creators.flush().unwrap();
    drop(creators);
    let bytes = fs::read(dir.file("creators")).unwrap();
    assert!(bytes[4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn late_news_of_an_older_file_spare_the_newer() {
    let dir = Scratch::new();
    let creators = dir.open();
    creators.add(5, Time(1), creator(1));
    creators.flush().unwrap();
    for flush in [false, true] {
        creators.add(5, Time(2), creator(2));
        if flush {
            creators.flush().unwrap();
        }
        creators.forget(5, Time(1));
        assert_eq!(creators.get(5, Time(2)), Some(creator(2)));
        creators.flush().unwrap();
        assert_eq!(creators.get(5, Time(2)), Some(creator(2)));
        assert_eq!(creators.get(5, Time(1)), None);
    }
}

#[test]
fn a_full_queue_loses_the_oldest() {
    let creators = Creators::in_memory();
    let room = (SHARDS * pending::SHARD_FACTS) as u64;
    for ino in 1..=room * 2 {
        creators.add_simple(ino);
    }
    let known = (1..=room * 2).filter(|ino| creators.knows(*ino)).count() as u64;
    assert!(known <= room && known > room * 9 / 10);
    assert_eq!(known + creators.lost(), room * 2);
    assert!((room * 2 - 1000..=room * 2).all(|ino| creators.knows(ino)));
    assert!(!creators.knows(1));
}

#[test]
fn the_background_thread_writes_and_stops() {
    let dir = Scratch::new();
    let creators = Arc::new(dir.open());
    let stopping = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (creators, stopping) = (Arc::clone(&creators), Arc::clone(&stopping));
        move || creators.run(&stopping)
    });
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let creators = Arc::clone(&creators);
            std::thread::spawn(move || {
                for n in 0..10_000 {
                    let ino = 1 + n * 4 + thread;
                    creators.add_simple(ino);
                    assert!(creators.knows(ino));
                    if n % 3 == 0 {
                        creators.forget(ino, Time(ino as i64));
                        assert!(!creators.knows(ino));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    stopping.store(true, Ordering::Release);
    creators.wake();
    writer.join().unwrap();
    assert_eq!(creators.lost(), 0);
    drop(creators);
    let creators = dir.open();
    for ino in 1..=40_000 {
        assert_eq!(creators.knows(ino), (ino - 1) / 4 % 3 != 0, "of {ino}");
    }
}

#[test]
fn in_memory_stops_too() {
    let creators = Creators::in_memory();
    creators.wake();
    creators.run(&AtomicBool::new(true));
}
