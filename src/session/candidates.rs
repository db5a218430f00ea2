//! An index and a request → the keys to propose, as binary arrays. Never decides whether they are enough.

use std::sync::Arc;

use bytes::Bytes;

use super::request::Request;
use crate::catalog;
use crate::index::view::IndexState;
use crate::index::{Effort, Filter, Found, Snapshot};
use crate::vector::Vector;

/// Candidates beyond k + offset, and one for each ten of those: so many may have moved upstream since they were indexed
/// without costing the last place. Each costs Postgres 3–5 µs, and where they are not enough the answer is short and widened.
const MARGIN: usize = 2;
/// Candidates are multiplied by this at most while the answer is short …
pub(super) const WIDENING: usize = 4;
/// … and by this at least. Half as many again as would have been enough if rows match evenly: most often one more attempt is.
const RESERVE: f64 = 1.5;
/// Widening ends at this share of the table: from there on a scan is as good.
const WIDEST_SHARE: usize = 50;
/// Widening goes at least this far, however small the table is.
const LEAST_WIDEST: usize = 500;
/// Most keys that are proposed for all vectors of a statement together: each costs Postgres 2–5 µs.
const MAX_BATCH_KEYS: usize = 20_000;
/// Elements that Postgres expects of an array whose value it does not know (`estimate_array_length`). Where fewer keys are
/// bound, a plan made for them is cheaper by its estimate than the general one, so that Postgres plans the statement anew at
/// every execution: 13 µs, half of what fetching so few rows takes.
const EXPECTED_KEYS: usize = 10;
/// Candidates above which a search leaves the session's thread: it takes a millisecond and more.
const INLINE_CANDIDATES: usize = 400;

/// What is asked and of which index, settled before the first attempt.
pub(super) struct Search {
    pub(super) index: Arc<IndexState>,
    pub(super) request: Request,
    pub(super) effort: Effort,
}

impl Search {
    /// Candidates of a first attempt.
    pub(super) fn least(&self) -> usize {
        let wanted = self.request.wanted;
        wanted + wanted / 10 + MARGIN
    }

    /// Most candidates of a vector that are worth proposing.
    pub(super) fn widest(&self) -> usize {
        let share = MAX_BATCH_KEYS / self.request.vectors.len().max(1);
        let widest = match self.request.batch {
            Some(_) => widest(&self.index).min(share),
            None => widest(&self.index),
        };
        widest.max(self.least())
    }

    /// Whether so many are proposed at once that Postgres had better do without.
    pub(super) fn is_too_large(&self) -> bool {
        let keys = self.least().saturating_mul(self.request.vectors.len());
        self.request.batch.is_some() && keys > MAX_BATCH_KEYS
    }

    /// The same of another state of the index.
    pub(super) fn on(&self, index: Arc<IndexState>) -> Self {
        Self {
            index,
            request: self.request.clone(),
            effort: self.effort,
        }
    }

    /// Whether Postgres is known to show all that this state of the index has.
    pub(super) fn is_settled(&self) -> bool {
        let snapshot = self.index.snapshot.as_ref();
        snapshot.is_some_and(|snapshot| snapshot.is_settled())
    }

    /// Whether these rows, which are all that the index has, cannot be enough.
    pub(super) fn is_short_of(&self, found: &Proposed) -> bool {
        let is_one = self.request.batch.is_none();
        is_one && found.exhausted && found.count() < self.request.wanted
    }

    /// The query as a value of the indexed column's type, or the queries as an array of those.
    pub(super) fn query_in_binary(&self) -> Vec<u8> {
        let column = &self.index.definition.column;
        let vectors = &self.request.vectors;
        let mut values = vectors.iter().map(|vector| vector.to_binary(column.kind));
        if self.request.batch.is_none() {
            return values.next().unwrap_or_default();
        }
        let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let header = [1, 0, column.type_id.0, number(vectors.len()), 1];
        let mut array: Vec<u8> = header.into_iter().flat_map(u32::to_be_bytes).collect();
        for value in values {
            array.extend(number(value.len()).to_be_bytes());
            array.extend(value);
        }
        array
    }
}

/// Most candidates that are worth proposing.
fn widest(index: &IndexState) -> usize {
    let live = index
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.stats().live);
    usize::try_from(live).unwrap_or(usize::MAX) / WIDEST_SHARE + LEAST_WIDEST
}

/// What the index proposes.
pub(super) struct Proposed {
    /// For each vector.
    each: Vec<Found>,
    /// Whether for each these are all live rows of the index that meet the filter.
    pub(super) exhausted: bool,
}

impl Proposed {
    /// Rows, for all vectors together.
    pub(super) fn count(&self) -> usize {
        self.each.iter().map(|found| found.neighbors.len()).sum()
    }
}

/// Searches the index; `None` when it cannot.
pub(super) async fn find(search: &Search, candidates: usize) -> Option<Proposed> {
    let snapshot = Arc::clone(search.index.snapshot.as_ref()?);
    let effort = search.effort;
    let (vectors, filter) = (&search.request.vectors, &search.request.filter);
    let work = move |snapshot: &Snapshot, vectors: &[Vector], filter: &Filter| match vectors {
        [query] => {
            let found = snapshot.search_filtered(query, candidates, effort, filter);
            found.map(|found| vec![found])
        }
        vectors => snapshot.search_many(vectors, candidates, effort, filter),
    };
    let found = if vectors.len() == 1 && candidates <= INLINE_CANDIDATES {
        work(&snapshot, vectors, filter)
    } else {
        let (vectors, filter) = (vectors.clone(), filter.clone());
        let searching = tokio::task::spawn_blocking(move || work(&snapshot, &vectors, &filter));
        searching.await.ok()?
    };
    match found {
        Ok(each) => Some(Proposed {
            exhausted: each.iter().all(|found| found.exhausted),
            each,
        }),
        Err(error) => {
            tracing::error!(index = %search.index.definition.name, %error, "a search failed");
            None
        }
    }
}

/// The keys of the candidates: for each key column one array in binary form, of a batch with a row for each vector.
pub(super) fn key_arrays(found: &Proposed, search: &Search) -> Vec<Bytes> {
    let Some(snapshot) = &search.index.snapshot else {
        return Vec::new();
    };
    let columns = &search.index.definition.key;
    let keys = found.each.iter().map(|found| {
        let rows = found.neighbors.iter();
        rows.filter_map(|near| snapshot.key(near.row)).collect()
    });
    let keys: Vec<Vec<&[u8]>> = keys.collect();
    match (search.request.batch, keys.as_slice()) {
        (None, [keys]) => {
            let mut keys = keys.clone();
            if let Some(last) = keys.last().copied() {
                // Postgres looks each up once, however often it is named.
                keys.resize(keys.len().max(EXPECTED_KEYS), last);
            }
            catalog::key_arrays(columns, keys.iter().copied())
        }
        (Some(_), rows) => catalog::key_tables(columns, rows),
        (None, _) => Vec::new(),
    }
}

/// Candidates of the next attempt, where so many have brought fewer rows than the limit.
pub(super) fn wider(limit: usize, candidates: usize, rows: usize) -> usize {
    let number = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let needed = RESERVE * number(limit) / number(rows.max(1));
    let next = number(candidates) * needed.clamp(RESERVE, number(WIDENING));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // positive, and at most four times a u32
    let next = next.ceil() as usize;
    next
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::catalog::{
        ColumnNumber, IndexDefinition, IndexId, IndexOptions, KeyColumn, KeyType, PgvectorTypes,
        QualifiedName, RelationId, TypeId, VectorColumn,
    };
    use crate::vector::{Dim, Expression, Metric, VectorType};

    pub(in crate::session) fn definition(key: &[KeyType]) -> IndexDefinition {
        let name = |name: &str| QualifiedName {
            schema: "public".into(),
            name: name.into(),
        };
        let column = |(number, kind): (i16, &KeyType)| KeyColumn {
            name: format!("k{number}"),
            number: ColumnNumber(number),
            kind: *kind,
        };
        IndexDefinition {
            id: IndexId(1),
            name: name("i"),
            relation: RelationId(1),
            table: name("t"),
            column: VectorColumn {
                name: "v".into(),
                number: ColumnNumber(9),
                kind: VectorType::Vector,
                type_id: TypeId(16_400),
            },
            expression: Expression::Column,
            pgvector: PgvectorTypes::default(),
            dim: Dim::new(2).unwrap(),
            metric: Metric::L2,
            key: (1..).zip(key).map(column).collect(),
            include: Vec::new(),
            options: IndexOptions::default(),
        }
    }

    #[test]
    fn the_next_attempt_asks_for_what_would_have_been_enough() {
        for (limit, candidates, rows, next) in [
            (10, 13, 0, 52), // nothing: the most
            (10, 13, 1, 52),
            (10, 13, 5, 39),  // half: twice as many and half of that again
            (10, 13, 9, 22),  // nearly all
            (10, 13, 10, 20), // grows in any case
            (10, 0, 0, 0),
        ] {
            assert_eq!(
                wider(limit, candidates, rows),
                next,
                "{limit} {candidates} {rows}"
            );
        }
    }
}
