// rows: the grid for runs of at most one row, such as those of a decoding step. A unit is the work of one thread on
// each side; planes/ and format/ define it. The kernel defines `chunk`, and scatter/write defines `write_unit`.
//
// Grid:    x and y together count threads, in workgroups. Thread i handles item i of [run, head, unit] of the chunk,
//          and the length of sequence i.
// Bounds:  set_length drops the sequences past the batch; write_unit drops places outside of the chunk.

#import ../step/place.wgsl
#import ../step/lengths.wgsl

override UNITS_OF_ROW: u32; // units in a row of the side that has more of them

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    let index = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    set_length(index);
    let place = place_of(index / UNITS_OF_ROW, chunk.first_plane, chunk.planes, chunk.segment_plane);
    write_unit(place, index % UNITS_OF_ROW, local);
}
