//! Finds adapters and opens devices for tools and tests that have no device of their own: [`adapters`],
//! [`find_adapter`], [`Context::open`]. An engine passes its own device to [`Context::new`] instead.

use crate::{CacheConfig, Context, DeviceError, Error, Result, device::wait::block_on};

/// What to install if wgpu finds no adapter.
const INSTALL_HINT: &str = if cfg!(target_os = "linux") {
    "install a Vulkan driver: your GPU vendor's, or Mesa's (Debian, Ubuntu: apt install mesa-vulkan-drivers), which \
     also brings lavapipe, a driver on the CPU"
} else if cfg!(target_os = "windows") {
    "install your GPU vendor's driver, or on a machine without a GPU enable WARP (Graphics Tools)"
} else if cfg!(target_vendor = "apple") {
    "this machine needs a GPU that supports Metal"
} else {
    "install a Vulkan driver"
};

/// Returns every adapter that can run compute shaders, best first.
///
/// The order is discrete GPUs, integrated GPUs, virtual GPUs, others, and then software drivers: lavapipe (llvmpipe on
/// Vulkan) first, then llvmpipe on GL, and SwiftShader last. Adapters of equal rank keep wgpu's order: Vulkan, Metal,
/// DX12, GL.
///
/// The environment variables `WGPU_BACKEND` (`vulkan`, `metal`, `dx12`, `gl`) and those of the drivers narrow the list.
/// The first call that finds an adapter fixes the list for the process. All adapters of a process then belong to one
/// `wgpu::Instance`, so wgpu can tell the buffers of their devices apart (see [`Context::new`]).
///
/// # Errors
/// [`DeviceError::NoAdapter`] if wgpu finds no such adapter; its message says what to install.
pub fn adapters() -> Result<Vec<wgpu::Adapter>> {
    block_on(None, "looking for adapters", adapters_async())
}

/// Returns the list of [`adapters`] without blocking the thread, as a browser requires.
///
/// # Errors
/// The errors of [`adapters`].
pub async fn adapters_async() -> Result<Vec<wgpu::Adapter>> {
    let mut found = enumerate().await;
    found.retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    found.sort_by_key(|adapter| preference(&adapter.get_info()));
    if found.is_empty() { Err(Error::Device(DeviceError::NoAdapter { hint: INSTALL_HINT })) } else { Ok(found) }
}

/// Finds all adapters once, so that they belong to one instance. When wgpu looks for adapters it makes the instance's
/// EGL context current, so a second search would disturb threads that use GL.
#[cfg(not(target_family = "wasm"))]
async fn enumerate() -> Vec<wgpu::Adapter> {
    static FOUND: std::sync::Mutex<Vec<wgpu::Adapter>> = std::sync::Mutex::new(Vec::new());
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if found.is_empty() {
        // On native targets this future is ready at once.
        *found = pollster::block_on(new_instance().enumerate_adapters(wgpu::Backends::all()));
    }
    found.clone()
}

/// Finds all adapters anew in every call, because a browser's adapter hands out only one device. They belong to the
/// thread's one instance.
#[cfg(target_family = "wasm")]
async fn enumerate() -> Vec<wgpu::Adapter> {
    thread_local! {
        static INSTANCE: wgpu::Instance = new_instance();
    }
    let instance = INSTANCE.with(Clone::clone);
    instance.enumerate_adapters(wgpu::Backends::all()).await
}

fn new_instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
}

/// Ranks an adapter by its type, and software drivers by their names. Lower is better.
fn preference(info: &wgpu::AdapterInfo) -> u8 {
    let name = info.name.to_lowercase();
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu if name.contains("swiftshader") => 7,
        wgpu::DeviceType::Cpu if !name.contains("llvmpipe") => 6,
        wgpu::DeviceType::Cpu if info.backend == wgpu::Backend::Vulkan => 4,
        wgpu::DeviceType::Cpu => 5,
    }
}

/// Formats the name and backend of an adapter, such as `llvmpipe (LLVM 15.0.6, 256 bits) [vulkan]`.
pub fn adapter_label(info: &wgpu::AdapterInfo) -> String {
    format!("{} [{}]", info.name, info.backend)
}

/// Finds an adapter by its index in [`adapters`], or by a part of its [label](adapter_label), ignoring case. If several
/// labels match, the first in the order of the list is returned.
///
/// # Errors
/// [`DeviceError::NoAdapter`] if wgpu finds no adapter; [`DeviceError::AdapterNotFound`] if none has this index or
/// label.
pub fn find_adapter(wanted: &str) -> Result<wgpu::Adapter> {
    block_on(None, "looking for adapters", find_adapter_async(wanted))
}

/// Calls [`find_adapter`] without blocking the thread, as a browser requires.
///
/// # Errors
/// The errors of [`find_adapter`].
pub async fn find_adapter_async(wanted: &str) -> Result<wgpu::Adapter> {
    let mut found = adapters_async().await?;
    let labels: Vec<_> = found.iter().map(|adapter| adapter_label(&adapter.get_info())).collect();
    let lower = wanted.to_lowercase();
    let index = match wanted.parse::<usize>() {
        Ok(index) => Some(index).filter(|index| *index < found.len()),
        Err(_) => labels.iter().position(|label| label.to_lowercase().contains(&lower)),
    };
    let Some(index) = index else {
        let available: Vec<_> = labels.iter().enumerate().map(|(index, label)| format!("{index}: {label}")).collect();
        return Err(Error::Device(DeviceError::AdapterNotFound {
            wanted: wanted.to_owned(),
            available: available.join("; "),
        }));
    };
    Ok(found.swap_remove(index))
}

impl Context {
    /// Opens a device on an adapter, with all of the adapter's limits and with [`CacheConfig::useful_features`].
    ///
    /// ```no_run
    /// use wgpu_kv_cache::{Context, adapters};
    ///
    /// let context = Context::open(&adapters()?[0])?;
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`DeviceError::DeviceRefused`] if the adapter does not hand out the device.
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        block_on(None, "opening a device", Self::open_async(adapter))
    }

    /// Calls [`open`](Self::open) without blocking the thread, as a browser requires.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open).
    pub async fn open_async(adapter: &wgpu::Adapter) -> Result<Self> {
        Self::open_with_async(adapter, adapter.limits()).await
    }

    /// Opens a device with the given limits, such as those of
    /// [`CacheConfig::required_limits`](crate::CacheConfig::required_limits).
    ///
    /// # Errors
    /// [`DeviceError::DeviceRefused`] if the adapter does not hand out the device.
    pub fn open_with(adapter: &wgpu::Adapter, limits: wgpu::Limits) -> Result<Self> {
        block_on(None, "opening a device", Self::open_with_async(adapter, limits))
    }

    /// Calls [`open_with`](Self::open_with) without blocking the thread, as a browser requires.
    ///
    /// # Errors
    /// The errors of [`open_with`](Self::open_with).
    pub async fn open_with_async(adapter: &wgpu::Adapter, limits: wgpu::Limits) -> Result<Self> {
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kv-cache"),
            required_features: CacheConfig::useful_features(adapter.features()),
            required_limits: limits,
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| {
            Error::Device(DeviceError::DeviceRefused {
                adapter: adapter_label(&adapter.get_info()),
                message: error.to_string(),
            })
        })?;
        Ok(Self::new(&device, &queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::{Backend, DeviceType};

    #[test]
    fn gpus_come_before_software_drivers() {
        let info = |name: &str, device_type, backend| wgpu::AdapterInfo {
            name: name.to_owned(),
            ..wgpu::AdapterInfo::new(device_type, backend)
        };
        let ordered = [
            info("NVIDIA RTX 4090", DeviceType::DiscreteGpu, Backend::Vulkan),
            info("NVIDIA RTX 4090", DeviceType::DiscreteGpu, Backend::Dx12),
            info("Intel UHD", DeviceType::IntegratedGpu, Backend::Vulkan),
            info("Virtio-GPU Venus", DeviceType::VirtualGpu, Backend::Vulkan),
            info("NVIDIA RTX 4090/PCIe/SSE2", DeviceType::Other, Backend::Gl),
            info("llvmpipe (LLVM 15.0.6, 256 bits)", DeviceType::Cpu, Backend::Vulkan),
            info("llvmpipe (LLVM 15.0.6, 256 bits)", DeviceType::Cpu, Backend::Gl),
            info("Microsoft Basic Render Driver", DeviceType::Cpu, Backend::Dx12),
            info("SwiftShader Device (Subzero)", DeviceType::Cpu, Backend::Vulkan),
        ];
        for turn in 0..ordered.len() {
            let mut sorted = ordered.clone();
            sorted.rotate_left(turn);
            sorted.sort_by_key(preference);
            // The two equal adapters keep the order in which they came.
            if turn == 1 {
                sorted.swap(0, 1);
            }
            assert_eq!(sorted, ordered, "turned by {turn}");
        }
    }
}
