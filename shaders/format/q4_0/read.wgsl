// read: one word of codes, four elements in its bytes' lower or upper halves, and the scale of their block. Products
// are exact: a code has 4 bits and a scale 11.

#import ../pair/{f16,f16_of_integers}.wgsl as side

fn side_block_scale(row: reader_row, block: u32) -> f32 {
    let pair = side_pair(side_word(row.plane, side_scales_at + row.slot * side_scale_words + block / 2u));
    return select(pair.x, pair.y, block % 2u == 1u);
}

// Codes in the lower halves of the bytes.
fn side_codes(word: u32) -> vec4<f32> {
    let bytes = vec4<u32>(word & 0x0f0f0f0fu) >> vec4<u32>(0u, 8u, 16u, 24u);
    return vec4<f32>(bytes & vec4<u32>(255u)) - 8.0;
}

fn side_of(row: reader_row, i: u32) -> vec4<f32> {
    let word = side_word(row.plane, row.slot * side_code_words + i / 8u * 4u + i % 4u);
    return side_codes(word >> (i % 8u / 4u * 4u)) * side_block_scale(row, i / 8u);
}
