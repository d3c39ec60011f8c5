// f16: the same in f16, where the shader has it enabled. Larger numbers become infinite.

fn side_of_half(row: reader_row, i: u32) -> vec4<f16> {
    return vec4<f16>(side_of(row, i));
}

fn side_at_half(plane: u32, slot: u32, i: u32) -> vec4<f16> {
    return side_of_half(reader_row_at(plane, slot), i);
}

fn side_half(sequence: u32, head: u32, position: u32, i: u32) -> vec4<f16> {
    return side_of_half(reader_row_of(sequence, head, position), i);
}
