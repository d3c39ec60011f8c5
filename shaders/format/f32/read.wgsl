// read: f32, four elements per load.

fn side_of(row: reader_row, i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(side_four(row.plane, row.slot * side_vectors + i));
}
