// read: Q8_0, with one load for four codes and one for the scale of their block.

#import ../pair/{f16,f16_of_integers}.wgsl as side

fn side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    let word = side_load(plane, slot * side_code_words + i);
    let scales = side_load(plane, side_scales_at + slot * side_scale_words + i / 16u);
    let pair = side_pair(scales);
    let code = bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return vec4<f32>(code) * select(pair.x, pair.y, (i / 8u) % 2u == 1u);
}
