//! Sequences as files, and tiers below pages, beside what the device and the disk do alone.

use std::{
    cell::RefCell,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, Format, PagedConfig, PagedKvCache, PagedSource, RowsIn, Source, Strides,
    Write,
    pages::{Append, PageKey, SequenceId},
    save::{Label, SaveSequence},
    store::{FolderStore, Object, ObjectKey, Scope, Store},
    tiers::{Tiers, TiersConfig},
};

use crate::{DIM, HEADS, Reach, Table, buffer};

type Failure = Box<dyn std::error::Error>;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(600);
const PAGE_SIZE: u32 = 16;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Medians of what is done in turns, in seconds.
fn in_turns(repetitions: usize, forms: &mut [&mut dyn FnMut() -> Result<(), Failure>]) -> Result<Vec<f64>, Failure> {
    let mut times = vec![Vec::new(); forms.len()];
    for repetition in 0..=repetitions {
        for (form, times) in forms.iter_mut().zip(&mut times) {
            let start = Instant::now();
            form()?;
            if repetition > 0 || repetitions == 1 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(times.into_iter().map(median).collect())
}

/// Makes the system forget what it has of a file that is on the disk, if it can.
fn forget(path: &Path) -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(fs::File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?;
    #[cfg(not(target_os = "linux"))]
    let _ = path;
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = fs::File::create(path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    Ok(file.sync_all()?)
}

/// All rows about files and tiers.
pub fn rows(context: &Context, whole: bool, table: &mut Table) -> Result<(), Failure> {
    files(context, if whole { 7 } else { 1 }, table)?;
    uploads(context, if whole { 31 } else { 1 }, table)?;
    lookups(if whole { 11 } else { 1 }, table)?;
    steps(context, if whole { 101 } else { 1 }, table)
}

/// A sequence of 2048 positions in 8 layers: 64 MiB.
fn files(context: &Context, repetitions: usize, table: &mut Table) -> Result<(), Failure> {
    let (layers, length) = (8, 2048);
    let config = CacheConfig::new(1, HEADS, DIM, length).formats(Format::F16, Format::F16);
    let cache = |context| BatchedKvCache::new(context, config, layers);
    let (mut from, to) = (cache(context)?, cache(context)?);
    let rows = vec![half::f16::from_f32(1.25); (HEADS * length * DIM) as usize];
    (0..layers).try_for_each(|layer| from.update(layer, &rows[..], &rows[..], Write::at(0, length)))?;
    let folder = tempfile::tempdir()?;
    let (path, plain) = (folder.path().join("sequence"), folder.path().join("plain"));
    let label = Label { identity: "a benchmark", tokens: &[] };
    let bytes = vec![7u8; layers * 4 * rows.len()];
    let to = RefCell::new(to);
    let load = || -> Result<(), Failure> {
        let mut to = to.borrow_mut();
        to.clear_sequence(0)?;
        to.load(0, &path, "a benchmark")?;
        Ok(context.wait()?)
    };
    let read = || -> Result<(), Failure> { Ok(fs::read(&plain).map(drop)?) };
    let times = in_turns(
        repetitions,
        &mut [
            &mut || Ok(from.save(0, &path, &label)?),
            &mut || {
                let read = from.layers().iter().try_for_each(|layer| layer.get_all()?.read().map(drop));
                Ok(read?)
            },
            &mut || write_synced(&plain, &bytes),
            &mut || load(),
            &mut || {
                let target = context.device().create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: bytes.len() as u64,
                    usage: wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                context.queue().write_buffer(&target, 0, &bytes);
                context.queue().submit([]);
                Ok(context.wait()?)
            },
            &mut || read(),
            // Both once more, from the disk.
            &mut || forget(&path),
            &mut || load(),
            &mut || forget(&plain),
            &mut || read(),
        ],
    )?;
    let what = format!("a sequence of {} MiB, saved", bytes.len() >> 20);
    let slower = times[1].max(times[2]);
    table.row(&what, "slower of read-back and disk", Reach::AtLeast(0.5), slower / times[0], " × its speed");
    let what = format!("a sequence of {} MiB, loaded", bytes.len() >> 20);
    let slower = times[1].max(times[9]);
    table.row(&what, "slower of read-back and disk", Reach::AtLeast(0.5), slower / times[7], " × its speed");
    let slower = times[4].max(times[5]);
    table.row(
        "the same, in the system's cache",
        "slower of upload and cache",
        Reach::AtLeast(0.5),
        slower / times[3],
        " × its speed",
    );
    let milliseconds = |time: usize| times[time] * 1e3;
    table.note(&format!(
        "saved in {:.0} ms, loaded in {:.0} and {:.0}; read-back {:.0}, upload {:.0}, disk {:.0} written and {:.0} read, \
         cache {:.0}",
        milliseconds(0),
        milliseconds(7),
        milliseconds(3),
        milliseconds(1),
        milliseconds(4),
        milliseconds(2),
        milliseconds(9),
        milliseconds(5)
    ));
    Ok(())
}

/// A pool with a source for its layers.
struct Pool {
    cache: PagedKvCache,
    sources: Vec<PagedSource>,
}

impl Pool {
    fn new(context: &Context, layers: usize, [sequences, pages, most]: [u32; 3]) -> Result<Self, Failure> {
        let config = CacheConfig::new(sequences, HEADS, DIM, 1 << 14).formats(Format::F16, Format::F16);
        let cache = PagedKvCache::new(context, &PagedConfig::new(config, layers, PAGE_SIZE, pages))?;
        let bytes = u64::from(most * HEADS * DIM) * 2;
        let (keys, values) = (buffer(context, bytes), buffer(context, bytes));
        let rows = |buffer| RowsIn { buffer, offset: 0, format: Format::F16, strides: Strides::bthd(HEADS, most, DIM) };
        let source = Source { keys: rows(&keys), values: rows(&values), tokens: most };
        let sources = (0..layers).map(|layer| cache.bind_source(layer, &source)).collect::<Result<_, _>>()?;
        Ok(Pool { cache, sources })
    }

    fn step(&mut self, context: &Context, appends: &[Append<'_>]) -> Result<(), Failure> {
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.cache.begin_step(&mut encoder, appends)?;
        for (layer, source) in self.sources.iter().enumerate() {
            self.cache.record_update(layer, &mut encoder, source)?;
        }
        context.queue().submit([encoder.finish()]);
        Ok(self.cache.submitted()?)
    }
}

/// 64 pages from host memory to the device.
fn uploads(context: &Context, repetitions: usize, table: &mut Table) -> Result<(), Failure> {
    let (layers, pages) = (8, 64);
    let mut pool = Pool::new(context, layers, [2, pages, pages * PAGE_SIZE])?;
    let mut tiers = Tiers::new(&mut pool.cache, TiersConfig::new("a benchmark", 1 << 30))?;
    let tokens: Vec<u32> = (0..pages * PAGE_SIZE + 1).collect();
    let others: Vec<u32> = tokens.iter().map(|token| token + 1_000_000).collect();
    let bytes = usize::try_from(pool.cache.config().page_bytes()?)? * pages as usize;
    let data = vec![7u8; bytes];
    let target = buffer(context, bytes as u64);
    // The pages go down, and others take their places.
    let evict = |pool: &mut Pool| -> Result<(), Failure> {
        let id = pool.cache.add(&[], None)?.sequence;
        pool.step(context, &[Append::new(id, &others[..(pages * PAGE_SIZE) as usize])])?;
        Ok(pool.cache.free(id)?)
    };
    let id = pool.cache.add(&[], None)?.sequence;
    pool.step(context, &[Append::new(id, &tokens[..(pages * PAGE_SIZE) as usize])])?;
    pool.cache.free(id)?;
    let (mut up, mut plain) = (Vec::new(), Vec::new());
    for repetition in 0..=repetitions {
        evict(&mut pool)?;
        assert!(tiers.flush(LONG));
        context.wait()?;
        let start = Instant::now();
        let added = tiers.add(&mut pool.cache, &tokens, None)?;
        context.wait()?;
        let time = start.elapsed().as_secs_f64();
        assert_eq!(added.host, pages * PAGE_SIZE, "{added:?}");
        pool.cache.free(added.sequence)?;
        let start = Instant::now();
        context.queue().write_buffer(&target, 0, &data);
        context.queue().submit([]);
        context.wait()?;
        if repetition > 0 || repetitions == 1 {
            up.push(time);
            plain.push(start.elapsed().as_secs_f64());
        }
    }
    let what = format!("{pages} pages ({} MiB) from host memory to the device", bytes >> 20);
    table.row(&what, "write_buffer of as many bytes", Reach::AtLeast(0.5), median(plain) / median(up), " × its speed");
    Ok(())
}

/// 6000 keys of a long prompt.
fn lookups(repetitions: usize, table: &mut Table) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let store = FolderStore::open(folder.path(), 1 << 30)?;
    let scope = Scope::new("a benchmark", "", PAGE_SIZE);
    let key = |page: u32| ObjectKey::new(&scope, &PageKey::root().child(&[page], None), 0);
    let keys: Vec<ObjectKey> = (0..6000).map(key).collect();
    for key in &keys {
        store.put(key, &Object::encode(key, b"rows"))?;
    }
    let absent: Vec<ObjectKey> = (6000..12_000).map(key).collect();
    for (what, keys, there) in
        [("6000 keys that are in a folder", &keys, true), ("6000 keys that are not", &absent, false)]
    {
        let mut found = Vec::new();
        let times = in_turns(
            repetitions,
            &mut [&mut || {
                found = store.exists(keys)?;
                Ok(())
            }],
        )?;
        assert_eq!(found, vec![there; keys.len()]);
        table.row(what, "", Reach::AtMost(50.0), times[0] * 1e3, " ms");
    }
    Ok(())
}

/// A decode step of 16 sequences while pages come from a folder and go to it.
fn steps(context: &Context, repetitions: usize, table: &mut Table) -> Result<(), Failure> {
    let (layers, batch) = (8, 16);
    let folder = tempfile::tempdir()?;
    let store = Arc::new(FolderStore::open(folder.path(), 1 << 30)?);
    let prompts: Vec<Vec<u32>> = (0..8).map(|prompt| (0..513).map(|token| 1000 * prompt + token).collect()).collect();
    let mut pool = Pool::new(context, layers, [1, 8 * 33, 512])?;
    let page_bytes = pool.cache.config().page_bytes()?;
    let config = |host_pages| TiersConfig::new("a benchmark", host_pages * (page_bytes + 64)).store(store.clone());
    let mut tiers = Tiers::new(&mut pool.cache, config(8 * 32))?;
    for tokens in &prompts {
        let id = pool.cache.add(&[], None)?.sequence;
        pool.step(context, &[Append::new(id, &tokens[..512])])?;
        tiers.put(&pool.cache, id)?;
        pool.cache.free(id)?;
    }
    assert!(tiers.flush(LONG));
    drop((tiers, pool));

    let mut pool = Pool::new(context, layers, [batch, 64 * batch, 512])?;
    let mut tiers = Tiers::new(&mut pool.cache, config(40))?;
    let ids: Vec<SequenceId> =
        (0..batch).map(|_| pool.cache.add(&[], None).map(|added| added.sequence)).collect::<Result<_, _>>()?;
    let appends: Vec<_> = ids.iter().map(|&id| Append::new(id, &[7])).collect();
    let (mut alone, mut busy) = (Vec::new(), Vec::new());
    for repetition in 0..=repetitions {
        let mut prefetch = None;
        for is_busy in [false, true] {
            for step in 0..4 {
                if is_busy {
                    // The thread that reads always has something to read, and the one that writes too, now and then.
                    prefetch =
                        Some(tiers.prefetch(&pool.cache, &prompts[(repetition + step) % prompts.len()], None)?);
                    tiers.put(&pool.cache, ids[step])?;
                }
                let start = Instant::now();
                pool.step(context, &appends)?;
                context.wait()?;
                if repetition > 0 || repetitions == 1 {
                    if is_busy { &mut busy } else { &mut alone }.push(start.elapsed().as_secs_f64());
                }
            }
        }
        drop(prefetch);
        assert!(tiers.flush(LONG));
    }
    let figures = tiers.figures();
    let ratio = median(busy) / median(alone);
    table.row("a decode step while the tiers work", "the step alone", Reach::AtMost(1.1), ratio, " × its time");
    table.note(&format!(
        "{} pages came from the folder, and {} went to it",
        figures.store.pages_out, figures.store.pages_in
    ));
    Ok(())
}
