use std::sync::atomic::AtomicUsize;

use super::*;
use crate::sys::shm::test_memory;

fn memory() -> Vec<OwnedFd> {
    (0..INODE_FDS).map(|_| test_memory()).collect()
}

fn table() -> Inodes {
    Inodes::new(memory(), 1 << 16).unwrap()
}

fn new(ino: u64) -> NewNode {
    NewNode {
        ino: Ino(ino),
        kind: Kind::Directory,
        btime: Time(ino as i64 * 3),
        fid: None,
        subtree: 0,
        policy: 0,
        aux: 0,
        charge: 0,
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

#[test]
fn a_node_lives_as_long_as_its_pin() {
    let table = table();
    let (node, is_new) = table.insert(&new(5)).unwrap();
    assert!(is_new);
    assert_eq!((node.ino(), node.kind()), (Ino(5), Kind::Directory));
    let (same, is_new) = table.insert(&new(5)).unwrap();
    assert!(!is_new);
    assert_eq!(same.slot(), node.slot());
    drop(node);
    assert_eq!(table.live(), 1);
    drop(same);
    assert_eq!(table.live(), 0);
    assert!(table.pin(Ino(5)).is_none());
}

#[test]
fn a_node_lives_as_long_as_the_kernel_knows_it() {
    let table = table();
    let (node, _) = table.insert(&new(5)).unwrap();
    table.add_lookup(&node);
    table.add_lookup(&node);
    drop(node);
    assert_eq!(table.live(), 1);
    let node = table.pin(Ino(5)).unwrap();
    assert_eq!(table.sub_lookup(&node, 1), 1);
    drop(node);
    assert_eq!(table.live(), 1);
    let node = table.pin(Ino(5)).unwrap();
    assert_eq!(table.sub_lookup(&node, 1), 0);
    drop(node);
    assert_eq!(table.live(), 0);
}

#[test]
fn forgetting_too_much_is_not_counted() {
    let table = table();
    let (node, _) = table.insert(&new(5)).unwrap();
    table.add_lookup(&node);
    assert_eq!(table.sub_lookup(&node, 7), 0);
    assert_eq!(node.nlookup(), 0);
}

#[test]
fn a_child_keeps_its_parents() {
    let table = table();
    let (root, _) = table.insert(&new(1)).unwrap();
    let (middle, _) = table.insert(&new(2)).unwrap();
    let (leaf, _) = table.insert(&new(3)).unwrap();
    table.set_place(&middle, &root, Some(b"middle")).unwrap();
    table.set_place(&leaf, &middle, Some(b"leaf")).unwrap();
    drop((root, middle));
    assert_eq!(table.live(), 3);
    let (parent, name) = table.place(&leaf).unwrap();
    assert_eq!((parent.ino(), name.as_slice()), (Ino(2), &b"leaf"[..]));
    assert_eq!(table.parent(&parent).unwrap().ino(), Ino(1));
    drop(parent);
    drop(leaf);
    assert_eq!((table.live(), table.live_names()), (0, 0));
}

#[test]
fn another_place_lets_go_of_the_first() {
    let table = table();
    let (first, _) = table.insert(&new(1)).unwrap();
    let (second, _) = table.insert(&new(2)).unwrap();
    let (node, _) = table.insert(&new(3)).unwrap();
    table.set_place(&node, &first, Some(b"short")).unwrap();
    assert!(table.is_at(&node, &first, b"short"));
    table.set_place(&node, &second, Some(&[b'l'; 200])).unwrap();
    assert!(!table.is_at(&node, &first, b"short"));
    assert!(table.is_at(&node, &second, &[b'l'; 200]));
    assert_eq!(table.live_names(), 1);
    drop(first);
    assert!(table.pin(Ino(1)).is_none());
    drop((second, node));
    assert_eq!((table.live(), table.live_names()), (0, 0));
}

#[test]
fn freeing_is_told_before_the_slot_is_taken_again() {
    let table = table();
    let freed = std::sync::Arc::new(Mutex::new(Vec::new()));
    table.on_free({
        let freed = freed.clone();
        Box::new(move |slot| freed.lock().push(slot))
    });
    let (node, _) = table.insert(&new(5)).unwrap();
    let slot = node.slot();
    drop(node);
    assert_eq!(*freed.lock(), [slot]);
}

#[test]
fn facts_about_a_node_do_not_disturb_each_other() {
    let table = table();
    let (node, _) = table.insert(&new(5)).unwrap();
    table
        .set_place(&node, &node.clone(), Some(&[b'n'; 100]))
        .unwrap();
    node.set_passes(35);
    assert_eq!(node.set(NodeFlags::all()), NodeFlags::empty());
    assert_eq!((node.passes(), node.kind()), (35, Kind::Directory));
    assert_eq!(table.name(&node).unwrap().len(), 100);
    assert_eq!(node.clear(NodeFlags::all()), NodeFlags::all());
    assert_eq!((node.passes(), node.kind()), (35, Kind::Directory));
    node.set_passes(1);
    assert_eq!(node.passes(), 1);
}

#[test]
fn a_successor_finds_the_nodes() {
    let memory = memory();
    let copy = || memory.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let table = Inodes::new(copy(), 1 << 16).unwrap();
    let (root, _) = table.insert(&new(1)).unwrap();
    let (node, _) = table.insert(&new(5)).unwrap();
    table.set_place(&node, &root, Some(b"name")).unwrap();
    table.add_lookup(&node);
    std::mem::forget((root, node));
    drop(table);
    let table = Inodes::new(copy(), 1 << 16).unwrap();
    let node = table.pin(Ino(5)).unwrap();
    assert_eq!(node.nlookup(), 1);
    let (parent, name) = table.place(&node).unwrap();
    assert_eq!((parent.ino(), name.as_slice()), (Ino(1), &b"name"[..]));
}

/// Threads look up, give, forget and move the same few nodes; in the end nothing is left of any.
#[test]
fn threads_leave_nothing_behind() {
    const NODES: u64 = 24;
    let table = table();
    let moves = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (table, moves) = (&table, &moves);
            scope.spawn(move || {
                let mut state = thread;
                let mut given: Vec<Ino> = Vec::new();
                let mut kept: Vec<Slot> = Vec::new();
                for _ in 0..20_000 {
                    let ino = 2 + random(&mut state) % NODES;
                    match random(&mut state) % 8 {
                        0 | 1 => {
                            let (node, _) = table.insert(&new(ino)).unwrap();
                            assert_eq!(node.ino(), Ino(ino));
                            table.add_lookup(&node);
                            given.push(Ino(ino));
                        }
                        2 => {
                            if let Some(ino) = given.pop() {
                                let node = table.pin(ino).expect("the kernel knows it");
                                table.sub_lookup(&node, 1);
                            }
                        }
                        3 => {
                            if let Some(node) = table.pin(Ino(ino)) {
                                assert_eq!(node.ino(), Ino(ino));
                                assert_eq!(node.btime(), Time(ino as i64 * 3));
                                table.add_ref(&node);
                                kept.push(node.slot());
                            }
                        }
                        4 => {
                            if let Some(slot) = kept.pop() {
                                table.unref(slot);
                            }
                        }
                        5 | 6 => {
                            // Below a lower number, so that there are no cycles.
                            let above = 1 + random(&mut state) % (ino - 1);
                            let (node, _) = table.insert(&new(ino)).unwrap();
                            let (parent, _) = table.insert(&new(above)).unwrap();
                            let name = vec![b'a'; 1 + (random(&mut state) % 250) as usize];
                            table.set_place(&node, &parent, Some(&name)).unwrap();
                            moves.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => {
                            if let Some(node) = table.pin(Ino(ino))
                                && let Some((parent, name)) = table.place(&node)
                            {
                                assert!(parent.ino() < node.ino());
                                assert!(!name.is_empty() && name.iter().all(|b| *b == b'a'));
                            }
                        }
                    }
                }
                for ino in given {
                    let node = table.pin(ino).expect("the kernel knows it");
                    table.sub_lookup(&node, 1);
                }
                for slot in kept {
                    table.unref(slot);
                }
            });
        }
    });
    assert!(moves.load(Ordering::Relaxed) > 0);
    assert_eq!((table.live(), table.live_names()), (0, 0));
}
