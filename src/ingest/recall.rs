//! A snapshot → the share of the true nearest rows that a search of it finds, over a sample of its own rows. CPU only.

use std::time::{Duration, Instant};

use crate::index::{DEFAULT_EF, IndexError, RowId, Snapshot};
use crate::vector::Vector;

/// Neighbours asked for.
const NEIGHBORS: usize = 10;
/// Rows asked about: with so many the measured share is within .01 or so of the true one.
const SAMPLE: usize = 100;
/// Time for it: an exact search of a large index takes long, and fewer samples say nearly as much.
const BUDGET: Duration = Duration::from_secs(10);

/// Recall at 10; `None` when there are too few rows to ask about.
pub(crate) fn measure(snapshot: &Snapshot) -> Option<f64> {
    let live = usize::try_from(snapshot.stats().live).ok()?;
    if live <= NEIGHBORS {
        return None;
    }
    let begun = Instant::now();
    let (mut found, mut wanted) = (0_u32, 0_u32);
    let step = live.div_ceil(SAMPLE).max(1);
    // Rows from all over, the oldest and the newest as well.
    let mut rows: Vec<RowId> = snapshot.rows().step_by(step).collect();
    let half = rows.len() / 2;
    rows.rotate_left(half);
    for row in rows {
        if wanted > 0 && begun.elapsed() > BUDGET {
            break;
        }
        // A row that cannot be asked about says nothing.
        let Some(Ok((hits, of))) = one(snapshot, row) else {
            continue;
        };
        found += hits;
        wanted += of;
    }
    (wanted > 0).then(|| f64::from(found) / f64::from(wanted))
}

/// How many of a row's nearest rows a search finds, of how many.
fn one(snapshot: &Snapshot, row: RowId) -> Option<Result<(u32, u32), IndexError>> {
    let words = snapshot.vector(row)?.to_vec();
    let query = Vector::from_words(snapshot.spec().form(), words).ok()?;
    let searched = || {
        let exact = snapshot.search_exact(&query, NEIGHBORS)?;
        let found = snapshot.search(&query, NEIGHBORS, DEFAULT_EF)?;
        let farthest = exact
            .neighbors
            .last()
            .map_or(f32::INFINITY, |last| last.distance);
        // Of rows at the same distance any will do.
        let hits = found
            .neighbors
            .iter()
            .filter(|near| near.distance <= farthest);
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Ok((count(hits.count()), count(exact.neighbors.len())))
    };
    Some(searched())
}
