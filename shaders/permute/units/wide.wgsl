// wide: moves 16 bytes of a plane per thread. Requires rows that are multiples of 16 bytes.
//
// Unit:    one vector of a plane.
// Shapes:  side_planes   [plane, slot, dim], in vectors of 16 bytes
// Bounds:  a unit past the end of the plane is dropped.

#import ../../planes/side.wgsl as side

override SIDE_ROW_VECTORS: u32; // vectors in a row

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_planes: array<vec4<u32>>;

fn side_permute(head: u32, unit: u32) {
    let slot = unit / SIDE_ROW_VECTORS;
    if slot >= SIDE_SLOTS {
        return;
    }
    var aside = vec4<u32>();
    for (var i = 0u; i < selection.moves; i++) {
        let copied = move_of(SIDE_INDEX, i);
        if slot < copied.first || slot >= copied.end {
            continue;
        }
        var bits = aside;
        if copied.source != ASIDE {
            bits = side_planes[(copied.source * HEADS + head) * SIDE_SLOTS * SIDE_ROW_VECTORS + unit];
        }
        if copied.destination == ASIDE {
            aside = bits;
        } else {
            side_planes[(copied.destination * HEADS + head) * SIDE_SLOTS * SIDE_ROW_VECTORS + unit] = bits;
        }
    }
}
