// narrow: moves one word of a plane per thread. Works for every head size.
//
// Unit:    one word of a plane.
// Shapes:  side_planes   [plane, slot, dim], in words
// Bounds:  a unit past the end of the plane is dropped; the bits of rows that do not move are kept.

#import ../../planes/side.wgsl as side

override SIDE_LANE_MASK: u32;  // bits of one element in a word's lowest lane
override SIDE_CODE_UNITS: u32; // elements in a row, or words of codes if it is packed

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_planes: array<u32>;

// Returns the slot of a lane of a word. In packed planes the scales follow the codes of all slots.
fn side_slot(unit: u32, lane: u32) -> u32 {
    if SIDE_SCALE_WORDS > 0u && unit >= SIDE_SLOTS * SIDE_CODE_UNITS {
        return (unit - SIDE_SLOTS * SIDE_CODE_UNITS) / max(SIDE_SCALE_WORDS, 1u);
    }
    return (unit * SIDE_LANES + lane) / SIDE_CODE_UNITS;
}

// Returns the mask of the bits of a word that a move copies.
fn side_copied(copied: Move, unit: u32) -> u32 {
    let slot = side_slot(unit, 0u);
    var mask = select(0u, SIDE_LANE_MASK, slot >= copied.first && slot < copied.end);
    if SIDE_LANES == 2u {
        let next = side_slot(unit, 1u);
        mask |= select(0u, 0xffff0000u, next >= copied.first && next < copied.end);
    }
    return mask;
}

fn side_permute(head: u32, unit: u32) {
    if unit >= SIDE_PLANE_WORDS {
        return;
    }
    var aside = 0u;
    for (var i = 0u; i < selection.moves; i++) {
        let copied = move_of(SIDE_INDEX, i);
        let mask = side_copied(copied, unit);
        if mask == 0u {
            continue;
        }
        var bits = aside;
        if copied.source != ASIDE {
            bits = side_planes[(copied.source * HEADS + head) * SIDE_PLANE_WORDS + unit];
        }
        let at = (copied.destination * HEADS + head) * SIDE_PLANE_WORDS + unit;
        if copied.destination == ASIDE {
            aside = bits;
        } else if mask == 0xffffffffu {
            side_planes[at] = bits;
        } else {
            side_planes[at] = (side_planes[at] & ~mask) | (bits & mask);
        }
    }
}
