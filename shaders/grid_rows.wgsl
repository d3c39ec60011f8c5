// grid_rows: for runs of at most one row, such as a step of decoding. A unit is what planes_narrow or planes_wide
// write of each side in one go.
//
// Grid:    x and y together count [plane, run, unit] of the chunk, in workgroups.

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    let index = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    if index < planes_of_batch() * RUNS_PER_SEQUENCE * UNITS_OF_ROW {
        write_unit(index / UNITS_OF_ROW, index % UNITS_OF_ROW, local, true);
    }
}
