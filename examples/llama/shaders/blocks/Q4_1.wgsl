// Q4_1: a scale and a least weight in f16, then 32 codes of 4 bits. A block has five words.

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let words = five_words(block * 5u);
    let scale = float_of(words.first.x & 0xffffu);
    let least = float_of(words.first.x >> 16u);
    let a = words.first.y;
    let b = words.first.z;
    let c = words.first.w;
    let d = words.last;
    return array<vec4<f32>, 8>(
        low(a) * scale + least, low(b) * scale + least, low(c) * scale + least, low(d) * scale + least,
        high(a) * scale + least, high(b) * scale + least, high(c) * scale + least, high(d) * scale + least,
    );
}
