// f16: converts IEEE 754 binary16 to and from the bits of an f32. Drivers differ in how they round conversions and
// whether they flush subnormals, so this takes integer arithmetic and a sum of f32, which all round alike. Agrees with
// the crate `half` on every input:
//   decode   exact; a NaN becomes quiet and keeps its payload
//   encode   rounds to nearest, ties to even, also to subnormals; magnitudes from 65520 on become infinite; a NaN
//            becomes quiet and keeps the upper ten bits of its payload

// Neither function branches, because a software driver would execute both sides.
fn f16_decode(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    let shift = countLeadingZeros(magnitude | 1u) - 21u;
    let subnormal = ((113u - shift) << 23u) | (((magnitude << (shift & 31u)) & 0x3ffu) << 13u);
    // Infinities and NaNs.
    let special = 0x7f800000u | ((magnitude & 0x3ffu) << 13u) | select(0u, 0x400000u, magnitude > 0x7c00u);
    let small = select(subnormal, 0u, magnitude == 0u);
    let finite = select(small, (magnitude << 13u) + 0x38000000u, magnitude >= 0x400u);
    return sign | select(finite, special, magnitude >= 0x7c00u);
}

fn f16_encode(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    let normal = (magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u;
    // Below 2^-14, in units of 2^-24: those of f32 from 0.5 on, to which a sum rounds. What a driver may flush is less
    // than half a unit.
    let subnormal = bitcast<u32>(bitcast<f32>(min(magnitude, 0x38800000u)) + 0.5) - 0x3f000000u;
    let finite = select(subnormal, normal, magnitude >= 0x38800000u);
    let not_nan = select(finite, 0x7c00u, magnitude >= 0x477ff000u);
    let nan = 0x7e00u | ((magnitude >> 13u) & 0x3ffu);
    return sign | select(not_nan, nan, magnitude > 0x7f800000u);
}
