//! A disk in memory that stops or fails at a chosen operation, and loses on a crash what was not synced.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Disk, DiskFile};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Fault {
    /// It and all later ones fail: the power is gone.
    Stop,
    /// It alone fails, as on a full disk.
    FailOnce,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// What a crash leaves at least.
    synced: Vec<u8>,
}

/// Names are durable per directory: a crash keeps all unsynced changes of a directory's names, or none, or any of them.
#[derive(Clone, Debug, Default)]
struct Names {
    now: BTreeMap<String, Entry>,
    synced: BTreeMap<String, Entry>,
    /// What leads from `synced` to `now`.
    unsynced: Vec<Rename>,
}

/// A name that goes, one that comes, or both at once.
#[derive(Clone, Debug)]
struct Rename {
    from: Option<String>,
    to: Option<(String, Entry)>,
}

impl Names {
    fn put(&mut self, name: String, entry: Entry) {
        self.now.insert(name.clone(), entry);
        self.unsynced.push(Rename {
            from: None,
            to: Some((name, entry)),
        });
    }

    fn take(&mut self, name: &str) -> Option<Entry> {
        let entry = self.now.remove(name)?;
        self.unsynced.push(Rename {
            from: Some(name.to_owned()),
            to: None,
        });
        Some(entry)
    }

    fn rename(&mut self, from: &str, to: String) -> Option<Entry> {
        let entry = self.now.remove(from)?;
        self.now.insert(to.clone(), entry);
        self.unsynced.push(Rename {
            from: Some(from.to_owned()),
            to: Some((to, entry)),
        });
        Some(entry)
    }

    fn sync(&mut self) {
        self.synced = self.now.clone();
        self.unsynced.clear();
    }

    /// What a crash leaves of the names.
    fn survive(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced);
        match random.below(3) {
            0 => self.now = self.synced.clone(),
            1 => {
                self.now = self.synced.clone();
                for change in changes {
                    // A file that never got its name cannot be renamed.
                    let comes = change.from.as_ref();
                    let there = comes.is_none_or(|from| self.now.contains_key(from));
                    if !there || random.below(2) == 0 {
                        continue;
                    }
                    if let Some(from) = change.from {
                        self.now.remove(&from);
                    }
                    if let Some((to, entry)) = change.to {
                        self.now.insert(to, entry);
                    }
                }
            }
            _ => {}
        }
        self.synced = self.now.clone();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(usize),
    Directory(usize),
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    directories: Vec<Names>,
    operations: u64,
    fault: Option<(u64, Fault)>,
}

/// Shared by its clones.
#[derive(Clone, Debug)]
pub(in crate::store) struct FaultDisk(Arc<Mutex<State>>);

/// The crash test's random numbers: xorshift, so that a seed repeats a run.
pub(in crate::store) struct Random(u64);

impl Random {
    pub(in crate::store) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(in crate::store) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit.max(1)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    /// Counts an operation that changes something.
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Some((at, Fault::Stop)) if self.operations >= at => {
                Err(io::Error::other("the power is gone"))
            }
            Some((at, Fault::FailOnce)) if self.operations == at => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn directory(&self, path: &Path) -> io::Result<usize> {
        let mut at = 0;
        for part in path {
            match self.directories[at].now.get(part.to_str().unwrap()) {
                Some(Entry::Directory(next)) => at = *next,
                Some(Entry::File(_)) | None => return Err(missing()),
            }
        }
        Ok(at)
    }

    fn parent(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok((self.directory(path.parent().unwrap())?, name))
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        let (directory, name) = self.parent(path)?;
        match self.directories[directory].now.get(&name) {
            Some(Entry::File(file)) => Ok(*file),
            Some(Entry::Directory(_)) | None => Err(missing()),
        }
    }
}

impl FaultDisk {
    pub(in crate::store) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            directories: vec![Names::default()],
            ..State::default()
        })))
    }

    /// Operations so far.
    pub(in crate::store) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// Arranges a fault at the `at`-th operation from the beginning.
    pub(in crate::store) fn arrange(&self, at: u64, fault: Fault) {
        self.0.lock().unwrap().fault = Some((at, fault));
    }

    /// What a machine finds after a crash now: synced content for certain, of the rest whatever the disk got to.
    pub(in crate::store) fn reboot(&self, random: &mut Random) -> Self {
        let state = self.0.lock().unwrap();
        let mut after = State {
            files: state.files.clone(),
            directories: state.directories.clone(),
            ..State::default()
        };
        for names in &mut after.directories {
            names.survive(random);
        }
        for file in &mut after.files {
            file.bytes = survive(file, random);
            file.synced = file.bytes.clone();
        }
        Self(Arc::new(Mutex::new(after)))
    }

    /// Every file, for tests that damage them.
    pub(in crate::store) fn files(&self) -> Vec<PathBuf> {
        let state = self.0.lock().unwrap();
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::new(), 0)];
        while let Some((path, directory)) = open.pop() {
            for (name, entry) in &state.directories[directory].now {
                match entry {
                    Entry::File(_) => found.push(path.join(name)),
                    Entry::Directory(next) => open.push((path.join(name), *next)),
                }
            }
        }
        found
    }

    pub(in crate::store) fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        state.files[state.file(path).unwrap()].bytes.clone()
    }

    pub(in crate::store) fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.0.lock().unwrap();
        let file = state.file(path).unwrap();
        state.files[file] = Content {
            synced: bytes.clone(),
            bytes,
        };
    }
}

/// Of the bytes that were not synced any part may have reached the disk, in pages, in any order.
fn survive(file: &Content, random: &mut Random) -> Vec<u8> {
    const PAGE: usize = 64; // small, so that small tests tear
    let same = file
        .bytes
        .iter()
        .zip(&file.synced)
        .take_while(|(now, synced)| now == synced)
        .count();
    if random.below(3) == 0 {
        return file.synced.clone();
    }
    let mut bytes = file.bytes.clone();
    if bytes.len() < file.synced.len() && random.below(2) == 0 {
        return file.synced.clone();
    }
    if bytes.len() > same {
        bytes.truncate(same + random.below(bytes.len() - same + 1));
        for page in bytes[same..].chunks_mut(PAGE) {
            if random.below(3) == 0 {
                page.fill(0);
            }
        }
        // what was synced stays, under whatever was written over it
        if bytes.len() < file.synced.len() {
            bytes.extend_from_slice(&file.synced[bytes.len()..]);
        }
    }
    bytes
}

impl Disk for FaultDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        if state.directory(path).is_ok() {
            return Ok(());
        }
        let (parent, name) = state.parent(path)?;
        state.directories.push(Names::default());
        let made = Entry::Directory(state.directories.len() - 1);
        state.directories[parent].put(name, made);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        let (parent, name) = state.parent(path)?;
        if state.directories[parent].now.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.push(Content::default());
        let file = state.files.len() - 1;
        state.directories[parent].put(name, Entry::File(file));
        drop(state);
        Ok(Box::new(FaultFile {
            disk: self.clone(),
            file,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let state = self.0.lock().unwrap();
        let file = state.file(path)?;
        drop(state);
        Ok(Box::new(FaultReader {
            disk: self.clone(),
            file,
            offset: 0,
        }))
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let state = self.0.lock().unwrap();
        let file = state.file(path)?;
        Ok(state.files[file].bytes.len() as u64)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock().unwrap();
        let directory = state.directory(path)?;
        Ok(state.directories[directory].now.keys().cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        let (old_parent, old) = state.parent(from)?;
        let (new_parent, new) = state.parent(to)?;
        assert_eq!(old_parent, new_parent, "the store moves nothing elsewhere");
        let renamed = state.directories[old_parent].rename(&old, new);
        renamed.ok_or_else(missing)?;
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        let file = state.file(from)?;
        let (parent, name) = state.parent(to)?;
        if state.directories[parent].now.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.directories[parent].put(name, Entry::File(file));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        state.file(path)?;
        let (parent, name) = state.parent(path)?;
        state.directories[parent].take(&name);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        let directory = state.directory(path)?;
        if !state.directories[directory].now.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (parent, name) = state.parent(path)?;
        state.directories[parent].take(&name);
        Ok(())
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let file = state.file(path)?;
        state.operation()?;
        let content = &mut state.files[file];
        content.bytes.truncate(usize::try_from(length).unwrap());
        content.synced = content.bytes.clone();
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        let directory = state.directory(path)?;
        state.directories[directory].sync();
        Ok(())
    }
}

/// Sees what is written after it was opened.
struct FaultReader {
    disk: FaultDisk,
    file: usize,
    offset: usize,
}

impl Read for FaultReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.0.lock().unwrap();
        let bytes = &state.files[self.file].bytes;
        let mut rest = &bytes[self.offset.min(bytes.len())..];
        let read = rest.read(buffer)?;
        self.offset += read;
        Ok(read)
    }
}

struct FaultFile {
    disk: FaultDisk,
    file: usize,
}

impl DiskFile for FaultFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let operation = state.operation();
        // a write that fails may have got half way
        let written = if operation.is_ok() {
            bytes.len()
        } else {
            bytes.len() / 2
        };
        state.files[self.file]
            .bytes
            .extend_from_slice(&bytes[..written]);
        operation
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.operation()?;
        let content = &mut state.files[self.file];
        content.synced = content.bytes.clone();
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.operation()?;
        let content = &mut state.files[self.file];
        content.bytes.truncate(usize::try_from(length).unwrap());
        content.synced = content.bytes.clone();
        Ok(())
    }
}
