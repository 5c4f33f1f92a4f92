use proptest::prelude::*;

use super::*;
use crate::sys::shm::test_memory;

fn memory() -> [OwnedFd; NAME_FDS] {
    std::array::from_fn(|_| test_memory())
}

fn names() -> Names {
    Names::new(memory(), 1 << 16).unwrap()
}

#[test]
fn every_length_comes_back() {
    let names = names();
    let kept: Vec<(Vec<u8>, NameRef)> = (0..=NAME_MAX)
        .map(|len| {
            let name: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
            let at = names.add(&name).unwrap();
            (name, at)
        })
        .collect();
    assert_eq!(names.live(), NAME_MAX + 1);
    for (name, at) in &kept {
        assert_eq!(names.get(*at).as_ref(), Some(name));
    }
    for (_, at) in kept {
        names.remove(at);
        assert_eq!(names.get(at), None);
    }
    assert_eq!(names.live(), 0);
}

#[test]
fn a_shorter_name_in_the_same_place_has_nothing_of_the_longer() {
    let names = names();
    let long = names.add(&[b'x'; 28]).unwrap();
    names.remove(long);
    let short = names.add(b"ab").unwrap();
    assert_eq!(short, long, "the lowest free slot is taken");
    assert_eq!(names.get(short).unwrap(), b"ab");
}

#[test]
fn a_successor_reads_them() {
    let memory = memory();
    let copy = || memory.each_ref().map(|fd| fd.try_clone().unwrap());
    let names = Names::new(copy(), 1 << 16).unwrap();
    let at: Vec<NameRef> = [1, 40, 100, 255]
        .map(|len| names.add(&vec![b'n'; len]).unwrap())
        .to_vec();
    drop(names);
    let names = Names::new(copy(), 1 << 16).unwrap();
    assert_eq!(names.live(), 4);
    assert_eq!(names.all().len(), 4);
    let lengths: Vec<usize> = at.iter().map(|at| names.get(*at).unwrap().len()).collect();
    assert_eq!(lengths, [1, 40, 100, 255]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_come_back(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=NAME_MAX), 1..100)) {
        let names = names();
        let kept: Vec<NameRef> = all.iter().map(|name| names.add(name).unwrap()).collect();
        for (name, at) in all.iter().zip(&kept) {
            prop_assert_eq!(names.get(*at), Some(name.clone()));
        }
        kept.into_iter().for_each(|at| names.remove(at));
        prop_assert_eq!(names.live(), 0);
    }
}
