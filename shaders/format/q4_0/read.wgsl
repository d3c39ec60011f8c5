// read: Q4_0, with one load for four codes, in the lower or the upper halves of a word's bytes, and one for the scale
// of their block.

#import ../pair/{f16,f16_of_integers}.wgsl as side

fn side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    let word = side_load(plane, slot * side_code_words + i / 8u * 4u + i % 4u);
    let scales = side_load(plane, side_scales_at + slot * side_scale_words + i / 16u);
    let pair = side_pair(scales);
    let codes = word >> (i % 8u / 4u * 4u);
    let code = (vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u);
    return (vec4<f32>(code) - 8.0) * select(pair.x, pair.y, (i / 8u) % 2u == 1u);
}
