// runs: the grid for runs of any length. A unit is what a side writes in one go.
//
// Grid:    x and z together count units of one run, in workgroups; y counts [run, head] of the chunk, and sequences.

#import ../step/place.wgsl
#import ../step/lengths.wgsl

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    if group.x == 0u && group.z == 0u {
        set_length(group.y * WORKGROUP_SIZE + local);
    }
    let place = place_of(group.y, chunk.first_plane, chunk.planes, chunk.segment_plane);
    write_unit(place, (group.z * groups.x + group.x) * WORKGROUP_SIZE + local, local);
}
