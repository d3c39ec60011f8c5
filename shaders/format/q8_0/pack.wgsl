// pack: ggml's Q8_0. A byte holds one element. A code is x × (1 ÷ d), rounded to f32 and then to an integer, halves
// away from zero.

#import ../blocks/pack.wgsl as side

const SIDE_BLOCK_WORDS = 8u; // words of codes in a block
const SIDE_UNIT = 1u;        // products are in halves

// Only magnitudes count.
fn side_ordered(elements: vec4<u32>) -> vec4<u32> {
    return elements & vec4<u32>(0x7fffffffu);
}

fn side_larger(a: u32, b: u32) -> u32 {
    return max(a, b);
}

// The magnitude ÷ 127, rounded to nearest: the significand × 2^up ÷ 127, where `up` leaves 24 bits of it, or fewer if
// it is subnormal. A quotient by an odd number is never half way between two integers.
fn side_scale(magnitude: u32) -> u32 {
    let exponent = max(magnitude >> 23u, 1u) - 1u;
    let significand = magnitude - (exponent << 23u);
    let up = min(exponent, select(6u, 7u, significand < 127u << 17u));
    return ((significand << up) + 63u) / 127u + ((exponent - up) << 23u);
}

fn side_codes(staged: Staged, inverse: Inverse) -> u32 {
    let halves = side_products(staged.first, inverse);
    let byte = side_signed((halves + vec4<u32>(1u)) >> vec4<u32>(1u), staged.first, inverse) & vec4<u32>(0xffu);
    return byte.x | (byte.y << 8u) | (byte.z << 16u) | (byte.w << 24u);
}
