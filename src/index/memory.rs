//! What indexes hold in memory, by part, counted where it is taken and given back; and one bound for all of them.
//! Allocates nothing itself, and never looks at what is held.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::IndexError;
use super::faiss::{self, ColdFile, ColdFiles};

/// The share of the bound that an index in the making leaves free: rows still come to those that serve.
const KEPT_SHARE: u64 = 16;

/// The memory that all indexes share, and its bound.
#[derive(Debug)]
pub struct Memory {
    limit: u64,
    used: AtomicU64,
    /// Whether what searching threads hold counts as well, whoever's indexes they search.
    of_process: bool,
    /// Where vectors go that only the best candidates are compared with; none: they stay in memory.
    files: Option<Box<dyn ColdFiles>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            limit: u64::MAX,
            used: AtomicU64::new(0),
            of_process: false,
            files: None,
        }
    }
}

impl Memory {
    /// At most so many bytes, if there is a bound, beside what is in files, if there are any.
    #[must_use]
    pub fn new(limit: Option<u64>, files: Option<Box<dyn ColdFiles>>) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.unwrap_or(u64::MAX),
            files,
            ..Self::default()
        })
    }

    /// The same for all indexes of the process, with what its threads hold to search them: a bit for each node of the
    /// largest graph that a thread has walked through.
    #[must_use]
    pub fn of_process(limit: Option<u64>, files: Option<Box<dyn ColdFiles>>) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.unwrap_or(u64::MAX),
            files,
            of_process: true,
            ..Self::default()
        })
    }

    /// At most so many bytes, and no files.
    #[must_use]
    pub fn limited(limit: u64) -> Arc<Self> {
        Self::new(Some(limit), None)
    }

    /// As many bytes as there are, and no files.
    #[must_use]
    pub fn unlimited() -> Arc<Self> {
        Self::new(None, None)
    }

    /// A file for an index's vectors, or why there is none.
    pub(super) fn cold_file(&self) -> Result<Box<dyn ColdFile>, String> {
        let files = self.files.as_ref().ok_or("there are no files")?;
        files.create().map_err(|error| error.to_string())
    }

    /// Whether vectors go to files.
    pub(super) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// The bound; `None` if there is none.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        (self.limit != u64::MAX).then_some(self.limit)
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
            .load(Ordering::Relaxed)
            .saturating_add(self.searching())
    }

    /// Bytes that are held to search, which nothing can refuse.
    fn searching(&self) -> u64 {
        match self.of_process {
            true => faiss::visited_bytes(),
            false => 0,
        }
    }

    /// Bytes that are left for what does not serve yet.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.bound(true).saturating_sub(self.used())
    }

    /// Whether there is room for a new index of `wanted` bytes, and if not, why.
    ///
    /// # Errors
    /// When there is not.
    pub fn check(&self, wanted: u64) -> Result<(), IndexError> {
        if wanted <= self.room() {
            return Ok(());
        }
        Err(self.refusal(wanted, true))
    }

    /// What may be filled by an index that is being made, or by one that serves.
    fn bound(&self, making: bool) -> u64 {
        match making {
            true => self.limit - self.limit / KEPT_SHARE,
            false => self.limit,
        }
    }

    fn refusal(&self, wanted: u64, making: bool) -> IndexError {
        IndexError::Memory {
            wanted: mib(wanted),
            used: self.used() >> 20,
            limit: self.bound(making) >> 20,
            bound: match making {
                true => "max_memory less a sixteenth for the indexes that serve",
                false => "max_memory",
            },
            disk: String::new(),
        }
    }

    fn take(&self, bytes: u64, making: bool) -> Result<(), IndexError> {
        let bound = self.bound(making);
        let searching = self.searching();
        let fits = |used: u64| {
            let used = used.checked_add(bytes)?;
            (used.saturating_add(searching) <= bound).then_some(used)
        };
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(|_| ()).map_err(|_| self.refusal(bytes, making))
    }
}

/// In whole MiB, never 0.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20).max(1)
}

/// A part of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Vectors kept for comparing exactly, in memory.
    Vectors,
    /// The same in files, which the system keeps in its cache while there is room; not bounded.
    Mapped,
    /// 8-bit codes with their scales and signs, and where they lie.
    Codes,
    /// Links, levels and node numbers.
    Graph,
    /// The map from keys to rows.
    Keys,
    /// Keys and INCLUDE values.
    Records,
    /// What filters compare.
    Filters,
    /// Which rows are live, lists of ids.
    Other,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 8] = [
        Self::Vectors,
        Self::Mapped,
        Self::Codes,
        Self::Graph,
        Self::Keys,
        Self::Records,
        Self::Filters,
        Self::Other,
    ];

    /// What it is called in statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Mapped => "mapped",
            Self::Codes => "codes",
            Self::Graph => "graph",
            Self::Keys => "keys",
            Self::Records => "records",
            Self::Filters => "filters",
            Self::Other => "other",
        }
    }
}

/// Bytes of an index by part, in the order of [`Part::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryParts([u64; Part::ALL.len()]);

impl MemoryParts {
    /// Each part and its bytes.
    pub fn iter(&self) -> impl Iterator<Item = (Part, u64)> + '_ {
        Part::ALL.into_iter().zip(self.0)
    }

    /// All parts together that are memory for good: not what is mapped, which the system can take back.
    #[must_use]
    pub fn total(&self) -> u64 {
        let held = self.iter().filter(|(part, _)| *part != Part::Mapped);
        held.map(|(_, bytes)| bytes).sum()
    }

    /// One part.
    #[must_use]
    pub fn of(&self, part: Part) -> u64 {
        self.iter()
            .find(|(each, _)| *each == part)
            .map_or(0, |(_, bytes)| bytes)
    }
}

/// What one index holds: its writer, its snapshots, and what is made beside them. Gives all of it back at its end.
#[derive(Debug)]
pub(super) struct Account {
    memory: Arc<Memory>,
    parts: [AtomicU64; Part::ALL.len()],
    /// It does not serve yet.
    making: AtomicBool,
    /// Why the linker waits for memory.
    starved: Mutex<Option<String>>,
}

impl Account {
    /// Nothing yet.
    pub(super) fn new(memory: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            parts: Default::default(),
            making: AtomicBool::new(true),
            starved: Mutex::default(),
        })
    }

    /// What is held, by part.
    pub(super) fn parts(&self) -> MemoryParts {
        let mut parts = MemoryParts::default();
        for (to, from) in parts.0.iter_mut().zip(&self.parts) {
            *to = from.load(Ordering::Relaxed);
        }
        parts
    }

    /// What it shares with others.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Says that a part that nothing can refuse has so many bytes now. One thread does that.
    pub(super) fn set(&self, part: Part, bytes: usize) {
        let (bytes, held) = (bytes as u64, &self.parts[part as usize]);
        let before = held.load(Ordering::Relaxed);
        if bytes == before {
            return;
        }
        held.store(bytes, Ordering::Relaxed);
        // Wraps around to a subtraction.
        let change = bytes.wrapping_sub(before);
        self.memory.used.fetch_add(change, Ordering::Relaxed);
    }

    /// Whether something may grow that cannot be refused when it has.
    pub(super) fn check(&self) -> Result<(), IndexError> {
        let making = self.making();
        if self.memory.used() < self.memory.bound(making) {
            return Ok(());
        }
        Err(self.memory.refusal(1, making))
    }

    /// From now on all of the memory is its own as well.
    pub(super) fn serves(&self) {
        self.making.store(false, Ordering::Relaxed);
    }

    fn making(&self) -> bool {
        self.making.load(Ordering::Relaxed)
    }

    /// The linker works, or why it cannot.
    pub(super) fn linked(&self, done: &Result<(), IndexError>) {
        let starved = done.as_ref().err().map(ToString::to_string);
        *self.starved.lock().unwrap_or_else(PoisonError::into_inner) = starved;
    }

    /// Why the linker waits for memory, if it does.
    pub(super) fn starved(&self) -> Option<String> {
        let starved = self.starved.lock();
        starved.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Charges gave theirs back: what is left was `set`.
        self.memory
            .used
            .fetch_sub(self.parts().total(), Ordering::Relaxed);
    }
}

/// Bytes taken for something that can be refused; given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    account: Arc<Account>,
    part: Part,
    bytes: AtomicU64,
}

impl Charge {
    /// Nothing yet.
    pub(super) fn new(account: Arc<Account>, part: Part) -> Self {
        Self {
            account,
            part,
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes what is missing to so many bytes in all. One thread does that at a time.
    pub(super) fn grow_to(&self, bytes: usize) -> Result<(), IndexError> {
        let before = self.bytes.load(Ordering::Relaxed);
        let more = (bytes as u64).saturating_sub(before);
        if more > 0 {
            self.add(more)?;
        }
        Ok(())
    }

    /// Takes so many bytes more; of a file there is no bound but the disk's.
    pub(super) fn add(&self, more: u64) -> Result<(), IndexError> {
        if self.part != Part::Mapped {
            self.account.memory.take(more, self.account.making())?;
        }
        self.account.parts[self.part as usize].fetch_add(more, Ordering::Relaxed);
        self.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// Whose it is.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.account.parts[self.part as usize].fetch_sub(bytes, Ordering::Relaxed);
        if self.part != Part::Mapped {
            self.account.memory.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::OUT_OF_MEMORY;

    #[test]
    fn what_is_taken_is_given_back_and_never_beyond_the_bound() {
        let memory = Memory::limited(100 << 20);
        let first = Account::new(Arc::clone(&memory));
        first.serves();
        let charge = Charge::new(Arc::clone(&first), Part::Vectors);
        charge.grow_to(60 << 20).unwrap();
        charge.grow_to(50 << 20).unwrap(); // less is nothing
        first.set(Part::Keys, 10 << 20);
        first.set(Part::Keys, 5 << 20);
        assert_eq!(memory.used(), 65 << 20);
        assert_eq!(first.parts().of(Part::Vectors), 60 << 20);
        assert_eq!(first.parts().total(), 65 << 20);

        let second = Account::new(Arc::clone(&memory));
        let making = Charge::new(Arc::clone(&second), Part::Graph);
        let refused = making.grow_to(30 << 20).unwrap_err().to_string();
        assert!(
            refused.contains("65 MiB of 93 MiB (max_memory less"),
            "{refused}"
        );
        assert!(memory.check(29 << 20).is_err() && memory.check(28 << 20).is_ok());
        second.serves();
        let other = Charge::new(Arc::clone(&second), Part::Graph);
        let refused = other.grow_to(36 << 20).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "out of memory: 36 MiB more are needed, and the indexes hold 65 MiB of 100 MiB (max_memory)"
        );
        assert!(refused.to_string().starts_with(OUT_OF_MEMORY));
        assert_eq!(second.parts().total(), 0);
        other.grow_to(35 << 20).unwrap();
        assert!(second.check().is_err());
        second.linked(&Err(refused));
        assert!(second.starved().unwrap().starts_with("out of memory"));
        second.linked(&Ok(()));
        assert_eq!(second.starved(), None);

        drop(other);
        assert_eq!(memory.used(), 65 << 20);
        drop((charge, first));
        assert_eq!(memory.used(), 0);
    }
}
