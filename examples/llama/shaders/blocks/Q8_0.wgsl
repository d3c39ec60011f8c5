// Q8_0: a scale in f16, then 32 signed bytes. A block has 34 bytes, so every second one begins in the middle of a word.

fn four(codes: u32, scale: f32) -> vec4<f32> {
    let bytes = bitcast<vec4<i32>>(vec4<u32>(codes << 24u, codes << 16u, codes << 8u, codes)) >> vec4<u32>(24u);
    return vec4<f32>(bytes) * scale;
}

fn word(at: u32, odd: bool) -> u32 {
    return select((weights[at] >> 16u) | (weights[at + 1u] << 16u), weights[at + 1u], odd);
}

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let at = (block * 17u) >> 1u;
    let odd = (block & 1u) == 1u;
    let scale = float_of(select(weights[at] & 0xffffu, weights[at] >> 16u, odd));
    return array<vec4<f32>, 8>(
        four(word(at, odd), scale), four(word(at + 1u, odd), scale),
        four(word(at + 2u, odd), scale), four(word(at + 3u, odd), scale),
        four(word(at + 4u, odd), scale), four(word(at + 5u, odd), scale),
        four(word(at + 6u, odd), scale), four(word(at + 7u, odd), scale),
    );
}
