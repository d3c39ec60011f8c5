// pack: ggml's Q4_0. A byte holds an element in its lower half and the element 16 later in its upper half. A code is
// x × (1 ÷ d) + 8.5, rounded to f32 after each operation, truncated to an integer, and at most 15.

#import ../blocks/pack.wgsl as side

const SIDE_BLOCK_WORDS = 4u; // words of codes in a block
const SIDE_UNIT = 25u;       // products are in units of 2^-25

fn side_ordered(elements: vec4<u32>) -> vec4<u32> {
    return elements;
}

// Returns the number of larger magnitude, or `a` if the magnitudes are equal.
fn side_larger(a: u32, b: u32) -> u32 {
    return select(a, b, (b & 0x7fffffffu) > (a & 0x7fffffffu));
}

// The number ÷ -8, which is exact unless it is subnormal; then it rounds to nearest, ties to even.
fn side_scale(largest: u32) -> u32 {
    let magnitude = largest & 0x7fffffffu;
    let exponent = max(magnitude >> 23u, 1u) - 1u;
    let units = (magnitude - (exponent << 23u)) << min(exponent, 2u);
    let subnormal = (units + 3u + ((units >> 3u) & 1u)) >> 3u;
    return (~largest & 0x80000000u) | select(subnormal, magnitude - (3u << 23u), exponent > 2u);
}

// Computes the sum in units of 2^-25, and drops smaller parts. Only a product below a half has any, and its code is 8.
// In f32 a driver may fuse product and sum, which then are rounded once.
fn side_nibbles(elements: vec4<u32>, inverse: Inverse) -> vec4<u32> {
    // The product is at most slightly more than 2^28 units. The other summand is 8.5.
    let sum = vec4<u32>(285212672u) + side_signed(side_products(elements, inverse), elements, inverse);
    // Half the spacing of f32 below the next integer: a sum this close to the integer rounds up to it. A sum below 4
    // has a smaller spacing, which does not matter: its product is below -4, so the sum is a multiple of 16 units.
    let half = select(vec4<u32>(16u), vec4<u32>(8u), sum < vec4<u32>(268435456u));
    return min((sum + half) >> vec4<u32>(25u), vec4<u32>(15u));
}

fn side_codes(staged: Staged, inverse: Inverse) -> u32 {
    let byte = side_nibbles(staged.first, inverse) | (side_nibbles(staged.second, inverse) << vec4<u32>(4u));
    return byte.x | (byte.y << 8u) | (byte.z << 16u) | (byte.w << 24u);
}
