//! Pipelines of kernels, one a variant, made once per [`Context`](crate::Context), and what they bind.

use std::collections::HashMap;

use crate::kernels::{IMMEDIATE_BYTES, Kernel, StepPath};

/// What all variants of a kernel share: the entry point, and what they bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Scatter,
    Advance,
    Permute { layers: u32 },
    Gather,
}

/// Layouts of the bind groups, and the pipelines made so far.
#[derive(Debug)]
pub(crate) struct Kernels {
    /// The first group.
    bindings: HashMap<Entry, wgpu::BindGroupLayout>,
    /// The second group, where the step does not come as immediates.
    pub step: wgpu::BindGroupLayout,
    pipelines: HashMap<Kernel, wgpu::ComputePipeline>,
    /// By their text.
    #[cfg(feature = "attention")]
    texts: HashMap<String, wgpu::ComputePipeline>,
}

impl Entry {
    /// Name of the file, of the entry point and of the pipelines.
    pub const fn name(self) -> &'static str {
        match self {
            Entry::Scatter => "scatter",
            Entry::Advance => "advance",
            Entry::Permute { .. } => "permute",
            Entry::Gather => "gather",
        }
    }

    /// Of the storage that the first bind group holds after a uniform, which is only read.
    pub fn read_only(self) -> Vec<bool> {
        match self {
            Entry::Scatter => vec![false, false, false, true, true],
            Entry::Advance => vec![false, false, false],
            // After the hops lengths, keys and values of each layer.
            Entry::Permute { layers } => {
                let mut read_only = vec![false; 1 + 3 * layers as usize];
                read_only[0] = true;
                read_only
            }
            Entry::Gather => vec![true, false],
        }
    }

    /// The first bind group.
    fn layout(self, device: &wgpu::Device) -> wgpu::BindGroupLayout {
        let storage = self.read_only().into_iter().map(|read_only| wgpu::BufferBindingType::Storage { read_only });
        let kinds = std::iter::once(wgpu::BufferBindingType::Uniform).chain(storage);
        let entries: Vec<_> = (0..).zip(kinds).map(|(binding, ty)| buffer_entry(binding, ty, false)).collect();
        device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(self.name()), entries: &entries })
    }
}

pub(crate) fn buffer_entry(
    binding: u32,
    ty: wgpu::BufferBindingType,
    has_dynamic_offset: bool,
) -> wgpu::BindGroupLayoutEntry {
    let ty = wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None };
    wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None }
}

impl Kernels {
    pub fn new(device: &wgpu::Device) -> Self {
        let step = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("step"),
            entries: &[buffer_entry(0, wgpu::BufferBindingType::Storage { read_only: true }, true)],
        });
        Kernels {
            bindings: HashMap::new(),
            step,
            pipelines: HashMap::new(),
            #[cfg(feature = "attention")]
            texts: HashMap::new(),
        }
    }

    /// The layout of the first group of a kernel's variants.
    pub fn bindings(&mut self, device: &wgpu::Device, entry: Entry) -> wgpu::BindGroupLayout {
        self.bindings.entry(entry).or_insert_with(|| entry.layout(device)).clone()
    }

    /// The kernel's pipeline, made on first use.
    pub fn pipeline(&mut self, device: &wgpu::Device, kernel: Kernel) -> &wgpu::ComputePipeline {
        let bindings = self.bindings(device, kernel.entry());
        let Kernels { step, pipelines, .. } = self;
        pipelines.entry(kernel).or_insert_with(|| {
            log::debug!("compiling {kernel:?}");
            let entry = kernel.entry();
            let both = [Some(&bindings), Some(&*step)];
            let (bind_group_layouts, immediate_size) = match kernel.step() {
                Some(StepPath::Ring) => (&both[..], 0),
                Some(StepPath::Immediate) => (&both[..1], IMMEDIATE_BYTES),
                None => (&both[..1], 0),
            };
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(entry.name()),
                bind_group_layouts,
                immediate_size,
            });
            compile(device, entry.name(), &kernel.wgsl(), &layout)
        })
    }

    /// The pipeline of a text with bindings in so many groups, made on first use.
    #[cfg(feature = "attention")]
    pub fn pipeline_of(
        &mut self,
        device: &wgpu::Device,
        entry: &'static str,
        text: String,
        groups: &[&wgpu::BindGroupLayout],
    ) -> &wgpu::ComputePipeline {
        self.texts.entry(text).or_insert_with_key(|text| {
            log::debug!("compiling {entry}");
            let groups: Vec<_> = groups.iter().map(|&group| Some(group)).collect();
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(entry),
                bind_group_layouts: &groups,
                immediate_size: 0,
            });
            compile(device, entry, text, &layout)
        })
    }
}

fn compile(
    device: &wgpu::Device,
    entry: &'static str,
    text: &str,
    layout: &wgpu::PipelineLayout,
) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(entry),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry),
        layout: Some(layout),
        module: &module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Every thread writes its place before another reads it; zeroing costs seconds to compile on GL.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    })
}
