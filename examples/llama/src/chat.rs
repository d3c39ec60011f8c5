//! [`Chat`]: a conversation. Each turn finds what the turns before it have cached: in the pool, or in a folder that
//! outlives the program and has the messages, too.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use wgpu_kv_cache::{
    store::FolderStore,
    tiers::{Tiers, TiersConfig},
};

use crate::{
    Error, Result,
    cache::Sequence,
    engine::Engine,
    file::ModelFile,
    generate::{Generation, Wanted, generate},
    tokens::{Message, Tokens},
};

/// Bytes that a folder holds.
const BUDGET: u64 = 8 << 30;
/// Bytes of host memory between the device and the folder.
const HOST_BYTES: u64 = 1 << 30;
/// How long a question waits for the folder.
const PATIENCE: Duration = Duration::from_secs(10);

/// A turn.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Tokens of the conversation so far, and how many of them the pool and what is below it had.
    pub tokens: usize,
    pub cached: u32,
    pub fetched: u32,
    pub generation: Generation,
    pub answer: String,
}

#[derive(Debug, Default)]
pub struct Chat {
    messages: Vec<Message>,
    /// What is attached to the engine's cache when the first question comes.
    below: Option<TiersConfig>,
    tiers: Option<Tiers>,
    /// Where messages are kept.
    file: Option<PathBuf>,
}

impl Chat {
    /// A new conversation, or the one that a folder has. `identity` names all that rows depend on.
    pub fn new(folder: Option<&Path>, identity: &str) -> Result<Self> {
        let Some(folder) = folder else { return Ok(Chat::default()) };
        let store = Arc::new(FolderStore::open(folder, BUDGET)?);
        let file = folder.join("conversation.json");
        let messages = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::Argument {
                argument: file.display().to_string(),
                rule: format!("not the messages of a conversation: {error}"),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::Io { path: file, source }),
        };
        let below = TiersConfig::new(identity, HOST_BYTES).store(store);
        Ok(Chat { messages, below: Some(below), tiers: None, file: Some(file) })
    }

    /// Asks, and streams the answer to `each`.
    pub fn ask(
        &mut self,
        engine: &mut Engine,
        tokens: &Tokens,
        question: &str,
        wanted: &Wanted,
        each: impl FnMut(u32) -> Result<()>,
    ) -> Result<Turn> {
        self.messages.push(Message::user(question));
        let turn = self.answer(engine, tokens, wanted, each);
        match &turn {
            Ok(turn) => {
                self.messages.push(Message { role: "assistant".to_owned(), content: turn.answer.clone() });
                self.keep()?;
            }
            Err(_) => drop(self.messages.pop()),
        }
        turn
    }

    fn keep(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let json = serde_json::to_vec_pretty(&self.messages).expect("messages are always JSON");
        std::fs::write(file, json).map_err(|source| Error::Io { path: file.clone(), source })
    }

    fn answer(
        &mut self,
        engine: &mut Engine,
        tokens: &Tokens,
        wanted: &Wanted,
        each: impl FnMut(u32) -> Result<()>,
    ) -> Result<Turn> {
        let known = tokens.conversation(&self.messages)?;
        let cache = engine.cache.pages("a conversation")?;
        if let Some(below) = self.below.take() {
            self.tiers = Some(Tiers::new(cache, below)?);
        }
        let (id, cached, fetched) = match &mut self.tiers {
            Some(tiers) => {
                let prefetch = tiers.prefetch(cache, &known, None)?;
                prefetch.wait(PATIENCE);
                let added = tiers.add(cache, &known, None)?;
                (added.sequence, added.device, added.host + added.store)
            }
            None => {
                let added = cache.add(&known, None)?;
                (added.sequence, added.cached, 0)
            }
        };
        let generation = generate(engine, Sequence::Paged(id), &known, wanted, each);
        let cache = engine.cache.pages("a conversation")?;
        if let Some(tiers) = &mut self.tiers {
            tiers.put(cache, id)?;
            tiers.flush(PATIENCE);
        }
        cache.free(id)?;
        let generation = generation?;
        let spoken: Vec<u32> =
            generation.tokens.iter().copied().filter(|token| !wanted.stops.contains(token)).collect();
        let answer = tokens.decode(&spoken)?;
        Ok(Turn { tokens: known.len(), cached, fetched, generation, answer })
    }
}

/// Names all that rows depend on: the weights, by the hash of their file, and these kernels.
pub fn identity(file: &ModelFile) -> Result<String> {
    let io = |source| Error::Io { path: file.path().to_owned(), source };
    let mut reader = std::fs::File::open(file.path()).map_err(io)?;
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = reader.read(&mut bytes).map_err(io)?;
        if read == 0 {
            break;
        }
        hash.update(&bytes[..read]);
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("llama example, f32 kernels, {digest}"))
}
