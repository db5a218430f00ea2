//! An index and a request → the keys to propose, as binary arrays. Never decides whether they are enough.

use std::sync::Arc;

use bytes::Bytes;

use super::request::Request;
use crate::catalog;
use crate::index::view::IndexState;
use crate::index::{Effort, Found};
use crate::vector::{Vector, VectorType};

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
    let found = if candidates <= INLINE_CANDIDATES {
        snapshot.search_with(&search.request.vector, candidates, effort)
    } else {
        let query: Vector = search.request.vector.clone();
        let searching =
            tokio::task::spawn_blocking(move || snapshot.search_with(&query, candidates, effort));
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
    catalog::key_arrays(&search.index.definition.key, keys.into_iter())
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
mod tests {
    use super::*;

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
