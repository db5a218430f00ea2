//! Vectors as they are kept for exact comparison: floats, halves, upper halves of floats, or nothing but their codes.
//! Says whether a vector is the one that is kept, as exactly as it is kept.

use std::borrow::Cow;
use std::sync::Arc;

use super::codes::{self, Codes};
use super::ffi;
use super::store::{Plain, Store};
use crate::catalog::Storage;
use crate::index::memory::{Account, Part};
use crate::index::{IndexError, IndexSpec};
use crate::vector::Form;

/// Vectors by row id.
#[derive(Debug)]
pub(super) struct Vectors {
    kept: Kept,
    /// Words of a row.
    words: usize,
    /// `RektorMetric`.
    metric: u32,
    account: Arc<Account>,
}

#[derive(Debug)]
enum Kept {
    /// Also words of bits.
    Words(Arc<Store<f32>>),
    /// `RektorStorage` says which.
    Halves(Store<u16>, u32),
    Codes(Arc<Codes>),
}

impl Vectors {
    /// None yet. What is kept as codes alone is kept as floats until the mean is known that they are made around.
    pub(super) fn new(spec: &IndexSpec, account: &Arc<Account>) -> Self {
        let words = spec.form().words();
        let halves = |kind| Kept::Halves(store_of(spec, words, account), kind);
        let kept = match (spec.form(), spec.options.storage) {
            (Form::Numbers(_), Storage::F16) => halves(ffi::F16),
            (Form::Numbers(_), Storage::Bf16) => halves(ffi::BF16),
            (Form::Numbers(_), Storage::F32 | Storage::I8) | (Form::Bits(_), _) => {
                Kept::Words(Arc::new(store_of(spec, words, account)))
            }
        };
        Self {
            kept,
            words,
            metric: codes::raw_metric(spec.metric),
            account: Arc::clone(account),
        }
    }

    /// Those of which only codes are kept.
    pub(super) fn of_codes(&self, codes: &Arc<Codes>) -> Self {
        Self {
            kept: Kept::Codes(Arc::clone(codes)),
            words: self.words,
            metric: self.metric,
            account: Arc::clone(&self.account),
        }
    }

    /// Whose memory they are.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The words themselves, if they are kept.
    pub(super) fn stored(&self) -> Option<&Arc<Store<f32>>> {
        match &self.kept {
            Kept::Words(store) => Some(store),
            Kept::Halves(..) | Kept::Codes(_) => None,
        }
    }

    /// Whether codes are all that is kept.
    pub(super) fn are_codes(&self) -> bool {
        matches!(self.kept, Kept::Codes(_))
    }

    /// Makes room for `row` and all before it.
    pub(super) fn reserve(&self, row: u32) -> Result<(), IndexError> {
        match &self.kept {
            Kept::Words(store) => store.reserve(row),
            Kept::Halves(store, _) => store.reserve(row),
            Kept::Codes(_) => Ok(()),
        }
    }

    /// Writes the vector of `row`, or nothing where its code is all that is kept.
    ///
    /// # Safety
    /// As [`Store::write`].
    pub(super) unsafe fn set(&self, row: u32, vector: &[f32]) -> Result<(), IndexError> {
        match &self.kept {
            // SAFETY: the caller's promise.
            Kept::Words(store) => unsafe { store.write(row, vector) },
            // SAFETY: the caller's promise.
            Kept::Halves(store, kind) => unsafe { store.write(row, &self.narrowed(*kind, vector)) },
            Kept::Codes(_) => Ok(()),
        }
    }

    /// The vector of `row` as it is kept.
    ///
    /// # Safety
    /// As [`Store::get`], also of its code.
    pub(super) unsafe fn get(&self, row: u32) -> Cow<'_, [f32]> {
        match &self.kept {
            // SAFETY: the caller's promise.
            Kept::Words(store) => Cow::Borrowed(unsafe { store.get(row) }),
            Kept::Halves(store, kind) => {
                let mut wide = vec![0.0; self.words];
                // SAFETY: the caller's promise.
                let halves = unsafe { store.get(row) };
                // SAFETY: both have so many items.
                unsafe {
                    ffi::rektor_widen(*kind, halves.as_ptr(), self.words, wide.as_mut_ptr());
                }
                Cow::Owned(wide)
            }
            Kept::Codes(codes) => {
                // SAFETY: the caller's promise.
                let (code, scales) = unsafe { codes.get(row) };
                Cow::Owned(codes.decoded(code, scales).into_vec())
            }
        }
    }

    /// Whether keeping this vector at `row` would change nothing.
    ///
    /// # Safety
    /// As [`get`](Self::get).
    pub(super) unsafe fn holds(&self, row: u32, vector: &[f32]) -> bool {
        match &self.kept {
            // SAFETY: the caller's promise.
            Kept::Words(store) => same_bits(unsafe { store.get(row) }, vector),
            // SAFETY: the caller's promise.
            Kept::Halves(store, kind) => unsafe { store.get(row) == self.narrowed(*kind, vector) },
            // SAFETY: the caller's promise.
            Kept::Codes(codes) => unsafe { codes.holds(row, vector) },
        }
    }

    fn narrowed(&self, kind: u32, vector: &[f32]) -> Vec<u16> {
        assert_eq!(vector.len(), self.words, "words of a vector");
        let mut halves = vec![0; self.words];
        // SAFETY: both have so many items.
        unsafe {
            ffi::rektor_narrow(
                kind,
                self.metric,
                vector.as_ptr(),
                self.words,
                halves.as_mut_ptr(),
            );
        }
        halves
    }

    /// The chunk table and its kind, for the shim; valid as long as the vectors.
    pub(super) fn raw(&self) -> (*const *const u8, u32) {
        match &self.kept {
            Kept::Words(store) => (store.table().cast(), ffi::F32),
            Kept::Halves(store, kind) => (store.table().cast(), *kind),
            Kept::Codes(_) => (std::ptr::null(), ffi::CODE),
        }
    }
}

/// Where vectors of that kind are.
fn store_of<T: Plain>(spec: &IndexSpec, words: usize, account: &Arc<Account>) -> Store<T> {
    if spec.has_cold_vectors() {
        Store::cold(words, account, Part::Vectors)
    } else {
        Store::new(words, account, Part::Vectors)
    }
}

/// Equal in every bit: 0 and -0 are different values of the column.
fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter()
        .map(|x| x.to_bits())
        .eq(b.iter().map(|x| x.to_bits()))
}
