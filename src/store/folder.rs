//! [`FolderStore`]: objects as files of a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use super::{ObjectKey, Store};
use crate::{Result, StoreError};

/// What files that are being written begin with.
const UNFINISHED: &str = ".storing-";
/// When such a file is one that a process has left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// Keeps each object as a file, `ab/abcdef….kv` by its key. Files are written beside and renamed, so that each is there
/// whole or not at all, whenever a process ends. Several processes may use one folder; what one of them put there is
/// found by the others, and after a restart.
///
/// Beyond a number of bytes, files that were used longest ago go: a file's time of change is when it was last used.
/// Each process counts what it adds to what it found, and looks again when that is too much, so that a folder may
/// exceed the number by what other processes add meanwhile. Opening a folder removes nothing.
#[derive(Debug)]
pub struct FolderStore {
    folder: PathBuf,
    budget: u64,
    /// Bytes that this process knows of.
    bytes: AtomicU64,
}

/// A file with an object.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn bytes(kept: &[Kept]) -> u64 {
    kept.iter().map(|kept| kept.bytes).fold(0, u64::saturating_add)
}

impl FolderStore {
    /// Opens a folder, which is created if there is none, for up to so many bytes.
    ///
    /// # Errors
    /// [`StoreError::NoBudget`]; [`StoreError::Open`] if the folder cannot be created, read or written.
    pub fn open(folder: impl AsRef<Path>, budget: u64) -> Result<Self> {
        if budget == 0 {
            return Err(StoreError::NoBudget.into());
        }
        let folder = folder.as_ref().to_owned();
        let store = FolderStore { folder, budget, bytes: AtomicU64::new(0) };
        let is_file = store.folder.is_file().then(|| Err(io::Error::other("it is a file")));
        let opened = is_file
            .unwrap_or_else(|| fs::create_dir_all(&store.folder))
            // It can be written to.
            .and_then(|()| store.beside())
            .and_then(|_| store.look());
        let kept = opened.map_err(|error| StoreError::Open {
            path: store.folder.display().to_string().into(),
            reason: error.to_string().into(),
        })?;
        store.bytes.store(bytes(&kept), Ordering::Relaxed);
        Ok(store)
    }

    /// Bytes of all objects, as far as this process knows.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        let name = key.to_string();
        self.folder.join(&name[..2]).join(name + ".kv")
    }

    fn beside(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)
    }

    /// All objects, and takes away what processes have left behind that ended while they wrote.
    fn look(&self) -> io::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.is_dir() {
                // A folder may go while it is read.
                let files = fs::read_dir(&path).into_iter().flatten().flatten();
                kept.extend(files.filter_map(|file| {
                    let meta = file.metadata().ok()?;
                    let path = file.path();
                    let is_object = path.extension().is_some_and(|extension| extension == "kv");
                    is_object.then_some(Kept { path, bytes: meta.len(), used: meta.modified().ok()? })
                }));
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED)) {
                let age =
                    fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
                if age.is_some_and(|age| age > LEFT_BEHIND) {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(kept)
    }

    /// Removes objects that were used longest ago, down to nine tenths of the budget if they exceed it.
    fn evict(&self, mut kept: Vec<Kept>) {
        let mut bytes = bytes(&kept);
        if bytes > self.budget {
            kept.sort_by_key(|kept| kept.used);
            let most = self.budget.saturating_sub(self.budget / 10);
            // The one that was used last stays, if it fits.
            let last = kept.len().saturating_sub(1);
            for (index, Kept { path, bytes: own, .. }) in kept.into_iter().enumerate() {
                if bytes <= most || index == last && bytes <= self.budget {
                    break;
                }
                // Where another process has removed it, it is gone as well.
                if fs::remove_file(&path).is_ok() || !path.exists() {
                    bytes = bytes.saturating_sub(own);
                }
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Store for FolderStore {
    fn budget(&self) -> Option<u64> {
        Some(self.budget)
    }

    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(key);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        // It is used now. A file that is only read keeps its age.
        let _ = fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(bytes))
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let added = bytes.len() as u64;
        if added > self.budget {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut beside = self.beside()?;
        io::Write::write_all(&mut beside, bytes)?;
        // The system's own times of files may lag behind those that `get` sets.
        beside.as_file().set_modified(SystemTime::now())?;
        let before = fs::metadata(&path).map_or(0, |meta| meta.len());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        beside.persist(&path).map_err(|error| error.error)?;
        let known = self.bytes.load(Ordering::Relaxed).saturating_add(added).saturating_sub(before);
        self.bytes.store(known, Ordering::Relaxed);
        if known > self.budget {
            self.evict(self.look()?);
        }
        Ok(())
    }

    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        keys.iter().map(|key| self.path(key).try_exists()).collect()
    }

    fn remove(&self, key: &ObjectKey) -> io::Result<()> {
        let path = self.path(key);
        let before = fs::metadata(&path).map_or(0, |meta| meta.len());
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                self.bytes.fetch_sub(before.min(self.bytes()), Ordering::Relaxed);
                removed
            }
        }
    }
}
