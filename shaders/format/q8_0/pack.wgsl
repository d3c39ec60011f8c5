// pack: ggml's Q8_0. A byte holds one element. A code is x × (1 ÷ d), rounded to f32 and then to an integer, halves
// away from zero.

#import ../blocks/pack.wgsl as side

const SIDE_BLOCK_WORDS = 8u; // words of codes in a block

fn side_scale(largest: u32) -> u32 {
    return float_divide(largest & 0x7fffffffu, 0x42fe0000u);
}

fn side_codes(staged: Staged, inverse: u32) -> u32 {
    let product = float_products(staged.first, inverse);
    // A product below a half rounds to 0: the shift leaves nothing of it.
    let shift = vec4<u32>(clamp(-product.exponent, vec4<i32>(1), vec4<i32>(31)));
    let magnitude = (product.significand + (vec4<u32>(1u) << (shift - vec4<u32>(1u)))) >> shift;
    let negative = (staged.first ^ vec4<u32>(inverse)) >= vec4<u32>(0x80000000u);
    let code = select(magnitude, ~magnitude + vec4<u32>(1u), negative);
    let byte = code & vec4<u32>(0xffu);
    return byte.x | (byte.y << 8u) | (byte.z << 16u) | (byte.w << 24u);
}
