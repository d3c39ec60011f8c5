//! WGSL that reads a layer, for the caller's shaders: [`KvCache::wgsl`].

use std::fmt::Write as _;

use crate::{
    DeviceError, Error, Format, KvCache, Placement, Result, Scale, Side, WgslNames,
    device::{binding::window_binding, storage::Lengths},
    kernels::{Link, no_choice, no_count},
    read::readable::{Readable, sealed::Read},
    shape::{
        layout::{Layout, SideLayout},
        table::TableLayout,
    },
};

/// Reading a layer from the caller's own shaders.
impl KvCache {
    /// Returns WGSL that reads this layer, for the caller's shaders. It hides the format, the placement and the size of
    /// the layer. Concatenate it with your own WGSL, or register it as a module. Create the bind group from
    /// [`wgsl_layout`](Self::wgsl_layout) and [`wgsl_entries`](Self::wgsl_entries), with the same names. Layers with
    /// the same configuration get the same text, so they can share a pipeline. Their scales may differ if none of them
    /// is 1.
    ///
    /// With the prefix `kv_` it defines the following names, and internal ones with the same prefix:
    ///
    /// | name | |
    /// |---|---|
    /// | `kv_key(sequence, head, position, i) -> vec4<f32>` | elements 4 i to 4 i + 3 of a key row |
    /// | `kv_value(sequence, head, position, i) -> vec4<f32>` | elements 4 i to 4 i + 3 of a value row |
    /// | `kv_length(sequence) -> u32` | length of the sequence, at that point of the command stream |
    /// | `kv_start(sequence) -> u32` | position of the first row that the last update wrote; the length if it wrote none, and after any operation on sequences |
    /// | `kv_first_visible(query) -> u32` | first position, beyond the sinks, that a query at position `query` sees; it sees all positions from there to its own, and the sinks up to its own |
    /// | `kv_plane(sequence, head)`, `kv_slot(position)` | arguments of the next two; a loop can reuse them |
    /// | `kv_key_at(plane, slot, i)`, `kv_value_at(plane, slot, i)` | the vectors of `kv_key` and `kv_value` |
    /// | `kv_key_8_at(plane, slot, i) -> array<vec4<f32>, 2>` | elements 8 i to 8 i + 7; likewise `kv_key_16_at` and `kv_key_32_at`, and those of values |
    /// | `kv_key_unit_at(plane, slot, u) -> kv_key_unit` | unit `u` of a row, not decoded: what a load of 16 bytes brings, and its scale. So a kernel can have several loads in flight before it decodes the first |
    /// | `kv_key_vector(unit, j) -> vec4<f32>` | vector `j` of a unit. It is vector `u × kv_key_unit_vectors + j` of the row |
    /// | `kv_key_units`, `kv_key_unit_vectors` | units of a row, and vectors of a unit: 1 in f32, 2 in 16-bit formats, 4 in packed ones; 1 where a row does not consist of whole units |
    /// | `kv_key_half`, `kv_key_at_half`, and of values, `-> vec4<f16>` | the same in f16, with [`WgslNames::halves`] |
    /// | `kv_heads`, `kv_key_dim`, `kv_value_dim`, `kv_key_vectors`, `kv_value_vectors`, `kv_window`, `kv_sinks` | constants |
    ///
    /// Elements past the head size, up to a multiple of four, are zero. Read valid positions only: those below the
    /// length and, in a ring, only sinks and positions that some query of the last update sees. The contents of other
    /// positions are unspecified.
    ///
    /// # Errors
    /// [`WgslError::WgslPrefix`](crate::WgslError::WgslPrefix),
    /// [`WgslError::WgslBindings`](crate::WgslError::WgslBindings),
    /// [`WgslError::WgslBindingTwice`](crate::WgslError::WgslBindingTwice);
    /// [`DeviceError::DeviceFeature`] for halves on a device without `SHADER_F16`; [`DeviceError::DeviceLimit`] if the
    /// segments of the layer have more buffers than a shader stage can bind.
    ///
    /// # Performance
    /// A vector takes one load, as in a kernel written by hand; see `BENCHMARKS.md`. `Q8_0` and `Q4_0` take a second
    /// load for the scale, which all vectors of a block share; `Fp8E4M3` takes one for the scale of the side, if it is
    /// not 1. If the format is f32, f16 or bf16 and the head size is no multiple of four, each element takes a load. If
    /// a layer has more than one segment, each load selects among their buffers.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, Format, KvCache, Placement, WgslNames};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let ring = Placement::Ring { window: 512, sinks: 4, slack: 0 };
    /// let config = CacheConfig::new(1, 8, 128, 0).formats(Format::Q8_0, Format::Q4_0).placement(ring);
    /// let cache = KvCache::new(&context, config)?;
    /// let names = WgslNames::new("kv_").group(1);
    /// let shader = format!("
    ///     {}
    ///     @group(0) @binding(0) var<storage, read_write> sum: vec4<f32>;
    ///     @compute @workgroup_size(1) fn main() {{
    ///         let query = kv_length(0u) - 1u;
    ///         for (var position = kv_first_visible(query); position <= query; position++) {{
    ///             sum += kv_key(0u, 3u, position, 0u) * kv_value(0u, 3u, position, 0u);
    ///         }}
    ///     }}", cache.wgsl(&names)?);
    /// # device.create_shader_module(wgpu::ShaderModuleDescriptor {
    /// #     label: None,
    /// #     source: wgpu::ShaderSource::Wgsl(shader.into()),
    /// # });
    /// let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
    ///     label: None,
    ///     entries: &cache.wgsl_layout(&names, wgpu::ShaderStages::COMPUTE)?,
    /// });
    /// let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
    ///     label: None,
    ///     layout: &layout,
    ///     entries: &cache.wgsl_entries(&names)?,
    /// });
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn wgsl(&self, names: &WgslNames<'_>) -> Result<String> {
        self.readable().wgsl(names)
    }

    /// Number of storage buffers that the text binds, all of them read-only.
    pub fn wgsl_bindings(&self) -> u32 {
        self.readable().wgsl_bindings()
    }

    /// Returns the entries of the bind group's layout.
    ///
    /// # Errors
    /// The errors of [`wgsl`](Self::wgsl).
    pub fn wgsl_layout(
        &self,
        names: &WgslNames<'_>,
        visibility: wgpu::ShaderStages,
    ) -> Result<Vec<wgpu::BindGroupLayoutEntry>> {
        self.readable().wgsl_layout(names, visibility)
    }

    /// Returns the entries of the bind group. They remain correct for the lifetime of the cache.
    ///
    /// # Errors
    /// The errors of [`wgsl`](Self::wgsl).
    pub fn wgsl_entries(&self, names: &WgslNames<'_>) -> Result<Vec<wgpu::BindGroupEntry<'_>>> {
        self.readable().wgsl_entries(names)
    }
}

impl<'a> Readable<'a> {
    /// What the text depends on.
    fn addressed(&self) -> Addressed<'_> {
        Addressed { layout: self.layout, table: self.table.map(|table| table.layout) }
    }

    pub(crate) fn wgsl(&self, names: &WgslNames<'_>) -> Result<String> {
        let indices = self.check_names(names)?;
        Ok(text(self.addressed(), names, &indices, self.context.unpacks_halves()))
    }

    pub(crate) fn wgsl_bindings(&self) -> u32 {
        bindings(self.addressed())
    }

    pub(crate) fn wgsl_layout(
        &self,
        names: &WgslNames<'_>,
        visibility: wgpu::ShaderStages,
    ) -> Result<Vec<wgpu::BindGroupLayoutEntry>> {
        let ty = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: true },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let entry = |binding| wgpu::BindGroupLayoutEntry { binding, visibility, ty, count: None };
        Ok(self.check_names(names)?.into_iter().map(entry).collect())
    }

    pub(crate) fn wgsl_entries(&self, names: &WgslNames<'_>) -> Result<Vec<wgpu::BindGroupEntry<'a>>> {
        let scales = || {
            let Lengths { buffer, .. } = &self.storage.lengths;
            window_binding(buffer, &self.storage.lengths.range())
        };
        let planes = self.storage.planes().map(wgpu::Buffer::as_entire_binding);
        let lengths = self.lengths();
        let separate = self.addressed().scales_apart().then(scales);
        let resources = std::iter::once(lengths).chain(planes).chain(separate);
        let indices = self.check_names(names)?;
        Ok(indices
            .into_iter()
            .zip(resources)
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
            .collect())
    }

    /// The lengths on the device, with what lies behind them.
    pub(crate) fn lengths(&self) -> wgpu::BindingResource<'a> {
        match self.table {
            Some(table) => table.buffer.as_entire_binding(),
            None => window_binding(&self.storage.lengths.buffer, &self.storage.lengths.range()),
        }
    }

    fn check_names(&self, names: &WgslNames<'_>) -> Result<Vec<u32>> {
        names.check()?;
        if names.halves && !self.context.device().features().contains(wgpu::Features::SHADER_F16) {
            return Err(Error::Device(DeviceError::DeviceFeature { feature: "SHADER_F16" }));
        }
        let (needed, available) = (self.wgsl_bindings(), self.context.limits().max_storage_buffers_per_shader_stage);
        if needed > available {
            let limit = "max_storage_buffers_per_shader_stage";
            return Err(Error::Device(DeviceError::DeviceLimit {
                limit,
                needed: needed.into(),
                available: available.into(),
            }));
        }
        names.indices(needed)
    }
}

/// A layer, and the block table by which its rows are found if it has pages.
#[derive(Clone, Copy, Debug)]
struct Addressed<'a> {
    layout: &'a Layout,
    table: Option<TableLayout>,
}

impl Addressed<'_> {
    /// Whether the scales have a buffer of their own: that of the lengths belongs to all layers of a paged cache.
    fn scales_apart(&self) -> bool {
        let scaled = Side::BOTH.into_iter().any(|side| self.layout.side(side).scale != Scale::ONE);
        self.table.is_some() && scaled
    }
}

/// Number of bindings: the lengths, the keys and values of each segment, and scales where they are apart.
fn bindings(of: Addressed<'_>) -> u32 {
    let segments =
        u32::try_from(of.layout.segments().count()).expect("a segment holds a plane, of which there are 32 bits");
    // A saturated count exceeds every device's limit.
    segments.saturating_mul(2).saturating_add(1).saturating_add(of.scales_apart().into())
}

/// By how many words a side is bound and loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    One,
    Two,
    Four,
}

impl Load {
    fn new(sizes: &SideLayout, wide: bool) -> Self {
        match sizes.format {
            _ if wide && sizes.code_bytes().is_multiple_of(16) => Load::Four,
            Format::F32 if sizes.dim.is_multiple_of(4) => Load::Four,
            Format::F16 | Format::Bf16 if sizes.dim.is_multiple_of(4) => Load::Two,
            _ => Load::One,
        }
    }

    /// The file of `shaders/read/loads/`, and what the host's function is called after.
    const fn name(self) -> &'static str {
        match self {
            Load::One => "one",
            Load::Two => "two",
            Load::Four => "four",
        }
    }

    const fn ty(self) -> &'static str {
        match self {
            Load::One => "u32",
            Load::Two => "vec2<u32>",
            Load::Four => "vec4<u32>",
        }
    }

    const fn words(self) -> u64 {
        match self {
            Load::One => 1,
            Load::Two => 2,
            Load::Four => 4,
        }
    }
}

/// Vectors of four elements in a unit of a side: what a load of 16 bytes brings of a format, or one. A unit of `q4_0`
/// is half of what its load brings.
pub(crate) fn unit_vectors(sizes: &SideLayout) -> u32 {
    match sizes.format {
        Format::F16 | Format::Bf16 if sizes.dim.is_multiple_of(8) => 2,
        Format::Fp8E4M3 if sizes.dim.is_multiple_of(16) => 4,
        Format::Q8_0 | Format::Q4_0 => 4,
        _ => 1,
    }
}

/// Units of a row.
pub(crate) fn units(sizes: &SideLayout) -> u32 {
    sizes.dim.div_ceil(unit_vectors(sizes).saturating_mul(4))
}

/// Generates the whole text.
fn text(of: Addressed<'_>, names: &WgslNames<'_>, indices: &[u32], unpacks_halves: bool) -> String {
    let layout = of.layout;
    let side = |name: &str| if name == "reader_key" { Side::Keys } else { Side::Values };
    let choose = |choice: &str, name: &str| {
        let sizes = layout.side(side(name));
        match choice {
            "placement" if of.table.is_some() => "pages",
            "placement" if layout.placement == Placement::Linear => "linear",
            "placement" => "ring",
            "format/read" => match sizes.format {
                Format::Fp8E4M3 => "fp8_e4m3",
                Format::Q8_0 => "q8_0",
                Format::Q4_0 => "q4_0",
                _ if !sizes.dim.is_multiple_of(4) => "words",
                Format::F32 => "f32",
                Format::F16 | Format::Bf16 => "halves",
            },
            "format/unit" if unit_vectors(sizes) == 1 => "words",
            "format/unit" => match sizes.format {
                Format::Fp8E4M3 => "fp8_e4m3",
                Format::Q8_0 => "q8_0",
                Format::Q4_0 => "q4_0",
                _ => "halves",
            },
            "read/units" => match unit_vectors(sizes) {
                1 => "one",
                2 => "two",
                _ => "four",
            },
            "read/loads" => Load::new(sizes, names.wide).name(),
            // An f32 is no pair; what would read it as one is dropped.
            "format/pair" if matches!(sizes.format, Format::Bf16 | Format::F32) => "bf16",
            "format/pair" if unpacks_halves => "f16",
            "format/pair" => "f16_of_integers",
            "read/halves" if names.halves => "f16",
            "read/halves" => "none",
            choice => no_choice(choice, name),
        }
    };
    let prelude = |name: &str| match name {
        "" => constants(of, names, indices),
        name => {
            let side = side(name);
            let first = if side == Side::Keys { 1 } else { 2 };
            side_constants(of, side) + &segments(layout, side, names, indices[first..].iter().step_by(2))
        }
    };
    let count = |word: &str| word.parse().unwrap_or_else(|_| no_count(word));
    let text = Link { choose: &choose, prelude: &prelude, count: &count }.text("read/read.wgsl");
    text.replace("reader_", names.prefix)
}

/// Generates the declarations that do not depend on a side.
fn constants(of: Addressed<'_>, names: &WgslNames<'_>, indices: &[u32]) -> String {
    let layout = of.layout;
    let (window, sinks, wrap) = match layout.placement {
        Placement::Linear => (u32::MAX, 0, 0),
        Placement::Ring { window, sinks, slack } => (window, sinks, window.saturating_add(slack)),
    };
    let starts = of.table.map_or_else(|| layout.sequences(), |table| table.start(0));
    let mut text = String::new();
    for (name, number) in
        [("heads", layout.heads), ("window", window), ("sinks", sinks), ("starts", starts), ("wrap", wrap)]
    {
        line(&mut text, format_args!("const reader_{name}: u32 = {number}u;"));
    }
    if let Some(table) = of.table {
        for (name, number) in [
            ("page_size", table.page_size),
            ("rows", table.row(0)),
            ("table", table.entry(0, 0)),
            ("table_width", table.width),
        ] {
            line(&mut text, format_args!("const reader_{name}: u32 = {number}u;"));
        }
    }
    let mut bind = |name: &str, binding: u32| {
        let group = names.group;
        line(&mut text, format_args!("@group({group}) @binding({binding}) var<storage, read> {name}: array<u32>;"));
    };
    bind("reader_lengths", indices[0]);
    if let Some(&last) = indices.last().filter(|_| of.scales_apart()) {
        bind("reader_scales", last);
    }
    text
}

/// Generates the constants of a side.
fn side_constants(of: Addressed<'_>, side: Side) -> String {
    let layout = of.layout;
    let sizes = layout.side(side);
    let SideLayout { format, dim, .. } = *sizes;
    // The scales follow lengths and starts in the buffer of lengths.
    let scale_index = layout.sequences().saturating_mul(2).saturating_add(u32::from(side == Side::Values));
    let scales = if of.scales_apart() { "reader_scales" } else { "reader_lengths" };
    let mut text = String::new();
    for (name, number) in [
        ("dim", dim.into()),
        ("vectors", dim.div_ceil(4).into()),
        ("units", units(sizes).into()),
        ("lanes", format.lanes().into()),
        ("code_words", format.code_words(dim).into()),
        ("scale_words", format.scale_words(dim).into()),
        ("scales_at", sizes.codes_at(layout.slots) / 4),
    ] {
        line(&mut text, format_args!("const side_{name}: u32 = {number}u;"));
    }
    line(&mut text, format_args!("fn side_scale_bits() -> u32 {{\n    return {scales}[{scale_index}u];\n}}"));
    line(&mut text, format_args!("const side_scaled: bool = {};", sizes.scale != Scale::ONE));
    text
}

/// The buffers of a side, and the functions that load from that of a plane.
fn segments<'a>(layout: &Layout, side: Side, names: &WgslNames<'_>, bindings: impl Iterator<Item = &'a u32>) -> String {
    let (sizes, group) = (layout.side(side), names.group);
    let load = Load::new(sizes, names.wide);
    let mut text = String::new();
    let mut count = 0u32;
    for binding in bindings.take(layout.segments().count()) {
        line(&mut text, format_args!("@group({group}) @binding({binding})"));
        line(&mut text, format_args!("var<storage, read> side_segment_{count}_planes: array<{}>;", load.ty()));
        count = count.saturating_add(1);
    }
    let mut function = |name: &str, ty: &str, words: u64, index: &str| {
        let stride = (sizes.plane_bytes / 4).checked_div(words).expect("a load has words");
        line(&mut text, format_args!("\nfn side_{name}(plane: u32, index: u32) -> {ty} {{"));
        if count == 1 {
            line(&mut text, format_args!("    let at = plane * {stride}u + index;"));
            line(&mut text, format_args!("    return side_segment_0_planes{index};"));
        } else {
            let planes = layout.planes_per_segment;
            line(&mut text, format_args!("    let at = plane % {planes}u * {stride}u + index;"));
            line(&mut text, format_args!("    switch plane / {planes}u {{"));
            for segment in 0..count {
                let case = if segment == 0 { "default".to_owned() } else { format!("case {segment}u") };
                line(&mut text, format_args!("        {case}: {{ return side_segment_{segment}_planes{index}; }}"));
            }
            line(&mut text, format_args!("    }}"));
        }
        line(&mut text, format_args!("}}"));
    };
    match load {
        Load::One => function("word", load.ty(), load.words(), "[at]"),
        Load::Two => function("two", load.ty(), load.words(), "[at]"),
        Load::Four => {
            function("four", load.ty(), load.words(), "[at]");
            function("word", "u32", 1, "[at / 4u][at % 4u]");
        }
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes every write");
}

#[cfg(test)]
#[path = "../../tests/unit/include.rs"]
pub(crate) mod tests;
