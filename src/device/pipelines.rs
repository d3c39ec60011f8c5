//! [`Pipelines`]: the compute pipelines, shader modules and layouts of a [`Context`](crate::Context), each created on
//! first use. A kernel has one pipeline per variant.

use std::collections::HashMap;

use crate::{
    kernels::{Entry, Kernel, Shader, StepPath},
    shape::layout::IMMEDIATE_BYTES,
};

/// Bind group layouts, and the pipelines created so far.
#[derive(Debug)]
pub(crate) struct Pipelines {
    /// Layouts of bind group 0.
    bindings: HashMap<Entry, wgpu::BindGroupLayout>,
    /// Layout of bind group 1, which holds a step that is not passed as immediates.
    pub step: wgpu::BindGroupLayout,
    pipelines: HashMap<Kernel, wgpu::ComputePipeline>,
    /// Shader modules by WGSL text.
    modules: HashMap<String, wgpu::ShaderModule>,
    /// Pipelines by a key that identifies their WGSL text.
    #[cfg(feature = "attention")]
    texts: HashMap<String, wgpu::ComputePipeline>,
    /// Layouts of other bind groups, by their entries.
    #[cfg(feature = "attention")]
    layouts: HashMap<Vec<wgpu::BindGroupLayoutEntry>, wgpu::BindGroupLayout>,
}

pub(crate) fn buffer_entry(
    binding: u32,
    ty: wgpu::BufferBindingType,
    has_dynamic_offset: bool,
) -> wgpu::BindGroupLayoutEntry {
    let ty = wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None };
    wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None }
}

impl Pipelines {
    pub fn new(device: &wgpu::Device) -> Self {
        let step = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("step"),
            entries: &[buffer_entry(0, wgpu::BufferBindingType::Storage { read_only: true }, true)],
        });
        Pipelines {
            bindings: HashMap::new(),
            step,
            pipelines: HashMap::new(),
            modules: HashMap::new(),
            #[cfg(feature = "attention")]
            texts: HashMap::new(),
            #[cfg(feature = "attention")]
            layouts: HashMap::new(),
        }
    }

    /// Returns the layout of bind group 0 of a kernel, the same for all of its variants.
    pub fn bindings(&mut self, device: &wgpu::Device, entry: Entry) -> wgpu::BindGroupLayout {
        self.bindings.entry(entry).or_insert_with(|| layout(device, entry)).clone()
    }

    /// Returns the pipeline of a kernel, which is created on first use.
    pub fn pipeline(&mut self, device: &wgpu::Device, kernel: Kernel) -> &wgpu::ComputePipeline {
        let bindings = self.bindings(device, kernel.entry());
        let Pipelines { step, pipelines, modules, .. } = self;
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
            compile(device, modules, entry.name(), &kernel.program(), &layout)
        })
    }

    /// Drops a kernel's pipeline, and all modules, because its own may be unusable too.
    pub fn forget(&mut self, kernel: Kernel) {
        self.pipelines.remove(&kernel);
        self.modules.clear();
    }

    /// Drops the pipeline of a key, and all modules.
    #[cfg(feature = "attention")]
    pub fn forget_key(&mut self, key: &str) {
        self.texts.remove(key);
        self.modules.clear();
    }

    /// Returns the pipeline of a key, if it was created before.
    #[cfg(feature = "attention")]
    pub fn by_key(&self, key: &str) -> Option<wgpu::ComputePipeline> {
        self.texts.get(key).cloned()
    }

    /// Returns the pipeline of a key. On first use it is created from `program` with these bind group layouts.
    #[cfg(feature = "attention")]
    pub fn pipeline_of(
        &mut self,
        device: &wgpu::Device,
        entry: &'static str,
        key: &str,
        program: &Shader,
        groups: &[&wgpu::BindGroupLayout],
    ) -> wgpu::ComputePipeline {
        let Pipelines { texts, modules, .. } = self;
        let make = || {
            log::debug!("compiling {key}");
            let groups: Vec<_> = groups.iter().map(|&group| Some(group)).collect();
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(entry),
                bind_group_layouts: &groups,
                immediate_size: 0,
            });
            compile(device, modules, entry, program, &layout)
        };
        texts.entry(key.to_owned()).or_insert_with(make).clone()
    }

    /// Returns the layout of a bind group with these entries, which is created on first use.
    #[cfg(feature = "attention")]
    pub fn layout_of(
        &mut self,
        device: &wgpu::Device,
        label: &'static str,
        entries: &[wgpu::BindGroupLayoutEntry],
    ) -> wgpu::BindGroupLayout {
        let make = || device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries });
        self.layouts.entry(entries.to_vec()).or_insert_with(make).clone()
    }
}

/// Creates the layout of bind group 0 of a kernel.
fn layout(device: &wgpu::Device, entry: Entry) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = (0..).zip(entry.bindings()).map(|(binding, ty)| buffer_entry(binding, ty, false)).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(entry.name()), entries: &entries })
}

fn compile(
    device: &wgpu::Device,
    modules: &mut HashMap<String, wgpu::ShaderModule>,
    entry: &'static str,
    Shader { text, constants }: &Shader,
    layout: &wgpu::PipelineLayout,
) -> wgpu::ComputePipeline {
    let make = || {
        device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(entry),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        })
    };
    let module = modules.entry(text.clone()).or_insert_with(make);
    let constants: Vec<_> = constants.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry),
        layout: Some(layout),
        module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            // Every thread writes its own element before another thread reads it. Zeroing takes seconds to compile on
            // GL.
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    })
}
