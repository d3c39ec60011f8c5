//! The same tokens, and the same bits of the last logits, in every placement and in every batch.

use libtest_mimic::Failed;
use llama::{
    batch,
    cache::{CacheOptions, Chunk, Place, Sequence},
    engine::Engine,
    generate::{Wanted, generate},
};
use wgpu_kv_cache::{
    Format,
    save::Label,
    store::MemoryStore,
    tiers::{Tiers, TiersConfig},
};

use crate::{PAGES, ROWS, tiny::VOCABULARY};

pub type Test = fn(&mut Engine, Format) -> Result<(), Failed>;

pub const TESTS: [(&str, Test); 9] = [
    ("steps_of_any_size", steps_of_any_size),
    ("ring", ring),
    ("pages", pages),
    ("shared_prefix", shared_prefix),
    ("forked", forked),
    ("parked_in_a_file", parked_in_a_file),
    ("parked_in_a_store", parked_in_a_store),
    ("speculative", speculative),
    ("batches", batches),
];

const TOKENS: usize = 24;
const IDENTITY: &str = "tiny";
/// Longer than a store takes.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// Tokens that depend on a seed.
pub fn prompt(length: usize, seed: u32) -> Vec<u32> {
    let token = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) >> 7;
    (1..=length as u32).map(|i| token(i + seed) % VOCABULARY as u32).collect()
}

/// Gives the engine an empty cache.
pub fn prepare(engine: &mut Engine, format: Format, place: Place, rows: u32) -> Result<(), Failed> {
    engine.replace_cache(&CacheOptions { keys: format, values: format, place, fast: false })?;
    engine.rows = rows;
    Ok(())
}

/// Tokens, and the logits of the last of them by their bits.
type Outcome = (Vec<u32>, Vec<u32>);

fn wanted(drafts: u32) -> Wanted {
    Wanted { tokens: TOKENS, stops: Vec::new(), drafts }
}

fn bits(engine: &Engine) -> Result<Vec<u32>, Failed> {
    Ok(engine.logits()?.iter().map(|logit| logit.to_bits()).collect())
}

/// Continues a sequence that has some of the tokens.
fn go_on(engine: &mut Engine, sequence: Sequence, known: &[u32]) -> Result<Outcome, Failed> {
    let made = generate(engine, sequence, known, &wanted(0), |_| Ok(()))?;
    Ok((made.tokens, bits(engine)?))
}

fn run(engine: &mut Engine, prompt: &[u32]) -> Result<Outcome, Failed> {
    let (sequence, _) = engine.cache.add(prompt)?;
    let outcome = go_on(engine, sequence, prompt)?;
    engine.cache.free(sequence)?;
    Ok(outcome)
}

/// Dense, the prompt in one step.
fn expected(engine: &mut Engine, format: Format, prompt: &[u32]) -> Result<Outcome, Failed> {
    prepare(engine, format, Place::Dense, ROWS)?;
    run(engine, prompt)
}

fn same(what: &str, expected: &Outcome, actual: &Outcome) -> Result<(), Failed> {
    if let Some(at) = expected.0.iter().zip(&actual.0).position(|(expected, actual)| expected != actual) {
        return Err(format!("{what}: token {at} is {}, not {}", actual.0[at], expected.0[at]).into());
    }
    if expected.0.len() != actual.0.len() {
        return Err(format!("{what}: {} tokens, not {}", actual.0.len(), expected.0.len()).into());
    }
    if let Some(at) = expected.1.iter().zip(&actual.1).position(|(expected, actual)| expected != actual) {
        let [expected, actual] = [expected.1[at], actual.1[at]].map(f32::from_bits);
        return Err(format!("{what}: the logit of token {at} is {actual}, not {expected}").into());
    }
    Ok(())
}

fn steps_of_any_size(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompt = prompt(50, 1);
    let expected = expected(engine, format, &prompt)?;
    for rows in [1, 7, 33] {
        prepare(engine, format, Place::Dense, rows)?;
        same(&format!("{rows} rows"), &expected, &run(engine, &prompt)?)?;
    }
    Ok(())
}

fn ring(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompt = prompt(50, 2);
    let expected = expected(engine, format, &prompt)?;
    for sinks in [0, 4] {
        prepare(engine, format, Place::Ring { window: 128, sinks }, 16)?;
        same(&format!("{sinks} sinks"), &expected, &run(engine, &prompt)?)?;
    }
    Ok(())
}

fn pages(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompt = prompt(50, 3);
    let expected = expected(engine, format, &prompt)?;
    prepare(engine, format, PAGES, 24)?;
    same("pages", &expected, &run(engine, &prompt)?)
}

fn shared_prefix(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let first = prompt(50, 4);
    let mut second = first.clone();
    second.truncate(37);
    second.extend(prompt(9, 5));
    prepare(engine, format, PAGES, 24)?;
    run(engine, &first)?;
    let (sequence, cached) = engine.cache.add(&second)?;
    assert_eq!(cached, 32, "four pages of eight tokens");
    let actual = go_on(engine, sequence, &second)?;
    same("after a shared prefix", &expected(engine, format, &second)?, &actual)
}

fn forked(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompt = prompt(45, 6);
    prepare(engine, format, PAGES, 24)?;
    let (sequence, _) = engine.cache.add(&prompt)?;
    engine.prefill(sequence, &prompt)?;
    let Sequence::Paged(id) = sequence else { return Err("a sequence over pages".into()) };
    let fork = Sequence::Paged(engine.cache.pages("a fork")?.fork(id, 43)?);
    // Both write to the page that they share.
    let mut other = prompt[..43].to_vec();
    other.extend([7, 8, 9]);
    let of_fork = go_on(engine, fork, &other)?;
    engine.cache.truncate(sequence, 44)?;
    let of_first = go_on(engine, sequence, &prompt)?;
    same("the first", &expected(engine, format, &prompt)?, &of_first)?;
    same("the fork", &expected(engine, format, &other)?, &of_fork)
}

fn parked_in_a_file(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompt = prompt(45, 7);
    let expected = expected(engine, format, &prompt)?;
    let path = tempfile::tempdir()?;
    let path = path.path().join("parked.safetensors");
    for (from, to) in [(PAGES, PAGES), (Place::Dense, PAGES), (PAGES, Place::Dense)] {
        prepare(engine, format, from, 24)?;
        let (sequence, _) = engine.cache.add(&prompt)?;
        engine.prefill(sequence, &prompt[..40])?;
        engine.cache.save(sequence, &path, &Label { identity: IDENTITY, tokens: &prompt[..40] })?;
        // Another cache knows nothing of the first.
        let options = CacheOptions { place: to, ..*engine.cache.options() };
        engine.replace_cache(&options)?;
        let (sequence, tokens) = engine.cache.load(&path, IDENTITY)?;
        assert_eq!(tokens, &prompt[..40]);
        same(&format!("{from:?} to {to:?}"), &expected, &go_on(engine, sequence, &prompt)?)?;
    }
    Ok(())
}

fn parked_in_a_store(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompt = prompt(45, 8);
    let expected = expected(engine, format, &prompt)?;
    let store = std::sync::Arc::new(MemoryStore::new(1 << 24)?);
    let below = || TiersConfig::new(IDENTITY, 1 << 24).store(store.clone());
    prepare(engine, format, PAGES, 24)?;
    let (sequence, _) = engine.cache.add(&prompt)?;
    engine.prefill(sequence, &prompt)?;
    let Sequence::Paged(id) = sequence else { return Err("a sequence over pages".into()) };
    let cache = engine.cache.pages("a store")?;
    let mut tiers = Tiers::new(cache, below())?;
    assert_eq!(tiers.put(cache, id)?, 5);
    assert!(tiers.flush(LONG));
    let options = *engine.cache.options();
    engine.replace_cache(&options)?;
    let cache = engine.cache.pages("a store")?;
    let mut tiers = Tiers::new(cache, below())?;
    let prefetch = tiers.prefetch(cache, &prompt, None)?;
    assert!(prefetch.wait(LONG));
    let added = tiers.add(cache, &prompt, None)?;
    assert_eq!((added.device, added.host, added.store), (0, 0, 40));
    same("from a store", &expected, &go_on(engine, Sequence::Paged(added.sequence), &prompt)?)
}

fn speculative(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    // A beginning that repeats itself, so that there is something to look up.
    let prompt = [prompt(9, 9), prompt(9, 9), prompt(9, 9), prompt(3, 9)].concat();
    let expected = expected(engine, format, &prompt)?;
    let ring = Place::Ring { window: 128, sinks: 4 };
    for place in [Place::Dense, ring, PAGES] {
        prepare(engine, format, place, 24)?;
        let (sequence, _) = engine.cache.add(&prompt)?;
        let made = generate(engine, sequence, &prompt, &wanted(5), |_| Ok(()))?;
        same(&format!("{place:?}"), &(expected.0.clone(), Vec::new()), &(made.tokens, Vec::new()))?;
        assert!(made.drafted > made.accepted, "some drafts are wrong: {} of {}", made.accepted, made.drafted);
        // What is left in the cache is that of the tokens alone: the logits after the last one are the same, too.
        let known = [&prompt[..], &expected.0].concat();
        let length = engine.cache.length(sequence)? as usize;
        engine.cache.truncate(sequence, (length as u32).min(known.len() as u32 - 2))?;
        let length = engine.cache.length(sequence)? as usize;
        engine.step(&[Chunk::new(sequence, &known[length..known.len() - 1])])?;
        same(&format!("{place:?}"), &expected, &(expected.0.clone(), bits(engine)?))?;
    }
    Ok(())
}

fn batches(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompts: Vec<_> =
        (0..7).map(|i| [prompt(20 + 8 * (i as usize % 2), 10), prompt(5 + i as usize, 20 + i)].concat()).collect();
    let mut alone = Vec::new();
    prepare(engine, format, Place::Dense, ROWS)?;
    for prompt in &prompts {
        alone.push(run(engine, prompt)?.0);
    }
    // So few rows that prompts are cut, and so few pages that requests are preempted.
    for (rows, pages) in [(64, 160), (10, 160), (24, 30)] {
        prepare(engine, format, Place::Pages { sequences: 8, page_size: 8, pages }, rows)?;
        let mut done = vec![Vec::new(); prompts.len()];
        let figures = batch::run(engine, &prompts, &wanted(0), |request| {
            done[request.index].clone_from(&request.tokens);
            Ok(())
        })?;
        assert!((figures.preempted > 0) == (pages == 30), "{figures:?}");
        for (index, (expected, actual)) in alone.iter().zip(done).enumerate() {
            let what = format!("request {index} with {rows} rows and {pages} pages");
            same(&what, &(expected.clone(), Vec::new()), &(actual, Vec::new()))?;
        }
    }
    Ok(())
}
