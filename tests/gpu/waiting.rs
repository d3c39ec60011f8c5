//! Reading without blocking: futures polled by hand while the caller polls the device, as in an engine's loop.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context as Task, Poll, Waker},
    time::{Duration, Instant},
};

use wgpu_kv_cache::{
    CacheConfig, Context, DeviceError, Error, KvCache, Write,
    attention::{Options, attend, attend_async},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("waiting::futures_polled_by_hand", futures_polled_by_hand),
    ("waiting::two_reads_at_the_same_time", two_reads_at_the_same_time),
    ("waiting::a_dropped_future_does_no_harm", a_dropped_future_does_no_harm),
    ("waiting::a_lost_device_ends_the_future", a_lost_device_ends_the_future),
    ("waiting::an_executor_is_woken", an_executor_is_woken),
];

/// Longer than any driver takes for a few rows.
const DEADLINE: Duration = Duration::from_secs(30);

fn cache(context: &Context) -> wgpu_kv_cache::Result<KvCache> {
    let mut cache = KvCache::new(context, CacheConfig::new(2, 1, 2, 64))?;
    let rows: Vec<f32> = (0u8..12).map(f32::from).collect();
    cache.update(&rows, &rows, Write::append(3).counts(&[3, 1]))?;
    Ok(cache)
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Task::from_waker(Waker::noop()))
}

/// An engine's loop: each frame polls the device without waiting, then the future. The futures must be `Send`.
fn by_hand<T>(context: &Context, future: impl Future<Output = T> + Send) -> T {
    let (mut future, start) = (pin!(future), Instant::now());
    loop {
        if let Poll::Ready(ready) = poll(future.as_mut()) {
            return ready;
        }
        assert!(start.elapsed() < DEADLINE, "the future does not end");
        // If the device is lost, the future reports it.
        let _ = context.device().poll(wgpu::PollType::Poll);
    }
}

fn futures_polled_by_hand(gpu: &Gpu) -> Outcome {
    for context in [&gpu.context, &gpu.small] {
        let cache = cache(context)?;
        let copy = cache.get_all()?;
        assert_eq!(by_hand(context, cache.read_lengths_async())?, [3, 1]);
        assert_eq!(by_hand(context, cache.read_storage_async())?, cache.read_storage()?);
        assert_eq!(by_hand(context, copy.read_async())?, copy.read()?);
        assert_eq!(by_hand(context, copy.values.read_async())?, copy.values.read()?);
        by_hand(context, context.wait_async())?;
        let (options, queries) = (Options::last(1, 1), [1.0f32; 4]);
        let output = by_hand(context, attend_async(&cache, &options, &queries[..], None))?;
        assert_eq!(output, attend(&cache, &options, &queries[..], None)?);
    }
    DONE
}

fn two_reads_at_the_same_time(gpu: &Gpu) -> Outcome {
    // Use a separate device. Other tests poll the shared one, so the first poll could find the read already done.
    let context = Gpu::open(&gpu.adapter, gpu.adapter.limits(), gpu.costs)?;
    let cache = cache(&context)?;
    let (first, second) = (cache.get(0..1)?, cache.get(1..3)?);
    let (mut one, mut other) = (pin!(first.read_async()), pin!(second.read_async()));
    // Start both before either can finish.
    let (mut a, mut b) = (poll(one.as_mut()), poll(other.as_mut()));
    assert!(a.is_pending() && b.is_pending());
    let start = Instant::now();
    while a.is_pending() || b.is_pending() {
        assert!(start.elapsed() < DEADLINE, "the futures do not end");
        context.device().poll(wgpu::PollType::Poll)?;
        if b.is_pending() {
            b = poll(other.as_mut());
        }
        if a.is_pending() {
            a = poll(one.as_mut());
        }
    }
    let (Poll::Ready(a), Poll::Ready(b)) = (a, b) else { return Err("one of two is not ready".into()) };
    assert_eq!((a?, b?), (first.read()?, second.read()?));
    DONE
}

fn a_dropped_future_does_no_harm(gpu: &Gpu) -> Outcome {
    let cache = cache(&gpu.context)?;
    let expected = cache.read_storage()?;
    for polls in 0..3 {
        {
            let mut read = pin!(cache.read_storage_async());
            for _ in 0..polls {
                // A finished future leaves nothing to drop half way.
                if poll(read.as_mut()).is_ready() {
                    break;
                }
            }
        }
        assert_eq!(by_hand(&gpu.context, cache.read_storage_async())?, expected);
        assert_eq!(cache.read_storage()?, expected);
    }
    DONE
}

fn a_lost_device_ends_the_future(gpu: &Gpu) -> Outcome {
    for polls_of_the_device in 0..2 {
        let context = Context::open(&gpu.adapter)?;
        let cache = cache(&context)?;
        let copy = cache.get_all()?;
        {
            let (mut read, mut wait) = (pin!(copy.read_async()), pin!(context.wait_async()));
            let mut storage = pin!(cache.read_storage_async());
            assert!(poll(read.as_mut()).is_pending());
            assert!(poll(storage.as_mut()).is_pending());
            assert!(poll(wait.as_mut()).is_pending());
            context.device().destroy();
            for _ in 0..polls_of_the_device {
                let _ = context.device().poll(wgpu::PollType::Poll);
            }
            assert!(matches!(by_hand(&context, read), Err(Error::Device(DeviceError::DeviceLost { .. }))));
            assert!(matches!(by_hand(&context, storage), Err(Error::Device(DeviceError::DeviceLost { .. }))));
            assert!(matches!(by_hand(&context, wait), Err(Error::Device(DeviceError::DeviceLost { .. }))));
        }
        // A future that starts after the loss ends as well.
        assert!(matches!(
            by_hand(&context, cache.read_lengths_async()),
            Err(Error::Device(DeviceError::DeviceLost { .. }))
        ));
        assert!(matches!(by_hand(&context, context.wait_async()), Err(Error::Device(DeviceError::DeviceLost { .. }))));
        assert!(matches!(cache.read_storage(), Err(Error::Device(DeviceError::DeviceLost { .. }))));
    }
    DONE
}

/// The future's thread sleeps until it is woken, while another thread polls the device.
fn an_executor_is_woken(gpu: &Gpu) -> Outcome {
    let cache = cache(&gpu.context)?;
    let expected = cache.read_storage()?;
    let read = std::thread::scope(|scope| {
        let reading = scope.spawn(|| pollster::block_on(cache.read_storage_async()));
        let start = Instant::now();
        while !reading.is_finished() && start.elapsed() < DEADLINE {
            gpu.context.device().poll(wgpu::PollType::Poll)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        if !reading.is_finished() {
            // Joining the thread would hang.
            eprintln!("the future was not woken");
            std::process::exit(1);
        }
        Ok::<_, wgpu::PollError>(reading.join().expect("reading does not panic"))
    })?;
    assert_eq!(read?, expected);
    DONE
}
