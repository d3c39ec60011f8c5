// gather: copies a range of rows of keys or values into a dense tensor, as stored bits or in another format. Rows that
// a sequence does not have are the gap of a run, and are written as zero whatever the storage holds there.
//
// Grid:    x and z together count units of one run's output, in workgroups; y counts [run, head] of the window. If runs
//          are short, x alone counts units, and y and z together [run, head], of which there may be many.
// Shapes:  planes   [plane, slot, dim], one segment of the cache
//          output   [sequence, head, row, dim], a window of the destination
// Bounds:  the host ensures that the window holds the output and that every run lies inside its plane; the kernel drops
//          the units past the end of a run's output.

#import ../step/workgroup.wgsl
#import ../step/place.wgsl
#import units/{wide,narrow}.wgsl

override SLOTS: u32; // rows of a plane
override LANES: u32; // elements in a word of the output: 2 for a 16-bit format, else 1
override SHORT_RUNS: bool;

struct Window {
    first_plane: u32,   // the window's first plane, counted over the whole cache
    planes: u32,
    segment_plane: u32, // the same plane, counted inside its segment
    scale: u32,         // scale of the side, as the bits of an f32
    first_row: u32,     // first row of each plane's output that the window holds
    rows: u32,          // rows of each plane's output that the window holds
    offset: u32,        // elements from the start of the output binding to the window's first row
    output_plane: u32,  // first plane of the output in the window, counted by [sequence, head]
}

@group(0) @binding(0) var<uniform> window: Window;

// The part of a run whose output rows are in the window.
struct Part {
    slot: u32, // slot of the first row
    rows: u32,
    row: u32,  // output row of the first row, counted inside the window
}

fn part_of(run: Run) -> Part {
    let first = run.token - (run.start - run.first);
    let begin = max(first, window.first_row);
    let end = min(run.token + (run.end - run.start), window.first_row + window.rows);
    return Part(run.first + (begin - first), max(begin, end) - begin, begin - window.first_row);
}

// The plane of the output, counted inside the window.
fn output_plane(place: Place) -> u32 {
    return place.run.sequence * HEADS + place.head - window.output_plane;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let item = select(group.y, group.z * groups.y + group.y, SHORT_RUNS);
    let part = select(group.z * groups.x + group.x, group.x, SHORT_RUNS);
    let place = place_of(item, window.first_plane, window.planes, window.segment_plane);
    if place.inside {
        gather_unit(place, part_of(place.run), part * WORKGROUP_SIZE + local);
    }
}
