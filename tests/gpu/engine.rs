//! How an engine uses the cache: its own device, buffers, encoders and kernels.

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, Destination, Format, KvCache, Pair, RowsIn, Side, Source,
    Strides, Write,
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("engine::lengths_are_right_at_each_point_of_a_stream", lengths_are_right_at_each_point_of_a_stream),
    ("engine::a_source_is_bound_once_and_read_every_step", a_source_is_bound_once_and_read_every_step),
    ("engine::updates_wait_for_a_late_submission", updates_wait_for_a_late_submission),
    ("engine::nothing_is_submitted_for_the_caller", nothing_is_submitted_for_the_caller),
    ("engine::a_kernel_in_the_same_pass_sees_rows_and_lengths", a_kernel_in_the_same_pass_sees_rows_and_lengths),
    ("engine::a_fused_projection_needs_no_copy", a_fused_projection_needs_no_copy),
    ("engine::a_kernel_writes_straight_into_the_cache", a_kernel_writes_straight_into_the_cache),
    ("engine::a_range_lands_between_the_callers_bytes", a_range_lands_between_the_callers_bytes),
    ("engine::an_f16_source_fills_every_format", an_f16_source_fills_every_format),
    ("engine::layers_share_steps", layers_share_steps),
];

fn buffer(context: &Context, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: contents.len() as u64,
        usage: usage | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    context.queue().write_buffer(&buffer, 0, contents);
    buffer
}

pub fn storage(context: &Context, contents: &[u8]) -> wgpu::Buffer {
    buffer(context, contents, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC)
}

pub fn read<T: bytemuck::Pod>(context: &Context, buffer: &wgpu::Buffer) -> Vec<T> {
    let (device, queue) = (context.device(), context.queue());
    let staging = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    queue.submit([encoder.finish()]);
    let (sender, receiver) = std::sync::mpsc::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    receiver.recv().unwrap().unwrap();
    bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..).unwrap())
}

/// Binds dense rows of one format.
fn bind(cache: &KvCache, keys: &wgpu::Buffer, values: &wgpu::Buffer, format: Format, tokens: u32) -> BoundSource {
    let config = *cache.config();
    let rows_in =
        |buffer, dim| RowsIn { buffer, offset: 0, format, strides: Strides::bhtd(config.num_heads, tokens, dim) };
    let source = Source { keys: rows_in(keys, config.head_dim), values: rows_in(values, config.value_dim), tokens };
    cache.bind_source(&source).unwrap()
}

fn encoder(context: &Context) -> wgpu::CommandEncoder {
    context.device().create_command_encoder(&Default::default())
}

fn lengths_are_right_at_each_point_of_a_stream(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(2, 1, 1, 16))?;
    let rows = storage(context, bytemuck::cast_slice(&[1.0f32, 2.0]));
    let more = storage(context, bytemuck::cast_slice(&[3.0f32, 4.0]));
    let source = bind(&cache, &rows, &more, Format::F32, 1);
    let snapshots = storage(context, &[0; 5 * 8]);
    let mut encoder = encoder(context);
    let writes = [
        Write::append(1),
        Write::append(1).counts(&[0, 1]),
        Write::at_each(&[7, 3], 1),
        Write::at(0, 1).counts(&[1, 0]),
        Write::append(1),
    ];
    let mut expected: Vec<u32> = Vec::new();
    for (step, write) in writes.into_iter().enumerate() {
        cache.record_update(&mut encoder, &source, write)?;
        let lengths = cache.view().lengths_on_device();
        encoder.copy_buffer_to_buffer(lengths.buffer, lengths.offset, &snapshots, step as u64 * 8, lengths.bytes);
        expected.extend(cache.lengths());
    }
    context.queue().submit([encoder.finish()]);
    assert_eq!(expected, [1, 1, 1, 2, 8, 4, 1, 4, 2, 5]);
    assert_eq!(read::<u32>(context, &snapshots), expected);
    DONE
}

fn a_source_is_bound_once_and_read_every_step(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(1, 2, 8, 32))?;
    // The model's results for all steps, and the two buffers that its projections write.
    let computed: Vec<f32> = (0..32 * 16).map(|i| i as f32).collect();
    let keys = storage(context, bytemuck::cast_slice(&computed));
    let values = storage(context, bytemuck::cast_slice(&computed.iter().map(|x| -x).collect::<Vec<_>>()));
    let projected = [storage(context, &[0; 64]), storage(context, &[0; 64])];
    let source = bind(&cache, &projected[0], &projected[1], Format::F32, 1);
    let mut encoder = encoder(context);
    for step in 0..32 {
        encoder.copy_buffer_to_buffer(&keys, step * 64, &projected[0], 0, 64);
        encoder.copy_buffer_to_buffer(&values, step * 64, &projected[1], 0, 64);
        cache.record_update(&mut encoder, &source, Write::append(1))?;
    }
    context.queue().submit([encoder.finish()]);
    let read = cache.get_all()?.read()?;
    // The rows arrive as [step, head, dim] and are stored as [head, step, dim].
    let expected: Vec<f32> = (0..2)
        .flat_map(|head| (0..32).flat_map(move |step| (0..8).map(move |dim| (step * 16 + head * 8 + dim) as f32)))
        .collect();
    assert_eq!(read.keys.to_f32(), expected);
    assert_eq!(read.values.to_f32(), expected.iter().map(|x| -x).collect::<Vec<_>>());
    DONE
}

/// Records far more updates than there are slots at first, and submits none before the last is recorded.
fn updates_wait_for_a_late_submission(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(1, 1, 1, 600))?;
    let rows = storage(context, bytemuck::cast_slice(&[5.0f32]));
    let more = storage(context, bytemuck::cast_slice(&[6.0f32]));
    let source = bind(&cache, &rows, &more, Format::F32, 1);
    let mut commands = Vec::new();
    for position in (0..600).rev() {
        let mut encoder = encoder(context);
        cache.record_update(&mut encoder, &source, Write::at(position, 1))?;
        commands.push(encoder.finish());
    }
    let mut encoder = encoder(context);
    cache.record_update(&mut encoder, &source, Write::at(599, 1))?;
    commands.push(encoder.finish());
    context.queue().submit(commands);
    // The updates run from the last position to the first. One more at the last position then turns the rows between
    // into a gap, which reads as zero.
    let mut expected = vec![0.0; 600];
    (expected[0], expected[599]) = (5.0, 5.0);
    assert_eq!(cache.get_all()?.read()?.keys.to_f32(), expected);
    assert_eq!(cache.read_lengths()?, [600]);
    DONE
}

fn nothing_is_submitted_for_the_caller(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(1, 1, 2, 4))?;
    let rows = storage(context, bytemuck::cast_slice(&[1.0f32, 2.0]));
    let more = storage(context, bytemuck::cast_slice(&[3.0f32, 4.0]));
    let source = bind(&cache, &rows, &more, Format::F32, 1);
    let mut encoder = encoder(context);
    cache.record_update(&mut encoder, &source, Write::append(1))?;
    cache.record_advance(&mut encoder, Write::append(1))?;
    context.wait()?;
    assert_eq!(cache.read_lengths()?, [0], "the device must not know of it yet");
    assert!(cache.read_storage()?.keys.bytes().iter().all(|&byte| byte == 0));
    context.queue().submit([encoder.finish()]);
    assert_eq!(cache.read_lengths()?, [2]);
    assert_eq!(cache.get_all()?.read()?.values.to_f32(), [3.0, 4.0, 0.0, 0.0]);
    DONE
}

/// A caller's kernel and a bind group with the given buffers as bindings 0, 1, ….
pub fn kernel(context: &Context, body: &str, buffers: &[&wgpu::Buffer]) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
    let device = context.device();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(body.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = pipeline.get_bind_group_layout(0);
    let group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    (pipeline, group)
}

fn a_kernel_in_the_same_pass_sees_rows_and_lengths(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(1, 1, 4, 8))?;
    let rows = storage(context, bytemuck::cast_slice(&[1.0f32, 2.0, 3.0, 4.0]));
    let more = storage(context, bytemuck::cast_slice(&[5.0f32, 6.0, 7.0, 8.0]));
    let source = bind(&cache, &rows, &more, Format::F32, 1);
    let sums = storage(context, &[0; 16]);
    // Sums the first element of every valid key row, read as an attention kernel would.
    let body = "
        @group(0) @binding(0) var<storage, read_write> keys: array<f32>;
        @group(0) @binding(1) var<storage, read_write> lengths: array<u32>;
        @group(0) @binding(2) var<storage, read_write> sums: array<f32>;
        @compute @workgroup_size(1) fn main() {
            var sum = 0.0;
            for (var position = 0u; position < lengths[0]; position++) {
                sum += keys[position * 4u];
            }
            sums[lengths[0] - 1u] = sum;
        }";
    let view = cache.view();
    let keys = view.side(Side::Keys).segments().next().unwrap().buffer.clone();
    let (pipeline, group) = kernel(context, body, &[&keys, view.lengths_on_device().buffer, &sums]);
    let mut encoder = encoder(context);
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for _ in 0..4 {
            cache.record_update(&mut pass, &source, Write::append(1))?;
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
    }
    context.queue().submit([encoder.finish()]);
    assert_eq!(read::<f32>(context, &sums), [1.0, 2.0, 3.0, 4.0]);
    DONE
}

fn a_fused_projection_needs_no_copy(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(2, 2, 4, 4))?;
    // [batch 2, token 3, (4 query, 2 key, 2 value) heads × 4]
    let projection: Vec<f32> = (0..2 * 3 * 8 * 4).map(|i| i as f32).collect();
    let buffer = storage(context, bytemuck::cast_slice(&projection));
    let part = |head: u64| RowsIn {
        buffer: &buffer,
        offset: head * 4 * 4,
        format: Format::F32,
        strides: Strides::fused(8 * 4, 3, 4),
    };
    let source = cache.bind_source(&Source { keys: part(4), values: part(6), tokens: 3 })?;
    let mut encoder = encoder(context);
    cache.record_update(&mut encoder, &source, Write::append(3).counts(&[3, 2]))?;
    context.queue().submit([encoder.finish()]);
    let read = cache.get_all()?.read()?;
    let at = |b: usize, h: usize, t: usize, d: usize| projection[((b * 3 + t) * 8 + h) * 4 + d];
    for (tensor, first_head) in [(&read.keys, 4), (&read.values, 6)] {
        let mut expected = Vec::new();
        for (b, count) in [(0, 3), (1, 2)] {
            for h in 0..2 {
                for t in 0..3 {
                    for d in 0..4 {
                        expected.push(if t < count { at(b, first_head + h, t, d) } else { 0.0 });
                    }
                }
            }
        }
        assert_eq!(tensor.to_f32(), expected);
    }
    DONE
}

fn a_kernel_writes_straight_into_the_cache(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(1, 2, 4, 8).formats(Format::F32, Format::F32))?;
    // A projection that stores 10 h + d in element d of head h of the keys, and 100 more in the values.
    let body = "
        @group(0) @binding(0) var<storage, read_write> keys: array<f32>;
        @group(0) @binding(1) var<storage, read_write> values: array<f32>;
        @group(0) @binding(2) var<storage, read_write> first: array<u32>;
        @compute @workgroup_size(4, 2) fn main(@builtin(local_invocation_id) id: vec3<u32>) {
            let at = first[0] + id.y * first[1] + id.x;
            keys[at] = f32(10u * id.y + id.x);
            values[at] = f32(100u + 10u * id.y + id.x);
        }";
    for position in [0, 1, 5] {
        let place = cache.view().side(Side::Keys).slots_at(position)?.next().unwrap();
        let values = cache.view().side(Side::Values).slots_at(position)?.next().unwrap().segment.buffer.clone();
        let first = storage(context, bytemuck::cast_slice(&[place.offset as u32 / 4, place.plane_bytes as u32 / 4]));
        let (pipeline, group) = kernel(context, body, &[place.segment.buffer, &values, &first]);
        let mut encoder = encoder(context);
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        cache.record_advance(&mut pass, Write::at(position, 1))?;
        drop(pass);
        context.queue().submit([encoder.finish()]);
    }
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&[6][..], vec![6]));
    let read = cache.get_all()?.read()?;
    let head = |h: f32| -> Vec<f32> {
        (0..6)
            .flat_map(|p| (0..4).map(move |d| if [0, 1, 5].contains(&p) { 10.0 * h + d as f32 } else { 0.0 }))
            .collect()
    };
    let expected: Vec<f32> = head(0.0).into_iter().chain(head(1.0)).collect();
    assert_eq!(read.keys.to_f32(), expected);
    DONE
}

fn a_range_lands_between_the_callers_bytes(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    for (dim, format) in [(8, Format::F32), (3, Format::F16), (5, Format::Bf16)] {
        let mut cache = KvCache::new(context, CacheConfig::new(1, 1, dim, 4).formats(format, format))?;
        let keys: Vec<f32> = (0..dim * 3).map(|i| i as f32 + 1.0).collect();
        let values: Vec<f32> = keys.iter().map(|x| -x).collect();
        cache.update(&keys, &values, Write::append(3))?;
        // Both sides go into one buffer, keys at byte 512 and values at byte 1024.
        let filled = vec![0xeeu8; 2048];
        let all = storage(context, &filled);
        let destination = |offset| Destination::new(&all, offset);
        let mut encoder = encoder(context);
        cache.record_get(&mut encoder, 1..3, Pair { keys: destination(512), values: destination(1024) })?;
        context.queue().submit([encoder.finish()]);
        let expected = cache.get(1..3)?.read()?;
        let mut whole = filled;
        whole[512..][..expected.keys.bytes().len()].copy_from_slice(expected.keys.bytes());
        whole[1024..][..expected.values.bytes().len()].copy_from_slice(expected.values.bytes());
        assert_eq!(read::<u8>(context, &all), whole, "head size {dim}, {format}");
    }
    DONE
}

fn an_f16_source_fills_every_format(gpu: &Gpu) -> Outcome {
    use wgpu_kv_cache::half::f16;
    let context = &gpu.context;
    for format in Format::FLOATS {
        let mut cache = KvCache::new(context, CacheConfig::new(1, 1, 8, 2).formats(format, format))?;
        let rows: Vec<f16> = [0.5, -1.0, 2.0, 0.25, 3.0, -4.0, 0.0, 100.0].map(f16::from_f32).to_vec();
        let more: Vec<f16> = rows.iter().map(|x| -*x).collect();
        let (keys, values) =
            (storage(context, bytemuck::cast_slice(&rows)), storage(context, bytemuck::cast_slice(&more)));
        let source = bind(&cache, &keys, &values, Format::F16, 1);
        let mut encoder = encoder(context);
        cache.record_update(&mut encoder, &source, Write::append(1))?;
        context.queue().submit([encoder.finish()]);
        let read = cache.get_all()?.read()?;
        assert_eq!(read.keys.to_f32(), rows.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
        assert_eq!(read.values.to_f32(), more.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    }
    DONE
}

/// Records eight steps of 30 layers in one pass and one submission.
fn layers_share_steps(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = BatchedKvCache::new(context, CacheConfig::new(1, 1, 4, 8), 30)?;
    let overhead = cache.layer(0)?.overhead_bytes();
    let rows = storage(context, bytemuck::cast_slice(&[1.0f32, 2.0, 3.0, 4.0]));
    let more = storage(context, bytemuck::cast_slice(&[5.0f32, 6.0, 7.0, 8.0]));
    let sources: Vec<_> = cache.layers().iter().map(|layer| bind(layer, &rows, &more, Format::F32, 1)).collect();
    let mut encoder = encoder(context);
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for _ in 0..8 {
            cache.begin_step(&mut pass, Write::append(1))?;
            for (layer, source) in sources.iter().enumerate() {
                cache.record_update(layer, &mut pass, source)?;
            }
        }
    }
    context.queue().submit([encoder.finish()]);
    for layer in cache.layers() {
        assert_eq!(layer.read_lengths()?, [8]);
        assert_eq!(layer.get_all()?.read()?.values.to_f32(), [5.0, 6.0, 7.0, 8.0].repeat(8));
    }
    assert_eq!(cache.layer(0)?.overhead_bytes(), overhead, "240 updates of 8 different steps need no more slots");
    DONE
}
