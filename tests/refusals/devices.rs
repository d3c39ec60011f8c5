//! Lost devices, destroyed or mapped buffers, and running out of memory, on wgpu's no-op backend.

#[path = "../common/destroyed.rs"]
mod destroyed;

use std::future::Future;
use wgpu_kv_cache::DeviceError;

use super::*;

#[test]
fn a_lost_device() {
    let context = context();
    let mut cache = cache(&context);
    let copy = cache.get_all().unwrap();
    let good = buffer(&context, 16, wgpu::BufferUsages::STORAGE);
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    let (mut read, mut wait) = (std::pin::pin!(copy.read_async()), std::pin::pin!(context.wait_async()));
    assert!(read.as_mut().poll(&mut task).is_pending());
    assert!(wait.as_mut().poll(&mut task).is_pending());
    context.device().destroy();
    // Nobody polls the device after this.
    let rows = [1.0f32; 4];
    let lost = |result: Option<Error>| {
        let error = result.expect("the device is lost");
        assert!(matches!(error, Error::Device(DeviceError::DeviceLost { .. })), "{error}");
        assert!(error.to_string().starts_with("the device is lost ("), "{error}");
    };
    let ended = |ended: std::task::Poll<Option<Error>>| match ended {
        std::task::Poll::Ready(error) => lost(error),
        std::task::Poll::Pending => panic!("a lost device ends what waits for it"),
    };
    ended(read.as_mut().poll(&mut task).map(Result::err));
    ended(wait.as_mut().poll(&mut task).map(Result::err));
    lost(cache.update(&rows[..], &rows[..], Write::append(1)).err());
    lost(cache.get_all().err());
    lost(cache.bind_source(&source(&good, &good)).err());
    lost(cache.reset().err());
    lost(cache.read_storage().err());
    lost(copy.read().err());
    lost(context.wait().err());
    lost(KvCache::new(&context, *cache.config()).err());
    assert_eq!(cache.lengths(), [3, 1]);
}

#[test]
fn a_cache_whose_storage_was_destroyed() {
    destroyed::own_storage(&context());
}

#[test]
fn layers_of_which_one_lost_its_storage() {
    destroyed::last_layer(&context());
}

#[test]
fn a_source_that_is_destroyed_or_mapped() {
    destroyed::source(&context());
}

/// Provokes a real out-of-memory error: the process may map less memory than one buffer takes.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "limits its own address space by ulimit -v")]
fn out_of_memory() {
    const INNER: &str = "KV_CACHE_TEST_OUT_OF_MEMORY";
    if std::env::var_os(INNER).is_none() {
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 1000000 && exec \"$0\" --exact devices::out_of_memory"])
            .arg(this)
            .env(INNER, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let limits =
        wgpu::Limits { max_buffer_size: 1 << 30, max_storage_buffer_binding_size: 1 << 30, ..Default::default() };
    let context = context_with(limits);
    let error = KvCache::new(&context, CacheConfig::new(1, 1, 1 << 7, 1 << 21)).unwrap_err();
    assert_eq!(error, Error::Device(DeviceError::OutOfMemory { what: "cached keys", bytes: 1 << 30 }));
    assert_eq!(error.to_string(), "out of memory: cached keys of 1073741824 bytes could not be allocated");
    // The device still serves smaller allocations.
    cache(&context);
}
