//! An engine that uses the cache, with its own device, buffers and kernels, and the loop of a whole model.
//!
//! A step takes a chunk of tokens from each sequence, of any length up to a maximum: prompts, single tokens, and drafts
//! of which some are rolled back. Between steps, sequences join, leave and fork. Every object, including the source and
//! the attention of each layer, is made once, before the first step. The weights are random, because the example is
//! about who owns what and about the order of recording. Every step is compared with the same model on the CPU.
//!
//! ```text
//! cargo run --release --example engine
//! ```

mod model;

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, Context, Format, RowsIn, Side, Source, Strides, Write, adapter_label, adapters,
    attention::{Attention, Options, Tensors},
    wgpu,
};

use self::model::{
    DIM, FEATURES, HIDDEN, KV_HEADS, LAYERS, MOST_SEQUENCES, MOST_TOKENS, QUERIES, QUERY_HEADS, ROTATED, Random,
    Sequence, VOCABULARY, Weights,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const STEPS: u32 = 100;
/// The largest difference observed between the device in f32 and the CPU in f64 is about 1e-6.
const TOLERANCE: f64 = 1e-3;

struct Engine {
    device: wgpu::Device,
    queue: wgpu::Queue,
    cache: BatchedKvCache,
    /// The number of sequences and tokens in this step.
    shape: wgpu::Buffer,
    /// `[MOST_SEQUENCES, MOST_TOKENS, HIDDEN]`.
    hidden: wgpu::Buffer,
    download: wgpu::Buffer,
    project: wgpu::ComputePipeline,
    rotate: wgpu::ComputePipeline,
    add: wgpu::ComputePipeline,
    layers: Vec<Layer>,
}

/// The objects of a layer, bound once.
struct Layer {
    group: wgpu::BindGroup,
    source: BoundSource,
    attention: Attention,
}

impl Engine {
    fn new(weights: &Weights) -> Result<Self> {
        // Take the best adapter and request a device with the limits that the layers need.
        let adapter = adapters()?.swap_remove(0);
        println!("on {}", adapter_label(&adapter.get_info()));
        let configs = model::layers(1);
        let mut required_limits = wgpu::Limits::default().or_worse_values_from(&adapter.limits());
        for config in &configs {
            required_limits = required_limits.or_better_values_from(&config.required_limits(&adapter.limits())?);
        }
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
        let cache = BatchedKvCache::with_layers(&Context::new(&device, &queue), &configs)?;

        // Buffers that all layers share.
        let buffer = |floats: u32, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: u64::from(floats) * 4,
                usage: usage | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let (storage, rows) = (wgpu::BufferUsages::STORAGE, MOST_SEQUENCES * MOST_TOKENS);
        let shape = buffer(4, wgpu::BufferUsages::UNIFORM);
        let hidden = buffer(rows * HIDDEN, storage | wgpu::BufferUsages::COPY_SRC);
        let download = buffer(rows * HIDDEN, wgpu::BufferUsages::MAP_READ);
        let projected = buffer(rows * FEATURES, storage);
        let attended = buffer(rows * QUERIES, storage);
        let rotations = buffer(2 * weights.rotations.len() as u32, storage);
        queue.write_buffer(&rotations, 0, bytemuck::cast_slice(&weights.rotations));

        let module = device.create_shader_module(wgpu::include_wgsl!("kernels.wgsl"));
        let kind = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let writes = |binding| kind(wgpu::BufferBindingType::Storage { read_only: binding > 3 });
        let entries: Vec<_> = (0..7)
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: if binding == 0 { kind(wgpu::BufferBindingType::Uniform) } else { writes(binding) },
                count: None,
            })
            .collect();
        let layout =
            &device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        });
        let constants: Vec<_> = [
            ("MOST_TOKENS", MOST_TOKENS),
            ("HIDDEN", HIDDEN),
            ("QUERIES", QUERIES),
            ("FEATURES", FEATURES),
            ("ROTATED", ROTATED),
            ("DIM", DIM),
        ]
        .map(|(name, number)| (name, f64::from(number)))
        .to_vec();
        let pipeline = |entry_point| {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry_point),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry_point),
                compilation_options: wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() },
                cache: None,
            })
        };

        // The projection writes queries, keys and values side by side. The cache reads the latter two in place.
        let part = |first: u32| RowsIn {
            buffer: &projected,
            offset: u64::from(first) * 4,
            format: Format::F32,
            strides: Strides::fused(FEATURES.into(), MOST_TOKENS, DIM),
        };
        let (keys, values) = (part(QUERIES), part(ROTATED));
        let output = RowsIn {
            buffer: &attended,
            offset: 0,
            format: Format::F32,
            strides: Strides::bthd(QUERY_HEADS, MOST_TOKENS, DIM),
        };
        let layers = weights
            .layers
            .iter()
            .zip(cache.layers())
            .map(|(weights, layer)| {
                let of_layer = buffer(weights.len() as u32, storage);
                queue.write_buffer(&of_layer, 0, bytemuck::cast_slice(weights));
                let bound = [&shape, &hidden, &projected, &attended, &of_layer, &rotations, cache.positions().buffer];
                let entries: Vec<_> = (0..)
                    .zip(bound)
                    .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
                    .collect();
                let tensors = Tensors { queries: part(0), output, mask: None, sink_logits: None };
                Ok(Layer {
                    group: device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: None,
                        layout,
                        entries: &entries,
                    }),
                    source: layer.bind_source(&Source { keys, values, tokens: MOST_TOKENS })?,
                    attention: Attention::new(layer, &Options::new(QUERY_HEADS, MOST_TOKENS), &tensors)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let (project, rotate, add) = (pipeline("project"), pipeline("rotate"), pipeline("add"));
        let mut engine = Engine { device, queue, cache, shape, hidden, download, project, rotate, add, layers };
        // Without this, the first steps would wait for pipelines and for the clearing of buffers.
        engine.cache.warm_up(engine.layers.iter().map(|layer| &layer.source))?;
        for (layer, cache) in engine.layers.iter().zip(engine.cache.layers()) {
            layer.attention.warm_up(cache)?;
        }
        Ok(engine)
    }

    /// Runs one step in which token `t` of sequence `s` is `tokens[s][t]`. Returns the hidden states, `[sequence,
    /// token, HIDDEN]` with `MOST_TOKENS` tokens per sequence.
    fn step(&mut self, weights: &Weights, tokens: &[Vec<u32>]) -> Result<Vec<f32>> {
        let counts: Vec<u32> = tokens.iter().map(|tokens| tokens.len() as u32).collect();
        let (sequences, most) = (counts.len() as u32, counts.iter().copied().max().ok_or("a batch of no sequence")?);
        let mut embedded = vec![0.0f32; (sequences * MOST_TOKENS * HIDDEN) as usize];
        for (sequence, tokens) in tokens.iter().enumerate() {
            for (token, id) in tokens.iter().enumerate() {
                let at = (sequence * MOST_TOKENS as usize + token) * HIDDEN as usize;
                embedded[at..at + HIDDEN as usize].copy_from_slice(weights.embedding(*id));
            }
        }
        self.queue.write_buffer(&self.hidden, 0, bytemuck::cast_slice(&embedded));
        self.queue.write_buffer(&self.shape, 0, bytemuck::cast_slice(&[sequences, most, 0, 0]));

        let mut encoder = self.device.create_command_encoder(&Default::default());
        // This checks the step for all layers. After it, only the device can fail.
        self.cache.begin_step(&mut encoder, Write::append(most).counts(&counts).attended())?;
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let rows = sequences * most;
            for (index, layer) in self.layers.iter().enumerate() {
                for (pipeline, threads) in [(&self.project, rows * FEATURES), (&self.rotate, rows * ROTATED / 2)] {
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, &layer.group, &[]);
                    pass.dispatch_workgroups(threads.div_ceil(64), 1, 1);
                }
                self.cache.record_update(index, &mut pass, &layer.source)?;
                layer.attention.record(self.cache.layer(index)?, &mut pass)?;
                pass.set_pipeline(&self.add);
                pass.set_bind_group(0, &layer.group, &[]);
                pass.dispatch_workgroups((rows * HIDDEN).div_ceil(64), 1, 1);
            }
        }
        encoder.copy_buffer_to_buffer(&self.hidden, 0, &self.download, 0, self.hidden.size());
        self.queue.submit([encoder.finish()]);
        self.download.map_async(wgpu::MapMode::Read, .., |_| {});
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        let hidden = bytemuck::pod_collect_to_vec(&self.download.get_mapped_range(..)?);
        self.download.unmap();
        Ok(hidden)
    }

    /// The numbers of bind groups, pipelines and shader modules on the device.
    fn objects(&self) -> [isize; 3] {
        let counters = self.device.get_internal_counters().hal;
        [counters.bind_groups.read(), counters.compute_pipelines.read(), counters.shader_modules.read()]
    }
}

fn main() -> Result<()> {
    let weights = Weights::new();
    let mut engine = Engine::new(&weights)?;
    let mut on_the_cpu = vec![Sequence::default()];
    let mut random = Random(7);
    let (mut farthest, mut tokens_in_all, mut taken_back) = (0.0f64, 0, 0);
    let mut objects = None;

    for step in 0..STEPS {
        // Sequences fork and leave, and an empty one joins.
        if step % 4 == 3 {
            let batch = on_the_cpu.len() as u32;
            let count = 1 + random.below(MOST_SEQUENCES);
            let sources: Vec<u32> = (0..count).map(|_| random.below(batch)).collect();
            engine.cache.select(&sources)?;
            on_the_cpu = sources.iter().map(|&source| on_the_cpu[source as usize].clone()).collect();
            engine.cache.clear_sequence(count - 1)?;
            on_the_cpu[count as usize - 1].truncate(0);
        }
        // Every second step has single tokens. The others have chunks of up to `MOST_TOKENS`.
        let most = if step % 2 == 0 { 1 } else { MOST_TOKENS };
        let mut chunk = || (0..1 + random.below(most)).map(|_| random.below(VOCABULARY)).collect::<Vec<_>>();
        let tokens: Vec<Vec<u32>> = on_the_cpu.iter().map(|_| chunk()).collect();
        let hidden = engine.step(&weights, &tokens)?;

        for (index, (sequence, tokens)) in on_the_cpu.iter_mut().zip(&tokens).enumerate() {
            for (token, &id) in tokens.iter().enumerate() {
                let at = (index * MOST_TOKENS as usize + token) * HIDDEN as usize;
                for (expected, actual) in sequence.next(&weights, id).iter().zip(&hidden[at..]) {
                    farthest = farthest.max((expected - f64::from(*actual)).abs());
                }
            }
            tokens_in_all += tokens.len();
        }
        // Roll back some tokens, as if they were refused drafts.
        let refused: Vec<u32> = tokens.iter().map(|tokens| random.below(tokens.len() as u32)).collect();
        engine.cache.rollback(&refused)?;
        for (sequence, &refused) in on_the_cpu.iter_mut().zip(&refused) {
            sequence.truncate(sequence.len() - refused as usize);
            taken_back += refused;
        }
        if engine.objects().contains(&0) {
            return Err("this needs wgpu's feature `counters`".into());
        }
        // After 20 steps every kind of step has occurred, so nothing new may be made.
        if step >= 20 && *objects.get_or_insert(engine.objects()) != engine.objects() {
            return Err("an object was made after the first of its kind".into());
        }
        farthest = farthest.max(compare(&engine.cache, &on_the_cpu)?);
        if farthest > TOLERANCE {
            return Err(format!("step {step}: {farthest:.1e} from the model on the CPU").into());
        }
    }
    println!(
        "{STEPS} steps, {tokens_in_all} tokens, {taken_back} of them taken back; hidden states, keys and values are within \
         {farthest:.0e} of the model on the CPU"
    );
    Ok(())
}

/// Reads every layer back and returns the largest difference from the keys and values on the CPU.
fn compare(cache: &BatchedKvCache, on_the_cpu: &[Sequence]) -> Result<f64> {
    let lengths: Vec<u32> = on_the_cpu.iter().map(|sequence| sequence.len() as u32).collect();
    if cache.lengths() != lengths {
        return Err(format!("lengths are {:?}, but on the CPU {lengths:?}", cache.lengths()).into());
    }
    let mut farthest = 0.0f64;
    for (index, layer) in cache.layers().iter().enumerate().take(LAYERS) {
        let rows = layer.get_all()?.read()?;
        for (side, tensor) in Side::BOTH.into_iter().zip([&rows.keys, &rows.values]) {
            let [_, heads, count, dim] = tensor.shape().map(|axis| axis as usize);
            let numbers = tensor.to_f32();
            for (sequence, known) in on_the_cpu.iter().enumerate() {
                for (row, position) in layer.valid_positions(sequence as u32)?.enumerate() {
                    let expected = &known.layers[index][position as usize][side as usize];
                    for head in 0..KV_HEADS as usize {
                        let at = ((sequence * heads + head) * count + row) * dim;
                        for (expected, actual) in expected[head * dim..].iter().zip(&numbers[at..at + dim]) {
                            farthest = farthest.max((expected - f64::from(*actual)).abs());
                        }
                    }
                }
            }
        }
    }
    Ok(farthest)
}
