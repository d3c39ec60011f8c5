// gather: copies a range of rows of keys or of values into a dense tensor, as stored bits or in another format. Rows
// that a sequence does not have come out as zero, whatever the storage holds there.
//
// Grid:    x and z together count units of one plane's output, in workgroups; y counts planes of the window.
// Shapes:  planes   [plane, slot, dim], one segment of the cache
//          output   [sequence, head, row, dim], a window of the destination
// Bounds:  the host proves that the window holds the output and that every run lies inside its plane;
//          the kernel drops the units past the end of a plane's output.

struct Window {
    first_plane: u32,   // the window's first plane, counted over the whole cache
    planes: u32,
    segment_plane: u32, // the same plane, counted inside its segment
    scale: u32,         // of what is stored, as the bits of an f32
    first_row: u32,     // rows of the output that the window holds of each of its planes
    rows: u32,
    offset: u32,        // elements from the start of the output binding to the window's first row
    spare_1: u32,
}

const NOWHERE = 0xffffffffu;

@group(0) @binding(0) var<uniform> window: Window;

fn slot_in(run: Run, row: u32) -> u32 {
    if row >= run.token && row - run.token < run.end - run.start {
        return run.start + (row - run.token);
    }
    return NOWHERE;
}

// The slot that holds row `row` of the output, or NOWHERE. Three runs at most, written out: a loop, however short,
// makes a kernel on a software driver half as fast.
fn slot_of(plane: u32, row: u32) -> u32 {
    let first = (window.first_plane + plane) / HEADS * RUNS_PER_SEQUENCE;
    var slot = slot_in(step_run(first), row);
    if RUNS_PER_SEQUENCE == 3u {
        slot = min(slot, min(slot_in(step_run(first + 1u), row), slot_in(step_run(first + 2u), row)));
    }
    return slot;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    gather_unit(group.y, (group.z * groups.x + group.x) * WORKGROUP_SIZE + local);
}
