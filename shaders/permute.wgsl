// permute: gives sequences of a batch the rows of others, in place, and sets the lengths. A thread moves one unit of
// one head through all sequences, one hop after the other, so that nothing is overwritten before it was read: the host
// has put the hops in such an order, and lets a cycle start by keeping a unit aside.
//
// Grid:    x and z together count units of a plane, in workgroups; y counts heads. Layers are done one after the other.
// Shapes:  hops   [layer, hop and then sequence]
// Bounds:  the host proves that every sequence and slot of a hop is there; the kernel drops the units past the end.

struct Selection {
    hops: u32,
    sequences: u32, // of the batch; their new lengths follow the hops of a layer, as `source`
    starts: u32,    // index of the first start among a layer's lengths
    spare: u32,
}

struct Hop {
    source: u32,      // sequence, or ASIDE
    destination: u32, // sequence, or ASIDE
    first_0: u32,     // slots [first, end) of three pieces are moved
    end_0: u32,
    first_1: u32,
    end_1: u32,
    first_2: u32,
    end_2: u32,
}

const ASIDE = 0xffffffffu;

@group(0) @binding(0) var<uniform> selection: Selection;
@group(0) @binding(1) var<storage, read> hops: array<Hop>;

// Hop or length `index` of a layer.
fn hop_of(layer: u32, index: u32) -> Hop {
    return hops[layer * (selection.hops + selection.sequences) + index];
}

fn moves(hop: Hop, slot: u32) -> bool {
    return (slot >= hop.first_0 && slot < hop.end_0)
        || (slot >= hop.first_1 && slot < hop.end_1)
        || (slot >= hop.first_2 && slot < hop.end_2);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn permute(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = (group.z * groups.x + group.x) * WORKGROUP_SIZE + local;
    permute_unit(group.y, unit);
}
