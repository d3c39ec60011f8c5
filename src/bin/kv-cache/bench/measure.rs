//! [`Bench`]: times the forms of a case beside the device's own copy of as many bytes.

use std::time::Duration;

use wgpu_kv_cache::{Context, Form, Format, RowsIn, Source, Strides};

use super::{
    clock::Stopwatch,
    figure::{Figure, Group, HEADS, Measured},
};
use crate::Failure;

/// Bytes of one copy that others are compared with: more than caches hold, and no more than every device's buffers.
const MOST_COPIED: u64 = 256 << 20;
/// The state that all cases share.
pub struct Bench<'a> {
    pub stopwatch: &'a Stopwatch,
    /// Contexts whose cost models always choose kernels, and always copies.
    pub forms: [Context; 2],
    /// The context with the calibrated cost model.
    pub model: Context,
    pub repetitions: usize,
}

/// The description of a case, without its times.
pub struct Case {
    pub group: Group,
    pub amount: u32,
    pub head_dim: u32,
    pub name: String,
    /// Sequences of an attention.
    pub batch: u32,
    /// What it shares a line of a plot with.
    pub series: String,
    pub bytes: u64,
    pub chosen: Form,
}

pub type Record<'a> = Box<dyn FnMut(&mut wgpu::CommandEncoder) -> Result<(), Failure> + 'a>;

impl Bench<'_> {
    pub fn buffer(&self, bytes: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let size = bytes.next_multiple_of(4);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        self.model.device().create_buffer(&descriptor)
    }

    /// Times some forms in turn, so that a disturbance affects all of them.
    fn measure(&self, forms: &mut [Record<'_>]) -> Result<Vec<Vec<Duration>>, Failure> {
        let mut times = vec![Vec::new(); forms.len()];
        for repetition in 0..self.repetitions + 2 {
            for (form, times) in forms.iter_mut().zip(&mut times) {
                let time = self.stopwatch.time(form)?;
                if repetition >= 2 {
                    times.push(time);
                }
            }
        }
        Ok(times)
    }

    /// Records a buffer copy of `bytes` bytes; of many bytes, several copies of the same buffer.
    fn device_copy(&self, bytes: u64) -> Record<'static> {
        let bytes = bytes.next_multiple_of(4);
        let once = bytes.min(MOST_COPIED);
        let (from, to) = (self.buffer(once), self.buffer(once));
        Box::new(move |encoder| {
            for start in (0..bytes).step_by(MOST_COPIED as usize) {
                encoder.copy_buffer_to_buffer(&from, 0, &to, 0, once.min(bytes - start));
            }
            Ok(())
        })
    }

    /// Measures `forms` (the kernel and, if possible, copies) and the device's copy of as many bytes.
    pub fn figure(&self, case: Case, mut forms: Vec<Record<'_>>) -> Result<Figure, Failure> {
        forms.push(self.device_copy(case.bytes));
        let times = self.measure(&mut forms)?;
        let (device_copy, forms) = times.split_last().expect("there is one at least");
        let measured = |times| Measured::new(times, case.bytes, device_copy);
        Ok(Figure {
            group: case.group,
            amount: case.amount,
            head_dim: case.head_dim,
            case: case.name,
            batch: case.batch,
            series: case.series,
            bytes: case.bytes,
            kernel: measured(&forms[0]),
            copies: forms.get(1).map(|times| measured(times)),
            device_copy: measured(device_copy),
            chosen: case.chosen.into(),
        })
    }
}

pub fn source<'a>(
    keys: &'a wgpu::Buffer,
    values: &'a wgpu::Buffer,
    format: Format,
    tokens: u32,
    dim: u32,
) -> Source<'a> {
    let rows_in = |buffer| RowsIn { buffer, offset: 0, format, strides: Strides::bhtd(HEADS, tokens, dim) };
    Source { keys: rows_in(keys), values: rows_in(values), tokens }
}
