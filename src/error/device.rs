//! [`DeviceError`].

/// The device lacks something, or refused a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device was made without a feature.
    #[error("the device must be requested with the feature {feature}")]
    DeviceFeature {
        /// The feature of `wgpu::Features`.
        feature: &'static str,
    },
    /// The device was made with a limit that is too small.
    #[error("the device must be requested with {limit} of at least {needed}, but has {available}")]
    DeviceLimit {
        /// The field of `wgpu::Limits`.
        limit: &'static str,
        /// The value that the cache needs.
        needed: u64,
        /// The value that the device was created with.
        available: u64,
    },
    /// A buffer would be larger than the device allows.
    #[error(
        "{what} takes {bytes} bytes, but the device's max_buffer_size is {limit_bytes}; work in smaller ranges or \
         ask for a larger limit"
    )]
    BufferTooLarge {
        /// The purpose of the buffer.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// `wgpu::Limits::max_buffer_size` of the device.
        limit_bytes: u64,
    },
    /// The device has no memory left.
    #[error("out of memory: {what} {}", shortage(*bytes))]
    OutOfMemory {
        /// The allocation or submission that failed.
        what: &'static str,
        /// How many bytes were asked for in total; 0 where only the driver knows.
        bytes: u64,
    },
    /// The device was lost or destroyed. Nothing on it can be used any more.
    #[error("the device is lost ({during})")]
    DeviceLost {
        /// The operation that noticed it.
        during: &'static str,
    },
    /// A browser's thread cannot wait for the device.
    #[error("a browser's thread cannot wait ({during}); use the asynchronous form of the call")]
    CannotWait {
        /// What would have to be waited for.
        during: &'static str,
    },
    /// wgpu refused a resource or a submission for a reason that this crate does not check itself, such as a buffer
    /// that was destroyed or is mapped.
    #[error("wgpu refused {what}: {message}")]
    Refused {
        /// The creation or submission that failed.
        what: &'static str,
        /// wgpu's own words.
        message: String,
    },
    /// wgpu sees no adapter at all.
    #[error("no GPU adapter was found; {hint}")]
    NoAdapter {
        /// What to install on this system.
        hint: &'static str,
    },
    /// No adapter has this name or index.
    #[error("no adapter is named or numbered \"{wanted}\"; there are: {available}")]
    AdapterNotFound {
        /// The requested name or index.
        wanted: String,
        /// The adapters that exist.
        available: String,
    },
    /// The adapter did not hand out a device.
    #[error("adapter \"{adapter}\" refused a device: {message}")]
    DeviceRefused {
        /// The adapter's name.
        adapter: String,
        /// wgpu's own words.
        message: String,
    },
}

/// How much memory is missing.
fn shortage(bytes: u64) -> String {
    if bytes == 0 { "needs more than there is".to_owned() } else { format!("of {bytes} bytes could not be allocated") }
}
