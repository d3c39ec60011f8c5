//! [`Engine`]: a model and a cache on a device, and the forward pass that joins them.

use std::time::{Duration, Instant};

use wgpu_kv_cache::{CacheConfig, Context, DeviceError, adapter_label, wgpu};

use crate::{
    Error, Result,
    cache::{Cache, CacheOptions, Chunk, Sequence},
    file::ModelFile,
    kernels::WORKGROUP,
    model::{Model, Row, Sizes, Step},
    times::{self, Parts, Times},
};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampling {
    /// 0 takes the best.
    pub temperature: f32,
    pub seed: u32,
}

#[derive(Debug)]
pub struct Engine {
    context: Context,
    pub model: Model,
    pub cache: Cache,
    pub sampling: Sampling,
    /// Rows of a step that prompts are cut into, no more than there is room for.
    pub rows: u32,
    chosen: wgpu::Buffer,
    times: Option<Times>,
    /// Time of all steps, from the first command to the last token.
    pub elapsed: Duration,
    pub steps: u64,
    wanted: u32,
}

/// Opens a device with all that the adapter has, and with its clock.
pub fn open(adapter: &wgpu::Adapter) -> Result<Context> {
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("llama"),
        required_features: CacheConfig::useful_features(adapter.features()) | (adapter.features() & times::FEATURES),
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let refused = |error: wgpu::RequestDeviceError| DeviceError::DeviceRefused {
        adapter: adapter_label(&adapter.get_info()),
        message: error.to_string(),
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|error| wgpu_kv_cache::Error::Device(refused(error)))?;
    Ok(Context::new(&device, &queue))
}

impl Engine {
    /// Loads a model. Everything that steps need is made here.
    pub fn load(context: &Context, file: &mut ModelFile, sizes: Sizes, options: &CacheOptions) -> Result<Self> {
        let device = context.device();
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = Self::make(context, file, sizes, options);
        let errors = [pollster::block_on(validation.pop()), pollster::block_on(memory.pop())];
        if let Some(error) = errors.into_iter().flatten().next() {
            return Err(Error::Device { reason: error.to_string() });
        }
        made
    }

    fn make(context: &Context, file: &mut ModelFile, sizes: Sizes, options: &CacheOptions) -> Result<Self> {
        let shape = *file.shape();
        let available = context.limits().max_storage_buffer_binding_size;
        let largest = [
            ("the logits of a step", u64::from(sizes.wanted) * u64::from(shape.vocabulary)),
            ("the gates of a step", u64::from(sizes.rows) * u64::from(2 * shape.feed_forward)),
            ("the table of rotations", u64::from(sizes.positions) * u64::from(shape.rope_dim)),
        ];
        for (what, words) in largest {
            if words * 4 > available {
                return Err(Error::TooLarge { what: what.to_owned(), needed: words * 4, available });
            }
        }
        // The grids of rotation and activation have one dimension, as do the logits of a row.
        let heads = shape.query_heads + shape.kv_heads;
        let rows = u64::from(sizes.rows);
        let threads = [
            rows * u64::from(heads) * u64::from(shape.rope_dim / 2),
            rows * u64::from(shape.feed_forward / 4),
            u64::from(shape.vocabulary) * 16,
        ];
        let groups = threads.into_iter().max().unwrap_or(0).div_ceil(WORKGROUP.into());
        let most = context.limits().max_compute_workgroups_per_dimension;
        if groups > most.into() {
            let rule = format!("steps of {rows} rows need {groups} workgroups, but the device has {most} at most");
            return Err(Error::Argument { argument: "--rows".to_owned(), rule });
        }
        let model = Model::load(context, file, sizes)?;
        let cache = Cache::new(context, &model, options)?;
        let chosen = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("chosen, to be read"),
            size: u64::from(sizes.wanted) * 4,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        Ok(Engine {
            times: Times::new(context.device(), context.queue(), shape.layers),
            context: context.clone(),
            model,
            cache,
            sampling: Sampling::default(),
            rows: sizes.rows,
            chosen,
            elapsed: Duration::ZERO,
            steps: 0,
            wanted: 0,
        })
    }

    /// Another cache over the same model. What the old one held is gone.
    pub fn replace_cache(&mut self, options: &CacheOptions) -> Result<Cache> {
        let cache = Cache::new(&self.context, &self.model, options)?;
        Ok(std::mem::replace(&mut self.cache, cache))
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Where the time of all steps went, by the device's clock, if it has one.
    pub fn parts(&self) -> Option<Parts> {
        self.times.as_ref().map(|times| times.parts)
    }

    /// Forgets all times.
    pub fn restart_clock(&mut self) {
        (self.elapsed, self.steps) = (Duration::ZERO, 0);
        if let Some(times) = &mut self.times {
            times.parts = Parts::default();
        }
    }

    /// Runs a forward pass: one command buffer for all layers. Returns the next token of each row that wants one, by
    /// chunk. A step that is refused changes nothing.
    pub fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<Vec<u32>>> {
        let start = Instant::now();
        let (rows, wanted) = self.rows(chunks)?;
        let step = Step {
            rows: rows.len() as u32,
            wanted: wanted.len() as u32,
            seed: self.sampling.seed,
            temperature: self.sampling.temperature,
        };
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Err(error) = self.record(&mut encoder, chunks, &step) {
            self.cache.dropped()?;
            return Err(error);
        }
        let bytes = u64::from(step.wanted) * 4;
        encoder.copy_buffer_to_buffer(&self.model.buffers.chosen, 0, &self.chosen, 0, bytes);
        if let Some(times) = &self.times {
            times.resolve(&mut encoder);
        }
        self.model.begin_step(self.context.queue(), step, &rows, &wanted);
        self.context.queue().submit([encoder.finish()]);
        self.cache.submitted()?;
        self.wanted = step.wanted;

        self.chosen.map_async(wgpu::MapMode::Read, .., |_| {});
        self.times.iter().for_each(Times::map);
        self.context.wait()?;
        let chosen: Vec<u32> = bytemuck::pod_collect_to_vec(&self.chosen.get_mapped_range(..)?);
        self.chosen.unmap();
        if let Some(times) = &mut self.times {
            times.add()?;
        }
        self.elapsed += start.elapsed();
        self.steps += 1;
        let mut chosen = chosen.into_iter();
        Ok(chunks.iter().map(|chunk| chosen.by_ref().take(chunk.wanting() as usize).collect()).collect())
    }

    /// The forward pass.
    fn record(&mut self, encoder: &mut wgpu::CommandEncoder, chunks: &[Chunk<'_>], step: &Step) -> Result<()> {
        let Engine { model, cache, times, .. } = self;
        times.iter_mut().for_each(Times::begin);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let mark = |times: &mut Option<Times>, pass: &mut wgpu::ComputePass<'_>| {
            if let Some(times) = times {
                times.mark(pass);
            }
        };
        mark(times, &mut pass);
        cache.begin_step(&mut pass, chunks)?;
        model.embed(&mut pass, step.rows);
        for layer in 0..model.shape.layers as usize {
            model.project(layer, &mut pass, step.rows);
            mark(times, &mut pass);
            cache.update(layer, &mut pass)?;
            mark(times, &mut pass);
            cache.attend(layer, &mut pass)?;
            mark(times, &mut pass);
            model.forward(layer, &mut pass, step.rows);
        }
        model.choose(&mut pass, step.wanted);
        mark(times, &mut pass);
        Ok(())
    }

    /// The rows of a step, and which of them want logits.
    fn rows(&self, chunks: &[Chunk<'_>]) -> Result<(Vec<Row>, Vec<u32>)> {
        let (mut rows, mut wanted) = (Vec::new(), Vec::new());
        let (sizes, vocabulary) = (&self.model.sizes, self.model.shape.vocabulary);
        for chunk in chunks {
            let start = self.cache.length(chunk.sequence)?;
            let end = start as usize + chunk.tokens.len();
            if end > sizes.positions as usize {
                return Err(Error::ContextFull { tokens: end, context: sizes.positions });
            }
            if chunk.tokens.is_empty() {
                return Err(Error::EmptyPrompt);
            }
            for (position, &token) in (start..).zip(chunk.tokens) {
                if token >= vocabulary {
                    return Err(Error::UnknownToken { token, vocabulary });
                }
                rows.push(Row { token, position });
            }
            let end = rows.len() as u32;
            wanted.extend(end - chunk.wanting()..end);
        }
        if rows.len() > sizes.rows as usize {
            return Err(Error::TooManyRows { rows: rows.len(), room: sizes.rows });
        }
        if wanted.len() > sizes.wanted as usize {
            return Err(Error::TooManyWanted { wanted: wanted.len(), room: sizes.wanted });
        }
        Ok((rows, wanted))
    }

    /// Appends tokens in steps of as many rows as there may be, and returns the token after them.
    pub fn prefill(&mut self, sequence: Sequence, tokens: &[u32]) -> Result<u32> {
        let most = self.rows.clamp(1, self.model.sizes.rows) as usize;
        let end = self.cache.length(sequence)? as usize + tokens.len();
        if end > self.model.sizes.positions as usize {
            return Err(Error::ContextFull { tokens: end, context: self.model.sizes.positions });
        }
        let mut next = None;
        for (index, part) in tokens.chunks(most).enumerate() {
            let last = (index + 1) * most >= tokens.len();
            let chunk = Chunk { wanted: u32::from(last), ..Chunk::new(sequence, part) };
            next = self.step(&[chunk])?[0].first().copied().or(next);
        }
        next.ok_or(Error::EmptyPrompt)
    }

    /// The logits of the rows that wanted them in the last step, `[row, vocabulary]`.
    pub fn logits(&self) -> Result<Vec<f32>> {
        let bytes = u64::from(self.wanted) * u64::from(self.model.shape.vocabulary) * 4;
        let readable = self.context.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("logits, to be read"),
            size: bytes.max(4),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&self.model.buffers.logits, 0, &readable, 0, bytes);
        self.context.queue().submit([encoder.finish()]);
        readable.map_async(wgpu::MapMode::Read, .., |_| {});
        self.context.wait()?;
        Ok(bytemuck::pod_collect_to_vec(&readable.get_mapped_range(..bytes)?))
    }
}
