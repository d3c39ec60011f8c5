//! Recorded requests over device, host memory and a folder, in processes that are killed at any moment.

#[path = "../../benches/pages/conversations.rs"]
mod conversations;

use std::{
    collections::HashMap,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use wgpu_kv_cache::{
    CacheConfig, Context, Format, HostRows, PagedConfig, PagedKvCache, Pair, adapter_label, find_adapter,
    pages::{Append, SequenceId},
    store::{FolderStore, Object, ObjectKey},
    tiers::{Tiers, TiersConfig},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[("soak::processes_are_killed_and_started_again", processes_are_killed_and_started_again)];

/// What tells a process its adapter, its folder, and the file that it adds a byte to for each request.
const VARIABLES: [&str; 3] = ["KV_CACHE_SOAK_ADAPTER", "KV_CACHE_SOAK_FOLDER", "KV_CACHE_SOAK_DONE"];
const DIM: u32 = 4;
/// Tokens of a page, which stand for a block of the trace.
const SIZE: u32 = 2;
const PAGES: u32 = 64;
/// Blocks of a prompt that are served, the first ones.
const BLOCKS: usize = 60;
const HOST_BYTES: u64 = 64 << 10;
/// Room for about 2000 of the 70 000 blocks of the trace.
const FOLDER_BYTES: u64 = 400 << 10;

type Failure = Box<dyn std::error::Error>;

/// Serves requests until it is killed, if the environment asks for that.
pub fn process() -> Option<Result<(), Failure>> {
    let variable = |index: usize| env::var(VARIABLES[index]).ok();
    let (adapter, folder, done) = (variable(0)?, variable(1)?, variable(2)?);
    Some(serve(&adapter, Path::new(&folder), Path::new(&done)))
}

/// The row of a token at a position.
fn row(token: u32, position: u32, sign: f32) -> [f32; DIM as usize] {
    [token as f32, position as f32, (token ^ position) as f32, 1.0].map(|number| sign * number)
}

fn rows(tokens: &[u32], from: u32) -> [Vec<f32>; 2] {
    let of = |sign| {
        let rows = (from..).zip(&tokens[from as usize..]);
        rows.flat_map(|(position, &token)| row(token, position, sign)).collect()
    };
    [of(1.0), of(-1.0)]
}

fn check(cache: &PagedKvCache, sequence: SequenceId, tokens: &[u32]) -> Result<(), Failure> {
    let length = u32::try_from(tokens.len())?;
    let read = cache.get(0, sequence, 0..length)?.read()?;
    for (read, expected) in [read.keys, read.values].iter().zip(rows(tokens, 0)) {
        if read.bytes() != bytemuck::cast_slice::<f32, u8>(&expected) {
            return Err(format!("a wrong row of {tokens:?}").into());
        }
    }
    Ok(())
}

/// The requests of the trace, those of conversations that go on first. One of three is repeated soon.
fn in_order() -> Result<Vec<Vec<u32>>, Failure> {
    let requests = conversations::recorded()?;
    let mut second: HashMap<u32, u32> = HashMap::new();
    for blocks in requests.iter().filter(|blocks| blocks.len() > 2) {
        *second.entry(blocks[1]).or_default() += 1;
    }
    let goes_on = |blocks: &Vec<u32>| blocks.len() > 2 && second[&blocks[1]] > 1;
    let (first, others): (Vec<_>, Vec<_>) = requests.into_iter().partition(goes_on);
    let all = [first, others].concat();
    Ok(all.chunks(3).flat_map(|three| [three, &three[..1]].concat()).collect())
}

fn serve(adapter: &str, folder: &Path, done: &Path) -> Result<(), Failure> {
    let context = Context::open(&find_adapter(adapter)?)?;
    let requests = in_order()?;
    let layer = CacheConfig::new(2, 1, DIM, 120).formats(Format::F32, Format::F32);
    let mut cache = PagedKvCache::new(&context, &PagedConfig::new(layer, 1, SIZE, PAGES))?;
    let store = Arc::new(FolderStore::open(folder, FOLDER_BYTES)?);
    let mut tiers = Tiers::new(&mut cache, TiersConfig::new("trace", HOST_BYTES).store(store).write_through(true))?;
    let mut done = fs::File::options().append(true).create(true).open(done)?;
    let first = usize::try_from(done.metadata()?.len())?;
    for blocks in requests.iter().cycle().skip(first % requests.len()) {
        let tokens: Vec<u32> = blocks.iter().take(BLOCKS).flat_map(|&block| [block, !block]).collect();
        let prefetch = tiers.prefetch(&cache, &tokens, None)?;
        if !prefetch.wait(Duration::from_secs(60)) {
            return Err("the folder does not answer".into());
        }
        let added = tiers.add(&mut cache, &tokens, None)?;
        drop(prefetch);
        let [keys, values] = rows(&tokens, added.cached());
        let rest = Append::new(added.sequence, &tokens[added.cached() as usize..]);
        cache.append(&[rest], &[Pair { keys: HostRows::from(&keys), values: HostRows::from(&values) }])?;
        check(&cache, added.sequence, &tokens)?;
        cache.free(added.sequence)?;
        if cache.sequences().counts().referenced > 0 || tiers.figures().host_bytes > HOST_BYTES {
            return Err(format!("a leak: {:?}, {:?}", cache.sequences().counts(), tiers.figures()).into());
        }
        // What this request was served from.
        let tier = [(added.store, b's'), (added.host, b'h'), (added.device, b'd')];
        let byte = tier.iter().find(|(tokens, _)| *tokens > 0).map_or(b'-', |(_, byte)| *byte);
        done.write_all(&[byte])?;
    }
    Ok(())
}

fn start(label: &str, folder: &Path, done: &Path) -> Result<Child, Failure> {
    let mut command = Command::new(env::current_exe()?);
    let values = [Path::new(label), folder, done];
    Ok(command.envs(VARIABLES.iter().zip(values)).stderr(Stdio::piped()).spawn()?)
}

/// The files of objects below a folder.
fn objects(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            for file in fs::read_dir(path)? {
                found.push(file?.path());
            }
        }
    }
    Ok(found)
}

fn key_of(path: &Path) -> Option<ObjectKey> {
    let name = path.file_stem()?.to_str()?;
    let mut key = [0; 32];
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(name.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(ObjectKey(key))
}

fn processes_are_killed_and_started_again(gpu: &Gpu) -> Outcome {
    // So many requests of the trace. The README's test command has a few, `make test-all` all.
    let wanted: u64 = env::var("KV_CACHE_SOAK_REQUESTS").ok().map_or(Ok(300), |number| number.parse())?;
    let label = adapter_label(&gpu.adapter.get_info());
    let (folder, notes) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let done = notes.path().join("done");
    let served = || fs::metadata(&done).map_or(0, |meta| meta.len());
    let random = &mut fastrand::Rng::with_seed(5);
    let mut kills = 0;
    while served() < wanted || kills < 3 {
        let before = served();
        let mut child = start(&label, folder.path(), &done).map_err(|error| error.to_string())?;
        let begun = Instant::now();
        // It gets through some requests at least, and is killed at any moment after.
        while served() < before + wanted / 10 && begun.elapsed() < Duration::from_secs(120) {
            sleep(Duration::from_millis(5));
            if child.try_wait()?.is_some() {
                let output = child.wait_with_output()?;
                return Err(format!("{}", String::from_utf8_lossy(&output.stderr)).into());
            }
        }
        sleep(Duration::from_millis(random.u64(0..60)));
        child.kill()?;
        child.wait()?;
        kills += 1;
        assert!(served() > before, "it served no request in two minutes");
        for path in objects(folder.path()).map_err(|error| error.to_string())? {
            let key = key_of(&path).ok_or_else(|| format!("{} is no object", path.display()))?;
            assert!(Object::decode(&key, &fs::read(&path)?).is_some(), "{} is not valid", path.display());
        }
    }
    let store = FolderStore::open(folder.path(), FOLDER_BYTES)?;
    assert!(store.bytes() <= FOLDER_BYTES, "{} bytes", store.bytes());
    let tiers = fs::read(&done)?;
    let count = |tier: u8| tiers.iter().filter(|byte| **byte == tier).count();
    // Every tier had a part in it.
    assert!(count(b's') > 0 && count(b'h') > 0 && count(b'd') > 0, "{}", String::from_utf8_lossy(&tiers));
    DONE
}
