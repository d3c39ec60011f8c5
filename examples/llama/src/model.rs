//! [`Model`]: the weights, and all kernels of a forward pass but those of keys and values.

use wgpu_kv_cache::{Context, wgpu};

use crate::{
    Result,
    file::{ModelFile, Shape},
    kernels::{BLOCK_BYTES, Bind, Kernel, Kernels, NUMBER_STRIDE, Product, TILE, Tiling, WORKGROUP},
    weights::{Matrix, Weights},
};

/// How much a step may have.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tokens of all sequences.
    pub rows: u32,
    /// Rows that want logits.
    pub wanted: u32,
    /// Positions of a sequence.
    pub positions: u32,
}

/// A row of a step.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Row {
    pub token: u32,
    pub position: u32,
}

/// What kernels know of a step: `shaders/step.wgsl`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Step {
    pub rows: u32,
    pub wanted: u32,
    pub seed: u32,
    pub temperature: f32,
}

/// A product by one matrix, for steps of one row and of more.
#[derive(Debug)]
struct Multiply {
    kernels: [Kernel; 2],
    /// Workgroups for the outputs of a row.
    groups: u32,
    tiling: Tiling,
    /// Blocks of a row.
    row_blocks: u32,
}

impl Multiply {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        let (kernel, tile) = if rows == 1 { (&self.kernels[0], 1) } else { (&self.kernels[1], self.tiling.rows) };
        let Some(parts) = self.tiling.parts else {
            kernel.record(pass, [self.groups, rows.div_ceil(tile)]);
            return;
        };
        let part_blocks = if rows == 1 { parts.of_row } else { parts.of_tile };
        for first in (0..rows).step_by(tile as usize) {
            for part in 0..self.row_blocks / part_blocks {
                let inputs = (first * self.row_blocks + part * part_blocks) * BLOCK_BYTES;
                let offsets = [inputs, first * NUMBER_STRIDE, part * NUMBER_STRIDE];
                kernel.record_at(pass, [self.groups, 1], &offsets);
            }
        }
    }
}

#[derive(Debug)]
struct Layer {
    norm: Kernel,
    project: Vec<Multiply>,
    rotate: Kernel,
    attended: Vec<Multiply>,
    forward_norm: Kernel,
    gates_ups: Vec<Multiply>,
    swiglu: Kernel,
    down: Vec<Multiply>,
}

/// Buffers of a step, `[row, features]` in f32. The cache reads and writes two of them.
#[derive(Debug)]
pub struct Buffers {
    /// Queries, keys and values of a row side by side.
    pub projected: wgpu::Buffer,
    /// The output of attention.
    pub attended: wgpu::Buffer,
    /// `[wanted row, vocabulary]`.
    pub logits: wgpu::Buffer,
    /// `[wanted row]`.
    pub chosen: wgpu::Buffer,
    step: wgpu::Buffer,
    rows: wgpu::Buffer,
    wanted: wgpu::Buffer,
}

#[derive(Debug)]
pub struct Model {
    pub shape: Shape,
    pub sizes: Sizes,
    pub buffers: Buffers,
    embed: Kernel,
    layers: Vec<Layer>,
    last_norm: Kernel,
    output: Multiply,
    choose: Kernel,
    /// Bound by kernels, and kept with them.
    _weights: Weights,
}

impl Model {
    /// Loads the weights and makes all kernels.
    pub fn load(context: &Context, file: &mut ModelFile, sizes: Sizes) -> Result<Self> {
        let (shape, weights) = (*file.shape(), Weights::load(context, file)?);
        let kernels = Kernels::new(context);
        let features = shape.queries() + 2 * shape.keys();
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = |what, words: u32, usage| {
            context.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(what),
                size: u64::from(words) * 4,
                usage,
                mapped_at_creation: false,
            })
        };
        let inputs = storage | wgpu::BufferUsages::UNIFORM;
        let of_rows = |what, features: u32| buffer(what, whole(sizes.rows) * features, inputs);
        let buffers = Buffers {
            projected: of_rows("projected", features),
            attended: of_rows("attended", shape.queries()),
            logits: buffer("logits", sizes.wanted * shape.vocabulary, storage | wgpu::BufferUsages::COPY_SRC),
            chosen: buffer("chosen", sizes.wanted, storage | wgpu::BufferUsages::COPY_SRC),
            step: buffer("step", 4, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST),
            rows: of_rows("rows", 2),
            wanted: buffer("wanted", sizes.wanted, storage),
        };
        let hidden = of_rows("hidden", shape.hidden);
        let normed = of_rows("normed", shape.hidden);
        let normed_wanted = buffer("normed and wanted", whole(sizes.wanted) * shape.hidden, inputs);
        let gates = of_rows("gates", 2 * shape.feed_forward);
        let activated = of_rows("activated", shape.feed_forward);
        let turns = turns(&shape, sizes.positions, weights.rope_factors.as_deref());
        let turns_buffer = buffer("turns", turns.len() as u32 * 2, storage);
        context.queue().write_buffer(&turns_buffer, 0, bytemuck::cast_slice(&turns));

        // Each number at a multiple of the stride, from where a dispatch takes its first row and its part.
        let widest = shape.feed_forward.max(shape.hidden).max(shape.queries());
        let most = sizes.rows.max(sizes.wanted).max(widest / 32);
        let bytes: Vec<u8> = (0..whole(most))
            .flat_map(|number| number.to_le_bytes().into_iter().chain([0; NUMBER_STRIDE as usize - 4]))
            .collect();
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let numbers = buffer("numbers", bytes.len() as u32 / 4, uniform);
        context.queue().write_buffer(&numbers, 0, &bytes);
        let multiply = |matrix: &Matrix, from: &wgpu::Buffer, to: &wgpu::Buffer, product: Product| {
            let tiling = kernels.tiling(matrix.row_blocks);
            let kernel = |rows| kernels.product(&product, rows, [&buffers.step, &matrix.buffer, from, to, &numbers]);
            Multiply {
                kernels: [kernel(1), kernel(tiling.rows)],
                groups: matrix.outputs.div_ceil(WORKGROUP / kernels.share),
                tiling,
                row_blocks: matrix.row_blocks,
            }
        };
        // Matrices whose results lie side by side.
        let multiply_all = |matrices: &[Matrix], from: &wgpu::Buffer, to: &wgpu::Buffer, adds: bool| {
            let stride = matrices.iter().map(|matrix| matrix.outputs).sum();
            let mut first = 0;
            let each = |matrix: &Matrix| {
                let (blocks, row_blocks, outputs) = (matrix.blocks, matrix.row_blocks, matrix.outputs);
                let product = Product { blocks, row_blocks, outputs, stride, first, adds, of_wanted: false };
                first += outputs;
                multiply(matrix, from, to, product)
            };
            matrices.iter().map(each).collect::<Vec<_>>()
        };
        let norm = |gains: &wgpu::Buffer, of_wanted: bool, to: &wgpu::Buffer| {
            let binds = [Bind::Read(gains), Bind::Read(&hidden), Bind::Read(&buffers.wanted), Bind::Write(to)];
            kernels.norm(&shape, of_wanted, &binds)
        };
        let step = Bind::Uniform(&buffers.step);
        let layers = weights
            .layers
            .iter()
            .map(|layer| Layer {
                norm: norm(&layer.attention_gains, false, &normed),
                project: multiply_all(&layer.queries_keys_values, &normed, &buffers.projected, false),
                rotate: kernels.rotate(
                    &shape,
                    features,
                    &[step, Bind::Read(&turns_buffer), Bind::Read(&buffers.rows), Bind::Write(&buffers.projected)],
                ),
                attended: multiply_all(&layer.attention_output, &buffers.attended, &hidden, true),
                forward_norm: norm(&layer.forward_gains, false, &normed),
                gates_ups: multiply_all(&layer.gates_ups, &normed, &gates, false),
                swiglu: kernels.swiglu(&shape, &[step, Bind::Read(&gates), Bind::Write(&activated)]),
                down: multiply_all(&layer.down, &activated, &hidden, true),
            })
            .collect();
        let embedding = &weights.embedding;
        let output = weights.output.as_ref().unwrap_or(embedding);
        Ok(Model {
            embed: kernels.embed(
                embedding.blocks,
                &shape,
                &[step, Bind::Read(&embedding.buffer), Bind::Read(&buffers.rows), Bind::Write(&hidden)],
            ),
            layers,
            last_norm: norm(&weights.output_gains, true, &normed_wanted),
            output: multiply(
                output,
                &normed_wanted,
                &buffers.logits,
                Product {
                    blocks: output.blocks,
                    row_blocks: output.row_blocks,
                    outputs: output.outputs,
                    stride: output.outputs,
                    first: 0,
                    adds: false,
                    of_wanted: true,
                },
            ),
            choose: kernels.choose(
                &shape,
                &[
                    step,
                    Bind::Read(&buffers.logits),
                    Bind::Read(&buffers.wanted),
                    Bind::Read(&buffers.rows),
                    Bind::Write(&buffers.chosen),
                ],
            ),
            shape,
            sizes,
            buffers,
            _weights: weights,
        })
    }

    /// Writes what a step is made of. `wanted` are the rows that want logits.
    pub fn begin_step(&self, queue: &wgpu::Queue, step: Step, rows: &[Row], wanted: &[u32]) {
        queue.write_buffer(&self.buffers.step, 0, bytemuck::bytes_of(&step));
        queue.write_buffer(&self.buffers.rows, 0, bytemuck::cast_slice(rows));
        queue.write_buffer(&self.buffers.wanted, 0, bytemuck::cast_slice(wanted));
    }

    /// Embeds the tokens.
    pub fn embed(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        self.embed.record(pass, grid(rows * self.shape.hidden / 32));
    }

    /// Computes queries, keys and values of a layer.
    pub fn project(&self, layer: usize, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        let own = &self.layers[layer];
        own.norm.record(pass, [rows, 1]);
        own.project.iter().for_each(|product| product.record(pass, rows));
        let heads = self.shape.query_heads + self.shape.kv_heads;
        own.rotate.record(pass, grid(rows * heads * self.shape.rope_dim / 2));
    }

    /// Does what follows the attention of a layer.
    pub fn forward(&self, layer: usize, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        let own = &self.layers[layer];
        own.attended.iter().for_each(|product| product.record(pass, rows));
        own.forward_norm.record(pass, [rows, 1]);
        own.gates_ups.iter().for_each(|product| product.record(pass, rows));
        own.swiglu.record(pass, grid(rows * self.shape.feed_forward / 4));
        own.down.iter().for_each(|product| product.record(pass, rows));
    }

    /// Computes the logits of the rows that want them, and chooses tokens.
    pub fn choose(&self, pass: &mut wgpu::ComputePass<'_>, wanted: u32) {
        if wanted > 0 {
            self.last_norm.record(pass, [wanted, 1]);
            self.output.record(pass, wanted);
            self.choose.record(pass, [wanted, 1]);
        }
    }
}

/// Rows of whole tiles.
fn whole(rows: u32) -> u32 {
    rows.next_multiple_of(TILE)
}

/// Workgroups for so many threads.
fn grid(threads: u32) -> [u32; 2] {
    [threads.div_ceil(WORKGROUP), 1]
}

/// Cosine and sine of each position and pair.
fn turns(shape: &Shape, positions: u32, factors: Option<&[f32]>) -> Vec<[f32; 2]> {
    let pairs = shape.rope_dim / 2;
    let frequency = |pair: u32| {
        let factor = factors.and_then(|factors| factors.get(pair as usize)).map_or(1.0, |&factor| f64::from(factor));
        f64::from(shape.rope_base).powf(-2.0 * f64::from(pair) / f64::from(shape.rope_dim)) / factor
    };
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let turn = |position: u32, frequency: f64| {
        let (sine, cosine) = (f64::from(position) * frequency).sin_cos();
        [cosine as f32, sine as f32]
    };
    (0..positions).flat_map(|position| frequencies.iter().map(move |&frequency| turn(position, frequency))).collect()
}
