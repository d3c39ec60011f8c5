// step_immediate: the step in the command itself, where every sequence has the same single run.

var<immediate> step: Run;

fn step_run(index: u32) -> Run {
    return step;
}
