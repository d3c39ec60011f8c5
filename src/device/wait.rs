//! Waiting for the device: [`channel`] makes a future of one of wgpu's callbacks, and [`block_on`] drives a future on a
//! thread that may wait.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as Task, Poll, Waker},
};

use crate::{DeviceError, Error, Result};

/// What a callback tells, once.
#[derive(Debug)]
struct Cell<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    Told(T),
    /// The callback was dropped, or what it told is taken.
    Over,
}

/// The callback's end.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Cell<T>>);

/// The future's end. Dropping it does no harm: the callback then tells nobody.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    cell: Arc<Cell<T>>,
    device: wgpu::Device,
    during: &'static str,
    polled: bool,
}

/// A future of what one callback on a device tells. It ends with [`DeviceError::DeviceLost`] where the callback is
/// dropped, or where the device is lost when it is polled again.
pub(crate) fn channel<T>(device: &wgpu::Device, during: &'static str) -> (Sender<T>, Receiver<T>) {
    let cell = Arc::new(Cell(Mutex::new(State::Waiting(None))));
    (Sender(cell.clone()), Receiver { cell, device: device.clone(), during, polled: false })
}

impl<T> Cell<T> {
    /// A panic elsewhere breaks no state: each is set whole.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    pub fn send(self, told: T) {
        self.end(State::Told(told));
    }

    /// Wakes the future, with no lock held.
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
        // A driver that loses its device may never run the callback. The first time there is nothing to suspect.
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

/// A lost device creates dead buffers without a word; only mapping one tells.
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

/// Waits for a future, and meanwhile polls the device that it waits for.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn block_on<T>(
    device: Option<&wgpu::Device>,
    during: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    /// How long to wait for a callback before polling again.
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
        // Returns at once where that ran the callback. Another thread that polls the same device may run it a little
        // later.
        std::thread::park_timeout(PATIENCE);
    }
}

/// A browser's thread cannot wait: only what is ready is had.
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
