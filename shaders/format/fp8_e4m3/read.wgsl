// read: fp8_e4m3, four elements per load, multiplied by the scale of the side unless it is 1.

#import ../pair/{f16,f16_of_integers}.wgsl as side

fn side_scale() -> f32 {
    if side_scaled {
        return bitcast<f32>(side_scale_bits());
    }
    return 1.0;
}

// A code is an f16 whose exponent is 8 too small: sign, four bits of exponent and three of significand move to where
// f16 has them. The largest magnitude is a NaN, so its f16 gets the highest bit of the exponent too.
fn side_numbers(word: u32) -> vec4<f32> {
    let nan = ((word & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
    let words = vec2<u32>(word << 8u, word);
    let nans = vec2<u32>(nan << 8u, nan) & vec2<u32>(0x80008000u);
    let magnitudes = (words & vec2<u32>(0x7f007f00u)) | nans;
    let halves = (words & vec2<u32>(0x80008000u)) | (magnitudes >> vec2<u32>(1u));
    let even = side_pair(halves.x);
    let odd = side_pair(halves.y);
    return vec4<f32>(even.x, odd.x, even.y, odd.y) * 256.0;
}

fn side_of(row: reader_row, i: u32) -> vec4<f32> {
    return side_numbers(side_word(row.plane, row.slot * side_code_words + i)) * side_scale();
}
