//! SmolLM2-135M-Instruct against what llama.cpp chose: 16 prompts, 128 tokens each, keys and values in f32.
//!
//! `tests/data/llama_cpp.json` was recorded by `scripts/record_tokens.mjs` from the same weights, widened to f32 by
//! `scripts/widen_weights.py`, because llama.cpp rounds what it multiplies with quantised weights. `LLAMA_MODEL` names
//! the file, and `LLAMA_ADAPTER` an adapter.

use llama::{
    batch,
    cache::{CacheOptions, Place},
    engine::{self, Engine},
    file::ModelFile,
    generate::Wanted,
    model::Sizes,
    tokens::Tokens,
};
use serde::Deserialize;
use wgpu_kv_cache::{Format, adapters, find_adapter};

/// Where the logits of the two best tokens are closer, rounding decides.
const ROUNDING: f32 = 1e-3;

#[derive(Deserialize)]
struct Recorded {
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    text: String,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    /// By how much the best logit exceeds the second.
    gaps: Vec<f32>,
}

#[test]
#[ignore = "takes minutes and needs LLAMA_MODEL: make test-all"]
fn tokens_are_those_of_llama_cpp() {
    let recorded: Recorded = serde_json::from_str(include_str!("data/llama_cpp.json")).unwrap();
    let model = std::env::var("LLAMA_MODEL").expect("LLAMA_MODEL names the file of SmolLM2-135M-Instruct");
    let mut file = ModelFile::open(model).unwrap();
    let tokens = Tokens::new(&file).unwrap();
    for record in &recorded.records {
        assert_eq!(tokens.encode(&record.text).unwrap(), record.prompt, "{:?}", record.text);
    }
    let adapter = std::env::var("LLAMA_ADAPTER")
        .map_or_else(|_| adapters().unwrap().swap_remove(0), |name| find_adapter(&name).unwrap());
    let context = engine::open(&adapter).unwrap();
    let place = Place::Pages { sequences: 16, page_size: 16, pages: 256 };
    let options = CacheOptions { keys: Format::F32, values: Format::F32, place, fast: false };
    let sizes = Sizes { rows: 64, wanted: 16, positions: 512 };
    let mut engine = Engine::load(&context, &mut file, sizes, &options).unwrap();

    let prompts: Vec<_> = recorded.records.iter().map(|record| record.prompt.clone()).collect();
    let wanted = Wanted { tokens: recorded.records[0].tokens.len(), stops: Vec::new(), drafts: 0 };
    let mut done = vec![Vec::new(); prompts.len()];
    batch::run(&mut engine, &prompts, &wanted, |request| {
        done[request.index].clone_from(&request.tokens);
        Ok(())
    })
    .unwrap();
    let (mut equal, mut rounded) = (0, 0);
    for (record, actual) in recorded.records.iter().zip(&done) {
        match record.tokens.iter().zip(actual).position(|(expected, actual)| expected != actual) {
            None => equal += actual.len(),
            Some(at) => {
                println!(
                    "{:?}: token {at} of {} differs, the two best are {:.1e} apart",
                    record.text,
                    actual.len(),
                    record.gaps[at]
                );
                assert!(
                    record.gaps[at] < ROUNDING,
                    "{:?}: token {at}: {} for {}",
                    record.text,
                    actual[at],
                    record.tokens[at]
                );
                equal += at;
                rounded += 1;
            }
        }
    }
    println!("{equal} tokens are equal; {rounded} of {} texts part where rounding decides", done.len());
}
