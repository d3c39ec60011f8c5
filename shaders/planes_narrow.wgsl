// planes_narrow: writes the rows of a run one word at a time. Serves every head size: in a 16-bit format
// with an odd head size two rows share a word, and the bits of the row that is not written stay.
// One thread owns each word, so there is no race. Joined once as key_ and once as value_.
//
// Unit:    one word of the plane, counted from the word that holds the first element of `run.first`.
// Bounds:  a lane outside [run.first, run.end) is left alone.

@group(0) @binding(SIDE_PLANES_BINDING) var<storage, read_write> side_planes: array<u32>;

fn side_units(rows: u32) -> u32 {
    return rows * SIDE_DIM / SIDE_LANES + SIDE_SHARED_WORDS;
}

fn side_write(plane: u32, sequence: u32, head: u32, run: Run, unit: u32) {
    let word = run.first * SIDE_DIM / SIDE_LANES + unit;
    var bits = 0u;
    var mask = 0u;
    for (var lane = 0u; lane < SIDE_LANES; lane++) {
        let element = word * SIDE_LANES + lane;
        let slot = element / SIDE_DIM;
        if slot >= run.first && slot < run.end {
            mask |= SIDE_LANE_MASK << (lane * SIDE_BITS);
            if slot >= run.start {
                let value = side_element(sequence, head, run.token + (slot - run.start), element % SIDE_DIM);
                bits |= value << (lane * SIDE_BITS);
            }
        }
    }
    let at = plane * SIDE_PLANE_WORDS + word;
    if mask == 0xffffffffu {
        side_planes[at] = bits;
    } else if mask != 0u {
        side_planes[at] = (side_planes[at] & ~mask) | bits;
    }
}
