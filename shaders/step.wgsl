// Step: what one operation does to each sequence. It knows sequences and slots only, so all layers at the same
// position share it.
//
// There are two ways to a kernel: step_ring for any step, and step_immediate for one that does the same to all
// sequences, on devices that have immediates. Both define `step_sequences()`, the sequences of the batch, and
// `step_run(i)`, run i of [sequence, run]: RUNS_PER_SEQUENCE contiguous runs of slots for each sequence. An empty run
// has first == start == end.

struct Run {
    first: u32,    // slot of the first row touched; rows [first, start) become zero
    start: u32,    // slot of the first row that holds a token
    end: u32,      // slot after the last row that holds a token
    token: u32,    // row of the source (or of the output of a gather) that belongs to `start`
    length: u32,   // the sequence's length afterwards
    position: u32, // of the first token that is written; the length where none is
}
