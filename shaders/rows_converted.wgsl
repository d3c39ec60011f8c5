// rows_converted: an element of the output is one of the storage in another format, through the bits of an f32. For
// gather_narrow, with the unpack_ file of the stored format, which defines `unpacked`.

fn stored(plane: u32, slot: u32, dim: u32) -> u32 {
    return encoded(unpacked(plane * PLANE_WORDS, slot, dim));
}
