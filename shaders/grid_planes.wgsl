// grid_planes: for runs of any length. A unit is what planes_narrow or planes_wide write of each side in one go.
//
// Grid:    x and z together count units of one run, in workgroups; y counts [plane, run] of the chunk, and goes round
//          where there are more than a grid is high.

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    let unit = (group.z * groups.x + group.x) * WORKGROUP_SIZE + local;
    for (var plane_run = group.y; plane_run < chunk.planes * RUNS_PER_SEQUENCE; plane_run += groups.y) {
        write_unit(plane_run, unit);
    }
}
