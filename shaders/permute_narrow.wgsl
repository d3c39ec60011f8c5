// permute_narrow: one word of a plane a unit, for every head size. The bits of a row that is not moved stay. Joined
// once as key_ and once as value_.

@group(0) @binding(SIDE_PLANES_BINDING) var<storage, read_write> side_planes: array<u32>;

// The slot of a lane of a word. The scales of packed rows lie behind the codes of all slots.
fn side_slot(unit: u32, lane: u32) -> u32 {
    if SIDE_SCALE_WORDS > 0u && unit >= SIDE_SLOTS * SIDE_CODE_UNITS {
        return (unit - SIDE_SLOTS * SIDE_CODE_UNITS) / max(SIDE_SCALE_WORDS, 1u);
    }
    return (unit * SIDE_LANES + lane) / SIDE_CODE_UNITS;
}

// The bits of a word that a hop moves.
fn side_moved(hop: Hop, unit: u32) -> u32 {
    var mask = select(0u, SIDE_LANE_MASK, moves(hop, side_slot(unit, 0u)));
    if SIDE_LANES == 2u {
        mask |= select(0u, 0xffff0000u, moves(hop, side_slot(unit, 1u)));
    }
    return mask;
}

fn side_permute(head: u32, unit: u32) {
    if unit >= SIDE_PLANE_WORDS {
        return;
    }
    var aside = 0u;
    for (var i = 0u; i < selection.hops; i++) {
        let hop = hop_of(SIDE_LAYER, i);
        var bits = aside;
        if hop.source != ASIDE {
            bits = side_planes[(hop.source * HEADS + head) * SIDE_PLANE_WORDS + unit];
        }
        let mask = side_moved(hop, unit);
        let at = (hop.destination * HEADS + head) * SIDE_PLANE_WORDS + unit;
        if hop.destination == ASIDE {
            aside = bits;
        } else if mask == 0xffffffffu {
            side_planes[at] = bits;
        } else if mask != 0u {
            side_planes[at] = (side_planes[at] & ~mask) | (bits & mask);
        }
    }
}
