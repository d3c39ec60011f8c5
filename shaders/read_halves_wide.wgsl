// read_halves_wide: f16 or bf16, four elements a load.

fn reader_side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    let words = reader_side_load(plane, slot * reader_side_vectors + i);
    return vec4<f32>(reader_side_pair(words.x), reader_side_pair(words.y));
}
