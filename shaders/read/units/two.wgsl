// two: elements in groups of 8, 16 and 32, where a unit is two vectors.

fn side_8_of(row: reader_row, i: u32) -> array<vec4<f32>, 2> {
    if i < side_units {
        let unit = side_unit_of(row, i);
        return array<vec4<f32>, 2>(side_vector(unit, 0u), side_vector(unit, 1u));
    }
    return array<vec4<f32>, 2>();
}

fn side_16_of(row: reader_row, i: u32) -> array<vec4<f32>, 4> {
    let low = side_8_of(row, 2u * i);
    let high = side_8_of(row, 2u * i + 1u);
    return array<vec4<f32>, 4>(low[0], low[1], high[0], high[1]);
}

fn side_32_of(row: reader_row, i: u32) -> array<vec4<f32>, 8> {
    let low = side_16_of(row, 2u * i);
    let high = side_16_of(row, 2u * i + 1u);
    return array<vec4<f32>, 8>(low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]);
}
