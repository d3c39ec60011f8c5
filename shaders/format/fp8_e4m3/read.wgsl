// read: fp8_e4m3, four elements per load, multiplied by the scale of the side unless it is 1.

fn side_scale() -> f32 {
    if side_scaled {
        return bitcast<f32>(reader_lengths[side_scale_index]);
    }
    return 1.0;
}

fn side_numbers(word: u32) -> vec4<f32> {
    let code = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
    let magnitude = code & vec4<u32>(0x7fu);
    let small = bitcast<vec4<u32>>(vec4<f32>(magnitude) * 0.001953125);
    let finite = select(small, (magnitude << vec4<u32>(20u)) + vec4<u32>(0x3c000000u), magnitude >= vec4<u32>(8u));
    let number = select(finite, vec4<u32>(0x7fc00000u), magnitude == vec4<u32>(0x7fu));
    return bitcast<vec4<f32>>(number | ((code & vec4<u32>(0x80u)) << vec4<u32>(24u)));
}

fn side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    return side_numbers(side_word(plane, slot * side_code_words + i)) * side_scale();
}
