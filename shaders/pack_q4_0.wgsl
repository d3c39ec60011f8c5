// pack_q4_0: ggml's Q4_0. A byte is an element and the one 16 later: x × (1 ÷ d) + 8.5, each rounded to f32, and cut to an integer,
// at most 15. Joined once as key_ and once as value_, after pack_blocks.

fn side_scale(largest: u32) -> u32 {
    // Divided by -8, which is exact but for the smallest numbers.
    return float_divide(largest, 0xc1000000u);
}

// The sum in units of 2^-25, cut; what is cut off does not matter, because an integer is reached from so many whole units below.
fn side_nibble(element: u32, inverse: u32) -> u32 {
    let bits = float_multiply(element, inverse);
    let product = float_of(bits);
    // At most 2^28 units and a little.
    let shift = product.exponent + 25;
    let down = u32(clamp(-shift, 0, 31));
    let whole = (product.significand >> down) << u32(clamp(shift, 0, 7));
    let rest = select(0u, 1u, (product.significand >> down) << down != product.significand);
    var sum = 285212672u; // 8.5
    if (bits >> 31u) == 1u {
        sum -= whole + rest;
    } else {
        sum += whole;
    }
    // Half of what separates two f32 below the next integer.
    var half = 16u;
    half = select(half, 8u, sum < 268435456u);
    half = select(half, 4u, sum < 134217728u);
    half = select(half, 2u, sum < 67108864u);
    half = select(half, 1u, sum < 33554432u);
    return min((sum + half) >> 25u, 15u);
}

fn side_byte(element: u32, later: u32, inverse: u32) -> u32 {
    return side_nibble(element, inverse) | (side_nibble(later, inverse) << 4u);
}
