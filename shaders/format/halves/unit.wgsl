// unit: eight elements of f16 or bf16.

const side_unit_vectors: u32 = 2u;

struct side_unit {
    words: vec4<u32>,
}

fn side_unit_of(row: reader_row, u: u32) -> side_unit {
    return side_unit(side_four(row.plane, row.slot * side_units + u));
}

fn side_vector(unit: side_unit, j: u32) -> vec4<f32> {
    return vec4<f32>(side_pair(unit.words[2u * j]), side_pair(unit.words[2u * j + 1u]));
}
