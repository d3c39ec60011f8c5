// fp8_e4m3: converts OCP E4M3 (`float8_e4m3fn`) to and from the bits of an f32, in integer arithmetic:
//   decode   exact; a NaN becomes the positive quiet NaN
//   encode   rounds to nearest, ties to even; saturates to ±448, also from infinity; a NaN stays a NaN

fn fp8_e4m3_decode(code: u32) -> u32 {
    let sign = (code & 0x80u) << 24u;
    let magnitude = code & 0x7fu;
    let shift = clamp(countLeadingZeros(magnitude), 28u, 31u) - 28u;
    let subnormal = ((121u - shift) << 23u) | (((magnitude << shift) & 7u) << 20u);
    let number = select(select(0u, subnormal, magnitude > 0u), (magnitude << 20u) + 0x3c000000u, magnitude >= 8u);
    return select(sign | number, 0x7fc00000u, magnitude == 0x7fu);
}

fn fp8_e4m3_encode(bits: u32) -> u32 {
    let sign = (bits >> 24u) & 0x80u;
    let magnitude = bits & 0x7fffffffu;
    let normal = ((magnitude + 0x7ffffu + ((magnitude >> 20u) & 1u)) >> 20u) - 0x3c0u;
    // Below 2^-6: shift the significand to units of 2^-9. A shift of 25 or more leaves nothing of it.
    let shift = clamp(141u - min(magnitude >> 23u, 140u), 21u, 25u);
    let significand = (magnitude & 0x7fffffu) | 0x800000u;
    let quotient = significand >> shift;
    let rest = significand & ((1u << shift) - 1u);
    let subnormal = quotient + select(0u, 1u, rest + (quotient & 1u) > (1u << (shift - 1u)));
    let finite = min(select(subnormal, normal, magnitude >= 0x3c800000u), 0x7eu);
    return sign | select(finite, 0x7fu, magnitude > 0x7f800000u);
}
