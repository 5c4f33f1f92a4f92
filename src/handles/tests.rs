use std::collections::HashSet;

use super::*;
use crate::sys::shm::test_memory;

fn memory() -> Vec<OwnedFd> {
    (0..HANDLE_FDS).map(|_| test_memory()).collect()
}

fn handles() -> Handles {
    Handles::new(memory(), 1 << 12).unwrap()
}

fn node(n: u32) -> Slot {
    Slot::from_raw((1 << 12) + n).unwrap()
}

fn add_file(handles: &Handles, n: u32) -> Slot {
    handles
        .add_file(node(n), test_memory(), IoMode::Passthrough, false, Some(0))
        .unwrap()
}

#[test]
fn a_handle_says_what_it_was_made_of() {
    let handles = handles();
    let open = add_file(&handles, 7);
    let file = handles.file(open);
    assert_eq!(
        (file.node(), file.mode()),
        (Some(node(7)), IoMode::Passthrough)
    );
    // Ids begin with 0, which is not "none".
    assert_eq!(file.backing_id(), Some(0));
    let id = handles.add_handle(open, 0o102, true).unwrap();
    let info = handles.get(id).unwrap();
    assert_eq!((info.open, info.node), (Some(open), node(7)));
    assert_eq!((info.flags, info.unseen_writer), (0o102, true));
    assert_eq!((file.handles(), file.unseen_writers()), (1, 1));
    assert_eq!(handles.live(), (1, 1));
    assert_eq!(handles.remove_handle(&info), 0);
    assert_eq!((file.handles(), file.unseen_writers()), (0, 0));
    assert!(handles.get(id).is_none());
    assert_eq!(handles.remove_file(open), Some(0));
    assert_eq!(handles.live(), (0, 0));
    assert!(handles.descriptor(open, node(7)).is_none());
}

#[test]
fn a_record_of_another_node_has_no_descriptor_to_give() {
    let handles = handles();
    let open = add_file(&handles, 7);
    assert!(handles.descriptor(open, node(7)).is_some());
    assert!(handles.descriptor(open, node(8)).is_none());
}

#[test]
fn an_old_number_does_not_open_a_new_handle() {
    let handles = handles();
    let open = add_file(&handles, 7);
    let old = handles.add_handle(open, 0, false).unwrap();
    handles.remove_handle(&handles.get(old).unwrap());
    let new = handles.add_handle(open, 0, false).unwrap();
    assert_ne!(old, new);
    assert!(handles.get(old).is_none());
    assert!(handles.get(new).is_some());
    for forged in [0, 1, u64::MAX, new.0 ^ 1 << 40] {
        assert!(handles.get(HandleId(forged)).is_none(), "{forged:x}");
    }
}

#[test]
fn directories_have_streams() {
    let handles = handles();
    let id = handles.add_dir(node(3), test_memory()).unwrap();
    let info = handles.get(id).unwrap();
    assert_eq!((info.open, info.node), (None, node(3)));
    assert!(handles.stream(info.slot).is_some());
    let mut dirs = Vec::new();
    handles.for_each_dir(|slot, node| dirs.push((slot, node)));
    assert_eq!(dirs, [(info.slot, node(3))]);
    handles.remove_handle(&info);
    assert!(handles.stream(info.slot).is_none());
    assert_eq!(handles.live(), (0, 0));
}

#[test]
fn idle_records_are_bounded() {
    let handles = handles();
    let mut evicted = Vec::new();
    for n in 0..MAX_IDLE as u32 + 10 {
        evicted.extend(handles.note_idle(node(n)));
    }
    let expected: Vec<Slot> = (0..10).map(node).collect();
    assert_eq!(evicted, expected, "the oldest first");
}

#[test]
fn a_successor_counts_the_handles_again() {
    let memory = memory();
    let copy = || memory.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let handles = Handles::new(copy(), 1 << 12).unwrap();
    let (used, idle) = (add_file(&handles, 1), add_file(&handles, 2));
    let kept = handles.add_handle(used, 2, true).unwrap();
    handles.add_handle(used, 0, false).unwrap();
    // The server dies between adding a handle and counting it.
    handles.file(used).handles.store(9, Ordering::Relaxed);
    drop(handles);
    let handles = Handles::new(copy(), 1 << 12).unwrap();
    assert_eq!(handles.recount(), (vec![used], vec![idle]));
    let file = handles.file(used);
    assert_eq!((file.handles(), file.unseen_writers()), (2, 1));
    assert_eq!(handles.get(kept).unwrap().node, node(1));
    assert!(handles.descriptor(used, node(1)).is_none());
    handles.set_descriptor(used, node(1), test_memory());
    assert!(handles.descriptor(used, node(1)).is_some());
}

#[test]
fn threads_leave_nothing_behind() {
    let handles = handles();
    let open: Vec<Slot> = (0..4).map(|n| add_file(&handles, n)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (handles, open) = (&handles, &open);
            scope.spawn(move || {
                let mut mine = Vec::new();
                let mut seen = HashSet::new();
                for n in 0..5000usize {
                    let at = (n * 3 + thread) % 4;
                    let id = handles.add_handle(open[at], n as u32, n % 2 == 0).unwrap();
                    assert!(seen.insert(id), "a number is given once");
                    mine.push((id, at, n as u32));
                    if mine.len() > 20 {
                        let (id, at, flags) = mine.swap_remove(n % 20);
                        let info = handles.get(id).unwrap();
                        assert_eq!((info.open, info.flags), (Some(open[at]), flags));
                        handles.remove_handle(&info);
                    }
                }
                for (id, ..) in mine {
                    handles.remove_handle(&handles.get(id).unwrap());
                }
            });
        }
    });
    for slot in open {
        let file = handles.file(slot);
        assert_eq!((file.handles(), file.unseen_writers()), (0, 0));
        handles.remove_file(slot);
    }
    assert_eq!(handles.live(), (0, 0));
}
