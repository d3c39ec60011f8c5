// unit: one vector, of formats and head sizes whose rows do not lie in whole units of 16 bytes, and of f32.

const side_unit_vectors: u32 = 1u;

struct side_unit {
    numbers: vec4<f32>,
}

fn side_unit_of(row: reader_row, u: u32) -> side_unit {
    return side_unit(side_of(row, u));
}

fn side_vector(unit: side_unit, j: u32) -> vec4<f32> {
    return unit.numbers;
}
