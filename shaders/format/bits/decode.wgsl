// decode: the bits of an f32, or of any format that is not converted.

fn side_decode(bits: u32) -> u32 {
    return bits;
}
