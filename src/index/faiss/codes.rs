//! Vectors → 8-bit codes, a scale and a norm per row, around the mean of the index.

use std::sync::atomic::{AtomicU32, Ordering};

use super::ffi::{self, RawCodes};
use super::store::Store;
use crate::index::{IndexError, IndexSpec};
use crate::vector::Metric;

/// Codes are padded to whole steps of the widest kernel.
const STEP: usize = 64;

/// The codes of rows, by row id.
#[derive(Debug)]
pub(super) struct Codes {
    codes: Store<u8>,
    /// Scale and squared norm of the centred vector.
    scales: Store<f32>,
    /// Squared norm of the vector; for inner product only.
    norms: Option<Store<f32>>,
    mean: Box<[f32]>,
    centred: bool,
    metric: Metric,
    /// Largest squared norm so far, as bits; squared norms are not negative, so their bits are ordered as they are.
    ceiling: AtomicU32,
}

impl Codes {
    /// No codes yet, around `mean` or, before it is known, around zero.
    pub(super) fn new(dim: usize, metric: Metric, mean: Option<Box<[f32]>>) -> Self {
        Self {
            codes: Store::new(dim.next_multiple_of(STEP)),
            scales: Store::new(2),
            norms: (metric == Metric::InnerProduct).then(|| Store::new(1)),
            centred: mean.is_some(),
            mean: mean.unwrap_or_else(|| vec![0.0; dim].into()),
            metric,
            ceiling: AtomicU32::new(0),
        }
    }

    /// Whether the mean was chosen.
    pub(super) fn centred(&self) -> bool {
        self.centred
    }

    /// Writes the code of `row`.
    ///
    /// # Safety
    /// Nobody else reads or writes the codes of `row` during the call.
    pub(super) unsafe fn encode(&self, row: u32, vector: &[f32]) -> Result<(), IndexError> {
        assert_eq!(vector.len(), self.mean.len(), "components of a vector");
        let mut code = vec![0; self.codes.width()];
        let (mut scales, mut norm) = ([0.0; 2], 0.0);
        let raw = self.raw();
        // SAFETY: every pointer has the length that the shim writes or reads: stride, 2 and 1, and dim.
        unsafe {
            ffi::rektor_encode(
                &raw const raw,
                vector.as_ptr(),
                code.as_mut_ptr(),
                scales.as_mut_ptr(),
                &raw mut norm,
            );
        }
        self.codes.reserve(row)?;
        self.scales.reserve(row)?;
        // SAFETY: reserved, and the caller has the row for itself.
        unsafe {
            self.codes.set(row, &code);
            self.scales.set(row, &scales);
        }
        if let Some(norms) = &self.norms {
            norms.reserve(row)?;
            // SAFETY: as above.
            unsafe { norms.set(row, &[norm]) };
            self.ceiling.fetch_max(norm.to_bits(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// For the shim; valid as long as the codes.
    pub(super) fn raw(&self) -> RawCodes {
        RawCodes {
            codes: self.codes.table(),
            scales: self.scales.table(),
            norms: self.norms.as_ref().map_or(std::ptr::null(), Store::table),
            mean: self.mean.as_ptr(),
            dim: self.mean.len(),
            stride: self.codes.width(),
            ceiling: f32::from_bits(self.ceiling.load(Ordering::Relaxed)),
            metric: raw_metric(self.metric),
        }
    }

    /// Bytes of the codes of `rows` rows.
    pub(super) fn bytes(&self, rows: u32) -> usize {
        self.codes.bytes(rows)
            + self.scales.bytes(rows)
            + self.norms.as_ref().map_or(0, |norms| norms.bytes(rows))
    }
}

/// For scans of an index that has no codes.
pub(super) fn raw_without(spec: &IndexSpec) -> RawCodes {
    RawCodes {
        codes: std::ptr::null(),
        scales: std::ptr::null(),
        norms: std::ptr::null(),
        mean: std::ptr::null(),
        dim: spec.dim.get(),
        stride: 0,
        ceiling: 0.0,
        metric: raw_metric(spec.metric),
    }
}

/// `RektorMetric`.
fn raw_metric(metric: Metric) -> u32 {
    match metric {
        Metric::L2 => 0,
        Metric::InnerProduct => 1,
        Metric::Cosine => 2,
    }
}
