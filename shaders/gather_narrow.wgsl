// gather_narrow: one word of the output a unit, for every head size and format, with rows_same, rows_packed or
// rows_converted. A word belongs to the plane whose output holds its first element, or to the window's first plane; its
// other element may be the next plane's first. Bits of a word that the window shares with its neighbours stay.

@group(0) @binding(1) var<storage, read> planes: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;

// The bits that one lane of a word gets, and a mask of them.
fn lane_of(plane: u32, element: u32) -> vec2<u32> {
    let slot = slot_of(plane, window.first_row + element / DIM);
    if slot == NOWHERE {
        return vec2<u32>(0u, LANE_MASK);
    }
    return vec2<u32>(stored(plane, slot, element % DIM), LANE_MASK);
}

fn gather_unit(plane: u32, unit: u32) {
    let elements = window.rows * DIM;
    let first = window.offset + plane * elements;
    var word = first / LANES + unit;
    if plane > 0u {
        word = (first + LANES - 1u) / LANES + unit;
    }
    let at = word * LANES;
    var lane = vec2<u32>();
    if at >= first && at - first < elements {
        lane = lane_of(plane, at - first);
    }
    if LANES == 2u && at + 1u >= first {
        let element = at + 1u - first;
        if element < elements {
            lane |= lane_of(plane, element) << vec2<u32>(16u);
        } else if element == elements && at >= first && plane + 1u < window.planes {
            lane |= lane_of(plane + 1u, 0u) << vec2<u32>(16u);
        }
    }
    if lane.y == 0xffffffffu {
        output[word] = lane.x;
    } else if lane.y != 0u {
        output[word] = (output[word] & ~lane.y) | lane.x;
    }
}
