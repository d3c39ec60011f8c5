// same: an element of the output is one of the storage.

override BITS: u32; // of an element

fn stored(plane: u32, slot: u32, dim: u32) -> u32 {
    let element = slot * DIM + dim;
    let word = planes[plane * PLANE_WORDS + element / LANES];
    if LANES == 1u {
        return word;
    }
    return (word >> ((element % LANES) * BITS)) & LANE_MASK;
}
