//! A generation shares files with the one before it, as far as their rows still count.

use super::*;

fn names_in(disk: &FaultDisk, number: u64) -> BTreeSet<String> {
    let directory = format!("gen-{number:020}/");
    let files = disk.files().into_iter();
    let paths = files.map(|path| path.to_string_lossy().into_owned());
    paths
        .filter_map(|path| Some(path.strip_prefix(&directory)?.to_owned()))
        .collect()
}

#[test]
fn a_generation_writes_what_changed_and_shares_the_rest() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    let mut rows = some_rows(1000);
    let (mut base, mut changed) = (None::<Chunks>, BTreeSet::new());
    let mut files: Vec<BTreeSet<String>> = Vec::new();
    for number in 1..=3 {
        let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
        let since = base.as_ref().map(|base| (base, &changed));
        base = Some(write_changes(&mut writer, header(1, number, ""), &rows, since).unwrap());
        writer.commit().unwrap();
        files.push(names_in(&disk, number));
        // One row of a chunk of many, and all that are in the last chunks.
        changed = BTreeSet::from([10]);
        rows.insert(10, (0.5, None));
        for key in 900..1000 {
            rows.remove(&key);
        }
    }
    let [first, second, third] = &files[..] else {
        panic!("three generations")
    };
    assert!(first.len() > 20, "{} files", first.len());
    let new: Vec<_> = second.difference(first).collect();
    assert_eq!(new, ["index-1-dead", "index-1-rows-2-0"]);
    assert!(first.difference(second).count() >= 2, "the last chunks go");
    let new: Vec<_> = third.difference(second).collect();
    assert_eq!(new, ["index-1-rows-3-0"]);
    assert_eq!(names_in(&disk, 1), BTreeSet::new(), "two are kept");
    let stored = on(&disk).unwrap().candidates(IndexId(1));
    assert_eq!(read_rows(&stored[0]).unwrap(), rows);
    assert_eq!(read_rows(&stored[1]).unwrap(), rows);
}

#[test]
fn what_cannot_be_shared_is_written_again() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    let rows = some_rows(300);
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    let base = write_changes(&mut writer, header(1, 1, ""), &rows, None).unwrap();
    writer.commit().unwrap();
    for file in names_in(&disk, 1) {
        if file != "manifest" {
            let path = Path::new("gen-00000000000000000001").join(file);
            disk.remove_file(&path).unwrap();
        }
    }
    let none = BTreeSet::new();
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    write_changes(&mut writer, header(1, 2, ""), &rows, Some((&base, &none))).unwrap();
    writer.commit().unwrap();
    assert_eq!(
        read_rows(&directory.candidates(IndexId(1))[0]).unwrap(),
        rows
    );
    assert!(read_rows(&directory.candidates(IndexId(1))[1]).is_err());
}
