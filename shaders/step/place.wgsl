// place: which run and which plane an item of the grid is, for a dispatch on some planes of one segment.
//
// y of the grid, or a part of a count, is [run, head] of the dispatch: the runs of all groups of which it has planes,
// and all heads of each, or HEADS_AT_ONCE from a first one on where not all fit a grid.

#import {ring,immediate}.wgsl

override HEADS: u32;
override HEADS_AT_ONCE: u32;
// Some dispatch begins with another plane than the first of the cache.
override HAS_PARTS: bool;

struct Place {
    plane: u32, // counted inside the segment
    head: u32,
    inside: bool,
    run: Run,
}

// The first run of a group, or of one after it.
fn first_run_of(group: u32) -> u32 {
    var low = 0u;
    var high = step_runs();
    while low < high {
        let middle = (low + high) / 2u;
        if step_run(middle).group < group {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

// Run and plane of item `index` of [run, head], for the planes of the segment from `segment_plane` on, which are
// `planes` from `first_plane` of the cache on.
fn place_of(index: u32, first_plane: u32, planes: u32, segment_plane: u32) -> Place {
    var run = index / HEADS_AT_ONCE;
    var head = index % HEADS_AT_ONCE;
    if HAS_PARTS {
        run += first_run_of(first_plane / HEADS);
        if HEADS_AT_ONCE < HEADS {
            head += first_plane % HEADS;
        }
    }
    // Without a branch: a software driver would run what follows under a mask.
    let runs = step_runs();
    let step_run = step_run(min(run, max(runs, 1u) - 1u));
    let plane = step_run.group * HEADS + head - first_plane;
    return Place(segment_plane + plane, head, run < runs && plane < planes, step_run);
}
