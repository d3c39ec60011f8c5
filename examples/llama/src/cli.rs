//! The command line.

mod perplexity;

use std::{
    io::{BufRead, Write},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use llama::{
    Error, Result, batch,
    cache::{CacheOptions, Place},
    chat::Chat,
    engine::{self, Engine, Sampling},
    file::ModelFile,
    generate::{Generation, Wanted, generate},
    model::Sizes,
    tokens::{Message, Tokens},
};
use wgpu_kv_cache::{Format, adapter_label, adapters, find_adapter};

/// An engine for GGUF files of Llama's architecture, whose keys and values lie in wgpu-kv-cache.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Continues a prompt, or many, or talks.
    Generate(Generate),
    /// Measures what formats of keys and values cost on a text.
    Perplexity(perplexity::Perplexity),
}

/// The model, and where it runs.
#[derive(Debug, Args)]
struct Loading {
    /// A GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// An adapter: a number, or a part of its label.
    #[arg(long)]
    adapter: Option<String>,
    /// Tokens of a step.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    rows: u32,
    /// Lets attention split positions as the device likes: faster with long contexts on a GPU, but equal up to rounding
    /// alone.
    #[arg(long)]
    fast: bool,
}

/// The keys and values of what is generated.
#[derive(Debug, Args)]
struct Caching {
    /// Formats of keys and values, `f16`, or `q8_0/q4_0`.
    #[arg(long, default_value = "f16", value_parser = formats)]
    format: (Format, Format),
    /// Where keys and values lie.
    #[arg(long, value_enum)]
    placement: Option<Placement>,
    /// Positions of a ring.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// First positions that a ring keeps.
    #[arg(long, default_value_t = 4)]
    sinks: u32,
    /// Positions of a sequence. By default those of the model, but no more than 2048.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Sequences at a time, with pages.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    sequences: u32,
    /// Pages of 16 tokens. By default as many as one sequence of the context needs, twice.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pages: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Placement {
    Dense,
    Ring,
    Pages,
}

#[derive(Debug, Args)]
struct Generate {
    #[command(flatten)]
    loading: Loading,
    #[command(flatten)]
    caching: Caching,
    /// What to continue.
    #[arg(long, default_value = "Tell me a story about a lighthouse keeper and a whale.")]
    prompt: String,
    /// Token ids in place of a text, separated by commas.
    #[arg(long, value_delimiter = ',', conflicts_with = "prompt")]
    prompt_ids: Option<Vec<u32>>,
    /// Tokens that are generated at most.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Takes the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Prints the ids of the tokens on one line, and nothing else.
    #[arg(long)]
    ids: bool,
    /// Goes on after the token that ends an answer.
    #[arg(long)]
    endless: bool,
    /// Draws tokens by this temperature; 0 takes the best.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Guesses up to so many tokens a step, from what was there before.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    draft: u32,
    /// Talks: reads a question a line from standard input.
    #[arg(long, conflicts_with_all = ["batch", "ids"])]
    chat: bool,
    /// With --chat: a folder that keeps what was computed across restarts.
    #[arg(long, requires = "chat")]
    store: Option<PathBuf>,
    /// A file with a prompt a line.
    #[arg(long, conflicts_with = "prompt_ids")]
    batch: Option<PathBuf>,
}

fn formats(text: &str) -> std::result::Result<(Format, Format), String> {
    let one = |name: &str| {
        let found = Format::ALL.into_iter().find(|format| format.to_string() == name);
        found.ok_or_else(|| format!("{name:?} is none of {}", Format::ALL.map(|format| format.to_string()).join(", ")))
    };
    let (keys, values) = text.split_once('/').unwrap_or((text, text));
    Ok((one(keys)?, one(values)?))
}

impl Loading {
    fn open(&self) -> Result<ModelFile> {
        ModelFile::open(&self.model)
    }

    /// Loads the model into a device. Sequences have up to `positions` positions, and steps have logits of `wanted`
    /// rows.
    fn load(
        &self,
        file: &mut ModelFile,
        positions: u32,
        wanted: u32,
        (keys, values): (Format, Format),
        place: Place,
    ) -> Result<Engine> {
        let adapter = match &self.adapter {
            Some(name) => find_adapter(name)?,
            None => adapters()?.swap_remove(0),
        };
        eprintln!("on {}", adapter_label(&adapter.get_info()));
        let context = engine::open(&adapter)?;
        let sizes = Sizes { rows: self.rows, wanted: wanted.min(self.rows), positions };
        Engine::load(&context, file, sizes, &CacheOptions { keys, values, place, fast: self.fast })
    }
}

impl Caching {
    fn positions(&self, file: &ModelFile) -> u32 {
        self.context.unwrap_or(file.shape().context.min(2048))
    }

    /// Where keys and values of so many positions lie; by default in pages if there may be many sequences.
    fn place(&self, positions: u32, many: bool) -> Place {
        match self.placement.unwrap_or(if many { Placement::Pages } else { Placement::Dense }) {
            Placement::Dense => Place::Dense,
            Placement::Ring => Place::Ring { window: self.window, sinks: self.sinks },
            Placement::Pages => {
                let pages = self.pages.unwrap_or(2 * positions.div_ceil(16));
                Place::Pages { sequences: self.sequences, page_size: 16, pages }
            }
        }
    }
}

impl Cli {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Generate(generate) => generate.run(),
            Command::Perplexity(perplexity) => perplexity.run(),
        }
    }
}

impl Generate {
    fn run(&self) -> Result<()> {
        if self.draft >= self.loading.rows {
            let rule = format!("a step has room for {} rows (--rows), and one is no draft", self.loading.rows);
            return Err(Error::Argument { argument: format!("--draft {}", self.draft), rule });
        }
        let many = self.chat || self.batch.is_some();
        let wanted_rows = if self.batch.is_some() { self.caching.sequences } else { self.draft + 1 };
        let mut file = self.loading.open()?;
        let positions = self.caching.positions(&file);
        let place = self.caching.place(positions, many);
        let mut engine = self.loading.load(&mut file, positions, wanted_rows, self.caching.format, place)?;
        engine.sampling = Sampling { temperature: self.temperature, seed: self.seed };
        if let Some(batch) = &self.batch {
            return self.run_batch(&mut engine, &Tokens::new(&file)?, batch);
        }
        if self.chat {
            return self.run_chat(&mut engine, &file);
        }
        // Ids need no vocabulary.
        let tokens = Tokens::new(&file);
        let prompt = match (&self.prompt_ids, &tokens) {
            (Some(ids), _) => ids.clone(),
            (None, Ok(tokens)) => self.encode(tokens, &self.prompt)?,
            (None, Err(_)) => return tokens.map(drop),
        };
        let stops = tokens.as_ref().map_or(Vec::new(), |tokens| tokens.stops.clone());
        let (sequence, cached) = engine.cache.add(&prompt)?;
        debug_assert_eq!(cached, 0);
        let mut stream = tokens.as_ref().ok().map(Tokens::stream);
        let each = |token: u32| match &mut stream {
            Some(stream) if !self.ids => stream(token)?.map_or(Ok(()), |text| print(&text)),
            _ => Ok(()),
        };
        let made = generate(&mut engine, sequence, &prompt, &self.wanted(stops), each)?;
        if self.ids || tokens.is_err() {
            let ids: Vec<_> = made.tokens.iter().map(u32::to_string).collect();
            print(&(ids.join(",") + "\n"))?;
        } else {
            print("\n")?;
        }
        self.report(&engine, prompt.len(), &made);
        Ok(())
    }

    fn wanted(&self, stops: Vec<u32>) -> Wanted {
        Wanted { tokens: self.tokens, stops: if self.endless { Vec::new() } else { stops }, drafts: self.draft }
    }

    fn encode(&self, tokens: &Tokens, prompt: &str) -> Result<Vec<u32>> {
        if self.raw { tokens.encode(prompt) } else { tokens.conversation(&[Message::user(prompt)]) }
    }

    fn report(&self, engine: &Engine, prompt: usize, made: &Generation) {
        let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
        let count = made.tokens.len().saturating_sub(1);
        eprintln!("prompt      {prompt} tokens, {:.1} a second", rate(prompt, made.first.as_secs_f64()));
        eprintln!("generated   {} tokens, {:.1} a second", made.tokens.len(), rate(count, made.others.as_secs_f64()));
        if self.draft > 0 {
            let share = 100.0 * f64::from(made.accepted) / f64::from(made.drafted.max(1));
            eprintln!("drafts      {} of {} accepted, {share:.0} %", made.accepted, made.drafted);
        }
        report_times(engine);
        eprintln!("{}", engine.cache.memory_report());
    }

    fn run_chat(&self, engine: &mut Engine, file: &ModelFile) -> Result<()> {
        let tokens = Tokens::new(file)?;
        let identity = llama::chat::identity(file)?;
        let mut chat = Chat::new(self.store.as_deref(), &identity)?;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|source| Error::Io { path: "standard input".into(), source })?;
            if line.trim().is_empty() {
                continue;
            }
            let mut stream = tokens.stream();
            let each = |token| stream(token)?.map_or(Ok(()), |text| print(&text));
            let turn = chat.ask(engine, &tokens, &line, &self.wanted(tokens.stops.clone()), each)?;
            print("\n")?;
            eprintln!(
                "{} tokens: {} in the pool, {} from the store, {} computed; first token after {:.2} s",
                turn.tokens,
                turn.cached,
                turn.fetched,
                turn.tokens as u32 - turn.cached - turn.fetched,
                turn.generation.first.as_secs_f64()
            );
        }
        report_times(engine);
        eprintln!("{}", engine.cache.memory_report());
        Ok(())
    }

    fn run_batch(&self, engine: &mut Engine, tokens: &Tokens, path: &PathBuf) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let prompts = lines.map(|line| self.encode(tokens, line)).collect::<Result<Vec<_>>>()?;
        let figures = batch::run(engine, &prompts, &self.wanted(tokens.stops.clone()), |done| {
            if self.ids {
                let ids: Vec<_> = done.tokens.iter().map(u32::to_string).collect();
                return print(&format!("{}: {}\n", done.index, ids.join(",")));
            }
            let (prompt, text) = (done.prompt.len(), tokens.decode(&done.tokens)?);
            print(&format!("{}: {} of {prompt} tokens found: {}\n", done.index, done.cached, text.escape_debug()))
        })?;
        let all = figures.computed + figures.found;
        eprintln!(
            "{} requests in {} steps, up to {} at a time, {} preempted; {} tokens computed, {} found: hit rate {:.0} %",
            prompts.len(),
            figures.steps,
            figures.most_at_once,
            figures.preempted,
            figures.computed,
            figures.found,
            100.0 * figures.found as f64 / all.max(1) as f64
        );
        eprintln!("{:.1} tokens a second, computed", figures.computed as f64 / engine.elapsed.as_secs_f64().max(1e-9));
        report_times(engine);
        eprintln!("{}", engine.cache.memory_report());
        Ok(())
    }
}

fn report_times(engine: &Engine) {
    let all = engine.elapsed.as_secs_f64();
    match engine.parts() {
        Some(parts) => {
            let [update, attention, rest] = [parts.update, parts.attention, parts.rest].map(|part| part.as_secs_f64());
            let outside = (all - update - attention - rest).max(0.0);
            eprintln!(
                "time        {all:.2} s in {} steps: update {update:.2} s, attention {attention:.2} s, rest of the model \
                 {rest:.2} s, host and driver {outside:.2} s",
                engine.steps
            );
        }
        None => eprintln!("time        {all:.2} s in {} steps; the device has no clock inside of a pass", engine.steps),
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| Error::Io { path: "standard output".into(), source })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
