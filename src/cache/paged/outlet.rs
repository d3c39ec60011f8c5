//! [`Outlet`]: what takes the rows of pages that are evicted.

use std::sync::Arc;

use super::pieces::PageShape;
use crate::pages::Evicted;

/// What takes rows of pages that others need no longer.
pub(crate) trait Outlet: Send + Sync + std::fmt::Debug {
    /// Removes pages that it does not take, of `bytes` each in a group, and counts on the others. `through` says that
    /// they shall go to the store at once. Returns how many it has no room for.
    fn choose(&self, evicted: &mut Vec<Evicted>, through: bool, bytes: &dyn Fn(usize) -> u64) -> usize;
    /// Takes pages that were chosen. A thread calls it that polls the device, so it must not wait.
    fn take(&self, lowered: Lowered);
    /// So many bytes of what was chosen are no longer on their way, and so many pages are lost.
    fn release(&self, bytes: u64, lost: usize);
    /// Takes a buffer back. Any thread calls it.
    fn give_back(&self, buffer: wgpu::Buffer);
    /// A buffer of at least so many bytes that was given back, unmapped. The engine's thread calls it, so that no other
    /// thread needs the driver.
    fn spare(&self, bytes: u64) -> Option<wgpu::Buffer>;
}

/// Pages of a group whose rows were copied to memory that the host sees.
#[derive(Debug)]
pub(crate) struct Lowered {
    /// By page, increasing.
    pub pages: Vec<Evicted>,
    /// Whether they shall go to the store at once.
    pub through: bool,
    pub(super) shape: PageShape,
    /// `[layer, side, page, kv_head, page_size, dim]`, mapped.
    pub(super) rows: wgpu::Buffer,
    pub(super) outlet: Arc<dyn Outlet>,
}

impl Drop for Lowered {
    fn drop(&mut self) {
        self.outlet.give_back(self.rows.clone());
        self.outlet.release(self.shape.bytes().saturating_mul(self.pages.len() as u64), 0);
    }
}

impl Lowered {
    /// Appends the rows of a page to `bytes`, if the device is not lost.
    pub fn rows(&self, mut page: impl FnMut(usize, &mut dyn FnMut(&mut Vec<u8>))) -> Option<()> {
        let mapped = self.rows.get_mapped_range(..).ok()?;
        for index in 0..self.pages.len() {
            page(index, &mut |bytes| {
                self.shape.sections(self.pages.len(), index).for_each(|at| bytes.extend_from_slice(&mapped[at]));
            });
        }
        Some(())
    }
}
