// F32: 32 weights as they are.

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    var w: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
        let at = block * 32u + i * 4u;
        w[i] = bitcast<vec4<f32>>(vec4<u32>(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]));
    }
    return w;
}
