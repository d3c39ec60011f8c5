// read_q8_0: one word of codes, four elements, and the scale of their block.

fn reader_side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    let word = reader_side_load(plane, slot * READER_SIDE_CODE_WORDSu + i);
    let scales = reader_side_load(plane, READER_SIDE_SCALES_ATu + slot * READER_SIDE_SCALE_WORDSu + i / 16u);
    let pair = reader_side_pair(scales);
    let code = bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return vec4<f32>(code) * select(pair.x, pair.y, (i / 8u) % 2u == 1u);
}
