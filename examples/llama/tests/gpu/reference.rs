//! The device against the model on the CPU in f64.

use gguf_rs_lib::prelude::GGUFTensorType;
use libtest_mimic::Failed;
use llama::cache::Chunk;

use crate::{Gpu, equality::prompt, tiny::Tiny};

/// The largest difference that was seen on the drivers, relative to the largest logit, is about 1e-6.
const TOLERANCE: f64 = 1e-5;

/// Logits of every token of a prompt, in two chunks.
pub fn logits(gpu: &Gpu, kind: GGUFTensorType) -> Result<(), Failed> {
    let tokens = prompt(45, 3);
    let expected = Tiny::new(kind).logits(&tokens);
    let mut engine = gpu.load(kind)?;
    let (sequence, _) = engine.cache.add(&tokens)?;
    let mut actual = Vec::new();
    for part in tokens.chunks(32) {
        let wanted = part.len() as u32;
        engine.step(&[Chunk { wanted, ..Chunk::new(sequence, part) }])?;
        actual.extend(engine.logits()?);
    }
    let (mut farthest, mut largest) = (0.0f64, 0.0f64);
    for (expected, actual) in expected.iter().flatten().zip(&actual) {
        farthest = farthest.max((expected - f64::from(*actual)).abs());
        largest = largest.max(expected.abs());
    }
    assert_eq!(actual.len(), expected.len() * expected[0].len());
    if farthest / largest >= TOLERANCE || actual.iter().any(|logit| !logit.is_finite()) {
        return Err(format!("{:.1e} from f64, where logits are up to {largest:.1}", farthest / largest).into());
    }
    Ok(())
}
