// Q4_0: a scale in f16, then 32 codes of 4 bits, of which 8 is zero. A block has 18 bytes, so every second one begins in
// the middle of a word.

fn word(at: u32, odd: bool) -> u32 {
    return select((weights[at] >> 16u) | (weights[at + 1u] << 16u), weights[at + 1u], odd);
}

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let at = (block * 9u) >> 1u;
    let odd = (block & 1u) == 1u;
    let scale = float_of(select(weights[at] & 0xffffu, weights[at] >> 16u, odd));
    let a = word(at, odd);
    let b = word(at + 1u, odd);
    let c = word(at + 2u, odd);
    let d = word(at + 3u, odd);
    return array<vec4<f32>, 8>(
        (low(a) - 8.0) * scale, (low(b) - 8.0) * scale, (low(c) - 8.0) * scale, (low(d) - 8.0) * scale,
        (high(a) - 8.0) * scale, (high(b) - 8.0) * scale, (high(c) - 8.0) * scale, (high(d) - 8.0) * scale,
    );
}
