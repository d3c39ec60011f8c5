//! Reading a layer: the generated WGSL against handwritten loads for one format and shape, attention against a copy of
//! the bytes it reads, and the cost of quantising in an update.

use wgpu_kv_cache::{
    CacheConfig, Context, Destination, Format, KvCache, Result, RowsIn, Side, Strides, WgslNames, Write,
    attention::{Attention, Options, Tensors},
};

use crate::{DIM, HEADS, Reach, Table, bind, buffer, medians};

const TOKENS: u32 = 4096;

/// Scores of every key row with one query, one thread per row.
const SCORES: &str = "
    @group(0) @binding(0) var<storage, read> query: array<vec4<f32>>;
    @group(0) @binding(1) var<storage, read_write> scores: array<f32>;
    @compute @workgroup_size(64) fn score(@builtin(global_invocation_id) id: vec3<u32>) {
        let plane = id.y;
        let position = id.x;
        var sum = 0.0;
        for (var i = 0u; i < 32u; i++) {
            sum += dot(query[i], LOAD);
        }
        scores[plane * 4096u + position] = sum;
    }";

/// Handwritten loads of keys `[head, slot, dim]`: declarations and the expression that loads.
fn by_hand(format: Format) -> (&'static str, &'static str) {
    match format {
        Format::F32 => (
            "@group(1) @binding(1) var<storage, read> keys: array<vec4<f32>>;",
            "keys[(plane * 4096u + position) * 32u + i]",
        ),
        Format::F16 => (
            "@group(1) @binding(1) var<storage, read> keys: array<vec2<u32>>;
             fn load(at: u32) -> vec4<f32> {
                 let words = keys[at];
                 return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
             }",
            "load((plane * 4096u + position) * 32u + i)",
        ),
        Format::Bf16 => (
            "@group(1) @binding(1) var<storage, read> keys: array<vec2<u32>>;
             fn load(at: u32) -> vec4<f32> {
                 let w = keys[at];
                 return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
             }",
            "load((plane * 4096u + position) * 32u + i)",
        ),
        Format::Fp8E4M3 => (
            "@group(1) @binding(1) var<storage, read> keys: array<u32>;
             fn load(at: u32) -> vec4<f32> {
                 let code = (vec4<u32>(keys[at]) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
                 let m = code & vec4<u32>(127u);
                 let small = bitcast<vec4<u32>>(vec4<f32>(m) * 0.001953125);
                 let bits = select(small, (m << vec4<u32>(20u)) + vec4<u32>(0x3c000000u), m >= vec4<u32>(8u));
                 let number = select(bits, vec4<u32>(0x7fc00000u), m == vec4<u32>(127u));
                 return bitcast<vec4<f32>>(number | ((code & vec4<u32>(128u)) << vec4<u32>(24u)));
             }",
            "load((plane * 4096u + position) * 32u + i)",
        ),
        Format::Q8_0 => (
            "@group(1) @binding(1) var<storage, read> keys: array<u32>;
             fn load(plane: u32, position: u32, i: u32) -> vec4<f32> {
                 let at = plane * 139264u;
                 let pair = unpack2x16float(keys[at + 131072u + position * 2u + i / 16u]);
                 let word = keys[at + position * 32u + i];
                 let code = bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
                 return vec4<f32>(code) * select(pair.x, pair.y, (i / 8u) % 2u == 1u);
             }",
            "load(plane, position, i)",
        ),
        _ => (
            "@group(1) @binding(1) var<storage, read> keys: array<u32>;
             fn load(plane: u32, position: u32, i: u32) -> vec4<f32> {
                 let at = plane * 73728u;
                 let pair = unpack2x16float(keys[at + 65536u + position * 2u + i / 16u]);
                 let word = keys[at + position * 16u + i / 8u * 4u + i % 4u] >> (i % 8u / 4u * 4u);
                 let code = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u);
                 return (vec4<f32>(code) - 8.0) * select(pair.x, pair.y, (i / 8u) % 2u == 1u);
             }",
            "load(plane, position, i)",
        ),
    }
}

/// A kernel with the caller's bindings in group 0 and the cache's in group 1.
struct Scores {
    pipeline: wgpu::ComputePipeline,
    groups: [wgpu::BindGroup; 2],
}

impl Scores {
    fn new(context: &Context, cache: &KvCache, own: [&wgpu::Buffer; 2], text: &str) -> Result<Self> {
        let device = context.device();
        let names = WgslNames::new("kv_").group(1);
        let storage = |binding, read_only| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let group = |layout: &[wgpu::BindGroupLayoutEntry], entries: &[wgpu::BindGroupEntry<'_>]| {
            let layout =
                device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: layout });
            let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries };
            (device.create_bind_group(&descriptor), layout)
        };
        let entries: Vec<_> = (0..)
            .zip(own)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let (ours, our_layout) = group(&[storage(0, true), storage(1, false)], &entries);
        let (theirs, their_layout) =
            group(&cache.wgsl_layout(&names, wgpu::ShaderStages::COMPUTE)?, &cache.wgsl_entries(&names)?);
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&our_layout), Some(&their_layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&layout),
            module: &module,
            entry_point: Some("score"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Ok(Scores { pipeline, groups: [ours, theirs] })
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        for (index, group) in (0..).zip(&self.groups) {
            pass.set_bind_group(index, group, &[]);
        }
        pass.dispatch_workgroups(TOKENS / 64, HEADS, 1);
    }
}

/// All rows about reading.
pub fn rows(context: &Context, repetitions: usize, table: &mut Table) -> Result<()> {
    let source_bytes = u64::from(HEADS * DIM * TOKENS) * 4;
    let (keys, values) = (buffer(context, source_bytes), buffer(context, source_bytes));
    let (query, scores) = (buffer(context, u64::from(DIM) * 4), buffer(context, u64::from(HEADS * TOKENS) * 4));
    let mut f16_update = f64::NAN;
    for format in [Format::F16, Format::F32, Format::Bf16, Format::Fp8E4M3, Format::Q8_0, Format::Q4_0] {
        let config = CacheConfig::new(1, HEADS, DIM, TOKENS).formats(format, format);
        let mut cache = KvCache::new(context, config)?;
        let source = bind(&cache, &keys, &values, Format::F32, TOKENS)?;
        let update = medians(
            context,
            repetitions.min(21),
            &mut [Box::new(|encoder| cache.record_update(encoder, &source, Write::at(0, TOKENS)))],
        )?[0];
        if format == Format::F16 {
            f16_update = update;
        }
        let names = WgslNames::new("kv_").group(1);
        let with_text =
            format!("{}{}", cache.wgsl(&names)?, SCORES.replace("LOAD", "kv_key_at(plane, kv_slot(position), i)"));
        let (declared, load) = by_hand(format);
        let hand = format!("{declared}{}", SCORES.replace("LOAD", load));
        let ours = Scores::new(context, &cache, [&query, &scores], &with_text)?;
        let theirs = Scores::new(context, &cache, [&query, &scores], &hand)?;
        let times = medians(
            context,
            repetitions,
            &mut [
                Box::new(|encoder| {
                    ours.record(encoder);
                    Ok(())
                }),
                Box::new(|encoder| {
                    theirs.record(encoder);
                    Ok(())
                }),
            ],
        )?;
        table.row(
            &format!("scores of {TOKENS} × {HEADS} keys in {format}, by wgsl()"),
            "loads written by hand",
            Reach::AtMost(1.05),
            times[0] / times[1],
            " × its time",
        );

        let (queries, output) =
            (buffer(context, u64::from(4 * HEADS * DIM) * 4), buffer(context, u64::from(4 * HEADS * DIM) * 4));
        let dense =
            |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(4 * HEADS, 1, DIM) };
        let tensors = Tensors { queries: dense(&queries), output: dense(&output), mask: None, sink_logits: None };
        let attention = Attention::new(&cache, &Options::last(4 * HEADS, 1), &tensors)?;
        let view = cache.view();
        let [from, other] = Side::BOTH.map(|side| view.side(side).segments().next().expect("it has one").buffer);
        let to = Destination::new(&keys, 0).buffer;
        let times = medians(
            context,
            repetitions.min(21),
            &mut [
                Box::new(|encoder| attention.record(&cache, encoder)),
                Box::new(|encoder| {
                    encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
                    encoder.copy_buffer_to_buffer(other, 0, &values, 0, other.size());
                    Ok(())
                }),
            ],
        )?;
        table.note(&format!(
            "attention of {} query heads over them reads {:.2} GB/s, {:.2} × the time of a copy of those bytes; the update from \
             f32 takes {:.2} × that to f16",
            4 * HEADS,
            (from.size() + other.size()) as f64 / times[0] / 1e9,
            times[0] / times[1],
            update / f16_update
        ));
    }
    Ok(())
}
