//! Burn's `slice_assign` on a separate wgpu device. It works in place because the cache holds the only handle.

use std::time::{Duration, Instant};

use burn_tensor::{
    Device, Tensor, TensorData,
    wgpu::{WgpuSetup, wgpu as burn_wgpu},
};

use crate::{Case, Peer, Result, Rows};

/// Burn on the adapter of the other peers.
pub struct Shared {
    device: Device,
}

struct Burn {
    device: Device,
    /// `None` while an update assigns to them.
    caches: Option<[Tensor<4>; 2]>,
    rows: [Tensor<4>; 2],
    case: [usize; 6],
}

impl Shared {
    pub fn new(adapter: &burn_wgpu::Adapter) -> Result<Self> {
        let descriptor = burn_wgpu::DeviceDescriptor {
            required_features: adapter.features() & !burn_wgpu::Features::all_experimental_mask(),
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
        let setup = WgpuSetup {
            instance: burn_wgpu::Instance::default(),
            adapter: adapter.clone(),
            device,
            queue,
            backend: adapter.get_info().backend,
        };
        Ok(Shared { device: Device::wgpu_options().setup(setup).init().map_err(|error| format!("{error:?}"))? })
    }

    pub fn prepare(&self, case: &Case, rows: &Rows) -> Result<Box<dyn Peer>> {
        let &Case { batch, heads, dim, capacity, tokens, position, .. } = case;
        let cache = || Tensor::<4>::zeros([batch, heads, capacity, dim], &self.device);
        let tensor = |rows: &[f32]| {
            Tensor::<4>::from_data(TensorData::new(rows.to_vec(), [batch, heads, tokens, dim]), &self.device)
        };
        Ok(Box::new(Burn {
            device: self.device.clone(),
            caches: Some([cache(), cache()]),
            rows: [tensor(&rows.keys), tensor(&rows.values)],
            case: [batch, heads, dim, capacity, tokens, position],
        }))
    }
}

impl Peer for Burn {
    fn update(&mut self) -> Result<Duration> {
        let [batch, heads, dim, _, tokens, position] = self.case;
        let rows = self.rows.clone();
        self.device.sync().map_err(|error| format!("{error:?}"))?;
        let start = Instant::now();
        let caches = self.caches.take().ok_or("an update failed before")?;
        let [keys, values] = caches;
        let [new_keys, new_values] = rows;
        let place = [0..batch, 0..heads, position..position + tokens, 0..dim];
        self.caches = Some([keys.slice_assign(place.clone(), new_keys), values.slice_assign(place, new_values)]);
        self.device.sync().map_err(|error| format!("{error:?}"))?;
        Ok(start.elapsed())
    }

    fn holds(&mut self, rows: &Rows) -> Result<bool> {
        let [batch, heads, dim, capacity, tokens, position] = self.case;
        let case = Case { name: "", batch, heads, dim, capacity, tokens, position };
        let [keys, values] = self.caches.clone().ok_or("an update failed before")?;
        let read = |tensor: Tensor<4>| tensor.into_data().try_into_vec::<f32>().map_err(|error| format!("{error:?}"));
        Ok(case.rows_of(&read(keys)?) == rows.keys && case.rows_of(&read(values)?) == rows.values)
    }
}
