//! The weights of a model in buffers, in the blocks of the file.

use wgpu_kv_cache::{Context, wgpu};

use crate::{
    Error, Result,
    file::{Blocks, ModelFile},
};

/// A matrix in one buffer: outputs of several tensors of one type, one after the other.
#[derive(Debug)]
pub struct Matrix {
    pub buffer: wgpu::Buffer,
    pub blocks: Blocks,
    pub outputs: u32,
    /// Blocks of a row.
    pub row_blocks: u32,
}

/// Weights of a layer. What is multiplied with the same rows is one matrix, unless the types differ.
#[derive(Debug)]
pub struct Layer {
    pub attention_gains: wgpu::Buffer,
    pub queries_keys_values: Vec<Matrix>,
    pub attention_output: Vec<Matrix>,
    pub forward_gains: wgpu::Buffer,
    pub gates_ups: Vec<Matrix>,
    pub down: Vec<Matrix>,
}

#[derive(Debug)]
pub struct Weights {
    pub embedding: Matrix,
    /// Missing where the embedding serves.
    pub output: Option<Matrix>,
    pub output_gains: wgpu::Buffer,
    pub layers: Vec<Layer>,
    /// By what the frequencies of the rotation are divided, where the file has that.
    pub rope_factors: Option<Vec<f32>>,
}

impl Weights {
    /// Loads all tensors, one at a time.
    pub fn load(context: &Context, file: &mut ModelFile) -> Result<Self> {
        let mut layers = Vec::new();
        for layer in 0..file.shape().layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let mut matrices =
                |parts: &[&str]| matrices(context, file, &parts.iter().map(|part| name(part)).collect::<Vec<_>>());
            layers.push(Layer {
                queries_keys_values: matrices(&["attn_q", "attn_k", "attn_v"])?,
                attention_output: matrices(&["attn_output"])?,
                gates_ups: matrices(&["ffn_gate", "ffn_up"])?,
                down: matrices(&["ffn_down"])?,
                attention_gains: gains(context, file, &name("attn_norm"))?,
                forward_gains: gains(context, file, &name("ffn_norm"))?,
            });
        }
        let embedding = matrices(context, file, &["token_embd.weight".to_owned()])?.swap_remove(0);
        let output = match file.tensor("output.weight") {
            Some(_) => Some(matrices(context, file, &["output.weight".to_owned()])?.swap_remove(0)),
            None => None,
        };
        let rope_factors = match file.tensor("rope_freqs.weight") {
            Some(_) => Some(bytemuck::pod_collect_to_vec(&file.read("rope_freqs.weight")?)),
            None => None,
        };
        Ok(Weights {
            embedding,
            output,
            output_gains: gains(context, file, "output_norm.weight")?,
            layers,
            rope_factors,
        })
    }
}

fn gains(context: &Context, file: &mut ModelFile, name: &str) -> Result<wgpu::Buffer> {
    upload(context, name, &file.read(name)?)
}

/// Tensors side by side; neighbours of one type in one buffer.
fn matrices(context: &Context, file: &mut ModelFile, names: &[String]) -> Result<Vec<Matrix>> {
    let blocks_of = |name: &String| file.tensor(name).map(|tensor| tensor.blocks);
    let groups: Vec<Vec<String>> =
        names.chunk_by(|a, b| blocks_of(a) == blocks_of(b)).map(<[String]>::to_vec).collect();
    let mut matrices = Vec::new();
    for group in groups {
        let (mut bytes, mut outputs) = (Vec::new(), 0);
        let first = file.tensor(&group[0]).ok_or_else(|| Error::MissingTensor { name: group[0].clone() })?;
        for name in &group {
            outputs += file.tensor(name).map_or(0, |tensor| tensor.rows);
            bytes.extend(file.read(name)?);
        }
        let buffer = upload(context, &group.join(" and "), &bytes)?;
        matrices.push(Matrix { buffer, blocks: first.blocks, outputs, row_blocks: first.columns / 32 });
    }
    Ok(matrices)
}

fn upload(context: &Context, what: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
    // Kernels load 16 bytes at a time. A block that begins in the middle of a word reads the word after it, and of a
    // short one there may be one load more than it has bytes for.
    let size = (bytes.len() as u64 + 4 + 16).next_multiple_of(16);
    let available = context.limits().max_storage_buffer_binding_size.min(context.limits().max_buffer_size);
    if size > available {
        return Err(Error::TooLarge { what: what.to_owned(), needed: size, available });
    }
    let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some(what),
        size,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: true,
    });
    buffer.get_mapped_range_mut(..)?.slice(..bytes.len()).copy_from_slice(bytes);
    buffer.unmap();
    Ok(buffer)
}
