// format_f16: IEEE 754 binary16 to and from the bits of an f32, in integers, because a driver may round or
// flush in its own way. Agrees with the crate `half` on every input:
//   decode   exact; a NaN becomes quiet and keeps its payload
//   encode   round to nearest, ties to even; from 65520 up becomes infinity; a NaN becomes quiet and keeps
//            the upper ten bits of its payload; subnormal results are exact roundings too

fn f16_decode(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    if magnitude > 0x7c00u {
        return sign | 0x7fc00000u | ((magnitude & 0x3ffu) << 13u);
    }
    if magnitude == 0x7c00u {
        return sign | 0x7f800000u;
    }
    if magnitude >= 0x400u {
        return sign | ((magnitude << 13u) + 0x38000000u);
    }
    if magnitude == 0u {
        return sign;
    }
    let shift = countLeadingZeros(magnitude) - 21u;
    return sign | ((113u - shift) << 23u) | (((magnitude << shift) & 0x3ffu) << 13u);
}

fn f16_encode(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu);
    }
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if magnitude >= 0x38800000u {
        let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
        return sign | ((rounded - 0x38000000u) >> 13u);
    }
    // Up to half of the smallest subnormal, which is a tie with zero.
    if magnitude <= 0x33000000u {
        return sign;
    }
    let shift = 126u - (magnitude >> 23u);
    let significand = (magnitude & 0x7fffffu) | 0x800000u;
    let quotient = significand >> shift;
    let rest = significand & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    let up = rest > tie || (rest == tie && (quotient & 1u) == 1u);
    return sign | (quotient + select(0u, 1u, up));
}
