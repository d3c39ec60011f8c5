// decode: the identity, for f32 and for formats that are not converted.

fn side_decode(bits: u32) -> u32 {
    return bits;
}
