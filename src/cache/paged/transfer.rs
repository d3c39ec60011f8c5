//! Whole pages of a [`PagedKvCache`], copied to host memory and back.

use std::{num::NonZero, ops::Range, sync::Arc};

use super::{PagedKvCache, planes::Planes};
use crate::{
    DeviceError, Error, PageError, Result, Side,
    pages::{Added, Append, Evicted, PageKey, PagedSequences, RETURNED, SequenceId, StepKind},
};

/// Most bytes of one copy.
const COPY_BYTES: u64 = 32 << 20;

/// What a page of a group holds: keys, then values, of each of its layers, all heads as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageShape {
    /// Bytes of each.
    parts: Arc<[usize]>,
}

/// What takes rows of pages that others need no longer.
pub(crate) trait Outlet: Send + Sync + std::fmt::Debug {
    /// Removes pages that it does not take, of `bytes` each in a group, and counts on the others. `through` says that they
    /// shall go to the store at once. Returns how many it has no room for.
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
    shape: PageShape,
    /// `[layer, side, page, kv_head, page_size, dim]`, mapped.
    rows: wgpu::Buffer,
    outlet: Arc<dyn Outlet>,
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

impl PageShape {
    /// Bytes of a page.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| *part as u64).fold(0, u64::saturating_add)
    }

    /// Where the parts of a page begin.
    fn starts(&self) -> impl Iterator<Item = usize> + '_ {
        self.parts.iter().scan(0usize, |start, part| Some(std::mem::replace(start, start.saturating_add(*part))))
    }

    /// Copies those bytes of pages that lie in a piece.
    fn fill(&self, piece: &Piece<'_>, pages: &[(u32, &[u8])], mut copy: impl FnMut(Range<usize>, &[u8])) {
        let (part, start) = (self.parts[piece.part], self.starts().nth(piece.part).unwrap_or(0));
        let host = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (first, end) = (host(piece.within.start), host(piece.within.end));
        let mut at = first;
        while at < end {
            let (index, before) = (at.checked_div(part).unwrap_or(0), at.checked_rem(part).unwrap_or(0));
            let bytes = part.saturating_sub(before).min(end.saturating_sub(at));
            let to = at.saturating_sub(first);
            copy(to..to.saturating_add(bytes), &pages[index].1[start.saturating_add(before)..][..bytes]);
            at = at.saturating_add(bytes);
        }
    }

    /// Where the parts of a page lie among those of several pages.
    fn sections(&self, pages: usize, index: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut start = 0usize;
        self.parts.iter().map(move |part| {
            let at = start.saturating_add(part.saturating_mul(index));
            start = start.saturating_add(part.saturating_mul(pages));
            at..at.saturating_add(*part)
        })
    }
}

/// Bytes of a buffer of the cache that are contiguous, and where they lie among those of several pages: in which part, and
/// where in that part of all pages, one after the other.
struct Piece<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    part: usize,
    within: Range<u64>,
}

impl PagedKvCache {
    fn planes_of_group(&self, group: usize) -> impl Iterator<Item = &Planes> {
        let own = self.layers.iter().filter(move |layer| layer.place.group == group);
        own.map(|layer| &self.planes[layer.place.planes])
    }

    /// What a page of a group holds.
    pub(crate) fn page_shape(&self, group: usize) -> PageShape {
        let part = |planes: &Planes, side| {
            let bytes = planes.layout.side(side).planes_bytes(planes.layout.heads);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        let parts = self.planes_of_group(group).flat_map(|planes| Side::BOTH.map(|side| part(planes, side)));
        PageShape { parts: parts.collect() }
    }

    /// Where the rows of pages lie, by increasing page.
    fn pieces(&self, group: usize, pages: &[u32]) -> Vec<Piece<'_>> {
        let (mut pieces, mut part) = (Vec::new(), 0usize);
        for planes in self.planes_of_group(group) {
            for side in Side::BOTH {
                let (sizes, mut at) = (planes.layout.side(side), 0u64);
                for run in pages.chunk_by(|a, b| a.saturating_add(1) == *b) {
                    let [Some(first), Some(last)] = [run.first(), run.last()] else { continue };
                    let held = planes.layout.planes_of(*first)..planes.layout.planes_of(last.saturating_add(1));
                    for (segment, held) in planes.storage.segments_of(&held) {
                        let before = held.start.saturating_sub(segment.planes.start);
                        let end = at.saturating_add(sizes.planes_bytes(held.end.saturating_sub(held.start)));
                        let (buffer, offset) = (segment.side(side), sizes.planes_bytes(before));
                        pieces.push(Piece { buffer, offset, part, within: at..end });
                        at = end;
                    }
                }
                part = part.saturating_add(1);
            }
        }
        pieces
    }

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

    /// Copies the rows of pages to the outlet, and submits. What cannot be copied is lost: it is a miss later. Returns how
    /// many pages the outlet has no room for.
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

    /// Adds a sequence of which the keys of the first pages are known.
    pub(crate) fn add_by(&mut self, tokens: &[u32], namespace: Option<&str>, keys: &[PageKey]) -> Result<Added> {
        self.books.add_by(tokens, namespace, keys)
    }

    /// Adds a sequence that begins with whole pages: those that are cached, and after them those whose rows `rows` gives,
    /// by index and group, where the group reads them. The keys of its first pages are known. Submits the copies.
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
