// place: finds the run and the plane of an item of the grid, for a dispatch over some planes of one segment.
//
// The items are [run, head]: the runs of all groups that the dispatch has planes of, and the heads of each. If a grid
// cannot hold all heads, they are HEADS_AT_ONCE heads from the head of the first plane on.

#import {ring,immediate}.wgsl

override HEADS: u32;
override HEADS_AT_ONCE: u32;
// Whether some dispatch does not begin with the first plane of the cache.
override HAS_PARTS: bool;

struct Place {
    plane: u32, // counted inside the segment
    head: u32,
    inside: bool, // whether the run exists and the dispatch covers the plane
    run: Run,
}

// Returns the index of the first run of `group` or of a later group, by binary search.
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

// Returns the place of item `index` of [run, head]. The dispatch covers `planes` planes, from `first_plane` of the
// cache on, which is `segment_plane` of the segment.
fn place_of(index: u32, first_plane: u32, planes: u32, segment_plane: u32) -> Place {
    var run = index / HEADS_AT_ONCE;
    var head = index % HEADS_AT_ONCE;
    if HAS_PARTS {
        run += first_run_of(first_plane / HEADS);
        if HEADS_AT_ONCE < HEADS {
            head += first_plane % HEADS;
        }
    }
    // No early return: a software driver would execute everything after it under a mask.
    let runs = step_runs();
    let step_run = step_run(min(run, max(runs, 1u) - 1u));
    let plane = step_run.group * HEADS + head - first_plane;
    return Place(segment_plane + plane, head, run < runs && plane < planes, step_run);
}
