// step_ring: the step in a slot of a ring of storage, at a dynamic offset.

@group(1) @binding(0) var<storage, read> step: array<Run>;

fn step_run(index: u32) -> Run {
    return step[index];
}
