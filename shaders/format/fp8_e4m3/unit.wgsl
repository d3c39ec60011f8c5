// unit: sixteen codes.

const side_unit_vectors: u32 = 4u;

struct side_unit {
    words: vec4<u32>,
    scale: f32,
}

fn side_unit_of(row: reader_row, u: u32) -> side_unit {
    return side_unit(side_four(row.plane, row.slot * (side_code_words / 4u) + u), side_scale());
}

fn side_vector(unit: side_unit, j: u32) -> vec4<f32> {
    return side_numbers(unit.words[j]) * unit.scale;
}
