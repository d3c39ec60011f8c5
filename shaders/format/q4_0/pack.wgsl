// pack: ggml's Q4_0. A byte holds an element in its lower half and the element 16 later in its upper half. A code is
// x × (1 ÷ d) + 8.5, rounded to f32 after each operation, truncated to an integer, and at most 15.

#import ../blocks/pack.wgsl as side

const SIDE_BLOCK_WORDS = 4u; // words of codes in a block

fn side_scale(largest: u32) -> u32 {
    // The division by -8 is exact except for the smallest numbers.
    let float = float_of(largest);
    let sign = ~largest & 0x80000000u;
    return select(float_round(sign, float.significand << 8u, float.exponent - 11), sign, float.significand == 0u);
}

// Computes the sum in units of 2^-25, and drops smaller parts. Only a product below a half has any, and its code is 8.
fn side_nibbles(elements: vec4<u32>, inverse: u32) -> vec4<u32> {
    let product = float_products(elements, inverse);
    // The product is at most slightly more than 2^28 units.
    let shift = product.exponent + vec4<i32>(25);
    let down = vec4<u32>(clamp(-shift, vec4<i32>(0), vec4<i32>(31)));
    let whole = (product.significand >> down) << vec4<u32>(clamp(shift, vec4<i32>(0), vec4<i32>(7)));
    let negative = (elements ^ vec4<u32>(inverse)) >= vec4<u32>(0x80000000u);
    // 8.5
    let sum = vec4<u32>(285212672u) + select(whole, ~whole + vec4<u32>(1u), negative);
    // Half the spacing of f32 below the next integer: a sum this close to the integer rounds up to it. A sum below 4
    // has a smaller spacing, which does not matter: its product is below -4, so the sum is a multiple of 16 units.
    let half = select(vec4<u32>(16u), vec4<u32>(8u), sum < vec4<u32>(268435456u));
    return min((sum + half) >> vec4<u32>(25u), vec4<u32>(15u));
}

fn side_codes(staged: Staged, inverse: u32) -> u32 {
    let byte = side_nibbles(staged.first, inverse) | (side_nibbles(staged.second, inverse) << vec4<u32>(4u));
    return byte.x | (byte.y << 8u) | (byte.z << 16u) | (byte.w << 24u);
}
