//! The model against its own rules.

use std::collections::BTreeSet;

use rand::{SeedableRng as _, rngs::StdRng};

use super::{Disk, Fault, Loss, SECTOR};

fn random() -> StdRng {
    StdRng::seed_from_u64(1)
}

/// A disk with a durable file `a` of two sectors of `1`.
fn disk() -> Disk {
    let mut disk = Disk::new(1);
    let file = disk.create("a").unwrap();
    disk.write(file, 0, &[1; 2 * SECTOR]).unwrap();
    disk.sync(file).unwrap();
    disk.sync_names().unwrap();
    disk
}

fn content(disk: &Disk, name: &str) -> Vec<u8> {
    disk.read(disk.find(name).unwrap(), 0, 1 << 20).unwrap().to_vec()
}

#[test]
fn what_was_synced_survives_and_the_rest_need_not() {
    let mut disk = disk();
    let file = disk.find("a").unwrap();
    disk.write(file, 0, &[2; 3 * SECTOR]).unwrap();
    assert_eq!(content(&disk, "a").len(), 3 * SECTOR);
    disk.restore(Loss::Everything, &mut random());
    assert_eq!(content(&disk, "a"), [1; 2 * SECTOR]);
    let file = disk.find("a").unwrap();
    disk.write(file, 0, &[2; SECTOR]).unwrap();
    disk.restore(Loss::Nothing, &mut random());
    assert_eq!(content(&disk, "a")[..SECTOR], [2; SECTOR]);
}

#[test]
fn sectors_are_lost_one_by_one_and_lengths_are_those_that_were() {
    let mut random = random();
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let mut disk = disk();
        let file = disk.find("a").unwrap();
        disk.write(file, 0, &[2; 3 * SECTOR]).unwrap();
        disk.restore(Loss::Sectors, &mut random);
        let data = content(&disk, "a");
        assert!(data.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        seen.insert(data.chunks(SECTOR).map(|sector| sector[0]).collect::<Vec<_>>());
    }
    let all: BTreeSet<Vec<u8>> = [1, 2]
        .into_iter()
        .flat_map(|a| [1, 2].map(|b| vec![a, b]))
        .flat_map(|two| [two.clone(), [two.clone(), vec![0]].concat(), [two, vec![2]].concat()])
        .collect();
    assert_eq!(seen, all);
}

#[test]
fn what_was_cut_off_comes_back_as_zeros_or_as_it_was() {
    let mut random = random();
    for _ in 0..100 {
        let mut disk = disk();
        let file = disk.find("a").unwrap();
        disk.resize(file, 100).unwrap();
        disk.resize(file, 2 * SECTOR).unwrap();
        disk.restore(Loss::Sectors, &mut random);
        let data = content(&disk, "a");
        assert!(data.len() == 100 || data.len() == 2 * SECTOR);
        assert!(data[..100].iter().all(|byte| *byte == 1));
        assert!(data[100..].iter().all(|byte| *byte <= 1));
    }
}

#[test]
fn names_need_a_sync_of_the_directory_and_are_lost_in_order() {
    let mut disk = disk();
    let new = disk.create("a.new").unwrap();
    disk.write(new, 0, b"b").unwrap();
    disk.sync(new).unwrap();
    disk.restore(Loss::Everything, &mut random());
    assert_eq!(disk.find("a.new"), Err(Fault::Missing), "its data was synced, its name was not");

    let mut random = random();
    for _ in 0..50 {
        let mut disk = self::disk();
        let new = disk.create("a.new").unwrap();
        disk.write(new, 0, b"b").unwrap();
        disk.sync(new).unwrap();
        disk.rename("a.new", "a").unwrap();
        disk.restore(Loss::Sectors, &mut random);
        let data = content(&disk, "a");
        assert!(data == [1; 2 * SECTOR] || data == b"b", "the old file or the new, nothing between");
    }
}

#[test]
fn the_power_goes_with_the_change_that_was_named() {
    let mut disk = disk();
    let file = disk.find("a").unwrap();
    disk.cut_after(2);
    disk.write(file, 0, b"x").unwrap();
    assert_eq!(disk.sync(file), Err(Fault::Off), "nobody may believe in it");
    assert_eq!(disk.read(file, 0, 1), Err(Fault::Off));
    disk.restore(Loss::Everything, &mut random());
    assert_eq!(content(&disk, "a")[0], 1);
    assert!(!disk.is_off());
}
