//! Directories of others, and generations that round-trip, are damaged or interrupted.

mod crash;
mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use super::disk::fault::{Fault, FaultDisk, Random};
use super::*;
use crate::catalog::RowKey;
use crate::index::{LeftOut, Place};
use crate::vector::{Dim, Form, Vector};

fn origin() -> Origin {
    Origin {
        system_id: 7,
        timeline: 1,
        database: "d".to_owned(),
        slot: "s".to_owned(),
        epoch: 1,
    }
}

fn on(disk: &FaultDisk) -> Result<Directory, StoreError> {
    Directory::on(Arc::new(disk.clone()), PathBuf::new(), None)
}

fn header(id: i64, lsn: u64, identity: &str) -> IndexHeader {
    IndexHeader {
        id: IndexId(id),
        identity: identity.to_owned(),
        lsn: Lsn::new(lsn),
        form: Form::Numbers(Dim::new(2).unwrap()),
        include: 1,
    }
}

/// Rows by key: a number, its vector, an INCLUDE value.
type Rows = BTreeMap<u32, (f32, Option<Vec<u8>>)>;

fn write_rows(
    generation: &mut GenerationWriter<'_>,
    header: IndexHeader,
    rows: &Rows,
) -> Result<(), StoreError> {
    write_changes(generation, header, rows, None).map(drop)
}

/// Where a row of these tests is: always at its key's number.
fn place((key, (number, _)): (&u32, &(f32, Option<Vec<u8>>))) -> Place {
    if number.is_finite() {
        Place::Row(*key)
    } else {
        Place::LeftOut(*key)
    }
}

/// Writes what is not in `base`: its files, and the keys that were written since.
fn write_changes(
    generation: &mut GenerationWriter<'_>,
    header: IndexHeader,
    rows: &Rows,
    base: Option<(&Chunks, &BTreeSet<u32>)>,
) -> Result<Chunks, StoreError> {
    let mut index = generation.index(header);
    let again = base.map(|(chunks, changed)| {
        let there = |at| {
            let mut all = rows.iter();
            all.any(|row| place(row) == at && !changed.contains(row.0))
        };
        (index.share(chunks, there), changed)
    });
    for (key, (number, include)) in rows {
        let at = place((key, &(*number, None)));
        if let Some((again, changed)) = &again
            && !changed.contains(key)
            && !again.contains(&at)
        {
            continue;
        }
        let key = RowKey::from_parts([&key.to_be_bytes()[..]]);
        let vector = [*number, 1.0];
        let vector = if number.is_finite() {
            Ok(&vector[..])
        } else {
            Err(LeftOut::NotFinite)
        };
        index.row(at, key.as_bytes(), vector, [include.as_deref()])?;
    }
    index.finish()
}

fn read_rows(stored: &StoredIndex) -> Result<Rows, StoreError> {
    read_chunks(stored).map(|(rows, _)| rows)
}

fn read_chunks(stored: &StoredIndex) -> Result<(Rows, Chunks), StoreError> {
    let mut rows = Rows::new();
    let mut reader = stored.rows()?;
    for row in reader.by_ref() {
        let row = row?;
        let at = row.place;
        let key = RowKey::parts(row.key.as_bytes()).next().unwrap();
        let key = u32::from_be_bytes(key.try_into().unwrap());
        let number = row
            .vector
            .map_or(f32::INFINITY, |vector| vector.as_slice()[0]);
        let include = row.include.into_iter().next().unwrap();
        let read = (number, include.map(Vec::from));
        assert_eq!(place((&key, &read)), at);
        assert_eq!(rows.insert(key, read), None, "a row of two files");
    }
    assert_eq!(rows.len() as u64, stored.len());
    Ok((rows, reader.into_chunks()?))
}

fn some_rows(count: u32) -> Rows {
    (0..count)
        .map(|key| {
            let number = if key % 7 == 3 {
                f32::INFINITY
            } else {
                key as f32
            };
            let include = (key % 3 != 0).then(|| vec![b'i'; key as usize % 50]);
            (key, (number, include))
        })
        .collect()
}

#[test]
fn one_process_at_a_time_and_closed_to_others() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let first = Directory::open(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let second = Directory::open(&path).unwrap_err();
    assert!(matches!(second, StoreError::Locked(_)), "{second}");
    drop(first);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let again = Directory::open(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(again);
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Directory::open(&file), Err(StoreError::Io { .. })));
}

#[test]
fn state_belongs_to_its_stream() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    assert_eq!(directory.origin(), None);
    assert!(
        directory.journal().is_err() && directory.begin_generation(1, Lsn::new(u64::MAX)).is_err()
    );
    assert_eq!(directory.adopt(&origin()).unwrap(), Adoption::New);
    assert_eq!(directory.adopt(&origin()).unwrap(), Adoption::Same);
    let directory = on(&disk).unwrap();
    assert_eq!(directory.origin(), Some(origin()));
    for (change, expected) in [
        (
            (|o| o.timeline = 2) as fn(&mut Origin),
            Some(Adoption::Stale),
        ),
        (|o| o.slot = "t".to_owned(), Some(Adoption::Stale)),
        (|o| o.epoch = 2, Some(Adoption::Stale)),
        (|o| o.system_id = 8, None),
        (|o| o.database = "e".to_owned(), None),
    ] {
        let mut other = origin();
        change(&mut other);
        match directory.adopt(&other) {
            Ok(adoption) => assert_eq!(Some(adoption), expected),
            Err(error) => {
                assert!(matches!(error, StoreError::OtherCluster { .. }));
                assert!(error.to_string().contains("system identifier 7"), "{error}");
                assert_eq!(expected, None);
            }
        }
    }
    directory.clear().unwrap();
    assert_eq!(disk.files(), Vec::<PathBuf>::new());
    let mut other = origin();
    other.system_id = 8;
    assert_eq!(directory.adopt(&other).unwrap(), Adoption::New);
}

#[test]
fn generations_round_trip_and_the_older_ones_go() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    assert_eq!(directory.keep_from(), None);
    assert!(
        directory.begin_generation(2, Lsn::ZERO).is_err(),
        "another epoch"
    );
    for generation in 1..=4 {
        let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
        let rows = some_rows(generation * 10);
        write_rows(
            &mut writer,
            header(1, u64::from(generation) * 100, "a"),
            &rows,
        )
        .unwrap();
        write_rows(
            &mut writer,
            header(2, u64::from(generation) * 100 + 5, "b"),
            &Rows::new(),
        )
        .unwrap();
        writer
            .blob(IndexId(1), "graph", |file| file.write_all(&[9; 3000]))
            .unwrap();
        writer.commit().unwrap();
    }
    for directory in [&directory, &on(&disk).unwrap()] {
        assert_eq!(directory.keep_from(), Some(Lsn::new(300)));
        let candidates = directory.candidates(IndexId(1));
        let found: Vec<_> = candidates.iter().map(|c| (c.lsn, c.len())).collect();
        assert_eq!(found, [(Lsn::new(400), 40), (Lsn::new(300), 30)]);
        assert_eq!(read_rows(&candidates[0]).unwrap(), some_rows(40));
        assert_eq!(read_rows(&candidates[1]).unwrap(), some_rows(30));
        assert_eq!(candidates[0].blob("graph").unwrap(), Some(vec![9; 3000]));
        assert_eq!(candidates[0].blob("other").unwrap(), None);
        assert!(directory.candidates(IndexId(2))[0].is_empty());
        assert_eq!(candidates[0].identity(), "a");
        assert!(directory.candidates(IndexId(3)).is_empty());
    }
    for position in [500, 600] {
        let empty = directory.begin_generation(1, Lsn::new(position)).unwrap();
        empty.commit().unwrap();
    }
    assert_eq!(directory.keep_from(), Some(Lsn::new(500)));
}

#[test]
fn rows_of_many_blocks_round_trip() {
    let parent = tempfile::tempdir().unwrap();
    let directory = Directory::open(parent.path()).unwrap();
    directory.adopt(&origin()).unwrap();
    let mut rows = some_rows(40_000);
    rows.insert(50_000, (1.0, Some(vec![5; 3 << 20])));
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    write_rows(&mut writer, header(1, 1, ""), &rows).unwrap();
    writer.commit().unwrap();
    let stored = directory.candidates(IndexId(1));
    assert_eq!(read_rows(&stored[0]).unwrap(), rows);
}

#[test]
fn a_row_of_another_form_is_refused_and_leaves_no_trace() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    let mut index = writer.index(header(1, 1, ""));
    let none: [Option<&[u8]>; 0] = [];
    let at = Place::LeftOut(3);
    assert!(index.row(at, b"", Ok(&[1.0]), [None]).is_err());
    assert!(index.row(at, b"", Ok(&[1.0, 2.0]), none).is_err());
    assert!(
        index
            .row(at, b"", Err(LeftOut::Null), [None, None])
            .is_err()
    );
    index
        .row(at, b"k", Err(LeftOut::Zero), [Some(&b"v"[..])])
        .unwrap();
    index.finish().unwrap();
    assert!(writer.blob(IndexId(2), "graph", |_| Ok(())).is_err());
    writer.commit().unwrap();
    let rows: Vec<_> = directory.candidates(IndexId(1))[0]
        .rows()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let expected = StoredRow {
        place: at,
        key: RowKey::from_encoded(b"k"),
        vector: Err(LeftOut::Zero),
        include: vec![Some(Box::from(&b"v"[..]))],
    };
    assert_eq!(rows, [expected]);
}

#[test]
fn an_unfinished_generation_is_removed() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    write_rows(&mut writer, header(1, 1, ""), &some_rows(3)).unwrap();
    std::mem::forget(writer); // the process ends here
    assert!(disk.files().len() > 1);
    let directory = on(&disk).unwrap();
    assert_eq!(disk.files(), [PathBuf::from(ORIGIN_FILE)]);
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    write_rows(&mut writer, header(1, 1, ""), &some_rows(3)).unwrap();
    drop(writer); // it could not be completed
    assert_eq!(disk.files(), [PathBuf::from(ORIGIN_FILE)]);
    assert_eq!(directory.keep_from(), None);
}

#[test]
fn every_flipped_and_truncated_byte_is_seen_and_the_older_generation_stands() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    // The newest has a file that it shares with a generation before these two, dead rows and all.
    let mut base = None;
    for generation in 0..=2 {
        let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
        let header = header(1, generation, "");
        let rows = some_rows(20);
        match (generation, &base) {
            (0, _) => {
                base = Some(write_changes(&mut writer, header, &some_rows(21), None).unwrap())
            }
            (2, Some(base)) => {
                let changed = BTreeSet::from([3, 4]);
                write_changes(&mut writer, header, &rows, Some((base, &changed))).unwrap();
            }
            _ => write_rows(&mut writer, header, &rows).unwrap(),
        }
        let graph = |file: &mut dyn std::io::Write| file.write_all(b"graph");
        writer.blob(IndexId(1), "graph", graph).unwrap();
        writer.commit().unwrap();
    }
    let newest: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("3/"))
        .collect();
    assert_eq!(newest.len(), 5, "{newest:?}");
    for file in newest {
        let bytes = disk.content(&file);
        let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
        let flipped = (0..bytes.len() * 8).map(|bit| {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            damaged
        });
        let mut longer = bytes.clone();
        longer.push(0);
        for damaged in cut.chain(flipped).chain([longer]) {
            disk.replace(&file, damaged);
            let directory = on(&disk).unwrap();
            let loaded = directory
                .candidates(IndexId(1))
                .into_iter()
                .find_map(|stored| {
                    let rows = read_rows(&stored);
                    let graph = stored.blob("graph");
                    match (rows, graph) {
                        (Ok(rows), Ok(graph)) => Some((stored.lsn, rows, graph)),
                        (Err(StoreError::Corrupt { .. }), _)
                        | (_, Err(StoreError::Corrupt { .. })) => None,
                        (Err(other), _) | (_, Err(other)) => panic!("{other}"),
                    }
                });
            let expected = (Lsn::new(1), some_rows(20), Some(b"graph".to_vec()));
            assert_eq!(loaded, Some(expected), "{}", file.display());
            disk.replace(&file, bytes.clone());
        }
        disk.remove_file(&file).unwrap();
        let loaded = on(&disk).unwrap().candidates(IndexId(1));
        let whole: Vec<_> = loaded
            .iter()
            .filter(|stored| read_rows(stored).is_ok() && stored.blob("graph").is_ok())
            .map(|stored| stored.lsn)
            .collect();
        assert_eq!(whole, [Lsn::new(1)], "without {}", file.display());
        return_file(&disk, &file, &bytes);
    }
}

fn return_file(disk: &FaultDisk, path: &Path, bytes: &[u8]) {
    // Opening removed a generation without a manifest; then nothing is left to return to.
    let _gone = disk.remove_file(path);
    if let Ok(mut file) = disk.create(path) {
        file.append(bytes).unwrap();
    }
}

/// Names of the files of a generation.
#[test]
fn a_damaged_origin_means_to_begin_anew() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    write_rows(&mut writer, header(1, 1, ""), &some_rows(3)).unwrap();
    writer.commit().unwrap();
    disk.replace(Path::new(ORIGIN_FILE), b"{}".to_vec());
    let directory = on(&disk).unwrap();
    assert_eq!(directory.origin(), None);
    assert_eq!(disk.files(), Vec::<PathBuf>::new());
}

#[test]
fn every_flipped_and_truncated_byte_of_the_origin_is_seen() {
    let disk = FaultDisk::new();
    on(&disk).unwrap().adopt(&origin()).unwrap();
    let path = Path::new(ORIGIN_FILE);
    let bytes = disk.content(path);
    let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
    let flipped = (0..bytes.len() * 8).map(|bit| {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        damaged
    });
    for damaged in cut.chain(flipped) {
        return_file(&disk, path, &damaged);
        assert_eq!(on(&disk).unwrap().origin(), None, "{damaged:?}");
    }
}

#[test]
fn whether_the_disk_takes_anything_is_known_without_reading_the_journal() {
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    let (files, before) = (disk.files(), disk.operations());
    directory.probe().unwrap();
    for at in 1..=disk.operations() - before {
        disk.arrange(disk.operations() + at, Fault::FailOnce);
        assert!(directory.probe().is_err(), "operation {at}");
        directory.probe().unwrap();
        assert_eq!(disk.files(), files);
    }
}

#[test]
fn vectors_that_are_none_are_not_loaded() {
    // A file whose checksums are right but whose numbers are not was written by something else.
    let disk = FaultDisk::new();
    let directory = on(&disk).unwrap();
    directory.adopt(&origin()).unwrap();
    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
    let mut index = writer.index(header(1, 1, ""));
    index
        .row(Place::Row(0), b"k", Ok(&[f32::NAN, 1.0]), [None])
        .unwrap();
    index.finish().unwrap();
    writer.commit().unwrap();
    let stored = directory.candidates(IndexId(1));
    let read = stored[0].rows().unwrap().next().unwrap();
    assert!(matches!(read, Err(StoreError::Corrupt { .. })));
    assert!(Vector::new(vec![f32::NAN]).is_err());
}
