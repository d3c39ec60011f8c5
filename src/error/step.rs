//! [`StepError`].

/// An object or a call does not belong to this cache, or to its current step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A layer that the step does not know, or not any more.
    #[error(
        "layer {layer} has no step to record: begin_step must come first, each layer is recorded once, and nothing else may \
         change it in between"
    )]
    NoStep {
        /// The layer.
        layer: usize,
    },
    /// An attention over the rows of a step that are not recorded yet.
    #[error("the rows of the step that was begun must be recorded for a layer before its attention")]
    StepNotRecorded,
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
    /// A list with one entry per layer has another number of entries.
    #[error("there must be {name} for each of the {num_layers} layers, but there are {actual}")]
    LayerCount {
        /// `rows` or `a source`.
        name: &'static str,
        /// How many layers there are.
        num_layers: usize,
        /// How many were given.
        actual: usize,
    },
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
    /// An update of more tokens than a bound object has room for.
    #[error("the {name} must have room for the {tokens} tokens of the step, but was bound for {bound}")]
    MoreTokensThanBound {
        /// `source`, `queries`, or `packed queries`, whose tokens are those of all sequences.
        name: &'static str,
        /// Tokens of the update, or of the queries at the last positions.
        tokens: u32,
        /// Tokens that it was bound for.
        bound: u32,
    },
    /// A layer that was put in place of one of the cache's own.
    #[error("layer {layer} must be the one that the cache was made with, but is another")]
    ForeignLayer {
        /// The layer.
        layer: usize,
    },
    /// A source that was bound to another layer or cache.
    #[error("the source must be bound to the layer that it updates, but belongs to another")]
    ForeignSource,
    /// An attention that was made for another layer or cache.
    #[error("an attention must be recorded for the layer that it was made for, but this is another")]
    ForeignAttention,
    /// A checkpoint of another cache.
    #[error("a checkpoint must be restored by the cache that it was made of, but this is another")]
    ForeignCheckpoint,
}
