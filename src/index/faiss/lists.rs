//! The handle of an index of FAISS's own: inverted lists, or what a factory string names. Trained once, added to while it is
//! searched. It holds codes of its own; stored vectors and keys are others' business.

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::codes::raw_metric;
use super::ffi::{self, RawLists, RawView};
use crate::catalog::IndexOptions;
use crate::index::memory::{Account, Charge, Part};
use crate::index::{IndexError, IndexSpec};
use crate::vector::Metric;

/// Bytes of FAISS's reason, with its end.
const REASON: usize = 512;
/// While it is trained there are its sample, and what FAISS makes of that.
const TRAINING_COPIES: usize = 2;

/// See the module.
#[derive(Debug)]
pub(in crate::index) struct Lists {
    raw: NonNull<RawLists>,
    trained_with: u32,
    /// Nodes below were added, or left out because their row was dead.
    linked: AtomicU32,
    added: AtomicUsize,
    charge: Charge,
}

// SAFETY: the shim locks adding against searching (lists.cpp); the rest is atomic.
unsafe impl Send for Lists {}
// SAFETY: as above.
unsafe impl Sync for Lists {}

/// FAISS's reason: all zeros, or text that the shim ended with a zero.
fn refused(reason: &[c_char; REASON]) -> IndexError {
    // SAFETY: the last byte is zero in any case: the shim writes all but that.
    let reason = unsafe { CStr::from_ptr(reason.as_ptr()) };
    IndexError::Engine(format!("FAISS: {}", reason.to_string_lossy()))
}

/// The factory string for the shim.
fn text_of(options: &IndexOptions) -> Result<Option<CString>, IndexError> {
    let text = options
        .factory
        .map(|factory| CString::new(factory.as_str()));
    text.transpose()
        .map_err(|_| IndexError::Engine("a factory string with a zero byte".into()))
}

/// Whether FAISS can make an index of these options.
pub(in crate::index) fn check(spec: &IndexSpec) -> Result<(), IndexError> {
    let measured = [Metric::L2, Metric::InnerProduct, Metric::Cosine];
    if !measured.contains(&spec.metric) {
        return Err(IndexError::Engine(format!(
            "method {} has no {} distance",
            spec.options.method.name(),
            spec.metric.name()
        )));
    }
    let factory = text_of(&spec.options)?;
    let text = factory.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
    let mut reason = [0 as c_char; REASON];
    // SAFETY: `text` is null or ends with a zero, and `reason` has that room.
    let done = unsafe {
        ffi::rektor_lists_check(
            text,
            spec.dim.get(),
            raw_metric(spec.metric),
            reason.as_mut_ptr(),
            REASON,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(refused(&reason))
    }
}

impl Lists {
    /// Empty, trained with those nodes.
    ///
    /// # Safety
    /// What `view` points to lives through the call and names a row with codes for each of the nodes.
    pub(super) unsafe fn train(
        view: &RawView,
        nodes: &[u32],
        options: &IndexOptions,
        threads: usize,
        account: &Arc<Account>,
    ) -> Result<Self, IndexError> {
        let factory = text_of(options)?;
        let text = factory.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
        let lists = match options.lists {
            0 => nodes.len().isqrt(),
            lists => usize::from(lists),
        };
        let lists = lists.clamp(1, nodes.len());
        let (dim, metric) = (view.codes.dim, view.codes.metric);
        // SAFETY: `text` is null or ends with a zero.
        let sampled = unsafe { ffi::rektor_lists_sampled(text, dim, metric, lists, nodes.len()) };
        let training = Charge::new(Arc::clone(account), Part::Graph);
        training.grow_to(TRAINING_COPIES * sampled * dim * size_of::<f32>())?;
        let mut reason = [0 as c_char; REASON];
        // SAFETY: the caller's; `text` ends with a zero and `reason` has that room.
        let raw = unsafe {
            ffi::rektor_lists_new(
                text,
                view,
                nodes.as_ptr(),
                nodes.len(),
                lists,
                u32::try_from(threads).unwrap_or(1),
                reason.as_mut_ptr(),
                REASON,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| refused(&reason))?;
        Ok(Self {
            raw,
            trained_with: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
            linked: AtomicU32::new(0),
            added: AtomicUsize::new(0),
            charge: Charge::new(Arc::clone(account), Part::Graph),
        })
    }

    /// Takes the memory that so many more nodes need.
    pub(super) fn take_room(&self, more: usize) -> Result<(), IndexError> {
        // SAFETY: a valid index.
        let row = unsafe { ffi::rektor_lists_row_bytes(self.raw()) };
        let nodes = self.added.load(Ordering::Relaxed) + more;
        self.charge.grow_to(nodes * row)
    }

    /// Adds nodes; `linked` is `end` then.
    ///
    /// # Safety
    /// As [`Self::train`], and nobody else adds.
    pub(super) unsafe fn add(
        &self,
        view: &RawView,
        nodes: &[u32],
        end: u32,
    ) -> Result<(), IndexError> {
        let added = self.added.load(Ordering::Relaxed) + nodes.len();
        // SAFETY: a valid index.
        let row = unsafe { ffi::rektor_lists_row_bytes(self.raw()) };
        self.charge.grow_to(added * row)?;
        // SAFETY: the caller's.
        let done =
            unsafe { ffi::rektor_lists_add(self.raw.as_ptr(), view, nodes.as_ptr(), nodes.len()) };
        if done != 0 {
            return Err(IndexError::Full("no memory to link rows".into()));
        }
        self.added.store(added, Ordering::Relaxed);
        self.linked.store(end, Ordering::Release);
        Ok(())
    }

    /// For searches; valid as long as the lists.
    pub(super) fn raw(&self) -> *const RawLists {
        self.raw.as_ptr()
    }

    /// Nodes that are linked.
    pub(super) fn linked(&self) -> u32 {
        self.linked.load(Ordering::Acquire)
    }

    /// Nodes that there were when it was trained.
    pub(super) fn trained_with(&self) -> u32 {
        self.trained_with
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        // SAFETY: made by rektor_lists_new, and nobody else has it now.
        unsafe { ffi::rektor_lists_free(self.raw.as_ptr()) };
    }
}
