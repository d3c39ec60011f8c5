//! Whole pages of a [`PagedKvCache`], copied to host memory and back.

use std::{num::NonZero, sync::Arc};

use super::{
    PagedKvCache,
    outlet::{Lowered, Outlet},
    pieces::{PageShape, Piece},
};
use crate::{
    DeviceError, Error, PageError, Result,
    pages::{Append, Evicted, PageKey, PagedSequences, RETURNED, SequenceId, StepKind},
};

/// Most bytes of one copy.
const COPY_BYTES: u64 = 32 << 20;

impl PagedKvCache {
    /// How many pages of some bytes are copied at once.
    fn pages_at_once(&self, page_bytes: u64) -> usize {
        let most = COPY_BYTES.min(self.context.limits().max_buffer_size);
        usize::try_from(most.checked_div(page_bytes).unwrap_or(1).max(1)).unwrap_or(1)
    }

    /// Gives the rows of pages that are evicted to an outlet, from now on.
    pub(crate) fn lower_to(&mut self, outlet: Arc<dyn Outlet>) {
        self.books.watch_evictions();
        self.outlet = Some(outlet);
    }

    /// What takes the rows of pages.
    pub(crate) fn outlet(&self) -> Option<&Arc<dyn Outlet>> {
        self.outlet.as_ref()
    }

    /// Copies the rows of pages that were evicted, before anything that is submitted later overwrites them.
    pub(super) fn lower_evicted(&mut self) {
        let evicted = self.books.take_evicted();
        if !evicted.is_empty() {
            self.lower(evicted, false);
        }
    }

    /// Copies the rows of pages to the outlet, and submits. What cannot be copied is lost: it is a miss later. Returns
    /// how many pages the outlet has no room for.
    pub(crate) fn lower(&self, mut pages: Vec<Evicted>, through: bool) -> usize {
        let Some(outlet) = &self.outlet else { return pages.len() };
        let shapes: Vec<_> = self.steps.iter().enumerate().map(|(group, _)| self.page_shape(group)).collect();
        let refused = outlet.choose(&mut pages, through, &|group| shapes[group].bytes());
        pages.sort_unstable_by_key(|page| (page.group, page.page));
        for group in pages.chunk_by(|a, b| a.group == b.group) {
            let shape = &shapes[group[0].group];
            for pages in group.chunks(self.pages_at_once(shape.bytes())) {
                if self.lower_group(shape, pages, through, outlet).is_err() {
                    outlet.release(shape.bytes().saturating_mul(pages.len() as u64), pages.len());
                }
            }
        }
        refused
    }

    fn lower_group(&self, shape: &PageShape, pages: &[Evicted], through: bool, outlet: &Arc<dyn Outlet>) -> Result<()> {
        let bytes = shape.bytes().saturating_mul(pages.len() as u64);
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let rows = match outlet.spare(bytes) {
            Some(rows) => rows,
            None => self.context.create_buffer("evicted pages", bytes, usage, false)?,
        };
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let numbers: Vec<u32> = pages.iter().map(|page| page.page).collect();
        let starts: Vec<u64> = shape.starts().map(|start| (start as u64).saturating_mul(pages.len() as u64)).collect();
        for Piece { buffer, offset, part, within } in self.pieces(pages[0].group, &numbers) {
            let at = starts[part].saturating_add(within.start);
            encoder.copy_buffer_to_buffer(buffer, offset, &rows, at, within.end.saturating_sub(within.start));
        }
        self.context.submit("copying pages out", encoder)?;
        let outlet = outlet.clone();
        let lowered = Lowered { pages: pages.to_vec(), through, shape: shape.clone(), rows: rows.clone(), outlet };
        rows.map_async(wgpu::MapMode::Read, .., move |mapped| {
            let outlet = lowered.outlet.clone();
            match mapped {
                Ok(()) => outlet.take(lowered),
                Err(_) => outlet.release(0, lowered.pages.len()),
            }
        });
        Ok(())
    }

    /// Adds a sequence that begins with whole pages: those that are cached, and after them those whose rows `rows`
    /// gives, by index and group, where the group reads them. The keys of its first pages are known. Submits the
    /// copies.
    pub(crate) fn add_pages<'a>(
        &mut self,
        tokens: &[u32],
        namespace: Option<&str>,
        keys: &[PageKey],
        rows: impl Fn(usize, usize) -> &'a [u8],
    ) -> Result<SequenceId> {
        if self.books.step().is_some() {
            return Err(PageError::StepUnderWay.into());
        }
        self.books.check_room_of(tokens, namespace, keys, StepKind::Pages)?;
        let added = self.books.add_by(tokens, namespace, keys)?;
        let rest = Append::new(added.sequence, &tokens[added.cached as usize..]);
        let begun = self.books.begin(&[rest], StepKind::Pages).map(drop);
        self.lower_evicted();
        let first = added.cached.checked_div(self.config.page_size).unwrap_or(0) as usize;
        let uploaded = begun.and_then(|()| self.upload_pages(added.sequence, first, rows));
        let end = if uploaded.is_ok() { PagedSequences::submitted } else { PagedSequences::dropped };
        end(&mut self.books);
        if uploaded.is_err() {
            self.books.free(added.sequence)?;
        }
        uploaded.map(|()| added.sequence)
    }

    fn upload_pages<'a>(
        &self,
        sequence: SequenceId,
        first: usize,
        rows: impl Fn(usize, usize) -> &'a [u8],
    ) -> Result<()> {
        for group in 0..self.steps.len() {
            let shape = self.page_shape(group);
            let pages = self.books.pages(sequence, group)?.iter().copied().enumerate().skip(first);
            let mut pages: Vec<(u32, &[u8])> =
                pages.filter(|(_, page)| *page != RETURNED).map(|(index, page)| (page, rows(index, group))).collect();
            pages.sort_unstable_by_key(|(page, _)| *page);
            let numbers: Vec<u32> = pages.iter().map(|(page, _)| *page).collect();
            for piece in self.pieces(group, &numbers) {
                let Some(bytes) = NonZero::new(piece.within.end.saturating_sub(piece.within.start)) else { continue };
                let written = self.context.create("pages", bytes.get(), |_| {
                    let mut view = self.context.queue().write_buffer_with(piece.buffer, piece.offset, bytes)?;
                    shape.fill(&piece, &pages, |at, rows| view.slice(at).copy_from_slice(rows));
                    Some(())
                })?;
                written.ok_or(Error::Device(DeviceError::DeviceLost { during: "uploading pages" }))?;
            }
        }
        let encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.context.submit("uploading pages", encoder)
    }
}
