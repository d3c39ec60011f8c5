// nibbles: byte i of 16 has weight i in its low bits, and weight 16 + i in its high bits.

fn low(codes: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u));
}

fn high(codes: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(codes) >> vec4<u32>(4u, 12u, 20u, 28u)) & vec4<u32>(15u));
}
