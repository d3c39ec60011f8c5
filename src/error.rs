//! The one error type. Every variant names the rule and the numbers that broke it.

use crate::{Format, Scale, Side};

/// Why an operation was refused. The state and the bytes of the cache are as they were before the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A dimension of the configuration is zero.
    #[error("{name} must be at least 1, but is 0")]
    ZeroDimension {
        /// The field of [`CacheConfig`](crate::CacheConfig), or `num_layers`.
        name: &'static str,
    },
    /// A scale that is zero, negative or not finite.
    #[error("a scale must be positive and finite, but is {scale}")]
    Scale {
        /// The scale given.
        scale: Scale,
    },
    /// Rows of a packed format for a cache of another.
    #[error("rows in {source_format} can only go to {side} stored in the same format, but they are stored in {stored}")]
    PackedSource {
        /// Keys or values.
        side: Side,
        /// Format of the rows.
        source_format: Format,
        /// Format of the cache.
        stored: Format,
    },
    /// A range cannot be converted to a packed format.
    #[error("{side} can be copied out in f32, f16, bf16 or as they are stored, in {stored}, but not in {wanted}")]
    PackedDestination {
        /// Keys or values.
        side: Side,
        /// Format of the cache.
        stored: Format,
        /// Format asked for.
        wanted: Format,
    },
    /// Bytes that are no row.
    #[error("a row of {dim} elements in {format} takes {expected} bytes, but there are {actual}")]
    RowBytes {
        /// Format of the row.
        format: Format,
        /// Its elements.
        dim: u32,
        /// Bytes that it takes.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// A prefix that cannot begin a name in WGSL.
    #[error("a prefix of names must be a letter and then letters, digits and underscores, but is \"{prefix}\"")]
    WgslPrefix {
        /// The prefix given.
        prefix: String,
    },
    /// A list of bindings for a shader has another number of entries.
    #[error("reading this layer takes {expected} bindings, but {actual} are given")]
    WgslBindings {
        /// Lengths, and keys and values of each segment.
        expected: u32,
        /// The entries given.
        actual: usize,
    },
    /// Two buffers would have one binding.
    #[error("every buffer must have a binding of its own, but {binding} is given twice")]
    WgslBindingTwice {
        /// The binding.
        binding: u32,
    },
    /// The device was made without a feature.
    #[error("the device must be requested with the feature {feature}")]
    DeviceFeature {
        /// The feature of `wgpu::Features`.
        feature: &'static str,
    },
    /// Query heads that do not share KV heads evenly.
    #[error("query heads must be a multiple of the {num_heads} KV heads, and at least as many, but are {query_heads}")]
    QueryHeads {
        /// The query heads given.
        query_heads: u32,
        /// KV heads of the cache.
        num_heads: u32,
    },
    /// An attention's scale that is not finite.
    #[error("the scale of scores must be finite, but is {scale}")]
    AttentionScale {
        /// The scale given.
        scale: Scale,
    },
    /// A soft cap that caps nothing.
    #[error("a soft cap must be positive, finite and not subnormal, but is {softcap}")]
    Softcap {
        /// The cap given.
        softcap: Scale,
    },
    /// An attention in no parts, or in too many.
    #[error("positions must be read in 1 to {most} parts, but {splits} are asked for")]
    Splits {
        /// The parts asked for.
        splits: u32,
        /// The most that there can be.
        most: u32,
    },
    /// A window that a ring does not keep.
    #[error(
        "an attention may see at most what the ring keeps, window {window} and sinks {sinks}, but asks for {wanted} and {wanted_sinks}"
    )]
    AttentionWindow {
        /// Window of the ring.
        window: u32,
        /// Its sinks.
        sinks: u32,
        /// Window asked for.
        wanted: u32,
        /// Sinks asked for.
        wanted_sinks: u32,
    },
    /// A mask that cannot be broadcast.
    #[error("a mask must be [1 or {batch_size}, 1 or {query_heads}, 1 or {tokens}, positions], but is {shape:?}")]
    MaskShape {
        /// The batch.
        batch_size: u32,
        /// Query heads.
        query_heads: u32,
        /// Queries of each sequence.
        tokens: u32,
        /// The shape given.
        shape: [u32; 4],
    },
    /// A mask that does not reach the end of the longest sequence.
    #[error("a mask must have a column for each position, write_pos = {write_pos}, but has {positions}")]
    MaskTooShort {
        /// Columns of the mask.
        positions: u32,
        /// The largest length.
        write_pos: u32,
    },
    /// A slice of an attention has the wrong number of elements.
    #[error("the {name} must hold {expected} elements, but hold {actual}")]
    TensorLength {
        /// `queries` or `mask`.
        name: &'static str,
        /// The product of the shape.
        expected: u64,
        /// The slice's length.
        actual: u64,
    },
    /// A buffer of an attention lacks a usage.
    #[error("the buffer of the {name} must have {needed}, but has {actual}")]
    TensorUsage {
        /// `queries`, `output` or `mask`.
        name: &'static str,
        /// The missing usage.
        needed: &'static str,
        /// The usages it has.
        actual: String,
    },
    /// A buffer of an attention ends before the last row.
    #[error(
        "the buffer of the {name} must hold {needed} bytes for this offset, these strides and tokens, but holds {actual}"
    )]
    TensorRange {
        /// `queries`, `output` or `mask`.
        name: &'static str,
        /// Bytes from the buffer's start to the end of the last row, rounded up to 4.
        needed: u64,
        /// The buffer's size.
        actual: u64,
    },
    /// An offset or stride of an attention is not a multiple of what it must be.
    #[error("{what} must be a multiple of {alignment}, but is {value}")]
    TensorMisaligned {
        /// The offset, a stride, or the head size of a tensor, such as `the offset of the output`.
        what: &'static str,
        /// The value given.
        value: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A tensor of an attention in a format that it does not take.
    #[error("the {name} must be in f32, f16 or bf16, but are in {format}")]
    TensorFormat {
        /// `queries` or `output`.
        name: &'static str,
        /// The format given.
        format: Format,
    },
    /// The output of an attention would be written over what it reads.
    #[error(
        "the output must have a buffer of its own, not that of the {name}: one dispatch cannot read and write one buffer"
    )]
    OutputShared {
        /// `queries`, `mask` or `cache`.
        name: &'static str,
    },
    /// An attention that was made for another layer or cache.
    #[error("an attention must be recorded for the layer that it was made for, but this is another")]
    ForeignAttention,
    /// A product of dimensions does not fit its integer.
    #[error("{what} must fit {bits} bits, but {factors} does not")]
    SizeOverflow {
        /// What was being computed.
        what: &'static str,
        /// The factors of the product.
        factors: String,
        /// The width that the product must fit.
        bits: u32,
    },
    /// One plane, `[slots, head_dim]`, is larger than any binding.
    #[error(
        "one plane of {side} ([slots, head_dim]) takes {plane_bytes} bytes, but a binding holds at most \
         {limit_bytes} here; make max_seq_len (of a ring, the window) or the head size smaller, or, if the adapter allows more, ask for \
         max_storage_buffer_binding_size and max_buffer_size of {plane_bytes} with CacheConfig::required_limits"
    )]
    PlaneTooLarge {
        /// Keys or values.
        side: Side,
        /// Size of one plane.
        plane_bytes: u64,
        /// The smaller of the binding limit, the buffer limit, and 2^31 − 4.
        limit_bytes: u64,
    },
    /// The device was made with a limit that is too small.
    #[error("the device must be requested with {limit} of at least {needed}, but has {available}")]
    DeviceLimit {
        /// The field of `wgpu::Limits`.
        limit: &'static str,
        /// What the cache needs.
        needed: u64,
        /// What the device was made with.
        available: u64,
    },
    /// A buffer would be larger than the device allows.
    #[error(
        "{what} takes {bytes} bytes, but the device's max_buffer_size is {limit_bytes}; work in smaller ranges or \
         ask for a larger limit"
    )]
    BufferTooLarge {
        /// What the buffer was for.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// `wgpu::Limits::max_buffer_size` of the device.
        limit_bytes: u64,
    },
    /// The device has no memory left.
    #[error("out of memory: {what} {}", shortage(*bytes))]
    OutOfMemory {
        /// What was being allocated or submitted.
        what: &'static str,
        /// How many bytes were asked for in total; 0 where only the driver knows.
        bytes: u64,
    },
    /// The device was lost or destroyed. Nothing on it can be used any more.
    #[error("the device is lost ({during})")]
    DeviceLost {
        /// What was being done when it was noticed.
        during: &'static str,
    },
    /// A browser's thread cannot wait for the device.
    #[error("a browser's thread cannot wait ({during}); use the asynchronous form of the call")]
    CannotWait {
        /// What would have to be waited for.
        during: &'static str,
    },
    /// wgpu refused a resource or a submission for a reason that this crate does not check itself, such as a buffer
    /// that was destroyed or is mapped.
    #[error("wgpu refused {what}: {message}")]
    Refused {
        /// What was being created or submitted.
        what: &'static str,
        /// wgpu's own words.
        message: String,
    },
    /// wgpu sees no adapter at all.
    #[error("no GPU adapter was found; {hint}")]
    NoAdapter {
        /// What to install on this system.
        hint: &'static str,
    },
    /// No adapter has this name or index.
    #[error("no adapter is named or numbered \"{wanted}\"; there are: {available}")]
    AdapterNotFound {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The adapter did not hand out a device.
    #[error("adapter \"{adapter}\" refused a device: {message}")]
    DeviceRefused {
        /// The adapter's name.
        adapter: String,
        /// wgpu's own words.
        message: String,
    },
    /// More sequences than there is room for.
    #[error("the batch must have at most max_batch_size = {max_batch_size} sequences, but would have {batch_size}")]
    BatchTooLarge {
        /// The sequences wanted.
        batch_size: u32,
        /// The room.
        max_batch_size: u32,
    },
    /// Layers of one cache with other sequences than the first.
    #[error("{name} of all layers must be {first}, as of layer 0, but of layer {layer} it is {actual}")]
    LayersDiffer {
        /// The layer.
        layer: usize,
        /// `batch_size` or `max_batch_size`.
        name: &'static str,
        /// That of layer 0.
        first: u32,
        /// That of this layer.
        actual: u32,
    },
    /// Rows that are no sequence of this length.
    #[error("a sequence of length {length} has {expected} valid rows here, but {tokens} are given")]
    InsertedRows {
        /// The length.
        length: u32,
        /// Its valid rows: of a ring, sinks and window.
        expected: u32,
        /// The rows of the source.
        tokens: u32,
    },
    /// More queries than a sequence has tokens.
    #[error("sequence {sequence} has {length} tokens, but {queries} queries are asked for")]
    QueriesBeyondLength {
        /// The sequence.
        sequence: u32,
        /// The queries.
        queries: u32,
        /// Its length.
        length: u32,
    },
    /// A batch of no sequence.
    #[error("a selection must have at least 1 sequence, but has 0")]
    EmptySelection,
    /// The batch has more sequences than a bound object holds rows for.
    #[error(
        "the {name} must hold rows for each sequence of the batch, {batch_size}, within one binding, but holds them for {bound}"
    )]
    BatchBeyondBound {
        /// `source`, `queries`, `output` or `mask`.
        name: &'static str,
        /// Sequences that it holds rows for.
        bound: u32,
        /// Sequences in the batch.
        batch_size: u32,
    },
    /// A checkpoint of another cache.
    #[error("a checkpoint must be restored by the cache that it was made of, but this is another")]
    ForeignCheckpoint,
    /// A layer that the step does not know, or not any more.
    #[error(
        "layer {layer} has no step to record: begin_step must come first, each layer is recorded once, and nothing else may \
         change it in between"
    )]
    NoStep {
        /// The layer.
        layer: usize,
    },
    /// A layer that was put in place of one of the cache's own.
    #[error("layer {layer} must be the one that the cache was made with, but is another")]
    ForeignLayer {
        /// The layer.
        layer: usize,
    },
    /// An attention over the rows of a step that are not recorded yet.
    #[error("the rows of the step that was begun must be recorded for a layer before its attention")]
    StepNotRecorded,
    /// Something for each layer, but not as many as there are layers.
    #[error("there must be {name} for each of the {num_layers} layers, but there are {actual}")]
    LayerCount {
        /// `rows` or `a source`.
        name: &'static str,
        /// How many layers there are.
        num_layers: usize,
        /// How many were given.
        actual: usize,
    },
    /// A step begins where layers differ.
    #[error(
        "a step must begin where all layers have the same lengths, but sequence {sequence} has {first} positions in layer 0 \
         and {actual} in layer {layer}; record all layers of the step before, or restore a checkpoint"
    )]
    LayersOutOfStep {
        /// The layer.
        layer: usize,
        /// The sequence.
        sequence: usize,
        /// Its length in layer 0.
        first: u32,
        /// Its length in this layer.
        actual: u32,
    },
    /// A sequence would be cut to more than it has.
    #[error("sequence {sequence} must be cut to at most its length {current}, but to {length} was asked")]
    TruncateBeyondLength {
        /// The sequence.
        sequence: u32,
        /// The length asked for.
        length: u32,
        /// Its length.
        current: u32,
    },
    /// More tokens would be taken back than a sequence has.
    #[error("sequence {sequence} has {length} tokens, of which {tokens} cannot be taken back")]
    RollbackBeyondStart {
        /// The sequence.
        sequence: u32,
        /// The tokens to take back.
        tokens: u32,
        /// Its length.
        length: u32,
    },
    /// A sequence would be taken back to where rows of its window are overwritten.
    #[error(
        "sequence {sequence} must keep at least {shortest} positions (or at most {sinks}, the sinks alone), because its \
         window needs positions from {oldest} on, but {length} was asked; a ring with more slack goes farther back"
    )]
    RollbackEvicted {
        /// The sequence.
        sequence: u32,
        /// The length asked for.
        length: u32,
        /// The least length that can be reached with a whole window.
        shortest: u32,
        /// Positions that are never evicted.
        sinks: u32,
        /// The first position beyond the sinks that is stored.
        oldest: u32,
    },
    /// A position that a ring has evicted.
    #[error(
        "position {position} of sequence {sequence} is not kept; beyond the sinks the oldest that is kept is {oldest}: \
         a ring with a larger window or slack keeps more"
    )]
    Evicted {
        /// The sequence.
        sequence: u32,
        /// The position asked for.
        position: u32,
        /// The oldest position beyond the sinks that is valid.
        oldest: u32,
    },
    /// Positions of a ring grow for ever, as far as 32 bits go.
    #[error(
        "positions must stay below 2^32 - 1, but {count} tokens of sequence {sequence} at position {position} do not"
    )]
    PositionOverflow {
        /// The sequence.
        sequence: u32,
        /// Where its write starts.
        position: u32,
        /// How many tokens it writes.
        count: u32,
    },
    /// More layers than a cache has.
    #[error("num_layers must be at most {most}, but is {num_layers}")]
    TooManyLayers {
        /// The layers asked for.
        num_layers: usize,
        /// [`BatchedKvCache::MAX_LAYERS`](crate::BatchedKvCache::MAX_LAYERS).
        most: usize,
    },
    /// The cache has no such layer.
    #[error("layer must be below num_layers = {num_layers}, but is {layer}")]
    LayerOutOfRange {
        /// The layer asked for.
        layer: usize,
        /// How many there are.
        num_layers: usize,
    },
    /// The cache has no such sequence or head.
    #[error("{name} must be below {count}, but is {index}")]
    IndexOutOfRange {
        /// `sequence`, `head` or `position`.
        name: &'static str,
        /// The index asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// An update, an insertion or an attention of zero tokens.
    #[error("there must be at least 1 token, but there are 0")]
    NoTokens,
    /// A slice of rows has the wrong number of elements.
    #[error("{side} must hold batch × heads × tokens × dim = {expected} elements, but hold {actual}")]
    SliceLength {
        /// Keys or values.
        side: Side,
        /// `batch_size × num_heads × tokens × dim`.
        expected: u64,
        /// The slice's length.
        actual: u64,
    },
    /// A list with one entry per sequence has another number of entries.
    #[error("{name} must have one entry per sequence, {batch_size}, but has {actual}")]
    PerSequenceLength {
        /// `positions`, `counts`, `lengths` or `sources`.
        name: &'static str,
        /// The batch size.
        batch_size: u32,
        /// The entries given.
        actual: usize,
    },
    /// A sequence's count is larger than the number of tokens in the source.
    #[error("the count of sequence {sequence} must be at most tokens = {tokens}, but is {count}")]
    CountAboveTokens {
        /// The sequence.
        sequence: u32,
        /// Its count.
        count: u32,
        /// Tokens in the source.
        tokens: u32,
    },
    /// A write would end after the last slot. One such sequence refuses the whole call.
    #[error(
        "sequence {sequence} must end at or before max_seq_len = {max_seq_len}, but {count} tokens at position \
         {position} end at {}",
        u64::from(*position).saturating_add((*count).into())
    )]
    WriteBeyondCapacity {
        /// The sequence.
        sequence: u32,
        /// Where its write starts.
        position: u32,
        /// How many tokens it writes.
        count: u32,
        /// The capacity.
        max_seq_len: u32,
    },
    /// A write of which every row must be kept is longer than a ring.
    #[error(
        "sequence {sequence} must keep all {count} tokens at position {position}, but of what ends at {} a ring of {rows} \
         rows beyond its sinks keeps nothing before {oldest}",
        u64::from(*position).saturating_add((*count).into())
    )]
    WriteBeyondRing {
        /// The sequence.
        sequence: u32,
        /// Where its write starts.
        position: u32,
        /// How many tokens it writes.
        count: u32,
        /// Rows of the ring, window and slack.
        rows: u32,
        /// The first position beyond the sinks that would be stored.
        oldest: u32,
    },
    /// `start` of a range lies after its `end`.
    #[error("a range must start at or before its end, but {start} > {end}")]
    RangeReversed {
        /// Start of the range.
        start: u32,
        /// End of the range.
        end: u32,
    },
    /// A range ends after the longest sequence.
    #[error("a range must end at or before write_pos = {write_pos}, but ends at {end}")]
    RangeBeyondWritten {
        /// End of the range.
        end: u32,
        /// The largest length of any sequence.
        write_pos: u32,
    },
    /// The caller's buffer lacks a usage.
    #[error("the buffer of {side} must have {needed}, but has {actual}")]
    BufferUsage {
        /// Keys or values.
        side: Side,
        /// The missing usage.
        needed: &'static str,
        /// The usages it has.
        actual: String,
    },
    /// The caller's buffer ends before the last row.
    #[error(
        "the buffer of {side} must hold {needed} bytes for this offset, these strides and tokens (bindings end on \
         a multiple of 4), but holds {actual}"
    )]
    BufferRange {
        /// Keys or values.
        side: Side,
        /// Bytes from the buffer's start to the end of the last row, rounded up to 4.
        needed: u64,
        /// The buffer's size.
        actual: u64,
    },
    /// An offset is not a multiple of what it must be.
    #[error("the offset of {side} must be a multiple of {alignment} bytes, but is {offset}")]
    Misaligned {
        /// Keys or values.
        side: Side,
        /// The offset given, in bytes.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// The cache's own storage was given as source or destination.
    #[error("the buffer of {side} must not be the cache's own storage: one dispatch cannot read and write one buffer")]
    OwnStorage {
        /// Keys or values.
        side: Side,
    },
    /// Keys and values of a `get` would be written over each other.
    #[error("the destinations of keys and values must not overlap, but both hold byte {byte} of one buffer")]
    DestinationsOverlap {
        /// The first byte that both hold.
        byte: u64,
    },
    /// An update of more tokens than a bound object has room for.
    #[error("the {name} must have room for the {tokens} tokens of the update, but was bound for {bound}")]
    MoreTokensThanBound {
        /// `source` or `queries`.
        name: &'static str,
        /// Tokens of the update.
        tokens: u32,
        /// Tokens that it was bound for.
        bound: u32,
    },
    /// A source that was bound to another layer or cache.
    #[error("the source must be bound to the layer that it updates, but belongs to another")]
    ForeignSource,
    /// A head size or format for which two tensors cannot be compared.
    #[error("tensors must have equal shapes and formats to be compared, but are {left} and {right}")]
    NotComparable {
        /// Shape and format of the one.
        left: String,
        /// Shape and format of the other.
        right: String,
    },
    /// A name that is no number format.
    #[error("a format must be one of {}, but is \"{name}\"", Format::NAMES.join(", "))]
    UnknownFormat {
        /// The name given.
        name: String,
    },
}

/// How much memory is missing.
fn shortage(bytes: u64) -> String {
    if bytes == 0 { "needs more than there is".to_owned() } else { format!("of {bytes} bytes could not be allocated") }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The rule's stable name, such as `write_beyond_capacity`: the variant's in lower case.
    ///
    /// ```
    /// use wgpu_kv_cache::Error;
    /// assert_eq!(Error::NoTokens.kind(), "no_tokens");
    /// assert_eq!(Error::RangeReversed { start: 2, end: 1 }.kind(), "range_reversed");
    /// ```
    #[must_use]
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        let name = text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
        let mut kind = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !kind.is_empty() {
                kind.push('_');
            }
            kind.extend(letter.to_lowercase());
        }
        kind
    }
}
