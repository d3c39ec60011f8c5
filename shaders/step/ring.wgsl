// ring: reads the step from a slot of a ring in a storage buffer, bound at a dynamic offset.
//
// Bounds:  the host ensures that the slot holds `room` lengths and starts, and all runs.

#import run.wgsl

struct Step {
    sequences: u32,
    runs: u32,
    room: u32,           // number of lengths, and of starts, in `numbers`
    numbers: array<u32>, // lengths [room], starts [room], runs [run, member]
}

@group(1) @binding(0) var<storage, read> step: Step;

fn step_runs() -> u32 {
    return step.runs;
}

fn step_run(index: u32) -> Run {
    let at = 2u * step.room + 6u * index;
    return Run(
        step.numbers[at],
        step.numbers[at + 1u],
        step.numbers[at + 2u],
        step.numbers[at + 3u],
        step.numbers[at + 4u],
        step.numbers[at + 5u],
    );
}

fn step_sequences() -> u32 {
    return step.sequences;
}

fn step_length(sequence: u32) -> u32 {
    return step.numbers[sequence];
}

fn step_start(sequence: u32) -> u32 {
    return step.numbers[step.room + sequence];
}
