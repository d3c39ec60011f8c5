//! [`Context`]: a device, its queue, and what all caches on it share, such as pipelines. Its methods create buffers,
//! bind groups and pipelines, and turn wgpu's failures into errors.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicU32, Ordering},
};
#[cfg(feature = "attention")]
use std::{collections::HashMap, sync::Weak};

use crate::{
    CostModel, DeviceError, Error, Result,
    device::{
        pipelines::Pipelines,
        wait::{block_on, channel, check_alive},
    },
    kernels::{Entry, Kernel},
    shape::layout::IMMEDIATE_BYTES,
};

/// The operation that an error names if a wait fails.
const WAITING: &str = "waiting for the device";

/// A device and its queue, with the pipelines that caches on it share. Cloning is cheap; clones share the pipelines.
///
/// A pipeline is created when the first step with its head sizes and formats needs it, and lives as long as the
/// context.
///
/// An engine creates a context from its own device. Tools and tests [`open`](Self::open) one.
///
/// ```
/// use wgpu_kv_cache::Context;
///
/// let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// let context = Context::new(&device, &queue);
/// assert_eq!(context.device(), &device);
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    costs: CostModel,
    /// Whether a step can be passed as immediates.
    immediates: bool,
    unpacks_halves: OnceLock<bool>,
    pipelines: Arc<Mutex<Pipelines>>,
    /// Number of resources that can still be created before [`fail_creations_after`](Context::fail_creations_after)
    /// reports a lack of memory; `u32::MAX` for no such limit.
    creations: AtomicU32,
    #[cfg(feature = "attention")]
    scratch: Mutex<Option<wgpu::Buffer>>,
    #[cfg(feature = "attention")]
    uniforms: Mutex<HashMap<Vec<u8>, Weak<wgpu::Buffer>>>,
}

impl Context {
    /// Creates a context on the caller's device. Request the device with the limits of
    /// [`CacheConfig::required_limits`](crate::CacheConfig::required_limits).
    ///
    /// Every buffer passed to a cache or an attention on this context must belong to this device. A buffer of another
    /// device of the same `wgpu::Instance` is refused with [`DeviceError::Refused`]. A buffer of another *instance*
    /// cannot be detected: wgpu identifies buffers by numbers, and every instance counts its own, so wgpu uses one of
    /// this device's own buffers with the same number, or panics if there is none. Create one instance per process, or
    /// use that of [`adapters`](crate::adapters).
    #[must_use]
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_costs(device, queue, CostModel::typical(device.adapter_info().device_type))
    }

    /// Creates a context that chooses between kernels and copies by the given cost model, for example one that
    /// [`calibrate`](Self::calibrate) measured earlier.
    #[must_use]
    pub fn with_costs(device: &wgpu::Device, queue: &wgpu::Queue, costs: CostModel) -> Self {
        let limits = device.limits();
        let immediates =
            device.features().contains(wgpu::Features::IMMEDIATES) && limits.max_immediate_size >= IMMEDIATE_BYTES;
        Context {
            inner: Arc::new(Inner {
                device: device.clone(),
                queue: queue.clone(),
                limits,
                costs,
                immediates,
                unpacks_halves: OnceLock::new(),
                pipelines: Arc::new(Mutex::new(Pipelines::new(device))),
                creations: AtomicU32::new(u32::MAX),
                #[cfg(feature = "attention")]
                scratch: Mutex::default(),
                #[cfg(feature = "attention")]
                uniforms: Mutex::default(),
            }),
        }
    }

    /// Returns a context with another cost model that shares the device and the pipelines.
    pub(crate) fn choosing_by(&self, costs: CostModel) -> Self {
        let Inner { device, queue, limits, immediates, pipelines, .. } = &*self.inner;
        let (device, queue, limits, pipelines) = (device.clone(), queue.clone(), limits.clone(), pipelines.clone());
        Context {
            inner: Arc::new(Inner {
                device,
                queue,
                limits,
                costs,
                immediates: *immediates,
                unpacks_halves: OnceLock::new(),
                pipelines,
                creations: AtomicU32::new(u32::MAX),
                #[cfg(feature = "attention")]
                scratch: Mutex::default(),
                #[cfg(feature = "attention")]
                uniforms: Mutex::default(),
            }),
        }
    }

    /// Lets this context create this many more buffers, bind groups, pipelines and submissions, and refuses every later
    /// one with [`DeviceError::OutOfMemory`]. `None` lifts the limit. Use it to test, at every point, how an engine
    /// handles a lack of memory, which drivers seldom report.
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, Error, KvCache};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// let context = Context::new(&device, &queue);
    /// context.fail_creations_after(Some(2));
    /// let refused = KvCache::new(&context, CacheConfig::new(1, 1, 1, 1));
    /// assert!(matches!(refused, Err(Error::Device(wgpu_kv_cache::DeviceError::OutOfMemory { .. }))));
    /// context.fail_creations_after(None);
    /// assert!(KvCache::new(&context, CacheConfig::new(1, 1, 1, 1)).is_ok());
    /// ```
    pub fn fail_creations_after(&self, creations: Option<u32>) {
        self.inner.creations.store(creations.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// The limits that the device was created with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.inner.limits
    }

    /// The cost model by which the context chooses between kernels and copies.
    pub fn costs(&self) -> &CostModel {
        &self.inner.costs
    }

    /// Whether the device can take a step as immediates.
    pub(crate) fn immediates(&self) -> bool {
        self.inner.immediates
    }

    /// Whether shaders on this device can use `unpack2x16float`. The device is asked once.
    pub(crate) fn unpacks_halves(&self) -> bool {
        *self.inner.unpacks_halves.get_or_init(|| {
            let text = "@group(0) @binding(0) var<storage, read_write> pair: vec2<f32>;
                @compute @workgroup_size(1) fn probe() { pair = unpack2x16float(bitcast<u32>(pair.x)); }";
            let descriptor =
                wgpu::ShaderModuleDescriptor { label: Some("probe"), source: wgpu::ShaderSource::Wgsl(text.into()) };
            self.create("a probe", 0, |device| device.create_shader_module(descriptor)).is_ok()
        })
    }

    /// Waits until all work submitted so far is done.
    ///
    /// # Errors
    /// [`DeviceError::DeviceLost`] if the device is lost.
    pub fn wait(&self) -> Result<()> {
        block_on(Some(self.device()), WAITING, self.wait_async())
    }

    /// Completes when all work submitted before the future is first polled is done.
    ///
    /// The future never blocks the thread. On native targets something must poll the device meanwhile, such as the
    /// engine's loop with `device.poll(wgpu::PollType::Poll)`; a browser polls it itself. If the device is lost, the
    /// future completes with [`DeviceError::DeviceLost`].
    ///
    /// # Errors
    /// The errors of [`wait`](Self::wait).
    pub async fn wait_async(&self) -> Result<()> {
        let (sender, receiver) = channel(self.device(), WAITING);
        self.queue().on_submitted_work_done(move || sender.send(()));
        receiver.await?;
        self.check_alive(WAITING)
    }

    /// Returns the pipeline of a kernel, which is created on first use.
    pub(crate) fn pipeline(&self, kernel: Kernel) -> Result<wgpu::ComputePipeline> {
        let made = self.create("a pipeline", 0, |device| self.pipelines().pipeline(device, kernel).clone());
        // A pipeline that failed is unusable and must not be found again.
        made.inspect_err(|_| self.pipelines().forget(kernel))
    }

    /// Returns the pipeline of the shader that `key` identifies, which is created on first use.
    #[cfg(feature = "attention")]
    pub(crate) fn pipeline_of(
        &self,
        entry: &'static str,
        key: &str,
        program: impl FnOnce() -> Result<crate::kernels::Shader>,
        groups: &[&wgpu::BindGroupLayout],
    ) -> Result<wgpu::ComputePipeline> {
        if let Some(pipeline) = self.pipelines().by_key(key) {
            return Ok(pipeline);
        }
        let program = program()?;
        let make = |device: &_| self.pipelines().pipeline_of(device, entry, key, &program, groups);
        self.create("a pipeline", 0, make).inspect_err(|_| self.pipelines().forget_key(key))
    }

    /// Creates a bind group with the given bindings, and its layout.
    #[cfg(feature = "attention")]
    pub(crate) fn group(
        &self,
        label: &'static str,
        bound: &[(u32, wgpu::BufferBindingType, wgpu::BindingResource<'_>)],
    ) -> Result<(wgpu::BindGroupLayout, wgpu::BindGroup)> {
        let layout: Vec<_> =
            bound.iter().map(|(binding, ty, _)| crate::device::pipelines::buffer_entry(*binding, *ty, false)).collect();
        let entries: Vec<_> = bound
            .iter()
            .map(|(binding, _, resource)| wgpu::BindGroupEntry { binding: *binding, resource: resource.clone() })
            .collect();
        self.group_of(label, &layout, &entries)
    }

    /// Creates a bind group and its layout. Equal layouts are shared.
    #[cfg(feature = "attention")]
    pub(crate) fn group_of(
        &self,
        label: &'static str,
        layout: &[wgpu::BindGroupLayoutEntry],
        entries: &[wgpu::BindGroupEntry<'_>],
    ) -> Result<(wgpu::BindGroupLayout, wgpu::BindGroup)> {
        self.create("a bind group", 0, |device| {
            let layout = self.pipelines().layout_of(device, label, layout);
            let descriptor = wgpu::BindGroupDescriptor { label: Some(label), layout: &layout, entries };
            let group = device.create_bind_group(&descriptor);
            (layout, group)
        })
    }

    /// Returns scratch memory of at least `bytes` bytes, shared by all callers: only the command directly after the one
    /// that wrote it may read it.
    #[cfg(feature = "attention")]
    pub(crate) fn scratch(&self, bytes: u64) -> Result<wgpu::Buffer> {
        let shared = || self.inner.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = shared().as_ref().filter(|buffer| buffer.size() >= bytes) {
            return Ok(buffer.clone());
        }
        let buffer = self.create_buffer("scratch memory", bytes, wgpu::BufferUsages::STORAGE, false)?;
        *shared() = Some(buffer.clone());
        Ok(buffer)
    }

    /// Returns a uniform buffer with these contents. Callers that ask for the same contents share it while one of them
    /// keeps it alive.
    #[cfg(feature = "attention")]
    pub(crate) fn uniform(&self, contents: &[u8]) -> Result<Arc<wgpu::Buffer>> {
        let shared = || self.inner.uniforms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = shared().get(contents).and_then(Weak::upgrade) {
            return Ok(buffer);
        }
        let buffer = Arc::new(self.create_filled("parameters", contents, wgpu::BufferUsages::UNIFORM)?);
        let mut uniforms = shared();
        uniforms.retain(|_, buffer| buffer.strong_count() > 0);
        uniforms.insert(contents.to_vec(), Arc::downgrade(&buffer));
        Ok(buffer)
    }

    /// Layout of bind group 0 of a kernel, the same for all of its variants.
    pub(crate) fn bindings_layout(&self, entry: Entry) -> wgpu::BindGroupLayout {
        self.pipelines().bindings(self.device(), entry)
    }

    /// Layout of bind group 1: a step at a dynamic offset.
    pub(crate) fn step_layout(&self) -> wgpu::BindGroupLayout {
        self.pipelines().step.clone()
    }

    /// Locks the pipelines. A poisoned lock is ignored: a panic cannot leave the pipelines inconsistent.
    fn pipelines(&self) -> MutexGuard<'_, Pipelines> {
        self.inner.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a buffer, if the device allows its size.
    pub(crate) fn create_buffer(
        &self,
        what: &'static str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped_at_creation: bool,
    ) -> Result<wgpu::Buffer> {
        let limit_bytes = self.limits().max_buffer_size;
        if bytes > limit_bytes {
            return Err(Error::Device(DeviceError::BufferTooLarge { what, bytes, limit_bytes }));
        }
        self.create(what, bytes, |device| {
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(what), size: bytes, usage, mapped_at_creation })
        })
    }

    /// Creates a buffer with `contents`, padded to whole words.
    pub(crate) fn create_filled(
        &self,
        what: &'static str,
        contents: &[u8],
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let bytes = (contents.len() as u64).next_multiple_of(4).max(4);
        let buffer = self.create_buffer(what, bytes, usage, true)?;
        buffer
            .get_mapped_range_mut(..)
            .map_err(|_| Error::Device(DeviceError::DeviceLost { during: what }))?
            .slice(..contents.len())
            .copy_from_slice(contents);
        buffer.unmap();
        Ok(buffer)
    }

    /// Runs `create`, and returns as an error what wgpu would otherwise report elsewhere or panic about. This is far
    /// too slow for a step of decoding: use it only to create resources and for submissions of the host path.
    pub(crate) fn create<T>(
        &self,
        what: &'static str,
        bytes: u64,
        create: impl FnOnce(&wgpu::Device) -> T,
    ) -> Result<T> {
        let less = |left: u32| (left < u32::MAX).then(|| left.saturating_sub(1));
        if self.inner.creations.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) == Ok(0) {
            return Err(Error::Device(DeviceError::OutOfMemory { what, bytes }));
        }
        let device = self.device();
        if cfg!(target_family = "wasm") {
            // A browser reports errors later, and to the device's handler. A thread that waited for its error scopes
            // would hang.
            let created = create(device);
            return self.check_alive(what).map(|()| created);
        }
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let created = create(device);
        let refused = pollster::block_on(validation.pop());
        let exhausted = pollster::block_on(memory.pop());
        if exhausted.is_some() {
            return Err(Error::Device(DeviceError::OutOfMemory { what, bytes }));
        }
        self.check_alive(what)?;
        match refused {
            Some(error) => Err(Error::Device(DeviceError::Refused { what, message: error.to_string() })),
            None => Ok(created),
        }
    }

    /// Finishes and submits commands. If wgpu would panic outside an error scope, for example because a buffer was
    /// destroyed or is mapped, this returns an error and submits nothing.
    pub(crate) fn submit(&self, during: &'static str, encoder: wgpu::CommandEncoder) -> Result<()> {
        self.create(during, 0, |_| self.queue().submit([encoder.finish()])).map(drop)
    }

    /// Submits what was written to buffers, and nothing else.
    #[cfg(feature = "save")]
    pub(crate) fn submit_writes(&self, during: &'static str) -> Result<()> {
        self.create(during, 0, |_| self.queue().submit([])).map(drop)
    }

    /// Checks that the buffers that copies will write to belong to this device.
    pub(crate) fn check_destinations(&self, keys: &wgpu::Buffer, values: &wgpu::Buffer) -> Result<()> {
        self.create("a destination", 0, |device| {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            [keys, values].into_iter().for_each(|buffer| encoder.clear_buffer(buffer, 0, Some(0)));
            drop(encoder.finish());
        })
    }

    /// Writes to the start of a buffer. The write takes effect before the next submission.
    pub(crate) fn write(&self, what: &'static str, buffer: &wgpu::Buffer, contents: &[u8]) -> Result<()> {
        self.create(what, contents.len() as u64, |_| self.queue().write_buffer(buffer, 0, contents))
    }

    /// Returns an error if the device is lost.
    pub(crate) fn check_alive(&self, during: &'static str) -> Result<()> {
        check_alive(self.device(), during)
    }
}
