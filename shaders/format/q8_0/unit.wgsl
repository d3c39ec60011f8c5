// unit: sixteen codes, half a block, and the scale of the block.

const side_unit_vectors: u32 = 4u;

struct side_unit {
    words: vec4<u32>,
    scale: f32,
}

fn side_unit_of(row: reader_row, u: u32) -> side_unit {
    let words = side_four(row.plane, row.slot * (side_code_words / 4u) + u);
    return side_unit(words, side_block_scale(row, u / 2u));
}

fn side_vector(unit: side_unit, j: u32) -> vec4<f32> {
    return side_codes(unit.words[j]) * unit.scale;
}
