//! The engine's own kernels: their texts, pipelines and bind groups.

use std::{cell::RefCell, collections::HashMap};

use wgpu_kv_cache::{Context, wgpu};

use crate::file::{Blocks, Shape};

/// Threads of a workgroup.
pub const WORKGROUP: u32 = 64;
/// Rows that a workgroup of `product` takes at once, where there are several, at most. Buffers of rows have whole tiles.
pub const TILE: u32 = 8;
/// Bytes from one number of a tile to the next, in the buffer that has them.
pub const TILE_STRIDE: u32 = 256;

const STEP: &str = include_str!("../shaders/step.wgsl");
const HALF: &str = include_str!("../shaders/blocks/half.wgsl");
const NIBBLES: &str = include_str!("../shaders/blocks/nibbles.wgsl");
const JOINED: &str = include_str!("../shaders/blocks/joined.wgsl");

/// The text that reads a block of 32 weights.
fn reader(blocks: Blocks) -> String {
    let own = match blocks {
        Blocks::F32 => include_str!("../shaders/blocks/F32.wgsl"),
        Blocks::F16 => include_str!("../shaders/blocks/F16.wgsl"),
        Blocks::Q8_0 => include_str!("../shaders/blocks/Q8_0.wgsl"),
        Blocks::Q4_0 => include_str!("../shaders/blocks/Q4_0.wgsl"),
        Blocks::Q4_1 => include_str!("../shaders/blocks/Q4_1.wgsl"),
    };
    format!("{HALF}{NIBBLES}{JOINED}{own}")
}

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug)]
pub enum Bind<'a> {
    Uniform(&'a wgpu::Buffer),
    Read(&'a wgpu::Buffer),
    Write(&'a wgpu::Buffer),
    /// So many bytes of a uniform, from an offset on that each dispatch gives.
    Window(&'a wgpu::Buffer, u32),
}

/// A kernel and its buffers, bound once.
#[derive(Debug)]
pub struct Kernel {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl Kernel {
    /// Records a dispatch of so many workgroups.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, grid: [u32; 2]) {
        self.record_at(pass, grid, &[]);
    }

    /// Likewise, with the offset of each window.
    pub fn record_at(&self, pass: &mut wgpu::ComputePass<'_>, [x, y]: [u32; 2], offsets: &[u32]) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, offsets);
        pass.dispatch_workgroups(x, y, 1);
    }
}

/// What a product computes.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub blocks: Blocks,
    /// Blocks of a row of weights.
    pub row_blocks: u32,
    pub outputs: u32,
    /// Features of a row of the result, and the first of them that is written.
    pub stride: u32,
    pub first: u32,
    /// The result is added to what is there.
    pub adds: bool,
    /// Its rows are those that want logits.
    pub of_wanted: bool,
}

/// Makes kernels on a device. Layers of one shape share pipelines.
#[derive(Debug)]
pub struct Kernels<'a> {
    context: &'a Context,
    pipelines: RefCell<HashMap<String, (wgpu::BindGroupLayout, wgpu::ComputePipeline)>>,
    /// Threads that share an output of a product.
    pub share: u32,
}

impl<'a> Kernels<'a> {
    pub fn new(context: &'a Context) -> Self {
        let is_cpu = context.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
        Kernels { context, pipelines: RefCell::default(), share: if is_cpu { 1 } else { 16 } }
    }

    fn kernel(&self, name: &str, text: &str, constants: &[(&str, f64)], binds: &[Bind<'_>]) -> Kernel {
        let mut pipelines = self.pipelines.borrow_mut();
        let key = format!("{constants:?} {text}");
        let (layout, pipeline) = pipelines.entry(key).or_insert_with(|| self.pipeline(name, text, constants, binds));
        let entries: Vec<_> = (0..)
            .zip(binds)
            .map(|(binding, bind)| match bind {
                Bind::Uniform(buffer) | Bind::Read(buffer) | Bind::Write(buffer) => {
                    wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }
                }
                Bind::Window(buffer, bytes) => {
                    let size = wgpu::BufferSize::new(u64::from(*bytes));
                    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size });
                    wgpu::BindGroupEntry { binding, resource }
                }
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: Some(name), layout, entries: &entries };
        Kernel { group: self.context.device().create_bind_group(&descriptor), pipeline: pipeline.clone() }
    }

    fn pipeline(
        &self,
        name: &str,
        text: &str,
        constants: &[(&str, f64)],
        binds: &[Bind<'_>],
    ) -> (wgpu::BindGroupLayout, wgpu::ComputePipeline) {
        let device = self.context.device();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(format!("const WORKGROUP = {WORKGROUP}u;\n{STEP}{text}").into()),
        });
        let entry = |(binding, bind): (u32, &Bind<'_>)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match bind {
                    Bind::Uniform(_) | Bind::Window(..) => wgpu::BufferBindingType::Uniform,
                    Bind::Read(_) => wgpu::BufferBindingType::Storage { read_only: true },
                    Bind::Write(_) => wgpu::BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: matches!(bind, Bind::Window(..)),
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = (0..).zip(binds).map(entry).collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            })),
            module: &module,
            entry_point: Some(name),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        (layout, pipeline)
    }

    /// Rows of a tile where steps have several, and whether inputs are a uniform.
    pub fn tile(&self, row_blocks: u32) -> (u32, bool) {
        let most = self.context.limits().max_uniform_buffer_binding_size;
        let fits = |tile: &u32| u64::from(tile * row_blocks) * 128 <= most;
        // A tile of two rows of a block is as long as an offset must be a multiple of.
        let tile = [TILE, TILE / 2, TILE / 4].into_iter().find(fits).filter(|_| self.share == 1);
        (tile.unwrap_or(TILE), tile.is_some())
    }

    /// A product in tiles of so many rows. `buffers`: step, weights, inputs, outputs, numbers of tiles.
    pub fn product(&self, product: &Product, rows: u32, buffers: [&wgpu::Buffer; 5]) -> Kernel {
        let own = repeated(include_str!("../shaders/product.wgsl"), rows, self.share == 1);
        let vectors = rows * product.row_blocks * 8;
        let [step, weights, inputs, outputs, tiles] = buffers;
        let (inputs, declared) = if self.tile(product.row_blocks).1 {
            (Bind::Window(inputs, vectors * 16), format!("var<uniform> inputs: array<vec4<f32>, {vectors}>"))
        } else {
            (Bind::Read(inputs), "var<storage, read> inputs: array<vec4<f32>>".to_owned())
        };
        let sizes = format!("const SHARE = {}u;\nconst ROWS = {rows}u;\n", self.share);
        let text = format!("{sizes}@group(0) @binding(2) {declared};\n{}{own}", reader(product.blocks));
        let constants = [
            ("BLOCKS", f64::from(product.row_blocks)),
            ("OUTPUTS", product.outputs.into()),
            ("STRIDE", product.stride.into()),
            ("FIRST", product.first.into()),
            ("ADDS", flag(product.adds)),
            ("OF_WANTED", flag(product.of_wanted)),
        ];
        let binds = [Bind::Uniform(step), Bind::Read(weights), inputs, Bind::Write(outputs), Bind::Window(tiles, 16)];
        self.kernel("product", &text, &constants, &binds)
    }

    /// Binds step, weights, tokens and hidden.
    pub fn embed(&self, blocks: Blocks, shape: &Shape, binds: &[Bind<'_>; 4]) -> Kernel {
        let text = format!("{}{}", reader(blocks), include_str!("../shaders/embed.wgsl"));
        self.kernel("embed", &text, &[("BLOCKS", f64::from(shape.hidden / 32))], binds)
    }

    /// Binds gains, hidden, wanted and normed.
    pub fn norm(&self, shape: &Shape, of_wanted: bool, binds: &[Bind<'_>; 4]) -> Kernel {
        let constants =
            [("WIDTH", f64::from(shape.hidden / 4)), ("EPSILON", shape.epsilon.into()), ("OF_WANTED", flag(of_wanted))];
        self.kernel("norm", include_str!("../shaders/norm.wgsl"), &constants, binds)
    }

    /// Binds step, turns, tokens and projected.
    pub fn rotate(&self, shape: &Shape, features: u32, binds: &[Bind<'_>; 4]) -> Kernel {
        let constants = [
            ("HEADS", f64::from(shape.query_heads + shape.kv_heads)),
            ("HEAD_DIM", shape.head_dim.into()),
            ("PAIRS", (shape.rope_dim / 2).into()),
            ("FEATURES", features.into()),
        ];
        self.kernel("rotate", include_str!("../shaders/rotate.wgsl"), &constants, binds)
    }

    /// Binds step, gates and activated.
    pub fn swiglu(&self, shape: &Shape, binds: &[Bind<'_>; 3]) -> Kernel {
        let constants = [("WIDTH", f64::from(shape.feed_forward / 4))];
        self.kernel("swiglu", include_str!("../shaders/swiglu.wgsl"), &constants, binds)
    }

    /// Binds step, logits, wanted, tokens and chosen.
    pub fn choose(&self, shape: &Shape, binds: &[Bind<'_>; 5]) -> Kernel {
        let constants = [("VOCABULARY", f64::from(shape.vocabulary))];
        self.kernel("choose", include_str!("../shaders/choose.wgsl"), &constants, binds)
    }
}

fn flag(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

/// The text of a kernel for tiles of so many rows: what lies between `//#rows` and `//#end` is there once a row, and of
/// what follows `//#alone` and `//#together` one stays.
fn repeated(text: &str, rows: u32, alone: bool) -> String {
    let (mut out, mut of_row, mut in_rows, mut left_out) = (String::new(), String::new(), false, false);
    for line in text.lines() {
        match line.trim() {
            "//#alone" => left_out = !alone,
            "//#together" => left_out = alone,
            "//#rows" => in_rows = true,
            "//#end" if in_rows => {
                in_rows = false;
                (0..rows).for_each(|row| out.push_str(&of_row.replace("{r}", &row.to_string())));
                of_row.clear();
            }
            "//#end" => left_out = false,
            _ if left_out => {}
            _ => {
                let to = if in_rows { &mut of_row } else { &mut out };
                to.push_str(line);
                to.push('\n');
            }
        }
    }
    out
}
