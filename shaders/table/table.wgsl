// table: sets words of a block table, and of the numbers that lie before it (`TableLayout`), as a step changes them.
//
// Grid:    x and y together count changes, in workgroups.
// Shapes:  words   the table with all that lies before it
// Bounds:  the host ensures that every index is inside; the kernel drops the threads past the last change.

#import ../step/workgroup.wgsl

struct Changes {
    count: u32,
    spare: u32,
    changes: array<vec2<u32>>, // (index, word)
}

@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(1) @binding(0) var<storage, read> step: Changes;

@compute @workgroup_size(WORKGROUP_SIZE)
fn table(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    if index < step.count {
        let change = step.changes[index];
        words[change.x] = change.y;
    }
}
