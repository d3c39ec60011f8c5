// packed: writes the rows of a run in a packed format. No two rows share a word. A plane holds the codes of all slots,
// then the scales of all slots.
//
// Unit:    one word of a row; in formats of blocks, one word of its codes (see format/blocks/pack).
// Shapes:  side_planes   [plane], each [slot, code word], then [slot, scale word]
// Bounds:  a unit at or past `run.end` is dropped.

#import side.wgsl as side
#import ../format/{words,fp8_e4m3,q8_0,q4_0}/pack.wgsl as side

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_planes: array<u32>;

// Returns the index of a word of a slot's codes.
fn side_codes_at(plane: u32, slot: u32, word: u32) -> u32 {
    return plane * SIDE_PLANE_WORDS + slot * SIDE_CODE_WORDS + word;
}

// Returns the index of a word of a slot's scales.
fn side_scales_at(plane: u32, slot: u32, word: u32) -> u32 {
    return plane * SIDE_PLANE_WORDS + SIDE_SLOTS * SIDE_CODE_WORDS + slot * SIDE_SCALE_WORDS + word;
}
