// permute: copies rows between the sequences of a batch, in place, and sets the lengths (`select`). A thread moves one
// unit of one head, in all sequences, one move after the other. The host orders the moves so that every row is read
// before it is overwritten. It breaks a cycle by a move to ASIDE, a register of the thread.
//
// Grid:    x and z together count units of a plane, in workgroups; y counts heads. A thread does the layers one after
//          the other.
// Shapes:  selected   [layer, move, member], then the new lengths, [layer, sequence]
// Bounds:  the host ensures that every group and slot of a move exists; the kernel drops the units past the end.

#import ../step/workgroup.wgsl
#for layer in LAYERS
#import layer.wgsl as layer_{layer}
#end

override HEADS: u32;
override LAYERS: u32;

struct Selection {
    moves: u32,     // moves of each layer
    sequences: u32, // sequences in the new batch
    starts: u32,    // index of the first start in a layer's lengths
    spare: u32,
}

// Copies the slots [first, end) of one group of planes to another.
struct Move {
    source: u32,      // group, or ASIDE
    destination: u32, // group, or ASIDE
    first: u32,
    end: u32,
}

const ASIDE = 0xffffffffu;

@group(0) @binding(0) var<uniform> selection: Selection;
@group(0) @binding(1) var<storage, read> selected: array<u32>;

fn move_of(layer: u32, index: u32) -> Move {
    let at = (layer * selection.moves + index) * 4u;
    return Move(selected[at], selected[at + 1u], selected[at + 2u], selected[at + 3u]);
}

fn length_of(layer: u32, sequence: u32) -> u32 {
    return selected[LAYERS * selection.moves * 4u + layer * selection.sequences + sequence];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn permute(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = (group.z * groups.x + group.x) * WORKGROUP_SIZE + local;
#for layer in LAYERS
    layer_{layer}_permute(group.y, unit);
#end
}
