// lengths: sets the lengths of the sequences. `chunk` is the kernel's.
//
// Shapes:  lengths   [sequence], then [sequence] of starts: the positions of the first rows just written

#import {ring,immediate}.wgsl

@group(0) @binding(1) var<storage, read_write> lengths: array<u32>;

// Of the dispatches of a layer one has the sequences.
fn set_length(sequence: u32) {
    if sequence < min(step_sequences(), chunk.sequences) {
        lengths[sequence] = step_length(sequence);
        lengths[chunk.sequences + sequence] = step_start(sequence);
    }
}
