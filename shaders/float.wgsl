// float: products and quotients of f32, as bits, in integers: to nearest, ties to even, subnormals included. A driver may divide
// with an error, flush subnormals, or fuse a product with a sum.
//
// Operands are finite. The quotient's divisor is not zero.

// A magnitude as significand × 2^exponent, with the highest bit of the significand at 23; 0 where it is 0.
struct Float {
    significand: u32,
    exponent: i32,
}

fn float_of(bits: u32) -> Float {
    let magnitude = bits & 0x7fffffffu;
    if magnitude >= 0x800000u {
        return Float((magnitude & 0x7fffffu) | 0x800000u, i32(magnitude >> 23u) - 150);
    }
    if magnitude == 0u {
        return Float(0u, 0);
    }
    let shift = countLeadingZeros(magnitude) - 8u;
    return Float(magnitude << shift, -149 - i32(shift));
}

// The f32 nearest to significand × 2^exponent, where the highest bit is at 31 and the lowest stands for everything below it.
fn float_round(sign: u32, significand: u32, exponent: i32) -> u32 {
    let biased = exponent + 158;
    if biased >= 255 {
        return sign | 0x7f800000u;
    }
    let normal = biased >= 1;
    // Far below the smallest number, what is shifted beyond 31 bits is only known to be there.
    let wanted = select(9 - biased, 8, normal);
    let excess = u32(clamp(wanted - 31, 0, 31));
    let kept = (significand >> excess) | select(0u, 1u, ((significand >> excess) << excess) != significand);
    let shift = u32(min(wanted, 31));
    let rest = kept & ((1u << shift) - 1u);
    let quotient = kept >> shift;
    let rounded = quotient + select(0u, 1u, rest + (quotient & 1u) > (1u << (shift - 1u)));
    // The highest bit of a normal number counts as one in the exponent; a carry into it counts too.
    return sign | (rounded + select(0u, u32(max(biased - 1, 0)) << 23u, normal));
}

// The upper 32 bits of the 48 of a product of two significands, and whether the lower 16 are not all zero.
fn float_product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xfffu) * (b & 0xfffu);
    let middle = (a >> 12u) * (b & 0xfffu) + (a & 0xfffu) * (b >> 12u) + (low >> 12u);
    let high = (((a >> 12u) * (b >> 12u)) << 8u) + (middle >> 4u);
    return vec2<u32>(high, select(0u, 1u, ((middle & 0xfu) | (low & 0xfffu)) != 0u));
}

fn float_multiply(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & 0x80000000u;
    let x = float_of(a);
    let y = float_of(b);
    if x.significand == 0u || y.significand == 0u {
        return sign;
    }
    let product = float_product(x.significand, y.significand);
    let shift = countLeadingZeros(product.x);
    return float_round(sign, (product.x << shift) | product.y, x.exponent + y.exponent + 16 - i32(shift));
}

fn float_divide(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & 0x80000000u;
    let x = float_of(a);
    let y = float_of(b);
    if x.significand == 0u {
        return sign;
    }
    // 25 bits of the quotient, eight at a time, the first of them 1.
    let halved = x.significand < y.significand;
    var rest = select(x.significand, x.significand << 1u, halved) - y.significand;
    var quotient = 1u;
    rest <<= 8u;
    quotient = (quotient << 8u) | (rest / y.significand);
    rest = (rest % y.significand) << 8u;
    quotient = (quotient << 8u) | (rest / y.significand);
    rest = (rest % y.significand) << 8u;
    quotient = (quotient << 8u) | (rest / y.significand);
    rest = rest % y.significand;
    let sticky = select(0u, 1u, rest != 0u);
    return float_round(sign, (quotient << 7u) | sticky, x.exponent - y.exponent - select(0, 1, halved) - 31);
}
