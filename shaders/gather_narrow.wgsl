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

fn gather_unit(unit: u32) {
    let elements = window.planes * window.rows * DIM;
    let first_word = window.offset / LANES;
    var bits = 0u;
    var mask = 0u;
    for (var lane = 0u; lane < LANES; lane++) {
        let at = (first_word + unit) * LANES + lane;
        if at < window.offset || at - window.offset >= elements {
            continue;
        }
        mask |= LANE_MASK << (lane * BITS);
        let element = at - window.offset;
        let row = element / DIM;
        let plane = row / window.rows;
        let slot = slot_of(plane, window.first_row + row % window.rows);
        if slot != NOWHERE {
            bits |= stored(plane, slot, element % DIM) << (lane * BITS);
        }
    }
    if mask == 0xffffffffu {
        output[first_word + unit] = bits;
    } else if mask != 0u {
        output[first_word + unit] = (output[first_word + unit] & ~mask) | bits;
    }
}
