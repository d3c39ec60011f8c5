//! Host cost of the cache on wgpu's no-op backend, as time and heap allocations of recording, and the device objects
//! that it creates per step.

use std::time::{Duration, Instant};

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, Format, Result, RowsIn, Strides, Write,
    attention::{Attention, Options, Tensors},
};

use crate::{DIM, HEADS, LAYERS, Reach, Table, bind, buffer, by_hand};

struct Bench {
    context: Context,
    cache: BatchedKvCache,
    sources: Vec<BoundSource>,
    hand: by_hand::Decode,
}

impl Bench {
    fn new(context: &Context) -> Result<Self> {
        Self::of_batch(context, 1)
    }

    fn of_batch(context: &Context, batch: u32) -> Result<Self> {
        let config = CacheConfig::new(batch, HEADS, DIM, 1024).formats(Format::F16, Format::F16);
        let cache = BatchedKvCache::new(context, config, LAYERS)?;
        let bytes = config.bytes_per_token()? / 2;
        let (keys, values) = (buffer(context, bytes), buffer(context, bytes));
        let sources =
            cache.layers().iter().map(|layer| bind(layer, &keys, &values, Format::F16, 1)).collect::<Result<_>>()?;
        let planes: Vec<_> = cache
            .layers()
            .iter()
            .map(|layer| {
                wgpu_kv_cache::Side::BOTH
                    .map(|side| layer.view().side(side).segments().next().expect("one").buffer.clone())
            })
            .collect();
        let hand = by_hand::Decode::new(
            context,
            context.device().features().contains(wgpu::Features::IMMEDIATES),
            batch,
            1024,
            [&keys, &values],
            &planes,
        );
        Ok(Bench { context: context.clone(), cache, sources, hand })
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Records one step into one pass of the encoder.
    fn record(&mut self, encoder: &mut wgpu::CommandEncoder, position: u32) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.record_write(&mut pass, Write::at(position, 1))
    }

    fn record_write(&mut self, pass: &mut wgpu::ComputePass<'_>, write: Write<'_>) -> Result<()> {
        self.cache.begin_step(pass, write)?;
        let mut sources = self.sources.iter().enumerate();
        sources.try_for_each(|(layer, source)| self.cache.record_update(layer, pass, source))
    }
}

/// The median in microseconds.
fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Time and heap allocations of recording.
pub fn rows(whole: bool, table: &mut Table) -> Result<()> {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor {
        required_features: wgpu::Features::IMMEDIATES,
        required_limits: wgpu::Limits { max_immediate_size: 64, ..Default::default() },
        ..Default::default()
    });
    let mut bench = Bench::new(&Context::new(&device, &queue))?;
    let steps = if whole { 3000 } else { 3 };
    let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let mut encoder = bench.encoder();
        let start = Instant::now();
        bench.record(&mut encoder, step % 1024)?;
        ours.push(start.elapsed());
        bench.context.queue().submit([encoder.finish()]);
        let mut encoder = bench.encoder();
        let start = Instant::now();
        bench.hand.record_dispatches(&mut encoder, step % 1024);
        by_hand.push(start.elapsed());
        bench.context.queue().submit([encoder.finish()]);
        bench.context.wait()?;
    }
    let [ours, by_hand] = [ours, by_hand].map(|times| median_us(times) / LAYERS as f64);
    table.row(
        "host time to record one layer's update",
        "the same dispatch by hand",
        Reach::AtMost(2.0),
        ours / by_hand,
        " × its time",
    );
    table.row("", "", Reach::AtMost(1.0), ours, " µs");
    table.note(&format!("by hand {by_hand:.3} µs: pipeline, bind group, immediates, dispatch"));

    ragged(&bench.context, steps, table)?;
    let counts = allocations(&mut bench, Write::at(0, 1));
    table.row("heap allocations per recorded update", "", Reach::AtMost(0.0), counts.median, "");
    table.note(&format!("median of {LAYERS}; {} in all, as wgpu's own vector of commands grows", counts.all));
    // Sequences of different lengths go through the ring of parameters. wgpu holds a callback for the slot until the
    // work is done.
    let mut bench = Bench::of_batch(&bench.context, 2)?;
    for positions in [[3, 4], [4, 5]] {
        allocations(&mut bench, Write::at_each(&positions, 1));
    }
    let counts = allocations(&mut bench, Write::at_each(&[5, 6], 1));
    let callbacks = counts.median - 1.0;
    table.row("the same, sequences not alike", "wgpu's box for its callback", Reach::AtMost(0.0), callbacks, " more");
    Ok(())
}

/// Time to record a step of sequences with different lengths, against one of equal lengths.
fn ragged(context: &Context, steps: u32, table: &mut Table) -> Result<()> {
    const BATCH: u32 = 16;
    let mut bench = Bench::of_batch(context, BATCH)?;
    let (mut times, mut positions) = ([Vec::new(), Vec::new()], [0; BATCH as usize]);
    for step in 0..steps {
        for (spread, times) in (0..).zip(&mut times) {
            (0..).zip(&mut positions).for_each(|(sequence, position)| *position = step % 900 + spread * sequence);
            let mut encoder = bench.encoder();
            let start = Instant::now();
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                bench.record_write(&mut pass, Write::at_each(&positions, 1))?;
            }
            times.push(start.elapsed());
            bench.context.queue().submit([encoder.finish()]);
            bench.context.wait()?;
        }
    }
    let [equal, ragged] = times.map(median_us);
    table.row(
        &format!("host time to record a ragged step, batch {BATCH}"),
        "one of equal lengths",
        Reach::AtMost(2.0),
        ragged / equal,
        " × its time",
    );
    table.note(&format!("{ragged:.1} µs and {equal:.1} µs for {LAYERS} layers"));
    Ok(())
}

/// Time to make the attentions of all layers, against the same number of bind groups.
pub fn attentions(adapter: &wgpu::Adapter, whole: bool, table: &mut Table) -> Result<()> {
    let context = &Context::open(adapter)?;
    let config = CacheConfig::new(1, HEADS, DIM, 1024).formats(Format::F16, Format::F16);
    let cache = BatchedKvCache::new(context, config, LAYERS)?;
    let tokens = 128;
    let bytes = u64::from(4 * HEADS * tokens * DIM) * 4;
    let (queries, output) = (buffer(context, bytes), buffer(context, bytes));
    let rows =
        |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(4 * HEADS, tokens, DIM) };
    let tensors = Tensors { queries: rows(&queries), output: rows(&output), mask: None, sink_logits: None };
    let options = Options::new(4 * HEADS, tokens);
    let entry = |binding| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: true },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let device = context.device();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &[entry(0), entry(1), entry(2)],
    });
    // A size that every device allows.
    let size = wgpu::BufferSize::new(4096);
    let entries: Vec<_> = (0..)
        .zip([&queries, &output, &queries])
        .map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size }),
        })
        .collect();
    let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
    let group = |_| device.create_bind_group(&descriptor);
    let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
    for _ in 0..if whole { 51 } else { 3 } {
        let start = Instant::now();
        let made = cache.layers().iter().map(|layer| Attention::new(layer, &options, &tensors));
        let made = made.collect::<Result<Vec<_>>>()?;
        ours.push(start.elapsed());
        drop(made);
        let start = Instant::now();
        let made: Vec<_> = (0..4 * LAYERS).map(group).collect();
        by_hand.push(start.elapsed());
        drop(made);
    }
    let [ours, by_hand] = [ours, by_hand].map(|times| median_us(times) / 1e3);
    table.row(
        &format!("attentions of {LAYERS} layers, made anew"),
        "as many bind groups of 3 buffers",
        Reach::AtMost(4.0),
        ours / by_hand,
        " × its time",
    );
    table.note(&format!("{ours:.2} ms and {by_hand:.2} ms"));
    Ok(())
}

/// Heap allocations while one step is recorded.
struct Allocations {
    /// The median over the layers.
    median: f64,
    /// The sum over the layers.
    all: u64,
}

/// Counts the allocations per layer. wgpu keeps the commands of a pass in a vector that grows occasionally, so the
/// median is what the cache itself allocates.
fn allocations(bench: &mut Bench, write: Write<'_>) -> Allocations {
    let Bench { context, cache, sources, .. } = bench;
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    cache.begin_step(&mut pass, write).expect("it is in range");
    let mut counts = Vec::new();
    for (layer, source) in sources.iter().enumerate() {
        let counted = allocation_counter::measure(|| {
            cache.record_update(layer, &mut pass, source).expect("it is of the step");
        });
        counts.push(counted.count_total);
    }
    counts.sort_unstable();
    Allocations { median: counts[counts.len() / 2] as f64, all: counts.iter().sum() }
}

/// Device objects made per step, and device memory that stays allocated.
pub fn resources(adapter: &wgpu::Adapter, table: &mut Table) -> Result<()> {
    let context = Context::open(adapter)?;
    let made = |context: &Context| {
        let hal = context.device().get_internal_counters().hal;
        [hal.buffers.read(), hal.bind_groups.read(), hal.compute_pipelines.read()]
    };
    let mut bench = Bench::new(&context)?;
    let mut most = [0; 3];
    for step in 0..40 {
        let before = made(&context);
        let mut encoder = bench.encoder();
        bench.record(&mut encoder, step)?;
        let after = made(&context);
        context.queue().submit([encoder.finish()]);
        context.wait()?;
        if step > 0 {
            for (most, (before, after)) in most.iter_mut().zip(before.into_iter().zip(after)) {
                *most = (*most).max(after - before);
            }
        }
    }
    // If a step writes its position through the queue, the count of buffers includes the one in which wgpu stages it.
    let [buffers, bind_groups, pipelines] = most;
    table.row(
        "bind groups and pipelines made per decode step",
        "",
        Reach::AtMost(0.0),
        (bind_groups + pipelines) as f64,
        "",
    );
    table.row("buffers made per decode step", "", Reach::AtMost(0.0), buffers as f64, "");
    let sources: u64 = bench.sources.iter().map(BoundSource::device_bytes).sum();
    let overhead = bench.cache.overhead_bytes() + sources;
    table.row("resident bytes beyond memory_allocated_bytes", "", Reach::AtMost(65_536.0), overhead as f64, " bytes");
    Ok(())
}
