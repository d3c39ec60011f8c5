// run: the runs of a step. A step is the effect of one operation: a flat list of runs, and the new lengths. It refers
// only to groups of planes and to slots, so all layers at the same position share it.
//
// A kernel reads a step by one of two files: step/ring reads any step; step/immediate reads a step that does the same
// to every sequence, on devices that have immediates. Both define `step_runs()`, the number of runs; `step_run(i)`,
// ordered by group; `step_sequences()`, the number of sequences that get new lengths; `step_length(i)`, the new length;
// and `step_start(i)`, the position of the first row written.

// Contiguous slots in one group of planes, and the rows of the source or of the output that belong to them.
struct Run {
    group: u32,    // group of planes, one per head: a sequence of the cache
    sequence: u32, // sequence of the source
    first: u32,    // slot of the first row touched; rows [first, start) become zero
    start: u32,    // slot of the first row that is copied
    end: u32,      // slot after the last row that is copied
    token: u32,    // row of the source, or of the output, that belongs to `start`
}
