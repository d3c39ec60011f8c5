// encode: converts the bits of an f32 to bf16.

#import bf16.wgsl

fn side_encode(bits: u32) -> u32 {
    return bf16_encode(bits);
}
