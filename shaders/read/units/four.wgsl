// four: elements in groups of 8, 16 and 32, where a unit is four vectors.

fn side_8_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 2> {
    let unit = side_unit_at(plane, slot, i / 2u);
    if i % 2u == 1u {
        return array<vec4<f32>, 2>(side_vector(unit, 2u), side_vector(unit, 3u));
    }
    return array<vec4<f32>, 2>(side_vector(unit, 0u), side_vector(unit, 1u));
}

fn side_16_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 4> {
    if i < side_units {
        let unit = side_unit_at(plane, slot, i);
        return array<vec4<f32>, 4>(
            side_vector(unit, 0u),
            side_vector(unit, 1u),
            side_vector(unit, 2u),
            side_vector(unit, 3u),
        );
    }
    return array<vec4<f32>, 4>();
}

fn side_32_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 8> {
    let low = side_16_at(plane, slot, 2u * i);
    let high = side_16_at(plane, slot, 2u * i + 1u);
    return array<vec4<f32>, 8>(low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]);
}
