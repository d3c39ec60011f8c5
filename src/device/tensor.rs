//! [`GpuTensor`]: a dense tensor on the device, and how buffers are read back to the host.

use std::ops::Range;

use crate::{
    Context, Destination, DeviceError, Error, Format, HostTensor, Pair, Result, RowsIn, Scale, Source, Strides,
    device::{
        binding::window_bytes,
        wait::{block_on, channel},
    },
    shape::tensor::{dense_bytes, host_len},
};

/// Maximum number of bytes read back in one submission.
const READ_BYTES: u64 = 32 << 20;

/// The operation that an error names if reading back fails.
const DURING: &str = "reading back";

/// A dense tensor `[batch, kv_head, row, dim]` on the device, which holds the stored bits. Later updates of the cache
/// do not change it.
#[derive(Clone, Debug)]
pub struct GpuTensor {
    context: Context,
    buffer: wgpu::Buffer,
    shape: [u32; 4],
    format: Format,
    scale: Scale,
}

impl GpuTensor {
    /// Allocates a tensor, which wgpu makes read as zero.
    pub(crate) fn new(
        context: &Context,
        what: &'static str,
        shape: [u32; 4],
        format: Format,
        scale: Scale,
    ) -> Result<Self> {
        let bytes = dense_bytes(shape, format);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = context.create_buffer(what, whole_words(bytes).max(4), usage, false)?;
        Ok(GpuTensor { context: context.clone(), buffer, shape, format, scale })
    }

    /// A tensor of rows in host memory.
    #[cfg(feature = "save")]
    pub(crate) fn filled(
        context: &Context,
        shape: [u32; 4],
        format: Format,
        scale: Scale,
        bytes: &[u8],
    ) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = if bytes.len().is_multiple_of(4) && !bytes.is_empty() {
            // Of mapped memory wgpu makes another copy.
            let buffer = context.create_buffer("rows", bytes.len() as u64, usage, false)?;
            context.write("rows", &buffer, bytes)?;
            // The device copies them while the next ones are read.
            context.submit_writes("rows")?;
            buffer
        } else {
            context.create_filled("rows", bytes, usage)?
        };
        Ok(GpuTensor { context: context.clone(), buffer, shape, format, scale })
    }

    /// The shape, `[batch, kv_head, row, dim]`.
    pub const fn shape(&self) -> [u32; 4] {
        self.shape
    }

    /// Format of the elements.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The buffer of the elements: dense from byte 0, padded to a multiple of 4 bytes, with usages `STORAGE`,
    /// `COPY_SRC` and `COPY_DST`.
    pub const fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Returns the whole tensor as a destination.
    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination { buffer: &self.buffer, offset: 0, format: Some(self.format) }
    }

    /// Waits for the device and copies the tensor to the host.
    ///
    /// # Errors
    /// [`DeviceError::DeviceLost`] if the device is lost; [`DeviceError::OutOfMemory`] if there is no memory for the
    /// copy.
    pub fn read(&self) -> Result<HostTensor> {
        block_on(Some(self.context.device()), DURING, self.read_async())
    }

    /// Copies the tensor to the host without blocking.
    ///
    /// The copy is submitted when the future is first polled. The future never blocks the thread. On native targets
    /// something must poll the device meanwhile, such as the engine's loop with `device.poll(wgpu::PollType::Poll)`; a
    /// browser polls it itself. If the device is lost, the future completes with [`DeviceError::DeviceLost`]. It may be
    /// dropped at any time.
    ///
    /// # Errors
    /// The errors of [`read`](Self::read).
    ///
    /// # Examples
    /// ```
    /// use std::{future::Future, pin::pin, task::{Context as Task, Poll, Waker}};
    /// use wgpu_kv_cache::{CacheConfig, Context, KvCache, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 1, 8))?;
    /// cache.update(&[0.5f32; 3][..], &[0.25f32; 3][..], Write::append(3))?;
    /// let copy = cache.get_all()?;
    /// let mut read = pin!(copy.read_async());
    /// let rows = loop {
    ///     // A frame of the engine.
    ///     device.poll(wgpu::PollType::Poll).expect("the device is there");
    ///     if let Poll::Ready(rows) = read.as_mut().poll(&mut Task::from_waker(Waker::noop())) {
    ///         break rows?;
    ///     }
    /// };
    /// assert_eq!(rows.keys.shape(), [1, 1, 3, 1]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub async fn read_async(&self) -> Result<HostTensor> {
        let bytes = dense_bytes(self.shape, self.format);
        let mut read = read_buffer_async(&self.context, &self.buffer, 0, whole_words(bytes)).await?;
        read.truncate(host_len(bytes));
        Ok(HostTensor::new(self.shape, self.format, self.scale, read))
    }
}

impl Pair<GpuTensor> {
    /// Returns both tensors as a source, whose strides of sequences are zero: all sequences read the same rows.
    pub(crate) fn source(&self) -> Source<'_> {
        let [_, heads, tokens, _] = self.keys.shape();
        let rows = |tensor: &GpuTensor| {
            let strides = Strides::bhtd(heads, tokens, tensor.format.units(tensor.shape[3]));
            (tensor.format, Strides { sequence: 0, ..strides })
        };
        let side = |tensor, (format, strides)| RowsIn { buffer: GpuTensor::buffer(tensor), offset: 0, format, strides };
        Source { keys: side(&self.keys, rows(&self.keys)), values: side(&self.values, rows(&self.values)), tokens }
    }

    /// Returns both tensors as destinations.
    pub(crate) fn destinations(&self) -> Pair<Destination<'_>> {
        Pair { keys: self.keys.destination(), values: self.values.destination() }
    }

    /// Waits for the device and copies both tensors to the host.
    ///
    /// # Errors
    /// The errors of [`GpuTensor::read`].
    pub fn read(&self) -> Result<Pair<HostTensor>> {
        Ok(Pair { keys: self.keys.read()?, values: self.values.read()? })
    }

    /// Copies both tensors to the host without blocking; see [`GpuTensor::read_async`].
    ///
    /// # Errors
    /// The errors of [`GpuTensor::read`].
    pub async fn read_async(&self) -> Result<Pair<HostTensor>> {
        Ok(Pair { keys: self.keys.read_async().await?, values: self.values.read_async().await? })
    }
}

/// Rounds a number of bytes up to a multiple of 4. A result that overflows 64 bits saturates: no buffer is that large.
fn whole_words(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(4).unwrap_or(u64::MAX)
}

/// Copies a range of a buffer to the host and waits for it. `offset` and `bytes` must be multiples of 4.
pub(crate) fn read_buffer(context: &Context, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
    block_on(Some(context.device()), DURING, read_buffer_async(context, buffer, offset, bytes))
}

/// Copies a range of a buffer to the host. `offset` and `bytes` must be multiples of 4.
pub(crate) async fn read_buffer_async(
    context: &Context,
    buffer: &wgpu::Buffer,
    offset: u64,
    bytes: u64,
) -> Result<Vec<u8>> {
    read_buffers_async(context, &[(buffer, offset..offset.saturating_add(bytes))]).await
}

/// Copies ranges of buffers to the host, one after the other, through a staging buffer of at most [`READ_BYTES`], in as
/// few submissions as it allows. The bounds must be multiples of 4.
pub(crate) async fn read_buffers_async(context: &Context, sources: &[(&wgpu::Buffer, Range<u64>)]) -> Result<Vec<u8>> {
    let bytes = sources.iter().map(|(_, range)| window_bytes(range)).fold(0, u64::saturating_add);
    let mut read = Vec::with_capacity(host_len(bytes));
    if bytes == 0 {
        return Ok(read);
    }
    let room = bytes.min(READ_BYTES).min(context.limits().max_buffer_size);
    let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
    let staging = context.create_buffer("read back", room, usage, false)?;
    let mut sources = sources.iter().filter(|(_, range)| range.start < range.end).cloned();
    let mut rest = sources.next();
    while rest.is_some() {
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut filled = 0u64;
        while let Some((buffer, range)) = rest.clone().filter(|_| filled < room) {
            let piece = window_bytes(&range).min(room.saturating_sub(filled));
            encoder.copy_buffer_to_buffer(buffer, range.start, &staging, filled, piece);
            filled = piece.saturating_add(filled);
            let left = range.start.saturating_add(piece)..range.end;
            rest = if left.start < left.end { Some((buffer, left)) } else { sources.next() };
        }
        context.submit(DURING, encoder)?;
        let (sender, receiver) = channel(context.device(), DURING);
        staging.map_async(wgpu::MapMode::Read, 0..filled, move |mapped| sender.send(mapped));
        let lost = || Error::Device(DeviceError::DeviceLost { during: DURING });
        receiver.await?.map_err(|_| lost())?;
        read.extend_from_slice(&staging.get_mapped_range(0..filled).map_err(|_| lost())?);
        staging.unmap();
    }
    Ok(read)
}
