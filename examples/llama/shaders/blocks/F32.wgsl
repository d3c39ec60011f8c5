// F32: 32 weights as they are.

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    var w: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
        w[i] = bitcast<vec4<f32>>(weights[block * 8u + i]);
    }
    return w;
}
