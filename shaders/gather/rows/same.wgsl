// same: reads one stored element, for an output in the same format.

override BITS: u32; // bits in an element

fn stored(plane: u32, slot: u32, dim: u32) -> u32 {
    let element = slot * DIM + dim;
    let word = planes[plane * PLANE_WORDS + element / LANES];
    if LANES == 1u {
        return word;
    }
    return (word >> ((element % LANES) * BITS)) & LANE_MASK;
}
