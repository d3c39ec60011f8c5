//! Adapters for tools and tests: [`adapters`], [`find_adapter`], [`Context::open`].

use crate::{CacheConfig, Context, Error, Result};

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

/// Every adapter that can run compute shaders, in wgpu's order. The environment variables `WGPU_BACKEND`
/// (`vulkan`, `metal`, `dx12`, `gl`) and those of the drivers narrow the list.
///
/// # Errors
/// [`Error::NoAdapter`], with what to install.
pub fn adapters() -> Result<Vec<wgpu::Adapter>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let mut found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    found.retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    if found.is_empty() { Err(Error::NoAdapter { hint: INSTALL_HINT }) } else { Ok(found) }
}

/// Name and backend of an adapter, such as `llvmpipe (LLVM 15.0.6, 256 bits) [vulkan]`.
pub fn adapter_label(info: &wgpu::AdapterInfo) -> String {
    format!("{} [{}]", info.name, info.backend)
}

/// The adapter with an index in [`adapters`], or the first whose [label](adapter_label) contains `wanted`, whatever
/// the case of its letters.
///
/// # Errors
/// [`Error::NoAdapter`], [`Error::AdapterNotFound`].
pub fn find_adapter(wanted: &str) -> Result<wgpu::Adapter> {
    let mut found = adapters()?;
    let labels: Vec<_> = found.iter().map(|adapter| adapter_label(&adapter.get_info())).collect();
    let lower = wanted.to_lowercase();
    let index = match wanted.parse::<usize>() {
        Ok(index) => Some(index).filter(|index| *index < found.len()),
        Err(_) => labels.iter().position(|label| label.to_lowercase().contains(&lower)),
    };
    let Some(index) = index else {
        let available: Vec<_> = labels.iter().enumerate().map(|(index, label)| format!("{index}: {label}")).collect();
        return Err(Error::AdapterNotFound { wanted: wanted.to_owned(), available: available.join("; ") });
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
    /// [`Error::DeviceRefused`].
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        Self::open_with(adapter, adapter.limits())
    }

    /// A device of its own with certain limits, such as those of
    /// [`CacheConfig::required_limits`](crate::CacheConfig::required_limits).
    ///
    /// # Errors
    /// [`Error::DeviceRefused`].
    pub fn open_with(adapter: &wgpu::Adapter, limits: wgpu::Limits) -> Result<Self> {
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kv-cache"),
            required_features: CacheConfig::useful_features(adapter.features()),
            required_limits: limits,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| {
            Error::DeviceRefused { adapter: adapter_label(&adapter.get_info()), message: error.to_string() }
        })?;
        Ok(Self::new(&device, &queue))
    }
}
