// f16: the same in f16, where the shader has it enabled. Larger numbers become infinite.

fn side_at_half(plane: u32, slot: u32, i: u32) -> vec4<f16> {
    return vec4<f16>(side_at(plane, slot, i));
}

fn side_half(sequence: u32, head: u32, position: u32, i: u32) -> vec4<f16> {
    return side_at_half(reader_plane(sequence, head), reader_slot(position), i);
}
