// none: a side that is not quantised to blocks, beside one that is.

#import ../write/staged.wgsl

fn side_stage(place: Place, run: Run, unit: u32, local: u32) -> Staged {
    return Staged();
}

fn side_finish(place: Place, run: Run, unit: u32, local: u32) {
    side_write(place, run, unit);
}

fn side_put(place: Place, run: Run, unit: u32, local: u32, staged: Staged) {
}
