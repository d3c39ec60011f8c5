// Step: what one operation does to each sequence.
//
// The host plans it, writes it into one slot of a ring, and every dispatch of the operation reads it
// at a dynamic offset. It knows sequences and slots only, so all layers at the same position share it.
//
//   runs: [sequence, run]   `runs_per_sequence` contiguous runs of slots for each sequence; an empty
//                           run has first == start == end.

struct Run {
    first: u32,  // slot of the first row touched; rows [first, start) become zero
    start: u32,  // slot of the first row that holds a token
    end: u32,    // slot after the last row that holds a token
    token: u32,  // row of the source (or of the output of a gather) that belongs to `start`
    length: u32, // the sequence's length afterwards
}

struct Step {
    rows: u32,              // scatter: the most rows of any run, end - first; advance: the most rows of any gap,
                            // at least 1; gather: rows of the output
    runs_per_sequence: u32,
    spare_0: u32,
    spare_1: u32,
    runs: array<Run>,
}

@group(1) @binding(0) var<storage, read> step: Step;
