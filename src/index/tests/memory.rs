//! What an index holds is counted, bounded, and given back.

use super::*;
use crate::catalog::{FilterKind, Method, ValueKind};
use crate::index::memory::{Account, Charge, Memory, Part};

const DIM: usize = 32;

/// Row ids that room is taken for at a time, see `faiss/store.rs`.
const STEP: u64 = 1024;

#[test]
fn every_part_is_counted_and_given_back() {
    let memory = Memory::limited(1 << 30);
    let mut random = Random(5);
    let writer = Writer::within(spec(DIM, Metric::L2), &memory).unwrap();
    let rows = 5_000_u64;
    let changes = (0..rows).map(|number| upsert(number, random.vector(DIM)));
    let (mut writer, snapshot) = linked_with(writer, changes);
    let parts = snapshot.stats().memory;
    let at_least = |part, bytes_a_row: u64| {
        let bytes = parts.of(part);
        assert!(bytes >= rows * bytes_a_row, "{part:?}: {bytes}");
    };
    let room = (rows + STEP) * DIM as u64 * 4;
    assert!((rows * DIM as u64 * 4..=room).contains(&parts.of(Part::Vectors)));
    at_least(Part::Codes, 64 + 16);
    at_least(Part::Graph, 2 * 16 * 4 + 4 + 12);
    at_least(Part::Keys, 5);
    at_least(Part::Records, 12 + 4);
    assert!(parts.of(Part::Other) > 0);
    assert_eq!(parts.of(Part::Filters), 0);
    assert_eq!(memory.used(), writer.held());
    // Within a quarter of what is estimated beforehand.
    let estimate = snapshot.spec().estimate(rows, [], &memory);
    assert!(
        (estimate * 3 / 4..=estimate * 5 / 4).contains(&parts.total()),
        "{estimate} {parts:?}"
    );

    // A version of nothing, while the old one is still read.
    writer.apply(RowChange::Truncate).unwrap();
    writer.publish(Lsn::new(2));
    assert!(memory.used() > parts.of(Part::Vectors));
    drop(snapshot);
    wait_until("the old version to go", || memory.used() < 1 << 20);
    drop(writer);
    assert_eq!(memory.used(), 0);
}

#[test]
fn a_layout_is_counted_while_it_lasts() {
    let memory = Memory::limited(64 << 20);
    let mut random = Random(15);
    let writer = Writer::within(spec(DIM, Metric::L2), &memory).unwrap();
    let rows = 5_000_u64;
    let changes = (0..rows).map(|number| upsert(number, random.vector(DIM)));
    let (_writer, snapshot) = linked_with(writer, changes);
    let held = || snapshot.stats().memory;
    let before = held();
    let more = |part| held().of(part) - before.of(part);
    let mut layout = snapshot.view().lay_out().unwrap().unwrap();
    while !layout.go_on(100).unwrap() {}
    // Codes a second time, and 4 bytes a row that say where they lie; what nodes are sorted by.
    assert!(more(Part::Codes) >= rows * (64 + 16 + 4));
    assert!(more(Part::Graph) >= rows * 10);
    let laid_out = layout.finish().unwrap();
    assert!(more(Part::Graph) >= rows * (2 * 16 * 4 + 12));
    assert_eq!(memory.used(), held().total());
    drop(laid_out);
    assert_eq!(held(), before);

    let other = Charge::new(Account::new(Arc::clone(&memory)), Part::Vectors);
    let room = usize::try_from(memory.room()).unwrap();
    other.grow_to(room - 100 * 1024).unwrap();
    let refused = snapshot.view().lay_out();
    assert!(matches!(refused, Err(IndexError::Memory { .. })));
    assert_eq!(held(), before);
}

#[test]
fn at_the_bound_an_index_refuses_rows_and_stays_as_it_was() {
    let memory = Memory::limited(4 << 20);
    let mut random = Random(6);
    let mut writer = Writer::within(spec(DIM, Metric::L2), &memory).unwrap();
    let mut count = 0;
    let error = loop {
        match writer.apply(upsert(count, random.vector(DIM))) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, IndexError::Memory { .. }), "{error}");
    assert!(memory.used() <= 4 << 20);
    assert!((5_000..30_000).contains(&count), "{count}");
    let snapshot = writer.publish(Lsn::new(1));
    assert_eq!(snapshot.stats().live, count);
    assert!(!writer.knows(&key(count)));
    // Places that come free are used again.
    for number in 0..100 {
        writer
            .apply(RowChange::Delete { key: key(number) })
            .unwrap();
    }
    drop(snapshot);
    writer.publish(Lsn::new(2));
    writer.serves();
    wait_until("a place for a row", || {
        writer.publish(Lsn::new(3));
        writer.apply(upsert(count, random.vector(DIM))).is_ok()
    });
    let query = Vector::new(random.vector(DIM)).unwrap();
    let found = writer.publish(Lsn::new(4)).search(&query, 10, 64).unwrap();
    assert_eq!(found.neighbors.len(), 10);
}

#[test]
fn a_graph_without_room_waits_and_rows_are_found_without_it() {
    let rows = 6_000_u64;
    let memory = Memory::limited(16 << 20);
    let mut random = Random(7);
    let mut writer = Writer::within(spec(DIM, Metric::L2), &memory).unwrap();
    for number in 0..rows {
        writer.apply(upsert(number, random.vector(DIM))).unwrap();
    }
    let other = Charge::new(Account::new(Arc::clone(&memory)), Part::Vectors);
    other
        .grow_to(usize::try_from(memory.room()).unwrap())
        .unwrap();
    let snapshot = writer.publish(Lsn::new(1));
    wait_until("the linker to want memory", || snapshot.starved().is_some());
    assert!(snapshot.stats().unlinked > 0);
    let query = Vector::new(random.vector(DIM)).unwrap();
    let exact = snapshot.search_exact(&query, 10).unwrap().neighbors;
    assert_eq!(snapshot.search(&query, 10, 64).unwrap().neighbors, exact);
    drop(other);
    wait_until("the rows to be linked", || snapshot.stats().unlinked == 0);
    assert_eq!(snapshot.starved(), None);
}

#[test]
fn lists_without_room_to_be_trained_wait_for_it() {
    let rows = 8_000_u64;
    let memory = Memory::limited(16 << 20);
    let mut random = Random(8);
    let mut spec = spec(DIM, Metric::L2);
    spec.options.method = Method::Ivf;
    let mut writer = Writer::within(spec, &memory).unwrap();
    for number in 0..rows {
        writer.apply(upsert(number, random.vector(DIM))).unwrap();
    }
    let other = Charge::new(Account::new(Arc::clone(&memory)), Part::Vectors);
    let room = usize::try_from(memory.room()).unwrap();
    other.grow_to(room - (1 << 20)).unwrap();
    let snapshot = writer.publish(Lsn::new(1));
    wait_until("the linker to want memory", || snapshot.starved().is_some());
    // Twice 8,000 rows of 32 floats.
    let why = snapshot.starved().unwrap();
    assert!(why.contains(": 2 MiB more are needed"), "{why}");
    drop(other);
    wait_until("the rows to be linked", || snapshot.stats().unlinked == 0);
    assert_eq!(memory.used(), writer.held());
}

/// INCLUDE columns of every kind, with values of the lengths that the estimate takes for usual: within a quarter of it.
#[test]
fn include_columns_take_what_is_estimated() {
    const ROWS: u64 = 20_000;
    let array = |element: u32, elements: &[&[u8]]| -> Vec<u8> {
        let head = [1, 0, element, 4, 1].into_iter().flat_map(u32::to_be_bytes);
        let length = |element: &&[u8]| u32::try_from(element.len()).unwrap().to_be_bytes();
        let elements = elements
            .iter()
            .flat_map(|element| [&length(element), *element].concat());
        head.chain(elements).collect()
    };
    let value = |kind: Option<FilterKind>, n: u64| -> Vec<u8> {
        let word = u32::try_from(n).unwrap().to_be_bytes();
        let text = |n: u64| format!("a text {n:09}").into_bytes();
        match kind {
            Some(FilterKind::One(ValueKind::Bool)) => vec![u8::from(n.is_multiple_of(2))],
            Some(FilterKind::One(ValueKind::Int4)) => word.to_vec(),
            Some(FilterKind::One(ValueKind::Float8)) => {
                f64::from_bits(n << 40).to_be_bytes().to_vec()
            }
            Some(FilterKind::One(_)) | None => text(n),
            Some(FilterKind::Array(ValueKind::Int4)) => {
                let numbers: Vec<[u8; 4]> = (0..4)
                    .map(|i| (i * 1000 + u32::try_from(n % 1000).unwrap()).to_be_bytes())
                    .collect();
                array(
                    23,
                    &numbers.iter().map(<[u8; 4]>::as_slice).collect::<Vec<_>>(),
                )
            }
            Some(FilterKind::Array(_)) => {
                let texts: Vec<Vec<u8>> = (0..4).map(|i| text(n % 97 * 4 + i)).collect();
                array(25, &texts.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            Some(FilterKind::Jsonb) => {
                let members = (0..8).map(|i| format!("\"member_{i}\": \"v {}\"", n % (i + 2)));
                format!("\x01{{{}}}", members.collect::<Vec<_>>().join(", ")).into_bytes()
            }
        }
    };
    let mut wrong = Vec::new();
    for kind in [
        Some(FilterKind::One(ValueKind::Bool)),
        Some(FilterKind::One(ValueKind::Int4)),
        Some(FilterKind::One(ValueKind::Float8)),
        Some(FilterKind::One(ValueKind::Text)),
        Some(FilterKind::Array(ValueKind::Int4)),
        Some(FilterKind::Array(ValueKind::Text)),
        Some(FilterKind::Jsonb),
        None,
    ] {
        let bytes = |columns: usize| {
            let mut spec = spec(DIM, Metric::L2);
            spec.options.method = Method::Flat;
            spec.include = columns;
            let kinds = std::iter::repeat_n(kind, columns);
            let mut writer = Writer::new(spec).unwrap().filtered_on(kinds.clone());
            for n in 0..ROWS {
                let include = (0..columns).map(|_| ColumnChange::Set(value(kind, n).into()));
                let change = RowChange::Upsert {
                    old_key: None,
                    key: key(n),
                    vector: VectorChange::Set(Vector::new(vec![0.0; DIM]).unwrap()),
                    include: include.collect(),
                };
                writer.apply(change).unwrap();
            }
            let parts = writer.publish(Lsn::new(1)).stats().memory;
            let estimate = spec.estimate(ROWS, kinds, &Memory::unlimited());
            (parts.of(Part::Records) + parts.of(Part::Filters), estimate)
        };
        // Of two columns: what all rows have, keys and vectors, is the same.
        let ((none, estimated_without), (both, estimated)) = (bytes(0), bytes(2));
        let (taken, estimated) = (both - none, estimated - estimated_without);
        let line = format!(
            "{kind:?}: {} bytes a row taken, {} estimated",
            taken / ROWS / 2,
            estimated / ROWS / 2
        );
        if !(estimated * 3 / 4..=estimated * 5 / 4).contains(&taken) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a thread holds to search counts for the process, as long as it lives.
#[test]
fn what_threads_hold_to_search_counts() {
    const NODES: u64 = 20_000;
    const EF: usize = 1_000;
    let process = Memory::of_process(Some(1 << 40), None);
    let mut random = Random(8);
    let (_writer, snapshot) = linked(spec(4, Metric::L2), (0..NODES).map(|_| random.vector(4)));
    let query = Vector::new(vec![0.0; 4]).unwrap();
    // A bit for each node, and the numbers of those that were visited. Other tests' threads come and go.
    let counted = || {
        let before = process.used();
        let found = snapshot.search(&query, 10, EF).unwrap();
        assert!(found.distances < NODES, "searched by a scan");
        process.used().saturating_sub(before) >= NODES / 8 + 4 * EF as u64
    };
    wait_until("what a thread holds to count", || {
        std::thread::scope(|scope| scope.spawn(counted).join().unwrap())
    });
}
