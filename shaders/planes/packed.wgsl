// packed: writes the rows of a run in a packed format, in which every row has words of its own: those of its codes, in
// the plane one slot after the other, and those of its scales, behind the codes of all slots.
//
// Unit:    one word of a row.
// Bounds:  a unit at or past `run.end` is dropped.

#import side.wgsl as side
#import ../format/{words,fp8_e4m3,q8_0,q4_0}/pack.wgsl as side

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_planes: array<u32>;

// Where a word of the codes of a slot lies, and one of its scales.
fn side_codes_at(plane: u32, slot: u32, word: u32) -> u32 {
    return plane * SIDE_PLANE_WORDS + slot * SIDE_CODE_WORDS + word;
}

fn side_scales_at(plane: u32, slot: u32, word: u32) -> u32 {
    return plane * SIDE_PLANE_WORDS + SIDE_SLOTS * SIDE_CODE_WORDS + slot * SIDE_SCALE_WORDS + word;
}
