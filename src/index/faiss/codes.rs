//! Vectors → 8-bit codes, a scale and a norm per row, around the mean of the index. Bits are their own codes.
//!
//! The code of a row lies at the row's own id, or, once near rows were laid together (`layout`), at its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ffi::{self, RawCodes};
use super::store::Store;
use super::vectors::Vectors;
use crate::index::memory::{Account, Part};
use crate::index::{IndexError, IndexSpec};
use crate::vector::{Form, Metric};

/// Codes are padded to whole steps of the widest kernel.
const STEP: usize = 64;

/// Floats beside a code that say what it stands for; `kScales` in `codes.h`. A fourth belongs to the signs.
pub(super) const SCALES: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Components below which signs are not kept: the code itself is one line or two, and signs of few say little.
const SIGNED: usize = 128;

/// Relative difference of scales that count as equal.
const SAME_SCALE: f32 = 1e-4;

/// Bytes of a code.
pub(super) fn stride(form: Form) -> usize {
    match form {
        Form::Numbers(dim) => dim.get().next_multiple_of(STEP),
        Form::Bits(_) => form.words() * size_of::<f32>(),
    }
}

/// Floats beside a code, with the signs of its row where they pay (`signs.h`): of no more cache lines than they need.
pub(super) fn beside(form: Form, metric: Metric) -> usize {
    let bits = stride(form) / 8;
    let bytes = SCALES * size_of::<f32>() + bits;
    match form {
        Form::Numbers(dim) if dim.get() >= SIGNED && metric != Metric::L1 => {
            let lines = if bytes <= LINE {
                bytes.next_power_of_two()
            } else {
                bytes.next_multiple_of(LINE)
            };
            lines / size_of::<f32>()
        }
        Form::Numbers(_) | Form::Bits(_) => SCALES,
    }
}

/// Components of the mean.
pub(super) fn mean_length(form: Form) -> usize {
    match form {
        Form::Numbers(dim) => dim.get(),
        Form::Bits(_) => 0,
    }
}

/// Where codes are that do not lie at their rows' ids.
#[derive(Debug)]
struct Places {
    /// 1 + the place of each row that has one.
    of: Store<u32>,
    /// Places below were given out. By one thread at a time.
    next: AtomicU32,
}

/// The codes of rows.
#[derive(Debug)]
pub(super) struct Codes {
    codes: Store<u8>,
    /// With the signs; see `shim.h`.
    scales: Store<f32>,
    /// Where bits are: `codes` and `scales` stay empty.
    bits: Option<Arc<Store<f32>>>,
    places: Option<Places>,
    mean: Box<[f32]>,
    centred: bool,
    form: Form,
    metric: Metric,
}

impl Codes {
    /// No codes yet, around `mean` or, before it is known, around zero. Those of bits are the stored rows themselves.
    pub(super) fn new(spec: &IndexSpec, mean: Option<Box<[f32]>>, stored: &Vectors) -> Self {
        let form = spec.form();
        let words = stored.stored().map(Arc::clone);
        let bits = words.filter(|_| matches!(form, Form::Bits(_)));
        Self {
            codes: Store::new(stride(form), stored.account(), Part::Codes),
            scales: Store::new(beside(form, spec.metric), stored.account(), Part::Codes),
            centred: mean.is_some() || bits.is_some(),
            bits,
            places: None,
            mean: mean.unwrap_or_else(|| vec![0.0; mean_length(form)].into()),
            form,
            metric: spec.metric,
        }
    }

    /// No codes yet, around a mean, of rows each of which will lie behind the one that comes before it.
    pub(super) fn laid_out(spec: &IndexSpec, mean: Box<[f32]>, stored: &Vectors) -> Self {
        let places = Places {
            of: Store::new(1, stored.account(), Part::Codes),
            next: AtomicU32::new(0),
        };
        Self {
            places: Some(places),
            ..Self::new(spec, Some(mean), stored)
        }
    }

    /// The same where these rows, each once, will lie first, in this order, whenever they come.
    pub(super) fn laid_out_as(
        spec: &IndexSpec,
        mean: Box<[f32]>,
        stored: &Vectors,
        rows: &[u32],
    ) -> Result<Self, IndexError> {
        let codes = Self::laid_out(spec, mean, stored);
        for row in rows {
            // SAFETY: nobody else knows the codes.
            unsafe { codes.take_place(*row)? };
        }
        Ok(codes)
    }

    /// Where the code of a row is, which was written.
    ///
    /// # Safety
    /// As [`get`](Self::get).
    pub(super) unsafe fn place(&self, row: u32) -> u32 {
        match &self.places {
            None => row,
            // SAFETY: the caller's promise; written with the code. One is added, so that 0 is none.
            Some(places) => unsafe { places.of.get(row)[0].saturating_sub(1) },
        }
    }

    /// Where the code of a row is to be written: where one of that id was before, or behind all others.
    ///
    /// # Safety
    /// As [`set`](Self::set).
    unsafe fn take_place(&self, row: u32) -> Result<u32, IndexError> {
        let Some(places) = &self.places else {
            self.reserve(row)?;
            return Ok(row);
        };
        places.of.reserve(row)?;
        // SAFETY: reserved, so zero or written; the caller has the row for itself.
        let known = unsafe { places.of.get(row)[0] };
        if known > 0 {
            return Ok(known - 1);
        }
        let place = places.next.load(Ordering::Relaxed);
        self.reserve(place)?;
        places.next.store(place + 1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { places.of.set(row, &[place + 1]) };
        Ok(place)
    }

    /// Makes room for so many codes.
    pub(super) fn make_room(&self, count: u32) -> Result<(), IndexError> {
        self.reserve(count.saturating_sub(1))
    }

    /// Makes room up to a place.
    fn reserve(&self, place: u32) -> Result<(), IndexError> {
        self.codes.reserve(place)?;
        self.scales.reserve(place)
    }

    /// Takes a row's code from others around the same mean, with its signs.
    ///
    /// # Safety
    /// As [`set`](Self::set); and the others' code of that row was written.
    pub(super) unsafe fn copy(&self, from: &Self, row: u32) -> Result<(), IndexError> {
        // SAFETY: the caller's promise.
        let (place, old) = unsafe { (self.take_place(row)?, from.place(row)) };
        // SAFETY: reserved, written there, and the caller has the row for itself here.
        unsafe {
            self.codes.set(place, from.codes.get(old));
            self.scales.set(place, from.scales.get(old));
        }
        Ok(())
    }

    /// Of some rows, at least one, that whose code is nearest to that of a row of others around the same mean.
    ///
    /// # Safety
    /// They were written, and nobody writes them during the call; none lies at a place of its own.
    pub(super) unsafe fn nearest(&self, rows: &[u32], others: &Self, row: u32) -> u32 {
        assert!(!rows.is_empty() && self.places.is_none() && self.bits.is_none());
        let (codes, of) = (self.raw(), others.raw());
        // SAFETY: the caller's promise.
        unsafe {
            let place = others.place(row);
            ffi::rektor_nearest(
                &raw const codes,
                rows.as_ptr(),
                rows.len(),
                &raw const of,
                place,
            )
        }
    }

    /// Whether the mean was chosen; bits have none.
    pub(super) fn centred(&self) -> bool {
        self.centred
    }

    /// What the codes are compared by.
    pub(super) fn metric(&self) -> Metric {
        self.metric
    }

    /// What is subtracted before coding.
    pub(super) fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The code and the scales of `row`.
    ///
    /// # Safety
    /// They were written, and nobody writes them while the slices live.
    pub(super) unsafe fn get(&self, row: u32) -> (&[u8], &[f32]) {
        if let Some(bits) = &self.bits {
            // SAFETY: the caller's promise.
            let words = unsafe { bits.get(row) };
            // SAFETY: the same memory, which may be read as bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) };
            return (bytes, &[0.0; SCALES]);
        }
        // SAFETY: the caller's promise.
        let place = unsafe { self.place(row) };
        // SAFETY: as above.
        let (code, beside) = unsafe { (self.codes.get(place), self.scales.get(place)) };
        (code, beside.get(..SCALES).unwrap_or(beside))
    }

    /// About the vector (under cosine the unit vector) that has this code; of bits exactly.
    pub(super) fn decoded(&self, code: &[u8], scales: &[f32]) -> Box<[f32]> {
        if self.bits.is_some() {
            let (words, _) = code.as_chunks::<4>();
            return words.iter().map(|word| f32::from_ne_bytes(*word)).collect();
        }
        let step = scales.first().copied().unwrap_or_default();
        let components = self.mean.iter().zip(code);
        components
            .map(|(mean, code)| mean + step * (f32::from(*code) - 128.0))
            .collect()
    }

    /// Writes a code that was made before.
    ///
    /// # Safety
    /// Nobody else reads or writes the codes of `row` during the call.
    pub(super) unsafe fn set(
        &self,
        row: u32,
        code: &[u8],
        scales: &[f32],
    ) -> Result<(), IndexError> {
        if let Some(bits) = &self.bits {
            let words = self.decoded(code, scales);
            bits.reserve(row)?;
            // SAFETY: reserved, and the caller has the row for itself.
            unsafe { bits.set(row, &words) };
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let place = unsafe { self.take_place(row)? };
        let mut beside = vec![0.0; self.scales.width()];
        for (to, scale) in beside.iter_mut().zip(scales) {
            *to = *scale;
        }
        let raw = self.raw();
        // SAFETY: the code has stride bytes, and what is beside it as many floats as the shim is told.
        unsafe { ffi::rektor_sign(&raw const raw, code.as_ptr(), beside.as_mut_ptr()) };
        // SAFETY: reserved, and the caller has the row for itself.
        unsafe {
            self.codes.set(place, code);
            self.scales.set(place, &beside);
        }
        Ok(())
    }

    /// Writes the code of `row`; of bits, whose row is stored anyway, nothing.
    ///
    /// # Safety
    /// Nobody else reads or writes the codes of `row` during the call.
    pub(super) unsafe fn encode(&self, row: u32, vector: &[f32]) -> Result<(), IndexError> {
        assert_eq!(vector.len(), self.form.words(), "words of a vector");
        if self.bits.is_some() {
            return Ok(());
        }
        let (code, scales) = self.code_of(vector, self.metric);
        // SAFETY: as the caller promises for this call.
        unsafe { self.set(row, &code, &scales) }
    }

    /// The same of a vector that a code stood for: it gets that code again. Of numbers.
    ///
    /// # Safety
    /// As [`encode`](Self::encode).
    pub(super) unsafe fn encode_decoded(&self, row: u32, vector: &[f32]) -> Result<(), IndexError> {
        // Under cosine it is of unit length but for what coding took.
        let (code, scales) = self.code_of(vector, Metric::L2);
        // SAFETY: as the caller promises for this call.
        unsafe { self.set(row, &code, &scales) }
    }

    /// Whether a vector has the code of `row`.
    ///
    /// # Safety
    /// As [`get`](Self::get).
    pub(super) unsafe fn holds(&self, row: u32, vector: &[f32]) -> bool {
        let (code, scales) = self.code_of(vector, self.metric);
        // SAFETY: the caller's promise.
        let (own, own_scales) = unsafe { self.get(row) };
        // A scale that was decoded and coded again differs in its last bits.
        own == code && (own_scales[0] - scales[0]).abs() <= SAME_SCALE * scales[0]
    }

    fn code_of(&self, vector: &[f32], metric: Metric) -> (Vec<u8>, [f32; SCALES]) {
        assert_eq!(vector.len(), self.mean.len(), "components of a vector");
        let mut code = vec![0; self.codes.width()];
        let mut scales = [0.0; SCALES];
        let raw = RawCodes {
            metric: raw_metric(metric),
            ..self.raw()
        };
        // SAFETY: every pointer has the length that the shim writes or reads: dim, stride and SCALES.
        unsafe {
            ffi::rektor_encode(
                &raw const raw,
                vector.as_ptr(),
                code.as_mut_ptr(),
                scales.as_mut_ptr(),
            );
        }
        (code, scales)
    }

    /// For the shim; valid as long as the codes.
    pub(super) fn raw(&self) -> RawCodes {
        RawCodes {
            codes: match &self.bits {
                Some(bits) => bits.table().cast(),
                None => self.codes.table(),
            },
            scales: self.scales.table(),
            beside: self.scales.width(),
            places: match &self.places {
                Some(places) => places.of.table(),
                None => std::ptr::null(),
            },
            mean: self.mean.as_ptr(),
            dim: self.form.words(),
            stride: self.codes.width(),
            metric: raw_metric(self.metric),
        }
    }

    /// Whose memory they are.
    pub(super) fn account(&self) -> &Arc<Account> {
        self.codes.account()
    }
}

/// For scans of an index that has no codes.
pub(super) fn raw_without(spec: &IndexSpec) -> RawCodes {
    RawCodes {
        codes: std::ptr::null(),
        scales: std::ptr::null(),
        beside: 0,
        places: std::ptr::null(),
        mean: std::ptr::null(),
        dim: spec.form().words(),
        stride: 0,
        metric: raw_metric(spec.metric),
    }
}

/// `RektorMetric`.
pub(super) fn raw_metric(metric: Metric) -> u32 {
    match metric {
        Metric::L2 => 0,
        Metric::InnerProduct => 1,
        Metric::Cosine => 2,
        Metric::L1 => 3,
        Metric::Hamming => 4,
        Metric::Jaccard => 5,
    }
}
