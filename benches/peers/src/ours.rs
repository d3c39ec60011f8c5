//! This crate: from the caller's buffers into the caller's encoder, in the form that the calibrated cost model chooses.

use std::time::{Duration, Instant};

use wgpu_kv_cache::{BoundSource, CacheConfig, Context, Format, KvCache, RowsIn, Source, Strides, Write};

use crate::{Case, Peer, Result, Rows, by_hand::filled};

struct Ours {
    context: Context,
    cache: KvCache,
    source: BoundSource,
    write: Write<'static>,
}

pub fn prepare(context: &Context, case: &Case, rows: &Rows) -> Result<Box<dyn Peer>> {
    let [batch, heads, dim, capacity, tokens, position] =
        [case.batch, case.heads, case.dim, case.capacity, case.tokens, case.position].map(|size| size as u32);
    let mut cache = KvCache::new(context, CacheConfig::new(batch, heads, dim, capacity))?;
    let [keys, values] = [&rows.keys, &rows.values].map(|rows| filled(context, rows));
    let side = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(heads, tokens, dim) };
    let source = cache.bind_source(&Source { keys: side(&keys), values: side(&values), tokens })?;
    cache.warm_up(&source)?;
    Ok(Box::new(Ours { context: context.clone(), cache, source, write: Write::at(position, tokens) }))
}

impl Peer for Ours {
    fn update(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.cache.record_update(&mut encoder, &self.source, self.write)?;
        self.context.queue().submit([encoder.finish()]);
        self.context.wait()?;
        Ok(start.elapsed())
    }

    fn holds(&mut self, rows: &Rows) -> Result<bool> {
        let end = self.cache.write_pos();
        let range = self.cache.get(end - self.write.tokens()..end)?.read()?;
        let same = |tensor: &wgpu_kv_cache::HostTensor, rows: &[f32]| tensor.to_f32() == rows;
        Ok(same(&range.keys, &rows.keys) && same(&range.values, &rows.values))
    }
}
