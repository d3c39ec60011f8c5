//! Adapters for tools and tests: [`adapters`], [`find_adapter`], [`Context::open`].

use crate::{CacheConfig, Context, DeviceError, Error, Result, device::wait::block_on};

/// What to do where wgpu finds nothing.
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

/// Every adapter that can run compute shaders, the best first: discrete GPUs, integrated ones, virtual ones, others,
/// and then software drivers, of which lavapipe (llvmpipe on Vulkan) comes first, llvmpipe on GL next, and SwiftShader
/// last. Among equals wgpu's order holds: Vulkan, Metal, DX12, GL.
///
/// The environment variables `WGPU_BACKEND` (`vulkan`, `metal`, `dx12`, `gl`) and those of the drivers narrow the list.
/// The first call that finds one finds all: afterwards the list stays, and all adapters of a process are of one
/// `wgpu::Instance`, so that buffers of their devices can be told apart (see [`Context::new`]).
///
/// # Errors
/// [`DeviceError::NoAdapter`], with what to install.
pub fn adapters() -> Result<Vec<wgpu::Adapter>> {
    block_on(None, "looking for adapters", adapters_async())
}

/// [`adapters`] where a thread must not wait, as in a browser.
///
/// # Errors
/// As [`adapters`].
pub async fn adapters_async() -> Result<Vec<wgpu::Adapter>> {
    let mut found = enumerate().await;
    found.retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    found.sort_by_key(|adapter| preference(&adapter.get_info()));
    if found.is_empty() { Err(Error::Device(DeviceError::NoAdapter { hint: INSTALL_HINT })) } else { Ok(found) }
}

/// Every adapter, found once, so that all are of one instance. wgpu makes an instance's one EGL context current when it
/// looks for adapters, so a second look would disturb threads that use GL.
#[cfg(not(target_family = "wasm"))]
async fn enumerate() -> Vec<wgpu::Adapter> {
    static FOUND: std::sync::Mutex<Vec<wgpu::Adapter>> = std::sync::Mutex::new(Vec::new());
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if found.is_empty() {
        // Natively this future is ready at once.
        *found = pollster::block_on(new_instance().enumerate_adapters(wgpu::Backends::all()));
    }
    found.clone()
}

/// Every adapter. A browser's adapter hands out one device, so each call finds its own, all of the thread's one
/// instance.
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

/// Where an adapter comes in the list: by its type, and software drivers by their names.
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

/// Name and backend of an adapter, such as `llvmpipe (LLVM 15.0.6, 256 bits) [vulkan]`.
pub fn adapter_label(info: &wgpu::AdapterInfo) -> String {
    format!("{} [{}]", info.name, info.backend)
}

/// The adapter with an index in [`adapters`], or, in the order of that list, the first whose [label](adapter_label)
/// contains `wanted`, whatever the case of its letters.
///
/// # Errors
/// [`DeviceError::NoAdapter`], [`DeviceError::AdapterNotFound`].
pub fn find_adapter(wanted: &str) -> Result<wgpu::Adapter> {
    block_on(None, "looking for adapters", find_adapter_async(wanted))
}

/// [`find_adapter`] where a thread must not wait, as in a browser.
///
/// # Errors
/// As [`find_adapter`].
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
    /// A device of its own on an adapter, with all the limits that the adapter has, and
    /// [`CacheConfig::useful_features`].
    ///
    /// ```no_run
    /// use wgpu_kv_cache::{Context, adapters};
    ///
    /// let context = Context::open(&adapters()?[0])?;
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`DeviceError::DeviceRefused`].
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        block_on(None, "opening a device", Self::open_async(adapter))
    }

    /// [`open`](Self::open) where a thread must not wait, as in a browser.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_async(adapter: &wgpu::Adapter) -> Result<Self> {
        Self::open_with_async(adapter, adapter.limits()).await
    }

    /// A device of its own with certain limits, such as those of
    /// [`CacheConfig::required_limits`](crate::CacheConfig::required_limits).
    ///
    /// # Errors
    /// [`DeviceError::DeviceRefused`].
    pub fn open_with(adapter: &wgpu::Adapter, limits: wgpu::Limits) -> Result<Self> {
        block_on(None, "opening a device", Self::open_with_async(adapter, limits))
    }

    /// [`open_with`](Self::open_with) where a thread must not wait, as in a browser.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
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
            // The two that are alike keep the order in which they came.
            if turn == 1 {
                sorted.swap(0, 1);
            }
            assert_eq!(sorted, ordered, "turned by {turn}");
        }
    }
}
