// flat: the grid for runs that are shorter than a workgroup, such as the single rows of a decoding step. A unit is the
// work of one thread on each side; planes/ and format/ define it. The kernel defines `chunk`.
//
// Grid:    x and y together count threads, in workgroups. Thread i handles item i of [run, head, unit] of the chunk,
//          where a thread may have several heads, and the length of sequence i.
// Bounds:  set_length drops the sequences past the batch; write_unit drops places outside of the chunk, and units past
//          the end of a run.

#import ../step/place.wgsl
#import ../step/lengths.wgsl
#import heads/{one,several}.wgsl

override UNITS_OF_RUN: u32; // units in the longest run, of the side that has more of them

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    let index = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    set_length(index);
    let item = index / UNITS_OF_RUN * HEADS_OF_THREAD;
    let place = place_of(item, chunk.first_plane, chunk.planes, chunk.segment_plane);
    write_heads(place, index % UNITS_OF_RUN, local);
}
