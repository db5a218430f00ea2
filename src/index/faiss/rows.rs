//! The writer's side of the engine: stored vectors by row id, which rows are live, and when an id may be used again.
//!
//! Invariants that make the shared memory sound:
//! 1. A row's vector and codes are written once, by [`Rows::insert`] (codes again only into a lineage that nobody has
//!    seen yet), while nobody else can name the row.
//! 2. A view gives out only rows that are live in it, and holds its pin as long as anyone reads through it.
//! 3. A row's id comes back from [`Rows::insert`] only when no lineage of a later view names it, and every view
//!    published before that was so is dropped.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use super::codes::Codes;
use super::layout;
use super::lineage::Lineage;
use super::rebuild::Rebuild;
use super::store::MAX_ROWS;
use super::stored::GraphImage;
use super::vectors::Vectors;
use super::view::RowView;
use crate::catalog::{Method, Storage};
use crate::index::dial::Dial;
use crate::index::memory::Account;
use crate::index::pages::Bitmap;
use crate::index::{IndexError, IndexSpec};
use crate::vector::{Form, Metric};

/// Rows that the mean of codes is taken of, and from which on rows are linked: fewer are scanned in some 20 µs.
pub const MEAN_ROWS: u64 = 2_048;
/// Times the median norm, beyond which a row has no part in the mean: log-normal norms hardly reach it.
const ABSURD: f64 = 16.0;

/// The writer's side.
#[derive(Debug)]
pub(in crate::index) struct Rows {
    spec: IndexSpec,
    vectors: Arc<Vectors>,
    live: Bitmap,
    dial: Arc<Dial>,
    /// Stored vectors became codes; nobody was told yet.
    recoded: bool,
    /// None for an index that is only scanned.
    lineage: Option<Arc<Lineage>>,
    /// Inserted since the last view: no nodes yet.
    pending: Vec<u32>,
    /// Ids below were given out at least once.
    next: u32,
    /// Ids to give out again.
    free: Vec<u32>,
    /// Dead rows that the next view's lineage does not name.
    retiring: Vec<u32>,
    /// Rows to free once the view of that number and all before it are dropped; in order.
    retired: VecDeque<(u64, Vec<u32>)>,
    /// While loading: the rows that the graph names, dead ones too.
    named: Bitmap,
    /// Views that may still be read, in order.
    views: VecDeque<(u64, Weak<()>)>,
    published: u64,
}

impl Rows {
    /// No rows.
    pub(in crate::index) fn new(spec: IndexSpec, account: &Arc<Account>) -> Self {
        let vectors = Arc::new(Vectors::new(&spec, account));
        let codes = || Arc::new(Codes::new(&spec, None, &vectors));
        Self {
            spec,
            vectors: Arc::clone(&vectors),
            live: Bitmap::default(),
            dial: Arc::default(),
            recoded: false,
            lineage: match spec.options.method {
                Method::Hnsw | Method::Ivf | Method::Factory => {
                    Some(Arc::new(Lineage::new(codes())))
                }
                Method::Flat => None,
            },
            pending: Vec::new(),
            next: 0,
            free: Vec::new(),
            retiring: Vec::new(),
            retired: VecDeque::new(),
            named: Bitmap::default(),
            views: VecDeque::new(),
            published: 0,
        }
    }

    /// No rows, under the same dial.
    pub(in crate::index) fn emptied(&self) -> Self {
        self.dial.replaced(None);
        Self {
            dial: Arc::clone(&self.dial),
            ..Self::new(self.spec, self.account())
        }
    }

    /// Stores a vector as a new live row.
    pub(in crate::index) fn insert(&mut self, vector: &[f32]) -> Result<u32, IndexError> {
        self.centre_if_due()?;
        let row = self.free.last().copied().unwrap_or(self.next);
        // SAFETY: no view or lineage names a row that is new or free (invariant 3).
        unsafe { self.write(row, vector, false)? };
        if self.free.pop().is_none() {
            self.next += 1;
        }
        Ok(row)
    }

    /// Stores a vector as the live row of that id, before any row was removed.
    pub(in crate::index) fn load(&mut self, row: u32, vector: &[f32]) -> Result<(), IndexError> {
        let untouched = self.free.is_empty() && self.retiring.is_empty() && self.retired.is_empty();
        // Beyond, a store would refuse as well, but after `next` had been moved.
        if !untouched || self.live.contains(row) || row as usize >= MAX_ROWS {
            return Err(IndexError::Engine(format!("row {row} cannot be loaded")));
        }
        self.centre_if_due()?;
        // SAFETY: no row was removed yet (what `centre` drops, it puts on `retiring`), so a row that is not live was never
        // given to anyone.
        unsafe { self.write(row, vector, true)? };
        self.next = self.next.max(row + 1);
        Ok(())
    }

    /// Rows that are loaded get the codes that a stored graph was linked by, where they lay. Before the first.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub(in crate::index) fn expect_graph(&mut self, image: &GraphImage) -> Result<(), IndexError> {
        if self.lineage.is_some() && self.next == 0 {
            let mean = image.mean.clone();
            let codes = match image.laid_out() {
                [] => Codes::new(&self.spec, Some(mean), &self.vectors),
                rows => Codes::laid_out_as(&self.spec, mean, &self.vectors, rows)?,
            };
            self.take_codes(&Arc::new(codes));
        }
        Ok(())
    }

    /// Starts a lineage with these codes, around a mean, of all rows; nothing else is kept of vectors if so it was chosen.
    fn take_codes(&mut self, codes: &Arc<Codes>) {
        self.lineage = Some(Arc::new(Lineage::new(Arc::clone(codes))));
        if self.spec.options.storage == Storage::I8 && matches!(self.spec.form(), Form::Numbers(_))
        {
            self.vectors = Arc::new(self.vectors.of_codes(codes));
        }
    }

    /// Takes over the graph of the rows that were loaded, none of which was published.
    ///
    /// # Errors
    /// When it is of other rows, or there is no memory; all rows are then linked anew.
    pub(in crate::index) fn adopt_graph(&mut self, image: &GraphImage) -> Result<(), IndexError> {
        let lineage = self.lineage.as_ref().filter(|_| self.published == 0);
        let lineage = lineage.ok_or_else(|| IndexError::Engine("no place for a graph".into()))?;
        let mut named = Bitmap::default();
        for row in &image.rows {
            named.insert(*row);
        }
        for (row, code, scales) in image.dead(&self.live)? {
            // SAFETY: not live, so not loaded, so nobody was ever given this row.
            unsafe { lineage.codes.set(row, code, scales)? };
            if matches!(self.spec.form(), Form::Bits(_)) {
                continue; // that was its vector
            }
            // Walks pass through it, by its vector too.
            self.vectors.reserve(row)?;
            // SAFETY: as above.
            unsafe {
                self.vectors
                    .set(row, &lineage.codes.decoded(code, scales))?
            };
        }
        let rest: Vec<u32> = self
            .live
            .iter()
            .filter(|row| !named.contains(*row))
            .collect();
        let stored = Lineage::stored(Arc::clone(&lineage.codes), image, rest.len() + 1)?;
        self.lineage = Some(Arc::new(stored));
        // Nothing fails from here on.
        if let Some(curve) = &image.curve {
            self.dial.measured(curve.clone());
        }
        self.pending = rest;
        self.next = image
            .rows
            .iter()
            .fold(self.next, |next, row| next.max(row + 1));
        self.live.make_places(self.next); // as if all had been alive once
        self.named = named;
        Ok(())
    }

    /// Every row was loaded: the ids that neither a row nor the graph has can be given out.
    pub(in crate::index) fn finish_loading(&mut self) {
        let named = std::mem::take(&mut self.named);
        let free = (0..self.next).filter(|row| !self.live.contains(*row) && !named.contains(*row));
        self.free = free.collect();
    }

    /// Writes a row and makes it live; the vector may be one that was `kept`, in whatever form.
    ///
    /// # Safety
    /// No view or lineage names `row`.
    unsafe fn write(&mut self, row: u32, vector: &[f32], kept: bool) -> Result<(), IndexError> {
        self.vectors.reserve(row)?;
        if let Some(lineage) = &self.lineage {
            lineage.reserve(self.pending.len() + 1)?; // so that publishing cannot fail
            // SAFETY: the caller's promise: nobody reads or writes its codes.
            unsafe {
                if kept && self.vectors.are_codes() {
                    lineage.codes.encode_decoded(row, vector)?;
                } else {
                    lineage.codes.encode(row, vector)?;
                }
            }
        }
        // SAFETY: reserved; as above.
        unsafe { self.vectors.set(row, vector)? };
        self.live.insert(row);
        if self.lineage.is_some() {
            self.pending.push(row);
        }
        Ok(())
    }

    /// Chooses the mean when there are rows enough.
    fn centre_if_due(&mut self) -> Result<(), IndexError> {
        if self.live.len() >= MEAN_ROWS && self.lineage.as_ref().is_some_and(|l| !l.codes.centred())
        {
            self.centre()?;
        }
        Ok(())
    }

    /// The live rows, if their stored vectors became others since this was asked: of what was kept as it came only codes are
    /// left now, under cosine those of another length.
    pub(in crate::index) fn take_recoded(&mut self) -> Option<&Bitmap> {
        std::mem::take(&mut self.recoded).then_some(&self.live)
    }

    /// The row, a live one, is not live in the next view.
    pub(in crate::index) fn remove(&mut self, row: u32) {
        self.live.remove(row);
        if self.lineage.is_none() {
            self.retiring.push(row);
        }
    }

    /// The rows as they are now. A rebuild that is ready and fits is taken over.
    pub(in crate::index) fn publish(&mut self, rebuild: Option<Rebuild>) -> RowView {
        if let Some(lineage) = &self.lineage {
            for row in std::mem::take(&mut self.pending) {
                if self.live.contains(row) {
                    lineage.push_reserved(row);
                } else {
                    self.retiring.push(row);
                }
            }
        }
        if let (Some(rebuild), Some(lineage)) = (rebuild, &self.lineage)
            && rebuild.replaces(lineage)
        {
            // For want of memory the old one stays, and the linker tries again.
            if let Ok(rebuilt) = rebuild.finish() {
                if let Some(curve) = rebuilt.told {
                    self.dial.replaced(curve);
                }
                self.vectors = layout::vectors_of(&self.vectors, &rebuilt.lineage.codes);
                self.lineage = Some(rebuilt.lineage);
                self.retiring.extend(rebuilt.dropped);
            }
        }
        if !self.retiring.is_empty() {
            let rows = std::mem::take(&mut self.retiring);
            self.retired.push_back((self.published, rows));
        }
        self.published += 1;
        let pin = Arc::new(());
        self.views.push_back((self.published, Arc::downgrade(&pin)));
        self.reclaim();
        RowView::new(
            self.spec,
            Arc::clone(&self.vectors),
            self.live.clone(),
            self.lineage.clone(),
            Arc::clone(&self.dial),
            pin,
        )
    }

    /// Frees the ids that no view can name any more.
    fn reclaim(&mut self) {
        self.views.retain(|(_, pin)| pin.strong_count() > 0);
        // What the dropped views' readers read happened before: their drop released the count just seen as 0.
        fence(Ordering::Acquire);
        let oldest = self.views.front().map_or(u64::MAX, |(number, _)| *number);
        while self.retired.front().is_some_and(|(last, _)| *last < oldest) {
            let rows = self.retired.pop_front();
            self.free
                .extend(rows.into_iter().flat_map(|(_, rows)| rows));
        }
    }

    /// Chooses the mean of the live rows and starts a lineage with codes around it.
    fn centre(&mut self) -> Result<(), IndexError> {
        let Some(old) = &self.lineage else {
            return Ok(());
        };
        let mean = self.mean();
        let codes = Codes::new(&self.spec, Some(mean), &self.vectors);
        for row in self.live.iter() {
            // SAFETY: live rows were written; nobody else has seen these codes.
            unsafe { codes.encode(row, &self.vectors.get(row))? };
        }
        let codes = Arc::new(codes);
        let lineage = Lineage::new(Arc::clone(&codes));
        let mut dropped = Vec::new();
        for node in 0..old.extent() {
            let row = old.row(node);
            if self.live.contains(row) {
                lineage.push(row)?;
            } else {
                dropped.push(row);
            }
        }
        // Nothing fails from here on.
        self.retiring.append(&mut dropped);
        self.take_codes(&codes);
        self.lineage = Some(Arc::new(lineage));
        self.recoded |= self.vectors.are_codes();
        Ok(())
    }

    /// The mean of the live vectors, of the unit vectors under cosine. A few absurdly large ones are left out: they would
    /// draw it so far away that the codes of all others were alike.
    fn mean(&self) -> Box<[f32]> {
        let mut sums = vec![0.0_f64; self.spec.dim.get()];
        let mut count = 0.0;
        let norm = |row: u32| {
            // SAFETY: live rows were written.
            let vector = unsafe { self.vectors.get(row) };
            let squares = vector.iter().map(|x| f64::from(*x) * f64::from(*x));
            squares.sum::<f64>().sqrt()
        };
        let mut norms: Vec<f64> = self.live.iter().map(norm).collect();
        let middle = norms.len() / 2;
        let usual = match norms.get_mut(middle) {
            Some(_) => *norms.select_nth_unstable_by(middle, f64::total_cmp).1,
            None => 0.0,
        };
        for row in self.live.iter() {
            let norm = norm(row);
            if norm > ABSURD * usual && self.spec.metric != Metric::Cosine {
                continue;
            }
            // SAFETY: live rows were written.
            let vector = unsafe { self.vectors.get(row) };
            let factor = if self.spec.metric == Metric::Cosine {
                1.0 / norm
            } else {
                1.0
            };
            count += 1.0;
            for (sum, x) in sums.iter_mut().zip(&*vector) {
                *sum += f64::from(*x) * factor;
            }
        }
        #[allow(clippy::cast_possible_truncation)] // rounding is meant
        let mean = |sum: f64| (sum / count) as f32;
        sums.into_iter().map(mean).collect()
    }

    /// Whether a row is live and keeping this vector for it would change nothing.
    pub(in crate::index) fn holds(&self, row: u32, vector: &[f32]) -> bool {
        // SAFETY: live, so written; a write needs `&mut self`.
        self.live.contains(row) && unsafe { self.vectors.holds(row, vector) }
    }

    /// Whose memory it is.
    fn account(&self) -> &Arc<Account> {
        self.vectors.account()
    }

    /// Bytes that nothing refuses: the bitmap and lists of ids.
    pub(in crate::index) fn other_bytes(&self) -> usize {
        let retired = self.retired.iter().map(|(_, rows)| rows.capacity());
        let ids = self.pending.capacity()
            + self.free.capacity()
            + self.retiring.capacity()
            + retired.sum::<usize>();
        self.live.bytes() + ids * size_of::<u32>()
    }
}
