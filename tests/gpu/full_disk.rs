//! A disk without room: what was there stays, and nothing half is left.

use std::{fs, path::Path, process::Command, sync::Arc};

use libtest_mimic::Completion;
use wgpu_kv_cache::{
    CacheConfig, Error, KvCache, PagedKvCache, SaveError,
    save::{Label, SaveSequence},
    store::FolderStore,
};

use crate::{
    DONE, Gpu, Outcome, Test,
    rows::numbers,
    tiers::{HOST_BYTES, LONG, add, append, config, expected, extracted, prompt, tiers},
};

pub const TESTS: &[Test] = &[("full_disk::what_was_there_stays", what_was_there_stays)];

/// A file system of 64 KiB in memory, until this is dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Small(folder)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

fn what_was_there_stays(gpu: &Gpu) -> Outcome {
    let small = match Small::mount() {
        Ok(small) => small,
        Err(reason) => return Ok(Completion::ignored_with(format!("no small file system can be mounted: {reason}"))),
    };
    let label = Label { identity: "model", tokens: &[] };
    let path = small.path().join("sequence");
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 2, 32, 300))?;
    cache.insert(0, 10, &numbers(10 * 64, 1), &numbers(10 * 64, 2))?;
    cache.insert(1, 300, &numbers(300 * 64, 3), &numbers(300 * 64, 4))?;
    cache.save(0, &path, &label)?;
    let before = fs::read(&path)?;
    let refused = cache.save(1, &path, &label);
    assert!(matches!(refused, Err(Error::Save(SaveError::Io { .. }))), "{refused:?}");
    assert_eq!(fs::read(&path)?, before);
    assert_eq!(fs::read_dir(small.path())?.count(), 1, "nothing is left of what had no room");
    fs::remove_file(&path)?;

    // A store without room is a store that fails. What it has is whole.
    let folder = small.path().join("pages");
    let open = || FolderStore::open(&folder, 1 << 20).map(Arc::new);
    let prompts: Vec<Vec<u32>> = (0..6).map(|first| [&[first][..], &prompt(29)].concat()).collect();
    {
        let mut cache = PagedKvCache::new(&gpu.context, &config(60))?;
        let mut own = tiers(&mut cache, HOST_BYTES, Some(open()?))?;
        for tokens in &prompts {
            let added = own.add(&mut cache, tokens, None)?;
            append(&mut cache, added.sequence, tokens, added.cached() as usize)?;
            own.put(&cache, added.sequence)?;
            assert!(own.flush(LONG));
            cache.free(added.sequence)?;
        }
        let figures = own.figures();
        assert!(figures.failures > 0 && figures.store.pages_in > 0, "{figures:?}");
    }
    assert!(fs::read_dir(&folder)?.all(|entry| entry.is_ok_and(|entry| entry.path().is_dir())), "no file is left half");
    let mut cache = PagedKvCache::new(&gpu.context, &config(300))?;
    let mut own = tiers(&mut cache, HOST_BYTES, Some(open()?))?;
    for tokens in &prompts {
        let added = add(&mut own, &mut cache, tokens, None)?;
        append(&mut cache, added.sequence, tokens, added.cached() as usize)?;
        assert_eq!(extracted(&cache, added.sequence)?, expected(&gpu.context, tokens)?);
        cache.free(added.sequence)?;
    }
    let figures = own.figures();
    assert!(figures.store.pages_out > 0 && figures.damaged == 0, "{figures:?}");
    DONE
}
