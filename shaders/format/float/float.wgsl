// float: products and quotients of f32, as bits, in integer arithmetic. They round to nearest, ties to even, also to
// subnormals. A driver may divide inexactly, flush subnormals, or fuse a product with a sum.
//
// Operands must be finite and divisors nonzero. The first factor of a product must have at most four significant bits,
// as the numbers of fp8 have.

// A magnitude, significand × 2^exponent. The highest bit of the significand is bit 23; the significand of 0 is 0.
struct Float {
    significand: u32,
    exponent: i32,
}

fn float_of(bits: u32) -> Float {
    let magnitude = bits & 0x7fffffffu;
    let normal = magnitude >= 0x800000u;
    let shift = countLeadingZeros(magnitude | 1u) - 8u;
    let significand = select(magnitude << (shift & 31u), (magnitude & 0x7fffffu) | 0x800000u, normal);
    return Float(significand, select(-149 - i32(shift), i32(magnitude >> 23u) - 150, normal));
}

// Returns the f32 nearest to significand × 2^exponent. The highest bit of the significand must be bit 31, and one of
// its lowest two bits must be a sticky bit for everything below.
fn float_round(sign: u32, significand: u32, exponent: i32) -> u32 {
    let biased = exponent + 158;
    let normal = biased >= 1;
    // Bits shifted out beyond 31 are lost. They matter only just above half of the smallest subnormal, where the
    // significand is 2^31 + 1. No quotient has this significand: its dividend would exceed its divisor by less than
    // one. No product has it: the lowest four bits of its significand are zero.
    let wanted = select(9 - biased, 8, normal);
    let kept = significand >> u32(clamp(wanted - 31, 0, 31));
    let shift = u32(min(wanted, 31));
    let rest = kept & ((1u << shift) - 1u);
    let quotient = kept >> shift;
    let rounded = quotient + select(0u, 1u, rest + (quotient & 1u) > (1u << (shift - 1u)));
    // The leading bit of a normal significand adds one to the exponent field, and so does a carry out of rounding.
    let finite = rounded + select(0u, u32(clamp(biased - 1, 0, 254)) << 23u, normal);
    return sign | min(finite, 0x7f800000u);
}

fn float_multiply(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & 0x80000000u;
    let x = float_of(a);
    let y = float_of(b);
    // At most 28 bits, so it is exact.
    let product = (x.significand >> 20u) * y.significand;
    let shift = min(countLeadingZeros(product), 5u);
    let rounded = float_round(sign, product << shift, x.exponent + y.exponent + 20 - i32(shift));
    return select(rounded, sign, product == 0u);
}

fn float_divide(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & 0x80000000u;
    let x = float_of(a);
    let y = float_of(b);
    // 25 bits of the quotient, the first of them 1. The driver's own quotient may be off. The remainder, modulo 2^32,
    // gives the error; the remainder after that correction gives what is left of it.
    let halved = x.significand < y.significand;
    let dividend = select(x.significand, x.significand << 1u, halved);
    let divisor = f32(y.significand);
    let guess = u32(f32(dividend) / divisor * 16777216.0);
    let left = bitcast<i32>((dividend << 24u) - guess * y.significand);
    let error = i32(floor(f32(left) / divisor));
    var rest = left - error * i32(y.significand);
    var quotient = guess + bitcast<u32>(error);
    let step = select(0, -1, rest < 0) + select(0, 1, rest >= i32(y.significand));
    rest -= step * i32(y.significand);
    quotient += bitcast<u32>(step);
    let sticky = select(0u, 1u, rest != 0);
    let rounded = float_round(sign, (quotient << 7u) | sticky, x.exponent - y.exponent - select(0, 1, halved) - 31);
    return select(rounded, sign, x.significand == 0u);
}
