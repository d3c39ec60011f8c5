// read: f32, f16 or bf16, one element per load. Works for every head size.

#import ../pair/{f16,f16_of_integers,bf16}.wgsl as side

// Without a branch: a load past the row is one of its last element.
fn side_element(row: reader_row, dim: u32) -> f32 {
    let element = row.slot * side_dim + min(dim, side_dim - 1u);
    let word = side_word(row.plane, element / side_lanes);
    let pair = side_pair(word);
    let half = select(pair.x, pair.y, element % 2u == 1u);
    let number = select(half, bitcast<f32>(word), side_lanes == 1u);
    return select(0.0, number, dim < side_dim);
}

fn side_of(row: reader_row, i: u32) -> vec4<f32> {
    return vec4<f32>(
        side_element(row, 4u * i),
        side_element(row, 4u * i + 1u),
        side_element(row, 4u * i + 2u),
        side_element(row, 4u * i + 3u),
    );
}
