//! The cases of attention: a decoding step reads one layer of the cache.

use wgpu_kv_cache::{
    CacheConfig, Form, Format, KvCache, RowsIn, Strides, Write,
    attention::{Attention, Options, Tensors},
};

use super::{
    figure::{Figure, Group, HEADS},
    measure::{Bench, Case, source},
};
use crate::Failure;

/// Query heads of each KV head.
pub const SHARED: u32 = 4;
/// Elements of a row.
pub const DIM: u32 = 128;
/// Rows that one update writes before the measurement.
const ROWS: u32 = 256;

/// The cases: each format with each batch and each number of positions, as far as the cache takes at most so many
/// bytes.
pub struct Contexts {
    pub formats: &'static [Format],
    pub batches: &'static [u32],
    pub positions: Vec<u32>,
    pub most_bytes: u64,
}

impl Contexts {
    /// The configuration of every case.
    pub fn cases(&self) -> Result<Vec<CacheConfig>, Failure> {
        let mut cases = Vec::new();
        for &batch in self.batches {
            for &format in self.formats {
                for &positions in &self.positions {
                    let config = CacheConfig::new(batch, HEADS, DIM, positions).formats(format, format);
                    if bytes(&config)? <= self.most_bytes {
                        cases.push(config);
                    }
                }
            }
        }
        Ok(cases)
    }
}

/// Bytes of all rows.
fn bytes(config: &CacheConfig) -> Result<u64, Failure> {
    Ok(config.bytes_per_token()?.saturating_mul(config.max_seq_len.into()))
}

impl Bench<'_> {
    /// Attention of one query a sequence over a full cache of random rows.
    pub fn attention(&self, config: CacheConfig) -> Result<Figure, Failure> {
        let (batch, positions, format) = (config.batch_size, config.max_seq_len, config.key_format);
        let mut cache = KvCache::new(&self.model, config)?;
        let rows = |seed: u64| {
            let mut random = fastrand::Rng::with_seed(seed);
            let numbers: Vec<f32> = (0..batch * HEADS * ROWS * DIM).map(|_| random.f32() - 0.5).collect();
            let buffer = self.buffer(numbers.len() as u64 * 4);
            self.model.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(&numbers));
            buffer
        };
        let (keys, values) = (rows(1), rows(2));
        let tokens = ROWS.min(positions);
        let bound = cache.bind_source(&source(&keys, &values, Format::F32, tokens, DIM))?;
        while cache.write_pos() < positions {
            crate::timing::submission(&self.model, |encoder| {
                cache.record_update(encoder, &bound, Write::append(tokens))
            })?;
        }
        let heads = SHARED * HEADS;
        let queries = rows(3);
        let output = self.buffer(u64::from(batch * heads * DIM) * 4);
        let dense = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(heads, 1, DIM) };
        let tensors = Tensors { queries: dense(&queries), output: dense(&output), mask: None, sink_logits: None };
        let attention = Attention::new(&cache, &Options::last(heads, 1), &tensors)?;
        let case = Case {
            group: Group::Attention,
            amount: positions,
            head_dim: DIM,
            name: format!("batch {batch}, {positions} × {DIM}, {format}"),
            batch,
            series: format.to_string(),
            bytes: bytes(&config)?,
            chosen: Form::Kernel,
        };
        let record = move |encoder: &mut wgpu::CommandEncoder| Ok(attention.record(&cache, encoder)?);
        self.figure(case, vec![Box::new(record)])
    }
}
