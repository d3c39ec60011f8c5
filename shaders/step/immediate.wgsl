// immediate: reads the step from immediates. Every sequence has the same single run, or none has a run; all have the
// same length and start.

#import run.wgsl

struct Step {
    sequences: u32,
    runs: u32,
    first: u32,
    start: u32,
    end: u32,
    token: u32,
    length: u32,
    position: u32,
}

var<immediate> step: Step;

fn step_runs() -> u32 {
    return step.runs;
}

fn step_run(index: u32) -> Run {
    return Run(index, index, step.first, step.start, step.end, step.token);
}

fn step_sequences() -> u32 {
    return step.sequences;
}

fn step_length(sequence: u32) -> u32 {
    return step.length;
}

fn step_start(sequence: u32) -> u32 {
    return step.position;
}
