// positions: writes the position of the first row that a step writes in each sequence, for the caller's kernels, such
// as RoPE.
//
// Grid:    x and y together count sequences, in workgroups.
// Shapes:  starts   [sequence]
// Bounds:  the kernel drops the sequences past the batch.

#import ../step/workgroup.wgsl
#import ../step/{ring,immediate}.wgsl

@group(0) @binding(0) var<storage, read_write> starts: array<u32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn positions(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let sequence = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    if sequence < step_sequences() {
        starts[sequence] = step_start(sequence);
    }
}
