// decode: converts f16 to the bits of an f32.

#import f16.wgsl

fn side_decode(bits: u32) -> u32 {
    return f16_decode(bits);
}
