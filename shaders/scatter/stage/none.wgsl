// none: a side that is not quantised to blocks, if the other side is. It needs no other threads, so only `side_finish`
// does anything.

#import ../write/staged.wgsl

fn side_stage(place: Place, run: Run, unit: u32, local: u32) -> Staged {
    return Staged();
}

fn side_finish(place: Place, run: Run, unit: u32, local: u32) {
    side_write(place, run, unit);
}

fn side_put(place: Place, run: Run, unit: u32, local: u32, staged: Staged) {
}
