// stage_none: a side that is not quantised to blocks, beside one that is. Joined once as key_ or once as value_.

fn side_stage(place: Place, run: Run, unit: u32, local: u32) -> Staged {
    return Staged();
}

fn side_finish(place: Place, run: Run, unit: u32, local: u32) {
    side_write_alone(place, run, unit);
}

fn side_write(place: Place, run: Run, unit: u32, local: u32, staged: Staged) {
}
