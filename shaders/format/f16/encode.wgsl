// encode: converts the bits of an f32 to f16.

#import f16.wgsl

fn side_encode(bits: u32) -> u32 {
    return f16_encode(bits);
}
