// read_q4_0: one word of codes, four elements in its bytes' lower or upper halves, and the scale of their block.

fn reader_side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    let word = reader_side_load(plane, slot * READER_SIDE_CODE_WORDSu + i / 8u * 4u + i % 4u);
    let scales = reader_side_load(plane, READER_SIDE_SCALES_ATu + slot * READER_SIDE_SCALE_WORDSu + i / 16u);
    let pair = reader_side_pair(scales);
    let codes = word >> (i % 8u / 4u * 4u);
    let code = (vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u);
    return (vec4<f32>(code) - 8.0) * select(pair.x, pair.y, (i / 8u) % 2u == 1u);
}
