// grid_rows_together: grid_rows for threads that write together, all of which come to write_unit.
//
// Grid:    x and y together count [plane, run, unit] of the chunk, in workgroups.

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    let index = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    let inside = index < planes_of_batch() * RUNS_PER_SEQUENCE * UNITS_OF_ROW;
    write_unit(select(0u, index / UNITS_OF_ROW, inside), index % UNITS_OF_ROW, local, inside);
}
