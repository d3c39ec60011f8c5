// decode: converts bf16 to the bits of an f32.

#import bf16.wgsl

fn side_decode(bits: u32) -> u32 {
    return bf16_decode(bits);
}
