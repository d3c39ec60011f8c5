// two: elements in groups of 8, 16 and 32, where a unit is two vectors.

fn side_8_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 2> {
    if i < side_units {
        let unit = side_unit_at(plane, slot, i);
        return array<vec4<f32>, 2>(side_vector(unit, 0u), side_vector(unit, 1u));
    }
    return array<vec4<f32>, 2>();
}

fn side_16_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 4> {
    let low = side_8_at(plane, slot, 2u * i);
    let high = side_8_at(plane, slot, 2u * i + 1u);
    return array<vec4<f32>, 4>(low[0], low[1], high[0], high[1]);
}

fn side_32_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 8> {
    let low = side_16_at(plane, slot, 2u * i);
    let high = side_16_at(plane, slot, 2u * i + 1u);
    return array<vec4<f32>, 8>(low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]);
}
