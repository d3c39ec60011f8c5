// step_ring: the step in a slot of a ring of storage, at a dynamic offset.

struct Step {
    sequences: u32,
    runs: array<Run>,
}

@group(1) @binding(0) var<storage, read> step: Step;

fn step_sequences() -> u32 {
    return step.sequences;
}

fn step_run(index: u32) -> Run {
    return step.runs[index];
}
