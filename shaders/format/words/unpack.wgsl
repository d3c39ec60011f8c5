// unpack: returns an element in f32, f16 or bf16 as the bits of an f32. `plane` is the plane's first word.

#import ../{bits,f16,bf16}/decode.wgsl as stored

override STORED_LANES: u32;

fn unpacked(plane: u32, slot: u32, dim: u32) -> u32 {
    let element = slot * DIM + dim;
    let word = planes[plane + element / STORED_LANES];
    if STORED_LANES == 1u {
        return word;
    }
    return stored_decode((word >> ((element % STORED_LANES) * 16u)) & 0xffffu);
}
