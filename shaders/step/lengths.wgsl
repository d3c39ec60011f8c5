// lengths: sets the lengths of the sequences. The kernel defines `chunk`.
//
// Shapes:  lengths   [sequence], then starts [sequence] (positions of the first rows just written), then the scales of
//                    keys and of values, as the bits of f32

#import {ring,immediate}.wgsl

@group(0) @binding(1) var<storage, read_write> lengths: array<u32>;

// `chunk.sequences` is 0 in all but one dispatch of a layer, so each length is stored once.
fn set_length(sequence: u32) {
    if sequence < min(step_sequences(), chunk.sequences) {
        lengths[sequence] = step_length(sequence);
        lengths[chunk.sequences + sequence] = step_start(sequence);
    }
}
