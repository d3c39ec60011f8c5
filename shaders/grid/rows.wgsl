// rows: the grid for runs of at most one row, such as a step of decoding. A unit is what a side writes in one go.
//
// Grid:    x and y together count [run, head, unit] of the chunk, and sequences, in workgroups.

#import ../step/place.wgsl
#import ../step/lengths.wgsl

override UNITS_OF_ROW: u32;

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    let index = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    set_length(index);
    let place = place_of(index / UNITS_OF_ROW, chunk.first_plane, chunk.planes, chunk.segment_plane);
    write_unit(place, index % UNITS_OF_ROW, local);
}
