// runs: the grid for runs of any length. A unit is the work of one thread on each side; planes/ and format/ define it.
// The kernel defines `chunk`.
//
// Grid:    x and z together count units of one run, in workgroups; y counts [run, head] of the chunk, where a thread
//          may have several heads. If runs are short, x alone counts units, and y and z together [run, head], of which
//          there may be many. The first workgroup of each [run, head] also sets the lengths of as many sequences as it
//          has threads.
// Bounds:  set_length drops the sequences past the batch; write_unit drops places outside of the chunk.

#import ../step/place.wgsl
#import ../step/lengths.wgsl
#import heads/{one,several}.wgsl

override SHORT_RUNS: bool;

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    let item = select(group.y, group.z * groups.y + group.y, SHORT_RUNS);
    let part = select(group.z * groups.x + group.x, group.x, SHORT_RUNS);
    if part == 0u {
        set_length(item * WORKGROUP_SIZE + local);
    }
    let place = place_of(item * HEADS_OF_THREAD, chunk.first_plane, chunk.planes, chunk.segment_plane);
    write_heads(place, part * WORKGROUP_SIZE + local, local);
}
