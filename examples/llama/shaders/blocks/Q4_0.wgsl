// Q4_0: a scale in f16, then 32 codes of 4 bits, of which 8 is zero. A block has 18 bytes, so every second one begins
// in the middle of a word.

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let odd = (block & 1u) == 1u;
    let words = five_words((block * 9u) >> 1u);
    let a = words.first;
    let scale = float_of(select(a.x & 0xffffu, a.x >> 16u, odd));
    let p = joined(a.x, a.y, odd);
    let q = joined(a.y, a.z, odd);
    let r = joined(a.z, a.w, odd);
    let s = joined(a.w, words.last, odd);
    return array<vec4<f32>, 8>(
        (low(p) - 8.0) * scale, (low(q) - 8.0) * scale, (low(r) - 8.0) * scale, (low(s) - 8.0) * scale,
        (high(p) - 8.0) * scale, (high(q) - 8.0) * scale, (high(r) - 8.0) * scale, (high(s) - 8.0) * scale,
    );
}
