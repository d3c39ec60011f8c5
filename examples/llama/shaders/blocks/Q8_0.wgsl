// Q8_0: a scale in f16, then 32 signed bytes. A block has 34 bytes, so every second one begins in the middle of a word.

fn four(codes: u32, scale: f32) -> vec4<f32> {
    let bytes = bitcast<vec4<i32>>(vec4<u32>(codes << 24u, codes << 16u, codes << 8u, codes)) >> vec4<u32>(24u);
    return vec4<f32>(bytes) * scale;
}

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let odd = (block & 1u) == 1u;
    let words = nine_words((block * 17u) >> 1u);
    let a = words.first;
    let b = words.second;
    let scale = float_of(select(a.x & 0xffffu, a.x >> 16u, odd));
    return array<vec4<f32>, 8>(
        four(joined(a.x, a.y, odd), scale), four(joined(a.y, a.z, odd), scale),
        four(joined(a.z, a.w, odd), scale), four(joined(a.w, b.x, odd), scale),
        four(joined(b.x, b.y, odd), scale), four(joined(b.y, b.z, odd), scale),
        four(joined(b.z, b.w, odd), scale), four(joined(b.w, words.last, odd), scale),
    );
}
