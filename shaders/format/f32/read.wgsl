// read: f32, four elements per load.

fn side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(side_four(plane, slot * side_vectors + i));
}
