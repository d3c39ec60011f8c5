// Q4_0: a scale in f16, then 32 codes of 4 bits, of which 8 is zero. A block has 18 bytes, so every second one begins in
// the middle of a word.

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let at = (block * 9u) >> 1u;
    let odd = (block & 1u) == 1u;
    let a = weights[at];
    let b = weights[at + 1u];
    let c = weights[at + 2u];
    let d = weights[at + 3u];
    let e = weights[at + 4u];
    let scale = float_of(select(a & 0xffffu, a >> 16u, odd));
    let p = joined(a, b, odd);
    let q = joined(b, c, odd);
    let r = joined(c, d, odd);
    let s = joined(d, e, odd);
    return array<vec4<f32>, 8>(
        (low(p) - 8.0) * scale, (low(q) - 8.0) * scale, (low(r) - 8.0) * scale, (low(s) - 8.0) * scale,
        (high(p) - 8.0) * scale, (high(q) - 8.0) * scale, (high(r) - 8.0) * scale, (high(s) - 8.0) * scale,
    );
}
