//! boostr's `kv_cache_update`, on a device that its `numr` opens on the same adapter.

use std::time::{Duration, Instant};

use boostr::ops::traits::KvCacheOps as _;
use numr::{
    dtype::DType,
    runtime::wgpu::{WgpuClient, WgpuDevice, WgpuRuntime},
    tensor::Tensor,
};

use crate::{Case, Peer, Result, Rows};

pub struct Client {
    device: WgpuDevice,
    client: WgpuClient,
}

struct Boostr {
    client: WgpuClient,
    caches: [Tensor<WgpuRuntime>; 2],
    rows: [Tensor<WgpuRuntime>; 2],
    case: [usize; 6],
}

impl Client {
    /// Opens the adapter at this index of wgpu's list, and checks that it is the one that the other peers use.
    pub fn new(index: usize, info: &wgpu::AdapterInfo) -> Result<Self> {
        let client = WgpuClient::new(WgpuDevice::new(index))?;
        let found = client.wgpu_device().adapter_info();
        if (&found.name, found.backend) != (&info.name, info.backend) {
            return Err(format!("boostr's adapter {index} is {} [{}]", found.name, found.backend).into());
        }
        Ok(Client { device: WgpuDevice::new(index), client })
    }

    pub fn prepare(&self, case: &Case, rows: &Rows) -> Result<Box<dyn Peer>> {
        let &Case { batch, heads, dim, capacity, tokens, position, .. } = case;
        let cache = || Tensor::zeros(&[batch, heads, capacity, dim], DType::F32, &self.device);
        let tensor = |rows: &[f32]| Tensor::from_slice(rows, &[batch, heads, tokens, dim], &self.device);
        Ok(Box::new(Boostr {
            client: self.client.clone(),
            caches: [cache()?, cache()?],
            rows: [tensor(&rows.keys)?, tensor(&rows.values)?],
            case: [batch, heads, dim, capacity, tokens, position],
        }))
    }
}

impl Peer for Boostr {
    fn update(&mut self) -> Result<Duration> {
        let ([keys, values], [new_keys, new_values]) = (&self.caches, &self.rows);
        let start = Instant::now();
        self.client.kv_cache_update(keys, values, new_keys, new_values, self.case[5])?;
        self.client.wgpu_device().poll(wgpu::PollType::wait_indefinitely())?;
        Ok(start.elapsed())
    }

    fn holds(&mut self, rows: &Rows) -> Result<bool> {
        let [batch, heads, dim, capacity, tokens, position] = self.case;
        let case = Case { name: "", batch, heads, dim, capacity, tokens, position };
        let [keys, values] = [&self.caches[0], &self.caches[1]].map(|cache| cache.try_to_vec::<f32>());
        Ok(case.rows_of(&keys?) == rows.keys && case.rows_of(&values?) == rows.values)
    }
}
