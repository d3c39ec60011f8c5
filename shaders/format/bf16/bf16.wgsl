// bf16: converts bfloat16, the upper half of an f32, to and from the bits of an f32, in integer arithmetic. Agrees with
// the crate `half` on every input:
//   decode   exact; a NaN becomes quiet and keeps its payload
//   encode   rounds to nearest, ties to even; a NaN becomes quiet and keeps the upper bits of its payload

fn bf16_decode(half: u32) -> u32 {
    let quiet = select(0u, 0x40u, (half & 0x7fffu) > 0x7f80u);
    return (half | quiet) << 16u;
}

fn bf16_encode(bits: u32) -> u32 {
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 0x40u, (bits & 0x7fffffffu) > 0x7f800000u);
}
