// Q8_0: a scale in f16, then 32 signed bytes. A block has 34 bytes, so every second one begins in the middle of a word.

fn four(codes: u32, scale: f32) -> vec4<f32> {
    let bytes = bitcast<vec4<i32>>(vec4<u32>(codes << 24u, codes << 16u, codes << 8u, codes)) >> vec4<u32>(24u);
    return vec4<f32>(bytes) * scale;
}

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let at = (block * 17u) >> 1u;
    let odd = (block & 1u) == 1u;
    let a = weights[at];
    let b = weights[at + 1u];
    let c = weights[at + 2u];
    let d = weights[at + 3u];
    let e = weights[at + 4u];
    let f = weights[at + 5u];
    let g = weights[at + 6u];
    let h = weights[at + 7u];
    let i = weights[at + 8u];
    let scale = float_of(select(a & 0xffffu, a >> 16u, odd));
    return array<vec4<f32>, 8>(
        four(joined(a, b, odd), scale), four(joined(b, c, odd), scale),
        four(joined(c, d, odd), scale), four(joined(d, e, odd), scale),
        four(joined(e, f, odd), scale), four(joined(f, g, odd), scale),
        four(joined(g, h, odd), scale), four(joined(h, i, odd), scale),
    );
}
