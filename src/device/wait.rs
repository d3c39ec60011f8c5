//! Waits for the device. [`channel`] turns one of wgpu's callbacks into a future, and [`block_on`] drives a future on a
//! thread that may block.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as Task, Poll, Waker},
};

use crate::{DeviceError, Error, Result};

/// The value that a callback passes once, shared by both ends.
#[derive(Debug)]
struct Cell<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    Told(T),
    /// The callback was dropped, or its value was taken.
    Over,
}

/// The end that the callback owns. Dropping it without a value ends the future.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Cell<T>>);

/// The future end. Dropping it is harmless: a value that the callback passes later is ignored.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    cell: Arc<Cell<T>>,
    device: wgpu::Device,
    during: &'static str,
    polled: bool,
}

/// Creates a future of the value that one callback on a device passes. It completes with [`DeviceError::DeviceLost`] if
/// the callback is dropped, or if the device is lost when the future is polled again.
pub(crate) fn channel<T>(device: &wgpu::Device, during: &'static str) -> (Sender<T>, Receiver<T>) {
    let cell = Arc::new(Cell(Mutex::new(State::Waiting(None))));
    (Sender(cell.clone()), Receiver { cell, device: device.clone(), during, polled: false })
}

impl<T> Cell<T> {
    /// Locks the state. A poisoned lock is ignored: every change sets the whole state at once.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    pub fn send(self, told: T) {
        self.end(State::Told(told));
    }

    /// Sets the final state and wakes the future. Holds no lock while waking it.
    fn end(&self, state: State<T>) {
        let before = std::mem::replace(&mut *self.0.state(), state);
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiting = matches!(*self.0.state(), State::Waiting(_));
        if waiting {
            self.end(State::Over);
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Result<T>> {
        let lost = Err(Error::Device(DeviceError::DeviceLost { during: self.during }));
        // A driver that loses its device may never run the callback. The first poll does not check for that.
        let alive = !self.polled || check_alive(&self.device, self.during).is_ok();
        self.polled = true;
        let mut state = self.cell.state();
        match std::mem::replace(&mut *state, State::Over) {
            State::Told(told) => Poll::Ready(Ok(told)),
            State::Over => Poll::Ready(lost),
            State::Waiting(_) if !alive => Poll::Ready(lost),
            State::Waiting(_) => {
                *state = State::Waiting(Some(task.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// Returns an error if the device is lost. A lost device creates unusable buffers without reporting it; only mapping
/// one shows it.
pub(crate) fn check_alive(device: &wgpu::Device, during: &'static str) -> Result<()> {
    let probe = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("probe"),
        size: 4,
        usage: wgpu::BufferUsages::MAP_WRITE,
        mapped_at_creation: true,
    });
    let alive = probe.get_mapped_range_mut(..).is_ok();
    if alive { Ok(()) } else { Err(Error::Device(DeviceError::DeviceLost { during })) }
}

/// Blocks on a future, and polls the device that it waits for.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn block_on<T>(
    device: Option<&wgpu::Device>,
    during: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    /// Maximum time to wait for a callback before polling again.
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(10);
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(ready) = future.as_mut().poll(&mut Task::from_waker(&waker)) {
            return ready;
        }
        if let Some(device) = device {
            device
                .poll(wgpu::PollType::wait_indefinitely())
                .map_err(|_| Error::Device(DeviceError::DeviceLost { during }))?;
        }
        // Returns at once if polling ran the callback. Another thread that polls the same device may run it a little
        // later.
        std::thread::park_timeout(PATIENCE);
    }
}

/// Polls a future once, because a browser's thread cannot block, and fails if it is not ready.
#[cfg(target_family = "wasm")]
pub(crate) fn block_on<T>(
    _device: Option<&wgpu::Device>,
    during: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    match pin!(future).poll(&mut Task::from_waker(Waker::noop())) {
        Poll::Ready(ready) => ready,
        Poll::Pending => Err(Error::Device(DeviceError::CannotWait { during })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> wgpu::Device {
        wgpu::Device::noop(&wgpu::DeviceDescriptor::default()).0
    }

    fn poll<T>(receiver: &mut Receiver<T>) -> Poll<Result<T>> {
        Pin::new(receiver).poll(&mut Task::from_waker(Waker::noop()))
    }

    #[test]
    fn what_a_callback_tells_is_had_once() {
        let (sender, mut receiver) = channel(&device(), "a test");
        assert_eq!(poll(&mut receiver), Poll::Pending);
        assert_eq!(poll(&mut receiver), Poll::Pending);
        sender.send(5);
        assert_eq!(poll(&mut receiver), Poll::Ready(Ok(5)));
    }

    #[test]
    fn a_dropped_callback_and_a_lost_device_end_the_future() {
        let lost = Poll::Ready(Err(Error::Device(DeviceError::DeviceLost { during: "a test" })));
        let (sender, mut receiver) = channel::<()>(&device(), "a test");
        assert_eq!(poll(&mut receiver), Poll::Pending);
        drop(sender);
        assert_eq!(poll(&mut receiver), lost);

        let device = device();
        let (_sender, mut receiver) = channel::<()>(&device, "a test");
        assert_eq!(poll(&mut receiver), Poll::Pending);
        device.destroy();
        assert_eq!(poll(&mut receiver), lost);
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let (sender, receiver) = channel(&device(), "a test");
        let waiting = std::thread::spawn(move || block_on(None, "a test", receiver));
        sender.send(7);
        assert_eq!(waiting.join().unwrap(), Ok(7));
    }
}
