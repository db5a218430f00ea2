//! The engine against a model that remembers everything and searches by brute force.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::*;
use crate::catalog::{Method, RowKey};
use crate::lsn::Lsn;
use crate::vector::Vector;

const DIM: usize = 5;
const COLUMNS: usize = 2;

fn spec(metric: Metric, method: Method) -> IndexSpec {
    IndexSpec {
        dim: Dim::new(DIM).unwrap(),
        metric,
        options: IndexOptions {
            method,
            ..IndexOptions::default()
        },
        include: COLUMNS,
    }
}

fn key(number: u8) -> RowKey {
    // of several lengths, so that keys share prefixes
    RowKey::from_parts([&b"kkkkkkkkk"[..usize::from(number % 10)], &[number]])
}

type Columns = [Option<Vec<u8>>; COLUMNS];

/// A table: key → vector or why not, and columns.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model(BTreeMap<RowKey, (Result<Vec<f32>, LeftOut>, Columns)>);

impl Model {
    fn apply(&mut self, change: &RowChange, metric: Metric) -> Outcome {
        let (old_key, key, vector, include) = match change {
            RowChange::Upsert {
                old_key,
                key,
                vector,
                include,
            } => (old_key, key, vector, include),
            RowChange::Delete { key } => {
                self.0.remove(key);
                return Outcome::Removed;
            }
            RowChange::Truncate => {
                self.0.clear();
                return Outcome::Removed;
            }
        };
        let old = old_key.as_ref().and_then(|old| self.0.get(old));
        let source = self.0.get(key).or(old).cloned();
        let unchanged = matches!(vector, VectorChange::Unchanged)
            || include
                .iter()
                .any(|column| matches!(column, ColumnChange::Unchanged));
        if unchanged && source.is_none() {
            return Outcome::Unknown;
        }
        let vector = match vector {
            VectorChange::Set(vector) if vector.dim() != DIM => Err(LeftOut::WrongDimension),
            VectorChange::Set(vector) if metric == Metric::Cosine && vector.is_zero() => {
                Err(LeftOut::Zero)
            }
            VectorChange::Set(vector) => Ok(vector.as_slice().to_vec()),
            VectorChange::LeftOut(reason) => Err(*reason),
            VectorChange::Unchanged => source.clone().unwrap().0,
        };
        let columns = std::array::from_fn(|column| match &include[column] {
            ColumnChange::Set(value) => Some(value.to_vec()),
            ColumnChange::Null => None,
            ColumnChange::Unchanged => source.as_ref().unwrap().1[column].clone(),
        });
        let outcome = vector
            .as_ref()
            .map_or_else(|reason| Outcome::LeftOut(*reason), |_| Outcome::Indexed);
        if let Some(old) = old_key {
            self.0.remove(old);
        }
        self.0.insert(key.clone(), (vector, columns));
        outcome
    }

    /// Exactly the rows, keys and columns, and exact searches.
    fn check(&self, snapshot: &Snapshot, query: &[f32]) {
        let mut found = BTreeMap::new();
        for row in snapshot.rows() {
            let key = RowKey::from_encoded(snapshot.key(row).unwrap());
            let columns: Columns =
                std::array::from_fn(|column| snapshot.include(row, column).map(<[u8]>::to_vec));
            let vector = snapshot.vector(row).unwrap().to_vec();
            assert!(
                found.insert(key, (Ok(vector), columns)).is_none(),
                "a key twice"
            );
        }
        let findable =
            |(_, (vector, _)): &(&RowKey, &(Result<Vec<f32>, LeftOut>, Columns))| vector.is_ok();
        let expected: BTreeMap<_, _> = self
            .0
            .iter()
            .filter(findable)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(found, expected);
        let stats = snapshot.stats();
        assert_eq!(stats.live, expected.len() as u64);
        assert_eq!(stats.left_out, (self.0.len() - expected.len()) as u64);

        let metric = snapshot.spec().metric;
        let query = Vector::new(query.to_vec()).unwrap();
        let mut distances: Vec<f64> = expected
            .values()
            .map(|(vector, _)| metric.distance(query.as_slice(), vector.as_ref().unwrap()))
            .collect();
        distances.sort_by(f64::total_cmp);
        for k in [0, 1, 3, expected.len(), expected.len() + 1] {
            for found in [
                snapshot.search(&query, k, 1).unwrap(),
                snapshot.search_exact(&query, k).unwrap(),
            ] {
                assert_eq!(found.neighbors.len(), k.min(expected.len()));
                assert_eq!(found.exhausted, k >= expected.len());
                let mut rows: Vec<RowId> = found
                    .neighbors
                    .iter()
                    .map(|neighbor| neighbor.row)
                    .collect();
                for (neighbor, expected) in found.neighbors.iter().zip(&distances) {
                    let stored = snapshot.vector(neighbor.row).unwrap();
                    let own = metric.distance(query.as_slice(), &stored);
                    for distance in [own, *expected] {
                        let near = (f64::from(neighbor.distance) - distance).abs()
                            <= 1e-3 + 1e-4 * distance.abs();
                        assert!(
                            near || metric == Metric::Cosine && query.is_zero(),
                            "{neighbor:?} is not at {distance}"
                        );
                    }
                }
                rows.sort_unstable();
                rows.dedup();
                assert_eq!(rows.len(), found.neighbors.len(), "a row twice");
            }
        }
    }
}

fn vector_change() -> impl Strategy<Value = VectorChange> {
    let component = prop_oneof![
        Just(0.0_f32),
        (-4_i8..4).prop_map(f32::from),
        -10.0_f32..10.0
    ];
    let set = |dim| {
        proptest::collection::vec(component.clone(), dim)
            .prop_map(|c| VectorChange::Set(Vector::new(c).unwrap()))
    };
    prop_oneof![
        8 => set(DIM),
        1 => set(DIM + 1),
        1 => Just(VectorChange::LeftOut(LeftOut::Null)),
        1 => Just(VectorChange::LeftOut(LeftOut::NotFinite)),
        1 => Just(VectorChange::Set(Vector::new(vec![0.0; DIM]).unwrap())),
        4 => Just(VectorChange::Unchanged),
    ]
}

fn column_change() -> impl Strategy<Value = ColumnChange> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..4)
            .prop_map(|value| ColumnChange::Set(value.into())),
        Just(ColumnChange::Null),
        Just(ColumnChange::Unchanged),
    ]
}

fn row_change() -> impl Strategy<Value = RowChange> {
    let keys = || (0_u8..30).prop_map(key);
    let upsert = |old_key: BoxedStrategy<Option<RowKey>>| {
        let include = proptest::collection::vec(column_change(), COLUMNS);
        (old_key, keys(), vector_change(), include).prop_map(|(old_key, key, vector, include)| {
            RowChange::Upsert {
                old_key,
                key,
                vector,
                include,
            }
        })
    };
    prop_oneof![
        20 => upsert(Just(None).boxed()),
        4 => upsert(keys().prop_map(Some).boxed()),
        6 => keys().prop_map(|key| RowChange::Delete { key }),
        1 => Just(RowChange::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_changes_leave_what_the_model_has(
        metric in proptest::sample::select(&Metric::OF_NUMBERS[..]),
        method in prop_oneof![Just(Method::Hnsw), Just(Method::Flat)],
        in_files in any::<bool>(),
        transactions in proptest::collection::vec(proptest::collection::vec(row_change(), 0..12), 1..30),
        query in proptest::collection::vec(-5.0_f32..5.0, DIM),
    ) {
        let memory = if in_files { super::with_files() } else { Memory::unlimited() };
        let mut writer = Writer::within(spec(metric, method), &memory).unwrap();
        let mut model = Model::default();
        let mut held: Vec<(Arc<Snapshot>, Model)> = Vec::new();
        for (number, transaction) in transactions.iter().enumerate() {
            for change in transaction {
                prop_assert_eq!(writer.apply(change.clone()).unwrap(), model.apply(change, metric));
            }
            let lsn = Lsn::new(number as u64);
            let snapshot = writer.publish(lsn);
            prop_assert_eq!(snapshot.lsn(), lsn);
            model.check(&snapshot, &query);
            if number % 3 == 0 {
                held.push((snapshot, model.clone()));
            }
            if held.len() > 4 {
                held.remove(0);
            }
        }
        drop(writer);
        for (snapshot, model) in &held {
            model.check(snapshot, &query);
        }
    }
}

#[test]
fn a_change_twice_is_the_same_as_once() {
    let mut writer = Writer::new(spec(Metric::L2, Method::Hnsw)).unwrap();
    let upsert = |old_key: Option<u8>, number: u8, vector: VectorChange| RowChange::Upsert {
        old_key: old_key.map(key),
        key: key(number),
        vector,
        include: vec![ColumnChange::Null, ColumnChange::Null],
    };
    let set = VectorChange::Set(Vector::new(vec![1.0; DIM]).unwrap());
    for change in [
        upsert(None, 1, set),
        upsert(Some(1), 2, VectorChange::Unchanged),
        RowChange::Delete { key: key(3) },
    ] {
        let first = writer.apply(change.clone()).unwrap();
        assert_eq!(writer.apply(change).unwrap(), first);
    }
    let snapshot = writer.publish(Lsn::new(1));
    let keys: Vec<_> = snapshot
        .rows()
        .filter_map(|row| snapshot.key(row))
        .collect();
    assert_eq!(keys, [key(2).as_bytes()]);
}

#[test]
fn threads_may_share_a_snapshot_and_hand_on_a_writer() {
    fn check<S: Send + Sync, W: Send>() {}
    check::<Snapshot, Writer>();
}

#[test]
fn what_does_not_fit_is_refused() {
    for (m, ef_construction) in [(1, 100), (101, 202), (16, 3), (16, 1_001)] {
        let mut spec = spec(Metric::L2, Method::Hnsw);
        spec.options = IndexOptions {
            m,
            ef_construction,
            ..spec.options
        };
        assert!(Writer::new(spec).is_err());
    }
    let mut writer = Writer::new(spec(Metric::L2, Method::Hnsw)).unwrap();
    let change = RowChange::Upsert {
        old_key: None,
        key: key(1),
        vector: VectorChange::LeftOut(LeftOut::Null),
        include: vec![],
    };
    assert!(writer.apply(change).is_err());
    let query = Vector::new(vec![1.0; DIM + 1]).unwrap();
    let snapshot = writer.publish(Lsn::ZERO);
    assert!(snapshot.search(&query, 1, 1).is_err());
    assert!(snapshot.search_exact(&query, 1).is_err());
}
