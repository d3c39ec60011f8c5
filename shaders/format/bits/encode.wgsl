// encode: the identity, for f32 and for formats that are not converted.

fn side_encode(bits: u32) -> u32 {
    return bits;
}
