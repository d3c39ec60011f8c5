// reciprocal: 1 ÷ x of f32, as bits, rounded to nearest: the driver's own quotient may be off.

// Returns 1 ÷ x of a positive number, infinity or more where that overflows. The result must not be subnormal.
fn float_reciprocal(bits: u32) -> u32 {
    // x = significand × 2^(biased - 150), and the highest bit of the significand is bit 23.
    let up = countLeadingZeros(bits) - 8u;
    let normal = bits >= 0x800000u;
    let significand = select(bits << (up & 31u), (bits & 0x7fffffu) | 0x800000u, normal);
    let biased = select(1 - i32(up), i32(bits >> 23u), normal);
    // The nearest integer to 2^47 ÷ significand, which is never half way between two. The remainder, modulo 2^32, is
    // that of a quotient some units off. How many is rounded down, or up to an integer that lies just above; what is
    // left decides about the last unit.
    let inverse = 1.0 / f32(significand);
    let guess = u32(inverse * 0x1p47f);
    let left = -bitcast<i32>(guess * significand);
    let error = i32(floor(f32(left) * inverse));
    let rest = 2 * (left - error * i32(significand));
    let step = select(0, 1, rest > i32(significand));
    return guess + bitcast<u32>(error + step) + (u32(252 - biased) << 23u);
}
