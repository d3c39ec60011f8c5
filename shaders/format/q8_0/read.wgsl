// read: one word of codes, four elements, and the scale of their block. Products are exact: a code has 8 bits and a
// scale 11.

#import ../pair/{f16,f16_of_integers}.wgsl as side

fn side_block_scale(row: reader_row, block: u32) -> f32 {
    let pair = side_pair(side_word(row.plane, side_scales_at + row.slot * side_scale_words + block / 2u));
    return select(pair.x, pair.y, block % 2u == 1u);
}

fn side_codes(word: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}

fn side_of(row: reader_row, i: u32) -> vec4<f32> {
    let word = side_word(row.plane, row.slot * side_code_words + i);
    return side_codes(word) * side_block_scale(row, i / 8u);
}
