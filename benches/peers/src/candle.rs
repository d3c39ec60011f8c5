//! Candle's `KvCache`, on the CPU.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_nn::kv_cache::KvCache;

use crate::{Case, Peer, Result, Rows};

struct Candle {
    /// Holds the tokens before the case's position, so that every update appends there. Clones share its storage,
    /// because the first append, even an empty one, has allocated it.
    before: KvCache,
    cache: KvCache,
    rows: [Tensor; 2],
    start: usize,
    tokens: usize,
}

pub fn prepare(case: &Case, rows: &Rows) -> Result<Box<dyn Peer>> {
    let &Case { batch, heads, dim, capacity, tokens, position, .. } = case;
    let tensor = |rows: &[f32]| Tensor::from_slice(rows, (batch, heads, tokens, dim), &Device::Cpu);
    let rows = [tensor(&rows.keys)?, tensor(&rows.values)?];
    let mut before = KvCache::new(2, capacity);
    let zeros = Tensor::zeros((batch, heads, position, dim), DType::F32, &Device::Cpu)?;
    before.append(&zeros, &zeros)?;
    let cache = before.clone();
    Ok(Box::new(Candle { before, cache, rows, start: position, tokens }))
}

impl Peer for Candle {
    fn update(&mut self) -> Result<Duration> {
        self.cache = self.before.clone();
        let [keys, values] = &self.rows;
        let start = Instant::now();
        self.cache.append(keys, values)?;
        Ok(start.elapsed())
    }

    fn holds(&mut self, rows: &Rows) -> Result<bool> {
        let read = |tensor: Option<Tensor>| -> Result<Vec<f32>> {
            let rows = tensor.ok_or("nothing is cached")?.narrow(2, self.start, self.tokens)?;
            Ok(rows.flatten_all()?.to_vec1()?)
        };
        Ok(read(self.cache.k()?)? == rows.keys && read(self.cache.v()?)? == rows.values)
    }
}
