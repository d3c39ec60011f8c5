// one: elements in groups of 8, 16 and 32, where a unit is one vector.

// Vector `i`, or zeros past the row.
fn side_inside(row: reader_row, i: u32) -> vec4<f32> {
    if i < side_vectors {
        return side_of(row, i);
    }
    return vec4<f32>();
}

fn side_8_of(row: reader_row, i: u32) -> array<vec4<f32>, 2> {
    return array<vec4<f32>, 2>(side_inside(row, 2u * i), side_inside(row, 2u * i + 1u));
}

fn side_16_of(row: reader_row, i: u32) -> array<vec4<f32>, 4> {
    return array<vec4<f32>, 4>(
#for j in 4
        side_inside(row, 4u * i + {j}u),
#end
    );
}

fn side_32_of(row: reader_row, i: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
#for j in 8
        side_inside(row, 8u * i + {j}u),
#end
    );
}
