// advance: makes rows valid that the caller's own kernels have written into the cache: sets the lengths
// of the sequences and zeroes the gap in front of the new rows. The rows themselves are not touched.
//
// Grid:    as in units, over the rows of the gaps.
// Shapes:  key_planes, value_planes   [plane, slot, dim], one segment of the cache
// Bounds:  as in scatter.

struct Chunk {
    first_plane: u32,   // the segment's first plane, counted over the whole cache
    planes: u32,
    segment_plane: u32, // 0: the chunk is the whole segment
    heads: u32,         // KV heads of the cache
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn advance(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = unit_of(group, groups, local);
    if !unit.exists {
        return;
    }
    set_length(unit, group.z);
    write_unit(unit, group.z, Run(unit.run.first, unit.run.start, unit.run.start, 0u, 0u));
}
