//! The applier against a model of the table: whatever the order of transactions, of copies, of what passes by and is read from
//! the journal, and of failures, an index that serves holds exactly the rows of the position that it claims.

mod engine;
mod history;
mod rows;
mod trial;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::catalog::{
    ColumnNumber, IncludeColumn, IndexDefinition, IndexId, IndexOptions, KeyColumn, KeyType,
    PgvectorTypes, QualifiedName, RelationId, RowKey, TypeId, VectorColumn,
};
use crate::index::Writer;
use crate::index::view::{IndexState, Phase};
use crate::ingest::catch_up::CatchUp;
use crate::ingest::indexes::{CatchUpOrder, CopiedIndex, CopyOrder, spec};
use crate::ingest::mending::{self, Request, Settled};
use crate::ingest::projection::{Projection, table_copy};
use crate::ingest::{keep, restore};
use crate::store::{Directory, Hold, Origin};
use crate::upstream::catalogue::IndexEntry;
use crate::upstream::rows::PgSnapshot;
use crate::vector::{Dim, Expression, Metric, Vector, VectorType};
use crate::wal::pgoutput::{Datum, OldTuple, RelationColumn};
use crate::wal::transaction::{Change, RowImage};
use history::{Choices, Committed, history, row_key, rows_at, tuple};
use trial::{Trial, join_at_once};

pub(crate) const VECTOR: TypeId = TypeId(16_000);
pub(crate) const TABLE: RelationId = RelationId(7);

type Row = (Option<[f32; 2]>, i32);
type Rows = BTreeMap<i32, Row>;

pub(crate) fn entry(id: i64, metric: Metric) -> IndexEntry {
    let name = |name: &str| QualifiedName {
        schema: "public".into(),
        name: name.into(),
    };
    let definition = IndexDefinition {
        id: IndexId(id),
        name: name("i"),
        relation: TABLE,
        table: name("t"),
        column: VectorColumn {
            name: "v".into(),
            number: ColumnNumber(2),
            kind: VectorType::Vector,
            type_id: VECTOR,
        },
        expression: Expression::Column,
        pgvector: PgvectorTypes::default(),
        dim: Dim::new(2).unwrap(),
        metric,
        key: vec![KeyColumn {
            name: "id".into(),
            number: ColumnNumber(1),
            kind: KeyType::Int4,
        }],
        include: vec![IncludeColumn {
            name: "p".into(),
            number: ColumnNumber(3),
            type_id: TypeId(23),
            deterministic: true,
        }],
        options: IndexOptions::default(),
    };
    IndexEntry {
        definition: Arc::new(definition),
        unusable: None,
        reindexed: 0,
        written: String::new(),
        file: 0,
        shape: crate::upstream::catalogue::Shape::default(),
        stamp: String::new(),
        row_filter: None,
        partitions: Vec::new(),
    }
}

fn relation() -> Arc<Relation> {
    let column = |name: &str, type_id| RelationColumn {
        key: name == "id",
        name: name.into(),
        type_id,
        type_modifier: -1,
    };
    Arc::new(Relation {
        id: TABLE,
        schema: "public".into(),
        name: "t".into(),
        replica_identity: b'd',
        columns: vec![
            column("id", TypeId(23)),
            column("v", VECTOR),
            column("p", TypeId(23)),
        ],
    })
}

pub(crate) fn int(number: i32) -> Datum {
    Datum::Binary(Bytes::copy_from_slice(&number.to_be_bytes()))
}

pub(crate) fn vector(value: Option<[f32; 2]>) -> Datum {
    value.map_or(Datum::Null, |v| {
        let vector = Vector::new(v.to_vec()).unwrap();
        Datum::Binary(vector.to_binary(VectorType::Vector).into())
    })
}

/// The number of a transaction of the history.
fn xid(number: usize) -> u32 {
    u32::try_from(number).unwrap() + 10
}

fn copied(entry: &IndexEntry, rows: &Rows) -> CopiedIndex {
    let (_, relation) = table_copy(&[&entry.definition], None);
    let projection = Projection::new(&entry.definition, &relation).unwrap();
    let mut writer = Writer::new(spec(&entry.definition)).unwrap();
    for (key, row) in rows {
        let new = vec![int(*key), vector(row.0), int(row.1)];
        let change = Change {
            commit_lsn: Lsn::ZERO,
            relation: Arc::clone(&relation),
            row: RowImage::Insert { new },
        };
        writer.apply(projection.change(&change).unwrap()).unwrap();
    }
    CopiedIndex {
        entry: entry.clone(),
        writer,
        left_out: 0,
    }
}

/// What an index must hold: rows with a vector that its metric can index.
fn findable(rows: Rows, metric: Metric) -> BTreeMap<RowKey, (Vec<f32>, i32)> {
    let rows = rows.into_iter().filter_map(|(key, (vector, number))| {
        let vector = vector?;
        let zero = metric == Metric::Cosine && vector == [0.0, 0.0];
        let key = row_key(key);
        (!zero).then(|| (key, (vector.to_vec(), number)))
    });
    rows.collect()
}

fn held(index: &IndexState) -> Option<BTreeMap<RowKey, (Vec<f32>, i32)>> {
    let snapshot = index.snapshot.as_ref()?;
    let rows = snapshot.rows().map(|row| {
        let number = snapshot.include(row, 0).unwrap().try_into().unwrap();
        (
            RowKey::from_encoded(snapshot.key(row).unwrap()),
            (
                snapshot.vector(row).unwrap().to_vec(),
                i32::from_be_bytes(number),
            ),
        )
    });
    Some(rows.collect())
}

proptest! {
    // Shrinking builds indexes over and over: a failure should show within seconds.
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn an_index_holds_the_rows_of_its_position(script in proptest::collection::vec(any::<u32>(), 40..400)) {
        let mut choices = Choices(script.iter().cycle());
        let history = history(&mut choices, &relation());
        let mut trial = Trial::new(history);
        for number in 0..trial.history.len() {
            trial.anything(number, &mut choices);
            match choices.below(12) {
                0 | 1 => trial.keep(),
                2 => trial.restart(number),
                _ => {}
            }
            if choices.below(5) == 0 {
                // A failure of the journal: the stream tells again what the applier has.
                trial.stream(number.saturating_sub(1), &mut choices);
            }
            trial.stream(number, &mut choices);
            for _ in 0..choices.below(3) {
                trial.anything(number + 1, &mut choices);
            }
        }
        // Whatever happened, copies and the journal alone lead back to complete indexes.
        let last = trial.history.len() - 1;
        let calm = [2]; // nothing fails, and all is read
        let mut calm = Choices(calm.iter().cycle());
        trial.copy_until_ready(last, &mut calm);
        trial.check();
    }
}
