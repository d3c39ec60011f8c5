// read_narrow: f32, f16 or bf16, one element a load, for every head size.

fn reader_side_element(plane: u32, slot: u32, dim: u32) -> f32 {
    if dim >= reader_side_dim {
        return 0.0;
    }
    let element = slot * reader_side_dim + dim;
    let word = reader_side_load(plane, element / READER_SIDE_LANESu);
    if READER_SIDE_LANESu == 1u {
        return bitcast<f32>(word);
    }
    let pair = reader_side_pair(word);
    return select(pair.x, pair.y, element % 2u == 1u);
}

fn reader_side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(
        reader_side_element(plane, slot, 4u * i),
        reader_side_element(plane, slot, 4u * i + 1u),
        reader_side_element(plane, slot, 4u * i + 2u),
        reader_side_element(plane, slot, 4u * i + 3u),
    );
}
