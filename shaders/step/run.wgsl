// run: what one operation does, as a flat list of runs. It knows groups of planes and slots only, so all layers at the
// same position share it.
//
// A step comes to a kernel by one of two ways: step/ring for any step, and step/immediate for one that does the same to
// all sequences, on devices that have immediates. Both define `step_runs()` and `step_run(i)`, in the order of groups;
// and `step_sequences()`, `step_length(i)` and `step_start(i)`, the lengths of the sequences afterwards and the
// positions of the first rows that are written.

// Contiguous slots of one group of planes, and the rows of the source, or of the output, that belong to them.
struct Run {
    group: u32,    // of planes, one a head: a sequence of the cache
    sequence: u32, // of the source
    first: u32,    // slot of the first row touched; rows [first, start) become zero
    start: u32,    // slot of the first row that is copied
    end: u32,      // slot after the last row that is copied
    token: u32,    // row of the source, or of the output, that belongs to `start`
}
