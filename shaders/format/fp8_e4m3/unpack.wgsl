// unpack: returns code × scale as the bits of an f32. `plane` is the plane's first word. The kernel defines `window`.

#import fp8_e4m3.wgsl
#import ../float/float.wgsl

fn unpacked(plane: u32, slot: u32, dim: u32) -> u32 {
    let word = planes[plane + slot * CODE_WORDS + dim / 4u];
    let bits = fp8_e4m3_decode((word >> ((dim % 4u) * 8u)) & 0xffu);
    if window.scale == 0x3f800000u || bits == 0x7fc00000u {
        return bits;
    }
    return float_multiply(bits, window.scale);
}
