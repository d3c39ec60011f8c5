// runs: the grid for runs of any length. A unit is the work of one thread on each side; planes/ and format/ define it.
// The kernel defines `chunk`, and scatter/write defines `write_unit`.
//
// Grid:    x and z together count units of one run, in workgroups; y counts [run, head] of the chunk. The first
//          workgroup of each y also sets the lengths of as many sequences as it has threads.
// Bounds:  set_length drops the sequences past the batch; write_unit drops places outside of the chunk.

#import ../step/place.wgsl
#import ../step/lengths.wgsl

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    if group.x == 0u && group.z == 0u {
        set_length(group.y * WORKGROUP_SIZE + local);
    }
    let place = place_of(group.y, chunk.first_plane, chunk.planes, chunk.segment_plane);
    write_unit(place, (group.z * groups.x + group.x) * WORKGROUP_SIZE + local, local);
}
