// place: where in the cache a run of the chunk lies, and the new length of its sequence. For scatter and advance.
//
// Shapes:  lengths   [sequence], then [sequence] of starts: the positions of the first rows just written

@group(0) @binding(0) var<uniform> chunk: Chunk;
@group(0) @binding(1) var<storage, read_write> lengths: array<u32>;

const KEEP_LENGTH = 0xffffffffu;

struct Place {
    plane: u32,     // counted inside the segment
    sequence: u32,
    head: u32,
    first_run: u32, // of the sequence, in the step
    run: Run,
}

// Eight elements as stored: one vector of a 16-bit format, two of a 32-bit one.
struct Eight {
    low: vec4<u32>,
    high: vec4<u32>,
}

// `plane_run` counts [plane, run] inside the chunk.
fn place_of(plane_run: u32) -> Place {
    let plane = plane_run / RUNS_PER_SEQUENCE;
    let sequence = (chunk.first_plane + plane) / HEADS;
    let head = (chunk.first_plane + plane) % HEADS;
    let first_run = sequence * RUNS_PER_SEQUENCE;
    let run = step_run(first_run + plane_run % RUNS_PER_SEQUENCE);
    return Place(chunk.segment_plane + plane, sequence, head, first_run, run);
}

// The planes of the chunk that belong to sequences of the batch.
fn planes_of_batch() -> u32 {
    return min(chunk.planes, step_sequences() * HEADS - chunk.first_plane);
}

// One invocation sets the length and the start of each sequence of the chunk.
fn set_length(plane_run: u32, unit: u32, place: Place) {
    let first = unit == 0u && (plane_run == 0u || place.head == 0u) && plane_run % RUNS_PER_SEQUENCE == 0u;
    if first && place.run.length != KEEP_LENGTH {
        lengths[place.sequence] = place.run.length;
        lengths[chunk.starts + place.sequence] = place.run.position;
    }
}
