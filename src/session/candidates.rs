//! An index and a request → the keys to propose, as binary arrays. Never decides whether they are enough.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::request::Request;
use crate::catalog::{IndexDefinition, RowKey};
use crate::index::view::IndexState;
use crate::index::{Effort, Found};
use crate::vector::VectorType;

/// Candidates beyond k + offset, and one for each ten of those: so many may have moved upstream since they were indexed
/// without costing the last place. Each costs Postgres 3–5 µs, and where they are not enough the answer is short and widened.
const MARGIN: usize = 2;
/// Candidates are multiplied by this while the answer is short.
pub(super) const WIDENING: usize = 4;
/// Widening ends at this share of the table: from there on a scan is as good.
const WIDEST_SHARE: usize = 50;
/// Widening goes at least this far, however small the table is.
const LEAST_WIDEST: usize = 500;
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

    /// The same of another state of the index.
    pub(super) fn on(&self, index: Arc<IndexState>) -> Self {
        Self {
            index,
            request: self.request.clone(),
            effort: self.effort,
        }
    }

    /// The indexed column's type.
    pub(super) fn kind(&self) -> VectorType {
        self.index.definition.column.kind
    }
}

/// Most candidates that are worth proposing.
pub(super) fn widest(index: &IndexState) -> usize {
    let live = index
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.stats().live);
    usize::try_from(live).unwrap_or(usize::MAX) / WIDEST_SHARE + LEAST_WIDEST
}

/// Searches the index; `None` when it cannot.
pub(super) async fn find(search: &Search, candidates: usize) -> Option<Found> {
    let snapshot = Arc::clone(search.index.snapshot.as_ref()?);
    let effort = search.effort;
    let (query, filter) = (&search.request.vector, &search.request.filter);
    let found = if candidates <= INLINE_CANDIDATES {
        snapshot.search_filtered(query, candidates, effort, filter)
    } else {
        let (query, filter) = (query.clone(), filter.clone());
        let searching = tokio::task::spawn_blocking(move || {
            snapshot.search_filtered(&query, candidates, effort, &filter)
        });
        searching.await.ok()?
    };
    match found {
        Ok(found) => Some(found),
        Err(error) => {
            tracing::error!(index = %search.index.definition.name, %error, "a search failed");
            None
        }
    }
}

/// The keys of the candidates: for each key column one array in binary form.
pub(super) fn key_arrays(found: &Found, search: &Search) -> Vec<Bytes> {
    let Some(snapshot) = &search.index.snapshot else {
        return Vec::new();
    };
    let keys: Vec<&[u8]> = found
        .neighbors
        .iter()
        .filter_map(|near| snapshot.key(near.row))
        .collect();
    arrays(&search.index.definition, &keys)
}

fn arrays(definition: &IndexDefinition, keys: &[&[u8]]) -> Vec<Bytes> {
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let mut columns: Vec<BytesMut> = definition
        .key
        .iter()
        .map(|column| {
            let mut array = BytesMut::with_capacity(20 + keys.len() * 12);
            array.put_u32(u32::from(count > 0)); // dimensions
            array.put_u32(0); // no NULLs
            array.put_u32(column.kind.oid().0);
            if count > 0 {
                array.put_u32(count);
                array.put_u32(1); // lower bound
            }
            array
        })
        .collect();
    for key in keys {
        for (array, part) in columns.iter_mut().zip(RowKey::parts(key)) {
            array.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            array.put_slice(part);
        }
    }
    columns.into_iter().map(BytesMut::freeze).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::catalog::{
        ColumnNumber, IndexId, IndexOptions, KeyColumn, KeyType, QualifiedName, RelationId, TypeId,
        VectorColumn,
    };
    use crate::vector::{Dim, Metric};

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
            dim: Dim::new(2).unwrap(),
            metric: Metric::L2,
            key: (1..).zip(key).map(column).collect(),
            include: Vec::new(),
            options: IndexOptions::default(),
        }
    }

    #[test]
    fn keys_become_one_array_a_column() {
        let keys = [
            RowKey::from_parts([&b"\0\0\0\x01"[..], b"ab"]),
            RowKey::from_parts([&b"\0\0\0\x02"[..], b""]),
        ];
        let keys: Vec<&[u8]> = keys.iter().map(RowKey::as_bytes).collect();
        let found = arrays(&definition(&[KeyType::Int4, KeyType::Text]), &keys);
        // As array_send(array[1, 2]) and array_send(array['ab', '']) print them.
        let int = b"\0\0\0\x01\0\0\0\0\0\0\0\x17\0\0\0\x02\0\0\0\x01\0\0\0\x04\0\0\0\x01\0\0\0\x04\0\0\0\x02";
        let text = b"\0\0\0\x01\0\0\0\0\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x02ab\0\0\0\0";
        assert_eq!(found, [&int[..], &text[..]]);
    }

    #[test]
    fn no_keys_are_an_empty_array() {
        let found = arrays(&definition(&[KeyType::Uuid]), &[]);
        assert_eq!(found, [&b"\0\0\0\0\0\0\0\0\0\0\x0b\x86"[..]]);
    }
}
