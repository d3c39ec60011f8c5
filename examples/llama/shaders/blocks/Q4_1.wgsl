// Q4_1: a scale and a least weight in f16, then 32 codes of 4 bits. A block has five words.

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let at = block * 5u;
    let both = weights[at];
    let scale = float_of(both & 0xffffu);
    let least = float_of(both >> 16u);
    let a = weights[at + 1u];
    let b = weights[at + 2u];
    let c = weights[at + 3u];
    let d = weights[at + 4u];
    return array<vec4<f32>, 8>(
        low(a) * scale + least, low(b) * scale + least, low(c) * scale + least, low(d) * scale + least,
        high(a) * scale + least, high(b) * scale + least, high(c) * scale + least, high(d) * scale + least,
    );
}
