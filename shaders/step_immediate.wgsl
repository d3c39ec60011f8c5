// step_immediate: the step in the command itself, where every sequence has the same single run.

struct Step {
    sequences: u32,
    run: Run,
}

var<immediate> step: Step;

fn step_sequences() -> u32 {
    return step.sequences;
}

fn step_run(index: u32) -> Run {
    return step.run;
}
