//! The engine's own kernels: their texts, pipelines and bind groups.

use std::{cell::RefCell, collections::HashMap};

use wgpu_kv_cache::{Context, wgpu};

use crate::file::{Blocks, Shape};

/// Threads of a workgroup.
pub const WORKGROUP: u32 = 64;
/// Rows that a workgroup of `product` takes at once, where there are several, at most. Buffers of rows have whole
/// tiles.
pub const TILE: u32 = 8;
/// Blocks of a row that a dispatch takes at most on the CPU, for a row and for a tile, so that its code stays in the
/// cache of instructions. An odd number of blocks, up to six, is one part.
const PARTS: [u32; 2] = [6, 2];
/// Blocks that are summed up before the sum of a row, where they are even in number. Two have 256 bytes of inputs, of
/// which an offset must be a multiple.
const UNIT: u32 = 2;
/// Bytes of the inputs of a block.
pub const BLOCK_BYTES: u32 = 128;
/// Bytes from one number to the next, in the buffer that has them.
pub const NUMBER_STRIDE: u32 = 256;

const STEP: &str = include_str!("../shaders/step.wgsl");
const HALF: &str = include_str!("../shaders/blocks/half.wgsl");
const NIBBLES: &str = include_str!("../shaders/blocks/nibbles.wgsl");
const JOINED: &str = include_str!("../shaders/blocks/joined.wgsl");
const WORDS: &str = include_str!("../shaders/blocks/words.wgsl");

/// The text that reads a block of 32 weights.
fn reader(blocks: Blocks) -> String {
    let own = match blocks {
        Blocks::F32 => include_str!("../shaders/blocks/F32.wgsl"),
        Blocks::F16 => include_str!("../shaders/blocks/F16.wgsl"),
        Blocks::Q8_0 => include_str!("../shaders/blocks/Q8_0.wgsl"),
        Blocks::Q4_0 => include_str!("../shaders/blocks/Q4_0.wgsl"),
        Blocks::Q4_1 => include_str!("../shaders/blocks/Q4_1.wgsl"),
    };
    format!("{HALF}{NIBBLES}{JOINED}{WORDS}{own}")
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

/// How products by a matrix are made.
#[derive(Clone, Copy, Debug)]
pub struct Tiling {
    /// Rows of a tile where there are several.
    pub rows: u32,
    /// None on a GPU, and where a row has more than six blocks that are odd in number, or is too long for a uniform:
    /// then `product.wgsl` takes whole rows.
    pub parts: Option<Parts>,
}

/// Blocks of a row that a dispatch takes, where each tile and part is a dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    pub of_row: u32,
    pub of_tile: u32,
    /// Blocks that are summed up first.
    unit: u32,
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

    /// How products by rows of so many blocks are made.
    pub fn tiling(&self, row_blocks: u32) -> Tiling {
        let unit = if row_blocks.is_multiple_of(UNIT) { UNIT } else { row_blocks };
        let [of_row, of_tile] = PARTS.map(|most| {
            let is_part = |part: &u32| part.is_multiple_of(unit) && row_blocks.is_multiple_of(*part);
            (unit..=most).rev().find(is_part).unwrap_or(unit)
        });
        let most = self.context.limits().max_uniform_buffer_binding_size;
        let fits = |rows: &u32| u64::from(window(*rows, row_blocks, of_tile)) <= most;
        let rows = [TILE, TILE / 2, TILE / 4].into_iter().find(fits).filter(|_| self.share == 1 && unit <= PARTS[0]);
        let parts = rows.map(|_| Parts { of_row, of_tile, unit });
        Tiling { rows: rows.unwrap_or(TILE), parts }
    }

    /// A product in tiles of so many rows. `buffers`: step, weights, inputs, outputs, numbers.
    pub fn product(&self, product: &Product, rows: u32, buffers: [&wgpu::Buffer; 5]) -> Kernel {
        let [step, weights, inputs, outputs, numbers] = buffers;
        let Product { row_blocks, .. } = *product;
        let constants = [
            ("OUTPUTS", f64::from(product.outputs)),
            ("STRIDE", product.stride.into()),
            ("FIRST", product.first.into()),
            ("ADDS", flag(product.adds)),
            ("OF_WANTED", flag(product.of_wanted)),
        ];
        let reader = reader(product.blocks);
        let (step, weights, outputs) = (Bind::Uniform(step), Bind::Read(weights), Bind::Write(outputs));
        if let Some(Parts { of_row, of_tile, unit }) = self.tiling(row_blocks).parts {
            let part = if rows == 1 { of_row } else { of_tile };
            let text = repeated(include_str!("../shaders/part.wgsl"), "units", "{u}", part / unit);
            let text = repeated(&repeated(&text, "blocks", "{b}", unit), "rows", "{r}", rows);
            let sizes = [("BLOCKS", row_blocks), ("ROWS", rows), ("PART", part), ("UNIT", unit)];
            let window = Bind::Window(inputs, window(rows, row_blocks, part));
            let number = Bind::Window(numbers, 16);
            let binds = [step, weights, window, outputs, number, number];
            return self.kernel("product", &format!("{}{reader}{text}", declared(&sizes)), &constants, &binds);
        }
        let text = repeated(include_str!("../shaders/product.wgsl"), "rows", "{r}", rows);
        let sizes = declared(&[("BLOCKS", row_blocks), ("ROWS", rows), ("SHARE", self.share)]);
        let binds = [step, weights, Bind::Read(inputs), outputs];
        self.kernel("product", &format!("{sizes}{reader}{text}"), &constants, &binds)
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

/// Bytes of the inputs that a tile reads of a part.
const fn window(rows: u32, row_blocks: u32, part: u32) -> u32 {
    ((rows - 1) * row_blocks + part) * BLOCK_BYTES
}

fn declared(sizes: &[(&str, u32)]) -> String {
    sizes.iter().map(|(name, size)| format!("const {name} = {size}u;\n")).collect()
}

/// A text in which what lies between `//#` with a name and `//#end of` it is there so often, with a number in place of
/// a mark.
fn repeated(text: &str, name: &str, mark: &str, times: u32) -> String {
    let (begin, end) = (format!("//#{name}"), format!("//#end of {name}"));
    let (mut out, mut part) = (String::new(), None);
    for line in text.lines() {
        match &mut part {
            None if line.trim() == begin => part = Some(String::new()),
            Some(repeated) if line.trim() == end => {
                (0..times).for_each(|time| out.push_str(&repeated.replace(mark, &format!("{time}u"))));
                part = None;
            }
            part => {
                let to = part.as_mut().unwrap_or(&mut out);
                to.push_str(line);
                to.push('\n');
            }
        }
    }
    debug_assert!(part.is_none(), "{name} has no end");
    out
}
