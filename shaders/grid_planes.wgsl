// grid_planes: for runs of any length. A unit is what planes_narrow or planes_wide write of each side in one go.
//
// Grid:    x and z together count units of one run, in workgroups; y counts [plane, run] of the chunk.

fn each_unit(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    write_unit(group.y, (group.z * groups.x + group.x) * WORKGROUP_SIZE + local, local, true);
}
