// read_f32_wide: f32, four elements a load.

fn reader_side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(reader_side_load(plane, slot * reader_side_vectors + i));
}
