// unpack: returns code × scale for an element of a block of 32, as the bits of an f32. The product is exact
// and never subnormal, since a code has 8 bits and a scale 11, so the driver's own multiplication gives it. It is the
// positive quiet NaN if the scale is NaN, or if the scale is infinite and the code 0. It is +0 if the scale is +0, as
// in a row that was never written. `plane` is the plane's first word. The unpack of the format defines `code_of`.

#import ../f16/f16.wgsl

fn unpacked(plane: u32, slot: u32, dim: u32) -> u32 {
    let block = dim / 32u;
    let scales = planes[plane + SLOTS * CODE_WORDS + slot * SCALE_WORDS + block / 2u];
    let half = (scales >> ((block % 2u) * 16u)) & 0xffffu;
    let code = f32(code_of(plane + slot * CODE_WORDS, dim));
    let scale = f16_decode(half);
    if (half & 0x7c00u) == 0x7c00u {
        let broken = (half & 0x3ffu) != 0u || code == 0.0;
        return select(((scale ^ bitcast<u32>(code)) & 0x80000000u) | 0x7f800000u, 0x7fc00000u, broken);
    }
    return select(bitcast<u32>(code * bitcast<f32>(scale)), 0u, half == 0u);
}
