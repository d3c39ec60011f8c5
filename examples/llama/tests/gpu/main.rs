//! A small random Llama on every adapter: against the same model on the CPU, and against itself in every placement.
//!
//! `KV_CACHE_REQUIRE` lists adapters that must be present, as for the tests of the crate.

mod equality;
mod reference;
mod refused;
mod talk;
mod tiny;

use std::sync::{Arc, Mutex, PoisonError};

use gguf_rs_lib::prelude::GGUFTensorType;
use libtest_mimic::{Arguments, Failed, Trial};
use llama::{
    cache::{CacheOptions, Place},
    engine::{self, Engine},
    file::ModelFile,
    model::Sizes,
    tokens::Tokens,
};
use wgpu_kv_cache::{Context, Format, adapter_label, adapters};

/// Kinds of blocks that are read.
pub const KINDS: [GGUFTensorType; 5] =
    [GGUFTensorType::F32, GGUFTensorType::F16, GGUFTensorType::Q8_0, GGUFTensorType::Q4_0, GGUFTensorType::Q4_1];

/// Rows that a step has at most.
pub const ROWS: u32 = 64;
pub const PAGES: Place = Place::Pages { sequences: 8, page_size: 8, pages: 160 };

/// A device, and files of the small model.
#[derive(Debug)]
pub struct Gpu {
    context: Context,
    folder: Arc<tempfile::TempDir>,
    /// With weights in `Q4_1`. Tests give it caches.
    engine: Mutex<Option<Engine>>,
}

impl Gpu {
    /// Loads the small model with weights in blocks of a kind.
    pub fn load(&self, kind: GGUFTensorType) -> Result<Engine, Failed> {
        let mut file = ModelFile::open(self.folder.path().join(format!("{kind:?}.gguf")))?;
        let sizes = Sizes { rows: ROWS, wanted: ROWS, positions: tiny::CONTEXT as u32 };
        let options = CacheOptions { keys: Format::F32, values: Format::F32, place: Place::Dense, fast: false };
        Ok(Engine::load(&self.context, &mut file, sizes, &options)?)
    }

    fn talk(&self) -> Result<(), Failed> {
        let file = ModelFile::open(self.folder.path().join("Q4_1.gguf"))?;
        let tokens = Tokens::new(&file)?;
        let mut engine = self.load(GGUFTensorType::Q4_1)?;
        talk::conversation(&mut engine, &tokens, Format::F16)
    }

    fn with_engine(&self, test: equality::Test, format: Format) -> Result<(), Failed> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if engine.is_none() {
            *engine = Some(self.load(GGUFTensorType::Q4_1)?);
        }
        test(engine.as_mut().expect("it was loaded"), format)
    }
}

/// What a test does.
type Body = Box<dyn Fn(&Gpu) -> Result<(), Failed> + Send>;

/// Each test on GL holds this lock: wgpu panics when a thread waits too long while another compiles.
static GL: Mutex<()> = Mutex::new(());

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit();
}

fn trials() -> Vec<Trial> {
    let found = match adapters() {
        Ok(found) => found,
        Err(error) => return vec![Trial::test("adapters", move || Err(error.into()))],
    };
    let folder = Arc::new(tempfile::tempdir().expect("there is a folder for temporary files"));
    for kind in KINDS {
        tiny::Tiny::new(kind).write(&folder.path().join(format!("{kind:?}.gguf")));
    }
    let labels: Vec<_> = found.iter().map(|adapter| adapter_label(&adapter.get_info())).collect();
    let mut trials = Vec::new();
    let required = std::env::var("KV_CACHE_REQUIRE").unwrap_or_default();
    for words in required.split(';').map(str::trim).filter(|words| !words.is_empty()) {
        let there = labels.iter().any(|label| words.split_whitespace().all(|word| label.contains(word)));
        let message = format!("no adapter is labelled with {words:?}; there are {labels:?}");
        let test = move || if there { Ok(()) } else { Err(message.into()) };
        trials.push(Trial::test(format!("{words} is there"), test));
    }
    if found.is_empty() {
        trials.push(Trial::test("no adapter was found", || Ok(())).with_ignored_flag(true));
    }
    for (adapter, label) in found.iter().zip(labels) {
        let context = match engine::open(adapter) {
            Ok(context) => context,
            Err(error) => {
                trials.push(Trial::test(format!("open {label}"), move || Err(error.into())));
                continue;
            }
        };
        let gl = adapter.get_info().backend == wgpu_kv_cache::wgpu::Backend::Gl;
        let gpu = Arc::new(Gpu { context, folder: folder.clone(), engine: Mutex::default() });
        let mut add = |name: String, test: Body| {
            let gpu = gpu.clone();
            trials.push(Trial::test(format!("{name} on {label}"), move || {
                let _alone = gl.then(|| GL.lock().unwrap_or_else(PoisonError::into_inner));
                test(&gpu)
            }));
        };
        for kind in KINDS {
            add(format!("reference::{kind:?}"), Box::new(move |gpu| reference::logits(gpu, kind)));
        }
        add("refused".to_owned(), Box::new(|gpu| gpu.with_engine(refused::refused, Format::F32)));
        add("talk::drawn".to_owned(), Box::new(|gpu| gpu.with_engine(talk::drawn, Format::F32)));
        add("talk::conversation".to_owned(), Box::new(Gpu::talk));
        for format in [Format::F32, Format::F16] {
            for (name, test) in equality::TESTS {
                add(format!("equality::{name} × {format}"), Box::new(move |gpu| gpu.with_engine(test, format)));
            }
        }
    }
    trials
}
