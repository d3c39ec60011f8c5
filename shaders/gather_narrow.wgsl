// gather_narrow: one word of the output a unit, for every head size. A word that the window shares with
// its neighbour keeps the neighbour's bits.

@group(0) @binding(1) var<storage, read> planes: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;

fn stored(plane: u32, slot: u32, dim: u32) -> u32 {
    let element = slot * DIM + dim;
    let word = planes[(window.segment_plane + plane) * PLANE_WORDS + element / LANES];
    if LANES == 1u {
        return word;
    }
    return (word >> ((element % LANES) * BITS)) & LANE_MASK;
}

// The bits that one lane of a word gets, and a mask of them.
fn lane_of(at: u32) -> vec2<u32> {
    if at < window.offset || at - window.offset >= window.planes * window.rows * DIM {
        return vec2<u32>();
    }
    let element = at - window.offset;
    let row = element / DIM;
    let plane = row / window.rows;
    let slot = slot_of(plane, window.first_row + row % window.rows);
    if slot == NOWHERE {
        return vec2<u32>(0u, LANE_MASK);
    }
    return vec2<u32>(stored(plane, slot, element % DIM), LANE_MASK);
}

fn gather_unit(unit: u32) {
    let word = window.offset / LANES + unit;
    var lane = lane_of(word * LANES);
    if LANES == 2u {
        lane |= lane_of(word * LANES + 1u) << vec2<u32>(16u);
    }
    if lane.y == 0xffffffffu {
        output[word] = lane.x;
    } else if lane.y != 0u {
        output[word] = (output[word] & ~lane.y) | lane.x;
    }
}
