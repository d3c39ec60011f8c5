// F16: 32 weights of 16 bits.

fn four(words: vec2<u32>) -> vec4<f32> {
    let low = words & vec2<u32>(0xffffu);
    let high = words >> vec2<u32>(16u);
    return vec4<f32>(float_of(low.x), float_of(high.x), float_of(low.y), float_of(high.y));
}

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let a = weights[block * 4u];
    let b = weights[block * 4u + 1u];
    let c = weights[block * 4u + 2u];
    let d = weights[block * 4u + 3u];
    return array<vec4<f32>, 8>(
        four(a.xy), four(a.zw), four(b.xy), four(b.zw), four(c.xy), four(c.zw), four(d.xy), four(d.zw),
    );
}
