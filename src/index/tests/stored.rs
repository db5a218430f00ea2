//! An index written down and loaded again: it searches as before, goes on, and never takes in what cannot be.

use super::*;
use crate::catalog::Storage;

fn delete(number: u64) -> RowChange {
    RowChange::Delete { key: key(number) }
}

/// What storing keeps of an index: rows by place, and the graph.
struct Stored {
    rows: Vec<(Place, Vec<u8>, Vec<f32>)>,
    graph: Option<Vec<u8>>,
}

fn store(snapshot: &Snapshot) -> Stored {
    let rows = snapshot.rows().map(|row| {
        let vector = snapshot.vector(row).unwrap().to_vec();
        (row.place(), snapshot.key(row).unwrap().to_vec(), vector)
    });
    let graph = snapshot.graph().map(|graph| {
        let mut bytes = Vec::new();
        graph.write(&mut bytes).unwrap();
        bytes
    });
    Stored {
        rows: rows.collect(),
        graph,
    }
}

/// The index again; the graph, if given, must fit.
fn load(spec: IndexSpec, stored: &Stored, graph: Option<&GraphImage>) -> Writer {
    let mut loader = Loader::new(spec, graph).unwrap();
    for (place, key, vector) in &stored.rows {
        let vector = Ok(Vector::from_words(spec.form(), vector.clone()).unwrap());
        loader
            .row(*place, &RowKey::from_encoded(key), &vector, &[])
            .unwrap();
    }
    if let Some(graph) = graph {
        loader.adopt(graph).unwrap();
    }
    loader.finish()
}

/// An index with clusters, copies of rows, and rows that were replaced or deleted after they were linked.
fn lived_in(spec: IndexSpec, seed: u64) -> (Writer, Arc<Snapshot>) {
    let mut next = clusters(spec, seed);
    let mut vectors: Vec<_> = (0..5000).map(|_| next()).collect();
    let copies: Vec<_> = (0..300).map(|number| vectors[number % 7].clone()).collect();
    vectors.extend(copies);
    let (mut writer, _) = linked(spec, vectors.into_iter());
    for number in (0..5000).step_by(5) {
        let change = if number % 2 == 0 {
            delete(number)
        } else {
            set(number, Vector::from_words(spec.form(), next()).unwrap())
        };
        writer.apply(change).unwrap();
    }
    let snapshot = writer.publish(Lsn::new(2));
    wait_until("linking", || snapshot.stats().unlinked == 0);
    (writer, snapshot)
}

#[test]
fn a_loaded_index_searches_as_the_one_that_was_stored() {
    for metric in Metric::OF_NUMBERS.into_iter().chain(Metric::OF_BITS) {
        let spec = spec(24, metric);
        let (_writer, snapshot) = lived_in(spec, 5);
        let stored = store(&snapshot);
        let graph = GraphImage::read(stored.graph.as_ref().unwrap(), &spec).unwrap();
        let mut writer = load(spec, &stored, Some(&graph));
        let loaded = writer.publish(Lsn::new(3));
        assert_eq!(loaded.stats().unlinked, 0, "{metric:?}");
        assert_eq!(loaded.stats().live, snapshot.stats().live);
        assert_eq!(loaded.stats().dead, snapshot.stats().dead);
        let curve = |snapshot: &Snapshot| snapshot.view().dial().curve().unwrap();
        assert_eq!(curve(&loaded), curve(&snapshot), "{metric:?}");
        let mut queries = clusters(spec, 6);
        for _ in 0..100 {
            let query = Vector::from_words(spec.form(), queries()).unwrap();
            let before = snapshot.search(&query, 10, 64).unwrap();
            let after = loaded.search(&query, 10, 64).unwrap();
            assert_eq!(before.neighbors, after.neighbors, "{metric:?}");
            assert_eq!(before.distances, after.distances, "the same walk");
        }
        // Stored again it is the same, byte for byte.
        assert_eq!(store(&loaded).graph, stored.graph);
    }
}

/// Where codes are all that is kept, rows that were stored before there were codes are stored again.
#[test]
fn rows_that_became_codes_are_stored_anew() {
    let mut spec = spec(24, Metric::Cosine);
    spec.options.storage = Storage::I8;
    let mut next = clusters(spec, 23);
    let mut vectors = || -> Vec<f32> { next().into_iter().map(|x| 10.0 * x).collect() };
    let mut writer = Writer::new(spec).unwrap();
    let early: Vec<_> = (0..1_500).map(|_| vectors()).collect();
    for (number, vector) in (0..).zip(&early) {
        writer.apply(upsert(number, vector.clone())).unwrap();
    }
    let mut stored = store(&writer.publish(Lsn::new(1)));
    assert_eq!(writer.take_changed().places().count(), 1_500);
    for number in 1_500..6_000 {
        writer.apply(upsert(number, vectors())).unwrap();
    }
    let snapshot = writer.publish(Lsn::new(2));
    wait_until("linking", || snapshot.stats().unlinked == 0);
    let (changed, now) = (writer.take_changed(), store(&snapshot));
    stored.rows.retain(|(place, ..)| !changed.contains(*place));
    let changes = now.rows.into_iter();
    stored
        .rows
        .extend(changes.filter(|(place, ..)| changed.contains(*place)));
    assert_eq!(stored.rows.len(), 6_000);
    let graph = GraphImage::read(now.graph.as_ref().unwrap(), &spec).unwrap();
    let loaded = load(spec, &stored, Some(&graph)).publish(Lsn::new(3));
    let finds_itself = |(number, vector): &(u64, &Vec<f32>)| {
        let found = loaded.search(&Vector::new((*vector).clone()).unwrap(), 10, 64);
        let own = key(*number);
        let mut keys = found
            .unwrap()
            .neighbors
            .into_iter()
            .filter_map(|near| loaded.key(near.row));
        keys.any(|key| key == own.as_bytes())
    };
    let found = (0..).zip(&early).filter(finds_itself).count();
    assert!(found > 1_480, "{found} of 1500 rows");
}

#[test]
fn a_loaded_index_goes_on() {
    let spec = spec(24, Metric::L2);
    let (_writer, snapshot) = lived_in(spec, 7);
    let stored = store(&snapshot);
    let graph = GraphImage::read(stored.graph.as_ref().unwrap(), &spec).unwrap();
    let mut writer = load(spec, &stored, Some(&graph));
    let mut clusters = Clusters::new(8, 24);
    let mut model: std::collections::BTreeMap<Vec<u8>, Vec<f32>> = stored
        .rows
        .iter()
        .map(|(_, key, vector)| (key.clone(), vector.clone()))
        .collect();
    // Enough that ids come back and the graph is rebuilt, dead nodes and all.
    for round in 0..6 {
        for number in 0..2000 {
            let (number, vector) = (number * 3 % 7001, clusters.next());
            model.insert(key(number).as_bytes().to_vec(), vector.clone());
            writer.apply(upsert(number, vector)).unwrap();
        }
        let snapshot = writer.publish(Lsn::new(10 + round));
        wait_until("linking", || snapshot.stats().unlinked == 0);
    }
    wait_until("a rebuild", || {
        let stats = writer.publish(Lsn::new(20)).stats();
        stats.unlinked == 0 && stats.dead < stats.live
    });
    let snapshot = writer.publish(Lsn::new(21));
    let found: std::collections::BTreeMap<_, _> = snapshot
        .rows()
        .map(|row| {
            let vector = snapshot.vector(row).unwrap().to_vec();
            (snapshot.key(row).unwrap().to_vec(), vector)
        })
        .collect();
    assert!(found == model);
    let queries: Vec<_> = (0..100).map(|_| clusters.next()).collect();
    let recall = recall(&snapshot, &queries, 10, 100);
    assert!(recall > 0.95, "{recall}");
}

#[test]
fn a_graph_is_stored_while_it_is_linked() {
    let spec = spec(16, Metric::L2);
    let mut clusters = Clusters::new(9, 16);
    let mut writer = Writer::new(spec).unwrap();
    for round in 0..30 {
        for number in 0..500 {
            let number = round * 500 + number;
            writer.apply(upsert(number, clusters.next())).unwrap();
        }
        let snapshot = writer.publish(Lsn::new(round + 1));
        if round < 6 {
            continue; // too few to be linked
        }
        wait_until("a graph", || snapshot.graph().is_some());
        let stored = store(&snapshot);
        let bytes = stored.graph.as_ref().unwrap();
        let graph = GraphImage::read(bytes, &spec).unwrap();
        let loaded = load(spec, &stored, Some(&graph)).publish(Lsn::new(1));
        let query = Vector::new(clusters.next()).unwrap();
        let exact = snapshot.search_exact(&query, 10).unwrap();
        assert_eq!(
            loaded.search_exact(&query, 10).unwrap().neighbors,
            exact.neighbors
        );
        assert_eq!(loaded.search(&query, 10, 64).unwrap().neighbors.len(), 10);
    }
}

/// The file's checksum keeps damage away; were it to fail, no byte may lead a walk out of the graph.
#[test]
fn no_damage_leads_a_walk_astray() {
    let spec = spec(8, Metric::L2);
    let (_writer, snapshot) = lived_in(spec, 11);
    let stored = store(&snapshot);
    let bytes = stored.graph.as_ref().unwrap();
    for length in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
        assert!(GraphImage::read(&bytes[..length], &spec).is_err());
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(GraphImage::read(&longer, &spec).is_err());
    for (m, metric) in [(8, Metric::L2), (16, Metric::Cosine)] {
        let mut other = spec;
        other.options.m = m;
        other.metric = metric;
        assert!(GraphImage::read(bytes, &other).is_err());
    }
    let (mut random, mut taken) = (Random(12), 0);
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        for _ in 0..=random.below(3) {
            let at = random.index(damaged.len());
            damaged[at] ^= 1 << random.below(8);
        }
        let Ok(graph) = GraphImage::read(&damaged, &spec) else {
            continue;
        };
        let mut loader = Loader::new(spec, Some(&graph)).unwrap();
        for (place, key, vector) in &stored.rows {
            let vector = Ok(Vector::new(vector.clone()).unwrap());
            loader
                .row(*place, &RowKey::from_encoded(key), &vector, &[])
                .unwrap();
        }
        taken += u32::from(loader.adopt(&graph).is_ok());
        let loaded = loader.finish().publish(Lsn::new(1));
        for _ in 0..20 {
            let query = Vector::new(random.vector(8)).unwrap();
            let found = loaded.search(&query, 10, 100).unwrap();
            assert_eq!(found.neighbors.len(), 10);
        }
    }
    assert!(taken > 0, "links that lead elsewhere are not damage");
}

#[test]
fn what_cannot_have_been_stored_is_refused() {
    let mut spec = spec(2, Metric::Cosine);
    spec.include = 1;
    let vector = |components: &[f32]| Ok(Vector::new(components.to_vec()).unwrap());
    let null = [ColumnChange::Null];
    let mut loader = Loader::new(spec, None).unwrap();
    let mut row = |place, number, vector, include: &[ColumnChange]| {
        loader.row(place, &key(number), &vector, include).is_ok()
    };
    assert!(row(Place::Row(3), 1, vector(&[1.0, 2.0]), &null));
    assert!(row(Place::LeftOut(2), 2, Err(LeftOut::Null), &null));
    assert!(
        !row(Place::Row(3), 3, vector(&[1.0, 2.0]), &null),
        "a place twice"
    );
    assert!(
        !row(Place::LeftOut(2), 3, Err(LeftOut::Null), &null),
        "a slot twice"
    );
    assert!(
        !row(Place::Row(4), 1, vector(&[1.0, 2.0]), &null),
        "a key twice"
    );
    assert!(
        !row(Place::Row(4), 3, vector(&[1.0]), &null),
        "another dimension"
    );
    assert!(
        !row(Place::Row(4), 3, vector(&[0.0, 0.0]), &null),
        "no direction"
    );
    assert!(
        !row(Place::Row(4), 3, vector(&[1.0, 2.0]), &[]),
        "other columns"
    );
    assert!(!row(
        Place::Row(4),
        3,
        vector(&[1.0, 2.0]),
        &[ColumnChange::Unchanged]
    ));
    assert!(
        !row(Place::Row(4), 3, Err(LeftOut::Zero), &null),
        "another kind"
    );
    assert!(!row(Place::LeftOut(4), 3, vector(&[1.0, 2.0]), &null));
    assert!(
        !row(Place::Row(1 << 31), 3, vector(&[1.0, 2.0]), &null),
        "no such row"
    );
    assert!(!row(
        Place::LeftOut((1 << 31) - 1),
        3,
        Err(LeftOut::Null),
        &null
    ));
    let mut writer = loader.finish();
    let snapshot = writer.publish(Lsn::new(1));
    assert_eq!((snapshot.stats().live, snapshot.stats().left_out), (1, 1));
    // What lies between is used, and told as changed; what was loaded is not.
    assert!(writer.take_changed().is_empty());
    for number in 10..16 {
        let mut change = upsert(number, vec![1.0, 3.0]);
        if let RowChange::Upsert { include, .. } = &mut change {
            include.push(ColumnChange::Null);
        }
        writer.apply(change).unwrap();
    }
    let mut changed: Vec<_> = writer.take_changed().places().collect();
    changed.sort_unstable();
    let free = [0, 1, 2, 4, 5, 6].map(Place::Row);
    assert_eq!(changed, free);
}

/// An index most of whose codes were laid out, with rows that came after that, and dead ones among all.
fn laid_out(spec: IndexSpec) -> (Writer, Arc<Snapshot>) {
    let mut next = clusters(spec, 21);
    let (mut writer, mut snapshot) = linked(spec, (0..6000).map(|_| next()));
    let mut lsn = 1;
    wait_until("a layout", || {
        lsn += 1;
        snapshot = writer.publish(Lsn::new(lsn));
        !snapshot.stats().scattered && snapshot.stats().unlinked == 0
    });
    for number in (0..6600).step_by(5) {
        let change = if number % 2 == 0 && number < 6000 {
            delete(number)
        } else {
            set(number, Vector::from_words(spec.form(), next()).unwrap())
        };
        writer.apply(change).unwrap();
    }
    let snapshot = writer.publish(Lsn::new(lsn + 1));
    wait_until("linking", || snapshot.stats().unlinked == 0);
    (writer, snapshot)
}

#[test]
fn what_was_laid_out_is_loaded_as_it_lay() {
    for storage in [Storage::F32, Storage::I8] {
        let mut spec = spec(24, Metric::L2);
        spec.options.storage = storage;
        let (_writer, snapshot) = laid_out(spec);
        let stored = store(&snapshot);
        let graph = GraphImage::read(stored.graph.as_ref().unwrap(), &spec).unwrap();
        let mut writer = load(spec, &stored, Some(&graph));
        let loaded = writer.publish(Lsn::new(1));
        let stats = loaded.stats();
        assert!(!stats.scattered, "it would be laid out again");
        assert_eq!(stats.unlinked, 0);
        assert_eq!(stats.live, snapshot.stats().live);
        let (mut queries, mut same) = (clusters(spec, 22), 0);
        for _ in 0..200 {
            let query = Vector::new(queries()).unwrap();
            let before = snapshot.search(&query, 10, 64).unwrap();
            let after = loaded.search(&query, 10, 64).unwrap();
            let walk = |found: &Found| (found.neighbors.clone(), found.distances);
            same += usize::from(walk(&before) == walk(&after));
        }
        // Where codes are all there is, they are read and coded again: in the last bits of a scale they may differ.
        let least = if storage == Storage::I8 { 180 } else { 200 };
        assert!(
            same >= least,
            "{storage:?}: {same} of 200 walks are the same"
        );
        assert_eq!(store(&loaded).graph, stored.graph, "{storage:?}");
        // Rows go on coming, to ids and places that were in use and to others.
        for number in 0..3000 {
            writer.apply(upsert(number * 3, queries())).unwrap();
        }
        let snapshot = writer.publish(Lsn::new(2));
        wait_until("linking", || snapshot.stats().unlinked == 0);
        let queries: Vec<_> = (0..100).map(|_| queries()).collect();
        let recall = recall(&snapshot, &queries, 10, 100);
        assert!(recall > 0.95, "{storage:?}: {recall}");
    }
}

#[test]
fn a_layout_that_cannot_be_is_refused_and_one_that_does_not_fit_does_no_harm() {
    let spec = spec(24, Metric::L2);
    let (_writer, snapshot) = laid_out(spec);
    let stored = store(&snapshot);
    let bytes = stored.graph.as_ref().unwrap();
    /// Behind the magic and six other numbers.
    const LAID_OUT: usize = 8 + 6 * 4;
    let with = |laid_out: u32| {
        let mut bytes = bytes.clone();
        bytes[LAID_OUT..LAID_OUT + 4].copy_from_slice(&laid_out.to_le_bytes());
        GraphImage::read(&bytes, &spec)
    };
    let graph = GraphImage::read(bytes, &spec).unwrap();
    assert!(with(graph.nodes()).is_ok());
    assert!(with(graph.nodes() + 1).is_err());
    // A row is there that was dead: the graph is not taken, and rows lie where it said.
    let mut loader = Loader::new(spec, Some(&graph)).unwrap();
    let there: Vec<Place> = stored.rows.iter().map(|(place, ..)| *place).collect();
    let dead = (0..).map(Place::Row).find(|place| !there.contains(place));
    let again = (dead.unwrap(), vec![7; 9], stored.rows[0].2.clone());
    for (place, key, vector) in stored.rows.iter().chain([&again]) {
        let vector = Ok(Vector::new(vector.clone()).unwrap());
        loader
            .row(*place, &RowKey::from_encoded(key), &vector, &[])
            .unwrap();
    }
    assert!(loader.adopt(&graph).is_err());
    let mut writer = loader.finish();
    let loaded = writer.publish(Lsn::new(1));
    wait_until("linking", || loaded.stats().unlinked == 0);
    for (_, key, vector) in stored.rows.iter().step_by(20) {
        let query = Vector::new(vector.clone()).unwrap();
        let found = loaded.search(&query, 10, 64).unwrap().neighbors;
        assert_eq!(found.len(), 10);
        let nearest = found.iter().map(|n| loaded.key(n.row).unwrap());
        assert!(nearest.into_iter().any(|found| found == key), "{found:?}");
    }
}
