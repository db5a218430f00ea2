//! Generations on a disk that fails or loses power at every operation.

use super::*;

/// A table's state: its rows, and what its last generation and its journal must give again.
#[derive(Clone, Debug, Default)]
struct Table {
    rows: Rows,
    lsn: u64,
}

/// Runs steps of committing generations, each of which shares what it can with the one before; returns every state that may
/// be found, the last one committed last.
fn run(disk: &FaultDisk, random: &mut Random) -> Vec<Table> {
    let mut states = Vec::new();
    let mut table = Table::default();
    let Ok(directory) = on(disk) else {
        return states;
    };
    if directory.adopt(&origin()).is_err() {
        return states;
    }
    let (mut base, mut changed) = (None, BTreeSet::new());
    for _ in 0..6 {
        for _ in 0..random.below(20) {
            let key = u32::try_from(random.below(60)).unwrap();
            changed.insert(key);
            if random.below(4) == 0 {
                table.rows.remove(&key);
            } else {
                let value = vec![b'v'; random.below(100)];
                let row = (random.below(100) as f32, Some(value));
                table.rows.insert(key, row);
            }
        }
        table.lsn += 10;
        let begun = directory.begin_generation(1, Lsn::new(u64::MAX));
        let written = begun.and_then(|mut writer| {
            let header = header(1, table.lsn, "");
            let since = base.as_ref().map(|base| (base, &changed));
            let chunks = write_changes(&mut writer, header, &table.rows, since)?;
            writer.blob(IndexId(1), "graph", |file| {
                file.write_all(&table.lsn.to_le_bytes())
            })?;
            // From here it may be found, whether or not the caller learns of it.
            states.push(table.clone());
            writer.commit()?;
            Ok(chunks)
        });
        match written {
            Ok(chunks) => base = Some(chunks),
            Err(_) => return states,
        }
        changed.clear();
    }
    states
}

#[test]
fn a_crash_at_any_operation_leaves_a_whole_generation() {
    for seed in 0..8 {
        let disk = FaultDisk::new();
        run(&disk, &mut Random::new(seed));
        for at in 1..=disk.operations() {
            for fault in [Fault::Stop, Fault::FailOnce] {
                let disk = FaultDisk::new();
                disk.arrange(at, fault);
                let states = run(&disk, &mut Random::new(seed));
                let crashes = if fault == Fault::Stop { 3 } else { 1 };
                for crash in 0..crashes {
                    let after = match fault {
                        Fault::Stop => disk.reboot(&mut Random::new(seed * 1000 + at * 10 + crash)),
                        Fault::FailOnce => disk.clone(),
                    };
                    let directory = on(&after).unwrap();
                    let found = directory.candidates(IndexId(1));
                    for stored in &found {
                        let state = states.iter().find(|state| state.lsn == stored.lsn.as_u64());
                        let state = state.expect("a generation that was never written");
                        assert_eq!(read_rows(stored).unwrap(), state.rows);
                        let graph = stored.blob("graph").unwrap().unwrap();
                        assert_eq!(graph, state.lsn.to_le_bytes());
                    }
                    // All but the last were committed, and the caller may have trimmed the journal to them.
                    let committed = states.len().saturating_sub(1);
                    if committed > 0 {
                        let newest = found.first().expect("a committed generation is gone");
                        assert!(newest.lsn.as_u64() >= states[committed - 1].lsn);
                    }
                    // It goes on from what it found.
                    directory.adopt(&origin()).unwrap();
                    let (mut rows, base) = match found.first().map(read_chunks) {
                        Some(read) => read.map(|(rows, base)| (rows, Some(base))).unwrap(),
                        None => (Rows::new(), None),
                    };
                    rows.insert(7, (1.5, None));
                    let changed = BTreeSet::from([7]);
                    let since = base.as_ref().map(|base| (base, &changed));
                    let mut writer = directory.begin_generation(1, Lsn::new(u64::MAX)).unwrap();
                    write_changes(&mut writer, header(1, 999, ""), &rows, since).unwrap();
                    writer.commit().unwrap();
                    let newest = on(&after).unwrap().candidates(IndexId(1));
                    assert_eq!(read_rows(&newest[0]).unwrap(), rows);
                }
            }
        }
    }
}
